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

    A pass is compiled at its first use. Rows are filled up to a power of two, or to
    `rows` where that is fewer, so that few graphs serve any number of them and a row's
    values depend on nothing that the process did before. What cannot be compiled or
    deviates is left to `run_unet`.
    """

    def __init__(self, unet: nn.Module):
        self._unet = unet
        self._networks: dict[tuple, nn.Module | None] = {}
        self._checked = set()
        self._failed = False

    def run(
        self,
        sample: torch.Tensor,
        timestep: int | torch.Tensor,
        conditioning: Conditioning,
        taps: Sequence[Tap] = (),
        *,
        rows: int,
        whole: bool = True,
    ) -> tuple[bool, torch.Tensor | None]:
        """Whether the pass was run, and what `run_unet` would return.

        `rows` is the number of a full pass.
        """
        count = len(sample)
        rows = max(count, min(rows, 1 << (count - 1).bit_length()))
        modules = tuple(tap.module for tap in taps)
        whole = whole or not taps
        key = (
            modules, whole, rows, sample.shape[1:], conditioning.states.shape[1:],
            torch.get_num_threads(),  # a graph is made for a number of threads
        )  # fmt: skip
        if self._failed or self._networks.get(key, self) is None:
            return False, None
        filled = torch.arange(rows).clamp(max=count - 1)
        inputs = (
            sample[filled],
            # One per row: a number would be compiled in.
            torch.as_tensor(timestep).expand(count)[filled],
            conditioning[filled].arguments(),
        )
        if key not in self._networks:
            observed = _Observed(self._unet, modules, whole)
            self._networks[key] = torch.compile(observed, fullgraph=True, dynamic=False)
        found = self._call(key, inputs)
        if found is None or not self._check(key, found, inputs):
            return False, None
        seen, output = found
        for index, value in seen:
            taps[index].see(value[:count])
        return True, output if output is None else output[:count]

    def _call(self, key, inputs):
        """What the pass returns, or None if it cannot be compiled."""
        try:
            with (
                torch._dynamo.config.patch(recompile_limit=_MAX_GRAPHS),
                warnings.catch_warnings(),
            ):
                # Of torch's own parts, and of look-ups that diffusers caches.
                warnings.simplefilter("ignore")
                return self._networks[key](*inputs)
        except Exception as error:  # of tracing, generated code, or a compiler
            self._networks[key] = None
            if is_out_of_memory(error):
                raise  # fewer rows, or these uncompiled, may fit
            self._failed = True
            # The first line may say only where; the cause is in the second.
            reason = " ".join(str(error).split("\n")[:2])
            log.warning(
                "Passes go on uncompiled: %s. DIFFQA_COMPILE=1 needs a C++ compiler, "
                "g++ or clang++ on the PATH or named by CXX; unset it to do without.",
                reason.rstrip("."),
            )

    def _check(self, key, found, inputs):
        """Whether a pass may be used: the first is compared with an uncompiled one."""
        if key in self._checked:
            return True
        modules, whole = key[:2]
        expected = _tensors(_Observed(self._unet, modules, whole)(*inputs))
        if not all(value.isfinite().all() for value in expected):
            return False  # a row overflows, which says nothing about the others
        if not _agree(_tensors(found), expected):
            self._networks[key] = None
            log.warning(
                "A compiled pass gives other values and is not used; unset "
                "DIFFQA_COMPILE to do without compiling."
            )
            return False
        self._checked.add(key)
        return True


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
    return all(
        (a.float() - b.float()).abs().max()
        <= (_EXACT if b.dtype == torch.float32 else _HALF) * b.float().abs().max()
        for a, b in zip(found, expected, strict=True)
    )


def _tensors(passed):
    seen, output = passed
    return [value for _, value in seen] + ([] if output is None else [output])
