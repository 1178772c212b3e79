"""Rows in, matrix out: order, batches, store, progress, bad rows and processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from diffqa_features._engine.kinds import Kind
from diffqa_features._engine.latents import (
    keep_latents,
    recall_latent,
    round_latents,
)
from diffqa_features._engine.parallel import (
    map_rows,
    put_or_disable,
    read_ahead,
)
from diffqa_features._engine.request import Request
from diffqa_features._media.budget import reader_threads
from diffqa_features._media.rows import Row, open_media, pixel_key
from diffqa_features._media.views import view_frames
from diffqa_features._store.store import FeatureStore
from diffqa_features._utils.hashing import pack_keys, unpack_keys
from diffqa_features._utils.profiling import timed
from diffqa_features._utils.statistics import all_finite, pool_rows


@dataclass(slots=True, eq=False)
class _Frame:
    """A frame in progress: its view until it is encoded, and its records so far."""

    key: str
    view: np.ndarray | None = None
    latent: np.ndarray | None = None
    records: dict[tuple[int, str, Kind], np.ndarray] = field(default_factory=dict)
    problem: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """What all frames of a batch must share."""
        return self.view.shape if self.latent is None else self.latent.shape


@dataclass(slots=True, eq=False)
class _Opened:
    """A row in progress."""

    row: Row
    texts: tuple[str, ...]
    frames: list[_Frame]
    news: dict[str, np.ndarray] = field(default_factory=dict)  # for the store

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

    A row's values do not depend on the other rows, their order, the batch size or the
    number of processes, beyond rounding.
    """
    request.check_columns(rows[0])
    if store is not None:
        store.info()  # a store that cannot be is one error, not a bad row each
    parts, failed = map_rows(
        rows,
        partial(_process_rows, request=request, store=store, on_error=on_error),
        device=request.device,
        n_jobs=n_jobs,
        verbose=verbose,
    )
    if len(parts) == 1:
        return parts[0][1], failed
    matrix = np.empty((len(rows), request.width), np.float32)
    for places, part in parts:
        matrix[places] = part
    return matrix, failed


def _process_rows(rows, advance, request, store, on_error):
    return _Run(request, store, on_error, advance).process(rows)


def _frames_of(opened):
    return len(opened.frames)


def _frames_in(group):
    return sum(map(_frames_of, group))


