"""200 and 20,000 images in, peak memory of transforming each out.

    python benchmarks/memory.py

Each count runs in a process of its own on image files; the peak holds everything:
imports, the backbone, the library. It must not grow with the number of images.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
CHILD = """
import resource, sys
from pathlib import Path
from diffqa_features import DiffusionQAFeatures
folder, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
paths = sorted(Path(folder).glob("*.png"))[:count]
model = DiffusionQAFeatures(
    blocks="down0.0", kinds="alignment", image_size=size, device="cpu"
)
matrix = model.fit_transform(paths)
assert matrix.shape == (count, 2)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sys.stdout.write(str(peak if sys.platform == "darwin" else 1024 * peak))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs=2, default=[200, 20000])
    parser.add_argument("--size", type=int, default=64, help="pixels of the backbone")
    parser.add_argument("--file-size", type=int, default=96, help="pixels of the files")
    arguments = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        side = arguments.file_size
        for index in range(max(arguments.counts)):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder) / f"{index:05d}.png")
        peaks = []
        for count in arguments.counts:
            words = [folder, str(count), str(arguments.size)]
            output = subprocess.run(
                [sys.executable, "-c", CHILD, *words],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
            peaks.append(int(output))
            sys.stdout.write(f"{count} images: {peaks[-1] / 2**20:.1f} MiB\n")
    growth = 100 * (peaks[1] / peaks[0] - 1)
    sys.stdout.write(f"growth: {growth:.2f} %\n")
    path = HERE / "results" / "memory.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["images", "peak_mib"])
        for count, peak in zip(arguments.counts, peaks, strict=True):
            writer.writerow([count, f"{peak / 2**20:.1f}"])


if __name__ == "__main__":
    main()
