"""Rows in, their views out: read ahead in threads, kept on disk for training."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm.auto import tqdm

from diffqa_features._media import Row, open_media
from diffqa_features._views import view_frames

_READERS = 3
_AHEAD = 16  # rows that are read while others are worked on


def read_pictures(
    rows: Sequence[Row], view: str, size: int, verbose: int = 0
) -> Iterator[tuple[str, np.ndarray]]:
    """Content key and view, uint8 (size, size, 3), of each row in order.

    A row that is a clip or cannot be read is an error that names it.
    """
    upcoming, iterator = deque(), iter(rows)
    with (
        tqdm(total=len(rows), unit="row", desc="read", disable=not verbose) as bar,
        ThreadPoolExecutor(_READERS, "diffqa-read") as readers,
    ):
        try:
            while True:
                while len(upcoming) < _AHEAD:
                    row = next(iterator, None)
                    if row is None:
                        break
                    upcoming.append(readers.submit(_read, row, view, size))
                if not upcoming:
                    return
                yield upcoming.popleft().result()
                bar.update(1)
        finally:
            readers.shutdown(cancel_futures=True)


def scratch(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array on disk that is gone with its last reference.

    Training reads it in random order for hours; the system keeps in memory what fits.
    """
    with tempfile.TemporaryFile(prefix="diffqa-") as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def _read(row, view, size):
    media = open_media(row)
    if not media.is_still:
        raise ValueError(
            f"Row{str(row)[3:]}: this is a clip of several frames, and the estimator "
            "takes pictures. Pass single frames."
        )
    (pixels,) = media.frames()
    return media.key, view_frames(pixels[None], view, size, 1)[0]
