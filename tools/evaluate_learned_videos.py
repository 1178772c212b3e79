"""All video systems on the same clips: trained, tested and compared in one table.

    python tools/evaluate_learned_videos.py CLIPS runs/videos     # goes on
    python tools/evaluate_learned_videos.py CLIPS runs/videos --table x.csv
    python tools/evaluate_learned_videos.py CLIPS runs/videos --choose --systems DiffVQA
    python tools/evaluate_learned_videos.py CLIPS runs/videos --curve x.csv --count 12
    python tools/evaluate_learned_videos.py CLIPS runs/videos --curve x.csv --ask 950

CLIPS come from `label_videos.py`: contents in motion under faults of timing and of the
picture, with JOD. Whole contents are held out, in three folds; every system is trained
on the same rows of a fold, run r in fold k with another seed. The table is that of
`evaluate_learned.py`, with the SRCC of the clips with faults of one kind, these with
the undistorted clips. `--curve` asks how much more clips help: the held-out clips of
fold 0, by models of some of the contents that it trains on, or, with `--ask`, the clips
of other shards, by models of some of all contents. It goes on, too.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from evaluate_learned import (
    FROZEN,
    append,
    choose,
    fit,
    folds_of,
    measure,
    measures,
    report,
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
)
from diffqa_features.metrics import srcc_score

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
PARTS = (0.25, 0.5, 1.0)  # of the contents to train on
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
    parser.add_argument("--curve", type=Path, help="only write this table")
    parser.add_argument("--parts", type=float, nargs="+", default=PARTS)
    parser.add_argument("--ask", type=int, nargs="+", help="of --curve: these shards")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    data = read_clips(args.shards, range(args.count))
    if args.choose:
        return choose(data, args, make)
    if args.curve is not None:
        return curve(data, args)
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


def curve(data, args):
    """SRCC of held-out clips after training on parts of the other contents."""
    if args.ask is None:
        train, held = folds_of(data)[0]
        asked = Bunch(
            data=[data.data[i] for i in held],
            target=data.target[held],
            groups=data.groups[held],
            references=data.references[held],
            parts={kind: rows[held] for kind, rows in data.parts.items()},
        )
    else:
        train, asked = np.arange(len(data.target)), read_clips(args.shards, args.ask)
    contents = np.random.default_rng(0).permutation(np.unique(data.groups[train]))
    done = args.folder / "curve.jsonl"
    lines = done.read_text("utf-8").splitlines() if done.exists() else []
    lines = [line for line in map(json.loads, lines) if line.get("ask") == args.ask]
    found = {(line["system"], line["part"]): line for line in lines}
    for name, part in product(args.systems, args.parts):
        if (name, part) in found:
            continue
        chosen = contents[: round(part * len(contents))]
        rows = train[np.isin(data.groups[train], chosen)]
        start, model = time.process_time(), make(name, 0, args)
        fit(model, data, rows)
        line = {"system": name, "part": part, "ask": args.ask, "contents": len(chosen)}
        line |= {"clips": len(rows), "fit_cpu_s": time.process_time() - start}
        line["srcc_train"] = srcc_score(
            data.target[rows], model.predict([data.data[i] for i in rows])
        )
        line["predicted"] = model.predict(asked.data).tolist()
        append(done, line)
        found[name, part] = line
    table = [
        line | measures(np.array(line.pop("predicted")), asked)
        for line in found.values()
    ]
    columns = ["system", "contents", "clips", "srcc_train", "srcc", "srcc_low"]
    columns += ["srcc_high", "srcc_timing", "srcc_picture", "fit_cpu_s"]
    table = pd.DataFrame(table)[columns].round(3)
    print(table.to_string(index=False))
    table.to_csv(args.curve, index=False)


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
