"""Everything that determines the values of one call, and its store keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from diffqa_features._engine.kinds import Column, Kind, Recipe
from diffqa_features._media.rows import Media, Row
from diffqa_features._media.tables import is_missing, is_unicode, spelled
from diffqa_features._media.views import LARGE
from diffqa_features._utils.hashing import make_key
from diffqa_features._utils.statistics import pool_rows

Records = Mapping[tuple[int, int, str], np.ndarray]
"""(timestep, index of the prompt, name of the kind) -> flat record of one frame."""

_COLUMN = re.compile(r"\{([^{}]+)\}")


def prompt_columns(prompts: str | Iterable[str]) -> tuple[str, ...]:
    """Columns of a table that prompts name, as in ``"{caption}"``."""
    texts = [prompts] if isinstance(prompts, str) else prompts
    return tuple(dict.fromkeys(c for text in texts for c in _COLUMN.findall(text)))


@dataclass(frozen=True)
class FrameSpec:
    """Which frames of a row to use, and everything that determines their latents.

    With the view "tiles", `frame_key` is that of a tile's own pixels, but in
    `tiles_key`. The view "auto" stands for "tiles" or "stretch", frame by frame.
    """

    identity: str
    """Of the backbone: a hash of its files."""
    view: str
    image_size: int
    multiple: int
    dtype: str = "float32"
    normalization: str = "vae"
    stills_only: bool = False
    frame_rate: float = 1.0
    max_frames: int | None = None
    burst_length: int = 1
    """So many adjacent frames at every sampled moment."""
    n_frames: int | None = None
    """So many over the whole video instead, first and last included."""
    reader: str = "auto"
    half: bool = False
    """Whether latents are rounded to float16, as the store keeps them."""
    n_tiles: int | None = None
    """At most so many per frame, with the view "tiles"; None covers the frame."""

    def key(self, frame_key: str) -> str:
        """Store key of the latent of one frame."""
        return make_key("latent", self.facts(frame_key), self.normalization)

    def list_key(self, media_key: str) -> str:
        """Key of the list of a file's frame keys; the same for all readers."""
        # Single frames have the keys that they had before there were bursts.
        bursts = (self.burst_length,) if self.burst_length > 1 else ()
        return make_key("frames", media_key, self.frame_rate, self.max_frames, *bursts)

    @property
    def tiled(self) -> bool:
        """Whether a frame may be shown in several parts, which are pooled."""
        return self.view in ("tiles", "auto")

    def as_view(self, view: str) -> FrameSpec:
        """The same with another view."""
        return self if view == self.view else replace(self, view=view)

    def tiles_key(self, frame_key: str) -> str:
        """Key of the list of a frame's tiles; the same for all backbones."""
        # Those of "tiles" have the keys that they had before there was "auto".
        rule = ("auto", LARGE) if self.view == "auto" else ()
        return make_key("tiles", frame_key, self.image_size, self.n_tiles, *rule)

    def choose(self, media: Media) -> np.ndarray:
        """Indices of the frames of this medium."""
        if self.n_frames is None:
            return media.choose(self.frame_rate, self.max_frames, self.burst_length)
        clock = media.times()
        # What has no clock is chosen whole.
        count = len(media.choose() if clock is None else clock)
        return np.unique(np.linspace(0, count - 1, self.n_frames).astype(int))

    def facts(self, frame_key: str) -> tuple:
        """What every value computed from a frame depends on."""
        # `multiple` is the backbone's, and so in its identity.
        facts = frame_key, self.view, self.image_size, self.identity, self.dtype
        return (*facts, "float16 latents") if self.half else facts


