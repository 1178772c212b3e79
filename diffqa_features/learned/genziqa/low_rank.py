"""Low-rank updates of cross-attention layers, applied to single passes of a UNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from diffqa_features._backbone.blocks import Block
from diffqa_features._backbone.capture import Adapter

LAYERS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
"""Name of a layer in a state dict -> its path in the attention module."""


class LowRankAdapters(nn.Module):
    """LoRA factors: ``y + up(down(x))`` on q, k, v and out of the selected blocks.

    The UNet determines the sizes and is not modified: `Backbone.run` applies
    :meth:`adapters` for one call and leaves nothing behind.

    Parameters
    ----------
    unet : UNet2DConditionModel
    blocks : sequence of Block
    rank : int
        0 leaves the UNet unchanged.
    generator : torch.Generator
        Draws ``down`` from N(0, 1 / rank²); ``up`` is initialised to 0, so training
        starts from the frozen model.
    """

    def __init__(self, unet, blocks: Sequence[Block], rank: int, generator):
        super().__init__()
        self._paths = {}
        for block in blocks if rank else ():
            attention = unet.get_submodule(block.module)
            for name, path in LAYERS.items():
                layer = attention.get_submodule(path)
                key = block, name
                down = torch.randn(rank, layer.in_features, generator=generator) / rank
                up = torch.zeros(layer.out_features, rank)
                for side, value in (("down", down), ("up", up)):
                    self.register_parameter(
                        factor_name(*key, side), nn.Parameter(value)
                    )
                self._paths[f"{block.module}.{path}"] = key

    def adapters(self) -> dict[str, Adapter]:
        """Module path in the UNet -> function that adapts its output."""
        return {path: self._adapter(key) for path, key in self._paths.items()}

    def _adapter(self, key):
        down, up = (getattr(self, factor_name(*key, s)) for s in ("down", "up"))

        def adapt(entered, left):
            change = F.linear(F.linear(entered.to(down), down), up)
            return left + change.to(left)

        return adapt


def factor_name(block: Block, layer: str, side: str) -> str:
    """Name of a factor in a state dict, ``up1_0_to_q_down``: no dots in it."""
    return f"{block.name}.{layer}_{side}".replace(".", "_")
