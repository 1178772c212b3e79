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
    matrix = grey.view(np.matrix)  # of which NumPy makes no three axes
    np.testing.assert_array_equal(read_one(matrix), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_floats_in_the_unit_interval(dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(
        read_one((levels / 255.0).astype(dtype))[..., 0], levels
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_a_rounding_outside_are_cut_off(dtype):
    values = np.linspace(-0.00099, 1.00097, 64).reshape(8, 8).astype(dtype)
    expected = np.rint(values.clip(0, 1).astype(np.float32) * 255)
    np.testing.assert_array_equal(read_one(values)[..., 0], expected)
    assert read_one(np.full((8, 8), np.nextafter(dtype(1), dtype(2)))).min() == 255


def test_masked_arrays_without_a_masked_value(rgb):
    for mask in (False, np.zeros(rgb.shape, bool)):
        np.testing.assert_array_equal(read_one(np.ma.array(rgb, mask=mask)), rgb)
    clips = np.ma.array(np.stack([rgb, rgb]))
    clips[1, 0, 0, 0] = np.ma.masked
    first, second = as_rows(clips)
    np.testing.assert_array_equal(next(open_media(first).frames()), rgb)
    with pytest.raises(ValueError, match=r"^Row 1 \(array\): has 1 masked values"):
        open_media(second)


def test_a_black_picture_of_16_bits_is_no_mistake():
    assert read_one(np.zeros((8, 8), np.uint16)).max() == 0
    dark = np.zeros((2, 8, 8, 3), np.uint16)
    dark[1, 0, 0] = 256
    assert read(dark).max() == 1
    for image in (
        Image.fromarray(np.full((8, 8), 90, np.uint16)),
        Image.fromarray(np.full((8, 8), 90, np.int32)),
    ):
        with pytest.raises(ValueError, match="up to 90 of 65535, which is black"):
            read_one(image)


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
        (np.full((8, 8), 1.0011), r"to 1\.0011.*overshoots by np\.clip\(x, 0, 1\)"),
        (np.full((8, 8), -0.0011), r"from -0\.0011"),
        (np.full((8, 8), 200, np.uint16), r"up to 200 of 65535, which is black.*uint8"),
        (np.full((8, 8), 255, ">u2"), r"up to 255 of 65535"),
        (np.ma.masked_equal(np.eye(8), 1), r"has 8 masked values.*filled\(value\)"),
        (np.ma.masked_less(np.arange(64, dtype=np.uint8).reshape(8, 8), 9), "9 masked"),
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
