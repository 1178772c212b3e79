"""Frames of any size in; frames of the backbone's input size, or tiles, out."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt

from diffqa_features._media.budget import check_budget

VIEWS = ("auto", "stretch", "fit", "crop", "tiles")
LARGE = 4
"""From so many times the pixels of the backbone's input on, "auto" shows tiles.

At 5.3 times they were better than a stretched picture by two targets, at 3 times by one
of the two (docs/features.rst).
"""
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def view_frames(
    frames: np.ndarray,
    view: str,
    size: int,
    multiple: int,
    place: tuple[float, float] = (0.5, 0.5),
) -> np.ndarray:
    """Resize uint8 frames (T, H, W, 3) to uint8 frames (T, h, w, 3).

    ``stretch``: ``size`` x ``size``, ignoring the aspect ratio (as in the papers).
    ``fit``: the longer side becomes ``size``, the aspect ratio is kept up to rounding
    both sides to a ``multiple``; nothing is padded. ``crop``: ``size`` x ``size``
    unscaled pixels; only a picture whose shorter side is below ``size`` is upscaled
    first. ``place`` is the position, down and across, from 0 (first pixels) to 1
    (last).

    Resampling is Pillow's bicubic, which antialiases when downscaling.
    """
    height, width = frames.shape[1:3]
    if view == "stretch":
        return _resize(frames, size, size)
    if view == "fit":
        scale = size / max(height, width)
        h, w = (
            max(multiple, round(side * scale / multiple) * multiple)
            for side in (height, width)
        )
        return _resize(frames, h, w)
    tall, wide = _enlarged(height, width, size)
    down, across = place
    top, left = int((tall - size) * down), int((wide - size) * across)
    if (tall, wide) == (height, width):
        return np.ascontiguousarray(frames[:, top : top + size, left : left + size])
    # Of what is enlarged only this part is made.
    x, y = width / wide, height / tall
    box = left * x, top * y, (left + size) * x, (top + size) * y
    return _resize(frames, size, size, box)


def view_for(view: str, height: int, width: int, size: int) -> str:
    """What ``"auto"`` stands for with a frame of this size; other views themselves."""
    if view != "auto":
        return view
    # A strip that is narrower than a tile would have to be enlarged.
    large = min(height, width) >= size and height * width >= LARGE * size**2
    return "tiles" if large else "stretch"


def cut_tiles(
    frame: np.ndarray, size: int, n_tiles: int | None = None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Squares of `size` unscaled pixels of a frame (H, W, 3), and where they lie.

    As many as cover the frame, row by row; neighbours overlap where a side is no
    multiple of `size`. If that takes more than `n_tiles`, exactly so many of them,
    evenly spread. Only a frame whose shorter side is below `size` is upscaled first.

    Returns
    -------
    tiles : list of uint8 arrays (size, size, 3)
    windows : float32 array (n, 4)
        Top, left, height and width of each, as shares of the frame's sides.
    """
    height, width = _enlarged(*frame.shape[:2], size)
    (frame,) = _resize(frame[None], height, width)
    rows, columns = -(-height // size), -(-width // size)
    if n_tiles is None or n_tiles >= rows * columns:
        places = grid_places((height, width), (size, size), (rows, columns))
    else:
        places = _spread_places((height, width), size, (rows, columns), n_tiles)
    tiles = [
        np.ascontiguousarray(frame[top : top + size, left : left + size])
        for top, left in places
    ]
    corners = np.column_stack([places, np.full_like(places, size)])
    return tiles, (corners / (height, width, height, width)).astype(np.float32)


def stitch_maps(
    maps: np.ndarray, windows: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Maps (n, C, h, w) of tiles -> one map (C, *size) of the whole frame, float64.

    `windows` are those of :func:`cut_tiles`. A cell is the mean of the tiles' cells
    that lie on it, by area; one without any has the value of the nearest with some.
    """
    height, width = maps.shape[-2:]
    total, weight = np.zeros((maps.shape[1], *size)), np.zeros(size)
    for own, (top, left, tall, wide) in zip(maps, windows, strict=True):
        down = _shares(size[0], top, tall, height)
        across = _shares(size[1], left, wide, width)
        total += down @ own @ across.T
        weight += np.outer(down.sum(1), across.sum(1))
    # Windows are float32: what only rounding puts on a cell is not on it.
    seen = weight > 1e-4
    rows, columns = distance_transform_edt(
        ~seen, return_distances=False, return_indices=True
    )
    return (total / np.where(seen, weight, 1))[:, rows, columns]


def _shares(cells, start, length, parts):
    """How much of each cell of an axis the parts of a stretch of it cover."""
    edges = (start + length * np.arange(parts + 1) / parts) * cells
    at = np.arange(cells)[:, None]
    overlap = np.minimum(at + 1, edges[1:]) - np.maximum(at, edges[:-1])
    return np.maximum(overlap, 0)  # (cells, parts)


def grid_places(
    lengths: tuple[int, int], sides: tuple[int, int], counts: tuple[int, int]
) -> np.ndarray:
    """Top left corners (n, 2) of evenly spread windows, row by row, edge to edge."""
    each = [
        np.rint(np.linspace(0, length - side, count)).astype(int)
        for length, side, count in zip(lengths, sides, counts, strict=True)
    ]
    return np.stack(np.meshgrid(*each, indexing="ij"), -1).reshape(-1, 2)


def _spread_places(lengths, size, counts, n_tiles):
    """Corners of the `n_tiles` tiles in the middles of as many parts of a picture.

    The parts are bands of about as many parts each, as the picture's shape suggests.
    """
    rows, columns = counts
    bands = round((n_tiles * rows / columns) ** 0.5)
    bands = min(max(bands, -(-n_tiles // columns), 1), rows, n_tiles)
    ends = np.rint(np.linspace(0, n_tiles, bands + 1)).astype(int)
    middles = [
        ((band + 0.5) / bands, (part + 0.5) / parts)
        for band, parts in enumerate(np.diff(ends))
        for part in range(parts)
    ]
    corners = np.array(middles) * lengths - size / 2
    return np.clip(corners, 0, np.array(lengths) - size).astype(int)


def _enlarged(height: int, width: int, size: int) -> tuple[int, int]:
    """Sides of which the shorter is at least `size`; larger ones as they are."""
    short = min(height, width)
    if short >= size:
        return height, width
    return tuple(round(side * size / short) for side in (height, width))


def _resize(
    frames: np.ndarray, height: int, width: int, box: tuple[float, ...] | None = None
) -> np.ndarray:
    if frames.shape[1:3] == (height, width):
        return frames
    try:
        check_budget(width, height)
    except ValueError as error:
        raise ValueError(f"enlarged it {error}") from error
    bicubic = Image.Resampling.BICUBIC
    return np.stack(
        [
            np.asarray(Image.fromarray(frame).resize((width, height), bicubic, box))
            for frame in frames
        ]
    )


def to_pixels(frames: np.ndarray, normalization: str = "vae"):
    """Turn uint8 frames (N, h, w, 3) into a float32 tensor (N, 3, h, w).

    ``vae``: the range [-1, 1] that autoencoders are trained on. ``clip``: CLIP's mean
    and standard deviation per channel, the VAE input of the released GenzIQA. ``unit``:
    the range [0, 1], that of the released DP-IQA.
    """
    import torch  # views are also made in decoding threads that never need it

    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if normalization == "vae":
        return pixels.float() / 127.5 - 1
    if normalization == "unit":
        return pixels.float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (_CLIP_MEAN, _CLIP_STD))
    return (pixels.float() / 255 - mean) / std
