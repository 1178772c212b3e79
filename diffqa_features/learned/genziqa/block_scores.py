"""Noisy latents and a conditioning in, quality per block out: one pass for all rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from diffqa_features._backbone.blocks import Block
from diffqa_features._backbone.capture import Adapter, Tap
from diffqa_features._backbone.conditioning import Conditioning
from diffqa_features._engine.pooling import alignment


@dataclass
class Reading:
    """Result of one pass for N pictures, K prompts and P blocks."""

    alignments: torch.Tensor  # (N, K, P) float32
    bias: torch.Tensor | None  # (N,) float32
    queries: list[torch.Tensor] | None  # per block (N, K, C) float32
    head: Callable | None = None
    """Makes scores (N, P) of alignments and bias; None is the mean over prompts."""

    @property
    def scores(self) -> torch.Tensor:
        """q^p, the quality per block: (N, P)."""
        if self.head is not None:
            return self.head(self.alignments, self.bias)
        scores = self.alignments.mean(1)
        return scores if self.bias is None else scores + self.bias[:, None]


def read_blocks(
    backbone,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    conditioning: Conditioning,
    blocks: Sequence[Block],
    *,
    adapters: Mapping[str, Adapter] | None = None,
    sharpness: float,
    bias: bool = True,
    queries: bool = False,
    head: Callable | None = None,
) -> Reading:
    """Score N latents (N, C, h, w) at their timesteps (N,) with K prompts.

    All N x K rows go through the UNet together; both prompts of a picture see the same
    noise. Without the bias, the pass stops after the last block.
    """
    count, prompts = len(latents), len(conditioning)
    noisy = backbone.add_noise(latents, timesteps, noise)
    rows = noisy.repeat_interleave(prompts, 0)
    rows_at = timesteps.to(backbone.device).repeat_interleave(prompts)
    seen_queries, seen = {}, {}

    def see_queries(block):
        return lambda q: seen_queries.update({block.name: q})

    def see_keys(block):
        def see(k):
            q = seen_queries[block.name]
            # The sum of exponentials overflows in half precision.
            with torch.autocast(q.device.type, enabled=False):
                seen[block.name] = alignment(q, k, block.heads, sharpness)
            if queries:
                seen_queries[block.name] = q.float().mean(1)
            else:
                del seen_queries[block.name]

        return see

    taps = []
    for block in blocks:
        taps.append(Tap(f"{block.module}.to_q", see_queries(block)))
        taps.append(Tap(f"{block.module}.to_k", see_keys(block)))
    output = backbone.run(
        rows,
        rows_at,
        conditioning.repeat(count),
        taps,
        whole=bias,
        adapters=adapters,
    )
    difference = None
    if bias:
        predicted = backbone.to_noise(output, rows, rows_at)
        predicted = predicted.unflatten(0, (count, prompts))[:, :2]
        # Noise that is predicted better under the first prompt makes it negative; this
        # is the sign of the released code.
        errors = (predicted - noise[:, None].to(predicted)).flatten(2).norm(dim=2)
        difference = errors[:, 0] - errors[:, 1]
    alignments = torch.stack([seen[block.name] for block in blocks], 1)
    return Reading(
        alignments.unflatten(0, (count, prompts)),
        difference,
        [seen_queries[b.name].unflatten(0, (count, prompts)) for b in blocks]
        if queries
        else None,
        head,
    )
