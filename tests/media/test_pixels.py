import colorsys
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from diffqa_features._media.rows import as_rows, open_media

HEIGHT, WIDTH = 24, 40


def read(source):
    return np.stack(list(open_media(as_rows([source])[0]).frames()))


def read_one(source):
    frames = read(source)
    assert frames.dtype == np.uint8
    assert frames.shape[0] == 1
    assert frames.flags.c_contiguous
    return frames[0]


def write_png(path, depth, color_type, samples, extra=b""):
    """A PNG from integers (H, W, C), without Pillow, which writes no 16-bit colour."""
    height, width = samples.shape[:2]
    packed = samples.astype(">u2" if depth == 16 else "u1")
    lines = b"".join(b"\0" + line.tobytes() for line in packed)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    return path


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def on_white(color, alpha):
    """The closed form of compositing, in float64."""
    share = alpha[..., None] / 255.0
    return np.rint(color * share + 255.0 * (1.0 - share)).astype(np.uint8)


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def grey():
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH), np.uint8)


@pytest.fixture
def alpha():
    ramp = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    ramp[:4], ramp[-4:] = 0, 255
    return ramp


# -- file formats --


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("bmp", {}),
        ("ppm", {}),
        ("tga", {}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("tif", {"compression": "tiff_deflate"}),
        ("webp", {"lossless": True}),
        ("jp2", {}),
        ("j2k", {}),
    ],
)
def test_lossless_files_keep_every_pixel(tmp_path, rgb, suffix, options):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path, **options)
    np.testing.assert_array_equal(read_one(path), rgb)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jpg", {"quality": 95, "subsampling": 0}),
        ("jpg", {"quality": 95, "subsampling": 0, "progressive": True}),
        ("webp", {"quality": 98}),
        ("jp2", {"irreversible": True, "quality_mode": "dB", "quality_layers": [45]}),
    ],
)
def test_lossy_files_come_close(tmp_path, suffix, options):
    rows, columns = np.mgrid[0:64, 0:96]
    picture = np.stack([2 * columns, 3 * rows, 255 - 2 * columns], -1).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture).save(path, **options)
    difference = np.abs(read_one(path).astype(int) - picture)
    assert difference.mean() < 2.5
    assert difference.max() < 24


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "jp2"])
def test_grey_files(tmp_path, grey, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(grey).save(path)
    np.testing.assert_array_equal(read_one(path), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "pbm"])
def test_one_bit_files(tmp_path, grey, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(grey > 127).save(path)
    expected = np.where(grey > 127, 255, 0)
    np.testing.assert_array_equal(read_one(path), np.stack([expected] * 3, -1))


def test_four_bit_grey_fills_the_range(tmp_path):
    samples = np.arange(16).repeat(16).reshape(16, 16)
    packed = samples[:, ::2] * 16 + samples[:, 1::2]
    path = write_png(tmp_path / "a.png", 8, 0, packed)
    data = bytearray(path.read_bytes())
    data[16:29] = struct.pack(">IIBBBBB", 16, 16, 4, 0, 0, 0, 0)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    np.testing.assert_array_equal(read_one(path)[..., 1], samples * 17)


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_palettes(tmp_path, grey, suffix):
    colors = np.random.default_rng(3).integers(0, 256, (256, 3), np.uint8)
    image = Image.fromarray(grey)
    image.putpalette(colors.tobytes())
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    np.testing.assert_array_equal(read_one(path), colors[grey])


def test_palette_with_alpha(tmp_path, grey):
    random = np.random.default_rng(4)
    colors = random.integers(0, 256, (256, 3), np.uint8)
    alphas = random.integers(0, 256, 256, np.uint8)
    image = Image.fromarray(grey)
    image.putpalette(colors.tobytes())
    image.save(tmp_path / "a.png", transparency=alphas.tobytes())
    expected = on_white(colors[grey], alphas[grey])
    np.testing.assert_array_equal(read_one(tmp_path / "a.png"), expected)

    image.save(tmp_path / "a.gif", transparency=7)
    expected = np.where((grey == 7)[..., None], 255, colors[grey])
    np.testing.assert_array_equal(read_one(tmp_path / "a.gif"), expected)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("tif", {}),
        ("webp", {"lossless": True, "exact": True}),
        ("jp2", {}),
    ],
)
def test_alpha_is_composited_on_white(tmp_path, rgb, alpha, suffix, options):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.dstack([rgb, alpha])).save(path, **options)
    np.testing.assert_array_equal(read_one(path), on_white(rgb, alpha))


def test_grey_with_alpha(tmp_path, grey, alpha):
    Image.fromarray(np.dstack([grey, alpha])).save(tmp_path / "a.png")
    expected = on_white(np.stack([grey] * 3, -1), alpha)
    np.testing.assert_array_equal(read_one(tmp_path / "a.png"), expected)


