"""Measure what the shipped tiny motion network tells of clips it has not seen.

    python tools/evaluate_tiny_motion.py procedural
    python tools/evaluate_tiny_motion.py photographs

Clips are drawn as in training, over procedural pictures of other seeds or over the
real photographs of ``load_sample_photos``. What is measured is the head: which of six
kinds a clip is, and how well the amounts and the direction are told.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from _moving_clips import CLASSES, Targets, draw_clip, picture_pool
from scipy.stats import spearmanr
from tqdm import tqdm

from diffqa_features.datasets import load_sample_photos
from diffqa_features.motion._weights import find_weights, load_network

AMOUNTS = ("repeated", "dropped", "timing error", "flicker", "speed")
SEED = 1_000_000  # far from those of training


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", choices=("procedural", "photographs"))
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--weights", default="tiny")
    args = parser.parse_args()
    if args.pictures == "photographs":
        pool = np.stack(load_sample_photos(image_size=256).data)
    else:
        with tempfile.TemporaryDirectory() as folder:
            pool = np.array(picture_pool(Path(folder), 60, SEED // 100_000))
    outputs, targets = tell(pool, args.clips, args.weights)
    kinds = targets.kind.numpy()
    told = outputs[:, : len(CLASSES)].argmax(1)
    print(f"{args.clips} clips over {len(pool)} {args.pictures}")
    print(f"kind of clip, accuracy: {(told == kinds).mean():.3f}")
    print("rows: what it is; columns: what is told")
    print(" " * 11 + " ".join(f"{name:>10}" for name in CLASSES))
    for index, name in enumerate(CLASSES):
        row = np.bincount(told[kinds == index], minlength=len(CLASSES))
        print(f"{name:>10} " + " ".join(f"{count:10d}" for count in row))
    amounts = outputs[:, len(CLASSES) : len(CLASSES) + 5]
    for index, name in enumerate(AMOUNTS):
        true = targets.amounts[:, index].numpy()
        print(f"{name}: SRCC {spearmanr(true, amounts[:, index]).statistic:.3f}")
    directed = targets.directed.numpy() > 0
    way = outputs[directed, -2:]
    truth = targets.direction.numpy()[directed]
    cosine = (way * truth).sum(1) / np.linalg.norm(way, axis=1)
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    print(f"direction: median error {np.median(angles):.1f} degrees")


def tell(pool, count, weights):
    """Outputs of the head (count, 13) and the targets."""
    network = load_network(find_weights(weights), torch.device("cpu"), torch.float32)
    outputs, targets = [], []
    for index in tqdm(range(count)):
        clip, target = draw_clip(pool, np.random.default_rng([SEED, index]))
        pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 255
        with torch.inference_mode():
            outputs.append(network.head(*network(pixels))[0].numpy())
        targets.append(target)
    return np.stack(outputs), Targets.stack(targets)


if __name__ == "__main__":
    main()
