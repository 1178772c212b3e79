import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from diffqa_features._media.rows import as_rows, open_media


def read(source, max_frames=None):
    media = open_media(as_rows([source])[0])
    return np.stack(list(media.frames(max_frames=max_frames)))


def read_one(source):
    (frame,) = read(source)
    return frame


def on_white(color, alpha):
    """The closed form of compositing, in float64."""
    share = alpha[..., None] / 255.0
    return np.rint(color * share + 255.0 * (1.0 - share)).astype(np.uint8)


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


@pytest.fixture
def grey():
    return np.random.default_rng(1).integers(0, 256, (24, 40), np.uint8)


@pytest.fixture
def alpha():
    ramp = np.random.default_rng(2).integers(0, 256, (24, 40), np.uint8)
    ramp[:4], ramp[-4:] = 0, 255
    return ramp


# -- arrays --


def test_array_shapes(rgb, grey, alpha):
    np.testing.assert_array_equal(read_one(rgb), rgb)
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(read_one(array), np.stack([grey] * 3, -1))
    rgba = np.dstack([rgb, alpha])
    np.testing.assert_array_equal(read_one(rgba), on_white(rgb, alpha))
    clip = np.stack([rgb, rgb[::-1]])
    np.testing.assert_array_equal(read(clip), clip)
    np.testing.assert_array_equal(read_one(rgb[::-1, ::-1]), rgb[::-1, ::-1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_floats_in_the_unit_interval(dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(
        read_one((levels / 255.0).astype(dtype))[..., 0], levels
    )


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64, np.uint32, ">i4"])
def test_integers_in_the_byte_range(dtype):
    levels = np.arange(64).reshape(8, 8)
    np.testing.assert_array_equal(read_one(levels.astype(dtype))[..., 0], levels)


def test_other_dtypes(grey):
    mask = grey > 100
    np.testing.assert_array_equal(read_one(mask)[..., 0], np.where(mask, 255, 0))
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for array in (deep, deep.astype(">u2")):
        np.testing.assert_array_equal(read_one(array)[..., 0], np.rint(deep / 257.0))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((8, 8), 1.5), r"float64 pixels from 1\.5 to 1\.5, outside \[0, 1\]"),
        (np.linspace(-1, 1, 64).reshape(8, 8), r"from -1\.0 to 1\.0.*\(x \+ 1\) / 2"),
        (np.full((8, 8), np.float32(1.0000001)), r"to 1\.0000001"),
        (np.full((8, 8), np.nan), "NaN or infinite"),
        (np.where(np.eye(8), np.inf, 0.5), "NaN or infinite"),
        (np.full((8, 8), 256), r"int64 pixels from 256 to 256, outside \[0, 255\]"),
        (np.full((8, 8), -1), r"from -1 to -1"),
        (np.zeros((8, 8), complex), "type complex128"),
        (np.full((8, 8), "a"), "type <U1"),
        (np.full((8, 8), None), "type object"),
        (np.zeros((3, 16, 16)), r"shape \(3, 16, 16\); expected .*channels last"),
        (np.zeros((16, 16, 2)), r"shape \(16, 16, 2\)"),
        (np.zeros((0, 16, 16, 3)), r"shape \(0, 16, 16, 3\)"),
        (np.zeros((1, 1, 16, 16, 3)), r"shape \(1, 1, 16, 16, 3\)"),
        (np.zeros(16), r"shape \(16,\)"),
        (np.array(3.0), r"shape \(\)"),
        (np.zeros((0, 16, 3)), "is 16 x 0 pixels"),
    ],
)
def test_bad_arrays(array, message):
    with pytest.raises(ValueError, match=r"^Row 0 \(array\): (has|is) ") as info:
        read(array)
    assert info.match(message)


@pytest.mark.parametrize("max_frames", [1, 2, 3, 7, 9, 10, 11, None])
def test_frames_are_spread_uniformly(max_frames):
    clip = np.arange(10, dtype=np.uint8).repeat(8 * 8 * 3).reshape(10, 8, 8, 3)
    found = read(clip, max_frames)[:, 0, 0, 0]
    count = min(max_frames or 10, 10)
    centres = [(segment + 0.5) * 10 / count for segment in range(count)]
    np.testing.assert_array_equal(found, np.floor(centres))


# -- threads --


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_one_lazy_image_in_many_threads(tmp_path, rgb, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.tile(rgb, (20, 15, 1))).save(path)
    expected = read_one(path)
    for _ in range(3):
        image, start = Image.open(path), threading.Barrier(8)

        def task(source, start=start):
            start.wait()
            return read_one(source)

        with ThreadPoolExecutor(8) as pool:
            for picture in pool.map(task, [image, path] * 4):
                np.testing.assert_array_equal(picture, expected)
