"""The share of the VAE in a pass of Stable Diffusion 1.5, and with TAESD in its place.

    python benchmarks/vae.py --size 512 --repeats 3

Random weights in the published shapes, float32, one picture, CPU seconds of each part,
alternating; medians. Speed does not depend on the weights. What another VAE does to
accuracy has to be measured with the real ones.
"""

import argparse
import time

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

_KL = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    parts = {
        "AutoencoderKL": build(lambda: AutoencoderKL(**_KL)),
        "AutoencoderTiny": build(AutoencoderTiny),
        "UNet": build(lambda: UNet2DConditionModel(cross_attention_dim=768)),
    }
    pixels = torch.rand(1, 3, args.size, args.size) * 2 - 1
    latents = torch.randn(1, 4, args.size // 8, args.size // 8)
    states = torch.randn(1, 77, 768)
    calls = {
        "AutoencoderKL": lambda vae: vae.encode(pixels),
        "AutoencoderTiny": lambda vae: vae.encode(pixels),
        "UNet": lambda unet: unet(latents, 50, states),
    }
    seconds = {name: [] for name in calls}
    with torch.inference_mode():
        for repeat in range(args.repeats + 1):
            for name, call in calls.items():
                start = time.process_time()
                call(parts[name])
                if repeat:  # the first one allocates
                    seconds[name].append(time.process_time() - start)
    kl, tiny, unet = (np.median(seconds[name]) for name in calls)
    print(f"{args.size} pixels, {args.threads} threads, {args.repeats} repeats")
    print(f"CPU seconds: VAE {kl:.2f}, TAESD {tiny:.2f}, a row of the UNet {unet:.2f}")
    for rows in (1, 2):
        whole, small = kl + rows * unet, tiny + rows * unet
        print(
            f"{rows} prompts: the VAE is {kl / whole:.0%} of {whole:.2f} s, TAESD "
            f"{tiny / small:.0%} of {small:.2f} s; ratio {whole / small:.2f}"
        )


def build(make):
    """A model in its shape, with weights that keep numbers in range."""
    with torch.device("meta"):
        model = make()
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    for weight in model.parameters():
        fan_in = max(1, weight.numel() // len(weight))
        weight.uniform_(-1, 1).mul_((3 / fan_in) ** 0.5)
    return model


if __name__ == "__main__":
    main()
