"""All video systems on the same clips: trained, tested and compared in one table.

    python tools/evaluate_learned_videos.py CLIPS runs/videos     # goes on
    python tools/evaluate_learned_videos.py CLIPS runs/videos --table x.csv
    python tools/evaluate_learned_videos.py CLIPS runs/videos --ask 900 950

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

import joblib
import numpy as np
import pandas as pd
from evaluate_learned import (
    DRAWS,
    FROZEN,
    SCORER,
    choose,
    measure,
    report,
    within,
)
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils import Bunch

from diffqa_features import (
    DiffusionQAFeatures,
    DiffVQARegressor,
    GenzVQARegressor,
    MotionFeatures,
    load_scorer,
)
from diffqa_features.evaluation import bootstrap_interval

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
GENZVQA = {"image_size": 64, "n_frames": 2, "n_timesteps": 2, "max_epochs": 6}
LEARNED = {
    "DiffVQA": (DiffVQARegressor, DIFFVQA),
    "GenzVQA": (GenzVQARegressor, GENZVQA),
    "GenzVQA, no modulator": (GenzVQARegressor, {**GENZVQA, "modulator": False}),
}
MEANS = [("DiffVQA",), (BOTH, "DiffVQA"), (BOTH, "DiffVQA", "GenzVQA")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", type=Path, help="only write this table")
    parser.add_argument("--ask", nargs="+", type=int, help="only ask about these")
    parser.add_argument(
        "--systems", nargs="+", default=[FROZEN, MOTION, BOTH, *LEARNED]
    )
    parser.add_argument("--set", type=json.loads, default={}, help="parameters, JSON")
    parser.add_argument("--choose", action="store_true", help="inside fold 0's rows")
    parser.add_argument("--runs", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=6, help="of shards")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.ask is not None:
        return ask(args)
    data = read_clips(args.shards, range(args.count))
    if args.choose:
        return choose(data, args, make)
    if args.table is None:
        for run in args.runs:
            for name in args.systems:
                if not (run and name not in LEARNED):
                    measure(name, run, data, args, make)
    report(data, args, MEANS)


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


def ask(args):
    """SRCC with JOD of what the models of all folds say on average of other clips."""
    lines = []
    for number in args.ask:
        data = read_clips(args.shards, [number])
        answers = {SCORER: load_scorer("tiny").assess(data.data)["jod"].to_numpy(float)}
        for name in args.systems:
            models = sorted(args.folder.glob(f"model {name} 0 [0-9]"))
            if models:
                each = [load(path, name).predict(data.data) for path in models]
                answers[name] = np.mean(each, 0)
        for name, predicted in answers.items():
            found = bootstrap_interval(
                data.target, predicted, groups=data.groups, n_resamples=DRAWS
            )
            line = dict(zip(("srcc", "srcc_low", "srcc_high"), found))
            line["within"] = within(predicted, data)
            lines.append({"shard": number, "system": name, **line})
    table = pd.DataFrame(lines).round(3)
    print(table.to_string(index=False))


def load(path, name):
    return (
        LEARNED[name][0].from_pretrained(path) if name in LEARNED else joblib.load(path)
    )


if __name__ == "__main__":
    main()
