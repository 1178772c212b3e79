"""Shipped pipelines in, what a prediction costs out: a table for the README.

    python benchmarks/efficiency.py

From `evaluation.efficiency`: parameters, operations and peak memory of one picture of
192 pixels, or of one clip of 32 frames, with `tiny` and the defaults otherwise.
Networks are not trained: the work is the same. GenzVQA and DiffVQA, whose passes over
a clip take minutes in one thread, are left out. Time is a multiple of the first row's,
in the same process; the memory is the process's, libraries included.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR

import diffqa_features as dq
from diffqa_features import datasets, evaluation

HERE = Path(__file__).parent
NONE = {"max_epochs": 0, "validation_fraction": None, "device": "cpu"}


def main():
    pictures = list(datasets.make_procedural_images(4, image_size=192))
    clips = [np.stack([np.roll(p, t, 1) for t in range(32)]) for p in pictures[:2]]
    y, flat = np.arange(4.0), FunctionTransformer(lambda X: X.reshape(len(X), -1))

    def on_columns(*steps):
        return make_pipeline(*steps, StandardScaler(), SVR())

    makers = {
        "DiffusionQAFeatures, SVR": lambda: on_columns(dq.DiffusionQAFeatures()),
        "the same, all kinds": lambda: on_columns(
            dq.DiffusionQAFeatures(
                kinds=["alignment", "query", "attended", "hidden", "error"]
            )
        ),
        "PromptAlignmentMaps, SVR": lambda: on_columns(dq.PromptAlignmentMaps(), flat),
        "NaturalSceneStatistics, SVR": lambda: on_columns(dq.NaturalSceneStatistics()),
        "load_scorer": dq.load_scorer,
        "DistilledStudentRegressor": lambda: dq.DistilledStudentRegressor(
            network="tiny", **NONE
        ),
        "GenzIQARegressor": lambda: dq.GenzIQARegressor(**NONE),
        "DPIQARegressor": lambda: dq.DPIQARegressor(**NONE),
    }
    on_clips = {
        "DiffusionQAFeatures, SVR": makers["DiffusionQAFeatures, SVR"],
        "MotionFeatures, SVR": lambda: on_columns(dq.MotionFeatures()),
    }
    rows = measure(makers, pictures, y, "picture")
    rows += measure(on_clips, clips, y[:2], "clip of 32 frames")
    path = HERE / "results" / "efficiency.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def measure(makers, X, y, what):
    rows, first = [], None
    for name, make in makers.items():
        model = make()
        if name != "load_scorer":
            model.fit(X, y)
        frame = evaluation.efficiency(model, X, n_repeats=3, n_warmup=1).frame
        total = frame[frame["stage"] == "total"].iloc[0]
        first = first or total["latency_p50_ms"]
        row = {
            "one": what,
            "pipeline": name,
            "parameters": int(total["parameters"]),
            "gmac": f"{total['gmac']:.3f}",
            "peak_mib": f"{total['peak_mib']:.0f}",
            "time_to_first": f"{total['latency_p50_ms'] / first:.2f}",
        }
        rows.append(row)
        sys.stdout.write("| " + " | ".join(map(str, row.values())) + " |\n")
        sys.stdout.flush()
    return rows


if __name__ == "__main__":
    main()
