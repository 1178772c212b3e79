"""Everything that decides the numbers of one call, and the store keys it gives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from diffqa_features._engine.layout import FeatureLayout, MapLayout
from diffqa_features._engine.records import Recipe
from diffqa_features._media.rows import Row
from diffqa_features._utils.hashing import make_key

_COLUMN = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class FrameSpec:
    """Which frames of a row, and all that decides the latent of each of them."""

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
    n_frames: int | None = None
    """So many over the whole video instead, first and last included."""
    reader: str = "auto"

    def key(self, frame_key: str) -> str:
        """Store key of the latent of one frame."""
        return make_key("latent", self.facts(frame_key), self.normalization)

    def list_key(self, media_key: str) -> str:
        """Key of the list of frame keys that a file comes to; readers agree on it."""
        return make_key("frames", media_key, self.frame_rate, self.max_frames)

    def facts(self, frame_key: str) -> tuple:
        """What everything that is computed of a frame depends on."""
        # `multiple` is the backbone's, and so in its identity.
        return frame_key, self.view, self.image_size, self.identity, self.dtype


@dataclass(frozen=True)
class Request:
    """Everything that decides the numbers of a call."""

    backbone: str
    frames: FrameSpec
    recipe: Recipe
    timesteps: tuple[int, ...]
    prompts: tuple[str, ...]
    frame_statistics: tuple[str, ...]
    seed: int
    device: str | None
    batch_size: int | None
    layout: FeatureLayout | MapLayout

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return self.layout.width * len(self.frame_statistics)

    def record_key(self, frame_key: str, timestep: int, text: str, kind: str) -> str:
        """Store key of what one pass leaves behind of one kind."""
        size = self.recipe.map_size if kind.endswith("map") else None
        facts = self.frames.facts(frame_key)
        return make_key("record", kind, size, facts, timestep, self.seed, text)

    def check_columns(self, row: Row) -> None:
        """Raise where a prompt names a column that X does not have."""
        for prompt in self.prompts:
            for column in _COLUMN.findall(prompt):
                if column not in row.columns:
                    known = ", ".join(map(repr, row.columns)) or "none"
                    raise ValueError(
                        f"The prompt {prompt!r} names the column {column!r}, but the "
                        f"columns of X beside the media are: {known}. Pass a DataFrame "
                        "with such a column, or change the prompt."
                    )

    def texts(self, row: Row) -> tuple[str, ...]:
        """The prompts with the row's own columns in the place of ``"{column}"``."""

        def value(match):
            text = row.columns[match[1]]
            if text is None or text != text:  # NaN is unequal to itself
                raise ValueError(
                    f"Row{str(row)[3:]}: the column {match[1]!r} of the prompts "
                    "is empty here. Fill it or leave the row out."
                )
            return str(text)

        return tuple(_COLUMN.sub(value, prompt) for prompt in self.prompts)
