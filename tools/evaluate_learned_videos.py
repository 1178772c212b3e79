"""All video systems on the same clips: trained, tested and compared in one table.

    python tools/evaluate_learned_videos.py CLIPS runs/videos     # goes on
    python tools/evaluate_learned_videos.py CLIPS runs/videos --table x.csv
    python tools/evaluate_learned_videos.py CLIPS runs/videos --choose --systems DiffVQA

CLIPS come from `label_videos.py`: contents in motion under faults of timing and of the
picture, with JOD. Whole contents are held out, in three folds; every system is trained
on the same rows of a fold, run r in fold k with another seed. The table is that of
`evaluate_learned.py`, with the SRCC of the clips with faults of one kind, these with
the undistorted clips. `--ask` has the models of run 0 score the clips of shards that
nobody was trained on (photographs for tests, camera clips), beside the scorer.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from evaluate_learned import FROZEN, choose, measure, report
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils import Bunch

from diffqa_features import (
    DiffusionQAFeatures,
    DiffVQARegressor,
    GenzVQARegressor,
    MotionFeatures,
)

MOTION = "motion + SVR"
BOTH = "frozen and motion + SVR"
# As in evaluate_diffvqa.py: every frame of these clips, no Mamba, no control.
DIFFVQA = {
    "control": False,
    "image_size": 64,
    "frame_rate": 30.0,
    "burst_length": 32,
    "grid_size": 2,
    "width": 32,
    "mamba": False,
    "max_epochs": 20,
    "batch_size": 16,
}
# By the SRCC after each epoch inside the training rows of fold 0 (--choose).
FALLING = {"max_epochs": 14, "milestones": (7, 10, 12), "lr_decay": 0.3}
GENZVQA = {"image_size": 64, "n_frames": 2, "n_timesteps": 2, "max_epochs": 6}
LEARNED = {
    "DiffVQA": (DiffVQARegressor, {**DIFFVQA, **FALLING}),
    "DiffVQA, constant rate": (DiffVQARegressor, DIFFVQA),
    "GenzVQA": (GenzVQARegressor, GENZVQA),
    "GenzVQA, no modulator": (GenzVQARegressor, {**GENZVQA, "modulator": False}),
}
MEANS = [(BOTH, "DiffVQA"), (BOTH, "DiffVQA", "GenzVQA")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", type=Path, help="only write this table")
    parser.add_argument(
        "--systems", nargs="+", default=[FROZEN, MOTION, BOTH, *LEARNED]
    )
    parser.add_argument("--set", type=json.loads, default={}, help="parameters, JSON")
    parser.add_argument("--choose", action="store_true", help="inside fold 0's rows")
    parser.add_argument("--runs", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--baseline", default=FROZEN, help="of the differences")
    parser.add_argument("--count", type=int, default=6, help="of shards")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    data = read_clips(args.shards, range(args.count))
    if args.choose:
        return choose(data, args, make)
    if args.table is None:
        for run in args.runs:
            for name in args.systems:
                if not (run and name not in LEARNED):
                    measure(name, run, data, args, make)
    report(data, args, MEANS, args.baseline)


def read_clips(shards, numbers):
    parts = {}
    for number in numbers:
        with np.load(shards / f"clips{number:05d}.npz") as shard:
            for key in ("pixels", "jod", "name", "number", "timing", "picture"):
                parts.setdefault(key, []).append(shard[key])
    found = {key: np.concatenate(values) for key, values in parts.items()}
    timed, damaged = found["timing"] != "[]", found["picture"] != "[]"
    return Bunch(
        data=list(found["pixels"]),
        target=found["jod"].astype(float),
        groups=found["name"],
        references=found["number"],
        parts={"timing": ~damaged, "picture": ~timed},
    )


def make(name, seed, args):
    store = args.folder / "store"
    frames = DiffusionQAFeatures(
        image_size=96, max_frames=8, frame_pooling=("mean", "std"), memory=store
    )
    motion = MotionFeatures(pooling=("mean", "std"), memory=store)
    if name in LEARNED:
        kind, settings = LEARNED[name]
        settings = {**settings, **args.set}
        return kind(**settings, memory=store, random_state=seed, device="cpu")
    both = FeatureUnion([("frames", frames), ("motion", motion)])
    features = {FROZEN: frames, MOTION: motion, BOTH: both}[name]
    return make_pipeline(features, StandardScaler(), SVR())


if __name__ == "__main__":
    main()
