"""Measure what the temporal quality modulator of GenzVQA is worth on tiny.

    python tools/evaluate_genzvqa.py runs/genzvqa --n-frames 2
    python tools/evaluate_genzvqa.py runs/genzvqa --families all --contents 8
    python tools/evaluate_genzvqa.py runs/genzvqa --frame-rates 0.5 1 2 4 8
    python tools/evaluate_genzvqa.py runs/genzvqa --clip-frames 16  # also 32, 64

A camera moves over photographs, and every clip has one fault at one of three levels;
the target is minus the level. Whole photographs are held out (GroupKFold(3) by the
seed), and the same GenzVQA is trained with and without its modulator. Beside it
stands a support vector machine on the motion features alone. Clips, stored features
and predictions stay in the folder: a run that was stopped goes on.
"""

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import GenzVQARegressor, MotionFeatures, datasets
from diffqa_features.datasets._distorted_videos import SPATIAL, TEMPORAL
from diffqa_features.evaluation import bootstrap_difference, bootstrap_interval
from diffqa_features.metrics import srcc_score

FOLDS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--families", choices=("temporal", "all"), default="temporal")
    parser.add_argument("--contents", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n-frames", type=int, help="default: one frame a second")
    parser.add_argument("--frame-rates", type=float, nargs="+", default=[])
    parser.add_argument("--clip-frames", type=int, default=72)
    parser.add_argument("--max-epochs", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--table", type=Path, help="add the lines of all clips to it")
    parser.add_argument("--scale", choices=("multiply", "divide"), default="multiply")
    args = parser.parse_args()
    videos = datasets.make_distorted_videos(
        args.folder / f"clips {args.clip_frames}",
        datasets.load_sample_photos(image_size=192).data[: args.contents],
        families=args.families,
        n_levels=3,
        image_size=96,
        n_frames=args.clip_frames,
        include_references=True,
    )
    print(f"{len(videos.data)} clips of {args.contents} photographs, {args.families}")
    methods = make_methods(args)
    predicted = {name: [] for name in methods}
    for seed in range(args.seeds):
        for name, model in methods.items():
            predicted[name].append(held_out(name, model, videos, seed, args))
    report(videos, predicted)
    if args.table is not None:
        add_lines(args.table, videos, predicted, args.clip_frames)


def make_methods(args):
    memory = str(args.folder / "store")
    genzvqa = {
        "blocks": ["down0.*", "down1.*", "mid.0"],
        "error_bias": False,
        "image_size": 64,
        "n_frames": args.n_frames,
        "n_timesteps": 2,
        "max_epochs": args.max_epochs,
        "learning_rate": args.learning_rate,
        "modulator_scale": args.scale,
        "memory": memory,
    }
    return {
        "motion features, SVR": make_pipeline(
            MotionFeatures(memory=memory), StandardScaler(), SVR(C=10)
        ),
        "without modulator": GenzVQARegressor(modulator=False, **genzvqa),
        "with modulator": GenzVQARegressor(**genzvqa),
        **{
            f"{rate:g} frames a second": GenzVQARegressor(
                **{**genzvqa, "n_frames": None, "frame_rate": rate}
            )
            for rate in args.frame_rates
        },
    }


def held_out(name, model, videos, seed, args):
    """Predictions of every clip by a model that has not seen its photograph."""
    predicted = np.empty(len(videos.data))
    if isinstance(model, GenzVQARegressor):
        model.set_params(random_state=seed)
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    splits = folds.split(videos.data, groups=videos.groups)
    for fold, (train, test) in enumerate(splits):
        what = repr((repr(model), args.families, args.contents, seed, fold))
        what += f" {args.clip_frames}"
        key = hashlib.blake2b(what.encode(), digest_size=8).hexdigest()
        path = args.folder / "predictions" / f"{key}.npy"
        if not path.is_file():
            began = time.process_time()
            model.fit([videos.data[i] for i in train], videos.target[train])
            values = model.predict([videos.data[i] for i in test])
            srcc = srcc_score(videos.target[test], values)
            losses = [f"{r['loss']:.2f}" for r in getattr(model, "history_", [])]
            print(
                f"{name}, seed {seed}, fold {fold}: SRCC {srcc:.3f}, "
                f"{time.process_time() - began:.0f} s of CPU, loss {' '.join(losses)}",
                flush=True,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, values)
        predicted[test] = np.load(path)
    return predicted


def add_lines(path, videos, predicted, clip_frames):
    """Per method its SRCC over all clips, the mean over seeds, and the intervals'."""
    lines = []
    for name, seeds in predicted.items():
        found = [
            bootstrap_interval(videos.target, p, groups=videos.groups) for p in seeds
        ]
        values = np.mean([each[:3] for each in found], 0).round(3)
        lines.append((clip_frames, name, len(seeds), *values))
    columns = ["clip_frames", "method", "seeds", "srcc", "srcc_low", "srcc_high"]
    table = pd.DataFrame(lines, columns=columns)
    table.to_csv(path, mode="a", header=not path.exists(), index=False)


def report(videos, predicted):
    kinds = {"all clips": np.ones(len(videos.data), bool)}
    if set(videos.distortion_names) > set(TEMPORAL):
        for kind, families in (("temporal", TEMPORAL), ("spatial", SPATIAL)):
            kinds[kind] = np.isin(videos.distortion, (*families, "reference"))
    for family in videos.distortion_names:
        kinds[family] = np.isin(videos.distortion, (family, "reference"))
    for kind, rows in kinds.items():
        print(f"\n{kind}, {rows.sum()} clips: SRCC per seed [95 % over photographs]")
        y, groups = videos.target[rows], videos.groups[rows]
        for name, seeds in predicted.items():
            each = [bootstrap_interval(y, p[rows], groups=groups) for p in seeds]
            text = "  ".join(f"{v:6.3f} [{a:6.3f}, {b:6.3f}]" for v, a, b in each)
            print(f"{name:>22}  {text}  mean {np.mean([v for v, *_ in each]):.3f}")
        pairs = zip(predicted["with modulator"], predicted["without modulator"])
        for seed, (ours, plain) in enumerate(pairs):
            gain, low, high, p = bootstrap_difference(
                y, ours[rows], plain[rows], groups=groups
            )
            name = f"gain, seed {seed}"
            print(f"{name:>22}  {gain:6.3f} [{low:6.3f}, {high:6.3f}], p = {p:.4f}")


if __name__ == "__main__":
    main()
