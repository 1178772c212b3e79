"""Sizes, aspect ratios and pixels of the three views."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffqa_features._media.views import to_pixels, view_frames


def ramp(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8)[None]


def test_stretch_is_pillows_bicubic():
    frames = ramp(90, 140)
    expected = Image.fromarray(frames[0]).resize((64, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(view_frames(frames, "stretch", 64, 8)[0], expected)


@pytest.mark.parametrize("view", ["stretch", "fit", "crop"])
def test_a_picture_of_the_right_size_is_not_touched(view):
    frames = ramp(64, 64)
    np.testing.assert_array_equal(view_frames(frames, view, 64, 8), frames)


def test_crop_is_the_centre_as_it_is():
    frames = ramp(100, 171)
    expected = frames[:, 18:82, 53:117]
    np.testing.assert_array_equal(view_frames(frames, "crop", 64, 8), expected)


def test_crop_may_be_anywhere():
    """From corner to corner; the centre is the default."""
    frames = ramp(100, 171)
    for place, top, left in [((0, 0), 0, 0), ((1, 1), 36, 107), ((0.5, 0.1), 18, 10)]:
        expected = frames[:, top : top + 64, left : left + 64]
        cut = view_frames(frames, "crop", 64, 8, place)
        np.testing.assert_array_equal(cut, expected)


def test_crop_enlarges_a_small_picture_to_fit():
    assert view_frames(ramp(30, 200), "crop", 64, 8).shape == (1, 64, 64, 3)


@given(
    height=st.integers(8, 300),
    width=st.integers(8, 300),
    multiple=st.sampled_from([8, 32]),
)
def test_fit_keeps_the_aspect_ratio_up_to_rounding(height, width, multiple):
    _, h, w, _ = view_frames(ramp(height, width), "fit", 96, multiple).shape
    assert max(h, w) == 96
    assert h % multiple == w % multiple == 0
    short = 96 * min(height, width) / max(height, width)
    assert abs(min(h, w) - max(short, multiple)) <= multiple / 2


def test_frames_are_viewed_one_by_one():
    clip = np.concatenate([ramp(50, 70), 255 - ramp(50, 70)])
    viewed = view_frames(clip, "stretch", 32, 8)
    for index in range(2):
        alone = view_frames(clip[index : index + 1], "stretch", 32, 8)
        np.testing.assert_array_equal(viewed[index], alone[0])


def test_pixels_run_from_minus_one_or_zero_to_one():
    pixels = to_pixels(np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3))
    assert pixels.shape == (1, 3, 1, 1)
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-1.0, -0.6, 1.0]))
    unit = to_pixels(np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3), "unit")
    torch.testing.assert_close(unit.flatten(), torch.tensor([0.0, 0.2, 1.0]))
