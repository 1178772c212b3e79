"""Hidden states of several sizes in, a quality map and a score out (DP-IQA's QFD)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from diffqa_features._engine.pooling import pool_space

MAPS = 8
_SMALLEST = 1e-3  # added to deviations, as by DiffVQA
_SQUEEZE, _FEWEST = 16, 4  # channels of a gate: a sixteenth of all, but some


@dataclass
class Quality:
    """The decoder's output for N pictures."""

    scores: torch.Tensor  # (N,)
    maps: torch.Tensor  # (N, 8, grid, grid), not negative
    hidden: torch.Tensor  # (N, width), what the score is a linear function of
    pooled: torch.Tensor  # (N, 2 C), see `pool_states`; or (N, 0) if not asked for


class QualityDecoder(nn.Module):
    """Resample all states to one grid, weight their channels, fuse, reduce to 8 maps.

    Parameters
    ----------
    channels : sequence of int
        Channels of the states, finest first.
    grid : int
        Side of the maps. The last layers are linear in all their cells.
    width : int
        Channels of each branch, 512 in the paper.
    """

    def __init__(self, channels: Sequence[int], grid: int, width: int = 512):
        super().__init__()
        self.grid = grid
        self.pools_states = False  # for those who read them
        self.branches = nn.ModuleList(_Branch(c, width) for c in channels)
        self.fuse = _Branch(width * len(channels), width)
        narrower = [max(width // 4, MAPS), max(width // 16, MAPS), MAPS]
        self.shrink = nn.ModuleList(
            nn.Conv2d(entering, leaving, 1)
            for entering, leaving in zip([width, *narrower], narrower)
        )
        sizes = [MAPS * grid**2, width, width]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.score = nn.Linear(width, 1)

    def forward(self, states: Sequence[torch.Tensor]) -> Quality:
        size = (self.grid, self.grid)
        x = torch.cat(
            [
                branch(
                    state
                    if state.shape[2:] == size
                    else F.interpolate(state, size, mode="bicubic")
                )
                for branch, state in zip(self.branches, states, strict=True)
            ],
            1,
        )
        x = self.fuse(x)
        for layer in self.shrink:
            x = F.relu(layer(x))
        maps = x.contiguous()  # (N, 8, grid, grid): the order that flatten means
        x = maps.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        pooled = pool_states(states) if self.pools_states else x[:, :0]
        return Quality(self.score(x)[:, 0], maps, x, pooled)


@torch.no_grad()
def pool_states(states: Sequence[torch.Tensor]) -> torch.Tensor:
    """Per state, the mean of each channel, then the log of its deviation, float32."""
    columns = []
    for state in states:
        mean, spread = pool_space(state, ("mean", "std")).unbind(1)
        columns += [mean, torch.log(spread + _SMALLEST)]
    return torch.cat(columns, 1)


class _Branch(nn.Module):
    """A convolution, and a gate for each of its channels (squeeze and excitation)."""

    def __init__(self, entering, leaving):
        super().__init__()
        squeezed = max(leaving // _SQUEEZE, _FEWEST)
        self.conv = nn.Conv2d(entering, leaving, 3, padding=1)
        self.squeeze = nn.Linear(leaving, squeezed, bias=False)
        self.excite = nn.Linear(squeezed, leaving, bias=False)

    def forward(self, x):
        x = self.conv(x)
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3)))))
        return x * torch.sigmoid(gate)[:, :, None, None]
