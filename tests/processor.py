"""What this processor, with this torch, can do; marks for tests that need it."""

import pytest

from diffqa_features._utils.processor import attends_in_bfloat16

# torch 2.13 takes a path for AMX by the processor, and needs AVX-512 by the variable.
needs_bfloat16_attention = pytest.mark.skipif(
    not attends_in_bfloat16(),
    reason="torch cannot attend in bfloat16 with this ATEN_CPU_CAPABILITY",
)
