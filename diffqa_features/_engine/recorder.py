"""Observers of one batched pass in, flat records out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from diffqa_features._backbone.capture import Tap
from diffqa_features._engine import pooling
from diffqa_features._engine.records import Recipe
from diffqa_features._utils.profiling import stage


class Recorder:
    """Observers of one batched pass; everything large is pooled where it is seen.

    Parameters
    ----------
    recipe : Recipe
        What to record.
    kinds : sequence of str
        The kinds to record in this pass, among those of the recipe.
    content : bool tensor (B, L)
        True at the words of each row's prompt.
    grid : (int, int)
        Height and width of the latents.
    """

    def __init__(self, recipe: Recipe, kinds: Sequence[str], content, grid):
        self.recipe = recipe
        self.kinds = tuple(kinds)
        self.content = content
        self.grid = grid
        self._seen = {kind: {} for kind in self.kinds}
        self._queries = None

    def taps(self) -> list:
        """Every module to be observed."""
        taps = []
        kinds = set(self.kinds)
        for block in self.recipe.blocks:
            if kinds & {"alignment", "query", "map", "signed_map"}:
                taps.append(Tap(f"{block.module}.to_q", self._see_queries(block)))
            if kinds & {"alignment", "map", "signed_map"}:
                taps.append(Tap(f"{block.module}.to_k", self._see_keys(block)))
            if "attended" in kinds:
                taps.append(Tap(block.module, self._see_pooled("attended", block)))
        if "hidden" in kinds:
            for stage in self.recipe.stages:
                taps.append(Tap(stage.module, self._see_pooled("hidden", stage)))
        return taps

    def _see_queries(self, block):
        pool = self._see_pooled("query", block)

        def see(queries):
            # Held until the same layer's keys arrive, one block at a time.
            self._queries = queries
            if "query" in self._seen:
                pool(queries)

        return see

    def _see_keys(self, block):
        def see(keys):
            queries, self._queries = self._queries, None
            if "alignment" in self._seen:
                values = pooling.alignment(queries, keys, block.heads)
                self._seen["alignment"][block.name, ""] = values[:, None]
            for kind in ("map", "signed_map"):
                if kind in self._seen:
                    values = pooling.attention_maps(
                        queries,
                        keys,
                        block.heads,
                        self.content,
                        signed=kind == "signed_map",
                    )
                    resized = self._resize(values)
                    self._seen[kind][block.name, ""] = resized.flatten(1)

        return see

    def _see_pooled(self, kind, tap):
        def see(hidden):
            pooled = pooling.pool_space(hidden, self.recipe.statistics)
            for index, statistic in enumerate(self.recipe.statistics):
                self._seen[kind][tap.name, statistic] = pooled[:, index]

        return see

    def _resize(self, values):
        """Bring (B, h*w) of any level of the UNet to (B, *map_size)."""
        h, w = self.grid
        while h * w > values.shape[1]:
            h, w = -(-h // 2), -(-w // 2)
        maps = values.reshape(len(values), 1, h, w)
        size = self.recipe.map_size
        return F.interpolate(maps, size, mode="bilinear", antialias=True)[:, 0]

    def see_error(self, predicted, noise):
        """Take in the predicted noise where the error spectrum is recorded."""
        values = pooling.error_spectrum(predicted, noise)
        self._seen["error"] = {
            ("", "spectrum"): values[:, :-1],
            ("", "total"): values[:, -1:],
        }

    @stage("pool")
    def records(self) -> dict[str, np.ndarray]:
        """Kind -> flat records (B, length); float64 for ``error``, else float32."""
        return {
            kind: torch.cat(
                [self._seen[kind][key] for key, _ in self.recipe.parts(kind)], 1
            )
            .cpu()
            .numpy()
            for kind in self.kinds
        }
