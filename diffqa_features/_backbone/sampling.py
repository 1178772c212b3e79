"""Noisy latents in, denoised latents and pictures out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from diffqa_features._backbone.backbone import Backbone
from diffqa_features._backbone.weights import latent_scale


def walk_back(
    backbone: Backbone,
    noisy: torch.Tensor,
    timesteps: Sequence[int],
    run: Callable[[torch.Tensor, int], torch.Tensor],
) -> torch.Tensor:
    """Estimate z_0 from z_t at the first of decreasing timesteps, by DDIM.

    ``run(z_t, t)`` returns the UNet's output.
    """
    for here, there in zip(timesteps, [*timesteps[1:], None]):
        output = run(noisy, here)
        clean = backbone.to_clean(output, noisy, here)
        if there is not None:
            noise = backbone.to_noise(output, noisy, here)
            noisy = backbone.add_noise(clean, there, noise)
    if not clean.isfinite().all():
        raise ValueError(
            f"The estimate from timestep {timesteps[0]} is not finite in "
            f"{backbone.dtype}; take dtype='float32', or a lower timestep."
        )
    return clean


def decode(decoder, latents: torch.Tensor) -> np.ndarray:
    """Decode one latent (1, C, h, w) to a picture uint8 (H, W, 3)."""
    shift, scale = latent_scale(decoder.config, latents.device)
    pixels = decoder.decode(latents / scale + shift).sample
    pixels = (pixels[0].float().clamp(-1, 1) + 1) * 127.5
    return pixels.round().byte().permute(1, 2, 0).cpu().numpy()
