"""A frozen network in half precision -> its layers, with weights ready for oneDNN.

oneDNN multiplies weights in a layout of its own and otherwise brings them into it at
every pass: of Stable Diffusion 1.5 in bfloat16 that is a quarter of a pass with two
rows, and a sixth of one with eight.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import nn

_IN_CACHE = 2**26  # bytes of weights; below, nothing is gained

# Layer -> which weight was packed, and the packed one. On the side: a copy of the
# network may be trained, and must not take these along.
_packed: WeakKeyDictionary[nn.Module, tuple] = WeakKeyDictionary()


def pack_weights(network: nn.Module, smallest: int = _IN_CACHE) -> bool:
    """Give the linear layers and convolutions of a network on a CPU packed weights.

    Each is packed at its first use without gradient, and gives the same numbers but for
    the order of sums. The plain weights stay, for gradients and copies, so a network in
    bfloat16 takes as much memory as in float32. Networks of fewer bytes than `smallest`
    are left alone; the answer is whether weights are packed.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    # Without AVX-512 there are no such kernels, and torch multiplies by its own.
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if sum(p.numel() * p.element_size() for p in network.parameters()) < smallest:
        return False
    for module in network.modules():
        kind = _KINDS.get(type(module))
        if kind is not None and not isinstance(getattr(module, "padding", 0), str):
            module.__class__ = kind
            _packed[module] = None, None
    return True


class _Linear(nn.Linear):
    def forward(self, x):
        ops = torch.ops.mkldnn
        weight = _packed_weight(self, x, ops._reorder_linear_weight)
        if weight is None:
            return super().forward(x)
        return ops._linear_pointwise(x, weight, self.bias, "none", [], "")


class _Conv2d(nn.Conv2d):
    def forward(self, x):
        ops = torch.ops.mkldnn
        shape = self.padding, self.stride, self.dilation, self.groups
        weight = _packed_weight(
            self,
            x,
            lambda weight: ops._reorder_convolution_weight(
                weight, *shape, list(x.shape)
            ),
        )
        if weight is None:
            return super().forward(x)
        return ops._convolution_pointwise(x, weight, self.bias, *shape, "none", [], "")


_KINDS = {nn.Linear: _Linear, nn.Conv2d: _Conv2d}


def _packed_weight(layer: nn.Module, x: torch.Tensor, pack: Callable):
    """The layer's packed weight, or None where the plain one has to be used."""
    weight = layer.weight
    if (
        layer not in _packed  # a copy
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or x.dtype != weight.dtype
    ):
        return None
    which = weight.data_ptr(), weight.dtype, weight._version
    if _packed[layer][0] != which:
        _packed[layer] = which, pack(weight.detach())
    return _packed[layer][1]
