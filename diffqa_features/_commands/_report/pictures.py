"""Pixels and maps in, text for a page out."""

import base64
import io

import numpy as np
from PIL import Image

from diffqa_features._media.rows import Row, open_media

THUMB, STRIP, LARGE = 224, 112, 1024
"""Longest sides, pixels: in the list, of the frames of a video, by itself."""

MAP_TOP = 4
"""Loss of a map's highest value, JOD; what is beyond it looks alike."""

_DETAIL = 312, 208  # pixels, width and height; shown one to one
_QUALITY = {THUMB: 55, STRIP: 50, LARGE: 85}


def open_file(path, reader="auto"):
    """The media of one file that a table names."""
    return open_media(Row(0, path, from_table=True), reader)


def encode(pixels: np.ndarray, side: int) -> str:
    """A picture (H, W, 3), no longer than `side`, as a data URI."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _uri(picture, _QUALITY[side])


def encode_detail(pixels: np.ndarray, place: tuple[float, float]) -> str:
    """A part around `place`, shares of height and width, at full resolution."""
    height, width = pixels.shape[:2]
    w, h = min(_DETAIL[0], width), min(_DETAIL[1], height)
    top = int(np.clip(place[0] * height - h / 2, 0, height - h))
    left = int(np.clip(place[1] * width - w / 2, 0, width - w))
    part = Image.fromarray(pixels[top : top + h, left : left + w])
    return _uri(part, _QUALITY[LARGE])


def _uri(picture, quality):
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{_text(data.getvalue())}"


def find_worst(loss: np.ndarray) -> tuple[float, float]:
    """Where a map (h, w) is highest, as shares of height and width."""
    at = np.unravel_index(loss.argmax(), loss.shape)
    return tuple((np.array(at) + 0.5) / loss.shape)


def encode_map(loss: np.ndarray) -> dict:
    """A map (h, w) of loss as bytes; 255 is `MAP_TOP`."""
    levels = np.rint(np.clip(loss / MAP_TOP, 0, 1) * 255).astype(np.uint8)
    return {"shape": list(levels.shape), "levels": _text(levels.tobytes())}


def _text(data):
    return base64.b64encode(data).decode("ascii")
