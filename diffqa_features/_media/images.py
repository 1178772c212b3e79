"""The bytes of an image file, a PIL image or an array in; uint8 RGB out.

Pictures look as in a viewer: EXIF orientation is applied; colours are converted to sRGB
if a profile is embedded (`color`); alpha (also of palettes and colour keys) is
composited on white; CMYK without a profile becomes ``(255 - C) * (255 - K) / 255``;
16-bit values are divided by 257 and rounded, except 16-bit colour, of which Pillow
keeps the high byte. Integers lie in [0, 255] (uint16: [0, 65535]), floats in [0, 1].
Anything else is an error, and so is an incomplete file (`complete`).

This is the only access to Pillow's decoders, also for untrusted files: formats that
start programs or open other files are not read, and memory per picture is limited.
"""

import io
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile

from diffqa_features._media.budget import STILL, check_budget
from diffqa_features._media.color import srgb_converter
from diffqa_features._media.complete import (
    check_embedded_pngs,
    check_gif,
    check_jpeg,
    check_png,
    check_tiff,
)

MIN_SIDE = 8  # pixels; below, there is nothing to measure

FORMATS = frozenset(
    "AVIF BLP BMP CUR DCX DDS DIB FLI FTEX GBR GIF HEIF ICNS ICO IM IMT JPEG JPEG2000 "
    "JXL MCIDAS MPO MSP PCD PCX PIXAR PNG PPM PSD QOI SGI SPIDER SUN TGA TIFF WEBP XBM "
    "XPM XVTHUMB".split()
)
"""Formats that Pillow decodes within the process and from the file itself.

Not EPS, which runs Ghostscript, nor IPTC, which opens what is inside by its content;
not the kinds for which Pillow calls somebody's handler (WMF, BUFR, GRIB, HDF5); not
FITS, whose packed pixels unfold without a limit. HEIF and JXL come with plugins.
"""

# Bytes per pixel at the peak. Most decoders write into the picture itself (4), of which
# RGB is made (3), which may have to be turned (3); these hold copies of their own.
_PEAK = 12
_HUNGRY = ("AVIF", "HEIF", "JPEG2000", "JXL", "WEBP")
_STRIP = 1 << 18  # pixels brought to RGB at once
_SLACK = 1e-3  # by which rounding and resampling take floats out of [0, 1]

log = logging.getLogger(__name__)


def decode_image(data: bytes, name: str = "a picture") -> np.ndarray:
    """Bytes of an image file -> uint8 (H, W, 3), upright, in sRGB."""
    return frame_pixels(open_image(data), name)


def open_image(data: bytes) -> Image.Image:
    """Bytes of an image file -> complete PIL image, its pixels not decoded yet."""
    image = identify(data)
    check_whole(image, data)
    return image


def check_whole(image: Image.Image, data: bytes) -> None:
    """Reject a picture that needs too much memory, or that is incomplete.

    In a file with several pages, the image's current one is checked.
    """
    per_pixel = STILL if image.format in _HUNGRY else _PEAK
    check_budget(*image.size, bytes_per_pixel=per_pixel)
    with explained():
        if image.format in ("JPEG", "MPO"):
            check_jpeg(data)
        elif image.format == "PNG":
            check_png(data)
        elif image.format == "GIF":
            check_gif(data)
        elif image.format in ("ICNS", "ICO"):
            check_embedded_pngs(data)
        elif image.format == "TIFF":
            check_tiff(image, data)
    if image.format == "TIFF" and 322 in image.tag_v2:
        # A tile is decoded as a whole, be the picture as small as it may.
        check_budget(image.tag_v2[322], image.tag_v2.get(323, 1), bytes_per_pixel=_PEAK)


def image_pixels(image: Image.Image, name: str = "a picture") -> np.ndarray:
    """PIL image opened by the caller -> uint8 (H, W, 3), upright, in sRGB.

    Several frames are an error: seeking would change an object that the caller shares.
    `name` is for the log.
    """
    if isinstance(image, ImageFile.ImageFile) and image.tile:
        _check_lazy(image)
    with explained():
        # What MPO holds beside its picture (previews, depth) and PSD below it (layers)
        # is part of the same still.
        still = image.format in ("MPO", "PSD")
        count = 1 if still else getattr(image, "n_frames", 1)
    if count > 1:
        raise ValueError(
            f"holds {count} frames; pass the path of its file or an array of shape "
            "(T, H, W, 3), or the frame that you mean as image.convert('RGB')."
        )
    return frame_pixels(image, name)


