"""Rows in, views and latents of N pictures out, kept on disk while a method trains."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from diffqa_features._engine.latents import Encoded
from diffqa_features._engine.parallel import read_each
from diffqa_features._media.rows import Row, blame, open_media
from diffqa_features._media.views import cut_tiles, stitch_maps, view_frames

_ROWS = 64  # encoded at a time; more are never in memory


def read_pictures(
    rows: Sequence[Row],
    view: str,
    size: int,
    verbose: int = 0,
    failed: list[tuple[int, str]] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield content key and view, uint8 (size, size, 3), of each row in order.

    A row that is a clip or cannot be read is an error that names it, or, with a list
    `failed`, an entry (index, reason) there.
    """

    def read(row):
        return _read(row, view, size)

    return read_each(rows, read, "read", verbose, failed=failed)


def whole_maps(
    rows: Sequence[Row],
    size: int,
    maps_of: Callable[[list[np.ndarray]], np.ndarray],
    verbose: int = 0,
    failed: list[tuple[int, str]] | None = None,
) -> Iterator[np.ndarray]:
    """Yield one map (C, h, w), float32, of each whole picture in order.

    Tiles of `size` unscaled pixels cover it, and `maps_of` turns a list of them into
    maps (n, C, h, w). Bad rows are those of `read_pictures`.
    """

    def read(row):
        _, pixels = _open_still(row)
        with blame(row):
            return cut_tiles(pixels, size)

    def stitch(several):
        maps = maps_of([tile for tiles, _ in several for tile in tiles])
        start = 0
        for tiles, windows in several:
            own, start = maps[start : start + len(tiles)], start + len(tiles)
            yield stitch_maps(own, windows, own.shape[2:]).astype(np.float32)

    waiting = []
    for tiles, windows in read_each(rows, read, "read", verbose, failed=failed):
        waiting.append((tiles, windows))
        if sum(len(tiles) for tiles, _ in waiting) >= _ROWS:
            yield from stitch(waiting)
            waiting = []
    if waiting:
        yield from stitch(waiting)


def encode_pictures(
    rows: Sequence[Row], encode: Callable
) -> Iterator[list[tuple[str, np.ndarray, np.ndarray]]]:
    """Yield key, latents and view of each row, in batches.

    `encode` maps rows and a callback to a list of :class:`Encoded`, see
    :func:`encode_rows`.
    """
    for start in range(0, len(rows), _ROWS):
        views: list[np.ndarray] = []
        encoded: list[Encoded] = encode(rows[start : start + _ROWS], views.extend)
        yield [
            (row.keys[0], row.latents[0], view)
            for row, view in zip(encoded, views, strict=True)
        ]


def scratch(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array on disk that is deleted with its last reference.

    Training reads it in random order for hours; the system caches what fits into
    memory.
    """
    with tempfile.TemporaryFile(prefix="diffqa-") as file:
        return np.memmap(file, dtype, "w+", shape=shape)


class Pictures:
    """Latents (C, h, w) and views (H, W, 3) of pictures, by number, on disk.

    Every epoch reads them again. Recomputing would cost a VAE pass per latent and
    decoding per view; both for ten thousand pictures at 512 pixels take 8.5 GB.

    Parameters
    ----------
    count : int
        Number of pictures to be added.

    Attributes
    ----------
    keys : list of str
        Content keys of the pictures.
    """

    def __init__(self, count: int):
        self.keys: list[str] = []
        self._count = count
        self._larger, self._n_larger = None, 0

    def add(self, key: str, latents: np.ndarray, view: np.ndarray) -> None:
        """Add one picture."""
        if not self.keys:
            self._latents = scratch((self._count, *latents.shape), latents.dtype)
            self._views = scratch((self._count, *view.shape), view.dtype)
        number = len(self.keys)
        self._latents[number], self._views[number] = latents, view
        self.keys.append(key)

    def add_larger(self, view: np.ndarray) -> None:
        """Add the larger view of the next picture, to crop from."""
        if self._larger is None:
            self._larger = scratch((self._count, *view.shape), view.dtype)
        self._larger[self._n_larger] = view
        self._n_larger += 1

    def read_largest(self, numbers: Sequence[int]) -> np.ndarray:
        """Larger views if there are any, else the views: uint8 (n, H, W, 3)."""
        return np.array(
            (self._views if self._larger is None else self._larger)[numbers]
        )

    def read(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Latents float32 (n, C, h, w) and views uint8 (n, H, W, 3)."""
        return np.array(self._latents[numbers]), np.array(self._views[numbers])


def _read(row, view, size):
    key, pixels = _open_still(row)
    return key, view_frames(pixels[None], view, size, 1)[0]


def _open_still(row):
    media = open_media(row)
    media.check_still()
    (pixels,) = media.frames()
    return media.key, pixels
