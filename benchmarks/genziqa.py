"""One training step of GenzIQA: a batch in one UNet pass against picture by picture.

    python benchmarks/genziqa.py --size 64 96 192 --threads 1 2

Both ways take the same pictures, timesteps, noise and weights, and must give the same
gradients before their time counts; they take turns. The loop is what the authors'
released code does. Beside wall time stand processor seconds, of the program itself and
of the system on its behalf: giving a process fresh memory is work of the system, and a
batch needs much of it at once.
"""

import argparse
import csv
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from diffqa_features import GenzIQARegressor
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.info import describe_backbone
from diffqa_features.datasets import make_procedural_images

RESULTS = Path(__file__).parent / "results"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tiny", help="alias or folder")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument(
        "--size", type=int, nargs="+", help="pixels; default the native"
    )
    parser.add_argument("--threads", type=int, nargs="+", help="of the processor")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    native = describe_backbone(arguments.backbone).image_size
    rows = []
    for threads in arguments.threads or [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        rows += [measure(arguments, size) for size in arguments.size or [native]]
    path = RESULTS / f"genziqa-{Path(arguments.backbone).name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def measure(arguments, size):
    step, count = prepare(arguments, size)
    for first, second in zip(step(1), step(count)):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    spent = {1: [], count: []}
    for _ in range(arguments.repeat):
        for parts, kept in spent.items():
            start = clocks()
            step(parts)
            kept.append(clocks() - start)
    batched, alone = (medians(kept) for kept in spent.values())
    row = {
        "backbone": arguments.backbone,
        "images": count,
        "size": size,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
    }
    for name, way in (("one_pass", batched), ("loop", alone)):
        row |= {f"{name}_{clock}_s": f"{way[clock]:.2f}" for clock in way}
    row["ratio"] = f"{alone['wall'] / batched['wall']:.2f}"
    row["ratio_of_own"] = f"{alone['own'] / batched['own']:.2f}"
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def prepare(arguments, size):
    """What takes one step in so many parts, and the number of pictures."""
    model = GenzIQARegressor(
        arguments.backbone, image_size=size, device=arguments.device
    )
    backbone = load_backbone(arguments.backbone, arguments.device, "float32")
    network = model._make_network(backbone).to(backbone.device)
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

    return step, len(latents)


def clocks():
    """Seconds of the wall, of the processor for the program and for the system."""
    times = os.times()
    return np.array([time.perf_counter(), times.user, times.system])


def medians(spent):
    middle = map(statistics.median, np.transpose(spent).tolist())
    return dict(zip(("wall", "own", "system"), middle))


if __name__ == "__main__":
    main()
