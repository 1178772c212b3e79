"""The bytes of an image file, a PIL image or an array go in; uint8 RGB comes out.

Pictures become what a viewer shows: EXIF orientation is applied; alpha (also of
palettes and colour keys) is composited on white; CMYK becomes
``(255 - C) * (255 - K) / 255``; 16-bit values are divided by 257 and rounded, save
16-bit colour, of which Pillow keeps the high byte. Colour profiles are not applied.
Integers lie in [0, 255] (uint16: [0, 65535]), floats in [0, 1]. Whatever does not fit
is an error, as is a file that is not whole.
"""

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

MIN_SIDE = 8  # pixels; below, there is nothing to measure


def decode_image(data: bytes) -> np.ndarray:
    """Bytes of an image file -> uint8 (H, W, 3), upright."""
    return image_pixels(open_image(data))


def open_image(data: bytes) -> Image.Image:
    """Bytes of an image file -> PIL image that is whole, its pixels not decoded yet."""
    image = identify(data)
    width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    with explained():
        if limit is not None and width * height > 2 * limit:
            raise Image.DecompressionBombError(f"{width} x {height} pixels")
        if not _is_complete(image.format, data):
            raise ValueError("the file is truncated")
    return image


def image_pixels(image: Image.Image, animated: bool = False) -> np.ndarray:
    """PIL image of any mode -> uint8 (H, W, 3), upright; of an animation, this frame.

    Else one with several frames is an error: an object that others hold too is not the
    place to turn pages.
    """
    with explained():
        # What MPO holds beside its picture (previews, depth) and PSD below it (layers)
        # is part of the same still.
        still = animated or image.format in ("MPO", "PSD")
        count = 1 if still else getattr(image, "n_frames", 1)
        if count == 1:
            image.load()
    if count > 1:
        raise ValueError(
            f"holds {count} frames; pass the path of its file or an array of shape "
            "(T, H, W, 3), or the frame that you mean as image.convert('RGB')."
        )
    rgb = _to_rgb(image)
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
    frames = array[..., None] if array.ndim == 2 else array
    frames = frames[None] if frames.ndim == 3 else frames
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3, 4) or not len(frames):
        raise ValueError(
            f"has shape {array.shape}; expected (H, W), (H, W, 3) or (T, H, W, 3), "
            "channels last, RGB or RGBA."
        )
    height, width = frames.shape[1:3]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"is {width} x {height} pixels; at least {MIN_SIDE} x {MIN_SIDE} are "
            "needed to measure anything: drop the row."
        )
    frames = _to_uint8(frames)
    if frames.shape[-1] == 4:
        alpha = frames[..., 3:].astype(np.uint16)
        on_white = frames[..., :3] * alpha + 255 * (255 - alpha)  # at most 255 * 255
        frames = ((on_white + 127) // 255).astype(np.uint8)
    elif frames.shape[-1] == 1:
        frames = frames.repeat(3, axis=-1)
    return np.ascontiguousarray(frames)


def identify(data: bytes) -> Image.Image:
    """Bytes of an image file -> PIL image; whether it is whole is not looked at."""
    # Not Image.open: between one and two times its limit it emits a warning, which
    # cannot be turned off in one thread only. This is its loop without that check.
    Image.preinit()
    Image.init()
    missing = []
    for name in list(Image.ID):
        factory, accept = Image.OPEN[name]
        if name == "EPS":
            continue  # Pillow would run Ghostscript on the file
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
    """Say what to do about what Pillow raises, of nearly any type, on a bad file."""
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


# Markers that can follow entropy-coded data: not stuffing, restarts, fill bytes, TEM.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")


def _is_complete(file_format: str, data: bytes) -> bool:
    """Whether a JPEG or PNG is there to its end; other formats are left to Pillow.

    Pillow accepts PNG without its end, and any stump of a picture where someone, a
    library perhaps, has set LOAD_TRUNCATED_IMAGES.
    """
    if file_format in ("JPEG", "MPO"):
        at = 2
        while match := _JPEG_MARKER.search(data, at):
            if match[1] == b"\xd9":
                return True
            # Segments are skipped, as thumbnails in them have ends of their own.
            length = data[match.end() : match.end() + 2]
            at = match.end() + int.from_bytes(length, "big")
        return False
    if file_format == "PNG":
        at = 8
        while at + 12 <= len(data):
            if data[at + 4 : at + 8] == b"IEND":
                return True
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        return False
    return True


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Loaded PIL image -> uint8 (H, W, 3), not yet turned."""
    mode, key = image.mode, image.info.get("transparency")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or (
        mode == "P" and image.has_transparency_data
    ):
        pixels, key = np.array(image.convert("RGBA")), None
    elif mode == "I":
        # Where Pillow puts 16 bits of formats that could hold more.
        pixels = np.array(image)
        _check_range(pixels, 65535, "rescale 32-bit integers to 16 bits")
        pixels = pixels.astype(np.uint16)
    elif mode == "F" or mode.startswith("I;16"):
        pixels = np.array(image)
    else:
        pixels = np.array(image.convert("L" if mode in ("1", "L") else "RGB"))
        key = key if mode in ("1", "L", "RGB") else None
    rgb = array_pixels(pixels)[0]
    if key is not None:
        key = np.atleast_1d(key)
        # Of 16-bit colour Pillow kept the high bytes, but the whole key.
        key = key >> 8 if key.size == 3 and key.max() > 255 else key
        transparent = (pixels.reshape(*rgb.shape[:2], -1) == key).all(-1)
        rgb[transparent] = 255
    return rgb


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


def _to_uint8(values: np.ndarray) -> np.ndarray:
    kind, size = values.dtype.kind, values.dtype.itemsize
    if values.dtype == np.uint8:
        return values
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind in "ui":
        _check_range(values, 255, "rescale, or pass 16-bit values as uint16")
        return values.astype(np.uint8)
    if kind != "f":
        raise ValueError(
            f"has pixels of type {values.dtype}; pass uint8 in [0, 255] or floats "
            "in [0, 1]."
        )
    if not np.isfinite(values).all():
        raise ValueError("has NaN or infinite pixels; fill them or drop the row.")
    _check_range(values, 1, "divide [0, 255] by 255, map [-1, 1] by (x + 1) / 2")
    return np.rint(np.multiply(values, 255, dtype=np.float32)).astype(np.uint8)


def _check_range(values: np.ndarray, highest: int, advice: str) -> None:
    low, high = values.min(), values.max()
    if low < 0 or high > highest:
        raise ValueError(
            f"has {values.dtype} pixels from {low} to {high}, outside "
            f"[0, {highest}]; {advice}."
        )