def frame_pixels(image: Image.Image, name: str = "a picture") -> np.ndarray:
    """Checked PIL image, or its current frame -> uint8 (H, W, 3)."""
    with explained():
        image.load()
    rgb = _to_rgb(image, name)
    try:
        # Only now: TIFF is turned by load(), which then clears the entry. Not
        # ImageOps.exif_transpose: it writes EXIF anew, which fails on odd entries.
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF: viewers do not turn such a picture either
        orientation = 1
    transpose, upside, mirror = _UPRIGHT.get(orientation, (False, False, False))
    rgb = rgb.swapaxes(0, 1) if transpose else rgb
    rgb = rgb[::-1] if upside else rgb
    rgb = rgb[:, ::-1] if mirror else rgb
    return np.ascontiguousarray(rgb)


def array_pixels(array: np.ndarray) -> np.ndarray:
    """Numeric array of one image or clip -> uint8 (T, H, W, 3)."""
    if isinstance(array, np.ma.MaskedArray):
        masked = int(np.ma.count_masked(array))
        if masked:
            raise ValueError(
                f"has {masked} masked values, of which nothing can be measured; fill "
                "them with array.filled(value), or drop the row."
            )
        array = array.data
    array = np.asarray(array)  # axes of a np.matrix are two, whatever one asks for
    frames = array[..., None] if array.ndim == 2 else array
    frames = frames[None] if frames.ndim == 3 else frames
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3, 4) or not len(frames):
        raise ValueError(
            f"has shape {array.shape}; expected (H, W), (H, W, 3) or (T, H, W, 3), "
            "channels last, RGB or RGBA."
        )
    _check_sides(frames.shape[2], frames.shape[1])
    _check_values(frames)
    if frames.dtype == np.uint8 and frames.shape[-1] == 3:
        return np.ascontiguousarray(frames)
    rgb = np.empty((*frames.shape[:3], 3), np.uint8)
    for out, frame in zip(rgb, frames):  # one at a time: floats take a lot of memory
        out[:] = _on_white(_to_uint8(frame))
    return rgb


def identify(data: bytes) -> Image.Image:
    """Bytes of an image file -> PIL image, without checking that it is complete."""
    # Not Image.open: between one and two times its limit it emits a warning, which
    # cannot be turned off in one thread only. This is its loop without that check.
    Image.preinit()
    Image.init()
    missing = []
    for name in list(Image.ID):
        factory, accept = Image.OPEN[name]
        if name not in FORMATS:
            continue
        try:
            verdict = accept(data[:16]) if accept else True
            if isinstance(verdict, str):  # known, but Pillow was built without it
                missing.append(verdict)
            elif verdict:
                with explained(but=(SyntaxError, IndexError, TypeError, struct.error)):
                    return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise ValueError(
        "not an image that Pillow can read here"
        + f" ({', '.join(missing)})" * bool(missing)
        + ", nor a known kind of video; convert it to PNG, JPEG or MP4, or drop the "
        "row."
    )


