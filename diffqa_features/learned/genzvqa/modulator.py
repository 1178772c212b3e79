"""Visual queries and motion in, a factor per block out: temporal quality modulator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from diffqa_features._backbone.blocks import Block

SCALES = ("multiply", "divide")
WIDTH = 64
"""Between the two layers of a key projection, as in the released GenzVQA."""


class TemporalModulator(nn.Module):
    """Factors gamma_p by which the motion of a video changes its block scores.

    At block p the queries of T frames under K prompts are split into heads and attend
    to keys made of slow and of fast motion features, without a softmax and without
    values. The means of all entries, s_p and f_p, give
    ``gamma_p = relu(w_p . [s_p, f_p] + c_p)``.

    Since there is no softmax in between, the mean over frames, prompts and clips can be
    taken before the product: only the mean query and the mean normalised motion of a
    video matter. The mean over heads of the per-head products is the product of the
    whole vectors divided by the number of heads.

    Parameters
    ----------
    blocks : sequence of Block
    slow_width, fast_width : int
        Number of slow and fast motion features.
    scale : {"multiply", "divide"}
        Whether the products are multiplied or divided by the square root of a head's
        width: the released code multiplies, attention divides.
    generator : torch.Generator
        Draws the key projections like PyTorch's linear layers. ``w`` is initialised to
        0 and ``c`` to 1: training starts from the model without a modulator, and no
        factor starts at 0, where the ReLU has no gradient.
    """

    def __init__(
        self, blocks: Sequence[Block], slow_width, fast_width, scale, generator
    ):
        super().__init__()
        power = {"multiply": 0.5, "divide": -0.5}[scale]
        self._factors = {
            module_name(block): (block.channels / block.heads) ** power / block.heads
            for block in blocks
        }
        self.slow = nn.ModuleDict()
        self.fast = nn.ModuleDict()
        self.gamma = nn.ModuleDict()
        for block in blocks:
            name, channels = module_name(block), block.channels
            self.slow[name] = MotionKeys(slow_width, channels, generator)
            self.fast[name] = MotionKeys(fast_width, channels, generator)
            self.gamma[name] = gamma = _linear(2, 1, generator)
            nn.init.zeros_(gamma.weight)
            nn.init.ones_(gamma.bias)

    def forward(
        self, queries: Sequence[torch.Tensor], slow: torch.Tensor, fast: torch.Tensor
    ) -> torch.Tensor:
        """Factors (N, P) of N videos.

        ``queries`` holds for every block the mean (N, C) over frames, prompts and
        space; ``slow`` and ``fast`` are means over clips of :func:`normalise`.
        """
        gammas = []
        # Products of whole vectors, times 8: beyond what half precision tells apart.
        with torch.autocast(slow.device.type, enabled=False):
            for (name, factor), query in zip(
                self._factors.items(), queries, strict=True
            ):
                keys = self.slow[name](slow), self.fast[name](fast)
                seen = [(query.float() * k).sum(1) * factor for k in keys]
                gammas.append(self.gamma[name](torch.stack(seen, 1)))
        return torch.cat(gammas, 1).relu()


class MotionKeys(nn.Module):
    """Normalised motion features (N, width) -> keys of one block (N, C)."""

    def __init__(self, width: int, channels: int, generator):
        super().__init__()
        # Of the layer norm, whose first half `normalise` has done for all blocks.
        self.norm_weight = nn.Parameter(torch.ones(width))
        self.norm_bias = nn.Parameter(torch.zeros(width))
        self.down = _linear(width, WIDTH, generator)
        self.up = _linear(WIDTH, channels, generator)

    def forward(self, motion: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(motion * self.norm_weight + self.norm_bias))


def normalise(clips: torch.Tensor) -> torch.Tensor:
    """Features of a video's clips (n, width) -> mean of the normalised ones (width,).

    Each clip's features get mean 0 and variance 1, as in a layer norm.
    """
    return F.layer_norm(clips, clips.shape[1:]).mean(0)


def module_name(block: Block) -> str:
    """Name of a block in a state dict, ``up1_0``: no dots in it."""
    return block.name.replace(".", "_")


def _linear(entering, leaving, generator):
    """A linear layer with PyTorch's initialisation, drawn from the generator."""
    layer = nn.utils.skip_init(nn.Linear, entering, leaving)
    bound = entering**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer
