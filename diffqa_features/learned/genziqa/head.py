"""Alignments of blocks and prompts in, scores per block out, by learned weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class LinearHead(nn.Module):
    """Non-negative weights of blocks and prompts, and of the bias.

    The first prompt counts positively and the others negatively, as does the bias,
    which is negative where noise is predicted better under the first prompt: from the
    beginning, a picture that fits the first prompt better has the higher score. At
    first, weights are equal, as in the mean.

    Parameters
    ----------
    prompts : int
    blocks : int
    bias : bool
        Whether block scores have a bias.
    """

    def __init__(self, prompts: int, blocks: int, bias: bool):
        super().__init__()
        signs = torch.tensor([1.0] + [-1.0] * (prompts - 1))
        self.register_buffer("signs", signs[:, None], persistent=False)
        # A trained number is weight times spread: alignments spread less than the bias
        # (on the first edition of `tiny`, their mean by 0.03 and not 0.9), so equal
        # steps of weights would hardly move them.
        self.register_buffer("spread", torch.ones(prompts, blocks))
        self.alignment = nn.Parameter(torch.full((prompts, blocks), 1 / prompts))
        self.bias = nn.Parameter(torch.ones(1)) if bias else None

    def begin(self, alignments: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Set the spreads to those of untrained alignments (n, K, P)."""
        mean = np.average(alignments, 0, weights=weight)
        spread = np.sqrt(np.average((alignments - mean) ** 2, 0, weights=weight))
        with torch.no_grad():
            self.spread.copy_(torch.from_numpy(np.where(spread > 0, spread, 1.0)))
            self.alignment.copy_(self.spread / len(self.spread))

    def forward(self, alignments, bias) -> torch.Tensor:
        """Block scores (N, P) of alignments (N, K, P); their mean is the score."""
        scores = (self.signs * self._weights() * alignments).sum(1)
        return scores if bias is None else scores - self.bias.abs() * bias[:, None]

    def _weights(self):
        return self.alignment.abs() / self.spread

    @torch.no_grad()
    def weights(self) -> dict[str, list]:
        """The weights now, for the history: per prompt and block, and of the bias."""
        found = {"head": self._weights().tolist()}
        if self.bias is not None:
            found["head_bias"] = float(self.bias.abs())
        return found
