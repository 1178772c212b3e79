"""One training step of GenzIQA: a batch in one UNet pass against picture by picture.

    python benchmarks/genziqa.py --backbone tiny --images 16

Both ways take the same pictures, timesteps, noise and weights, and must give the same
gradients before their time counts. The loop is what the authors' released code does.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from diffqa_features import GenzIQARegressor
from diffqa_features._backbone import load_backbone
from diffqa_features._resolve import describe_backbone
from diffqa_features.datasets import make_procedural_images


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tiny", help="alias or folder")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, help="pixels; default the native size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    size = arguments.size or describe_backbone(arguments.backbone).image_size
    model = GenzIQARegressor(
        arguments.backbone, image_size=size, device=arguments.device
    )
    backbone = load_backbone(arguments.backbone, arguments.device, "float32")
    network = model._network(backbone, trained=False)
    pictures = list(make_procedural_images(arguments.images, image_size=size))
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    latents = backbone.encode_images(pixels)

    def step(parts):
        network.zero_grad(set_to_none=True)
        generators = [torch.Generator().manual_seed(i) for i in range(len(latents))]
        for rows in np.array_split(np.arange(len(latents)), parts):
            chosen = [generators[i] for i in rows]
            reading = network.sample(backbone, latents[rows], 0, 100, chosen)
            (reading.scores.mean(1).sum() / len(latents)).backward()
        if backbone.device.type == "cuda":
            torch.cuda.synchronize()
        return [p.grad.clone() for p in network.parameters()]

    for first, second in zip(step(1), step(len(latents))):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    seconds = {1: [], len(latents): []}
    for _ in range(arguments.repeat):
        for parts, kept in seconds.items():
            start = time.perf_counter()
            step(parts)
            kept.append(time.perf_counter() - start)
    batched, alone = map(statistics.median, seconds.values())
    print(
        f"{arguments.backbone}, {len(latents)} pictures of {size} pixels, "
        f"{arguments.device}, {torch.get_num_threads()} threads: one pass "
        f"{batched:.2f} s, one at a time {alone:.2f} s, ratio {alone / batched:.2f}"
    )


if __name__ == "__main__":
    main()
