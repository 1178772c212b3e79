"""Measure DiffVQA on `tiny`: against other methods, and without each of its parts.

    python tools/evaluate_diffvqa.py runs/diffvqa            # goes on where it stopped
    python tools/evaluate_diffvqa.py runs/diffvqa --table benchmarks/results/x.csv

Clips are panned photographs with eight faults at three levels; whole photographs are
held out. Nobody rated the clips: the target is minus the level. Every line of
``predictions.csv`` is one prediction for a clip that was held out; ``--table`` trains
nothing and writes what is there so far. Where it is asked for, the control module is
trained once, on distorted procedural pictures, which need no scores.
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
SETTINGS = {
    "control": False,
    "image_size": 64,
    "frame_rate": 30.0,
    "burst_length": 32,  # every frame of these clips
    "grid_size": 2,
    "width": 32,
    "mamba": False,
    "max_epochs": 20,
    "batch_size": 16,
}
MAMBA = {
    "mamba": True,
    "mamba_size": 32,
    "patch_size": 32,
    "mamba_width": 32,
    "mamba_layers": 1,
}
# What the paper draws, and one frame at a time.
AS_DRAWN = {
    "representation": "paper",
    "frames": "spread",
    "max_frames": 8,
    "grid_size": 4,
    "mamba": True,
    "mamba_size": 64,
    "patch_size": 32,
    "mamba_width": 32,
    "mamba_layers": 1,
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
DIFFVQA, NO_CHANGE = "DiffVQA", "without the change branch"
FEW, CROPS = "2 adjacent frames", "2 adjacent frames, predicted with 20 crops"
EIGHT, CONTROL = "8 adjacent frames", "with control, 8 adjacent frames"
ONE, TWENTY = "as drawn, 1 step, 2 faults", "as drawn, 20 steps, 2 faults"
# What a variant is compared with, where it is not DiffVQA as it is.
PLAIN = {TWENTY: ONE, CROPS: FEW, CONTROL: EIGHT}
CHAIN = ("x264", "gaussian_blur")  # what 20 steps are compared on
CHANGES = {
    DIFFVQA: {},
    EIGHT: {"max_frames": 8, "burst_length": 8},
    "8 spread frames": {"max_frames": 8, "frames": "spread"},
    "two bursts of 8 frames": {"max_frames": 16, "burst_length": 8},
    "representation of the paper": {"representation": "paper"},
    "as drawn": AS_DRAWN,
    "as drawn, with control": {**AS_DRAWN, "control": True},
    NO_CHANGE: {},
    "resized view only": {"views": "resize"},
    "crops only": {"views": "crop"},
    "with Mamba": MAMBA,
    CONTROL: {"control": True, "max_frames": 8, "burst_length": 8},
    FEW: {"max_frames": 2, "burst_length": 2},
    CROPS: {"max_frames": 2, "burst_length": 2},
    ONE: {**AS_DRAWN, "control": True, "max_frames": 3},
    TWENTY: {**AS_DRAWN, "control": True, "max_frames": 3, "n_steps": 20},
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", type=Path, help="only write this table")
    parser.add_argument("--methods", nargs="*", help="default: all")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    data = make_data(args.folder)
    results = args.folder / "predictions.csv"
    if args.table is None:
        models = make_models(args.folder)
        # Seed by seed, so that what was stopped compares all methods on some.
        for seed in args.seeds:
            for name in args.methods or models:
                measure(models[name], name, data, seed, results)
    table = summarise(pd.read_csv(results), data)
    print(table.to_string(index=False))
    if args.table is not None:
        table.to_csv(args.table, index=False)


def make_data(folder):
    photos = load_sample_photos(image_size=192)
    data = make_distorted_videos(
        folder / "clips", photos.data[:CONTENTS], n_levels=LEVELS, **CLIP
    )
    print(data.DESCR, flush=True)
    return data


class NoChange(DiffVQARegressor):
    """Every change is unknown, as that of pictures is."""

    def _open_data(self, job):
        clips = super()._open_data(job)
        for clip in clips:
            for changes in clip.changes.values():
                changes[:] = np.nan
        return clips


class ManyCrops(DiffVQARegressor):
    """Twenty crops in prediction, one in training."""

    def predict(self, X):
        return self.set_params(n_crops=20)._predict(X)


def make_models(folder):
    store = folder / "store"
    frames = DiffusionQAFeatures(
        image_size=96, frame_pooling=("mean", "std"), memory=store, **FRAMES
    )
    motion = MotionFeatures(pooling=("mean", "std"), memory=store)
    both = FeatureUnion([("frames", frames), ("motion", motion)])
    models = {
        name: make_pipeline(features, StandardScaler(), SVR(C=10))
        for name, features in [
            ("frames + SVR", frames),
            ("frames + motion + SVR", both),
        ]
    }
    kinds = {NO_CHANGE: NoChange, CROPS: ManyCrops}
    for name, changes in CHANGES.items():
        kind = kinds.get(name, DiffVQARegressor)
        models[name] = kind(memory=store, **{**SETTINGS, **changes})
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
    rows = rows_of(name, data)
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
        if getattr(estimator, "control", False):
            estimator.set_params(controller=make_controller(path.parent / "controller"))
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


def rows_of(name, data):
    some = np.isin(data.distortion, CHAIN)
    return np.flatnonzero(some | (name not in (ONE, TWENTY)))


def append(path, lines):
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(
                "method seed fold row group target predicted fit_seconds".split()
            )
        writer.writerows(lines)


def summarise(table, data):
    """SRCC of each method, mean over seeds; 95% intervals over contents.

    ``less`` is the SRCC of DiffVQA minus that of the method, on the same folds; of some
    variants (`PLAIN`), that of another one.
    """
    table["family"] = data.distortion[table.row]
    lines = []
    for name, part in table.groupby("method", sort=False):
        # A seed of which not all folds are there yet would compare other clips.
        count = len(rows_of(name, data))
        seeds = [seed for _, seed in part.groupby("seed") if len(seed) == count]
        if not seeds:
            continue
        mean, low, high = np.mean([interval(seed) for seed in seeds], 0)
        picture, timing = (
            np.mean([srcc_of(seed, families) for seed in seeds])
            for families in (SPATIAL, TEMPORAL)
        )
        line = {
            "method": name,
            "seeds": len(seeds),
            "srcc": mean,
            "srcc_low": low,
            "srcc_high": high,
            "srcc_picture": picture,
            "srcc_timing": timing,
        }
        full = table[table.method == PLAIN.get(name, DIFFVQA)]
        pairs = [(full[full.seed == seed.seed.iloc[0]], seed) for seed in seeds]
        found = [difference(one, two) for one, two in pairs if len(one) == len(two)]
        if name != DIFFVQA and found:
            line["less"], line["less_low"], line["less_high"], _ = np.mean(found, 0)
        line["fit_cpu_s"] = part.groupby(["seed", "fold"]).fit_seconds.first().median()
        lines.append(line)
    return pd.DataFrame(lines).round(3)


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
