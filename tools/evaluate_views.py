"""Compare views of large photographs: stretch, crop, tiles, and both, at equal cost.

    PYTHONPATH=JOD:. python tools/evaluate_views.py label PACKAGES RUN
    python tools/evaluate_views.py extract PACKAGES RUN
    python tools/evaluate_views.py report RUN --out benchmarks/results/views.csv

`PACKAGES` is where `training_references.py` unpacked the photographs; those of at least
2 megapixels are distorted whole and saved nowhere: `label` and `extract` make the same
pictures again, one photograph after the other, and go on where they were stopped.

Two targets. JOD (ColorVideoVDP) of the central 768 x 768 pixels at full resolution: the
families change a picture everywhere alike, and a whole picture takes 7 s. It sees what
`crop` sees, and not all that tiles see. Minus the level of distortion, 0 to 3, is of
the whole picture, but not comparable between families.

Equal cost: so many rows of the UNet for a picture, four times two prompts. `stretch`
and `crop` spend them on four timesteps, `tiles` on four tiles, `both` on one stretched
picture and three tiles. One timestep of `stretch` and of `crop`, a quarter of that, is
listed beside it.

Leave one photograph out, StandardScaler and SVR(C=10); SRCC over all predictions,
and within a photograph (mean over photographs), with 95 % intervals and paired
differences to `stretch` over resampled photographs.
"""

import argparse
import csv
from itertools import product
from pathlib import Path

import numpy as np
from training_references import list_photographs

