"""Feature kinds: what each observes, what it records, and its named columns.

A new kind is a class here and its instance in `KINDS`. Formulas are in `pooling`, which
loads torch and is therefore only imported when a pass is observed: column names do not
need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from diffqa_features._backbone.blocks import Block, Stage

if TYPE_CHECKING:
    import torch

STATISTICS = ("mean", "std", "max")
"""Over space."""

Place = Block | Stage
See = Callable[["torch.Tensor"], None]
Read = Callable[[str, str], np.ndarray]
"""(name of the place, part) -> what all K prompts have of it, (K, width)."""


@dataclass(frozen=True, slots=True)
class Column:
    """Description of one column of the matrix."""

    timestep: int | None
    block: str
    kind: str
    prompt: str
    statistic: str
    channel: int | None
    view: str
    tile_statistic: str
    names_view: bool

    @property
    def name(self) -> str:
        time = "" if self.timestep is None else f"t{self.timestep}"
        channel = "" if self.channel is None else f"{self.channel:04d}"
        view = self.view if self.names_view else ""
        if self.tile_statistic:
            view = f"{view}-{self.tile_statistic}"
        parts = time, self.block, self.kind, self.prompt, self.statistic, channel, view
        return "__".join(part for part in parts if part)


@dataclass(frozen=True)
class Recipe:
    """Kinds, places in the UNet, and statistics.

    One recipe describes what a pass records, another what the columns use: with a
    store, more is recorded than requested.
    """

    kinds: tuple[Kind, ...]
    blocks: tuple[Block, ...]
    stages: tuple[Stage, ...]
    statistics: tuple[str, ...]
    latent_channels: int

    def places(self, kind: Kind) -> tuple[Place, ...]:
        """Places that a kind observes; for the whole pass, the UNet itself."""
        whole = Stage("", "", self.latent_channels)
        return {"block": self.blocks, "stage": self.stages, "pass": (whole,)}[
            kind.scope
        ]

    @cached_property
    def _slices(self) -> dict[str, dict[tuple[str, str], slice]]:
        tables = {}
        for kind in self.kinds:
            end, table = 0, {}
            for place in self.places(kind):
                for part, width in kind.parts(place, self.statistics):
                    table[place.name, part] = slice(end, end + width)
                    end += width
            tables[kind.name] = table
        return tables

    def in_order(self, kind: Kind, look: Observation) -> list[torch.Tensor]:
        """The recorded parts, in the order of a record."""
        return [look.seen[kind.name][key] for key in self._slices[kind.name]]

    def read(self, record: np.ndarray, kind: Kind, place: str, part: str = ""):
        """Cut one part out of a flat record, or a stack of them, on the last axis."""
        return record[..., self._slices[kind.name][place, part]]


@dataclass
class Observation:
    """One observed batch: B rows, one per frame and prompt."""

    content: torch.Tensor
    """True at the words of each row's prompt: bool tensor (B, L)."""
    grid: tuple[int, int]
    """Height and width of the latents."""
    statistics: tuple[str, ...]
    noise: torch.Tensor
    """What the latents were noised with: tensor (B, C, h, w)."""
    to_noise: Callable[[torch.Tensor], torch.Tensor]
    """Turns the UNet's output into predicted noise."""
    seen: dict[str, dict[tuple[str, str], torch.Tensor]] = field(default_factory=dict)

    def keep(self, kind: Kind, place: Place, part: str, values: torch.Tensor) -> None:
        """Add a part, (B, width), to each row's record."""
        self.seen.setdefault(kind.name, {})[place.name, part] = values


