"""A view and timesteps in, its noised and restored latents, decoded, out."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch

from diffqa_features._backbone.backbone import Backbone
from diffqa_features._backbone.sampling import decode, walk_back
from diffqa_features._backbone.weights import load_decoder, quiet
from diffqa_features._engine.passes import Passes


def round_trip(
    passes: Passes,
    view: np.ndarray,
    timesteps: Sequence[int],
    prompt: str = "",
    n_steps: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Noise a view (H, W, 3) uint8 to each timestep and denoise it in `n_steps`.

    Returns
    -------
    decoded : uint8 (H, W, 3), the latent without noise
    levels : float64 (T,), √(1 - ᾱ_t)
    noised, restored : uint8 (T, H, W, 3)
    """
    backbone = passes.backbone
    last = len(backbone.alphas_cumprod) - 1
    timesteps = list(timesteps)
    good = all(isinstance(t, Integral) and 0 <= t <= last for t in timesteps)
    if not timesteps or not good:
        raise ValueError(
            f"The 'timesteps' parameter must be ints in the range [0, {last}], at "
            f"least one. Got {timesteps!r} instead."
        )
    if not isinstance(n_steps, Integral) or n_steps < 1:
        raise ValueError(
            "The 'n_steps' parameter must be an int in the range [1, inf). "
            f"Got {n_steps!r} instead."
        )
    with torch.inference_mode(False), quiet():
        decoder = load_decoder(backbone.info).to(backbone.device)
    with torch.inference_mode():
        clean = torch.from_numpy(passes.latents([view])).to(backbone.device)
        conditioning = backbone.condition([prompt])
        noised, restored = [], []
        for t in timesteps:
            noise = passes.noise(t, clean.shape[1:])[None]
            noisy = backbone.add_noise(clean, t, noise)
            noised.append(decode(decoder, noisy))
            restored.append(
                decode(decoder, _restore(backbone, noisy, t, conditioning, n_steps))
            )
        decoded = decode(decoder, clean)
    levels = np.array([backbone.scales(t)[1] for t in timesteps])
    return decoded, levels, np.stack(noised), np.stack(restored)


def _restore(backbone: Backbone, noisy, t: int, conditioning, n_steps: int):
    steps = np.unique(np.linspace(t, 0, n_steps + 1).round().astype(int))[::-1]
    # The last entry, 0, is where a clean estimate is taken and not where one begins.
    steps = steps[:-1].tolist() or [t]

    def run(sample, here):
        return backbone.run(sample, here, conditioning)

    return walk_back(backbone, noisy, steps, run)
