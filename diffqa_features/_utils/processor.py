"""What a processor is good at: the precision for it, and memory that it keeps."""

import ctypes
import os
import sys
from functools import cache

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's mallopt
_NEVER = 2**31 - 1


@cache
def fast_precision() -> tuple[torch.dtype, str]:
    """The precision of ``dtype="auto"`` on this processor, and why.

    It follows from what the processor is and not from a measurement, so that it is the
    same in every process.
    """
    able = getattr(torch.cpu, "get_capabilities", dict)()
    if not able.get("amx_bf16"):
        return torch.float32, "no AMX for bfloat16"
    if not attends_in_bfloat16():
        # torch 2.13 takes a path for AMX by the processor, whose kernel needs AVX-512.
        return torch.float32, "AMX, but torch is held to less by ATEN_CPU_CAPABILITY"
    return torch.bfloat16, "AMX"


def attends_in_bfloat16() -> bool:
    """Whether attention in bfloat16 runs at all."""
    query = torch.zeros(1, 1, 64, 8, dtype=torch.bfloat16)
    key = torch.zeros(1, 1, 77, 8, dtype=torch.bfloat16)
    try:
        torch.nn.functional.scaled_dot_product_attention(query, key, key)
    except RuntimeError:
        return False
    return True


@cache
def keep_memory() -> bool:
    """Let the C library keep freed memory for the next pass; whether it does.

    By default glibc returns large blocks to the system and asks for them again: of
    Stable Diffusion in float32, page faults are a sixth of the processor time. Memory
    stays at its peak until the process ends. The environment variable
    ``DIFFQA_KEEP_MEMORY=0`` leaves the C library as it is, as do other systems.
    """
    if not sys.platform.startswith("linux"):
        return False
    if os.environ.get("DIFFQA_KEEP_MEMORY", "1") == "0":
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return set_option is not None and all(
        [set_option(_MMAP_MAX, 0), set_option(_TRIM_THRESHOLD, _NEVER)]
    )
