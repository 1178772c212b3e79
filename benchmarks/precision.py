"""Half precision against float32: how far features move, and what it costs in accuracy.

    python benchmarks/precision.py --backbone tiny --pictures 5

The data are distorted procedural pictures. Printed per kind: the median and the
largest, over columns, of the root mean square difference in units of the column's
standard deviation over the pictures, which is what a regressor behind a StandardScaler
sees; and the SRCC of out-of-fold predictions of StandardScaler and SVR(C=10), with
folds by picture, where columns of both training and test are of one precision, or where
float32 trains and half precision is tested. The two precisions take turns, in chunks,
for the ratio of their processor seconds.
"""

import argparse
import time

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, datasets
from diffqa_features.metrics import srcc_score

KINDS = ("alignment", "query", "attended", "hidden", "error")
CHUNK = 24


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tiny", help="alias or folder")
    parser.add_argument("--pictures", type=int, default=5, help="each has 80 versions")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = datasets.make_distorted_images(
        datasets.make_procedural_images(
            arguments.pictures, random_state=arguments.seed + 99
        ),
        random_state=arguments.seed,
    )
    exact, half, ratios = extract(data.data, arguments)
    print(
        f"{arguments.backbone}, {len(exact)} pictures, {arguments.device}: float32 / "
        f"{arguments.dtype} in processor seconds, median and extremes of "
        f"{len(ratios)} turns: {np.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    moved = np.sqrt(((half - exact) ** 2).mean()) / exact.std()
    print(
        f"{'columns':10s} {'number':>7s} {'median':>8s} {'largest':>8s} "
        f"{'float32':>9s} {'half':>7s} {'mixed':>7s}"
    )
    default = DiffusionQAFeatures(arguments.backbone).get_feature_names_out()
    parts = {kind: [c for c in exact if f"__{kind}" in c] for kind in KINDS}
    for name, columns in {**parts, "default": list(default)}.items():
        scores = [
            accuracy(train[columns], test[columns], data)
            for train, test in ((exact, exact), (half, half), (exact, half))
        ]
        part = moved[columns]
        print(
            f"{name:10s} {len(part):7d} {part.median():8.4f} {part.max():8.4f} "
            + "  ".join(f"{score:.4f}" for score in scores)
        )


def extract(images, arguments):
    """Columns in float32 and in half precision, and ratios of processor seconds."""
    models = [
        DiffusionQAFeatures(
            arguments.backbone, kinds=KINDS, device=arguments.device, dtype=dtype
        ).set_output(transform="pandas")
        for dtype in ("float32", arguments.dtype)
    ]
    found, ratios = ([], []), []
    for model in models:
        model.transform(images[:1])  # the backbone is loaded before the clock starts
    for start in range(0, len(images), CHUNK):
        seconds = []
        for model, parts in zip(models, found, strict=True):
            begin = time.process_time()
            parts.append(model.transform(images[start : start + CHUNK]))
            seconds.append(time.process_time() - begin)
        ratios.append(seconds[0] / seconds[1])
    exact, half = (pd.concat(parts, ignore_index=True) for parts in found)
    return exact, half, ratios


def accuracy(train, test, data):
    """SRCC of predictions for pictures that the regressor has not seen."""
    predicted = np.empty(len(data.target))
    folds = GroupKFold(len(set(data.groups)))
    for seen, unseen in folds.split(train, groups=data.groups):
        model = make_pipeline(StandardScaler(), SVR(C=10))
        model.fit(train.iloc[seen], data.target[seen])
        predicted[unseen] = model.predict(test.iloc[unseen])
    return srcc_score(data.target, predicted)


if __name__ == "__main__":
    main()
