"""Everything that decides the numbers of one call, and the store keys it gives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from diffqa_features._engine.layout import FeatureLayout, MapLayout
from diffqa_features._engine.records import Recipe
from diffqa_features._media.rows import Row
from diffqa_features._utils.hashing import make_key

FORMAT = 1
"""Raised whenever a stored number changes its meaning; part of every store key."""

_COLUMN = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Request:
    """Everything that decides the numbers of a call."""

    backbone: str
    identity: str
    recipe: Recipe
    timesteps: tuple[int, ...]
    prompts: tuple[str, ...]
    view: str
    image_size: int
    multiple: int
    frame_rate: float
    max_frames: int | None
    reader: str
    frame_statistics: tuple[str, ...]
    seed: int
    device: str | None
    dtype: str
    batch_size: int | None
    layout: FeatureLayout | MapLayout

    def key(self, kind: str, frame_key: str, *parts: object) -> str:
        """Store key: the hash of all that the entry depends on."""
        size = self.recipe.map_size if kind.endswith("map") else None
        return make_key(
            FORMAT, kind, frame_key, self.view, self.image_size, self.identity,
            self.dtype, size, *parts,
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return self.layout.width * len(self.frame_statistics)

    def record_key(self, frame_key: str, timestep: int, text: str, kind: str) -> str:
        return self.key(kind, frame_key, timestep, self.seed, text)

    def latent_key(self, frame_key: str) -> str:
        return self.key("latent", frame_key)

    def frames_key(self, media_key: str) -> str:
        """Key of the list of frame keys that a file comes to; readers agree on it."""
        return make_key(FORMAT, "frames", media_key, self.frame_rate, self.max_frames)

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
