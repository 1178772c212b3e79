"""Rows in, the features of their clips out: batches across rows, store, bad rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from diffqa_features._engine.parallel import map_rows, put_or_disable, work_ahead
from diffqa_features._media.rows import Row, open_media
from diffqa_features._store.store import FeatureStore
from diffqa_features._utils.hashing import make_key, pack_keys, unpack_keys
from diffqa_features.motion._clips import LENGTH, RULE, read_clips
from diffqa_features.motion._weights import WeightsInfo


@dataclass(frozen=True)
class MotionRequest:
    """Everything that determines the values of a call."""

    weights: WeightsInfo
    identity: str
    size: int
    channels: tuple[int, int]
    device: str | None
    dtype: str
    batch_size: int | None
    reader: str

    def clip_key(self, clip: np.ndarray) -> str:
        """Store key of a clip's features, from its frames as the network sees them."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(np.ascontiguousarray(clip))
        words = "motion", digest.hexdigest(), self.size, self.identity
        return make_key(*words, self.dtype)

    def list_key(self, media_key: str) -> str:
        """Store key of the list of a medium's clip keys."""
        words = "motion clips", media_key, RULE, LENGTH, self.size
        return make_key(*words, self.identity, self.dtype)


@dataclass(slots=True, eq=False)
class _Watched:
    """A row in progress: the features of its clips so far."""

    row: Row
    keys: list[str] = field(default_factory=list)
    features: list[np.ndarray | None] = field(default_factory=list)
    list_key: str | None = None
    ended: bool = False

    @property
    def complete(self) -> bool:
        return self.ended and all(values is not None for values in self.features)


@dataclass(slots=True, eq=False)
class _Seen:
    """Message of the reading thread about a row: a clip, or (all ``None``) its end."""

    watched: _Watched
    key: str | None = None
    frames: np.ndarray | None = None
    """Of a clip that must be computed."""
    features: np.ndarray | None = None
    """Of a clip that is stored."""
    list_key: str | None = None
    """At the end of a row whose list of clips is not stored yet."""
    first: int | None = None
    """At the end of a row whose content an earlier one has: the index of that row."""
    error: Exception | None = None
    """At the end of a row that cannot be read."""


def extract_motion(
    rows: Sequence[Row],
    request: MotionRequest,
    finish: Callable[[np.ndarray], np.ndarray],
    *,
    store: FeatureStore | None = None,
    n_jobs: int | None = None,
    on_error: str = "raise",
    verbose: int = 0,
) -> tuple[list, list[tuple[int, str]]]:
    """Result of `finish` for each row's clip features, and the reason of every bad row.

    `finish` gets float32 of shape (clips, C slow + C fast), or one clip of NaN for a
    bad row. Rows of equal content are read and computed once.
    """
    if store is not None:
        store.info()  # a store that cannot be is one error, not a bad row each
    process = partial(
        _process_rows, request=request, finish=finish, store=store, on_error=on_error
    )
    parts, failed = map_rows(
        rows, process, device=request.device, n_jobs=n_jobs, verbose=verbose
    )
    results = [None] * len(rows)
    for places, part in parts:
        for place, result in zip(places, part, strict=True):
            results[place] = result
    return results, failed


def _process_rows(rows, advance, request, finish, store, on_error):
    return _Run(request, finish, store, on_error, advance).process(rows)


