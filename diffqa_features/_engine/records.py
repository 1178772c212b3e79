"""What one pass leaves behind for one frame and prompt: flat vectors with a layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffqa_features._backbone.blocks import Block, Stage

STATISTICS = ("mean", "std", "max")
"""Statistics over space."""


@dataclass(frozen=True)
class Recipe:
    """What a pass records, and where in each flat record a part of it stands.

    A record belongs to one (frame, timestep, prompt, kind). Its parts are keyed by
    (block or stage, statistic), in the order of ``parts``.
    """

    kinds: tuple[str, ...]
    blocks: tuple[Block, ...]
    stages: tuple[Stage, ...]
    statistics: tuple[str, ...]
    latent_channels: int
    map_size: tuple[int, int] | None = None

    def parts(self, kind: str) -> list[tuple[tuple[str, str], int]]:
        """Keys and lengths of the parts of one record."""
        if kind == "error":
            return [(("", "spectrum"), self.latent_channels), (("", "total"), 1)]
        if kind == "hidden":
            return [
                ((stage.name, statistic), stage.channels)
                for stage in self.stages
                for statistic in self.statistics
            ]
        if kind in ("query", "attended"):
            return [
                ((block.name, statistic), block.channels)
                for block in self.blocks
                for statistic in self.statistics
            ]
        length = 1 if kind == "alignment" else int(np.prod(self.map_size))
        return [((block.name, ""), length) for block in self.blocks]

    @cached_property
    def _slices(self) -> dict[str, dict[tuple[str, str], slice]]:
        tables = {}
        for kind in self.kinds:
            end, table = 0, {}
            for key, length in self.parts(kind):
                table[key] = slice(end, end + length)
                end += length
            tables[kind] = table
        return tables

    def part(self, record: np.ndarray, kind: str, where: str, statistic: str = ""):
        """Cut one part out of a flat record (or a stack of them, on the last axis)."""
        return record[..., self._slices[kind][where, statistic]]

    @property
    def whole(self) -> bool:
        """Whether the pass has to run to its end."""
        return "error" in self.kinds
