"""The denoiser's text input, row by row; created from prompts by the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Conditioning:
    """All inputs of a denoiser besides the noisy latents and the timestep.

    One row per prompt. Callers select, repeat and stack rows; only :meth:`arguments`
    knows how the tensors map to network arguments. A model with more inputs adds a
    field, also with rows along the first axis.

    Attributes
    ----------
    states : tensor of shape (K, L, C)
        Input of cross-attention.
    content : bool tensor of shape (K, L) or None, on the CPU
        True at a prompt's own words; False at start, end and padding. None if the
        states do not come from a prompt.
    pooled : tensor of shape (K, P) or None
        One vector per prompt beside its states, of Stable Diffusion XL and its family.
    sizes : float32 tensor of shape (K, 6) or None
        What such a model is told of the picture, in pixels: height and width of the
        original, top and left of the crop, height and width wanted.
    """

    states: torch.Tensor
    content: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    sizes: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: int | slice | torch.Tensor) -> Conditioning:
        """Some rows; an int selects one row, also as a conditioning."""
        if isinstance(rows, int):
            rows = slice(rows, rows + 1 or None)
        return self._map(lambda value: value[rows])

    def repeat(self, count: int) -> Conditioning:
        """All rows in order, `count` times."""
        return self._map(lambda value: value.repeat(count, *[1] * (value.ndim - 1)))

    def expand(self, count: int) -> Conditioning:
        """One row as `count` rows, without a copy; `count` rows unchanged."""
        return self._map(lambda value: value.expand(count, *value.shape[1:]))

    def to(self, dtype: torch.dtype) -> Conditioning:
        """Floating-point parts in another precision."""
        return self._map(
            lambda value: value.to(dtype) if value.is_floating_point() else value
        )

    def for_size(self, height: int, width: int) -> Conditioning:
        """Filled in for a whole picture: no crop of it, and no other size is wanted."""
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
        return replace(
            self, sizes=sizes.to(self.pooled.device).expand(len(self), len(sizes))
        )

    def clone(self) -> Conditioning:
        """A copy, which autograd takes if it is made outside inference mode."""
        return self._map(torch.clone)

    @staticmethod
    def stack(parts: Sequence[Conditioning]) -> Conditioning:
        """Concatenate the rows of several, in order."""
        first = parts[0]
        names = [f.name for f in fields(first) if getattr(first, f.name) is not None]
        return Conditioning(
            **{name: torch.cat([getattr(p, name) for p in parts]) for name in names}
        )

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of a diffusers UNet or ControlNet."""
        values = {"encoder_hidden_states": self.states}
        if self.pooled is not None:
            added = {"text_embeds": self.pooled, "time_ids": self.sizes}
            values["added_cond_kwargs"] = added
        return values

    def _map(self, change):
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Conditioning(
            **{k: None if v is None else change(v) for k, v in values.items()}
        )
