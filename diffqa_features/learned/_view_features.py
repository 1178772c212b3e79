"""Rows in, diffusion features of both views of their frames out, computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from diffqa_features._halving import in_halves
from diffqa_features._media import Row
from diffqa_features._rows import keep
from diffqa_features._store import FeatureStore
from diffqa_features.learned._frame_views import Viewed, Viewing, open_rows
from diffqa_features.learned._training import precision

_AT_ONCE = {"cpu": 16}  # frames that go through the backbone together
_AT_ONCE_ELSEWHERE = 32

Maps = Callable[[torch.Tensor], tuple[Sequence[torch.Tensor], torch.Tensor]]


@dataclass(frozen=True)
class ViewedClip:
    """One row as stage 2 takes it; by view, with K copies (crops) of T frames."""

    numbers: np.ndarray  # (T,)
    times: np.ndarray | None  # (T,) seconds
    features: dict[str, np.ndarray]  # (K, T, C, g, g) float32
    frames: dict[str, np.ndarray]  # (K, T, s, s, 3) uint8


class Extractor:
    """The backbone and its control, as a function of pixels.

    Parameters
    ----------
    passes : Passes
        The backbone in float32, for the VAE.
    maps : callable
        ``maps(latents) -> (levels, latent)``: what the last denoising step leaves.
    grid_size : int
        Places to a side that every map is averaged to.
    dtype : torch.dtype
        Arithmetic of the denoising network.
    """

    def __init__(self, passes, maps: Maps, grid_size: int, dtype: torch.dtype):
        self._passes = passes
        self._maps = maps
        self._grid = grid_size
        self._dtype = dtype
        self._size = None

    @property
    def at_once(self) -> int:
        """Frames per pass."""
        if self._size is None:
            kind = self._passes.backbone.device.type
            self._size = _AT_ONCE.get(kind, _AT_ONCE_ELSEWHERE)
        return self._size

    def __call__(self, views: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Look at uint8 views of one size: for each float32 (C, g, g)."""
        parts, self._size = in_halves(self._run, views, self.at_once)
        return [features for part in parts for features in part]

    @torch.inference_mode()
    def _run(self, views):
        device = self._passes.backbone.device
        latents = torch.from_numpy(self._passes.latents(views)).to(device)
        with precision(device, self._dtype):
            levels, latent = self._maps(latents)
        pooled = [
            F.adaptive_avg_pool2d(each.float(), self._grid) for each in (*levels, latent)
        ]
        features = torch.cat(pooled, 1).cpu().numpy()
        if not np.isfinite(features).all():
            raise ValueError(
                f"The denoising network overflows in {self._dtype}. Choose "
                "dtype='float32' or 'bfloat16'."
            )
        return list(features)


def view_rows(
    rows: Sequence[Row],
    viewing: Viewing,
    extractor: Extractor,
    *,
    store: FeatureStore | None = None,
    verbose: int = 0,
) -> list[ViewedClip]:
    """Features of all rows; frames of several rows share a pass."""
    clips, waiting = [], []
    opened = open_rows(rows, viewing, store)
    with tqdm(total=len(rows), unit="row", desc="look", disable=not verbose) as bar:
        for viewed in opened:
            waiting.append(viewed)
            pending = sum(len(each.pixels) for each in waiting)
            if pending and pending < extractor.at_once:
                continue
            store = _finish(waiting, extractor, store)
            clips += [_as_clip(each, viewing) for each in waiting]
            bar.update(len(waiting))
            waiting = []
        _finish(waiting, extractor, store)
        clips += [_as_clip(each, viewing) for each in waiting]
        bar.update(len(waiting))
    return clips


def _finish(waiting, extractor, store):
    """Get the features that are missing, by size; keep all that is new."""
    by_size: dict[tuple, dict[str, np.ndarray]] = {}
    for viewed in waiting:
        for key, pixels in viewed.pixels.items():
            by_size.setdefault(pixels.shape, {})[key] = pixels
    found = {}
    for views in by_size.values():
        found.update(zip(views, extractor(list(views.values())), strict=True))
    for viewed in waiting:
        viewed.values.update({key: found[key] for key in viewed.pixels})
        entries = {key: viewed.values[key] for key in (*viewed.pixels, *viewed.new)}
        store = keep(store, entries)
        viewed.pixels, viewed.new = {}, []
    return store


def _as_clip(viewed: Viewed, viewing: Viewing) -> ViewedClip:
    def gathered(keys, view):
        return np.stack(
            [
                [viewed.values[keys[view, copy, int(n)]] for n in viewed.numbers]
                for copy in range(viewing.copies(view))
            ]
        )

    return ViewedClip(
        viewed.numbers,
        viewed.times,
        {view: gathered(viewed.features, view) for view in viewing.views},
        {view: gathered(viewed.frames, view) for view in viewing.views}
        if viewed.frames
        else {},
    )
