"""What a text says to the denoiser, row by row; made of prompts by the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch


@dataclass(frozen=True, eq=False)
class Conditioning:
    """All that a denoiser is told beside the noisy latents and the timestep.

    One row per prompt. Callers choose, repeat and stack rows; which arguments of which
    network the tensors become is known to :meth:`arguments` alone. A model that is told
    more adds a field, whose first axis are the rows too.

    Attributes
    ----------
    states : tensor of shape (K, L, C)
        What cross-attention reads.
    content : bool tensor of shape (K, L) or None, on the CPU
        True at a prompt's own words; False at start, end and padding. None where no
        prompt stands behind the states.
    """

    states: torch.Tensor
    content: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: int | slice) -> Conditioning:
        """Some rows; an int gives one row, which is a conditioning too."""
        if isinstance(rows, int):
            rows = slice(rows, rows + 1 or None)
        return self._map(lambda value: value[rows])

    def repeat(self, count: int) -> Conditioning:
        """All rows in their order, `count` times."""
        return self._map(lambda value: value.repeat(count, *[1] * (value.ndim - 1)))

    def expand(self, count: int) -> Conditioning:
        """One row as `count` rows, without a copy; `count` rows as they are."""
        return self._map(lambda value: value.expand(count, *value.shape[1:]))

    def to(self, dtype: torch.dtype) -> Conditioning:
        """Floating-point parts in another precision."""
        return self._map(
            lambda value: value.to(dtype) if value.is_floating_point() else value
        )

    @staticmethod
    def stack(parts: Sequence[Conditioning]) -> Conditioning:
        """The rows of several, in their order."""
        first = parts[0]
        names = [f.name for f in fields(first) if getattr(first, f.name) is not None]
        return Conditioning(
            **{name: torch.cat([getattr(p, name) for p in parts]) for name in names}
        )

    def arguments(self) -> dict[str, torch.Tensor]:
        """Keyword arguments of a diffusers UNet or ControlNet."""
        return {"encoder_hidden_states": self.states}

    def _map(self, change):
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Conditioning(
            **{k: None if v is None else change(v) for k, v in values.items()}
        )
