"""Measure DiffVQA on `tiny`: against other methods, and without each of its parts.

    python tools/evaluate_diffvqa.py runs/diffvqa            # goes on where it stopped
    python tools/evaluate_diffvqa.py runs/diffvqa --table    # what is there so far

Clips are panned photographs with eight faults at three levels; whole photographs are
held out. Nobody rated the clips: the target is minus the level. The control module is
trained first, once, on distorted procedural pictures, which need no scores. Every line
of ``predictions.csv`` is one prediction for a clip that was held out.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import (
    DiffusionController,
    DiffusionQAFeatures,
    DiffVQARegressor,
    GenzVQARegressor,
    MotionFeatures,
)
from diffqa_features.datasets import (
    load_sample_photos,
    make_distorted_images,
    make_distorted_videos,
    make_procedural_images,
)
from diffqa_features.datasets._distorted_videos import SPATIAL, TEMPORAL
from diffqa_features.evaluation import bootstrap_difference, bootstrap_interval
from diffqa_features.metrics import srcc_score

SEEDS = (0, 1, 2)
FOLDS = 3
DRAWS = 1000  # of contents, for the intervals
CONTENTS, LEVELS = 9, 3
CLIP = {"n_frames": 32, "image_size": 96}
FRAMES = {"frame_rate": 30.0, "max_frames": 8}
CHAIN = ("x264", "gaussian_blur")  # what 20 steps are compared on
SETTINGS = {
    "image_size": 64,
    "width": 32,
    "mamba_size": 64,
    "patch_size": 32,
    "mamba_width": 32,
    "mamba_layers": 1,
    "max_epochs": 20,
    "batch_size": 16,
    **FRAMES,
}
# As in evaluate_genzvqa.py.
GENZVQA = {
    "blocks": ["down0.*", "down1.*", "mid.0"],
    "error_bias": False,
    "image_size": 64,
    "n_frames": 2,
    "n_timesteps": 2,
    "max_epochs": 8,
    "learning_rate": 1e-3,
}
BASELINE, DIFFVQA = "frames + motion + SVR", "DiffVQA"
ONE, TWENTY = "DiffVQA, 1 step, 2 faults", "DiffVQA, 20 steps, 2 faults"
CHANGES = {
    DIFFVQA: {},
    "without control": {"control": False},
    "resized view only": {"views": "resize"},
    "crops only": {"views": "crop"},
    "without Mamba": {"mamba": False},
    ONE: {"max_frames": 3},
    TWENTY: {"max_frames": 3, "n_steps": 20},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--methods", nargs="*", help="default: all")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    data = make_data(args.folder)
    results = args.folder / "predictions.csv"
    if not args.table:
        models = make_models(args.folder)
        # Seed by seed, so that what was stopped compares all methods on some.
        for seed in args.seeds:
            for name in args.methods or models:
                measure(models[name], name, data, seed, results)
    report(pd.read_csv(results), data)


def make_data(folder):
    photos = load_sample_photos(image_size=192)
    data = make_distorted_videos(
        folder / "clips", photos.data[:CONTENTS], n_levels=LEVELS, **CLIP
    )
    print(data.DESCR, flush=True)
    return data


def make_models(folder):
    store = folder / "store"
    features = FeatureUnion(
        [
            ("frames", DiffusionQAFeatures(image_size=96, memory=store, **FRAMES)),
            ("motion", MotionFeatures(pooling=("mean", "std"), memory=store)),
        ]
    )
    models = {BASELINE: make_pipeline(features, StandardScaler(), SVR(C=10))}
    controller = make_controller(folder / "controller")
    shared = {"controller": controller, "memory": store, **SETTINGS}
    for name, changes in CHANGES.items():
        models[name] = DiffVQARegressor(**{**shared, **changes})
    models["GenzVQA"] = GenzVQARegressor(memory=store, **GENZVQA)
    return models


def make_controller(folder):
    if not (folder / "config.json").exists():
        pictures = make_distorted_images(
            make_procedural_images(16, image_size=64, random_state=31),
            n_levels=2,
            image_size=64,
            include_references=True,
        )
        controller = DiffusionController(
            image_size=64, learning_rate=1e-3, max_epochs=5
        )
        start = time.process_time()
        controller.fit(pictures.data)
        seconds = time.process_time() - start
        losses = [record["loss"] for record in controller.history_]
        print(
            f"control: {len(pictures.data)} pictures, {seconds:.0f} s, "
            f"loss {losses[0]:.4f} to {losses[-1]:.4f}",
            flush=True,
        )
        controller.save_pretrained(folder)
    return folder


def measure(model, name, data, seed, path):
    rows = np.arange(len(data.data))
    if name in (ONE, TWENTY):
        rows = np.flatnonzero(np.isin(data.distortion, CHAIN))
    clips = np.array(data.data)[rows]
    target, groups = data.target[rows], data.groups[rows]
    known = set()
    if path.exists():
        table = pd.read_csv(path)
        known = set(table.fold[(table.method == name) & (table.seed == seed)])
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fold, (train, held) in enumerate(folds.split(clips, target, groups)):
        if fold in known:
            continue
        estimator = clone(model)
        start = time.process_time()
        estimator.fit(list(clips[train]), target[train])
        seconds = time.process_time() - start
        predicted = estimator.predict(list(clips[held]))
        append(
            path,
            [
                (name, seed, fold, rows[i], groups[i], target[i], p, seconds)
                for i, p in zip(held, predicted, strict=True)
            ],
        )
        print(f"{name}, seed {seed}, fold {fold}: {seconds:.1f} s", flush=True)


def append(path, lines):
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(
                "method seed fold row group target predicted fit_seconds".split()
            )
        writer.writerows(lines)


def report(table, data):
    """SRCC of each method, mean over seeds; 95% intervals over contents."""
    table["family"] = data.distortion[table.row]
    print(f"\n{'SRCC':28s} {'all faults':>22s} of picture  of timing  fit, CPU s")
    for name, part in table.groupby("method", sort=False):
        seeds = [seed for _, seed in part.groupby("seed")]
        values = [interval(seed) for seed in seeds]
        mean, low, high = np.mean(values, 0)
        picture, timing = (
            np.mean([srcc_of(seed, families) for seed in seeds])
            for families in (SPATIAL, TEMPORAL)
        )
        seconds = part.groupby(["seed", "fold"]).fit_seconds.first().median()
        print(
            f"{name:28s} {mean:6.3f} [{low:.3f}, {high:.3f}] "
            f"{picture:10.3f} {timing:10.3f} {seconds:11.1f}  "
            + " ".join(f"{value:.3f}" for value, _, _ in values)
        )
    print("\ndifferences of SRCC, mean over seeds, with 95% intervals over contents")
    methods = table.method.unique()
    others = [m for m in methods if m not in (DIFFVQA, ONE, TWENTY)]
    for first, second in [*((DIFFVQA, other) for other in others), (ONE, TWENTY)]:
        one, two = (table[table.method == m] for m in (first, second))
        found = [
            difference(one[one.seed == seed], two[two.seed == seed])
            for seed in sorted(set(one.seed) & set(two.seed))
        ]
        if found:
            mean, low, high, _ = np.mean(found, 0)
            print(f"{first} - {second}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]")


def interval(part):
    return bootstrap_interval(
        part.target, part.predicted, groups=part.group, n_resamples=DRAWS
    )


def srcc_of(part, families):
    part = part[part.family.isin(families)]
    return srcc_score(part.target, part.predicted) if len(part) else np.nan


def difference(one, two):
    both = one.merge(two, on="row", suffixes=("", "_other"))
    return bootstrap_difference(
        both.target,
        both.predicted,
        both.predicted_other,
        groups=both.group,
        n_resamples=DRAWS,
    )


if __name__ == "__main__":
    main()