def test_color_keys_are_transparent(tmp_path, rgb, grey):
    rgb[2:5, 3:9], grey[2:5, 3:9] = (10, 20, 30), 77
    Image.fromarray(rgb).save(tmp_path / "rgb.png", transparency=(10, 20, 30))
    expected = np.where((rgb == (10, 20, 30)).all(-1)[..., None], 255, rgb)
    np.testing.assert_array_equal(read_one(tmp_path / "rgb.png"), expected)

    Image.fromarray(grey).save(tmp_path / "grey.png", transparency=77)
    expected = np.where(grey == 77, 255, grey)
    np.testing.assert_array_equal(read_one(tmp_path / "grey.png")[..., 2], expected)

    deep = (grey.astype(int) * 257 + 1).clip(max=65535)[..., None]
    key = chunk(b"tRNS", struct.pack(">H", 77 * 257 + 1))
    path = write_png(tmp_path / "deep.png", 16, 0, deep, key)
    np.testing.assert_array_equal(read_one(path)[..., 0], expected)

    key = chunk(b"tRNS", struct.pack(">HHH", 10 * 256 + 9, 20 * 256 + 8, 30 * 256 + 7))
    deep = rgb.astype(int) * 256 + (9, 8, 7)
    path = write_png(tmp_path / "rgb16.png", 16, 2, deep, key)
    expected = np.where((rgb == (10, 20, 30)).all(-1)[..., None], 255, rgb)
    np.testing.assert_array_equal(read_one(path), expected)


# -- 16 and more bits --


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_every_16_bit_grey_is_rounded(tmp_path, mode):
    values = np.arange(65536).reshape(256, 256)
    packed = values.astype({"I;16B": ">u2", "I": "<i4"}.get(mode, "<u2"))
    image = Image.frombytes(mode, (256, 256), packed.tobytes())
    expected = np.stack([np.rint(values / 257.0)] * 3, -1)
    np.testing.assert_array_equal(read_one(image), expected)
    if mode != "I;16L":  # Pillow writes no file of this one
        image.save(tmp_path / "a.tif")
        np.testing.assert_array_equal(read_one(tmp_path / "a.tif"), expected)


