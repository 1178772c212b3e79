"""What this processor, with this torch, can do; marks for tests that need it."""

import pytest
import torch

from diffqa_features._utils.processor import attends_in_bfloat16

# torch 2.13 takes a path for AMX by the processor, and needs AVX-512 by the variable.
needs_bfloat16_attention = pytest.mark.skipif(
    not attends_in_bfloat16(),
    reason="torch cannot attend in bfloat16 with this ATEN_CPU_CAPABILITY",
)

needs_bfloat16_kernels = pytest.mark.skipif(
    not (
        torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ),
    reason="oneDNN has no kernels in bfloat16 for this processor",
)
