"""A processor and what torch can do on it -> the precision that is fast there."""

from functools import cache

import torch


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
