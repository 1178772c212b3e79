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
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from diffqa_features import DiffusionController, datasets
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.sampling import decode
from diffqa_features._backbone.weights import load_decoder, quiet
from diffqa_features._media.views import to_pixels
from diffqa_features.datasets._distortions import FAMILIES, distort
from diffqa_features.inspection._noise_round_trip import _SSIM as SSIM
from diffqa_features.inspection._style import LUMINANCE
from diffqa_features.learned.control.features import Chain, controlled_features
from diffqa_features.learned.control.network import make_control

PICTURE, CROP, CROPS = 224, 64, 16
# At a rate of 3e-3, with gradients clipped at 1, a run fell apart after 430 steps.
EPOCHS, RATE = 8, 1e-3
FACTS = {"image_size": CROP, "view": "crop", "batch_size": 8, "max_grad_norm": 0.1}
DEGRADED, SEVERITY = ("gaussian_blur", "white_noise", "jpeg", "darken"), 0.6
log = logging.getLogger("train_tiny_controller")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "measure", "draw"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--pictures", type=int, default=200, help="to cut crops from")
    parser.add_argument("--size", type=int, default=96, help="of what is rebuilt")
    parser.add_argument("--steps", type=int, default=20, help="of the reverse chain")
    parser.add_argument(
        "--start", type=int, help="timestep to noise frames to; default: noise alone"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    {"train": train, "measure": measure, "draw": draw}[args.what](args)


def train(args):
    frames = crops(args.pictures, args.seed)
    log.info("%d crops", len(frames))
    model = DiffusionController(
        max_epochs=EPOCHS,
        learning_rate=RATE,
        random_state=args.seed,
        checkpoint_dir=args.out / "checkpoints",
        verbose=1,
        **FACTS,
    )
    model.fit(frames)
    log.info("losses %s", [round(record["loss"], 4) for record in model.history_])
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


# -- what it does ----------------------------------------------------------------------


def held_out(args):
    """Photographs, and each of them once degraded: name -> frames, in one order."""
    photos = datasets.load_sample_photos(image_size=args.size).data
    rng = np.random.default_rng(args.seed)
    degraded = [
        distort(photo, DEGRADED[i % len(DEGRADED)], SEVERITY, rng)
        for i, photo in enumerate(photos)
    ]
    return {"clean": photos, "degraded": degraded}


def load(args):
    return DiffusionController.from_pretrained(
        args.out / "model", image_size=args.size, random_state=args.seed
    )


def one_step(model, frames, name):
    """Squared error of the latent estimated in one step from a noised one."""
    backbone = load_backbone(model.backbone, model.device, "float32")
    network = make_control(backbone.unet, model.weights_)
    latents = backbone.encode_images(to_pixels(np.stack(frames))).numpy()
    for t in (100, 300, 500, 700):
        chain = Chain((), last_timestep=t, seed=model.random_state)
        without, steered = (
            np.square(
                controlled_features(backbone, way, latents, chain)["latent"] - latents
            ).mean((1, 2, 3))
            for way in (None, network)
        )
        log.info(
            "%s, one step from %d: error %.3f without, %.3f with; smaller in %d of %d",
            name, t, without.mean(), steered.mean(), (steered < without).sum(),
            len(frames),
        )  # fmt: skip


def rebuild(args, frames):
    """Reconstructions from noise, and what the autoencoder alone gives back."""
    model = load(args)
    backbone = load_backbone(model.backbone, model.device, "float32")
    with quiet():
        decoder = load_decoder(backbone.info)
    latents = backbone.encode_images(to_pixels(np.stack(frames)))
    with torch.no_grad():
        ceiling = [decode(decoder, latent[None]) for latent in latents]
    ways = {"without control": False, "with control": True}
    rebuilt = {
        name: np.concatenate(
            model.reconstruct(frames, args.steps, control=control, start=args.start)
        )
        for name, control in ways.items()
    }
    return {**rebuilt, "autoencoder alone": np.stack(ceiling)}


def measure(args):
    """Print PSNR and SSIM, with bootstrap intervals over photographs."""
    log.info(
        "size %d, %d steps from %s, seed %d, degraded: %s at severity %g",
        args.size, args.steps, args.start or "noise alone", args.seed,
        ", ".join(DEGRADED), SEVERITY,
    )  # fmt: skip
    rng = np.random.default_rng(args.seed)
    model = load(args)
    for name, frames in held_out(args).items():
        one_step(model, frames, name)
        found = {}
        for way, rebuilt in rebuild(args, frames).items():
            found[way] = np.array([compare(*p) for p in zip(frames, rebuilt)])
            report(f"{name}, {way}", found[way], rng)
        gain = found["with control"] - found["without control"]
        report(f"{name}, gain", gain, rng)
        log.info(
            "%s: closer with control in %s of %d", name, (gain > 0).sum(0), len(gain)
        )


def compare(frame, rebuilt):
    gray = np.array(LUMINANCE)
    return (
        peak_signal_noise_ratio(frame, rebuilt, data_range=255),
        structural_similarity(frame @ gray, rebuilt @ gray, **SSIM),
    )


def report(name, values, rng):
    again = values[rng.integers(0, len(values), (5000, len(values)))].mean(1)
    low, high = np.percentile(again, [2.5, 97.5], axis=0)
    texts = [
        f"{label} {mean:.{digits}f} [{a:.{digits}f}, {b:.{digits}f}]"
        for label, digits, mean, a, b in zip(
            ("PSNR", "SSIM"), (1, 2), values.mean(0), low, high
        )
    ]
    log.info("%-30s %s", name, "  ".join(texts))


def draw(args):
    """A figure of the columns of a page: four photographs, two of them degraded."""
    import matplotlib.pyplot as plt

    every = held_out(args)
    frames = [every["clean"][i] for i in (2, 5)]
    frames += [every["degraded"][i] for i in (5, 6)]
    ways = rebuild(args, frames)
    ways.pop("autoencoder alone")
    heads = ["frame", *ways, *(f"error {way}" for way in ways)]
    _, axes = plt.subplots(
        len(frames), len(heads), figsize=(7.16, 5.9), layout="compressed"
    )
    for row, frame in enumerate(frames):
        pictures = [frame, *(rebuilt[row] for rebuilt in ways.values())]
        errors = [np.abs(p.astype(int) - frame).mean(2) for p in pictures[1:]]
        for panel, picture in zip(axes[row], pictures):
            panel.imshow(picture)
        for panel, error in zip(axes[row, len(pictures) :], errors):
            shown = panel.imshow(error, vmin=0, vmax=128, cmap="magma")
        for panel, rebuilt in zip(axes[row, 1:], pictures[1:]):
            panel.set_xlabel("{:.1f} dB, {:.2f}".format(*compare(frame, rebuilt)))
    for panel, head in zip(axes[0], heads):
        panel.set_title(head)
    for panel in axes.ravel():
        panel.set(xticks=[], yticks=[])
        for text in (panel.title, panel.xaxis.label):
            text.set_fontsize(7)
    bar = axes[0, 0].figure.colorbar(shown, ax=axes[:, -1], shrink=0.5)
    bar.ax.tick_params(labelsize=6)
    path = args.out / "controller.png"
    axes[0, 0].figure.savefig(path, dpi=150)
    log.info("%s", path)


if __name__ == "__main__":
    main()