@contextmanager
def explained(but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Explain the errors, of nearly any type, that Pillow raises on a bad file."""
    try:
        yield
    except (MemoryError, *but):
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"is beyond Pillow's limit against decompression bombs ({error}); if you "
            "trust the file, set PIL.Image.MAX_IMAGE_PIXELS = None, or shrink it."
        ) from error
    except Exception as error:
        cause = str(error) or type(error).__name__
        raise ValueError(
            f"cannot be decoded: {cause}; restore the file or drop the row."
        ) from error


def _check_lazy(image: ImageFile.ImageFile) -> None:
    """Check what a PIL image will decode, before `load` does so.

    The caller opened it, but its decoder starts here.
    """
    if image.format not in FORMATS:
        raise ValueError(
            f"is a {image.format} that is not loaded yet, and decoding it may start "
            "another program or open other files; pass image.convert('RGB') if you "
            "trust it."
        )
    file = image.fp
    with explained():
        if file is None or not file.seekable():
            raise ValueError("its file is closed")
        at = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(at)
    check_whole(image, data)


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """Loaded PIL image -> uint8 (H, W, 3), not yet rotated."""
    _check_sides(*image.size)
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        values = np.asarray(image)
        if mode == "I":
            # Where Pillow puts 16 bits of formats that could hold more.
            _check_range(values, 65535, "rescale 32-bit integers to 16 bits")
            values = values.astype(np.uint16)
        _check_values(values)
        del values
    convert = _converter(image, name)
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    # In strips: steps in between take several times the memory of the result.
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        rgb[top : top + rows] = _strip_to_rgb(strip, convert)
    return rgb


def _strip_to_rgb(image: Image.Image, convert) -> np.ndarray:
    """Some rows of a picture -> uint8 (h, W, 3)."""
    mode, key = image.mode, image.info.get("transparency")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or (
        mode == "P" and image.has_transparency_data
    ):
        pixels = np.array(image.convert("RGBA"))
        if convert is not None:
            colors = pixels[..., 0] if mode in ("LA", "La") else pixels[..., :3]
            colors = Image.fromarray(np.ascontiguousarray(colors))
            pixels[..., :3] = np.asarray(convert(colors))
        return _on_white(pixels)
    if mode in ("I", "F") or mode.startswith("I;16"):
        pixels = np.array(image)
        pixels = pixels.astype(np.uint16) if mode == "I" else pixels
        shown = _to_uint8(pixels)
        shown = shown if convert is None else convert(Image.fromarray(shown))
    elif mode == "CMYK" and convert is not None:
        pixels, shown = np.empty(0), convert(image)
    else:
        plain = image.convert("L" if mode in ("1", "L") else "RGB")
        pixels = np.array(plain)
        shown = pixels if convert is None else convert(plain)
        key = key if mode in ("1", "L", "RGB") else None
    shown = np.asarray(shown)
    rgb = _on_white(shown[..., None] if shown.ndim == 2 else shown)
    if key is not None and mode != "CMYK":
        key = np.atleast_1d(key)
        # Of 16-bit colour Pillow kept the high bytes, but the whole key.
        key = key >> 8 if key.size == 3 and key.max() > 255 else key
        rgb = np.array(rgb)
        rgb[(pixels.reshape(*rgb.shape[:2], -1) == key).all(-1)] = 255
    return rgb


def _converter(image: Image.Image, name: str):
    """Converter of a picture to sRGB; None if there is none or none is needed."""
    profile = image.info.get("icc_profile")
    if not profile or not isinstance(profile, bytes) or image.mode in ("1", "LAB"):
        return None
    grey = image.mode[0] in "LIF"
    try:
        return srgb_converter(
            profile, "L" if grey else "CMYK" if image.mode == "CMYK" else "RGB"
        )
    except ValueError as error:
        log.warning("%s: the colour profile is ignored: %s.", name, error)
        return None


# EXIF orientation -> transpose, then flip up-down, then flip left-right
_UPRIGHT = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def _check_sides(width: int, height: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"is {width} x {height} pixels; at least {MIN_SIDE} x {MIN_SIDE} are "
            "needed to measure anything: drop the row."
        )


def _check_values(values: np.ndarray) -> None:
    """Reject values that are not pixels, or outside the range of their type."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b" or values.dtype == np.uint8:
        return
    if kind == "u" and size == 2:
        high = values.max()
        if 0 < high <= 255:
            raise ValueError(
                f"has {values.dtype} pixels up to {high} of 65535, which is black; "
                "pass 8-bit values as uint8: array.astype(np.uint8)."
            )
    elif kind in "ui":
        _check_range(values, 255, "rescale, or pass 16-bit values as uint16")
    elif kind != "f":
        raise ValueError(
            f"has pixels of type {values.dtype}; pass uint8 in [0, 255] or floats "
            "in [0, 1]."
        )
    else:
        low, high = values.min(), values.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("has NaN or infinite pixels; fill them or drop the row.")
        if low < -_SLACK or high > 1 + _SLACK:
            _check_range(
                values,
                1,
                "divide [0, 255] by 255, map [-1, 1] by (x + 1) / 2, cut off what "
                "a resampler overshoots by np.clip(x, 0, 1)",
            )


def _to_uint8(values: np.ndarray) -> np.ndarray:
    """Checked values -> uint8."""
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return values
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "f":
        scaled = np.multiply(values, 255, dtype=np.float32)
        return np.rint(scaled).clip(0, 255).astype(np.uint8)
    if kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values.astype(np.uint8)


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 1, 3 or 4) -> uint8 (H, W, 3)."""
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].astype(np.uint16)
        on_white = pixels[..., :3] * alpha + 255 * (255 - alpha)  # at most 255 * 255
        return ((on_white + 127) // 255).astype(np.uint8)
    return pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _check_range(values: np.ndarray, highest: int, advice: str) -> None:
    low, high = values.min(), values.max()
    if low < 0 or high > highest:
        raise ValueError(
            f"has {values.dtype} pixels from {low} to {high}, outside "
            f"[0, {highest}]; {advice}."
        )
