"""Rows in, the two views of their frames out: what the store has not is decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from diffqa_features._media.rows import Row, open_media
from diffqa_features._media.views import view_frames
from diffqa_features._store.store import FeatureStore
from diffqa_features._utils.hashing import make_key, make_seed

_READERS = 3
_AHEAD = 4  # rows; of each all views of all frames wait in memory


@dataclass(frozen=True)
class Viewing:
    """What decides which pixels of a row are seen, beside its content."""

    views: tuple[str, ...]
    image_size: int
    crop_size: int
    n_crops: int
    seed: int
    mamba_size: int | None
    frame_rate: float
    max_frames: int | None
    reader: str
    facts: tuple  # that features depend on beside what is seen

    def copies(self, view: str) -> int:
        return self.n_crops if view == "crop" else 1

    def seen(self, view: str, copy: int) -> tuple:
        """A view in words; crops of two sizes lie at the same relative place."""
        if view == "resize":
            return view, self.image_size
        return view, self.crop_size, self.seed, copy

    def place(self, content: str, copy: int) -> tuple[float, float]:
        """Where a crop lies, down and across; the same in all frames of a clip.

        A crop that moved from frame to frame would hide what changes in time.
        """
        words = repr((self.seed, content, copy))
        return tuple(np.random.default_rng(make_seed(words)).random(2))


@dataclass
class Viewed:
    """A row: its chosen frames, and for each (view, copy, frame) a key and a value."""

    row: Row
    numbers: np.ndarray  # (T,) int, places of the frames in the medium
    times: np.ndarray | None  # (T,) seconds
    features: dict[tuple[str, int, int], str]
    frames: dict[tuple[str, int, int], str]
    values: dict[str, np.ndarray] = field(default_factory=dict)  # what is known
    pixels: dict[str, np.ndarray] = field(default_factory=dict)  # to get features of
    new: list[str] = field(default_factory=list)  # keys of `values` to store


def open_rows(
    rows: Sequence[Row], viewing: Viewing, store: FeatureStore | None
) -> Iterator[Viewed]:
    """Open rows in order, some ahead; a bad one is an error that names it."""
    upcoming, iterator = deque(), iter(rows)
    with ThreadPoolExecutor(_READERS, "diffqa-read") as readers:
        try:
            while True:
                while len(upcoming) < _AHEAD:
                    row = next(iterator, None)
                    if row is None:
                        break
                    upcoming.append(readers.submit(_open, row, viewing, store))
                if not upcoming:
                    return
                yield upcoming.popleft().result()
        finally:
            readers.shutdown(cancel_futures=True)


def _open(row, viewing, store):
    media = open_media(row, viewing.reader)
    numbers = media.choose(viewing.frame_rate, viewing.max_frames)
    times = media.times()
    parts = [
        (view, copy, int(number))
        for view in viewing.views
        for copy in range(viewing.copies(view))
        for number in numbers
    ]
    viewed = Viewed(
        row,
        numbers,
        None if times is None else times[numbers],
        {part: _feature_key(viewing, media.key, part) for part in parts},
        {part: _frame_key(viewing, media.key, part) for part in parts}
        if viewing.mamba_size
        else {},
    )
    keys = [*viewed.features.values(), *viewed.frames.values()]
    if store is not None:
        viewed.values = store.get(keys)
    if len(viewed.values) < len(set(keys)):
        _look(media, viewing, viewed)
    return viewed


def _look(media, viewing, viewed):
    """Decode the frames of which something is not known, and cut their views."""
    missing = {
        number
        for parts in (viewed.features, viewed.frames)
        for (_, _, number), key in parts.items()
        if key not in viewed.values
    }
    numbers = sorted(missing)
    for number, pixels in zip(numbers, media.read(numbers), strict=True):
        for view in viewing.views:
            for copy in range(viewing.copies(view)):
                part = view, copy, number
                seen = _see(pixels[None], viewing, view, media.key, copy)
                if viewed.features[part] not in viewed.values:
                    viewed.pixels[viewed.features[part]] = seen[0]
                key = viewed.frames.get(part)
                if key is not None and key not in viewed.values:
                    viewed.values[key] = _small(pixels, seen, viewing, view)
                    viewed.new.append(key)


def _see(pixels, viewing, view, content, copy):
    if view == "resize":
        return view_frames(pixels, "stretch", viewing.image_size, 1)
    place = viewing.place(content, copy)
    return view_frames(pixels, "crop", viewing.crop_size, 1, place)


def _small(pixels, seen, viewing, view):
    """What Mamba sees: a frame reduced, or the middle of a crop as it is."""
    if view == "resize":
        return view_frames(pixels[None], "stretch", viewing.mamba_size, 1)[0]
    return view_frames(seen, "crop", viewing.mamba_size, 1)[0]


def _feature_key(viewing, content, part):
    view, copy, number = part
    return make_key(
        "diffvqa 1", viewing.facts, content, number, viewing.seen(view, copy)
    )


def _frame_key(viewing, content, part):
    view, copy, number = part
    seen = viewing.seen(view, copy) if view == "crop" else view
    return make_key("diffvqa frame 1", viewing.mamba_size, content, number, seen)
