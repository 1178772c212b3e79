"""The colour profile of a picture in; a function from its pixels to sRGB out."""

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_SAME = 2  # of 255: as far as two makers' sRGB profiles lie apart


@lru_cache(maxsize=64)
def srgb_converter(
    profile: bytes, mode: str
) -> Callable[[Image.Image], Image.Image] | None:
    """PIL image of mode L, RGB or CMYK -> RGB; None if the profile is sRGB.

    Raises ValueError if the profile cannot be used. The intent is relative colorimetric
    with black point compensation: colours within sRGB keep their values, and white
    stays white. The perceptual intent would change them all, by tables that differ
    between profile makers.
    """
    # Rows in several threads share it; its cache of one pixel is not made for that.
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE
    # LittleCMS shortens a chain of steps to tables, which are coarse in the shadows.
    flags |= ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.HIGHRESPRECALC
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space != _SPACES[mode]:
            raise ValueError(f"it is for {space} and the picture is {_SPACES[mode]}")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags,
        )
    except (ImageCms.PyCMSError, OSError, TypeError) as error:
        raise ValueError(str(error) or "it is broken") from error

    def convert(image: Image.Image) -> Image.Image:
        return ImageCms.applyTransform(image, transform)

    if mode == "CMYK":
        return convert
    # sRGB is told by what it does: there are dozens of its profiles, under any name.
    if mode == "L":
        levels = np.arange(256, dtype=np.uint8)
        table = np.asarray(convert(Image.fromarray(levels[None])))[0]
        same = np.abs(table - levels[:, None].astype(int)).max() <= _SAME
        return None if same else lambda image: Image.fromarray(table[np.asarray(image)])
    axis = np.linspace(0, 255, 18).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(18, -1, 3)
    shown = np.asarray(convert(Image.fromarray(grid))).astype(int)
    return None if np.abs(shown - grid).max() <= _SAME else convert
