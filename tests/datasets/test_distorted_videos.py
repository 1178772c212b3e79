"""Graded videos: what is in the files, measured by a decoder and not by their maker."""

import re
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from diffqa_features.datasets import (
    load_sample_photos,
    make_distorted_videos,
    make_procedural_images,
)
from diffqa_features.datasets._distorted_videos import FAMILIES, SPATIAL, TEMPORAL

SMALL = {"image_size": 64, "n_frames": 48, "n_levels": 3}


def decode(path):
    """Luma (T, H, W) of a file, and its stream's facts."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [f.to_ndarray(format="gray") for f in container.decode(stream)]
        return np.stack(frames).astype(float), float(stream.average_rate)


def options(path):
    """The settings that x264 writes into its own stream."""
    return dict(
        re.findall(rb"(\w+)=([\d.]+)", Path(path).read_bytes().partition(b"x264")[2])
    )


@pytest.fixture(scope="module")
def photos():
    return load_sample_photos(image_size=160).data[:2]


@pytest.fixture(scope="module")
def videos(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return make_distorted_videos(folder, photos, include_references=True, **SMALL)


@pytest.fixture(scope="module")
def decoded(videos):
    return {path: decode(path)[0] for path in videos.data}


def of(videos, decoded, distortion, group=0):
    """Decoded clips of a family, from the mildest level to the strongest."""
    name = list(dict.fromkeys(videos.groups.tolist()))[group]
    return [
        decoded[path]
        for path, family, content in zip(
            videos.data, videos.distortion, videos.groups, strict=True
        )
        if family == distortion and content == name
    ]


class TestBunch:
    def test_shapes_and_names(self, videos):
        assert len(videos.data) == 2 * (1 + 8 * 3)
        assert all(Path(path).is_file() for path in videos.data)
        assert videos.distortion_names == list(FAMILIES)
        assert Path(videos.data[0]).name == "reference000_reference_0.mp4"
        assert Path(videos.data[-1]).name == "reference001_flicker_3.mp4"
        np.testing.assert_array_equal(videos.target, -videos.level.astype(float))
        assert set(videos.groups) == {"reference000", "reference001"}
        assert "50 clips from 2 contents" in videos.DESCR

    def test_frame_and_tuple(self, photos, tmp_path):
        asked = {"families": "flicker", **SMALL}
        table = make_distorted_videos(tmp_path, photos, as_frame=True, **asked)
        assert list(table.data.columns) == ["path"]
        columns = ["path", "group", "distortion", "level", "target"]
        assert list(table.frame.columns) == columns
        assert isinstance(table.target, pd.Series)
        data, target = make_distorted_videos(tmp_path, photos, return_X_y=True, **asked)
        assert data == table.frame["path"].tolist()
        assert target.tolist() == [-1, -2, -3] * 2

    def test_sets_of_families(self, photos, tmp_path):
        for name, expected in (("spatial", SPATIAL), ("temporal", TEMPORAL)):
            made = make_distorted_videos(tmp_path, photos[:1], families=name, **SMALL)
            assert made.distortion_names == list(expected)


class TestFiles:
    def test_rate_and_size(self, videos):
        for path in videos.data[:3]:
            frames, rate = decode(path)
            assert rate == 30
            assert frames.shape == (48, 64, 64)

    def test_the_reference_is_a_moving_photograph(self, videos, decoded, photos):
        reference = of(videos, decoded, "reference")[0]
        changes = np.abs(np.diff(reference, axis=0)).mean((1, 2))
        assert changes.min() > 0.5
        # It shows that photograph and not another: its histogram is inside.
        gray = photos[0] @ [0.299, 0.587, 0.114]
        assert abs(reference.mean() - gray.mean()) < 30

    def test_without_loss(self, tmp_path):
        """Every other fault would be mixed with that of the codec."""
        rng = np.random.default_rng(0)
        # Gray: 4:2:0 halves colours, which is not a fault of the coding.
        gray = rng.integers(16, 235, (20, 64, 64, 1), np.uint8).repeat(3, axis=3)
        made = make_distorted_videos(
            tmp_path, [gray], families="flicker", include_references=True, **SMALL
        )
        frames, _ = decode(made.data[0])
        assert np.abs(frames - gray[..., 0]).max() <= 2  # rounding to limited range
        assert b"qp=0" in Path(made.data[0]).read_bytes()

    def test_x264_is_what_it_says(self, videos):
        rows = np.flatnonzero(videos.distortion == "x264")[:3]
        written = [float(options(videos.data[row])[b"crf"]) for row in rows]
        assert written == [20.0, 32.0, 44.0]
        sizes = [Path(videos.data[row]).stat().st_size for row in rows]
        assert sizes == sorted(sizes, reverse=True)


class TestLevels:
    """Each family by a measure of its own; it has to rise with the level."""

    def rises(self, values, least):
        assert all(a < b for a, b in pairwise(values)), values
        assert values[0] > least

    @pytest.mark.parametrize("group", [0, 1])
    @pytest.mark.parametrize("family", SPATIAL)
    def test_spatial_error(self, videos, decoded, family, group):
        (reference,) = of(videos, decoded, "reference", group)
        clips = of(videos, decoded, family, group)
        errors = [np.square(clip - reference).mean() for clip in clips]
        self.rises(errors, 1.0)

    @pytest.mark.parametrize("group", [0, 1])
    def test_dropped_frames(self, videos, decoded, group):
        (reference,) = of(videos, decoded, "reference", group)
        clips = of(videos, decoded, "frame_drop", group)
        self.rises([len(reference) - len(clip) for clip in clips], 1)
        for clip in clips:  # the rest are frames of the reference, in order
            found = [np.abs(reference - f).mean((1, 2)).argmin() for f in clip]
            assert found == sorted(set(found))

    @pytest.mark.parametrize("group", [0, 1])
    @pytest.mark.parametrize("family", ["freeze", "frame_rate"])
    def test_repeated_frames(self, videos, decoded, family, group):
        clips = of(videos, decoded, family, group)
        same = [
            (np.abs(np.diff(clip, axis=0)).max((1, 2)) == 0).sum() for clip in clips
        ]
        self.rises(same, 1)
        assert {len(clip) for clip in clips} == {48}

    @pytest.mark.parametrize("group", [0, 1])
    def test_timing_error_of_judder(self, videos, decoded, group):
        (reference,) = of(videos, decoded, "reference", group)
        spreads = []
        for clip in of(videos, decoded, "judder", group):
            shown = [np.abs(reference - f).mean((1, 2)).argmin() for f in clip]
            assert shown == sorted(shown)
            spreads.append(np.std(np.array(shown) - np.arange(48)))
        self.rises(spreads, 0.1)

    @pytest.mark.parametrize("group", [0, 1])
    def test_flicker(self, videos, decoded, group):
        (reference,) = of(videos, decoded, "reference", group)
        light = [
            np.std(clip.mean((1, 2)) / reference.mean((1, 2)))
            for clip in of(videos, decoded, "flicker", group)
        ]
        self.rises(light, 0.005)


class TestAgain:
    ASKED = {"families": ["freeze", "x264"], **SMALL}

    def test_seeds(self, photos, tmp_path):
        def content(folder, **more):
            made = make_distorted_videos(folder, photos[:1], **self.ASKED, **more)
            return [Path(path).read_bytes() for path in made.data]

        first = content(tmp_path / "a")
        assert content(tmp_path / "b") == first
        assert content(tmp_path / "c", random_state=1) != first

    def test_a_clip_does_not_depend_on_what_else_is_asked_for(self, photos, tmp_path):
        alone = make_distorted_videos(
            tmp_path / "a", photos[1:], families="freeze", **SMALL
        )
        among = make_distorted_videos(tmp_path / "b", photos, **self.ASKED)
        name = "reference001_freeze_2.mp4"
        assert Path(alone.data[1]).name == "reference000_freeze_2.mp4"
        there = [path for path in among.data if path.endswith(name)]
        np.testing.assert_array_equal(decode(alone.data[1])[0], decode(there[0])[0])

    def test_whole_files_stay_and_others_are_made_again(self, photos, tmp_path):
        made = make_distorted_videos(tmp_path, photos[:1], **self.ASKED)
        paths = [Path(path) for path in made.data]
        before = [path.read_bytes() for path in paths]
        paths[0].unlink()
        paths[1].write_bytes(before[1][: len(before[1]) // 2])
        paths[2].write_bytes(b"")
        paths[3].write_bytes(before[0])  # a whole clip, but another one
        times = [path.stat().st_mtime_ns for path in paths[4:]]
        again = make_distorted_videos(tmp_path, photos[:1], **self.ASKED)
        assert again.data == made.data
        assert [path.stat().st_mtime_ns for path in paths[4:]] == times
        assert [path.read_bytes() for path in paths] == before
        assert {path.suffix for path in tmp_path.iterdir()} == {".mp4"}

    def test_other_settings_replace_the_file(self, photos, tmp_path):
        first = make_distorted_videos(tmp_path, photos[:1], **self.ASKED)
        frames, _ = decode(first.data[2])
        asked = {**self.ASKED, "random_state": 5}
        second = make_distorted_videos(tmp_path, photos[:1], **asked)
        assert second.data == first.data
        assert not np.array_equal(decode(second.data[2])[0], frames)

    def test_a_write_that_fails_leaves_nothing(self, photos, tmp_path, monkeypatch):
        def fail(self, packets):
            raise OSError("no space left")

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="no space left"):
            make_distorted_videos(tmp_path, photos[:1], **self.ASKED)
        assert list(tmp_path.iterdir()) == []


class TestReferences:
    def test_arrays(self, tmp_path):
        (picture,) = make_procedural_images(1, image_size=128)
        clip = np.stack([picture[:, t : t + 96] for t in range(30)])
        made = make_distorted_videos(
            tmp_path, [clip], families="freeze", include_references=True, **SMALL
        )
        assert len(decode(made.data[0])[0]) == 30

    def test_procedural(self, tmp_path):
        asked = {"families": "flicker", "n_references": 2, **SMALL}
        made = make_distorted_videos(tmp_path, frame_rate=25, **asked)
        assert list(dict.fromkeys(made.groups)) == ["procedural000", "procedural001"]
        assert decode(made.data[0])[1] == 25

    def test_what_does_not_move_cannot_freeze(self, tmp_path):
        still = np.full((20, 64, 64, 3), 100, np.uint8)
        made = make_distorted_videos(
            tmp_path, [still], families=["freeze", "flicker"], **SMALL
        )
        assert set(made.distortion) == {"flicker"}
        with pytest.raises(ValueError, match="nothing moves"):
            make_distorted_videos(tmp_path, [still], families="freeze", **SMALL)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((48, 80, 80, 3), "Row 0 .* 80 x 80 pixels, but 96 x 96 are needed"),
            ((9, 96, 96, 3), "Row 0 .* of 9 frames, but at least 16"),
            ((60, 90, 3), "Row 0 .* 90 x 60 pixels"),
        ],
    )
    def test_too_small_or_short(self, tmp_path, shape, message):
        reference = np.zeros(shape, np.uint8)
        with pytest.raises(ValueError, match=message):
            make_distorted_videos(tmp_path, [reference], image_size=96)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"families": ["freeze", "melt"]}, "Got the unknown 'melt'"),
            ({"families": "melt"}, "'families' parameter"),
            ({"families": {"freeze", "x264"}}, "a sequence with an order"),
            ({"families": []}, r"Got \[\]"),
            ({"image_size": 65}, "must be even"),
            ({"n_levels": 1}, "'n_levels' parameter"),
            ({"n_frames": 8}, "'n_frames' parameter"),
            ({"frame_rate": 0}, "'frame_rate' parameter"),
        ],
    )
    def test_bad_parameters(self, tmp_path, change, message):
        with pytest.raises(ValueError, match=message):
            make_distorted_videos(tmp_path, **change)
