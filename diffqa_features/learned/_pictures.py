"""Rows in, latents and pixels of N pictures out, kept in a temporary file meanwhile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from diffqa_features._latents import Encoded

_ROWS = 64  # encoded at a time; more are never in memory


class Pictures:
    """Latents (C, h, w) and views (H, W, 3) of pictures, by number, on disk.

    Every epoch reads them again: latents cost a pass of the VAE, views a decoder of
    files; both of ten thousand pictures at 512 pixels are 8.5 GB. A context manager.

    Attributes
    ----------
    keys : list of str
        Content keys of the pictures.
    """

    def __init__(self):
        self.keys: list[str] = []

    def __enter__(self) -> Pictures:
        self._latents, self._views = _Records(), _Records()
        return self

    def __exit__(self, *exception):
        self._latents.close()
        self._views.close()

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, key: str, latents: np.ndarray, view: np.ndarray) -> None:
        """Keep one picture."""
        self.keys.append(key)
        self._latents.append(latents)
        self._views.append(view)

    def take(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Latents float32 (n, C, h, w) and views uint8 (n, H, W, 3)."""
        return self._latents.take(numbers), self._views.take(numbers)


def encode_pictures(
    rows: Sequence, encode: Callable
) -> Iterator[list[tuple[str, np.ndarray, np.ndarray]]]:
    """Key, latents and view of each row, some rows at a time.

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


class _Records:
    """Arrays of one shape in a file without a name, which ends with the process."""

    def __init__(self):
        self._file = tempfile.TemporaryFile(prefix="diffqa-")
        self._like = None

    def append(self, array):
        self._like = array
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(array))

    def take(self, numbers):
        size, parts = self._like.nbytes, []
        for number in numbers:
            self._file.seek(int(number) * size)
            parts.append(np.frombuffer(self._file.read(size), self._like.dtype))
        return np.stack(parts).reshape(len(parts), *self._like.shape)

    def close(self):
        self._file.close()
