"""Rows in, matrix out: order, batches, store, progress, bad rows and processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from diffqa_features._engine.parallel import READERS, keep, read_ahead, share_rows
from diffqa_features._engine.request import Request
from diffqa_features._media.rows import Row, open_media, pixel_key
from diffqa_features._media.views import view_frames
from diffqa_features._store.store import FeatureStore
from diffqa_features._utils.hashing import pack_keys, unpack_keys
from diffqa_features._utils.profiling import stage


@dataclass(slots=True, eq=False)
class _Frame:
    """One frame at work: its view until it is encoded, and its records so far."""

    key: str
    view: np.ndarray | None = None
    latent: np.ndarray | None = None
    records: dict[tuple[int, str, str], np.ndarray] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """What frames of one batch have in common."""
        return self.view.shape if self.latent is None else self.latent.shape


@dataclass(slots=True, eq=False)
class _Opened:
    """One row at work."""

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

    The order of rows, their neighbours, the batch size and the number of processes do
    not change a row's numbers beyond rounding.
    """
    request.check_columns(rows[0])
    if store is not None:
        store.info()  # a store that cannot be is one error, not a bad row each
    parts, failed = share_rows(
        rows,
        partial(_take, request=request, store=store, on_error=on_error),
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


def _take(rows, advance, request, store, on_error):
    return _Run(request, store, on_error, advance).take(rows)


def _frames_of(opened):
    return len(opened.frames)


def _frames_in(group):
    return sum(map(_frames_of, group))


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
        return self.matrix, self.failed

    # -- reading, in threads, ahead of the model ------------------------------------

    def _opened(self, rows):
        """Yield rows in order while the next ones are read and decoded."""
        depth = 2 * max(self._frames_per_batch, READERS)
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

    @stage("decode")
    def _open(self, row):
        request = self.request
        texts = request.texts(row)
        media = open_media(row, request.reader)
        store = self.store  # the main thread may give it up meanwhile
        known, list_key = self._listed(store, media)
        frames = {
            key: self._recalled(store, key, texts) for key in dict.fromkeys(known)
        }
        if known and not any(self._blank(f, texts) for f in frames.values()):
            # What is stored is not decoded again.
            return _Opened(row, texts, [frames[key] for key in known])
        keys = []
        for pixels in media.frames(request.frame_rate, request.max_frames):
            key = media.key if media.is_still else pixel_key(pixels)
            keys.append(key)
            if key not in frames:
                frames[key] = self._recalled(store, key, texts)
            frame = frames[key]
            if frame.view is None and self._blank(frame, texts):
                # At once, so that no more than one frame is held at full size.
                frame.view = view_frames(
                    pixels[None], request.view, request.image_size, request.multiple
                )[0]
        news = {} if list_key is None or keys == known else {list_key: pack_keys(keys)}
        return _Opened(row, texts, [frames[key] for key in keys], news)

    def _listed(self, store, media):
        """Keys of the frames that are known without decoding, and where they stand."""
        if store is None or media.is_array:
            return [], None
        if media.is_still:
            return [media.key], None
        list_key = self.request.frames_key(media.key)
        found = store.get([list_key]).get(list_key)
        return ([] if found is None else unpack_keys(found)), list_key

    def _recalled(self, store, key, texts):
        frame = _Frame(key)
        if store is not None:
            self._recall(store, frame, texts)
        return frame

    def _blank(self, frame, texts):
        """Whether the frame itself is needed to go on."""
        return frame.latent is None and bool(self._missing(frame, texts))

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
            from diffqa_features._engine.passes import Passes

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
                frame.latent, frame.view = latent, None
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

    @stage("pool")
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