ROWS = 4
FAMILIES = ("gaussian_blur", "white_noise", "jpeg", "oversharpen", "low_contrast")
SEVERITIES = (0.0, 0.4, 0.8)
SMALLEST = 2e6  # pixels
CROP = 768
TIMESTEPS = (20, 50, 100, 200)
BASE = "t50__"
POOLING = ("mean", "std", "min", "max")
SETTINGS = {
    "stretch": {"view": "stretch", "timesteps": TIMESTEPS},
    "crop": {"view": "crop", "timesteps": TIMESTEPS},
    "tiles4": {"view": "tiles", "n_tiles": ROWS, "tile_pooling": POOLING},
    "tiles3": {"view": "tiles", "n_tiles": ROWS - 1, "tile_pooling": POOLING},
}
ALL = "."
MEANS = "tiles-mean$"
# Name -> (rows of the UNet per prompt, parts that stand side by side).
VIEWS = {
    "stretch, 1 timestep": (1, [("stretch", BASE)]),
    "crop, 1 timestep": (1, [("crop", BASE)]),
    "stretch, 4 timesteps": (4, [("stretch", ALL)]),
    "crop, 4 timesteps": (4, [("crop", ALL)]),
    "4 tiles, mean": (4, [("tiles4", MEANS)]),
    "4 tiles, mean std min max": (4, [("tiles4", ALL)]),
    "stretch + 3 tiles, mean": (4, [("stretch", BASE), ("tiles3", MEANS)]),
    "stretch + 3 tiles, mean std min max": (4, [("stretch", BASE), ("tiles3", ALL)]),
}
BASELINE = "stretch, 4 timesteps"
COLUMNS = {"alignment + error": ALL, "error": "__error__"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for command in (label, extract):
        one = commands.add_parser(command.__name__)
        one.add_argument("packages", type=Path)
        one.add_argument("run", type=Path)
        one.set_defaults(command=command)
    one = commands.add_parser("report")
    one.add_argument("run", type=Path)
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(command=report)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    args.command(args)


def distorted(packages, row):
    """The photograph, then (family, severity, pixels) of every picture made of it."""
    from PIL import Image

    from diffqa_features.datasets._chains import apply_chain

    reference = np.asarray(Image.open(packages / row["file"]).convert("RGB"))
    yield "reference", 0.0, reference
    for place, family in enumerate(FAMILIES):
        for severity in SEVERITIES:
            rng = np.random.default_rng([place, int(10 * severity)])
            chain = [(family, severity)]
            yield family, severity, apply_chain(reference, chain, rng)


def large_photographs(packages):
    from PIL import Image

    for row in list_photographs():
        with Image.open(packages / row["file"]) as image:
            if image.width * image.height >= SMALLEST:
                yield row


def label(args):
    import torch

    from diffqa_features.datasets._jod import jod_of_picture

    torch.set_num_threads(1)
    for row in large_photographs(args.packages):
        path = args.run / f"{row['name']}.jod.npy"
        if path.exists():
            continue
        reference, scores = None, []
        for _, _, pixels in distorted(args.packages, row):
            top, left = ((side - CROP) // 2 for side in pixels.shape[:2])
            crop = pixels[top : top + CROP, left : left + CROP]
            reference = crop if reference is None else reference
            scores.append(jod_of_picture(reference, crop))
        np.save(path, scores)
        print(row["name"], np.round(scores, 2), flush=True)


def extract(args):
    import torch

    from diffqa_features import DiffusionQAFeatures

    torch.set_num_threads(1)
    estimators = {
        name: DiffusionQAFeatures(**settings) for name, settings in SETTINGS.items()
    }
    for row in large_photographs(args.packages):
        path = args.run / f"{row['name']}.npz"
        if path.exists():
            continue
        pictures = list(distorted(args.packages, row))
        pixels = [each for *_, each in pictures]
        tables = {name: each.transform(pixels) for name, each in estimators.items()}
        np.savez(
            path,
            family=[family for family, *_ in pictures],
            severity=[severity for _, severity, _ in pictures],
            **tables,
        )
        print(row["name"], pixels[0].shape, flush=True)


def report(args):
    import pandas as pd
    from scipy.stats import spearmanr
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    from diffqa_features import DiffusionQAFeatures
    from diffqa_features.evaluation import bootstrap_difference, bootstrap_interval

    paths = [
        path
        for path in sorted(args.run.glob("*.npz"))
        if path.with_suffix(".jod.npy").exists()
    ]
    parts = [np.load(path) for path in paths]
    jod = np.concatenate([np.load(path.with_suffix(".jod.npy")) for path in paths])
    groups = np.concatenate(
        [[path.stem] * len(part["family"]) for path, part in zip(paths, parts)]
    )
    tables = {
        name: pd.DataFrame(
            np.concatenate([part[name] for part in parts]),
            columns=DiffusionQAFeatures(**settings).get_feature_names_out(),
        ).add_prefix(f"{name}:")
        for name, settings in SETTINGS.items()
    }
    model = make_pipeline(StandardScaler(), SVR(C=10))
    level = np.concatenate(
        [
            np.where(
                part["family"] == "reference",
                0.0,
                -1.0 - np.searchsorted(SEVERITIES, part["severity"]),
            )
            for part in parts
        ]
    )
    lines = []
    for measure, columns in product(("jod", "level"), COLUMNS):
        target, kinds = jod if measure == "jod" else level, COLUMNS[columns]
        base = None
        for name, (rows, chosen) in VIEWS.items():
            matrix = np.hstack(
                [
                    tables[part].filter(regex=pattern).filter(regex=kinds)
                    for part, pattern in chosen
                ]
            )
            predicted = cross_val_predict(
                model, matrix, target, groups=groups, cv=LeaveOneGroupOut()
            )
            within = np.array(
                [
                    spearmanr(target[groups == g], predicted[groups == g]).statistic
                    for g in np.unique(groups)
                ]
            )
            if name == BASELINE:
                base = predicted, within
            against = (np.nan,) * 3, (np.nan,) * 3
            if base is not None and predicted is not base[0]:
                against = (
                    bootstrap_difference(target, predicted, base[0], groups=groups)[:3],
                    interval(within - base[1]),
                )
            numbers = [
                *bootstrap_interval(target, predicted, groups=groups),
                *against[0],
                *interval(within),
                *against[1],
            ]
            lines.append(
                [measure, columns, name, 2 * rows, matrix.shape[1]]
                + ["" if np.isnan(each) else f"{each:.3f}" for each in numbers]
                + [len(target), len(paths)]
            )
            print(*lines[-1], sep=" | ", flush=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["target", "kinds", "view", "unet_rows", "columns"]
            + [
                f"{test}{what}{end}"
                for test in ("srcc", "within_photograph")
                for what in ("", "_minus_stretch")
                for end in ("", "_low", "_high")
            ]
            + ["pictures", "photographs"]
        )
        writer.writerows(lines)


def interval(values, n_resamples=2000):
    """Mean of one number per photograph, and its interval over photographs."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (n_resamples, len(values))).mean(1)
    return values.mean(), *np.quantile(means, [0.025, 0.975])


if __name__ == "__main__":
    main()
