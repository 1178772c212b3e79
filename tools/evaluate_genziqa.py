"""Measure GenzIQA on the shipped backbone: the table of docs/learned.rst.

    python tools/evaluate_genziqa.py choose       # settings, procedural pictures only
    python tools/evaluate_genziqa.py photographs  # the held-out test
    python tools/evaluate_genziqa.py table        # intervals and differences
    python tools/evaluate_genziqa.py photographs --methods LoRA \\
        "LoRA, empty prompts" "LoRA, exchanged prompts"   # ablation of the prompts

Trained on distorted procedural pictures, asked about distorted photographs (the test of
tools/evaluate_tiny.py, of which the central crop is read); target = minus the level.
Every training holds out a quarter of its procedural references, keeps the epoch with
the best SRCC there, and sees no photograph. A run that was killed goes on from where it
stood: finished rows are in a CSV, unfinished ones in a checkpoint.
"""

import argparse
import csv
import datetime
import itertools
import time
from pathlib import Path

import numpy as np
from evaluate_tiny import FAMILIES
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils import Bunch

from diffqa_features import DiffusionQAFeatures, GenzIQARegressor, datasets
from diffqa_features.evaluation import bootstrap_difference, bootstrap_interval
from diffqa_features.metrics import srcc_score

# What is switched on. The first two train nothing: one seed is all there is.
METHODS = {
    "zero-shot prompts": {"n_context": 0, "lora_rank": 0, "max_epochs": 0},
    "frozen features, SVR": None,
    "learned prompts": {"lora_rank": 0},
    "LoRA": {"n_context": 0},
    "prompts and LoRA": {},
    "prompts of 4 vectors and LoRA": {"n_context": 4},
    "prompts, LoRA and linear head": {"head": "linear"},
    # Ablations of the prompts' words; "LoRA" has them fixed.
    "LoRA, empty prompts": {"n_context": 0, "prompts": ("", "")},
    "LoRA, exchanged prompts": {
        "n_context": 0,
        "prompts": ("Bad Photo.", "Good Photo."),
    },
}
TRAINED = list(METHODS)[2:]
PROCEDURAL = 300_000  # a seed that no training of the backbone had


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["choose", "photographs", "table"])
    parser.add_argument(
        "--out", type=Path, default=Path("runs/genziqa"), help="one per data and size"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--references", type=int, default=96)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--timesteps", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[3e-3])
    parser.add_argument("--normalization", nargs="+", default=["vae"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    {"choose": choose, "photographs": photographs, "table": table}[args.what](args)


def choose(args):
    """Compare settings by the SRCC on procedural references that are held out."""
    seen = procedural(args)
    for rate, pixels, method in itertools.product(
        args.learning_rate, args.normalization, args.methods
    ):
        row = describe(args, method, args.seeds[0], rate, pixels)
        if METHODS[method] is None or known(args.out / "choose.csv", row):
            continue
        start = time.process_time()
        model = fit(args, row, seen)
        scores = [record["validation_srcc"] for record in model.history_]
        append(
            args.out / "choose.csv",
            row | {"validation_srcc": " ".join(f"{s:.4f}" for s in scores)},
            start,
        )


def photographs(args):
    """Train what is missing, and ask it about the photographs."""
    seen, unseen = procedural(args), held_out()
    (rate,), (pixels,) = args.learning_rate, args.normalization
    for seed, method in itertools.product(args.seeds, args.methods):
        row = describe(args, method, seed, rate, pixels)
        if known(args.out / "photographs.csv", row) or (seed and method not in TRAINED):
            continue
        start = time.process_time()
        if METHODS[method] is None:
            model, best = frozen(args).fit(seen.data, seen.target), {}
        else:
            model = fit(args, row, seen)
            best = max(model.history_, key=lambda r: r["validation_srcc"], default={})
            model.save_pretrained(args.out / f"model {method} {seed}")
        predicted = model.predict(unseen.data)
        np.save(args.out / f"{method} {seed}.npy", predicted)
        facts = {
            "epoch": best.get("epoch", ""),
            "validation_srcc": f"{best['validation_srcc']:.4f}" if best else "",
            **measure(unseen, predicted),
        }
        append(args.out / "photographs.csv", row | facts, start)


def table(args):
    """Each method against the two that train nothing of the backbone, paired."""
    unseen = held_out()
    predictions = {path.stem: np.load(path) for path in sorted(args.out.glob("*.npy"))}
    for name, predicted in predictions.items():
        measured = measure(unseen, predicted)
        print(name, *(f"{key} {value}" for key, value in measured.items()), sep=", ")
        for other in ("zero-shot prompts 0", "frozen features, SVR 0"):
            if other == name or other not in predictions:
                continue
            difference, low, high, p = bootstrap_difference(
                unseen.target, predicted, predictions[other], groups=unseen.groups
            )
            print(
                f"    SRCC less that of {other}: {difference:+.3f} "
                f"[{low:+.3f}, {high:+.3f}], p = {p:.4f}"
            )


# -- data and models -----------------------------------------------------------------


def procedural(args):
    """Two families in four levels of each reference: many contents, not many copies."""
    references = datasets.make_procedural_images(
        args.references, random_state=PROCEDURAL
    )
    pairs = list(itertools.combinations(FAMILIES, 2))
    parts = [
        datasets.make_distorted_images(
            [reference], families=pairs[i % len(pairs)], n_levels=4, random_state=i
        )
        for i, reference in enumerate(references)
    ]
    return Bunch(
        data=[image for part in parts for image in part.data],
        target=np.concatenate([part.target for part in parts]),
        groups=np.repeat(range(len(parts)), [len(part.target) for part in parts]),
    )


def held_out():
    return datasets.make_distorted_images(families=FAMILIES, n_levels=4)


def fit(args, row, seen):
    model = GenzIQARegressor(
        image_size=args.image_size,
        view="crop",
        n_timesteps=args.timesteps,
        max_epochs=args.epochs,
        patience=args.epochs,
        learning_rate=row["learning_rate"],
        normalization=row["normalization"],
        validation_fraction=0.25,
        random_state=row["seed"],
        checkpoint_dir=args.out,
        memory=args.out / "store",
        device="cpu",
    ).set_params(**METHODS[row["method"]])
    return model.fit(seen.data, seen.target, groups=seen.groups)


def frozen(args):
    features = DiffusionQAFeatures(
        image_size=args.image_size,
        view="crop",
        memory=args.out / "store",
        device="cpu",
    )
    return make_pipeline(features, StandardScaler(), SVR(C=10))


def measure(data, predicted):
    """SRCC and PLCC with intervals over photographs, and SRCC within families."""
    facts = {}
    for metric in ("srcc", "plcc"):
        values = bootstrap_interval(
            data.target, predicted, metric=metric, groups=data.groups
        )
        names = (metric, f"{metric}_low", f"{metric}_high")
        facts |= {name: f"{v:.4f}" for name, v in zip(names, values)}
    for family in FAMILIES:
        chosen = data.family == family
        score = srcc_score(data.target[chosen], predicted[chosen])
        facts[f"srcc_{family}"] = f"{score:.4f}"
    return facts


# -- rows ----------------------------------------------------------------------------


def describe(args, method, seed, rate, pixels):
    """What a result depends on: the first columns of its row."""
    return {
        "method": method,
        "seed": seed,
        "references": args.references,
        "image_size": args.image_size,
        "timesteps": args.timesteps,
        "max_epochs": args.epochs,
        "learning_rate": rate,
        "normalization": pixels,
    }


def known(path, row):
    if not path.exists():
        return False
    with path.open(newline="", encoding="utf-8") as file:
        kept = list(csv.DictReader(file))
    return any(all(old[k] == str(v) for k, v in row.items()) for old in kept)


def append(path, row, start):
    row["cpu_seconds"] = f"{time.process_time() - start:.0f}"
    row["date"] = datetime.date.today().isoformat()
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row, flush=True)


if __name__ == "__main__":
    main()
