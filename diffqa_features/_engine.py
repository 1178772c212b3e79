"""Rows in, matrix out: order, batches, store, progress, bad rows and processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from diffqa_features._media import Media, Row, open_media, pixel_key
from diffqa_features._request import Request
from diffqa_features._rows import keep, share_rows
from diffqa_features._store import FeatureStore
from diffqa_features._views import view_frames

_READERS = 3


@dataclass(slots=True, eq=False)
class _Frame:
    """One frame at work: its view until it is encoded, and its records so far."""

    key: str
    view: np.ndarray | None
    latent: np.ndarray | None = None
    records: dict[tuple[int, str, str], np.ndarray] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Opened:
    """One row at work."""

    row: Row
    texts: tuple[str, ...]
    frames: list[_Frame]

    @property
    def signature(self) -> tuple:
        return self.texts, tuple(frame.key for frame in self.frames)


def extract(
    rows: Sequence[Row],
    request: Request,
    *,
    store: FeatureStore | None = None,
    n_jobs: int | None = None,
    on_error: str = "raise",
    verbose: int = 0,
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Compute the matrix (N, D) in float32, and (index, reason) of every bad row.

    The order of rows, their neighbours, the batch size and the number of processes do
    not change a row's numbers beyond rounding.
    """
    request.check_columns(rows[0])
    if store is not None:
        store.info()  # a store that cannot be is one error, not a bad row each
    matrices, failed = share_rows(
        rows,
        partial(_take, request=request, store=store, on_error=on_error),
        device=request.device,
        n_jobs=n_jobs,
        verbose=verbose,
    )
    return np.concatenate(matrices), failed


def _take(rows, advance, request, store, on_error):
    return _Run(request, store, on_error, advance).take(rows)


def _frames_in(group):
    return sum(len(opened.frames) for opened in group)