class _Run:
    """One process's pass over its rows."""

    def __init__(self, request, store, on_error, advance):
        self.request = request
        self.store = store
        self.on_error = on_error
        self.advance = advance
        self._passes = None

    def process(self, rows):
        self.first_index = {}  # signature -> place of the first such row
        self.copies = []
        self.failed = []
        self.refused = {}  # place -> why no numbers could be computed
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
            self._keep(opened.news)
            missing = [f for f in opened.frames if self._missing(f, opened.texts)]
            if not missing:
                self._finish(opened)
                continue
            shape = missing[0].shape
            waiting.setdefault(shape, []).append(opened)
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
            if first in self.refused:
                self._list(rows[place], self.refused[first])
        return self.matrix, sorted(self.failed)

    # -- reading, in threads, ahead of the model ------------------------------------

    def _opened(self, rows):
        """Yield rows in order while reading and decoding ahead."""
        depth = 2 * max(self._frames_per_batch, reader_threads())
        for row, future in read_ahead(rows, self._open, depth, _frames_of):
            try:
                opened = future.result()
            except (ValueError, OSError) as error:
                if self.on_error == "raise":
                    raise
                self.failed.append((row.index, str(error)))
                self.advance(1)
                continue
            yield opened

    @timed("decode")
    def _open(self, row):
        request = self.request
        texts = request.texts(row)
        media = open_media(row, request.frames.reader)
        store = self.store  # the main thread may give it up meanwhile
        known, list_key = self._listed(store, media)
        frames = {
            key: self._recalled(store, key, texts) for key in dict.fromkeys(known)
        }
        if known and not any(self._blank(f, texts) for f in frames.values()):
            # What is stored is not decoded again.
            return _Opened(row, texts, [frames[key] for key in known])
        keys = []
        spec = request.frames
        for pixels in media.read(spec.choose(media)):
            key = media.key if media.is_still else pixel_key(pixels)
            keys.append(key)
            if key not in frames:
                frames[key] = self._recalled(store, key, texts)
            frame = frames[key]
            if frame.view is None and self._blank(frame, texts):
                # At once, so that no more than one frame is held at full size.
                frame.view = view_frames(
                    pixels[None], spec.view, spec.image_size, spec.multiple
                )[0]
        news = {} if list_key is None or keys == known else {list_key: pack_keys(keys)}
        return _Opened(row, texts, [frames[key] for key in keys], news)

    def _listed(self, store, media):
        """Keys of the frames known without decoding, and their positions."""
        if store is None or media.is_array:
            return [], None
        if media.is_still:
            return [media.key], None
        list_key = self.request.frames.list_key(media.key)
        found = store.get([list_key]).get(list_key)
        return ([] if found is None else unpack_keys(found)), list_key

    def _recalled(self, store, key, texts):
        frame = _Frame(key)
        if store is not None:
            self._recall(store, frame, texts)
        return frame

    def _blank(self, frame, texts):
        """Whether pixels must be decoded: no latent, and records missing."""
        return frame.latent is None and bool(self._missing(frame, texts))

    def _recall(self, store, frame, texts):
        keys = {
            self.request.record_key(frame.key, *cell): cell
            for cell in self._cells(texts)
        }
        found = store.get(list(keys))
        frame.records = {keys[key]: value for key, value in found.items()}
        if len(found) < len(keys):
            frame.latent = recall_latent(store, self.request.frames, frame.key)

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
        """Number of frames processed together: enough for full UNet batches."""
        return 2 * (self.request.batch_size or 8)

    @property
    def passes(self):
        if self._passes is None:
            from diffqa_features._engine.passes import Passes

            request = self.request
            self._passes = Passes(
                request.backbone,
                request.device,
                request.frames.dtype,
                request.seed,
                request.batch_size,
            )
        return self._passes

    def _compute(self, group):
        frames = self._unique_frames(group)
        blank = [frame for frame, _ in frames if frame.latent is None]
        if blank:
            spec = self.request.frames
            latents = self.passes.latents([frame.view for frame in blank])
            latents = round_latents(latents, spec)
            for frame, latent in zip(blank, latents, strict=True):
                frame.latent, frame.view = latent, None
            new = {frame.key: frame.latent for frame in blank}
            self.store = keep_latents(self.store, spec, new)
        # Passes that lack the same kinds at the same timestep go together.
        wanted: dict[tuple, list[tuple[_Frame, str]]] = {}
        for frame, texts in frames:
            kinds_of: dict[tuple, list[Kind]] = {}
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
                if not all_finite(row.values()):
                    # Neither stored nor given: the passes took it in float32 already.
                    frame.problem = f"timestep {t} gives numbers that are not finite"
                for kind, values in row.items():
                    frame.records[t, text, kind] = values
                    if frame.problem is None:
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
        self.store = put_or_disable(self.store, entries)

    @timed("pool")
    def _finish(self, opened):
        request = self.request
        problem = next((f.problem for f in opened.frames if f.problem), None)
        if problem is not None:
            self._refuse(opened.row, problem)
            opened.frames.clear()
            return
        table = np.stack(
            [
                request.layout.assemble(
                    request.recipe,
                    {
                        (t, k, kind.name): frame.records[t, text, kind]
                        for t in request.timesteps
                        for k, text in enumerate(opened.texts)
                        for kind in request.recipe.kinds
                    },
                )
                for frame in opened.frames
            ]
        )  # (T, D)
        row = pool_rows(table, request.frame_statistics)
        self.matrix[self.places[opened.row.index]] = row
        opened.frames.clear()
        self.advance(1)

    def _refuse(self, row, problem):
        problem = (
            f"{problem}, also in float32, with the backbone {self.request.backbone!r}. "
            "Its weights are damaged or no model's; copy or download them again."
        )
        if self.on_error == "raise":
            raise row.error(problem)
        self._list(row, problem)
        self.refused[self.places[row.index]] = problem
        self.advance(1)

    def _list(self, row, problem):
        self.failed.append((row.index, str(row.error(problem))))
