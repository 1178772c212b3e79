"""Sizes, aspect ratios and pixels of the views, and where tiles lie."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffqa_features._media.views import (
    cut_tiles,
    stitch_maps,
    to_pixels,
    view_frames,
)


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


@pytest.mark.parametrize("place", [(0.5, 0.5), (0, 0), (1, 1)])
def test_crop_enlarges_a_small_picture_to_fit(place):
    frames = ramp(30, 200)
    whole = np.asarray(Image.fromarray(frames[0]).resize((427, 64), 3)).astype(int)
    left = int(363 * place[1])
    cut = view_frames(frames, "crop", 64, 8, place)
    np.testing.assert_allclose(cut[0], whole[:, left : left + 64], atol=1)


def test_a_sliver_is_not_enlarged_whole():
    """That of a file of some kilobytes would take six gigabytes."""
    sliver = np.zeros((8, 60_000, 3), np.uint8)
    assert view_frames(sliver[None], "crop", 512, 8).shape == (1, 512, 512, 3)
    message = "enlarged it is 3840000 x 512 pixels"
    with pytest.raises(ValueError, match=message):
        cut_tiles(sliver, 512)


@pytest.mark.parametrize("view", ["stretch", "fit", "crop"])
def test_an_input_size_beyond_all_memory_is_refused(view):
    picture = np.zeros((1, 16, 16, 3), np.uint8)
    message = "enlarged it is 100000 x 100000 pixels"
    with pytest.raises(ValueError, match=message):
        view_frames(picture, view, 100_000, 8)


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


@given(height=st.integers(64, 300), width=st.integers(64, 300))
def test_tiles_cover_a_picture_at_native_resolution(height, width):
    (frame,) = ramp(height, width)
    tiles, windows = cut_tiles(frame, 64)
    seen = np.zeros((height, width), bool)
    for tile, window in zip(tiles, windows, strict=True):
        top, left, tall, wide = np.rint(window * ([height, width] * 2)).astype(int)
        assert (tall, wide) == (64, 64)
        np.testing.assert_array_equal(tile, frame[top : top + 64, left : left + 64])
        seen[top : top + 64, left : left + 64] = True
    assert seen.all()
    assert len(tiles) == -(-height // 64) * -(-width // 64)


@given(
    rows=st.integers(1, 21),
    columns=st.integers(1, 21),
    count=st.integers(1, 60),
)
def test_fewer_tiles_are_exactly_so_many_and_evenly_spread(rows, columns, count):
    frame = np.zeros((rows * 8, columns * 8, 3), np.uint8)
    tiles, windows = cut_tiles(frame, 8, count)
    count = min(count, rows * columns)
    assert len(tiles) == len({tuple(w) for w in windows.tolist()}) == count
    # Every quarter of the picture has about its share of them.
    middles = windows[:, :2] + windows[:, 2:] / 2
    for axis in range(2):
        low, high = (middles[:, axis] < 0.499).sum(), (middles[:, axis] > 0.501).sum()
        assert abs(low - high) <= max(2, count / 4)


def test_one_tile_is_the_central_one():
    (frame,) = ramp(64 * 5, 64 * 7)
    (tile,), _ = cut_tiles(frame, 64, 1)
    np.testing.assert_array_equal(tile, view_frames(frame[None], "crop", 64, 8)[0])


def test_only_a_picture_smaller_than_a_tile_is_enlarged():
    (frame,) = ramp(30, 70)
    tiles, windows = cut_tiles(frame, 64)
    whole = np.asarray(Image.fromarray(frame).resize((149, 64), 3))
    assert len(tiles) == 3
    np.testing.assert_array_equal(np.concatenate(tiles[::2], 1)[:, :64], whole[:, :64])
    np.testing.assert_array_equal(tiles[2], whole[:, 85:])
    np.testing.assert_allclose(windows[2], [0, 85 / 149, 1, 64 / 149], rtol=1e-6)


def test_maps_of_tiles_make_the_map_of_the_picture():
    """Of what every tile measures exactly, the whole is exact too."""
    generator = np.random.default_rng(0)
    picture = generator.random((96, 160))
    frame = np.repeat(np.uint8(picture * 255)[..., None], 3, 2)
    tiles, windows = cut_tiles(frame, 32)
    maps = np.stack([tile[None, ..., 0] for tile in tiles])  # cells are pixels
    stitched = stitch_maps(maps, windows, (24, 40))
    expected = frame[..., 0].reshape(24, 4, 40, 4).mean((1, 3))
    np.testing.assert_allclose(stitched[0], expected, rtol=1e-5, atol=1e-3)


def test_one_tile_keeps_its_map_and_gaps_have_their_nearest():
    maps = np.arange(4.0).reshape(1, 1, 2, 2)
    whole = np.float32([[0, 0, 1, 1]])
    np.testing.assert_allclose(stitch_maps(maps, whole, (2, 2)), maps[0])
    corner = np.float32([[0, 0, 0.5, 0.5]])
    found = stitch_maps(maps, corner, (4, 4))[0]
    np.testing.assert_allclose(found[:2, :2], maps[0, 0], atol=1e-5)
    np.testing.assert_allclose(found[2:, 2:], 3, atol=1e-5)
    np.testing.assert_allclose(found[0], [0, 1, 1, 1], atol=1e-5)


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
