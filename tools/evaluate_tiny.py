"""Measure the shipped backbone: the figures of its model card.

    python tools/evaluate_tiny.py ablation --memory runs/store   # chooses defaults
    python tools/evaluate_tiny.py photographs                    # the held-out test
    python tools/evaluate_tiny.py maps
    PYTHONPATH=JOD:. python tools/evaluate_tiny.py label --labels runs/jod.npz
    python tools/evaluate_tiny.py jod --labels runs/jod.npz --lite0 FOLDER

The ablation uses procedural pictures only; photographs are looked at once, with the
defaults that it chose. Everywhere: GroupKFold(8) by source, StandardScaler and
SVR(C=10), target = minus the level of distortion, SRCC of the pooled predictions.
`jod` has JOD as the target and compares columns paired, by bootstraps over photographs;
its labels are made apart, where ColorVideoVDP can be imported (`label_pictures.py`).
`--lite0` is the folder of `evaluate_scorer.py`.
"""

import argparse
import re
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from evaluate_scorer import lite0_columns
from scipy import ndimage
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils import Bunch

from diffqa_features import DiffusionQAFeatures, PromptAlignmentMaps, datasets
from diffqa_features.evaluation import bootstrap_difference, bootstrap_interval
from diffqa_features.features import NaturalSceneStatistics
from diffqa_features.metrics import plcc_score, srcc_score

FAMILIES = (
    "gaussian_blur",
    "white_noise",
    "jpeg",
    "jpeg2000",
    "pixelate",
    "oversharpen",
)
PROMPTS = {
    "Good/Bad photo.": ("Good photo.", "Bad photo."),
    "sharp and clean/blurred photo.": ("a sharp and clean photo.", "a blurred photo."),
    "excellent/bad quality": ("excellent photo.", "bad photo."),
    "empty/Bad": ("", "Bad photo."),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {part.__name__: part for part in (ablation, photographs, maps, label, jod)}
    parser.add_argument("what", choices=parts)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--memory", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", type=Path, help="pictures with JOD, a npz file")
    parser.add_argument("--lite0", type=Path, help="folder with its two packages")
    args = parser.parse_args()
    parts[args.what](args)


def predict(matrix, data):
    model = make_pipeline(StandardScaler(), SVR(C=10))
    folds = GroupKFold(8)
    return cross_val_predict(model, matrix, data.target, groups=data.groups, cv=folds)


def report(name, matrix, data):
    predicted = predict(matrix, data)
    srcc, plcc = (f(data.target, predicted) for f in (srcc_score, plcc_score))
    print(
        f"{name:44s} D={matrix.shape[1]:4d}  SRCC {srcc:.3f}  PLCC {plcc:.3f}",
        flush=True,
    )


def ablation(args):
    references = datasets.make_procedural_images(16, random_state=args.seed + 77_777)
    data = datasets.make_distorted_images(
        references, families=FAMILIES, n_levels=4, random_state=args.seed
    )
    print(f"procedural: {len(data.data)} pictures, seed {args.seed}")
    timesteps = (10, 20, 50, 100, 200)
    features = DiffusionQAFeatures(
        args.backbone, timesteps=timesteps, memory=args.memory
    )
    matrix = features.transform(data.data)
    names = features.get_feature_names_out()
    for t in timesteps:
        for kind in ("", "alignment", "error"):
            pattern = re.compile(rf"^t{t}__.*{kind}")
            chosen = [bool(pattern.search(name)) for name in names]
            report(f"t={t} {kind or 'both kinds'}", matrix[:, chosen], data)
    for name, prompts in PROMPTS.items():
        features.set_params(timesteps=(50,), prompts=prompts)
        report(f"t=50 {name}", features.transform(data.data), data)


