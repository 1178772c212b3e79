"""Rows in, diffusion features of both views of their frames out, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from diffqa_features._engine.parallel import put_or_disable
from diffqa_features._engine.passes import rows_per_pass
from diffqa_features._media.rows import Row
from diffqa_features._store.store import FeatureStore
from diffqa_features._utils.statistics import all_finite
from diffqa_features.learned.control.features import (
    Chain,
    Reduce,
    controlled_features,
)
from diffqa_features.learned.control.network import make_control
from diffqa_features.learned.diffvqa.views import OpenedRow, ViewSpec, open_rows


@dataclass(frozen=True)
class ViewedClip:
    """One row as input of stage 2; by view, with K copies (crops) of T frames."""

    numbers: np.ndarray  # (T,)
    times: np.ndarray | None  # (T,) seconds
    features: dict[str, np.ndarray]  # (K, T, C, g, g) float32
    frames: dict[str, np.ndarray]  # (K, T, s, s, 3) uint8
    changes: dict[str, np.ndarray]  # (K, T, C) float32, see `mean_changes`


class Extractor:
    """The backbone and its control, as a function of pixels; loaded at first use.

    Parameters
    ----------
    passes : Passes
        The backbone in float32.
    control : mapping of str to ndarray or None
        Weights of the control module; None leaves the frozen model alone.
    chain : Chain
    reduce : callable
        What is kept of every map (B, C, h, w): (B, C', g, g).
    """

    def __init__(self, passes, control, chain: Chain, reduce: Reduce):
        self._passes = passes
        self._control = control
        self._chain = chain
        self._reduce = reduce

    def at_once(self, size: int) -> int:
        """Number of frames per pass, of views of this many pixels a side."""
        backbone = self._passes.backbone
        cells = size // backbone.info.latent_factor
        return rows_per_pass(backbone, (backbone.info.latent_channels, cells, cells))

    @cached_property
    def _network(self):
        if self._control is None:
            return None
        with torch.inference_mode(False):
            return make_control(self._passes.backbone.unet, self._control)

    def __call__(self, views: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Look at uint8 views of one size: for each float32 (C', g, g)."""
        found = []
        at_once = self.at_once(len(views[0]))
        for start in range(0, len(views), at_once):
            maps = controlled_features(
                self._passes.backbone,
                self._network,
                self._passes.latents(views[start : start + at_once]),
                self._chain,
                reduce=self._reduce,
                batch_size=at_once,
            )
            found += list(np.concatenate([maps[n] for n in self._chain.names], 1))
        if not all_finite(found):
            raise ValueError(
                f"The denoising network overflows in {self._chain.dtype}. Choose "
                "dtype='float32' or 'bfloat16'."
            )
        return found


def mean_per_cell(maps: torch.Tensor, grid: int) -> torch.Tensor:
    """Average-pool maps (B, C, h, w) to (B, C, grid, grid)."""
    return F.adaptive_avg_pool2d(maps, grid)


def mean_and_spread_per_cell(maps: torch.Tensor, grid: int) -> torch.Tensor:
    """The mean and log(std + 1e-3) of each cell: (B, 2 C, grid, grid)."""
    # A difference of squares: in float32, rounding would look like a spread.
    maps = maps.double()
    mean, squares = (F.adaptive_avg_pool2d(m, grid) for m in (maps, maps.square()))
    spread = (squares - mean.square()).clamp(min=0).sqrt()
    return torch.cat([mean, torch.log(spread + 1e-3)], 1).float()


def view_rows(
    rows: Sequence[Row],
    spec: ViewSpec,
    extractor: Extractor,
    *,
    store: FeatureStore | None = None,
    verbose: int = 0,
    failed: list[tuple[int, str]] | None = None,
) -> list[ViewedClip]:
    """Features of all rows; frames of several rows share a pass.

    Unreadable rows are errors, or entries (index, reason) in `failed`.
    """
    clips, waiting = [], []
    reading = open_rows(rows, spec, store, failed)
    with tqdm(total=len(rows), unit="row", desc="look", disable=not verbose) as bar:
        for opened in reading:
            waiting.append(opened)
            pending = sum(len(each.pixels) for each in waiting)
            if pending and pending < extractor.at_once(spec.image_size):
                continue
            store = _finish(waiting, extractor, store)
            clips += [_as_clip(each, spec) for each in waiting]
            bar.update(len(waiting))
            waiting = []
        _finish(waiting, extractor, store)
        clips += [_as_clip(each, spec) for each in waiting]
        bar.update(len(waiting))
    return clips


def _finish(waiting, extractor, store):
    """Compute missing features, grouped by size, and store the new ones."""
    by_size: dict[tuple, dict[str, np.ndarray]] = {}
    for opened in waiting:
        for key, pixels in opened.pixels.items():
            by_size.setdefault(pixels.shape, {})[key] = pixels
    found = {}
    for views in by_size.values():
        found.update(zip(views, extractor(list(views.values())), strict=True))
    for opened in waiting:
        opened.values.update({key: found[key] for key in opened.pixels})
        entries = {key: opened.values[key] for key in (*opened.pixels, *opened.new)}
        store = put_or_disable(store, entries)
        opened.pixels, opened.new = {}, []
    return store


def _as_clip(opened: OpenedRow, spec: ViewSpec) -> ViewedClip:
    def gathered(keys, view):
        return np.stack(
            [
                [opened.values[keys[view, copy, int(n)]] for n in opened.numbers]
                for copy in range(spec.copies(view))
            ]
        )

    features = {view: gathered(opened.features, view) for view in spec.views}
    return ViewedClip(
        opened.numbers,
        opened.times,
        features,
        {view: gathered(opened.frames, view) for view in spec.views}
        if opened.frames
        else {},
        {view: mean_changes(v, opened.follows) for view, v in features.items()}
        if spec.changes
        else {},
    )


def mean_changes(features: np.ndarray, follows: np.ndarray) -> np.ndarray:
    """How much every channel has changed since the frame before.

    Parameters
    ----------
    features : ndarray of shape (K, T, C, g, g)
    follows : bool ndarray of shape (T,)
        False for the first frame of a burst, which gets the second one's change: a
        change of 0 would be a freeze.

    Returns
    -------
    ndarray of shape (K, T, C), dtype float32
        ``mean |x_t - x_(t-1)|`` over the cells; NaN where neither neighbour is known,
        as in a picture.
    """
    changes = np.full(features.shape[:3], np.nan, np.float32)
    later = np.flatnonzero(follows)
    changes[:, later] = np.abs(features[:, later] - features[:, later - 1]).mean((3, 4))
    first = np.flatnonzero(~follows[:-1] & follows[1:])
    changes[:, first] = changes[:, first + 1]
    return changes
