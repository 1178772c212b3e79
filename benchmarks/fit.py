"""What a `fit` with the defaults on `tiny` costs, for every learned system.

    python benchmarks/fit.py
    python benchmarks/fit.py --systems GenzIQARegressor --threads 2

30 distorted pictures of 512 x 384 pixels, or 10 clips of 24 frames of 192 pixels, in a
process per system; the student's teacher is `DiffusionQAFeatures()` and `SVR()`. CPU
seconds of all threads, of `fit` alone, which loads the models and writes no store.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import import_module

import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, datasets

PICTURES = ("GenzIQARegressor", "DPIQARegressor", "DistilledStudentRegressor")
CLIPS = ("GenzVQARegressor", "DiffVQARegressor")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", default=[*PICTURES, *CLIPS])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="CSV; default: only print")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(args.threads)
        return print(json.dumps(measure(args.one)))
    lines = []
    for name in args.systems:
        words = [sys.executable, __file__, "--threads", str(args.threads)]
        done = subprocess.run(
            [*words, "--one", name], stdout=subprocess.PIPE, text=True, check=True
        )
        lines.append(json.loads(done.stdout.splitlines()[-1]))
        print(lines[-1], flush=True)
    table = pd.DataFrame(lines)
    print(table.to_string(index=False))
    if args.out:
        table.to_csv(args.out, index=False)


def measure(name):
    model = getattr(import_module("diffqa_features"), name)()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few rows
        data = clips(folder) if name in CLIPS else pictures()
        if name == "DistilledStudentRegressor":
            teacher = make_pipeline(DiffusionQAFeatures(), StandardScaler(), SVR())
            model.set_params(teacher=teacher)
        start = time.process_time()
        model.fit(data.data, data.target)
        seconds = time.process_time() - start
    what = {"rows": len(data.data), "epochs": len(model.history_)}
    return {"system": name, **what, "cpu_s": round(seconds, 1)}


def pictures():
    references = datasets.make_procedural_images(5, image_size=512, random_state=1)
    data = datasets.make_distorted_images(
        references,
        families=("gaussian_blur", "white_noise"),
        n_levels=3,
        image_size=512,
    )
    data.data = [np.ascontiguousarray(image[64:-64]) for image in data.data]
    return data


def clips(folder):
    references = datasets.make_procedural_images(1, image_size=384, random_state=1)
    data = datasets.make_distorted_videos(
        folder, references, families="temporal", n_levels=2, n_frames=24, image_size=192
    )
    return data


if __name__ == "__main__":
    main()
