"""Frames of a clip in, one vector per frame with the clip's context out (TCAB)."""

from __future__ import annotations

import math

import torch
from torch import nn

from diffqa_features.learned.diffvqa.selective_scan import BothWays, turn_around


class FrameMamba(nn.Module):
    """Bidirectional Mamba over the patches of all frames, as DiffVQA's TCAB.

    Patches become tokens, frame by frame. Each gets a learned embedding of its position
    and a fixed (sinusoidal) embedding of its frame number, so a clip can have any
    number of frames. A frame's vector is the mean of its output tokens.

    Parameters
    ----------
    size : int
        Side of the input frames in pixels.
    patch_size : int
        Side of a patch; must divide `size`.
    width, layers, state_size : int
    """

    def __init__(
        self, size: int, patch_size: int, width: int, layers: int, state_size: int
    ):
        super().__init__()
        self.width = width
        self.embed = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.places = nn.Parameter(0.02 * torch.randn((size // patch_size) ** 2, width))
        self.layers = nn.ModuleList(BothWays(width, state_size) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)

    def forward(self, frames: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Read clips.

        Parameters
        ----------
        frames : uint8 tensor of shape (B, T, size, size, 3)
            Frames after the end of a clip are ignored.
        counts : int64 tensor of shape (B,)
            Number of valid frames of each clip.

        Returns
        -------
        tensor of shape (B, T, width)
            Undefined after a clip's end.
        """
        clips, length = frames.shape[:2]
        pixels = frames.flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1
        tokens = self.embed(pixels).flatten(2).transpose(1, 2)  # (B T, P, width)
        tokens = (tokens + self.places).unflatten(0, (clips, length))
        tokens = tokens + _sines(length, self.width, tokens)[:, None]
        patches = tokens.shape[2]
        tokens = tokens.flatten(1, 2)  # (B, T P, width)
        turned = turn_around(counts * patches, tokens.shape[1])
        for layer in self.layers:
            tokens = layer(tokens, turned)
        return self.norm(tokens).unflatten(1, (length, patches)).mean(2)


def _sines(count, width, like):
    """Sinusoidal embeddings (count, width) of 0 … count − 1, wavelengths to 2π 1e4."""
    half = -(-width // 2)
    rates = torch.exp(-math.log(1e4) * torch.arange(half) / half)
    angles = torch.arange(count)[:, None] * rates
    waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]
    return waves.to(like.device, like.dtype)
