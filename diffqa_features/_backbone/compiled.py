"""A frozen UNet and modules to observe -> a compiled pass, for `DIFFQA_COMPILE=1`."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence

import torch
from torch import nn

from diffqa_features._backbone.capture import Tap
from diffqa_features._backbone.conditioning import Conditioning
from diffqa_features._utils.batching import is_out_of_memory

log = logging.getLogger(__name__)

_MAX_GRAPHS = 64
# How far compiled values may be off, as a share of the largest; else they are not used.
_EXACT, _HALF = 1e-3, 0.1


class CompiledPasses:
    """Compiled passes of a UNet: one for each selection of taps, row count and size.

    A pass is compiled at its first use, and again for more rows. Fewer, such as the
    last of a call, are filled up: in bfloat16, compiled values differ from others, and
    a row's must not depend on the batch it falls into. Once compiling has failed, what
    is not compiled yet is left to `run_unet`.
    """

    def __init__(self, unet: nn.Module):
        self._unet = unet
        self._known: dict[tuple, tuple[int, nn.Module]] = {}
        self._failed = False

    def run(
        self,
        sample: torch.Tensor,
        timestep: int | torch.Tensor,
        conditioning: Conditioning,
        taps: Sequence[Tap] = (),
        *,
        whole: bool = True,
    ) -> tuple[bool, torch.Tensor | None]:
        """Whether the pass was run, and what `run_unet` would return."""
        count = len(sample)
        modules = tuple(tap.module for tap in taps)
        whole = whole or not taps
        key = modules, whole, sample.shape[1:], conditioning.states.shape[1:]
        rows, network = self._known.get(key, (0, None))
        filled = torch.arange(max(rows, count)).clamp(max=count - 1)
        inputs = (
            sample[filled],
            # One per row: a number would be compiled in.
            torch.as_tensor(timestep).expand(count)[filled],
            conditioning[filled].arguments(),
        )
        if count > rows and not self._failed:
            network = self._compile(_Observed(self._unet, modules, whole), inputs)
            rows, self._known[key] = count, (count, network)
        if count > rows or network is None:
            return False, None
        seen, output = network(*inputs)
        for index, value in seen:
            taps[index].see(value[:count])
        return True, output if output is None else output[:count]

    def _compile(self, network, inputs):
        """The compiled network, or None if it cannot be had or deviates."""
        try:
            with (
                torch._dynamo.config.patch(recompile_limit=_MAX_GRAPHS),
                warnings.catch_warnings(),
            ):
                # Of torch's own parts, and of look-ups that diffusers caches.
                warnings.simplefilter("ignore")
                compiled = torch.compile(network, fullgraph=True, dynamic=False)
                found = compiled(*inputs)
        except Exception as error:  # of tracing, generated code, or a compiler
            if is_out_of_memory(error):
                raise
            # The first line may say only where; the cause is in the second.
            reason = " ".join(str(error).split("\n")[:2])
        else:
            if _agree(found, network(*inputs)):
                return compiled
            reason = "The compiled pass gives other values"
        self._failed = True
        log.warning(
            "Passes go on uncompiled: %s. DIFFQA_COMPILE=1 needs a C++ compiler, g++ "
            "or clang++ on the PATH or named by CXX; unset it to do without.",
            reason.rstrip("."),
        )
        return None


class _Observed(nn.Module):
    """A UNet that also returns what its modules put out, in the order of execution.

    Its hooks stay, on a copy that shares the weights, and are compiled with the rest.
    Without `whole`, nothing needs what comes after the last of them, so it is left out.
    """

    def __init__(self, unet, modules, whole):
        super().__init__()
        shared = {id(t): t for t in (*unet.parameters(), *unet.buffers())}
        self.unet, self.whole = copy.deepcopy(unet, shared), whole
        # Read in each pass, so that no other selection's graph is taken for this one's:
        # torch does not look at hooks.
        self.modules_seen = modules
        self.seen = []
        for index, name in enumerate(modules):
            self.unet.get_submodule(name).register_forward_hook(self._keep(index))

    def _keep(self, index):
        def hook(module, args, output):
            value = output[0] if isinstance(output, tuple) else output
            self.seen.append((index, self.modules_seen[index], value))

        return hook

    def forward(self, sample, timesteps, arguments):
        self.seen = []
        output = self.unet(sample, timesteps, **arguments, return_dict=False)[0]
        seen, self.seen = self.seen, []
        return [(i, value) for i, _, value in seen], output if self.whole else None


def _agree(found, expected):
    pairs = zip(_tensors(found), _tensors(expected), strict=True)
    return all(
        (a.float() - b.float()).abs().max()
        <= (_EXACT if b.dtype == torch.float32 else _HALF) * b.float().abs().max()
        for a, b in pairs
    )


def _tensors(passed):
    seen, output = passed
    return [value for _, value in seen] + ([] if output is None else [output])
