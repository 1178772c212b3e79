"""Which frames make up a clip, against a count by hand."""

import numpy as np
import pytest

from diffqa_features._media.rows import as_rows, open_media
from diffqa_features.motion._clips import choose_clips, read_clips


def starts(times):
    clips = choose_clips(np.asarray(times, float))
    assert (np.diff(clips, axis=1) == 1).all()
    assert clips.shape[1] == 32
    return clips[:, 0].tolist()


@pytest.mark.parametrize(
    ("rate", "count", "expected"),
    [
        (30, 32, [0]),
        (30, 44, [0]),  # 1.47 s: less than half of the second second
        (30, 46, [0, 14]),  # 1.53 s; the second clip ends with the video
        (30, 300, [0, 30, 60, 90, 120, 150, 180, 210, 240, 268]),
        (60, 180, [0, 60, 120]),
        (25, 100, [0, 25, 50, 68]),
        (24, 24 * 3, [0, 24, 40]),
        (8, 40, [0, 8]),  # 5 s; clips that would start after frame 8 end with it too
    ],
)
def test_one_clip_a_second(rate, count, expected):
    assert starts(np.arange(count) / rate) == expected


def test_odd_rates_do_not_drift_by_rounding():
    ntsc = np.round(np.arange(10 * 30) * 1001 / 30000, 6)
    assert starts(ntsc)[:4] == [0, 30, 60, 90]


def test_seconds_are_told_by_the_clock_and_not_by_counting():
    # Two seconds at 50 frames per second, then two at 20.
    times = np.concatenate([np.arange(100) / 50, 2 + np.arange(40) / 20])
    assert starts(times) == [0, 50, 100, 108]


def test_the_first_frame_need_not_be_at_zero():
    times = np.arange(90) / 30
    assert starts(times + 0.7) == starts(times)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [0] * 32),
        (2, [0, 1] * 16),
        (3, [0, 1, 2, 1] * 8),
        (5, [0, 1, 2, 3, 4, 3, 2, 1] * 4),
        (31, [*range(31), 29]),
    ],
)
def test_short_videos_go_forth_and_back(count, expected):
    assert choose_clips(np.arange(count) / 30.0).tolist() == [expected]


def test_frames_of_an_array_are_those_that_were_chosen():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (70, 96, 96, 3), np.uint8)
    (row,) = as_rows([frames])
    clips = list(read_clips(open_media(row), 96))
    assert len(clips) == 2
    np.testing.assert_array_equal(clips[0], frames[:32])
    np.testing.assert_array_equal(clips[1], frames[30:62])


def test_frames_are_stretched():
    frames = np.zeros((32, 20, 60, 3), np.uint8)
    frames[:, :, 30:] = 200
    (row,) = as_rows([frames])
    (clip,) = read_clips(open_media(row), 96)
    assert clip.shape == (32, 96, 96, 3)
    assert (clip[:, :, :40] == 0).all()
    assert (clip[:, :, 56:] == 200).all()