class Kind:
    """Declaration of a feature kind; stateless, so one object serves all calls."""

    name: str
    """In `kinds=`, in the names of columns and in store keys."""
    scope: str = "block"
    """Where it looks: at every chosen ``"block"`` or ``"stage"``, or at the
    ``"pass"``."""
    statistics: tuple[str, ...] = ()
    """Over space, of which `pooling=` chooses; none where it is pooled in its own
    way."""
    per_prompt: bool = True
    """Whether each prompt has columns; else they are the mean over the prompts."""
    facts: tuple = ()
    """What its record depends on beside frame, backbone, timestep, noise and prompt."""

    def width(self, place: Place) -> int | None:
        """Values per place, prompt and statistic; None means one, without a channel."""
        return place.channels

    def taps(self, place: Place, look: Observation) -> dict[str, See]:
        """Modules of the UNet, and a callback for the output of each."""
        raise NotImplementedError

    def parts(self, place: Place, chosen: Sequence[str]) -> list[tuple[str, int]]:
        """Names and widths of a record's parts for a place, in order."""
        names = [s for s in self.statistics if s in chosen] if self.statistics else [""]
        return [(name, self.width(place) or 1) for name in names]

    def columns(self, asked: Recipe, n_prompts: int) -> Iterator[tuple]:
        """(block, prompt, statistic, channel) of every column, in `values`' order."""
        prompts = [f"prompt{k}" for k in range(n_prompts)] if self.per_prompt else [""]
        for place in asked.places(self):
            width = self.width(place)
            channels = [None] if width is None else range(width)
            for prompt in prompts:
                for statistic in self._chosen(asked):
                    for channel in channels:
                        yield place.name, prompt, statistic, channel

    def values(self, asked: Recipe, read: Read) -> Iterator[np.ndarray]:
        """The values of one frame, in pieces."""
        for place in asked.places(self):
            table = np.stack([read(place.name, s) for s in self._chosen(asked)], 1)
            yield (table if self.per_prompt else table.mean(0)).ravel()

    def _chosen(self, asked):
        if not self.statistics:
            return [""]
        return [s for s in asked.statistics if s in self.statistics]

    def _pooled(self, place, look):
        """An observer that records the selected statistics over space."""

        def see(hidden):
            from diffqa_features._engine.pooling import pool_space

            names = [name for name, _ in self.parts(place, look.statistics)]
            pooled = pool_space(hidden, tuple(names))
            for index, name in enumerate(names):
                look.keep(self, place, name, pooled[:, index])

        return see

    def _attention(self, block, see):
        """Observers that call ``see(queries, keys)`` of a cross-attention block."""
        waiting = []  # queries, until the same layer's keys arrive

        def see_keys(keys):
            see(waiting.pop(), keys)

        return {
            f"{block.module}.to_q": waiting.append,
            f"{block.module}.to_k": see_keys,
        }


class Alignment(Kind):
    """Log-sum-exp of the attention logits: one number per block and prompt."""

    name = "alignment"

    def width(self, place):
        return None

    def taps(self, place, look):
        def see(queries, keys):
            from diffqa_features._engine.pooling import alignment

            values = alignment(queries, keys, place.heads)
            look.keep(self, place, "", values[:, None])

        return self._attention(place, see)


class Query(Kind):
    """Queries of a block, pooled over space."""

    name = "query"
    statistics = STATISTICS
    per_prompt = False

    def taps(self, place, look):
        return {f"{place.module}.to_q": self._pooled(place, look)}


class Attended(Kind):
    """A block's cross-attention output, pooled over space."""

    name = "attended"
    statistics = STATISTICS

    def taps(self, place, look):
        return {place.module: self._pooled(place, look)}


class Hidden(Kind):
    """Output states of a UNet stage, pooled over space."""

    name = "hidden"
    scope = "stage"
    statistics = STATISTICS
    per_prompt = False

    def taps(self, place, look):
        return {place.module: self._pooled(place, look)}


class Error(Kind):
    """Denoising error: its log RMS per latent channel, and the prompts' difference."""

    name = "error"
    scope = "pass"

    def parts(self, place, chosen):
        return [("spectrum", place.channels), ("total", 1)]

    def taps(self, place, look):
        def see(output):
            from diffqa_features._engine.pooling import error_spectrum

            values = error_spectrum(look.to_noise(output), look.noise)
            look.keep(self, place, "spectrum", values[:, :-1])
            look.keep(self, place, "total", values[:, -1:])

        return {place.module: see}

    def columns(self, asked, n_prompts):
        yield from super().columns(asked, n_prompts)
        if n_prompts > 1:
            yield "", "prompt0-prompt1", "", None

    def values(self, asked, read):
        spectrum, total = read("", "spectrum"), read("", "total")
        yield spectrum.ravel()
        if len(total) > 1:
            yield total[0] - total[1]


@dataclass(frozen=True)
class AttentionMap(Kind):
    """Attention maps for the prompt's words, on a grid of `size`."""

    size: tuple[int, int]
    signed: bool

    @property
    def name(self):
        return "signed_map" if self.signed else "map"

    @property
    def facts(self):
        return self.size

    def width(self, place):
        return self.size[0] * self.size[1]

    def taps(self, place, look):
        def see(queries, keys):
            from diffqa_features._engine import pooling

            maps = pooling.attention_maps(
                queries, keys, place.heads, look.content, signed=self.signed
            )
            resized = pooling.resize_maps(maps, look.grid, self.size)
            look.keep(self, place, "", resized.flatten(1))

        return self._attention(place, see)


KINDS: tuple[Kind, ...] = (Alignment(), Query(), Attended(), Hidden(), Error())
"""Those that `DiffusionQAFeatures` offers."""
