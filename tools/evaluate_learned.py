"""All image systems on the same rows: trained, tested and compared in one table.

    python tools/evaluate_learned.py SHARDS runs/learned      # goes on where it stopped
    python tools/evaluate_learned.py SHARDS runs/learned --table x.csv
    python tools/evaluate_learned.py SHARDS runs/learned --ask HELDOUT --out PREDICTED
    python tools/evaluate_learned.py SHARDS runs/learned --blocks x.csv
    python tools/evaluate_learned.py SHARDS runs/learned --systems "GenzIQA, t = 50"
    python tools/evaluate_learned.py SHARDS runs/learned --ablations x.csv

SHARDS come from `label_pictures.py`: procedural pictures and photographs under all
families of distortions, with JOD. Whole contents (photographs, procedural pictures) are
held out, in three folds; every system is trained on the same rows of a fold, run r in
fold k with seed r + k. `--table`
trains nothing and writes what is there: SRCC over the rows of all folds and within a
reference, mean over runs, 95 % intervals over contents, and the difference from frozen
columns with a support vector machine, paired. `--ask` has the models of the folds score
the pictures of a folder, and writes one CSV per system; nothing is chosen by it.
`--blocks` scores the held-out rows by some blocks of the trained GenzIQA of run 0.

Ablations of GenzIQA, DP-IQA and its student are systems here, named by what is changed;
`--ablations` compares those that were run with the system as it is, on run 0.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils import Bunch

from diffqa_features import (
    DiffusionQAFeatures,
    DistilledStudentRegressor,
    DPIQARegressor,
    GenzIQARegressor,
    NaturalSceneStatistics,
    load_scorer,
)
from diffqa_features._backbone.info import describe_backbone
from diffqa_features.evaluation import bootstrap_difference, bootstrap_interval
from diffqa_features.learned.scorer.tiles import cut_tiles
from diffqa_features.metrics import srcc_score

FOLDS, DRAWS = 3, 1000
FROZEN, STUDENT, SCORER = "frozen + SVR", "student", "scorer"
ZERO = "zero-shot column"
READ = "stages of DP-IQA + SVR"
CLASSICAL = {FROZEN, ZERO, "NSS + SVR", SCORER}  # of one seed
GENZIQA = {
    "GenzIQA": {},
    "GenzIQA, linear head": {"head": "linear"},
    "GenzIQA, untrained": {"max_epochs": 0},
    "GenzIQA, no context": {"n_context": 0},
    "GenzIQA, context only": {"lora_rank": 0},
    "GenzIQA, empty prompts": {"n_context": 0, "prompts": ("", "")},
    "GenzIQA, prompts exchanged": {
        "n_context": 0, "prompts": ("Bad Photo.", "Good Photo.")
    },
    "GenzIQA, t = 50": {"timestep_range": (50, 51), "n_timesteps": 1},
    "GenzIQA, t = 0 to 500": {"timestep_range": (0, 500)},
    "GenzIQA, down blocks": {"blocks": "down*"},
    "GenzIQA, up blocks": {"blocks": "up*"},
}  # fmt: skip
DPIQA = {
    "DP-IQA": {},
    "DP-IQA, no text adapter": {"text_adapter": False},
    "DP-IQA, no image adapter": {"image_adapter": False},
    "DP-IQA, frozen UNet": {"train_unet": False},
    "DP-IQA, flips": {"augmentation": "flips"},
    "DP-IQA, pixels in [0, 1]": {"normalization": "unit"},
}
DISTILLED = {
    "student of DP-IQA": {},
    "student of DP-IQA, no truth": {"target": "teacher"},
    "student of DP-IQA, no scores": {"target": "truth"},
    "student of DP-IQA, no maps": {"map_weight": 0.0},
    "student of DP-IQA, no teacher": {"target": "truth", "map_weight": 0.0},
}
BLOCKS = ("down", "mid", "up1", "up2", "up3")
STAGES = {
    READ: {},
    "stages of DP-IQA, untrained + SVR": {"max_epochs": 0, "image_adapter": False},
}
MAIN = [FROZEN, ZERO, "NSS + SVR", SCORER, "GenzIQA", "DP-IQA", READ, STUDENT]
MEANS = [
    (FROZEN, *names)
    for names in (
        ("GenzIQA",), ("DP-IQA",), ("GenzIQA", "DP-IQA"), (READ,), (STUDENT,),
        ("GenzIQA", STUDENT),
    )
]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", type=Path, help="only write this table")
    parser.add_argument("--ask", type=Path, help="only score the pictures in here")
    parser.add_argument("--out", type=Path, help="of --ask: a folder")
    parser.add_argument("--blocks", type=Path, help="only write this table")
    parser.add_argument("--ablations", type=Path, help="only write this table")
    parser.add_argument("--tiles", type=int, help="of --ask, of a picture at most")
    parser.add_argument("--systems", nargs="+", default=MAIN)
    parser.add_argument("--set", type=json.loads, default={}, help="parameters, JSON")
    parser.add_argument("--choose", action="store_true", help="inside fold 0's rows")
    parser.add_argument("--runs", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--references", type=int, default=150)
    parser.add_argument("--versions", type=int, default=6, help="of a reference")
    parser.add_argument("--image-size", type=int, default=64, help="centre crops")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.ask is not None:
        return ask(args)
    data = read_rows(args.shards, args.references, args.versions)
    if args.choose:
        return choose(data, args, make)
    if args.blocks is not None:
        return by_blocks(data, args)
    if args.ablations is not None:
        return ablations(data, args)
    if args.table is None:
        # Run by run, so that what was stopped compares all systems on some.
        for run in args.runs:
            for name in args.systems:
                if not (run and name in CLASSICAL):
                    measure(name, run, data, args, make)
    report(data, args)


def report(data, args, means=MEANS, baseline=FROZEN):
    table = summarise(runs_in(args.folder), data, means, baseline)
    print(table.to_string(index=False))
    if args.table is not None:
        table.to_csv(args.table, index=False)


def read_rows(shards, references, versions):
    """The first pictures of the first references, and which rows are of one content."""
    parts = []
    for path in sorted(shards.glob("shard?????.npz")):
        with np.load(path) as shard:
            table = pd.DataFrame({k: shard[k] for k in ("name", "number", "jod")})
            groups = table.groupby(["name", "number"], sort=False)
            table["place"] = groups.cumcount()
            table["reference"] = groups.ngroup() + sum(p[1] for p in parts)
            kept = table[table.place < versions]
            parts.append((kept, groups.ngroups, shard["pixels"][kept.index]))
        if sum(part[1] for part in parts) >= references:
            break
    else:
        raise SystemExit(f"{shards} has fewer than {references} references.")
    table = pd.concat([part[0] for part in parts], ignore_index=True)
    table = table[table.reference < references]
    pixels = np.concatenate([part[2] for part in parts])[: len(table)]
    return Bunch(
        data=list(pixels),
        target=table.jod.to_numpy(float),
        groups=table.name.to_numpy(),
        references=table.reference.to_numpy(),
    )


def make(name, seed, args):
    """An unfitted system; None for the scorer, which is fitted."""
    shared = {"image_size": args.image_size, "view": "crop", "device": "cpu"}
    store = args.folder / "store"
    features = DiffusionQAFeatures(memory=store, **shared)
    frozen = make_pipeline(features, StandardScaler(), SVR())
    if name == FROZEN:
        return frozen
    if name == ZERO:
        return make_pipeline(features, LastColumn())
    if name == "NSS + SVR":
        return make_pipeline(NaturalSceneStatistics(), StandardScaler(), SVR())
    if name == SCORER:
        return None
    shared |= {"random_state": seed, "memory": store, **args.set}
    student = {"network": "tiny", "target": "both", "flip": True, "learning_rate": 2e-3}
    if name == STUDENT:
        return DistilledStudentRegressor(frozen, **student, **shared)
    if name in GENZIQA:
        common = {"normalization": "vae", "n_timesteps": 2}
        return GenzIQARegressor(**{**common, **shared, **GENZIQA[name]})
    common = {"scenes": ["photo"], "checkpoint_dir": args.folder}
    if name in DISTILLED:  # of the DP-IQA that is measured here, from its checkpoint
        teacher = DPIQARegressor(**common, **shared)
        return DistilledStudentRegressor(
            teacher, **{**student, **shared, **DISTILLED[name]}
        )
    if name in STAGES:
        model = DPIQARegressor(**{**common, **shared, **STAGES[name]}, columns="stages")
        return make_pipeline(model, StandardScaler(), SVR())
    return DPIQARegressor(**{**common, **shared, **DPIQA[name]})


class LastColumn(RegressorMixin, BaseEstimator):
    """``error__prompt0-prompt1``, its sign turned: what is known without a fit."""

    def fit(self, X, y):
        self.fitted_ = True
        return self

    def predict(self, X):
        return -X[:, -1]


def folds_of(data):
    return list(GroupKFold(FOLDS).split(data.data, data.target, data.groups))


def choose(data, args, make):
    """SRCC after each epoch on a quarter of the contents that fold 0 trains on."""
    rows = folds_of(data)[0][0]
    for name in args.systems:
        start, model = time.process_time(), make(name, 0, args)
        model.set_params(validation_fraction=0.25, patience=1000)
        fit(model, data, rows, groups=data.groups[rows])
        found = {"system": name, "set": args.set, "history": model.history_}
        append(args.folder / "choose.jsonl", found)
        scores = [round(record["validation_srcc"], 3) for record in model.history_]
        losses = [round(record["loss"], 3) for record in model.history_]
        seconds = time.process_time() - start
        print(name, args.set, f"{seconds:.0f} s", scores, losses, flush=True)


def measure(name, run, data, args, make):
    """Fit and ask for each fold that is not there yet."""
    done = {
        (past["system"], past["run"], past["fold"]) for past in runs_in(args.folder)
    }
    for fold, (train, held) in enumerate(folds_of(data)):
        if (name, run, fold) in done:
            continue
        start, model = time.process_time(), make(name, (run + fold) % FOLDS, args)
        media = [data.data[i] for i in held]
        if model is None:
            fitted = start
            predicted = load_scorer("tiny").assess(media)["jod"].to_numpy(float)
        else:
            fit(model, data, train)
            fitted = time.process_time()
            predicted = model.predict(media)
            keep(model, args.folder / f"model {name} {run} {fold}")
        found = {
            "system": name,
            "run": run,
            "fold": fold,
            "backbone": describe_backbone("tiny").identity,
            "set": args.set,
            "fit_cpu_s": fitted - start,
            "predict_cpu_s": time.process_time() - fitted,
            "history": getattr(model, "history_", []),
            "rows": held.tolist(),
            "predicted": predicted.tolist(),
        }
        append(args.folder / "runs.jsonl", found)
        losses = [round(record["loss"], 3) for record in found["history"]]
        score = srcc_score(data.target[held], predicted)
        seconds = fitted - start
        print(f"{name} {run} {fold}: {seconds:.0f} s, {score:.3f}", losses, flush=True)


def fit(model, data, rows, **more):
    with warnings.catch_warnings():
        # Prompts that are too long for `tiny`.
        warnings.simplefilter("ignore", UserWarning)
        model.fit([data.data[i] for i in rows], data.target[rows], **more)


def append(path, line):
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def keep(model, path):
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(path)
    else:
        joblib.dump(model, path)


def runs_in(folder):
    path = folder / "runs.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    # Not those with other weights of the backbone.
    identity = describe_backbone("tiny").identity
    return [line for line in lines if line["backbone"] == identity]


# -- the table -----------------------------------------------------------------------


def summarise(runs, data, means, baseline):
    """One line per system of which all folds of a run are there."""
    whole, seconds = whole_runs(runs, data)
    for names in means:
        if all(name in whole for name in names):
            add_mean(whole, names)
    lines = []
    for name, found_runs in whole.items():
        found = [measures(predicted, data) for predicted in found_runs.values()]
        line = {"system": name, "runs": len(found_runs), **pd.DataFrame(found).mean()}
        if baseline in whole and name != baseline:
            pairs = [
                bootstrap_difference(
                    data.target, predicted, whole[baseline][0],
                    groups=data.groups, n_resamples=DRAWS,
                )[:3]
                for predicted in found_runs.values()
            ]  # fmt: skip
            line |= dict(zip(("more", "more_low", "more_high"), np.mean(pairs, 0)))
        line["fit_cpu_s"] = np.median(seconds.get(name, np.nan))
        lines.append(line)
    return pd.DataFrame(lines).round(3)


def whole_runs(runs, data):
    """Predictions of all rows by system and run, and CPU seconds of its fits."""
    known, seconds = {}, {}
    for run in runs:
        key = run["system"], run["run"]
        known.setdefault(key, np.full(len(data.target), np.nan))
        known[key][run["rows"]] = run["predicted"]
        seconds.setdefault(run["system"], []).append(run["fit_cpu_s"])
    whole = {}
    for (name, number), predicted in known.items():
        if np.isfinite(predicted).all():
            whole.setdefault(name, {})[number] = predicted
    return whole, seconds


def ablations(data, args):
    """Each variant, and what it has more than the system that it is a variant of."""
    whole, seconds = whole_runs(runs_in(args.folder), data)
    lines = []
    for variants in (GENZIQA, DPIQA, DISTILLED):
        names = [name for name in variants if 0 in whole.get(name, {})]
        system = next(iter(variants))
        for name in names:
            predicted = whole[name][0]
            line = {"system": name, **measures(predicted, data)}
            if name != system:
                found = bootstrap_difference(
                    data.target, predicted, whole[system][0],
                    groups=data.groups, n_resamples=DRAWS,
                )[:3]  # fmt: skip
                line |= dict(zip(("more", "more_low", "more_high"), found))
            lines.append({**line, "fit_cpu_s": np.median(seconds[name])})
    table = pd.DataFrame(lines).round(3)
    print(table.to_string(index=False))
    table.to_csv(args.ablations, index=False)


def add_mean(whole, names):
    """Means of predictions, which are in JOD; the first of `names` has one run."""
    first, *others = (whole[name] for name in names)
    parts = {
        r: [first[0], *(runs[r] for runs in others)]
        for r in set.intersection(*map(set, others))
    }
    if parts:
        title = "mean of " + " and ".join(names)
        whole[title] = {r: np.mean(part, 0) for r, part in parts.items()}


def measures(predicted, data):
    found = {}
    for metric in ("srcc", "plcc"):
        values = bootstrap_interval(
            data.target, predicted, metric=metric, groups=data.groups,
            n_resamples=DRAWS,
        )  # fmt: skip
        found |= dict(zip((metric, f"{metric}_low", f"{metric}_high"), values))
    found["within"] = within(predicted, data)
    for name, rows in data.get("parts", {}).items():
        found[f"srcc_{name}"] = srcc_score(data.target[rows], predicted[rows])
    return found


def within(predicted, data):
    """Mean SRCC over the versions of a reference."""
    rows = pd.DataFrame({"y": data.target, "p": predicted, "r": data.references})
    return np.mean([srcc_score(part.y, part.p) for _, part in rows.groupby("r")])


def by_blocks(data, args):
    """A trained GenzIQA that averages over some of its blocks only.

    SRCC within a reference: the line to the units of y is that of all blocks, and would
    shift the folds against each other.
    """
    parts = {name: np.full(len(data.target), np.nan) for name in ("", *BLOCKS)}
    for fold, (_, held) in enumerate(folds_of(data)):
        path = args.folder / f"model GenzIQA 0 {fold}"
        model = GenzIQARegressor.from_pretrained(path)
        model.set_params(memory=args.folder / "store")
        columns = model.transform([data.data[i] for i in held])
        names = model.get_feature_names_out().astype(str)
        for start, predicted in parts.items():
            chosen = np.char.startswith(names, start) & np.char.endswith(names, "score")
            if chosen.any():
                predicted[held] = model.slope_ * columns[:, chosen].mean(1)
    table = {
        name or "all": within(predicted, data)
        for name, predicted in parts.items()
        if not np.isnan(predicted).all()
    }
    table = pd.Series(table, name="within").round(3).rename_axis("blocks")
    table.to_csv(args.blocks)


# -- other pictures ------------------------------------------------------------------


def ask(args):
    """Scores of a folder's pictures, by the models of all folds and their tiles."""
    paths = sorted(args.ask.glob("*.webp"))
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    tiles = [cut_tiles(picture, args.tiles) for picture in pictures]
    counts = [len(part) for part in tiles]
    tiles = [tile for part in tiles for tile in part]
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.systems:
        models = sorted(args.folder.glob(f"model {name} [0-9] [0-9]"))
        found = [load(path).predict(tiles) for path in models]
        if name == SCORER:
            found = [load_scorer("tiny").assess(tiles)["jod"].to_numpy(float)]
        parts = np.split(np.mean(found, 0), np.cumsum(counts)[:-1])
        table = {"path": [p.name for p in paths], "score": [p.mean() for p in parts]}
        pd.DataFrame(table).to_csv(args.out / f"{name}.csv", index=False)


def load(path):
    if path.is_file():
        return joblib.load(path)
    kind = json.loads((path / "config.json").read_text("utf-8"))["estimator"]
    kinds = (GenzIQARegressor, DPIQARegressor, DistilledStudentRegressor)
    (found,) = [each for each in kinds if each.__name__ == kind]
    return found.from_pretrained(path)


if __name__ == "__main__":
    main()
