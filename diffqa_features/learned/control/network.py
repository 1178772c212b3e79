"""A frozen UNet in, a trainable control copy of its encoder and middle out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from diffqa_features._backbone.capture import Tap
from diffqa_features._backbone.conditioning import Conditioning
from diffqa_features._backbone.weights import layout_of, quiet
from diffqa_features._utils.profiling import timed

_COPIED = ("conv_in.", "time_embedding.", "down_blocks.", "mid_block.")
_HINT = "controlnet_cond_embedding"


def make_control(unet, weights: Mapping[str, np.ndarray] | None = None):
    """A `ControlNetModel` that sees z_t and z_0, in float32 on the UNet's device.

    Encoder and middle are copies of the UNet's, and their outputs pass through
    zero-initialised convolutions: untrained, the control changes nothing. `weights`
    replace the initial ones.

    The input layer on z_t and z_0 is written as a sum: the copied convolution on z_t
    plus one on z_0, in the place of a ControlNet's conditioning network. The latter is
    zero-initialised, as the extra input channels of a single convolution would be.
    """
    from diffusers import ControlNetModel

    problem = _find_problem(unet.config)
    if problem:
        raise ValueError(f"A controller needs a UNet that {problem}.")
    first = unet.conv_in
    device = first.weight.device  # the UNet's own property looks at all its modules
    # Nothing is drawn and nothing allocated before the weights are known.
    with quiet(), torch.device("meta"):
        network = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        network.controlnet_cond_embedding = nn.Conv2d(
            first.in_channels, first.out_channels, 3, padding=1, bias=False
        )
    source = unet.state_dict() if weights is None else weights
    placed = {}
    for name, empty in network.state_dict().items():
        if weights is None and not name.startswith(_COPIED):
            value = torch.zeros(empty.shape)
        else:
            value = torch.as_tensor(source[name])
        value = value.to(device, torch.float32, copy=True)
        placed[name] = value.to(memory_format=layout_of(value))
    network.load_state_dict(placed, assign=True)
    return network


@timed("unet")
def run_controlled(
    backbone,
    network,
    noisy: torch.Tensor,
    clean: torch.Tensor,
    timesteps: int | torch.Tensor,
    conditioning: Conditioning,
    taps: Sequence[Tap] = (),
):
    """One pass of the frozen UNet on z_t (N, C, h, w), controlled by z_0.

    Without a network the UNet runs unchanged. Returns its output, and the tensors added
    to its skips and middle, or None.
    """
    control = None
    if network is not None:
        noisy = noisy.to(backbone.dtype)
        told = conditioning.expand(len(noisy)).arguments()
        control = network(
            noisy,
            timesteps,
            controlnet_cond=clean.to(noisy),
            return_dict=False,
            **told,
        )
    output = backbone.run(noisy, timesteps, conditioning, taps, control=control)
    return output, control


def _find_problem(config):
    """Parts of the UNet that a `ControlNetModel` would not copy."""
    if not isinstance(config.layers_per_block, int):
        return (
            "has as many layers at each level, as those of Stable Diffusion 1 and 2 "
            f"do; this one has layers_per_block={config.layers_per_block}"
        )
    if config.mid_block_type is None:
        return "has a middle block; this one has mid_block_type=None"
    return None
