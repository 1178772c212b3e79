"""The size of a picture or frame in; an error out if decoding it takes too much memory.

One limit for stills, animations and videos, checked before a pixel is decoded: a file
of a few hundred bytes can unfold to gigabytes. It follows Pillow's own setting, which
is where people look, so that there is one number to change.
"""

from PIL import Image

N_READER_THREADS = 3
"""Threads that decode at once; all of them together hold three budgets."""

STILL = 24
"""Bytes per pixel that a still takes at most: decoded, RGBA, composed on white, RGB."""


def check_budget(
    width: int, height: int, frames: float = 1, bytes_per_pixel: float = STILL
) -> None:
    """Refuse what takes more memory than a reader may hold.

    `frames` is how many of this size are held at once, not how many a file has: frames
    are handed on one at a time. The limit is `STILL` bytes for each of Pillow's
    ``MAX_IMAGE_PIXELS``, by default 2 GiB per reader: a still of 89 million pixels, or
    8K video. None lifts it.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None:
        return
    need = width * height * frames * bytes_per_pixel
    if need > limit * STILL:
        raise ValueError(
            f"is {width} x {height} pixels and takes about {need / 2**30:.1f} GiB to "
            f"decode; the limit is {limit * STILL / 2**30:.1f} GiB for each of "
            f"{N_READER_THREADS} readers. Shrink it or, if you trust the file, set "
            "PIL.Image.MAX_IMAGE_PIXELS = None, or drop the row."
        )


def most_pixels(bytes_per_pixel: float) -> int | None:
    """Pixels of the largest frame that the budget has room for; None: no limit."""
    limit = Image.MAX_IMAGE_PIXELS
    return None if limit is None else int(limit * STILL / bytes_per_pixel)
