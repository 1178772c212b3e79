"""A picture of any size in, tiles of one size at its own resolution out."""

import numpy as np

from diffqa_features._media.views import grid_places

TILE = 128
"""Side of a tile, pixels: that of the pictures the scorer learned from."""

_SMALLEST_TILE = 96

SMALLEST = 32
"""Fewest pixels a side; a shorter side than a tile's is the tile's."""

_WINDOW, _GRID = 64, 8


def cut_tiles(
    pixels: np.ndarray, max_tiles: int | None = None, *, smaller: bool = True
) -> np.ndarray:
    """Tiles (n, h, w, 3) that cover a picture, or `max_tiles` of them, evenly spread.

    Neighbours overlap where a side is no multiple of a tile's. Two of 128 pixels would
    overlap by up to 127, so two may be `smaller`: halves of the side, and at least 96
    pixels.
    """
    sides = [min(TILE, side) for side in pixels.shape[:2]]
    counts = [-(-side // TILE) for side in pixels.shape[:2]]
    if smaller:
        for axis, side in enumerate(pixels.shape[:2]):
            if counts[axis] == 2:
                sides[axis] = max(_SMALLEST_TILE, -(-side // 2))
    places = grid_places(pixels.shape[:2], sides, counts)
    if max_tiles is not None and len(places) > max_tiles:
        # Steps of the golden section meet all rows and columns alike.
        order = np.argsort((np.arange(len(places)) * 0.6180339887498949) % 1)
        places = places[np.sort(order[:max_tiles])]
    return _cut(pixels, places, sides)


def cut_windows(pixels: np.ndarray) -> np.ndarray:
    """8 × 8 windows (64, h, w, 3), row by row, evenly spread."""
    sides = [min(_WINDOW, *pixels.shape[:2])] * 2
    places = grid_places(pixels.shape[:2], sides, (_GRID, _GRID))
    return _cut(pixels, places, sides)


def _cut(pixels, places, sides):
    height, width = sides
    return np.stack([pixels[y : y + height, x : x + width] for y, x in places])
