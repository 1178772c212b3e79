"""Rows in, the two views of their frames out; decodes only what the store lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffqa_features._engine.parallel import read_each
from diffqa_features._media.rows import Row, open_media
from diffqa_features._media.views import view_frames
from diffqa_features._store.store import FeatureStore
from diffqa_features._utils.hashing import make_key, make_seed

_AHEAD = 4  # rows; of each all views of all frames wait in memory


@dataclass(frozen=True)
class ViewSpec:
    """What determines the pixels seen of a row, besides its content."""

    views: tuple[str, ...]
    image_size: int
    crop_size: int
    n_crops: int
    seed: int
    mamba_size: int | None
    changes: bool  # between frames are wanted, and for Mamba whole crops
    frame_rate: float
    max_frames: int | None
    burst_length: int
    reader: str
    facts: tuple  # that features depend on beside what is seen

    def copies(self, view: str) -> int:
        return self.n_crops if view == "crop" else 1

    def seen(self, view: str, copy: int) -> tuple:
        """A view as text; crops of two sizes have the same relative position."""
        if view == "resize":
            return view, self.image_size
        return view, self.crop_size, self.seed, copy

    def place(self, content: str, copy: int) -> tuple[float, float]:
        """Position of a crop, down and across; the same in all frames of a clip.

        A crop that moved from frame to frame would hide what changes in time.
        """
        words = repr((self.seed, content, copy))
        return tuple(np.random.default_rng(make_seed(words)).random(2))


@dataclass
class OpenedRow:
    """A row: its sampled frames, and a key and a value for each (view, copy, frame)."""

    row: Row
    numbers: np.ndarray  # (T,) int, places of the frames in the medium
    times: np.ndarray | None  # (T,) seconds
    follows: np.ndarray  # (T,) bool, whether the frame before is its predecessor
    features: dict[tuple[str, int, int], str]
    frames: dict[tuple[str, int, int], str]
    values: dict[str, np.ndarray] = field(default_factory=dict)  # what is known
    pixels: dict[str, np.ndarray] = field(default_factory=dict)  # to get features of
    new: list[str] = field(default_factory=list)  # keys of `values` to store


def open_rows(
    rows: Sequence[Row],
    spec: ViewSpec,
    store: FeatureStore | None,
    failed: list[tuple[int, str]] | None = None,
) -> Iterator[OpenedRow]:
    """Yield rows in order while the next ones are read.

    An unreadable row is an error, or an entry (index, reason) in `failed`.
    """

    def read(row):
        return _open(row, spec, store)

    return read_each(rows, read, "look", failed=failed, depth=_AHEAD)


def _open(row, spec, store):
    media = open_media(row, spec.reader)
    numbers = media.choose(spec.frame_rate, spec.max_frames, spec.burst_length)
    times = media.times()
    parts = [
        (view, copy, int(number))
        for view in spec.views
        for copy in range(spec.copies(view))
        for number in numbers
    ]
    opened = OpenedRow(
        row,
        numbers,
        None if times is None else times[numbers],
        _follows(numbers, spec.burst_length),
        {part: _feature_key(spec, media.key, part) for part in parts},
        {part: _frame_key(spec, media.key, part) for part in parts}
        if spec.mamba_size
        else {},
    )
    keys = [*opened.features.values(), *opened.frames.values()]
    if store is not None:
        opened.values = store.get(keys)
    if len(opened.values) < len(set(keys)):
        _look(media, spec, opened)
    return opened


def _follows(numbers, burst_length):
    """All but the first frame, or but the first of every burst."""
    steps = np.diff(numbers, prepend=-2)
    steps[0] = 0
    return steps == 1 if burst_length > 1 else steps > 0


def _look(media, spec, opened):
    """Decode frames with missing features, and crop their views."""
    missing = {
        number
        for parts in (opened.features, opened.frames)
        for (_, _, number), key in parts.items()
        if key not in opened.values
    }
    numbers = sorted(missing)
    for number, pixels in zip(numbers, media.read(numbers), strict=True):
        for view in spec.views:
            for copy in range(spec.copies(view)):
                part = view, copy, number
                seen = _see(pixels[None], spec, view, media.key, copy)
                if opened.features[part] not in opened.values:
                    opened.pixels[opened.features[part]] = seen[0]
                key = opened.frames.get(part)
                if key is not None and key not in opened.values:
                    opened.values[key] = _small(pixels, seen, spec, view)
                    opened.new.append(key)


def _see(pixels, spec, view, content, copy):
    if view == "resize":
        return view_frames(pixels, "stretch", spec.image_size, 1)
    place = spec.place(content, copy)
    return view_frames(pixels, "crop", spec.crop_size, 1, place)


def _small(pixels, seen, spec, view):
    """Mamba's input: a downscaled frame or crop, or the centre of a crop."""
    if view == "resize":
        return view_frames(pixels[None], "stretch", spec.mamba_size, 1)[0]
    if spec.changes:
        return view_frames(seen, "stretch", spec.mamba_size, 1)[0]
    return view_frames(seen, "crop", spec.mamba_size, 1)[0]


def _feature_key(spec, content, part):
    view, copy, number = part
    return make_key("diffvqa", spec.facts, content, number, spec.seen(view, copy))


def _frame_key(spec, content, part):
    view, copy, number = part
    seen = view
    if view == "crop":
        # The middle has the keys that it had before there was a choice.
        whole = ("whole",) if spec.changes else ()
        seen = (*spec.seen(view, copy), *whole)
    return make_key("diffvqa frame", spec.mamba_size, content, number, seen)
