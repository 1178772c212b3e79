"""Observe one UNet pass at named modules, stop early, leave no hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from diffqa_features._backbone.conditioning import Conditioning

Adapter = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Tap:
    """A module of the UNet and a callback for its output.

    For a module that returns a tuple (a down block), the callback gets its first entry,
    the hidden state. The return value of ``see`` is ignored: outputs are never changed.
    """

    module: str
    see: Callable[[torch.Tensor], None]


class _EverythingSeen(Exception):
    """Raised inside the last hook to leave the forward pass."""


def run_unet(
    unet,
    sample: torch.Tensor,
    timestep: int | torch.Tensor,
    conditioning: Conditioning,
    taps: Sequence[Tap] = (),
    *,
    whole: bool = True,
    adapters: Mapping[str, Adapter] | None = None,
    control: tuple[Sequence[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor | None:
    """Run one pass on ``sample`` (B, C, h, w), conditioned row by row.

    Called by `Backbone.run` under its lock. ``timestep`` is one for all rows, or a
    tensor (B,).

    With ``whole=False``, the pass stops as soon as every tap has seen its tensor, and
    ``None`` is returned instead of the output. The last module is found by counting
    calls, not from the order of registration, where ``mid_block`` comes after
    ``up_blocks``.

    The UNet's own processors and forward methods are not replaced, so its output is
    bit-identical with and without taps.

    ``adapters`` do change the data: each maps a module's first input and its output to
    a new output for this call, which the taps see.

    ``control``, one tensor for each skip connection and one for the middle, is added at
    the inputs of the decoder, as by a ControlNet: taps of the encoder and the middle
    see the values before.
    """
    down, middle = (None, None) if control is None else control
    unseen = {index: tap.module for index, tap in enumerate(taps)}
    handles = []

    def hook_of(index, tap):
        def hook(module, args, output):
            tap.see(output[0] if isinstance(output, tuple) else output)
            unseen.pop(index, None)
            if not unseen and not whole:
                raise _EverythingSeen

        return hook

    def adapt_with(adapter):
        return lambda module, args, output: adapter(args[0], output)

    try:
        # Before the taps: hooks run in the order in which they are registered.
        for name, adapter in (adapters or {}).items():
            module = unet.get_submodule(name)
            handles.append(module.register_forward_hook(adapt_with(adapter)))
        for index, tap in enumerate(taps):
            module = unet.get_submodule(tap.module)
            handles.append(module.register_forward_hook(hook_of(index, tap)))
        output = unet(
            sample,
            timestep,
            **conditioning.arguments(),
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
    except _EverythingSeen:
        output = None
    finally:
        for handle in handles:
            handle.remove()
    if unseen:
        names = ", ".join(sorted(set(unseen.values())))
        raise RuntimeError(f"The UNet's forward pass never reached: {names}.")
    return output