def photographs(args):
    for families in (FAMILIES, "basic"):
        data = datasets.make_distorted_images(
            families=families, n_levels=4, random_state=args.seed
        )
        count = len(set(data.groups))
        print(f"{len(data.data)} pictures of {count} photographs, families: {families}")
        start = time.perf_counter()
        matrix = DiffusionQAFeatures(args.backbone).transform(data.data)
        speed = len(data.data) / (time.perf_counter() - start)
        report("DiffusionQAFeatures()", matrix, data)
        print(f"{speed:.1f} images/s, loading included")
        statistics = NaturalSceneStatistics().fit_transform(data.data)
        report("scene statistics", np.asarray(statistics), data)
        report("scene statistics, BRISQUE's 36", np.asarray(statistics)[:, :36], data)
        with tempfile.TemporaryDirectory() as folder:
            randomise(args, Path(folder))
            matrix = DiffusionQAFeatures(folder).transform(data.data)
        report("the same network, random weights", matrix, data)


def label(args):
    """The pictures of the last test, with JOD."""
    data = datasets.make_distorted_images(
        families="basic", n_levels=4, target="jod", random_state=args.seed
    )
    pixels = np.stack([np.asarray(picture) for picture in data.data])
    np.savez(args.labels, pixels=pixels, jod=data.target, photo=data.groups)


def jod(args):
    """Columns compared, with JOD to learn and to tell."""
    with np.load(args.labels) as file:
        pixels, target, photo = (file[key] for key in ("pixels", "jod", "photo"))
    describers = {
        "DiffusionQAFeatures()": DiffusionQAFeatures(args.backbone).transform,
        "scene statistics": NaturalSceneStatistics().fit_transform,
    }
    if args.lite0 is not None:
        describers["EfficientNet-Lite0"] = partial(lite0_columns, args.lite0)
    data, ours = Bunch(target=target, groups=photo), None
    for name, describe in describers.items():
        predicted = predict(np.asarray(describe(list(pixels))), data)
        ours = predicted if ours is None else ours
        value, low, high = bootstrap_interval(target, predicted, groups=photo)
        print(f"{name:22s} SRCC {value:.3f} [{low:.3f}, {high:.3f}]")
        if ours is not predicted:
            more, low, high, _ = bootstrap_difference(
                target, ours, predicted, groups=photo
            )
            print(f"{'':22s} DiffusionQAFeatures {more:+.3f} [{low:.3f}, {high:.3f}]")


def randomise(args, folder):
    """The backbone with fresh UNet and text encoder; the linear encoder is kept."""
    import shutil

    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from diffqa_features._backbone.info import describe_backbone

    source = Path(describe_backbone(args.backbone).folder)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    torch.manual_seed(args.seed)
    config = UNet2DConditionModel.load_config(source / "unet")
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    config = CLIPTextConfig.from_pretrained(source / "text_encoder")
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")


def maps(args):
    """How often the map of a prompt is higher on the half it describes."""
    photos = datasets.load_sample_photos().data
    pairs, half = [], photos[0].shape[1] // 2
    for photo in photos:
        blurred = ndimage.gaussian_filter(photo, (3, 3, 0))
        for left in (True, False):
            mixed = photo.copy()
            side = slice(None, half) if left else slice(half, None)
            mixed[:, side] = blurred[:, side]
            pairs.append((mixed, left))
    images = [image for image, _ in pairs]
    sign = np.array([1 if left else -1 for _, left in pairs])
    for signed in (False, True):
        for prompts in (
            ("a sharp photo.", "a blurred photo."),
            ("sharp and clean photo.", "blurry photo."),
        ):
            for blocks in ("all", "up*", "down*", "up3*"):
                estimator = PromptAlignmentMaps(
                    args.backbone,
                    prompts=prompts,
                    signed=signed,
                    blocks=blocks,
                    memory=args.memory,
                )
                grids = estimator.maps(images)
                contrast = (grids[..., :8] - grids[..., 8:]).mean(
                    (2, 3)
                )  # left - right
                blur_minus_sharp = (contrast[:, 1] - contrast[:, 0]) * sign
                rates = [
                    (-contrast[:, 0] * sign > 0).mean(),
                    (contrast[:, 1] * sign > 0).mean(),
                    (blur_minus_sharp > 0).mean(),
                ]
                print(
                    f"signed={signed!s:5} {prompts[1]:18s} {blocks:6s} right side of: "
                    f"sharp map {rates[0]:.2f}, blurred map {rates[1]:.2f}, "
                    f"blurred minus sharp {rates[2]:.2f}  (n={len(images)})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