class _Run:
    """One process's way through its rows."""

    def __init__(self, request, store, on_error, advance):
        self.request = request
        self.store = store
        self.on_error = on_error
        self.advance = advance
        self._passes = None

    def take(self, rows):
        self.first_index = {}  # signature -> place of the first such row
        self.copies = []
        self.failed = []
        self.places = {row.index: place for place, row in enumerate(rows)}
        self.matrix = np.full((len(rows), self.request.width), np.nan, np.float32)
        waiting: dict[tuple, list[_Opened]] = {}  # view shape -> rows to compute
        for opened in self._opened(rows):
            signature = opened.signature
            place = self.places[opened.row.index]
            if signature in self.first_index:
                self.copies.append((place, self.first_index[signature]))
                self.advance(1)
                continue
            self.first_index[signature] = place
            missing = [f for f in opened.frames if self._missing(f, opened.texts)]
            if not missing:
                self._finish(opened)
                continue
            waiting.setdefault(missing[0].view.shape, []).append(opened)
            fullest = max(waiting, key=lambda shape: _frames_in(waiting[shape]))
            held = sum(map(_frames_in, waiting.values()))
            # Pictures of many shapes must not pile up while they wait for company.
            if (
                _frames_in(waiting[fullest]) >= self._frames_per_batch
                or held >= 4 * self._frames_per_batch
            ):
                self._compute(waiting.pop(fullest))
        for group in waiting.values():
            self._compute(group)
        for place, first in self.copies:
            self.matrix[place] = self.matrix[first]
        return self.matrix, self.failed

    # -- reading, in threads, ahead of the model ------------------------------------

    def _opened(self, rows):
        """Yield rows in order while the next ones are read and decoded."""
        ahead = 2 * max(self._frames_per_batch, _READERS)
        upcoming: deque[tuple[Row, Future]] = deque()
        iterator = iter(rows)
        with ThreadPoolExecutor(_READERS, "diffqa-read") as readers:
            try:
                while True:
                    while len(upcoming) < ahead:
                        row = next(iterator, None)
                        if row is None:
                            break
                        upcoming.append((row, readers.submit(self._open, row)))
                    if not upcoming:
                        return
                    row, future = upcoming.popleft()
                    try:
                        opened = future.result()
                    except (ValueError, OSError) as error:
                        if self.on_error == "raise":
                            raise
                        self.failed.append((row.index, str(error)))
                        self.advance(1)
                        continue
                    yield opened
            finally:
                readers.shutdown(cancel_futures=True)

    def _open(self, row):
        texts = self.request.texts(row)
        media = open_media(row)
        store = self.store  # the main thread may give it up meanwhile
        if media.is_still and store is not None:
            # What is stored is not decoded again.
            frame = _Frame(media.key, None)
            self._recall(store, frame, texts)
            if not self._missing(frame, texts):
                return _Opened(row, texts, [frame])
            frame.view = self._views(media)[0]
            return _Opened(row, texts, [frame])
        views = self._views(media)
        keys = [media.key]
        if not media.is_still:
            keys = [pixel_key(f) for f in media.frames(self.request.max_frames)]
        frames = [_Frame(k, v) for k, v in zip(keys, views, strict=True)]
        if store is not None:
            for frame in frames:
                self._recall(store, frame, texts)
        return _Opened(row, texts, frames)

    def _views(self, media: Media):
        request = self.request
        frames = media.frames(request.max_frames)
        return view_frames(frames, request.view, request.image_size, request.multiple)

    def _recall(self, store, frame, texts):
        keys = {
            self.request.record_key(frame.key, *cell): cell
            for cell in self._cells(texts)
        }
        latent_key = self.request.latent_key(frame.key)
        found = store.get(list(keys))
        frame.records = {keys[key]: value for key, value in found.items()}
        if len(found) < len(keys):
            frame.latent = store.get([latent_key]).get(latent_key)

    # -- computing -------------------------------------------------------------------

    def _cells(self, texts):
        request = self.request
        return [
            (t, text, kind)
            for t in request.timesteps
            for text in dict.fromkeys(texts)
            for kind in request.recipe.kinds
        ]

    def _missing(self, frame, texts):
        return [cell for cell in self._cells(texts) if cell not in frame.records]

    @property
    def _frames_per_batch(self):
        """Frames that are taken together: enough for full UNet batches."""
        return 2 * (self.request.batch_size or 8)

    @property
    def passes(self):
        if self._passes is None:
            from diffqa_features._passes import Passes

            request = self.request
            self._passes = Passes(
                request.backbone,
                request.device,
                request.dtype,
                request.seed,
                request.batch_size,
            )
        return self._passes

    def _compute(self, group):
        frames = self._unique_frames(group)
        blank = [frame for frame, _ in frames if frame.latent is None]
        if blank:
            latents = self.passes.latents([frame.view for frame in blank])
            for frame, latent in zip(blank, latents, strict=True):
                frame.latent = latent
            self._keep({self.request.latent_key(f.key): f.latent for f in blank})
        # Passes that lack the same kinds at the same timestep go together.
        wanted: dict[tuple, list[tuple[_Frame, str]]] = {}
        for frame, texts in frames:
            kinds_of: dict[tuple, list[str]] = {}
            for t, text, kind in self._missing(frame, texts):
                kinds_of.setdefault((t, text), []).append(kind)
            for (t, text), kinds in kinds_of.items():
                wanted.setdefault((t, tuple(kinds)), []).append((frame, text))
        for (t, kinds), pairs in wanted.items():
            rows = self.passes.observe(
                self.request.recipe,
                kinds,
                t,
                [frame.latent for frame, _ in pairs],
                [text for _, text in pairs],
            )
            entries = {}
            for (frame, text), row in zip(pairs, rows, strict=True):
                for kind, values in row.items():
                    frame.records[t, text, kind] = values
                    key = self.request.record_key(frame.key, t, text, kind)
                    entries[key] = values
            self._keep(entries)
        for opened in group:
            self._finish(opened)

    def _unique_frames(self, group):
        """Frames of a group with their texts; equal frames share one entry."""
        unique: dict[str, tuple[_Frame, dict]] = {}
        for opened in group:
            for index, frame in enumerate(opened.frames):
                if not self._missing(frame, opened.texts):
                    continue
                known, texts = unique.setdefault(frame.key, (frame, {}))
                opened.frames[index] = known
                texts.update(dict.fromkeys(opened.texts))
        return [(frame, tuple(texts)) for frame, texts in unique.values()]

    def _keep(self, entries):
        self.store = keep(self.store, entries)

    def _finish(self, opened):
        request = self.request
        table = np.stack(
            [
                request.layout.assemble(
                    request.recipe,
                    {
                        (t, k, kind): frame.records[t, text, kind]
                        for t in request.timesteps
                        for k, text in enumerate(opened.texts)
                        for kind in request.recipe.kinds
                    },
                )
                for frame in opened.frames
            ]
        )  # (T, D)
        pool = {"mean": np.mean, "std": np.std, "max": np.max, "min": np.min}
        row = np.concatenate([pool[s](table, axis=0) for s in request.frame_statistics])
        self.matrix[self.places[opened.row.index]] = row
        opened.frames.clear()
        self.advance(1)
