import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from diffqa_features._media.images import decode_image
from diffqa_features._media.rows import as_rows, open_media


def read(source):
    return np.stack(list(open_media(as_rows([source])[0]).frames()))


def read_one(source):
    (frame,) = read(source)
    return frame


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


# -- several frames --


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_an_opened_animation_is_refused_and_its_file_is_not(tmp_path, rgb, suffix):
    pages = [Image.fromarray(np.roll(rgb, 5 * shift, 1)) for shift in range(12)]
    path = tmp_path / f"a.{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=500)
    message = r"^Row 0 \(PIL image\): holds 12 frames; pass the path of its file"
    with pytest.raises(ValueError, match=message):
        read(Image.open(path))
    assert read_one(Image.open(path).convert("RGB")).shape == rgb.shape
    assert len(read(path)) == (12 if suffix == "tif" else 6)


def test_mpo_of_a_phone_is_its_first_picture(tmp_path):
    first, preview = Image.new("RGB", (64, 48), (200, 0, 0)), Image.new("RGB", (16, 12))
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[preview])
    assert Image.open(tmp_path / "a.mpo").n_frames == 2
    picture = read_one(tmp_path / "a.mpo")
    np.testing.assert_allclose(picture, np.full((48, 64, 3), (200, 0, 0)), atol=2)


# -- bad files --


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"restart_marker_blocks": 1}),
        ("PNG", {}),
        ("PNG", {"compress_level": 0}),
    ],
)
def test_every_truncation_is_noticed(
    tmp_path, rgb, monkeypatch, lenient, file_format, options
):
    thumbnail = io.BytesIO()
    Image.fromarray(rgb[:1, :1]).save(thumbnail, "JPEG")  # its end must not count
    options = {**options, "exif": b"Exif\0\0" + thumbnail.getvalue()}
    Image.fromarray(rgb[:8, :16]).save(tmp_path / "whole", file_format, **options)
    data = (tmp_path / "whole").read_bytes()
    assert decode_image(data).shape == (8, 16, 3)
    # Other libraries set this for the whole process.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    accepted = []
    for size in range(1, len(data)):
        try:
            decode_image(data[:size])
        except ValueError:
            continue
        accepted.append(size)
    assert not accepted
    (tmp_path / "a.img").write_bytes(data[:-1])
    message = r"^Row 0 \('.*a\.img'\): cannot be decoded: the file is truncated; "
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.img")


def test_bytes_after_the_end_do_no_harm(tmp_path, rgb):
    for file_format in ("PNG", "JPEG"):
        Image.fromarray(rgb).save(tmp_path / "a", file_format)
        expected = read(tmp_path / "a")
        with (tmp_path / "a").open("ab") as file:
            file.write(b"trailer of a phone")
        np.testing.assert_array_equal(read(tmp_path / "a"), expected)


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "bmp", "jp2", "ppm"])
def test_half_a_file_of_another_format(tmp_path, rgb, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"^Row 0 \(.*cannot be decoded: .*; restore"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [b"no image", b"\0" * 5000, b"%PDF-1.7\n", b"path,mos\na.jpg,3\n", b"\xff\xd8\xff"],
)
def test_files_that_are_no_images(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"^Row 0 \('.*a\.jpg'\): .*drop the row\.$"):
        read(tmp_path / "a.jpg")


def test_eps_is_not_run(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.eps")
    with pytest.raises(ValueError, match="not an image that Pillow can read here"):
        read(tmp_path / "a.eps")


def test_decompression_bomb(tmp_path):
    header = struct.pack(">IIBBBBB", 50000, 50000, 1, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    message = r"^Row 0 \('.*a\.png'\): .*50000 x 50000.*set PIL.Image.MAX_IMAGE_PIXELS"
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.png")


def test_the_bomb_limit_is_pillows_own(tmp_path, rgb, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    size = rgb.shape[0] * rgb.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Up to twice the limit Pillow only warns, and here that stays quiet.
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", size // 2)
        np.testing.assert_array_equal(read_one(tmp_path / "a.png"), rgb)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", size // 2 - 1)
        with pytest.raises(ValueError, match="is 40 x 24 pixels and takes"):
            read(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        np.testing.assert_array_equal(read_one(tmp_path / "a.png"), rgb)


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (40, 7)])
def test_pictures_too_small_to_measure(tmp_path, size):
    image = Image.new("RGB", size)
    image.save(tmp_path / "a.png")
    message = rf"^Row 0 \(.*\): is {size[0]} x {size[1]} pixels; at least 8 x 8"
    for source in (tmp_path / "a.png", image, np.asarray(image)):
        with pytest.raises(ValueError, match=message):
            read(source)


def test_a_closed_image(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    image.close()
    with pytest.raises(ValueError, match=r"^Row 0 \(PIL image\): cannot be decoded"):
        read(image)


def test_the_safety_switches_of_pillow_are_left_alone():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20
    assert Image.MAX_IMAGE_PIXELS == 2**30 // 4 // 3
