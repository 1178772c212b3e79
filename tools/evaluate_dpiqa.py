"""Train DP-IQA on distorted procedural pictures, and ask it about photographs.

    python tools/evaluate_dpiqa.py runs/dpiqa
    python tools/evaluate_dpiqa.py runs/dpiqa --methods "no text adapter"
    python tools/evaluate_dpiqa.py runs/dpiqa --what table

Two families of distortions at four levels of each procedural picture, all families on
the photographs; target = minus the level. No photograph is in the training. Beside the
teacher stands a support vector machine on the features of the frozen model, which sees
the same pictures. A run that was stopped goes on; predictions, histories and models
stay in the folder, and the table compares each with the support vector machine, paired.
`--what choose` holds out a quarter of the procedural pictures and reports the SRCC
there after each epoch: settings are chosen on it.
"""

import argparse
import csv
import itertools
import json
import time
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils import Bunch

from diffqa_features import DiffusionQAFeatures, DPIQARegressor, datasets
from diffqa_features.datasets._distortions import BASIC
from diffqa_features.evaluation import bootstrap_difference, bootstrap_interval

BASELINE = "svr"
METHODS = {
    BASELINE: None,
    "teacher": {},
    "no text adapter": {"text_adapter": False},
    "no image adapter": {"image_adapter": False},
    "frozen UNet": {"train_unet": False},
    "flips": {"augmentation": "flips"},
    "flips and crops": {"augmentation": "flips and crops"},
    "published": {"preset": "koniq"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--what", choices=["photographs", "choose", "table"], default="photographs"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--pictures", type=int, default=80, help="procedural ones")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--levels", type=int, default=4, help="of the photographs")
    parser.add_argument("--set", type=json.loads, default={}, help="parameters, JSON")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    globals()[args.what](args)


def photographs(args):
    """Train what is missing, and ask it about the photographs."""
    seen, unseen = procedural(args), held_out(args)
    for name, seed in itertools.product(args.methods, args.seeds):
        path = args.folder / f"{name} {seed}.npy"
        if path.exists() or (seed and METHODS[name] is None):
            continue
        model, start = make(name, seed, args), time.process_time()
        model.fit(seen.data, seen.target)
        fitted = time.process_time()
        np.save(path, model.predict(unseen.data))
        record(args, path.stem, model, fitted - start, time.process_time() - fitted)


def choose(args):
    """SRCC on held-out procedural pictures after each epoch."""
    seen = procedural(args)
    for name, seed in itertools.product(args.methods, args.seeds):
        if METHODS[name] is None:
            continue
        model, start = make(name, seed, args), time.process_time()
        model.set_params(validation_fraction=0.25, patience=1000)
        model.fit(seen.data, seen.target, groups=seen.groups)
        record(args, f"choose {name} {seed}", model, time.process_time() - start, 0)


def table(args):
    """Results in `table.csv`, with the difference from the baseline, paired."""
    unseen = held_out(args)
    found = {path.stem: np.load(path) for path in sorted(args.folder.glob("*.npy"))}
    rows = []
    for name, predicted in found.items():
        row = {"method": name}
        for metric in ("srcc", "plcc"):
            values = bootstrap_interval(
                unseen.target, predicted, metric=metric, groups=unseen.groups
            )
            row |= zip((metric, f"{metric}_low", f"{metric}_high"), values)
        if name != f"{BASELINE} 0":
            values = bootstrap_difference(
                unseen.target, predicted, found[f"{BASELINE} 0"], groups=unseen.groups
            )
            row |= zip(("difference", "low", "high", "p"), values)
        rows.append(
            {k: v if isinstance(v, str) else f"{v:.4f}" for k, v in row.items()}
        )
        print(rows[-1], flush=True)
    with (args.folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, max(rows, key=len), restval="")
        writer.writeheader()
        writer.writerows(rows)


# -- data and models -----------------------------------------------------------------


def procedural(args):
    """Two families in four levels of each picture: many contents, not many copies."""
    size = args.image_size
    pictures = datasets.make_procedural_images(
        args.pictures, image_size=size, random_state=5
    )
    pairs = list(itertools.combinations(BASIC, 2))
    order = np.random.default_rng(0).permutation(len(pairs))
    parts = [
        datasets.make_distorted_images(
            [picture],
            families=pairs[order[i % len(pairs)]],
            n_levels=4,
            image_size=size,
            random_state=i,
        )
        for i, picture in enumerate(pictures)
    ]
    return Bunch(
        data=[image for part in parts for image in part.data],
        target=np.concatenate([part.target for part in parts]),
        groups=np.repeat(range(len(parts)), [len(part.target) for part in parts]),
    )


def held_out(args):
    photographs = datasets.load_sample_photos().data
    return datasets.make_distorted_images(
        photographs, n_levels=args.levels, image_size=args.image_size
    )


def make(name, seed, args):
    if METHODS[name] is None:
        features = DiffusionQAFeatures(image_size=args.image_size, device="cpu")
        return make_pipeline(features, StandardScaler(), SVR(C=10))
    return DPIQARegressor(
        image_size=args.image_size,
        scenes=["photo"],
        batch_size=8,
        checkpoint_dir=args.folder,
        random_state=seed,
        device="cpu",
        **{**METHODS[name], **args.set},
    )


def record(args, name, model, fit_seconds, predict_seconds):
    facts = {
        "method": name,
        "set": args.set,
        "pictures": args.pictures,
        "cpu_seconds": [round(fit_seconds), round(predict_seconds)],
        "history": getattr(model, "history_", None),
    }
    print(facts, flush=True)
    with (args.folder / "runs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
