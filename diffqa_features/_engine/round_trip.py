"""A view and timesteps in, its noised latents and what the UNet restores, decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np
import torch

from diffqa_features._backbone.backbone import Backbone
from diffqa_features._backbone.capture import run_unet
from diffqa_features._backbone.weights import load_decoder, quiet
from diffqa_features._engine.passes import Passes


def round_trip(
    passes: Passes,
    view: np.ndarray,
    timesteps: Sequence[int],
    prompt: str = "",
    n_steps: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Noise a view (H, W, 3) uint8 to each timestep and walk back in `n_steps`.

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
        states, _ = backbone.encode_text([prompt])
        noised, restored = [], []
        for t in timesteps:
            noise = passes.noise(t, clean.shape[1:])[None]
            noisy = backbone.add_noise(clean, t, noise)
            noised.append(decode(decoder, noisy))
            restored.append(
                decode(decoder, _restore(backbone, noisy, t, states, n_steps))
            )
        decoded = decode(decoder, clean)
    levels = np.array([backbone.scales(t)[1] for t in timesteps])
    return decoded, levels, np.stack(noised), np.stack(restored)


def walk_back(
    backbone: Backbone,
    noisy: torch.Tensor,
    timesteps: Sequence[int],
    run: Callable[[torch.Tensor, int], torch.Tensor],
) -> torch.Tensor:
    """Estimate z_0 from z_t at the first of falling timesteps, by DDIM without noise.

    ``run(z_t, t)`` is what the UNet returns.
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
    """One latent (1, C, h, w) to a picture uint8 (H, W, 3)."""
    shift = decoder.config.get("shift_factor") or 0.0
    pixels = decoder.decode(latents / decoder.config["scaling_factor"] + shift).sample
    pixels = (pixels[0].float().clamp(-1, 1) + 1) * 127.5
    return pixels.round().byte().permute(1, 2, 0).cpu().numpy()


def _restore(backbone: Backbone, noisy, t: int, states, n_steps: int):
    steps = np.unique(np.linspace(t, 0, n_steps + 1).round().astype(int))[::-1]
    # The last entry, 0, is where a clean estimate is taken and not where one begins.
    steps = steps[:-1].tolist() or [t]

    def run(sample, here):
        with backbone.lock:
            return run_unet(backbone.unet, sample.to(backbone.dtype), here, states)

    return walk_back(backbone, noisy, steps, run)
