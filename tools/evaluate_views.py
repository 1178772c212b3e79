"""Compare views by size of picture and by where its fault is: everywhere, or in a part.

    PYTHONPATH=JOD:. python tools/evaluate_views.py label PACKAGES RUN
    python tools/evaluate_views.py extract PACKAGES RUN
    python tools/evaluate_views.py report RUN --out benchmarks/results/views.csv

`PACKAGES` is where `training_references.py` unpacked the photographs. Those of at least
2 megapixels are taken whole, and reduced to the sizes of the usual data sets; then they
are distorted and saved nowhere: `label` and `extract` make the same pictures again, one
photograph after the other, and go on where they were stopped. `--first` limits both to
so many photographs.

Distortions are of the whole picture, or of a part: a ninth at a random place, a half,
the upper third, or squares here and there.

Two targets. JOD (ColorVideoVDP) of the whole picture, up to 512 x 384: beyond, one
takes 1 to 7 s. Minus the level of distortion, 0 to 2, at every size; between families
levels are not comparable, within one (`faults` is its name) they are. "any" size is one
model for all sizes; there, `auto` is tiles of large pictures and stretches the others.

Cost is rows of the UNet for a picture, at one timestep: views or tiles times prompts.

Leave one photograph out, StandardScaler and SVR(C=10), one model for all distortions;
SRCC over all predictions of some distortions and the originals, and within a photograph
(mean over photographs), with 95 % intervals, and paired differences to `stretch` and to
`crop`, over resampled photographs.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from training_references import list_photographs

from diffqa_features._media.views import LARGE

SIZES = {
    "384 x 288": (384, 288),
    "512 x 384": (512, 384),
    "1024 x 768": (1024, 768),
    "full": None,
}
WITH_JOD = ("384 x 288", "512 x 384")
EVERYWHERE = ("gaussian_blur", "white_noise", "jpeg", "low_contrast")
# Name -> (family, part of the picture it is confined to).
IN_A_PART = {
    "blur of a ninth": ("gaussian_blur", "ninth"),
    "jitter of a ninth": ("jitter", "ninth"),
    "noise of a half": ("white_noise", "half"),
    "banding of the upper third": ("banding", "upper third"),
    "patches": ("patches", "all"),
    "color_blocks": ("color_blocks", "all"),
}
FAULTS = {**{name: (name, "all") for name in EVERYWHERE}, **IN_A_PART}
SEVERITIES = (0.2, 0.8)
SMALLEST = 2e6  # pixels
SIDE = 192  # of tiny's input
N_TILES = 4
# Name -> (pictures that the UNet sees, how their columns become those of the picture).
VIEWS = {
    "stretch": (1, lambda stretch, crop, tiles: stretch),
    "crop": (1, lambda stretch, crop, tiles: crop),
    "stretch + crop": (2, lambda stretch, crop, tiles: np.hstack([stretch, crop])),
    "4 tiles": (N_TILES, lambda stretch, crop, tiles: tiles.mean(1)),
    "4 tiles, mean std min max": (
        N_TILES,
        lambda stretch, crop, tiles: np.hstack(
            [tiles.mean(1), tiles.std(1), tiles.min(1), tiles.max(1)]
        ),
    ),
    "stretch + 4 tiles": (
        1 + N_TILES,
        lambda stretch, crop, tiles: np.hstack([stretch, tiles.mean(1)]),
    ),
}
BASELINES = ("stretch", "crop")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for command in (label, extract):
        one = commands.add_parser(command.__name__)
        one.add_argument("packages", type=Path)
        one.add_argument("run", type=Path)
        one.add_argument("--first", type=int, metavar="N")
        one.set_defaults(command=command)
    one = commands.add_parser("report")
    one.add_argument("run", type=Path)
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(command=report)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    args.command(args)


def references(args, suffix, sizes):
    """(path of what is made of it, number, pixels) of each where that is missing."""
    from PIL import Image, ImageOps

    for number, row in enumerate(list_photographs()[: args.first]):
        with Image.open(args.packages / row["file"]) as image:
            if image.width * image.height < SMALLEST:
                continue
            image = image.convert("RGB")
        for size in sizes:
            path = args.run / f"{row['name']}, {size}{suffix}"
            if path.exists():
                continue
            reduced = image
            if SIZES[size] is not None:
                reduced = ImageOps.fit(image, SIZES[size], Image.Resampling.LANCZOS)
            yield path, number, np.asarray(reduced)


def distorted(number, reference):
    """(fault, level, pixels) of every picture made of a photograph, itself first."""
    from diffqa_features.datasets._distortions import distort

    yield "reference", 0, reference
    for place, (fault, (family, part)) in enumerate(FAULTS.items()):
        for level, severity in enumerate(SEVERITIES, 1):
            rng = np.random.default_rng([number, place, level])
            where = window(part, reference.shape, rng)
            pixels = reference.copy()
            pixels[where] = distort(reference, family, severity, rng)[where]
            yield fault, level, pixels


def window(part, shape, rng):
    height, width = shape[:2]
    down, across = rng.random(2)
    if part == "ninth":
        tall, wide = height // 3, width // 3
        top, left = int(down * (height - tall)), int(across * (width - wide))
        return slice(top, top + tall), slice(left, left + wide)
    if part == "half":
        side = slice(width // 2) if across < 0.5 else slice(width // 2, None)
        return slice(None), side
    if part == "upper third":
        return slice(height // 3), slice(None)
    return slice(None), slice(None)


def label(args):
    import torch

    from diffqa_features.datasets._jod import jod_of_picture

    torch.set_num_threads(1)
    for path, number, reference in references(args, ".jod.npy", WITH_JOD):
        scores = [
            jod_of_picture(reference, pixels)
            for *_, pixels in distorted(number, reference)
        ]
        np.save(path, scores)
        print(path.name, np.round(scores, 2), flush=True)


def extract(args):
    import torch

    from diffqa_features import DiffusionQAFeatures
    from diffqa_features._media.views import cut_tiles, view_frames

    torch.set_num_threads(1)
    features = DiffusionQAFeatures()
    for path, number, reference in references(args, ".npz", SIZES):
        faults, levels, pictures = zip(*distorted(number, reference), strict=True)
        shown = []
        for pixels in pictures:
            for view in ("stretch", "crop"):
                shown.extend(view_frames(pixels[None], view, SIDE, 8))
            shown += cut_tiles(pixels, SIDE, N_TILES)[0]
        # One call, in which equal pictures are computed once: most tiles of a picture
        # with a fault in a part are those of the original.
        table = features.transform(shown).reshape(len(pictures), 2 + N_TILES, -1)
        np.savez(path, fault=faults, level=levels, table=table)
        print(path.name, flush=True)


def report(args):
    lines = []
    for size in (*SIZES, "any"):
        paths = sorted(args.run.glob(f"*, {'*' if size == 'any' else size}.npz"))
        if not paths:
            continue
        data = read(paths)
        targets = {"level": -data["level"]}
        if size in WITH_JOD:
            labels = [np.load(path.with_suffix(".jod.npy")) for path in paths]
            targets["jod"] = np.concatenate(labels)
        for name, target in targets.items():
            for line in compared(data, target):
                lines.append([size, name, *line])
                if line[0] in ("all", "everywhere", "in a part"):
                    print(*lines[-1], sep=" | ", flush=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["size", "target", "faults", "view", "unet_rows", "columns"]
            + [
                f"{test}{what}{end}"
                for test in ("srcc", "within_photograph")
                for what in ("", *(f"_minus_{base}" for base in BASELINES))
                for end in ("", "_low", "_high")
            ]
            + ["pictures", "photographs"]
        )
        writer.writerows(lines)


def read(paths):
    """Facts of all pictures, and the matrix of every view."""
    parts = [np.load(path) for path in paths]
    data = {
        name: np.concatenate([part[name] for part in parts])
        for name in ("fault", "level", "table")
    }
    photographs = [path.name.split(",")[0] for path in paths]
    data["photograph"] = np.repeat(photographs, [len(part["level"]) for part in parts])
    table = data["table"]
    data["views"] = {
        view: columns(table[:, 0], table[:, 1], table[:, 2:])
        for view, (_, columns) in VIEWS.items()
    }
    sizes = [path.stem.split(", ")[1] for path in paths]
    if len(set(sizes)) > 1:
        large = [
            SIZES[size] is None or np.prod(SIZES[size]) >= LARGE * SIDE**2
            for size in sizes
        ]
        large = np.repeat(large, [len(part["level"]) for part in parts])
        data["views"]["auto"] = np.where(
            large[:, None], data["views"]["4 tiles"], data["views"]["stretch"]
        )
    return data


def compared(data, target):
    """Faults, view, its cost and its figures, one line each."""
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    from diffqa_features.evaluation import bootstrap_difference, bootstrap_interval

    model = make_pipeline(StandardScaler(), SVR(C=10))
    groups, fault = data["photograph"], data["fault"]
    predicted = {
        view: cross_val_predict(
            model, matrix, target, groups=groups, cv=LeaveOneGroupOut()
        )
        for view, matrix in data["views"].items()
    }
    chosen = {"all": list(FAULTS), "everywhere": EVERYWHERE, "in a part": IN_A_PART}
    chosen |= {name: [name] for name in FAULTS}
    for faults, names in chosen.items():
        rows = np.isin(fault, ["reference", *names])
        true, where = target[rows], groups[rows]
        within = {
            view: correlations(true, each[rows], where)
            for view, each in predicted.items()
        }
        for view, matrix in data["views"].items():
            cost, _ = VIEWS.get(view, (N_TILES, None))
            own = predicted[view][rows]
            numbers = list(bootstrap_interval(true, own, groups=where))
            for base in BASELINES:
                numbers += (
                    bootstrap_difference(
                        true, own, predicted[base][rows], groups=where
                    )[:3]
                    if view != base
                    else [np.nan] * 3
                )
            numbers += interval(within[view])
            for base in BASELINES:
                numbers += (
                    interval(within[view] - within[base])
                    if view != base
                    else [np.nan] * 3
                )
            yield [
                *(faults, view, 2 * cost, matrix.shape[1]),
                *("" if np.isnan(each) else f"{each:.3f}" for each in numbers),
                *(len(true), len(np.unique(where))),
            ]


def correlations(true, predicted, groups):
    from scipy.stats import spearmanr

    found = []
    for group in np.unique(groups):
        own = predicted[groups == group]
        # One number for all is no order; SciPy calls it undefined.
        ranked = np.ptp(own) > 0
        found.append(spearmanr(true[groups == group], own).statistic if ranked else 0)
    return np.array(found)


def interval(values, n_resamples=2000):
    """Mean of one number per photograph, and its interval over photographs."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (n_resamples, len(values))).mean(1)
    return values.mean(), *np.quantile(means, [0.025, 0.975])


if __name__ == "__main__":
    main()
