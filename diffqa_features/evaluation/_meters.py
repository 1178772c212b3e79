"""Meters per stage: one for time, one for operations and memory."""

import math
import threading
import time
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from diffqa_features._utils.allocator import release_memory

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_MIB = 2**20


class _Meter:
    """Attributes everything between two stage changes to the innermost stage."""

    def __init__(self):
        self._here = threading.local()

    def enter(self, name):
        stack = self._stack()
        self._change(stack)
        stack.append(name)

    def leave(self, name):
        stack = self._stack()
        self._change(stack)
        if stack:
            stack.pop()

    def _stack(self):
        if not hasattr(self._here, "stack"):
            self._here.stack = []
        return self._here.stack


class ClockMeter(_Meter):
    """Seconds per stage, in ``seconds``; time outside all stages is ignored."""

    def __init__(self):
        super().__init__()
        self.seconds = defaultdict(float)

    def _change(self, stack):
        Peak.wait()
        now = time.perf_counter()
        if stack:
            # Stages of different threads have different names, so no lock.
            self.seconds[stack[-1]] += now - self._here.since
        self._here.since = now


class CostMeter(_Meter):
    """Parameters, operations and peak memory per stage; a context manager."""

    def __init__(self):
        super().__init__()
        self._flops = FlopCounterMode(display=False, custom_mapping=_own_kernels())
        self._counted = 0
        self._operations = defaultdict(int)
        self._parameters = defaultdict(dict)
        self._peaks = defaultdict(lambda: np.nan)
        self._thread = threading.get_ident()

    def __enter__(self):
        self._hook = register_module_forward_pre_hook(self._see_module)
        self._flops.__enter__()
        Peak.reset()
        return self

    def __exit__(self, *exception):
        self._change(self._stack())
        self._flops.__exit__(*exception)
        self._hook.remove()

    def of(self, name) -> dict:
        """The values of a stage; ``None`` for the total."""
        if name is None:
            seen = {i: n for part in self._parameters.values() for i, n in part.items()}
            operations, peak = sum(self._operations.values()), self._peaks[None]
        else:
            seen, operations = self._parameters[name], self._operations[name]
            peak = self._peaks[name]
        return {
            "parameters": sum(seen.values()),
            "gmac": operations / 2e9,
            "peak_mib": peak / _MIB,
        }

    def _change(self, stack):
        name = stack[-1] if stack else "other"
        if threading.get_ident() == self._thread:
            # The counter sees this thread only, as torch's modes do.
            counted = self._flops.get_total_flops()
            self._operations[name] += counted - self._counted
            self._counted = counted
        peak = Peak.read()
        for part in {name, *stack, None}:
            self._peaks[part] = np.fmax(self._peaks[part], peak)
        Peak.reset()

    def _see_module(self, module, args):
        stack = self._stack()
        seen = self._parameters[stack[-1] if stack else "other"]
        # Lists of parameters are modules too, and are never called.
        lists = (torch.nn.ParameterList, torch.nn.ParameterDict)
        for part in (module, *(m for m in module.children() if isinstance(m, lists))):
            for parameter in part.parameters(recurse=False):
                seen[id(parameter)] = parameter.numel()


class Peak:
    """Peak memory since the last reset, of the CUDA devices or the process."""

    @staticmethod
    def wait():
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

    @staticmethod
    def kind() -> str:
        if torch.cuda.is_initialized():
            return "allocated by torch on the CUDA devices"
        if _can_reset():
            return "resident set of the process"
        return "not measured on this system"

    @staticmethod
    def reset():
        if torch.cuda.is_initialized():
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)
        elif _can_reset():
            release_memory()
            _CLEAR.write_text("5")

    @staticmethod
    def read() -> float:
        """Bytes."""
        if torch.cuda.is_initialized():
            devices = range(torch.cuda.device_count())
            return float(sum(map(torch.cuda.max_memory_allocated, devices)))
        if not _can_reset():
            return np.nan
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
        return np.nan


@cache
def _can_reset() -> bool:
    """Whether Linux lets the process reset its peak memory (by writing a 5)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _own_kernels() -> dict:
    """Operations of the CPU's own kernels, which torch's counter does not know."""

    def attention(query, key, value, *args, **kwargs):
        batch, heads, n, width = query
        return 2 * batch * heads * n * key[2] * (width + value[3])

    def linear(x, weight, *args, out_shape, **kwargs):
        return 2 * math.prod(out_shape) * x[-1]

    def convolution(x, weight, *args, out_shape, **kwargs):
        return 2 * math.prod(out_shape) * math.prod(weight[1:])

    kernels = {
        ("aten", "_scaled_dot_product_flash_attention_for_cpu"): attention,
        ("mkldnn", "_linear_pointwise"): linear,
        ("mkldnn", "_convolution_pointwise"): convolution,
    }
    found = {
        getattr(getattr(torch.ops, library), name, None): count
        for (library, name), count in kernels.items()
    }
    return {kernel: count for kernel, count in found.items() if kernel is not None}
