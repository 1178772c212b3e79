"""Train a `DiffusionController` for ``tiny`` on a CPU, and measure it.

    python tools/train_tiny_controller.py train --out runs/controller
    python tools/train_tiny_controller.py measure --out runs/controller
    python tools/train_tiny_controller.py draw --out runs/controller

It trains on crops of procedural pictures, 70 % of them distorted, so that photographs
are held out. A run that was killed goes on from its checkpoint. What is measured is the
reconstruction from noise, and drawn are frames, reconstructions and errors.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from diffqa_features import DiffusionController, datasets
from diffqa_features.datasets._distortions import FAMILIES, distort
from diffqa_features.evaluation import bootstrap_interval

PICTURE, CROP, CROPS = 224, 64, 16
# Epochs and rate of learning: high at first, since a control that adds nothing yet
# learns slowly, then falling.
PHASES = ((4, 3e-3), (1, 1e-3), (1, 3e-4))
FACTS = {"image_size": CROP, "view": "crop", "batch_size": 4}
log = logging.getLogger("train_tiny_controller")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "measure", "draw"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--pictures", type=int, default=150, help="to cut crops from")
    parser.add_argument("--size", type=int, default=128, help="of what is rebuilt")
    parser.add_argument("--steps", type=int, default=20, help="of the reverse chain")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    {"train": train, "measure": measure, "draw": draw}[args.what](args)


def train(args):
    frames = crops(args.pictures, args.seed)
    log.info("%d crops", len(frames))
    model = DiffusionController(
        warm_start=True,
        random_state=args.seed,
        checkpoint_dir=args.out / "checkpoints",
        verbose=1,
        **FACTS,
    )
    for epochs, rate in PHASES:
        model.set_params(max_epochs=epochs, learning_rate=rate).fit(frames)
        losses = [round(record["loss"], 4) for record in model.history_]
        log.info("rate %g, losses %s", rate, losses)
        model.save_pretrained(args.out / "model")


def crops(count, seed):
    rng = np.random.default_rng(seed)
    frames = []
    for picture in datasets.make_procedural_images(
        count, image_size=PICTURE, random_state=seed + 50_000
    ):
        for y, x in rng.integers(0, PICTURE - CROP + 1, (CROPS, 2)):
            crop = np.ascontiguousarray(picture[y : y + CROP, x : x + CROP])
            if rng.random() < 0.7:
                family = str(rng.choice(list(FAMILIES)))
                crop = distort(crop, family, rng.random(), rng)
            frames.append(crop)
    return frames


# -- measuring -------------------------------------------------------------------------


def measure(args):
    """PSNR and SSIM of reconstructions from noise: photographs, clean and degraded."""
    model = load(args)
    photos = datasets.load_sample_photos(image_size=args.size)
    data = datasets.make_distorted_images(
        photos.data, n_levels=2, image_size=args.size, random_state=args.seed
    )
    chosen = np.random.default_rng(args.seed).choice(FAMILIES_USED, len(photos.data))
    degraded, groups = [], []
    for group, family in zip(dict.fromkeys(data.groups), chosen):
        at = (data.groups == group) & (data.family == family) & (data.level == 2)
        degraded += [data.data[i] for i in np.flatnonzero(at)]
        groups += [group] * int(at.sum())
    log.info(
        "%d photographs of %d pixels, %d steps, seed %d",
        len(photos.data), args.size, args.steps, args.seed,
    )  # fmt: skip
    for name, frames in (("clean", photos.data), ("degraded", degraded)):
        for way, rebuilt in rebuild(model, frames, args.steps).items():
            scores = np.array([compare(*pair) for pair in zip(frames, rebuilt)])
            for measured, values in zip(("PSNR", "SSIM"), scores.T):
                low, high = bounds(values, args.seed)
                log.info(
                    "%-8s %-16s %s %.3f [%.3f, %.3f]",
                    name, way, measured, values.mean(), low, high,
                )  # fmt: skip


FAMILIES_USED = ("gaussian_blur", "white_noise", "jpeg", "darken")


def bounds(values, seed):
    """Percentile bootstrap over photographs, 95 %."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (5000, len(values)))].mean(1)
    return np.percentile(means, [2.5, 97.5])
