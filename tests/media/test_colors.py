"""Embedded colour profiles: pixels come out in sRGB."""

import io
import logging
import struct
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from sklearn.datasets import load_sample_image

from diffqa_features._media.color import srgb_converter
from diffqa_features._media.images import decode_image
from diffqa_features._media.rows import as_rows, open_media

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# X, Y and Z of red, green and blue, adapted to D50 as in ICC profiles.
P3 = [
    (0.51512, 0.24120, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.15710, 0.06657, 0.78407),
]
SRGB_D50 = [
    (0.43607, 0.22249, 0.01392),
    (0.38515, 0.71687, 0.09708),
    (0.14307, 0.06061, 0.71410),
]
WHITE = (0.96420, 1.0, 0.82491)


def fixed(value):
    return struct.pack(">i", round(value * 65536))


def make_profile(space, tags):
    """An ICC profile of version 2, byte by byte."""
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(78)
    tags = [(b"desc", text), (b"wtpt", xyz(WHITE)), *tags]
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags:
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02100000, b"mntr", space,
                         b"XYZ ") + bytes(12) + b"acsp"  # fmt: skip
    header += bytes(28) + b"".join(map(fixed, WHITE)) + bytes(48)
    return header[:128] + table + body


def xyz(values):
    return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def rgb_profile(primaries, exponent):
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags = [(name, xyz(color)) for name, color in zip(names, primaries)]
    tags += [(name, gamma(exponent)) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return make_profile(b"RGB ", tags)


def grey_profile(exponent):
    return make_profile(b"GRAY", [(b"kTRC", gamma(exponent))])


def to_srgb(pixels, primaries, exponent):
    """The closed form of relative colorimetric conversion, in float64."""
    linear = (pixels / 255.0) ** exponent @ np.array(primaries)
    linear = (linear @ np.linalg.inv(SRGB_D50)).clip(0, 1)
    curved = 1.055 * linear ** (1 / 2.4) - 0.055
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, curved)


@pytest.fixture(scope="module")
def rgb():
    return load_sample_image("flower.jpg")[100:260, 200:400]


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("webp", {"lossless": True}),
    ],
)
def test_a_wide_gamut_becomes_srgb(tmp_path, rgb, suffix, options):
    profile, path = rgb_profile(P3, 2.2), tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path, icc_profile=profile, **options)
    found = next(open_media(as_rows([path])[0]).frames())
    expected = to_srgb(rgb, P3, 2.2)
    np.testing.assert_allclose(found, expected, atol=2.5)
    assert np.abs(found - rgb.astype(int)).max() > 20
    # An opened image has its profile with it.
    opened = next(open_media(as_rows([Image.open(path)])[0]).frames())
    np.testing.assert_array_equal(opened, found)


def test_the_same_picture_in_two_spaces_is_the_same(rgb):
    """What a camera stores in Display P3 and in sRGB comes to the same pixels."""
    profile = rgb_profile(P3, 2.2)
    stored = ImageCms.profileToProfile(
        Image.fromarray(rgb),
        ImageCms.createProfile("sRGB"),
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", icc_profile=profile)
    found = decode_image(buffer.getvalue()).astype(int)
    assert np.abs(np.asarray(stored).astype(int) - rgb).mean() > 3
    assert np.abs(found - rgb).mean() < 0.6
    assert np.abs(found - rgb).max() <= 4


@pytest.mark.parametrize("file_format", ["JPEG", "AVIF", "MPO", "WEBP"])
def test_profiles_of_lossy_files(rgb, file_format):
    plain, marked = io.BytesIO(), io.BytesIO()
    Image.fromarray(rgb).save(plain, file_format, quality=90)
    profile = rgb_profile(P3, 2.2)
    Image.fromarray(rgb).save(marked, file_format, quality=90, icc_profile=profile)
    expected = to_srgb(decode_image(plain.getvalue()), P3, 2.2)
    np.testing.assert_allclose(decode_image(marked.getvalue()), expected, atol=2.5)


def test_srgb_costs_nothing_and_changes_nothing(rgb):
    photo = files("sklearn.datasets.images") / "china.jpg"
    hewlett = Image.open(photo).info["icc_profile"]
    for profile in (SRGB, hewlett):
        assert srgb_converter(profile, "RGB") is None
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "PNG", icc_profile=profile)
        np.testing.assert_array_equal(decode_image(buffer.getvalue()), rgb)
    assert srgb_converter(rgb_profile(P3, 2.2), "RGB") is not None


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "F"])
def test_grey_profiles(mode):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(levels)
    if mode == "I;16":
        image = Image.fromarray(levels.astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(levels.astype(np.float32) / 255)
    elif mode == "LA":
        image.putalpha(Image.new("L", (16, 16), 255))
    image.info["icc_profile"] = grey_profile(1.0)
    found = next(open_media(as_rows([image])[0]).frames())
    linear = levels / 255.0
    curved = 1.055 * linear ** (1 / 2.4) - 0.055
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, curved)
    np.testing.assert_allclose(found[..., 1], expected, atol=1.5)
    assert np.ptp(found, axis=-1).max() <= 1


