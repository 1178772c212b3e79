"""A frame in, what the backbone is shown of it out: views, tiles and their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from diffqa_features._engine.kinds import Kind
from diffqa_features._engine.request import FrameSpec
from diffqa_features._media.rows import pixel_key
from diffqa_features._media.views import cut_tiles, view_for, view_frames
from diffqa_features._utils.hashing import pack_keys, unpack_keys

Window = tuple[float, ...]
"""Top, left, height and width of a tile, as shares of the frame's sides."""

WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(slots=True, eq=False)
class View:
    """What the backbone is shown: pixels until they are encoded, and records so far."""

    spec: FrameSpec
    key: str
    """Of the frame or, of a tile, of its own pixels."""
    pixels: np.ndarray | None = None
    latent: np.ndarray | None = None
    records: dict[tuple[int, str, Kind], np.ndarray] = field(default_factory=dict)
    problem: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """What all views of a batch must share."""
        return self.pixels.shape if self.latent is None else self.latent.shape

    @property
    def name(self) -> tuple[str, str]:
        """Tells views of one request apart."""
        return self.spec.view, self.key


@dataclass(slots=True, eq=False)
class Shown:
    """One use of a view: by which frame of a row and, of a tile, where it lies."""

    frame: int
    view: View
    window: Window


@dataclass(frozen=True, slots=True)
class Part:
    """One view of a frame: its key, place, and a call that makes its pixels."""

    spec: FrameSpec
    """With the view that it is: never "auto"."""
    key: str
    window: Window
    show: Callable[[], np.ndarray]


def cut_views(spec: FrameSpec, frame_key: str, pixels: np.ndarray) -> list[Part]:
    """The tiles of a frame (H, W, 3), or its one view."""
    spec = spec.as_view(view_for(spec.view, *pixels.shape[:2], spec.image_size))
    if spec.view == "tiles":
        tiles, windows = cut_tiles(pixels, spec.image_size, spec.n_tiles)
        return [
            Part(spec, pixel_key(tile), tuple(window), partial(np.asarray, tile))
            for tile, window in zip(tiles, windows.tolist(), strict=True)
        ]

    def show():
        return view_frames(pixels[None], spec.view, spec.image_size, spec.multiple)[0]

    return [Part(spec, frame_key, WHOLE, show)]


def pack_parts(parts: Sequence[Part]) -> np.ndarray:
    """Keys and places of a frame's parts as a store entry: uint8 (n, bytes)."""
    windows = np.array([part.window for part in parts], "<f4")
    return np.hstack([pack_keys([part.key for part in parts]), windows.view(np.uint8)])


def unpack_parts(
    spec: FrameSpec, entry: np.ndarray
) -> Iterator[tuple[FrameSpec, str, Window]]:
    """Inverse of `pack_parts`: specification, key and place of each part."""
    windows = np.ascontiguousarray(entry[:, -16:]).view("<f4")
    for key, window in zip(
        unpack_keys(entry[:, :-16]), map(tuple, windows.tolist()), strict=True
    ):
        whole = spec.view == "auto" and window == WHOLE
        yield spec.as_view("stretch" if whole else "tiles"), key, window