def test_16_bit_png(tmp_path):
    values = np.arange(65536).reshape(256, 256, 1)
    path = write_png(tmp_path / "grey.png", 16, 0, values)
    expected = np.repeat(np.rint(values / 257.0), 3, -1)
    np.testing.assert_array_equal(read_one(path), expected)

    colors = np.concatenate([values, values[::-1], values[:, ::-1]], -1)
    path = write_png(tmp_path / "rgb.png", 16, 2, colors)
    # Pillow keeps the high byte of 16-bit colour.
    np.testing.assert_array_equal(read_one(path), colors // 256)

    alpha = np.full_like(values, 0x80FF)
    path = write_png(tmp_path / "rgba.png", 16, 6, np.concatenate([colors, alpha], -1))
    expected = on_white(colors // 256, np.full((256, 256), 0x80))
    np.testing.assert_array_equal(read_one(path), expected)


def test_float_tiff(tmp_path):
    values = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(tmp_path / "a.tif")
    expected = np.stack([np.rint(values * 255)] * 3, -1)
    np.testing.assert_array_equal(read_one(tmp_path / "a.tif"), expected)
    Image.fromarray(values * 255).save(tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"b\.tif'\): has float32 pixels from 0\.0 to"):
        read(tmp_path / "b.tif")


def test_32_bit_integers_must_fit_16():
    values = np.full((8, 8), 65536, np.int32)
    with pytest.raises(ValueError, match=r"65536, outside \[0, 65535\]; rescale"):
        read(Image.fromarray(values))
    with pytest.raises(ValueError, match=r"from -1 to"):
        read(Image.fromarray(-np.eye(8, dtype=np.int32)))


# -- color spaces --


def test_cmyk(tmp_path):
    inks = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    cyan_magenta_yellow, key = 255.0 - inks[..., :3], 255.0 - inks[..., 3:]
    expected = cyan_magenta_yellow * key / 255
    image = Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes())
    image.save(tmp_path / "a.tif")
    for source in (image, tmp_path / "a.tif"):
        np.testing.assert_allclose(read_one(source), expected, atol=0.51)


def test_cmyk_jpeg_is_inverted_as_adobe_does(tmp_path):
    inks = np.zeros((64, 64, 4), np.uint8)
    inks[:, :32], inks[:, 32:] = (200, 40, 0, 30), (10, 0, 220, 100)
    image = Image.frombytes("CMYK", (64, 64), inks.tobytes())
    image.save(tmp_path / "a.jpg", quality=100)
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    np.testing.assert_allclose(read_one(tmp_path / "a.jpg"), expected, atol=4)


def test_hsv_and_ycbcr():
    pixels = np.random.default_rng(6).integers(0, 256, (8, 8, 3), np.uint8)
    image = Image.frombytes("HSV", (8, 8), pixels.tobytes())
    flat = pixels.reshape(-1, 3) / 255.0
    expected = [np.multiply(colorsys.hsv_to_rgb(*color), 255) for color in flat]
    found = read_one(image).reshape(-1, 3)
    np.testing.assert_allclose(found, expected, atol=2.5)

    image = Image.frombytes("YCbCr", (8, 8), pixels.tobytes())
    luma, blue, red = np.moveaxis(pixels.astype(float), -1, 0)
    blue, red = blue - 128, red - 128
    green = luma - 0.344136 * blue - 0.714136 * red
    expected = np.stack([luma + 1.402 * red, green, luma + 1.772 * blue], -1)
    expected = expected.clip(0, 255)
    np.testing.assert_allclose(read_one(image), expected, atol=1.5)


def test_lab(tmp_path):
    lightness, green_red, blue_yellow = np.meshgrid(
        [40, 60, 75, 90], [-12, -5, 0, 12], [-12, 0, 6, 15], indexing="ij"
    )
    lab = np.stack([lightness, green_red, blue_yellow], -1).reshape(8, 8, 3)
    packed = (lab * (2.55, 1, 1)).round().astype(int)  # a and b in two's complement
    image = Image.frombytes("LAB", (8, 8), (packed & 255).astype(np.uint8).tobytes())

    # CIE Lab (white D50) -> XYZ -> linear sRGB by Bradford's matrix -> sRGB.
    height = (packed[..., 0] / 2.55 + 16) / 116
    root = np.stack(
        [height + lab[..., 1] / 500, height, height - lab[..., 2] / 200], -1
    )
    cube = np.where(root > 6 / 29, root**3, 3 * (6 / 29) ** 2 * (root - 4 / 29))
    xyz = cube * (0.96422, 1.0, 0.82521)
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = (xyz @ np.transpose(matrix)).clip(0, 1)
    curved = 1.055 * linear ** (1 / 2.4) - 0.055
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, curved)
    # LittleCMS interpolates in a table of its own.
    np.testing.assert_allclose(read_one(image), expected, atol=5)
    image.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_one(tmp_path / "a.tif"), read_one(image))


# -- orientation --

# EXIF 2.3, tag 0x0112: the visual sides at which row 0 and column 0 are stored.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def store(shown, orientation):
    """Lay a picture out as a camera in this orientation does, pixel by pixel."""
    rows, columns = SIDES[orientation]
    height, width = shown.shape[:2]
    turned = rows in ("left", "right")
    stored = np.empty((width, height, 3) if turned else shown.shape, np.uint8)
    for i in range(stored.shape[0]):
        for j in range(stored.shape[1]):
            from_side = {rows: i, columns: j}
            down = from_side.get("top", height - 1 - from_side.get("bottom", 0))
            right = from_side.get("left", width - 1 - from_side.get("right", 0))
            stored[i, j] = shown[down, right]
    return stored


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "memory"])
def test_exif_orientation(tmp_path, rgb, orientation, suffix):
    image = Image.fromarray(store(rgb, orientation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    if suffix == "memory":
        image.info["exif"] = exif.tobytes()
        source = image
    else:
        source = tmp_path / f"a.{suffix}"
        image.save(source, exif=exif, lossless=True)
    np.testing.assert_array_equal(read_one(source), rgb)


@pytest.mark.parametrize("orientation", SIDES)
def test_exif_orientation_of_a_jpeg(tmp_path, orientation):
    shown = np.zeros((32, 48, 3), np.uint8)
    shown[:16, :16] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(store(shown, orientation))
    stored.save(tmp_path / "a.jpg", exif=exif, quality=100)
    np.testing.assert_allclose(read_one(tmp_path / "a.jpg"), shown, atol=3)


def test_16_bit_pictures_are_turned_too():
    values = np.arange(8 * 16, dtype=np.uint16).reshape(8, 16) * 257
    image = Image.fromarray(values)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    expected = np.rot90(values // 257, -1)
    np.testing.assert_array_equal(read_one(image)[..., 0], expected)


def test_broken_exif_leaves_the_picture(rgb):
    image = Image.fromarray(rgb)
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(read_one(image), rgb)
    image.info["exif"] = b"nonsense"
    np.testing.assert_array_equal(read_one(image), rgb)
