"""Mamba's mixer of a sequence, on any device, in time and memory linear in its length.

The pure torch loop in transformers is linear in the forward pass only: autograd writes
a gradient of the whole sequence at every step, so a training step is quadratic.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.mamba.modeling_mamba import MambaConfig, MambaMixer


class LinearMixer(MambaMixer):
    """transformers' `MambaMixer`, same parameters and results, but our own scan.

    On CUDA with `mamba_ssm` and `causal_conv1d` installed, transformers' own mixer
    runs, which calls their kernels.

    Parameters
    ----------
    width : int
        Width of the input and output tokens.
    state_size : int
        Size of the state of each of the ``2 * width`` inner channels.
    """

    def __init__(self, width: int, state_size: int):
        config = MambaConfig(
            vocab_size=1,
            hidden_size=width,
            state_size=state_size,
            num_hidden_layers=1,
        )
        super().__init__(config, layer_idx=0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mix tokens (B, L, width); each sees itself and the preceding ones."""
        if tokens.is_cuda and _has_kernels():
            return super().forward(tokens)
        inner, gate = self.in_proj(tokens).chunk(2, -1)  # (B, L, E) each
        inner = self.conv1d(inner.transpose(1, 2))[..., : tokens.shape[1]]
        inner = F.silu(inner).transpose(1, 2)
        sizes = [self.time_step_rank, self.ssm_state_size, self.ssm_state_size]
        steps, entering, leaving = self.x_proj(inner).split(sizes, -1)
        steps = F.softplus(self.dt_proj(steps))
        # A product over the whole sequence is no place for half precision.
        with torch.autocast(tokens.device.type, enabled=False):
            seen = selective_scan(
                inner.float(),
                steps.float(),
                -self.A_log.float().exp(),
                entering.float(),
                leaving.float(),
            )
            seen = seen + self.D.float() * inner.float()
        return self.out_proj(seen.to(gate.dtype) * F.silu(gate))


def selective_scan(
    inner: torch.Tensor,
    steps: torch.Tensor,
    decay: torch.Tensor,
    entering: torch.Tensor,
    leaving: torch.Tensor,
) -> torch.Tensor:
    """Carry a state h (E, S) along sequences (B, L, E) and read it at every step.

    ``h_t = exp(steps_t decay) h_{t-1} + steps_t entering_t inner_t`` and what is read
    is ``leaving_t · h_t``, with `decay` (E, S), `steps` as `inner`, and `entering` and
    `leaving` (B, L, S).
    """
    # The sequence comes first, so that every step is one block of memory.
    inner, steps = inner.transpose(0, 1), steps.transpose(0, 1)  # (L, B, E)
    entering, leaving = entering.transpose(0, 1), leaving.transpose(0, 1)
    kept = torch.exp(steps[..., None] * decay)  # (L, B, E, S)
    added = (steps * inner)[..., None] * entering[:, :, None]
    states = _Recurrence.apply(kept, added)
    return (states @ leaving[..., None])[..., 0].transpose(0, 1)  # (B, L, E)


class _Recurrence(torch.autograd.Function):
    """h_t = a_t h_{t-1} + b_t along the first axis, from h_{-1} = 0."""

    @staticmethod
    def forward(ctx, a, b):
        states = b.clone()
        kept, steps = a.unbind(0), states.unbind(0)
        for t in range(1, len(steps)):
            steps[t].addcmul_(kept[t], steps[t - 1])
        ctx.save_for_backward(a, states)
        return states

    @staticmethod
    def backward(ctx, gradient):
        a, states = ctx.saved_tensors
        into_b = gradient.clone()
        kept, steps = a.unbind(0), into_b.unbind(0)
        for t in range(len(steps) - 2, -1, -1):
            steps[t].addcmul_(kept[t + 1], steps[t + 1])
        into_a = torch.zeros_like(a)
        torch.mul(into_b[1:], states[:-1], out=into_a[1:])
        return into_a, into_b


def _has_kernels() -> bool:
    return all(find_spec(name) is not None for name in ("mamba_ssm", "causal_conv1d"))


class BothWays(nn.Module):
    """One mixer from the first token to the last, one from the last to the first.

    Sequences can be shorter than the batch: each is reversed within its own tokens, so
    padding always comes last and no token sees it.
    """

    def __init__(self, width: int, state_size: int):
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.onward = LinearMixer(width, state_size)
        self.back = LinearMixer(width, state_size)

    def forward(self, tokens: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        """Add the output of both mixers to tokens (B, L, width); see `turn_around`."""
        normed = self.norm(tokens)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        back = self.back(normed[rows, turned])[rows, turned]
        return tokens + self.onward(normed) + back


def turn_around(counts: torch.Tensor, length: int) -> torch.Tensor:
    """Indices (B, L) that reverse the first `counts` (B,) tokens of each sequence."""
    places = torch.arange(length, device=counts.device).expand(len(counts), -1)
    last = counts[:, None] - 1
    return torch.where(places <= last, last - places, places)
