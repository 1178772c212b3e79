"""A picture or frame size in; an error out if decoding would take too much memory.

One limit for stills, animations and videos, checked before a pixel is decoded: a file
of a few hundred bytes can expand to gigabytes. It follows Pillow's own setting, so
there is only one number to change.
"""

import os

import joblib
from PIL import Image

_FEWEST_READERS, _MOST_READERS = 3, 16

STILL = 24
"""Bytes per pixel that a still takes at most: decoded, RGBA, composed on white, RGB."""

_COPY = 4  # budgets that the temporary copy of a video may take on disk


def reader_threads() -> int:
    """Threads that decode at once: one per core of this process, from 3 to 16.

    Each may hold a budget, so no more than half of the machine's memory allows.
    """
    most = min(joblib.cpu_count(), _MOST_READERS)
    if hasattr(os, "sysconf") and Image.MAX_IMAGE_PIXELS is not None:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        most = min(most, memory // (2 * STILL * Image.MAX_IMAGE_PIXELS))
    return max(_FEWEST_READERS, most)


def check_budget(
    width: int, height: int, frames: float = 1, bytes_per_pixel: float = STILL
) -> None:
    """Reject what would take more memory than a reader's budget.

    `frames` is the number of frames of this size in memory at once, not the number in
    the file: frames are passed on one at a time. The limit is `STILL` bytes for each of
    Pillow's ``MAX_IMAGE_PIXELS``, by default 2 GiB per reader: a still of 89 million
    pixels, or 8K video. None removes it.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None:
        return
    need = width * height * frames * bytes_per_pixel
    if need > limit * STILL:
        raise ValueError(
            f"is {width} x {height} pixels and takes about {need / 2**30:.1f} GiB to "
            f"decode; the limit is {limit * STILL / 2**30:.1f} GiB for each of "
            f"{reader_threads()} readers. Shrink it or, if you trust the file, set "
            "PIL.Image.MAX_IMAGE_PIXELS = None, or drop the row."
        )


def check_file_size(size: int) -> None:
    """Reject a picture file of more bytes than its pixels may take."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size > limit * STILL:
        raise ValueError(
            f"is a picture file of {size / 2**30:.1f} GiB; the limit is "
            f"{limit * STILL / 2**30:.1f} GiB. Shrink it, set "
            "PIL.Image.MAX_IMAGE_PIXELS = None, or drop the row."
        )


def most_pixels(bytes_per_pixel: float) -> int | None:
    """Pixels of the largest frame within the budget; None: no limit."""
    limit = Image.MAX_IMAGE_PIXELS
    return None if limit is None else int(limit * STILL / bytes_per_pixel)


def check_video_size(size: int) -> None:
    """Reject a video from elsewhere whose local copy would take too much disk."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size > _COPY * limit * STILL:
        raise ValueError(
            f"is a video of more than {_COPY * limit * STILL / 2**30:.1f} GiB, and "
            "what has no path is copied to a temporary file. Download it and pass its "
            "path, set PIL.Image.MAX_IMAGE_PIXELS = None, or drop the row."
        )
