"""Half a picture is refused, whatever closes it; a whole one never is."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile
from sklearn.datasets import load_sample_image

from diffqa_features._media.complete import check_jpeg, check_png
from diffqa_features._media.images import decode_image
from diffqa_features._media.rows import as_rows, open_media

CASES = Path(__file__).parents[1] / "cases"
KINDS = [
    {"quality": 90},
    {"quality": 75, "optimize": True},
    {"quality": 85, "subsampling": 0},
    {"quality": 85, "subsampling": 2},
    {"quality": 85, "progressive": True},
    {"quality": 85, "restart_marker_rows": 1},
    {"quality": 85, "restart_marker_blocks": 3, "progressive": True},
]


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("flower.jpg")).resize((320, 200))


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(lines, header, *extra):
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
        + chunk(b"IDAT", zlib.compress(lines))
        + b"".join(extra)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("cut_with_end.jpg", "its coded data end early or are damaged"),
        ("zeroed_middle.jpg", "a part of its coded data is zeroed"),
        ("t_tile2.tif", "only 1 of its 660969 tiles are there"),
    ],
)
def test_cases(name, cause):
    message = rf"^Row 0 \('.*{name}'\): cannot be decoded: {cause}; .*drop the row\.$"
    with pytest.raises(ValueError, match=message):
        next(open_media(as_rows([CASES / name])[0]).frames())


# -- JPEG --


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_cut_jpeg_with_an_end_marker(photo, mode, options):
    whole = jpeg(photo.convert(mode), **options)
    check_jpeg(whole)
    scans = whole.index(b"\xff\xda")
    for share in (0.02, 0.2, 0.4, 0.6, 0.8, 0.95):
        size = scans + int(share * (len(whole) - scans))
        cut = whole[:size].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises(ValueError, match=r"damaged|missing|scan"):
            check_jpeg(cut)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_jpeg_with_a_zeroed_middle(photo, mode, options):
    whole = jpeg(photo.convert(mode), **options)
    for share in (0.3, 0.5, 0.7):
        at, length = int(share * len(whole)), len(whole) // 6
        zeroed = whole[:at] + bytes(length) + whole[at + length :]
        with pytest.raises(ValueError, match=r"damaged|zeroed|missing"):
            check_jpeg(zeroed)


def test_missing_scans_of_a_progressive_jpeg(photo):
    whole = jpeg(photo, progressive=True)
    second = whole.index(b"\xff\xda", whole.index(b"\xff\xda") + 2)
    # Cut between two scans, before the tables of the second one.
    tables = whole.rindex(b"\xff\xc4", 0, second)
    with pytest.raises(ValueError, match="its last scans are missing"):
        check_jpeg(whole[:tables] + b"\xff\xd9")


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_whole_jpegs_of_every_size_pass(photo, mode, options):
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    checks = np.kron(np.indices((5, 7)).sum(0) % 2 * 255, np.ones((8, 8)))
    pictures = [Image.new("RGB", (64, 48), color) for color in ("black", "white")]
    pictures += [Image.fromarray(noise), Image.fromarray(checks.astype(np.uint8))]
    pictures += [photo.resize(size) for size in ((8, 8), (9, 17), (33, 47), (130, 71))]
    for picture in pictures:
        for quality in (1, 50, 100):
            check_jpeg(jpeg(picture.convert(mode), **{**options, "quality": quality}))


def test_what_surrounds_a_whole_jpeg_does_no_harm(photo):
    thumbnail = jpeg(photo.resize((16, 8)))
    whole = jpeg(photo, exif=b"Exif\0\0" + thumbnail, comment=b"\xff\xd9 is no end")
    expected = decode_image(whole)
    fill = whole.rindex(b"\xff\xda")
    for data in (
        whole + b"trailer of a phone" + thumbnail,
        whole[:fill] + b"\xff\xff" + whole[fill:],  # fill bytes before a marker
        whole[:-2] + b"\xff\xff\xff\xd9",
        whole[:-2] + bytes(4) + b"\xff\xd9",  # as many cameras write
    ):
        np.testing.assert_array_equal(decode_image(data), expected)
    buffer = io.BytesIO()
    photo.save(buffer, "MPO", save_all=True, append_images=[photo.resize((64, 40))])
    assert decode_image(buffer.getvalue()).shape == (200, 320, 3)


# -- PNG --


@pytest.mark.parametrize(
    ("depth", "color", "channels", "interlaced"),
    [(8, 2, 3, 0), (8, 0, 1, 1), (1, 0, 1, 1), (16, 6, 4, 1), (4, 3, 1, 0)],
)
def test_lines_of_a_png_are_counted(depth, color, channels, interlaced):
    width, height, total = 21, 13, 0
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4)]
        passes += [(1, 0, 2, 2), (0, 1, 1, 2)]
    for x, y, across, down in passes:
        columns, rows = len(range(x, width, across)), len(range(y, height, down))
        total += rows * (1 + -(-columns * channels * depth // 8)) if columns else 0
    palette = [chunk(b"PLTE", bytes(48))] if color == 3 else []
    header = (width, height, depth, color, 0, 0, interlaced)
    whole = png(bytes(total), header)
    if palette:
        at = whole.index(b"IDAT") - 4
        whole = whole[:at] + palette[0] + whole[at:]
    check_png(whole)
    assert decode_image(whole).shape == (height, width, 3)
    with pytest.raises(ValueError, match="lines of the picture are missing"):
        check_png(png(bytes(total - 1), header))


def test_half_a_png_with_good_checksums():
    lines = b"".join(b"\0" + bytes([row]) * 48 for row in range(16))
    data = png(lines[: len(lines) // 2], (16, 16, 8, 2, 0, 0, 0))
    with pytest.raises(ValueError, match="lines of the picture are missing; restore"):
        decode_image(data)


def test_checksums_of_a_png(photo):
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    whole = bytearray(buffer.getvalue())
    np.testing.assert_array_equal(decode_image(bytes(whole)), np.asarray(photo))
    whole[whole.rindex(b"IEND") - 6] ^= 1
    with pytest.raises(ValueError, match="the checksum of a chunk IDAT is wrong"):
        decode_image(bytes(whole))


def test_a_png_inside_an_icon(photo):
    buffer = io.BytesIO()
    photo.resize((64, 64)).save(buffer, "ICO", sizes=[(64, 64)])
    whole = buffer.getvalue()
    assert decode_image(whole).shape == (64, 64, 3)
    at = whole.rindex(b"IEND") - 6
    with pytest.raises(ValueError, match="checksum of a chunk IDAT"):
        decode_image(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


# -- TIFF --


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tile", [None, (32, 48)])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tables_of_a_tiff(tmp_path, photo, compression, tile, planar):
    pixels = np.asarray(photo)
    stored = np.moveaxis(pixels, -1, 0) if planar == "separate" else pixels
    options = {"tile": tile} if tile else {"rowsperstrip": 7}
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stored, compression=compression, planarconfig=planar, photometric="rgb",
        **options,
    )  # fmt: skip
    whole = path.read_bytes()
    np.testing.assert_array_equal(decode_image(whole), pixels)
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        table = tags["TileOffsets" if tile else "StripOffsets"]
        needed = len(table.value)
        # The count of the entry, four bytes behind its number and type.
        at = table.offset + 4
    short = whole[:at] + struct.pack("<I", needed - 1) + whole[at + 4 :]
    name = "tiles" if tile else "strips"
    message = f"only {needed - 1} of its {needed} {name} are there; restore"
    with pytest.raises(ValueError, match=message):
        decode_image(short)
    # The first one is said to be nowhere, as in sparse files, which Pillow reads wrong.
    start = table.valueoffset
    size = table.valuebytecount // needed
    empty = whole[:start] + bytes(size) + whole[start + size :]
    with pytest.raises(ValueError, match=f"only {needed - 1} of its {needed} {name}"):
        decode_image(empty)


def test_a_damaged_strip_of_a_tiff(photo):
    buffer = io.BytesIO()
    photo.save(buffer, "TIFF", compression="tiff_deflate")
    whole = buffer.getvalue()
    middle = len(whole) // 2
    for broken in (bytes(400), b"\x55" * 400):
        with pytest.raises(ValueError, match=r"cannot be decoded: .*; restore"):
            decode_image(whole[:middle] + broken + whole[middle + 400 :])


def test_half_a_jpeg_inside_a_tiff(photo):
    buffer = io.BytesIO()
    photo.save(buffer, "TIFF", compression="jpeg", strip_size=60_000)
    whole = buffer.getvalue()
    page = Image.open(io.BytesIO(whole))
    offsets, counts = page.tag_v2[273], page.tag_v2[279]
    assert len(offsets) > 1
    assert 347 in page.tag_v2  # tables that the strips share
    np.testing.assert_array_equal(decode_image(whole), np.asarray(page.convert("RGB")))
    start, count = offsets[-1], counts[-1]
    half = whole[start : start + count // 2]
    for closed in (half, half + b"\xff\xd9", b""):
        broken = whole[:start] + closed.ljust(count, b"\0") + whole[start + count :]
        with pytest.raises(ValueError, match=r"decoded: one of its strips: .*restore"):
            decode_image(broken)


# -- the others, under Pillow's own eyes --


def test_a_gif_that_ends_between_two_frames(tmp_path, photo):
    small = photo.resize((64, 48))
    pages = [small.rotate(angle) for angle in range(4)]
    path = tmp_path / "a.gif"
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=100)
    whole = path.read_bytes()
    frames = list(open_media(as_rows([path])[0]).frames(1000))
    assert len(frames) == 4
    starts = [at for at in range(len(whole)) if whole.startswith(b"\x21\xf9\x04", at)]
    assert len(starts) == 4
    for end in (*starts[1:], len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"the file is truncated; restore"):
            list(open_media(as_rows([path])[0]).frames(1000))


@pytest.mark.parametrize(
    ("file_format", "mode", "options"),
    [
        ("AVIF", "RGB", {}),
        ("BMP", "RGB", {}),
        ("DDS", "RGB", {}),
        ("GIF", "P", {}),
        ("ICNS", "RGB", {}),
        ("JPEG2000", "RGB", {}),
        ("PCX", "RGB", {}),
        ("PPM", "RGB", {}),
        ("QOI", "RGB", {}),
        ("SGI", "RGB", {}),
        ("TGA", "RGB", {}),
        ("TGA", "RGB", {"compression": "tga_rle"}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
    ],
)
def test_a_stump_of_any_format(photo, file_format, mode, options):
    buffer = io.BytesIO()
    photo.resize((64, 64)).convert(mode).save(buffer, file_format, **options)
    whole = buffer.getvalue()
    assert decode_image(whole).shape[2] == 3
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        with pytest.raises(ValueError, match=r"restore|convert it"):
            decode_image(whole[: int(share * len(whole))])


def test_an_opened_image_is_checked_before_it_decodes(tmp_path, photo):
    row = as_rows([Image.open(CASES / "cut_with_end.jpg")])[0]
    with pytest.raises(ValueError, match=r"^Row 0 \(PIL image\): .*end early"):
        open_media(row)
    for suffix in ("png", "jpg", "tif", "webp", "gif", "bmp", "jp2", "avif", "mpo"):
        path = tmp_path / f"a.{suffix}"
        photo.save(path)
        expected = next(open_media(as_rows([path])[0]).frames())
        for image in (Image.open(path), Image.open(io.BytesIO(path.read_bytes()))):
            found = next(open_media(as_rows([image])[0]).frames())
            np.testing.assert_array_equal(found, expected)
    smaller = Image.open(tmp_path / "a.jpg")
    smaller.draft("RGB", (80, 50))
    assert next(open_media(as_rows([smaller])[0]).frames()).shape == (50, 80, 3)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