class _Run:
    """One process's pass over its rows."""

    def __init__(self, request, finish, store, on_error, advance):
        self.request = request
        self.finish = finish
        self.store = store
        self.on_error = on_error
        self.advance = advance
        self.passes = None

    def process(self, rows):
        self.failed = []
        self.refused = {}  # index of a row -> why no numbers could be computed
        self.results = {}
        self.copies = []
        # Clips to compute by key, each with where its features go.
        waiting: dict[str, tuple[np.ndarray, list[tuple[_Watched, int]]]] = {}
        for seen in work_ahead(self._read(rows), depth=2 * self._batch_size):
            watched = seen.watched
            if seen.key is None:
                self._end(watched, seen)
                continue
            watched.keys.append(seen.key)
            watched.features.append(seen.features)
            if seen.features is None:
                _, places = waiting.setdefault(seen.key, (seen.frames, []))
                places.append((watched, len(watched.keys) - 1))
                if len(waiting) >= self._batch_size:
                    self._compute(waiting)
                    waiting = {}
        if waiting:
            self._compute(waiting)
        row_of = {row.index: row for row in rows}
        for index, first in self.copies:
            self.results[index] = self.results[first].copy()
            if first in self.refused:
                reason = f"{row_of[index].label}: {self.refused[first]}"
                self.failed.append((index, reason))
        return [self.results[row.index] for row in rows], sorted(self.failed)

    @property
    def _batch_size(self):
        if self.request.batch_size is not None:
            return self.request.batch_size
        from diffqa_features._utils.devices import pick_device

        # On a CPU a larger batch gains little and holds a clip of frames each.
        if pick_device(self.request.device).type == "cpu":
            return 4 if self.request.weights.kind == "tiny" else 1
        return 16

    # -- reading, in a thread, ahead of the network ---------------------------------

    def _read(self, rows) -> Iterator[_Seen]:
        """Yield the clips of each row and then its end; modifies no shared state."""
        read = {}  # list key -> index of the first row of that content
        for row in rows:
            watched = _Watched(row)
            try:
                media = open_media(row, self.request.reader)
                list_key = self.request.list_key(media.key)
                if list_key in read:
                    yield _Seen(watched, first=read[list_key])
                    continue
                stored = self._stored_clips(list_key)
                if stored is None:
                    for frames in read_clips(media, self.request.size):
                        key = self.request.clip_key(frames)
                        features = self._stored([key]).get(key)
                        yield _Seen(watched, key, frames, features)
                    yield _Seen(watched, list_key=list_key)
                else:
                    for key, features in stored:
                        yield _Seen(watched, key, features=features)
                    yield _Seen(watched)
                read[list_key] = row.index
            except (ValueError, OSError) as error:
                if self.on_error == "raise":
                    raise
                yield _Seen(watched, error=error)

    def _stored(self, keys):
        store = self.store  # the main thread may give it up meanwhile
        return {} if store is None else store.get(keys)

    def _stored_clips(self, list_key) -> list[tuple[str, np.ndarray]] | None:
        """The features of all clips of a row, without decoding, if all are stored."""
        listed = self._stored([list_key]).get(list_key)
        if listed is None:
            return None
        keys = unpack_keys(listed)
        found = self._stored(keys)
        if any(key not in found for key in keys):
            return None
        return [(key, found[key]) for key in keys]

    # -- computing, in the thread of the caller --------------------------------------

    def _end(self, watched, seen):
        if seen.error is not None:
            self._fail(watched.row, str(seen.error))
            return
        if seen.first is not None:
            self.copies.append((watched.row.index, seen.first))
            self.advance(1)
            return
        watched.ended = True
        watched.list_key = seen.list_key
        if watched.complete:
            self._finish(watched)

    def _compute(self, waiting):
        if self.passes is None:
            from diffqa_features.motion._passes import MotionPasses

            self.passes = MotionPasses(
                self.request.weights,
                self.request.device,
                self.request.dtype,
                self._batch_size,
            )
        computed = self.passes.features([frames for frames, _ in waiting.values()])
        entries = dict(zip(waiting, computed, strict=True))
        rows = {}  # in order, each once
        for key, (_, places) in waiting.items():
            for watched, place in places:
                watched.features[place] = entries[key]
                rows[watched] = None
        finite = {k: v for k, v in entries.items() if np.isfinite(v).all()}
        self.store = put_or_disable(self.store, finite)
        for watched in rows:
            if watched.complete:
                self._finish(watched)

    def _fail(self, row, message):
        self.failed.append((row.index, message))
        nothing = np.full((1, sum(self.request.channels)), np.nan, np.float32)
        self.results[row.index] = self.finish(nothing)
        self.advance(1)

    def _finish(self, watched):
        if not np.isfinite(watched.features).all():
            # The passes took such clips in float32 already.
            problem = (
                f"the motion network {self.request.weights.name!r} gives numbers that "
                "are not finite, also in float32. Its weights are damaged or no "
                "model's; copy or download them again."
            )
            error = watched.row.error(problem)
            if self.on_error == "raise":
                raise error
            self.refused[watched.row.index] = problem
            self._fail(watched.row, str(error))
            return
        if watched.list_key is not None and self.store is not None:
            entry = {watched.list_key: pack_keys(watched.keys)}
            self.store = put_or_disable(self.store, entry)
        self.results[watched.row.index] = self.finish(np.stack(watched.features))
        self.advance(1)
