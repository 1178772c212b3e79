"""Rows in, matrix out: order, batches, store, progress, bad rows and processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter

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
from diffqa_features._engine.views import (
    WHOLE,
    Shown,
    View,
    cut_views,
    pack_parts,
    unpack_parts,
)
from diffqa_features._media.budget import reader_threads
from diffqa_features._media.rows import Row, blame, open_media, pixel_key
from diffqa_features._store.store import FeatureStore
from diffqa_features._utils.hashing import pack_keys, unpack_keys
from diffqa_features._utils.profiling import timed
from diffqa_features._utils.statistics import all_finite, pool_rows


@dataclass(slots=True, eq=False)
class _Opened:
    """A row in progress."""

    row: Row
    texts: tuple[str, ...]
    shown: list[Shown]
    """Frame by frame, and of a frame in the order of the request's views."""
    news: dict[str, np.ndarray] = field(default_factory=dict)  # for the store

    @property
    def signature(self) -> tuple:
        return self.texts, tuple((use.view.name, use.window) for use in self.shown)


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


def _views_of(opened):
    return len(opened.shown)


def _views_in(group):
    return sum(map(_views_of, group))


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
            views = (use.view for use in opened.shown)
            first = next((v for v in views if self._missing(v, opened.texts)), None)
            if first is None:
                self._finish(opened)
                continue
            waiting.setdefault(first.shape, []).append(opened)
            fullest = max(waiting, key=lambda shape: _views_in(waiting[shape]))
            held = sum(map(_views_in, waiting.values()))
            # Pictures of many shapes must not pile up while they wait for company.
            if (
                _views_in(waiting[fullest]) >= self._views_per_batch
                or held >= 4 * self._views_per_batch
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
        depth = 2 * max(self._views_per_batch, reader_threads())
        for row, future in read_ahead(rows, self._open, depth, _views_of):
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
        views = {}  # equal ones of a row are one

        def view_of(spec, key):
            view = View(spec, key)
            if view.name not in views:
                if store is not None:
                    self._recall(store, view, texts)
                views[view.name] = view
            return views[view.name]

        known, list_key = self._listed(store, media)
        shown = self._shown_before(store, known, view_of)
        if shown and not any(self._blank(use.view, texts) for use in shown):
            # What is stored is not decoded again.
            return _Opened(row, texts, shown)
        keys, news, of_frame = [], {}, {}
        for pixels in media.read(request.frames.choose(media)):
            key = media.key if media.is_still else pixel_key(pixels)
            keys.append(key)
            if key in of_frame:
                continue
            # At once, so that no more than one frame is held at full size.
            of_frame[key] = uses = []
            for spec in request.views:
                with blame(row):
                    parts = cut_views(spec, key, pixels)
                for part in parts:
                    view = view_of(part.spec, part.key)
                    if view.pixels is None and self._blank(view, texts):
                        view.pixels = part.show()
                    uses.append((view, part.window))
                if spec.tiled and store is not None and not media.is_array:
                    news[spec.tiles_key(key)] = pack_parts(parts)
        if list_key is not None and keys != known:
            news[list_key] = pack_keys(keys)
        shown = [Shown(i, *use) for i, key in enumerate(keys) for use in of_frame[key]]
        return _Opened(row, texts, shown, news)

    def _shown_before(self, store, known, view_of):
        """The views of frames with known keys; none unless all their tiles are too."""
        shown = []
        for number, key in enumerate(known):
            for spec in self.request.views:
                if not spec.tiled:
                    shown.append(Shown(number, view_of(spec, key), WHOLE))
                    continue
                tiles_key = spec.tiles_key(key)
                listed = store.get([tiles_key]).get(tiles_key)
                if listed is None:
                    return []
                for one, part_key, window in unpack_parts(spec, listed):
                    shown.append(Shown(number, view_of(one, part_key), window))
        return shown

    def _listed(self, store, media):
        """Keys of the frames known without decoding, and their positions."""
        if store is None or media.is_array:
            return [], None
        if media.is_still:
            return [media.key], None
        list_key = self.request.frames.list_key(media.key)
        found = store.get([list_key]).get(list_key)
        return ([] if found is None else unpack_keys(found)), list_key

    def _blank(self, view, texts):
        """Whether pixels must be decoded: no latent, and records missing."""
        return view.latent is None and bool(self._missing(view, texts))

    def _recall(self, store, view, texts):
        keys = {
            self.request.record_key(view.spec, view.key, *cell): cell
            for cell in self._cells(texts)
        }
        found = store.get(list(keys))
        view.records = {keys[key]: value for key, value in found.items()}
        if len(found) < len(keys):
            view.latent = recall_latent(store, view.spec, view.key)

    # -- computing -------------------------------------------------------------------

    def _cells(self, texts):
        request = self.request
        return [
            (t, text, kind)
            for t in request.timesteps
            for text in dict.fromkeys(texts)
            for kind in request.recipe.kinds
        ]

    def _missing(self, view, texts):
        return [cell for cell in self._cells(texts) if cell not in view.records]

    @property
    def _views_per_batch(self):
        """Number of views processed together: enough for full UNet batches."""
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
        views = self._unique_views(group)
        blank: dict[tuple, list[View]] = {}
        for view, _ in views:
            if view.latent is None:
                blank.setdefault((view.spec, view.shape), []).append(view)
        for (spec, _), alike in blank.items():
            latents = self.passes.latents([view.pixels for view in alike])
            latents = round_latents(latents, spec)
            for view, latent in zip(alike, latents, strict=True):
                view.latent, view.pixels = latent, None
            new = {view.key: view.latent for view in alike}
            self.store = keep_latents(self.store, spec, new)
        # Passes that lack the same kinds at the same timestep go together.
        wanted: dict[tuple, list[tuple[View, str]]] = {}
        for view, texts in views:
            kinds_of: dict[tuple, list[Kind]] = {}
            for t, text, kind in self._missing(view, texts):
                kinds_of.setdefault((t, text), []).append(kind)
            for (t, text), kinds in kinds_of.items():
                alike = wanted.setdefault((t, tuple(kinds), view.shape), [])
                alike.append((view, text))
        for (t, kinds, _), pairs in wanted.items():
            rows = self.passes.observe(
                self.request.recipe,
                kinds,
                t,
                [view.latent for view, _ in pairs],
                [text for _, text in pairs],
            )
            entries = {}
            for (view, text), row in zip(pairs, rows, strict=True):
                if not all_finite(row.values()):
                    # Neither stored nor given: the passes took it in float32 already.
                    view.problem = f"timestep {t} gives numbers that are not finite"
                for kind, values in row.items():
                    view.records[t, text, kind] = values
                    if view.problem is None:
                        key = self.request.record_key(
                            view.spec, view.key, t, text, kind
                        )
                        entries[key] = values
            self._keep(entries)
        for opened in group:
            self._finish(opened)

    def _unique_views(self, group):
        """Views of a group with their texts; equal views share one entry."""
        unique: dict[tuple, tuple[View, dict]] = {}
        for opened in group:
            for use in opened.shown:
                if not self._missing(use.view, opened.texts):
                    continue
                known, texts = unique.setdefault(use.view.name, (use.view, {}))
                use.view = known
                texts.update(dict.fromkeys(opened.texts))
        return [(view, tuple(texts)) for view, texts in unique.values()]

    def _keep(self, entries):
        self.store = put_or_disable(self.store, entries)

    @timed("pool")
    def _finish(self, opened):
        request = self.request
        problem = next((u.view.problem for u in opened.shown if u.view.problem), None)
        if problem is not None:
            self._refuse(opened.row, problem)
            opened.shown.clear()
            return
        table = np.stack(
            [
                self._values_of_frame(list(uses), opened.texts)
                for _, uses in groupby(opened.shown, attrgetter("frame"))
            ]
        )  # (T, D)
        row = pool_rows(table, request.frame_statistics)
        self.matrix[self.places[opened.row.index]] = row
        opened.shown.clear()
        self.advance(1)

    def _values_of_frame(self, uses, texts):
        """All columns of one frame, view by view: float32 (D,)."""
        request = self.request
        pieces = []
        for view, group in groupby(uses, lambda use: use.view.spec.view):
            group = list(group)
            table = np.stack(
                [
                    request.layout.assemble(
                        request.recipe,
                        {
                            (t, k, kind.name): use.view.records[t, text, kind]
                            for t in request.timesteps
                            for k, text in enumerate(texts)
                            for kind in request.recipe.kinds
                        },
                    )
                    for use in group
                ]
            )
            if view == "tiles" or request.frames.view == "auto":
                windows = np.array([use.window for use in group])
                pieces.append(request.layout.pool_tiles(table, windows))
            else:
                pieces += list(table)
        return np.concatenate(pieces)

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