def test_alpha_and_color_keys_are_of_the_stored_colors(rgb):
    profile = rgb_profile(P3, 2.2)
    shown = to_srgb(rgb, P3, 2.2)
    alpha = np.tile(np.linspace(0, 255, rgb.shape[1]).round(), (rgb.shape[0], 1))
    picture = Image.fromarray(np.dstack([rgb, alpha.astype(np.uint8)]))
    picture.info["icc_profile"] = profile
    found = next(open_media(as_rows([picture])[0]).frames())
    share = alpha[..., None] / 255
    np.testing.assert_allclose(found, shown * share + 255 * (1 - share), atol=3)

    picture = Image.fromarray(rgb)
    picture.info.update(icc_profile=profile, transparency=tuple(map(int, rgb[5, 7])))
    found = next(open_media(as_rows([picture])[0]).frames())
    keyed = (rgb == rgb[5, 7]).all(-1)
    assert (found[keyed] == 255).all()
    np.testing.assert_allclose(found[~keyed], shown[~keyed], atol=2.5)


def test_palettes(rgb):
    picture = Image.fromarray(rgb).quantize(64)
    expected = to_srgb(np.asarray(picture.convert("RGB")), P3, 2.2)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", icc_profile=rgb_profile(P3, 2.2))
    np.testing.assert_allclose(decode_image(buffer.getvalue()), expected, atol=2.5)


def cmyk_profile():
    """Inks that simply add up: a table of 2 x 2 x 2 x 2 corners in CIE Lab."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(-1, 4)
    lab = []
    for cyan, magenta, yellow, black in corners:
        # Lightness falls with every ink; black alone goes to L = 20.
        light = (100 - 20 * cyan - 25 * magenta - 5 * yellow) * (1 - 0.8 * black)
        lab.append((light, -30 * cyan + 50 * magenta, -40 * cyan + 60 * yellow))
    packed = b"".join(
        bytes([round(a * 2.55), round(b) + 128, round(c) + 128]) for a, b, c in lab
    )
    ramp = bytes(range(256))
    identity = b"".join(map(fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity
    table += ramp * 4 + packed + ramp * 3
    profile = bytearray(make_profile(b"CMYK", [(b"A2B0", table), (b"A2B1", table)]))
    profile[12:16], profile[20:24] = b"prtr", b"Lab "
    return bytes(profile)


def test_cmyk_profiles():
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, 4:8, 0], inks[:, 8:12, 3], inks[:, 12:, 2] = 255, 255, 255
    picture = Image.frombytes("CMYK", (16, 16), inks.tobytes())
    plain = next(open_media(as_rows([picture])[0]).frames())
    picture.info["icc_profile"] = cmyk_profile()
    found = next(open_media(as_rows([picture])[0]).frames()).astype(int)
    assert (found[0, 0] >= 253).all()  # paper is white
    assert np.abs(found[0, 9] - 48).max() <= 2  # L* = 20
    assert np.abs(found[0, 5] - plain[0, 5].astype(int)).max() > 30
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF", icc_profile=picture.info["icc_profile"])
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), found)


@pytest.mark.parametrize(
    ("profile", "cause"),
    [
        (b"nonsense", "cannot open profile"),
        (SRGB[:300], "cannot build transform"),
        (grey_profile(1.0), "it is for GRAY and the picture is RGB"),
        (SRGB[:12] + b"abst" + SRGB[16:], ""),
    ],
)
def test_a_broken_profile_is_ignored_and_logged(tmp_path, caplog, rgb, profile, cause):
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path, icc_profile=profile)
    with caplog.at_level(logging.WARNING):
        found = next(open_media(as_rows([path])[0]).frames())
    np.testing.assert_array_equal(found, rgb)
    (record,) = caplog.records
    assert record.name.startswith("diffqa_features")
    start = f"row 0 ('{path}'): the colour profile is ignored: "
    assert record.getMessage().startswith(start + cause)


def test_gamma_and_primaries_of_a_png_are_not_applied(rgb):
    buffer, notes = io.BytesIO(), PngInfo()
    notes.add(b"gAMA", struct.pack(">I", 100000))
    notes.add(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000,
                                   15000, 6000))  # fmt: skip
    notes.add(b"cICP", bytes([12, 13, 0, 1]))
    Image.fromarray(rgb).save(buffer, "PNG", pnginfo=notes)
    assert b"gAMA" in buffer.getvalue()
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), rgb)