class Layout(Protocol):
    """How the records of a frame become `width` values, float32.

    `assemble` is called for every picture that the backbone is shown of a frame, and
    `pool_tiles` for the values of a frame's tiles, (n, D), and where these lie.
    """

    width: int

    def assemble(self, recorded: Recipe, records: Records) -> np.ndarray: ...

    def pool_tiles(self, table: np.ndarray, windows: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class FeatureLayout:
    """Columns of `DiffusionQAFeatures`: by view, timestep, kind, and its own order."""

    asked: Recipe
    timesteps: tuple[int, ...]
    n_prompts: int
    views: tuple[str, ...]
    tile_statistics: tuple[str, ...]

    @property
    def width(self) -> int:
        return len(self.columns())

    def columns(self) -> list[Column]:
        """One entry per value, in the order of ``assemble``."""
        return [
            Column(t, block, kind.name, prompt, statistic, channel, *view)
            for view in self._parts()
            for t in self.timesteps
            for kind in self.asked.kinds
            for block, prompt, statistic, channel in kind.columns(
                self.asked, self.n_prompts
            )
        ]

    def _parts(self):
        """(view, tile statistic, whether names say so) of each run of columns."""
        several = self.tile_statistics != ("mean",)
        for view in self.views:
            if view == "tiles" or (view == "auto" and several):
                yield from ((view, name, True) for name in self.tile_statistics)
            else:
                yield view, "", len(self.views) > 1

    def assemble(self, recorded: Recipe, records: Records) -> np.ndarray:
        """Extract the requested values of one view from its records: float32 (D,)."""
        pieces = []
        for t in self.timesteps:
            for kind in self.asked.kinds:
                stack = np.stack(
                    [records[t, k, kind.name] for k in range(self.n_prompts)]
                )

                def read(place, part, stack=stack, kind=kind):
                    return recorded.read(stack, kind, place, part)

                pieces += kind.values(self.asked, read)
        return np.concatenate(pieces).astype(np.float32)

    def pool_tiles(self, table: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """Statistics over the tiles of a frame: float32 (statistics * D,)."""
        return pool_rows(table, self.tile_statistics)


@dataclass(frozen=True)
class Request:
    """Everything that determines the values of a call."""

    backbone: str
    views: tuple[FrameSpec, ...]
    """One for every view of the same frames."""
    recipe: Recipe
    timesteps: tuple[int, ...]
    prompts: tuple[str, ...]
    frame_statistics: tuple[str, ...]
    seed: int
    device: str | None
    batch_size: int | None
    layout: Layout

    @property
    def frames(self) -> FrameSpec:
        """The first view: which frames to use is the same for all."""
        return self.views[0]

    @property
    def width(self) -> int:
        """Number of columns of the matrix."""
        return self.layout.width * len(self.frame_statistics)

    def record_key(
        self, spec: FrameSpec, frame_key: str, timestep: int, text: str, kind: Kind
    ) -> str:
        """Store key of the record of one pass and kind."""
        facts = spec.facts(frame_key), timestep, self.seed, text
        return make_key("record", kind.name, kind.facts, facts)

    def check_columns(self, row: Row) -> None:
        """Raise if a prompt names a column that X does not have."""
        for prompt in self.prompts:
            for column in prompt_columns(prompt):
                if column not in row.columns:
                    known = ", ".join(map(repr, row.columns)) or "none"
                    raise ValueError(
                        f"The prompt {prompt!r} names the column {column!r}, but the "
                        f"columns of X beside the media are: {known}. Pass a DataFrame "
                        "with such a column, or change the prompt."
                    )

    def texts(self, row: Row) -> tuple[str, ...]:
        """The prompts, with ``"{column}"`` replaced from the row's columns."""

        def value(match):
            text = row.columns[match[1]]
            if is_missing(text):
                raise row.error(
                    f"the column {match[1]!r} of the prompts "
                    "is empty here. Fill it or leave the row out."
                )
            text = spelled(text)
            if not is_unicode(text):
                raise row.error(
                    f"the column {match[1]!r} of the prompts holds {text!r}, which is "
                    "no Unicode text. Decode it anew or leave the row out."
                )
            return text

        return tuple(_COLUMN.sub(value, prompt) for prompt in self.prompts)
