"""Records of a frame in, a row of named columns out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffqa_features._engine.records import Recipe

Records = Mapping[tuple[int, int, str], np.ndarray]
"""(timestep, index of the prompt, kind) -> flat record."""


@dataclass(frozen=True, slots=True)
class Column:
    """What one number of the matrix is."""

    timestep: int | None
    block: str
    kind: str
    prompt: str
    statistic: str
    channel: int | None

    @property
    def name(self) -> str:
        time = "" if self.timestep is None else f"t{self.timestep}"
        channel = "" if self.channel is None else f"{self.channel:04d}"
        parts = time, self.block, self.kind, self.prompt, self.statistic, channel
        return "__".join(part for part in parts if part)


class FeatureLayout:
    """Columns of `DiffusionQAFeatures`: timestep, kind, block, prompt, statistic."""

    def __init__(
        self,
        timesteps: Sequence[int],
        n_prompts: int,
        kinds: Sequence[str],
        blocks: Sequence,
        stages: Sequence,
        statistics: Sequence[str],
        latent_channels: int,
    ):
        self.timesteps = tuple(timesteps)
        self.n_prompts = n_prompts
        self.kinds = tuple(kinds)
        self.blocks = tuple(blocks)
        self.stages = tuple(stages)
        self.statistics = tuple(statistics)
        self.latent_channels = latent_channels

    @property
    def width(self) -> int:
        return len(self.columns())

    def columns(self) -> list[Column]:
        """One entry per number, in the order of ``assemble``."""
        prompts = [f"prompt{k}" for k in range(self.n_prompts)]
        columns = []

        def add(t, block, kind, prompt, statistic, width):
            channels = [None] if width is None else range(width)
            columns.extend(
                Column(t, block, kind, prompt, statistic, c) for c in channels
            )

        for t in self.timesteps:
            for kind in self.kinds:
                if kind == "alignment":
                    for block in self.blocks:
                        for prompt in prompts:
                            add(t, block.name, kind, prompt, "", None)
                elif kind == "attended":
                    for block in self.blocks:
                        for prompt in prompts:
                            for s in self.statistics:
                                add(t, block.name, kind, prompt, s, block.channels)
                elif kind in ("query", "hidden"):
                    for tap in self.blocks if kind == "query" else self.stages:
                        for s in self.statistics:
                            add(t, tap.name, kind, "", s, tap.channels)
                else:
                    for prompt in prompts:
                        add(t, "", kind, prompt, "", self.latent_channels)
                    if self.n_prompts > 1:
                        add(t, "", kind, "prompt0-prompt1", "", None)
        return columns

    def assemble(self, recipe: Recipe, records: Records) -> np.ndarray:
        """Cut the asked-for numbers of one frame out of its records: float32 (D,)."""
        prompts = range(self.n_prompts)
        parts = []
        for t in self.timesteps:
            for kind in self.kinds:
                stack = np.stack([records[t, k, kind] for k in prompts])

                def part(where, statistic="", stack=stack, kind=kind):
                    return recipe.part(stack, kind, where, statistic)

                if kind == "alignment":
                    parts += [part(block.name)[:, 0] for block in self.blocks]
                elif kind == "attended":
                    for block in self.blocks:
                        table = [part(block.name, s) for s in self.statistics]
                        parts.append(np.stack(table, 1).ravel())
                elif kind in ("query", "hidden"):
                    # One vector per picture: the mean over the prompts.
                    for tap in self.blocks if kind == "query" else self.stages:
                        parts += [part(tap.name, s).mean(0) for s in self.statistics]
                else:
                    parts.append(part("", "spectrum").ravel())
                    if self.n_prompts > 1:
                        total = part("", "total")
                        parts.append(total[0] - total[1])
        return np.concatenate(parts).astype(np.float32)


class MapLayout:
    """Columns of `PromptAlignmentMaps`: prompt, row and column of the grid."""

    def __init__(
        self,
        timesteps: Sequence[int],
        n_prompts: int,
        kind: str,
        blocks: Sequence,
        map_size: tuple[int, int],
    ):
        self.timesteps = tuple(timesteps)
        self.n_prompts = n_prompts
        self.kind = kind
        self.blocks = tuple(blocks)
        self.map_size = map_size

    @property
    def width(self) -> int:
        return self.n_prompts * self.map_size[0] * self.map_size[1]

    def names(self) -> list[str]:
        height, width = self.map_size
        return [
            f"map__prompt{k}__y{y:02d}__x{x:02d}"
            for k in range(self.n_prompts)
            for y in range(height)
            for x in range(width)
        ]

    def assemble(self, recipe: Recipe, records: Records) -> np.ndarray:
        """Average over timesteps and blocks: float32 (K * h * w,)."""
        return np.concatenate(
            [
                np.mean(
                    [
                        recipe.part(records[t, k, self.kind], self.kind, block.name)
                        for t in self.timesteps
                        for block in self.blocks
                    ],
                    axis=0,
                )
                for k in range(self.n_prompts)
            ]
        ).astype(np.float32)
