"""Files of strangers start no program, open no other file and stay within a budget."""

import ast
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import diffqa_features
from diffqa_features._media.animations import open_animation
from diffqa_features._media.images import FORMATS, decode_image
from diffqa_features._media.rows import as_rows, open_media

CASES = Path(__file__).parents[1] / "cases"
PACKAGE = Path(diffqa_features.__file__).parent


def read(source):
    return list(open_media(as_rows([source])[0]).frames())


# -- programs and other files --

DECODE = """
import sys
from PIL import Image
from diffqa_features._media.rows import as_rows, open_media
for path in sys.argv[1:]:
    for opened in (False, True):
        try:
            row = as_rows([Image.open(path) if opened else path])[0]
            list(open_media(row).frames())
            print("accepted", path)
        except (ValueError, OSError) as error:
            print("refused", error)
"""


def test_no_program_is_started(tmp_path):
    log, program = tmp_path / "log", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> "{log}"\n')
    program.chmod(0o755)
    drawing = tmp_path / "a.eps"
    Image.new("RGB", (40, 30)).save(drawing)
    hidden = tmp_path / "b.jpg"
    hidden.write_bytes(drawing.read_bytes())
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        [sys.executable, "-c", DECODE, CASES / "photo_iptc.jpg", drawing, hidden],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["refused"] * 6, run.stdout
    assert "Row 0 (PIL image): is a IPTC that is not loaded yet" in lines[1]
    assert "pass image.convert('RGB') if you trust it" in lines[3]
    assert not log.exists(), log.read_text()
    # The trap is a true one: Pillow by itself steps into it.
    trap = f"from PIL import Image; Image.open({str(drawing)!r}).load()"
    subprocess.run(
        [sys.executable, "-c", trap],
        env={**os.environ, "PATH": path},
        capture_output=True,
        check=False,
    )
    assert log.exists()


def test_there_is_one_door_to_pillows_decoders():
    """`Image.open` tries every format, so the package never calls it."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                assert name != "Image.open", f"{path}: use decode_image"
                if name == "Image.OPEN":
                    assert path.name == "images.py"
            if isinstance(node, ast.ImportFrom) and node.module == "PIL.Image":
                assert "open" not in [alias.name for alias in node.names], path


def test_what_is_read_is_listed():
    Image.init()
    started = {"EPS", "IPTC", "WMF", "BUFR", "GRIB", "HDF5", "FITS", "MPEG"}
    assert not started & FORMATS
    # A new format of Pillow is not read until somebody has looked at its decoder.
    assert FORMATS >= {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP"}


# -- memory and time --


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def big_png(width, height, color):
    """A PNG of one colour, whose lines need not be in memory."""
    channels = {0: 1, 2: 3, 6: 4}[color]
    packer, line = zlib.compressobj(9), bytes(1 + channels * width)
    packed = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", packed)
        + chunk(b"IEND", b"")
    )


def test_a_gif_that_unfolds_is_refused():
    message = (
        r"^Row 0 \('.*gif_13k\.gif'\): is 13000 x 13000 pixels and takes about 3\.8 GiB"
    )
    with pytest.raises(ValueError, match=message):
        read(CASES / "gif_13k.gif")


def test_a_gif_whose_frames_are_larger_than_its_screen(tmp_path):
    data = bytearray((CASES / "gif_13k.gif").read_bytes())
    data[6:10] = struct.pack("<HH", 16, 16)
    second = data.index(b"\x2c", data.index(b"\x2c") + 1)
    data[second + 5 : second + 9] = struct.pack("<HH", 60000, 60000)
    (tmp_path / "a.gif").write_bytes(data)
    with pytest.raises(ValueError, match=r"is 60000 x 60000 pixels"):
        read(tmp_path / "a.gif")


def test_all_frames_of_an_animation_are_counted(tmp_path, monkeypatch):
    pages = [Image.new("L", (40, 24), 5 * at) for at in range(30)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    assert len(read(tmp_path / "a.gif")) == 3
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 960)
    read(tmp_path / "a.gif")
    more = [Image.new("L", (40, 24), at) for at in range(120)]
    more[0].save(tmp_path / "b.gif", save_all=True, append_images=more[1:])
    with pytest.raises(ValueError, match=r"has 120 frames of 40 x 24 pixels.*in all"):
        read(tmp_path / "b.gif")


def test_a_picture_file_larger_than_memory(tmp_path):
    with (tmp_path / "a.bmp").open("wb") as file:
        file.write(b"BM")
        file.truncate(2**40)  # a sparse file
    with pytest.raises(ValueError, match=r"is a picture file of 1024\.0 GiB"):
        read(tmp_path / "a.bmp")


def test_a_tile_larger_than_its_picture(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), np.uint8), tile=(64, 64))
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        for name in ("TileWidth", "TileLength"):
            tag = file.pages[0].tags[name]
            size = tag.valuebytecount
            at = tag.valueoffset
            data[at : at + size] = (60000).to_bytes(size, "little")
    with pytest.raises(ValueError, match=r"is 60000 x 60000 pixels"):
        decode_image(bytes(data))


PEAK = """
import resource, sys
from diffqa_features._media.images import decode_image
data = open(sys.argv[1], "rb").read()
decode_image(open(sys.argv[2], "rb").read())  # what libraries need once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
height, width, _ = decode_image(data).shape
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024 / (height * width))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize("kind", ["RGBA", "RGB", "turned", "progressive"])
def test_memory_stays_below_what_the_budget_counts(tmp_path, kind):
    """12 bytes per pixel, alpha and turning included."""
    path = tmp_path / "a"
    if kind in ("RGB", "RGBA"):
        path.write_bytes(big_png(3000, 2500, 6 if kind == "RGBA" else 2))
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        picture = Image.effect_noise((3000, 2500), 50).convert("RGB")
        picture.save(
            path, "JPEG", exif=exif, subsampling=0, progressive=kind == "progressive"
        )
    Image.new("RGBA", (64, 64)).save(tmp_path / "small.png")
    run = subprocess.run(
        [sys.executable, "-c", PEAK, path, tmp_path / "small.png"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(run.stdout) <= 12


# -- times without decoding --


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_times_of_animations_are_those_of_pillow(tmp_path, suffix):
    shown = [70, 100, 250, 40, 1000, 30]
    pages = [Image.new("RGB", (40, 24), (40 * at, 9, 200)) for at in range(len(shown))]
    path = tmp_path / f"a.{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=shown)
    expected = []
    with Image.open(path) as image:
        for at in range(image.n_frames):
            image.seek(at)
            image.load()
            expected.append(image.info["duration"])
    np.testing.assert_allclose(expected, shown, atol=1)
    animation = open_animation(path.read_bytes())
    starts = np.cumsum([0, *expected]) / 1000
    np.testing.assert_allclose(animation.times(), starts[:-1])
    assert animation.duration == pytest.approx(starts[-1])


def test_timing_a_large_gif_does_not_decode_it(tmp_path):
    """Frames that cannot be decoded have times all the same."""
    pages = [Image.effect_noise((40, 24), 40 + at) for at in range(5)]
    path = tmp_path / "a.gif"
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=200)
    data = bytearray(path.read_bytes())
    last = data.rindex(b"\x2c\0\0\0\0")
    flags = data[last + 9]
    data[last + 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)] = (
        99  # bits of a code
    )
    animation = open_animation(bytes(data))
    np.testing.assert_allclose(animation.times(), [0, 0.2, 0.4, 0.6, 0.8])
    with pytest.raises(ValueError, match="4 of 5 frames decoded with Pillow, then"):
        list(animation.read(range(5)))
