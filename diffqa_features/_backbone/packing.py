"""A frozen network in half precision -> its layers, with weights ready for oneDNN.

oneDNN multiplies weights in a layout of its own and otherwise brings them into it at
every pass: of Stable Diffusion 1.5 in bfloat16 that is a quarter of a pass with two
rows, and a sixth of one with eight.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import nn

_IN_CACHE = 2**26  # bytes of weights; below, nothing is gained

# Layer -> the weight and its version that were packed, and the packed one. On the side:
# copies of the network may be trained, and must not take these along.
_packed: WeakKeyDictionary[nn.Module, tuple] = WeakKeyDictionary()


def pack_weights(network: nn.Module, smallest: int = _IN_CACHE) -> None:
    """Give the linear layers and convolutions of a network on a CPU packed weights.

    Each is packed at its first use without gradient, and gives the same numbers but for
    the choice of a kernel. The plain weights stay for gradients and copies, so a
    network in bfloat16 takes as much memory as in float32. Networks of fewer bytes than
    `smallest` are left alone.
    """
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops, "mkldnn")):
        return
    if sum(p.numel() * p.element_size() for p in network.parameters()) < smallest:
        return
    for module in network.modules():
        if type(module) in _KINDS:
            module.__class__ = _KINDS[type(module)]


class _Linear(nn.Linear):
    def forward(self, x):
        if not _may(self, x):
            return super().forward(x)
        weight = _recall(self)
        if weight is None:
            weight = _keep(
                self, torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())
            )
        return torch.ops.mkldnn._linear_pointwise(x, weight, self.bias, "none", [], "")


class _Conv2d(nn.Conv2d):
    def forward(self, x):
        if not _may(self, x) or isinstance(self.padding, str):
            return super().forward(x)
        shape = self.padding, self.stride, self.dilation, self.groups
        weight = _recall(self)
        if weight is None:
            weight = _keep(
                self,
                torch.ops.mkldnn._reorder_convolution_weight(
                    self.weight.detach(), *shape, list(x.shape)
                ),
            )
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, self.bias, *shape, "none", [], ""
        )


_KINDS = {nn.Linear: _Linear, nn.Conv2d: _Conv2d}


def _may(layer, x):
    # These operators know neither gradients nor autocast.
    return not (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or x.dtype != layer.weight.dtype
    )


def _recall(layer):
    weight, version, packed = _packed.get(layer, (None, None, None))
    same = weight is layer.weight and version == layer.weight._version
    return packed if same else None


def _keep(layer, packed):
    _packed[layer] = layer.weight, layer.weight._version, packed
    return packed
