"""Pictures of several sizes in, the scorer's time for one out; and another version's.

    python benchmarks/scorer.py
    git worktree add ../before COMMIT
    python benchmarks/scorer.py --against ../before

Each version is a process of one thread, and they take turns. Ratios are medians over
turns; milliseconds are a picture's in the fastest turn, and mean something on a quiet
machine only. The last column is how far the versions' scores are apart at most.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from diffqa_features.datasets import make_distorted_images, make_procedural_images

HERE = Path(__file__).resolve().parents[1]
_WORKER = """
import sys, time
import numpy as np, torch
from diffqa_features import load_scorer

torch.set_num_threads(1)
scorer = load_scorer()
for line in sys.stdin:
    pictures = list(np.load(line.strip()))
    start = time.perf_counter()
    scores = scorer.predict(pictures)
    print((time.perf_counter() - start) / len(scores), *scores, flush=True)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="a checkout of another version")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[96, 128, 192, 224, 256, 1024]
    )
    parser.add_argument("--turns", type=int, default=12)
    arguments = parser.parse_args()
    versions = [start(HERE)]
    if arguments.against:
        versions.append(start(arguments.against.resolve()))
    sys.stdout.write("| pixels | ms | ms before | before / now | scores apart |\n")
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            path = write(Path(folder), size)
            turns = [
                [ask(version, path) for version in versions]
                for _ in range(1 + arguments.turns)
            ]
            sys.stdout.write(report(size, turns[1:]))  # the first one loads
            sys.stdout.flush()
    for version in versions:
        version.stdin.close()
        version.wait()


def start(checkout):
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER],
        env=environment, cwd=checkout, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def write(folder, size):
    images = make_procedural_images(2, image_size=size)
    families = ["gaussian_blur", "white_noise", "jpeg"]
    images = make_distorted_images(
        images, families=families, n_levels=2, image_size=size
    )
    path = folder / f"{size}.npy"
    np.save(path, np.stack(images.data))
    return path


def ask(version, path):
    version.stdin.write(f"{path}\n")
    version.stdin.flush()
    return [float(value) for value in version.stdout.readline().split()]


def report(size, turns):
    turns = np.array(turns)
    seconds, scores = turns[..., 0], turns[..., 1:]
    cells = [str(size), f"{1000 * seconds[:, 0].min():.1f}", "", "", ""]
    if seconds.shape[1] > 1:
        cells[2] = f"{1000 * seconds[:, 1].min():.1f}"
        cells[3] = f"{statistics.median(seconds[:, 1] / seconds[:, 0]):.2f}"
        cells[4] = f"{np.abs(scores[:, 1] - scores[:, 0]).max():.3f}"
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
