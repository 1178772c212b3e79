"""What this processor, with this torch, can do; marks for tests that need it."""

import pytest
import torch


def attends_in_bfloat16():
    q, k = (torch.zeros(1, 1, n, 8, dtype=torch.bfloat16) for n in (64, 77))
    try:
        torch.nn.functional.scaled_dot_product_attention(q, k, k)
    except RuntimeError:
        return False
    return True


# torch 2.13 takes a path for AMX by the processor, and needs AVX-512 by the variable.
needs_bfloat16_attention = pytest.mark.skipif(
    not attends_in_bfloat16(),
    reason="torch cannot attend in bfloat16 with this ATEN_CPU_CAPABILITY",
)
