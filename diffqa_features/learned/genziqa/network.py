"""GenzIQA's trainable parts and forward pass: latents in, block scores out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from diffqa_features._backbone.blocks import Block
from diffqa_features._engine.passes import draw_noise, rows_per_pass
from diffqa_features._utils.batching import in_halves
from diffqa_features.learned._training import precision
from diffqa_features.learned.genziqa.block_scores import Reading, read_blocks
from diffqa_features.learned.genziqa.context import PromptContext
from diffqa_features.learned.genziqa.head import LinearHead
from diffqa_features.learned.genziqa.low_rank import LowRankAdapters


class GenzIQANetwork(nn.Module):
    """Context vectors, low-rank factors and a head for a frozen backbone."""

    def __init__(
        self,
        backbone,
        blocks: Sequence[Block],
        prompts: Sequence[str],
        *,
        n_context: int,
        context_position: str,
        lora_rank: int,
        bias: bool,
        sharpness: float,
        head: str = "mean",
        seed: int,
    ):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.blocks = tuple(blocks)
        self.bias = bias
        self.sharpness = sharpness
        self.context = PromptContext(backbone, prompts, n_context, context_position)
        self.lora = LowRankAdapters(backbone.unet, blocks, lora_rank, generator)
        self.head = None
        if head == "linear":
            self.head = LinearHead(len(prompts), len(self.blocks), bias)

    def read(
        self, backbone, latents, noise, timesteps, conditioning, *, queries=False
    ) -> Reading:
        """Score N latents at their timesteps (N,) with the given noise."""
        return read_blocks(
            backbone,
            latents,
            noise,
            timesteps,
            conditioning,
            self.blocks,
            adapters=self.lora.adapters(),
            sharpness=self.sharpness,
            bias=self.bias,
            queries=queries,
            head=self.head,
        )

    def sample(
        self,
        backbone,
        latents,
        lowest,
        highest,
        generators,
        counts: Sequence[int] | None = None,
        *,
        queries: bool = False,
    ) -> Reading:
        """Score with one random timestep in [lowest, highest) and noise per generator.

        Each generator serves one picture, or `counts` of them: a video's frames.
        """
        timesteps = torch.cat(
            [torch.randint(lowest, highest, (1,), generator=g) for g in generators]
        )
        shape = latents.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        if counts is not None:
            counts = torch.as_tensor(counts)
            timesteps = timesteps.repeat_interleave(counts)
            noise = noise.repeat_interleave(counts, 0)
        conditioning = self.context.condition(backbone)
        latents, noise = latents.to(backbone.device), noise.to(backbone.device)
        return self.read(
            backbone, latents, noise, timesteps, conditioning, queries=queries
        )


def read_ensemble(
    network: GenzIQANetwork,
    backbone,
    latents: np.ndarray,
    timesteps: Sequence[int],
    seed: int,
    dtype: torch.dtype,
    *,
    queries: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Block scores (N, P), and queries (N, sum of C), averaged over fixed timesteps."""

    def look(reading):
        if not queries:
            return [reading.scores]
        return [reading.scores, torch.cat([q.mean(1) for q in reading.queries], 1)]

    found = _average(network, backbone, latents, timesteps, seed, dtype, look, queries)
    return found[0], found[1] if queries else None


def read_alignments(
    network: GenzIQANetwork,
    backbone,
    latents: np.ndarray,
    timesteps: Sequence[int],
    seed: int,
    dtype: torch.dtype,
) -> np.ndarray:
    """Alignments (N, K, P), averaged over fixed timesteps."""

    def look(reading):
        return [reading.alignments]

    return _average(network, backbone, latents, timesteps, seed, dtype, look)[0]


@torch.no_grad()
def _average(
    network, backbone, latents, timesteps, seed, dtype, look, queries=False
) -> list[np.ndarray]:
    """Means over fixed timesteps of what `look` takes from a reading, one row each.

    The noise of a timestep is the same for every picture, so results do not depend on
    other rows or their order.
    """
    with precision(backbone.device, dtype):
        conditioning = network.context.condition(backbone)
    noises = {t: draw_noise(seed, t, latents.shape[1:]) for t in timesteps}

    def read(chunk):
        stack = torch.from_numpy(np.stack(chunk)).to(backbone.device)
        means = None
        for t, noise in noises.items():
            with precision(backbone.device, dtype):
                reading = network.read(
                    backbone,
                    stack,
                    noise.to(stack).expand_as(stack),
                    torch.full((len(stack),), t),
                    conditioning,
                    queries=queries,
                )
            parts = [part.double() / len(noises) for part in look(reading)]
            means = parts if means is None else [*map(torch.add, means, parts)]
        return [part.float().cpu().numpy() for part in means]

    rows = rows_per_pass(backbone, latents.shape[1:])
    pictures = max(1, rows // len(conditioning))
    parts, _ = in_halves(read, latents, pictures)
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def ensemble_timesteps(lowest: int, highest: int, count: int) -> tuple[int, ...]:
    """The fixed timesteps of a prediction in [lowest, highest).

    Over 100 steps those of the released code (8: 9, 21, ..., 93; 4: 9, 34, 59, 84;
    2: 40, 80; 1: 50), if it has `count` of them; else the centres of equal parts.
    """
    width = highest - lowest
    if width == 100:
        first = {1: [50], 2: [40, 80]}
        stride = width // count
        steps = first.get(count, [9 + stride * k for k in range(count)])
        if steps[-1] < width:
            return tuple(lowest + t for t in steps)
    return tuple(lowest + int((k + 0.5) * width / count) for k in range(count))
