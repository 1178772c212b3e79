"""CPU seconds and bytes per picture, which the page on scaling multiplies.

    python benchmarks/scale.py

One thread, in CPU seconds, so other jobs on the machine disturb little: the columns of
the default settings of `tiny`, for pixels at its own size; and what a photograph of 12
megapixels in a JPEG file costs more, read, checked, decoded and scaled. Writes
`results/scale.csv`, from which the pages are built.
"""

import argparse
import csv
import datetime
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffqa_features import DiffusionQAFeatures
from diffqa_features.datasets import load_sample_photos

SIZE = 4000, 3000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    features = DiffusionQAFeatures(view="stretch", device="cpu")
    cheap = DiffusionQAFeatures(
        view="stretch", device="cpu", kinds="alignment", blocks="down0.0"
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = draw(Path(folder), arguments.pictures)
        small = [np.asarray(Image.open(path).resize((192, 192))) for path in paths]
        seconds = {"columns": [], "file": []}
        for repeat in range(arguments.repeats + 1):  # the first one warms up
            whole, pixels, files = (
                cpu_seconds(model, rows) / len(paths)
                for model, rows in [(features, small), (cheap, small), (cheap, paths)]
            )
            if repeat:
                seconds["columns"].append(whole)
                seconds["file"].append(files - pixels)
        size = sum(Path(path).stat().st_size for path in paths) // len(paths)
    facts = {
        "columns": (
            "``tiny`` at 192 pixels",
            4 * len(features.get_feature_names_out()),
        ),
        "file": ("JPEG file of 12 megapixels", size),
    }
    target = Path(__file__).parent / "results" / "scale.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "of", "cpu_seconds", "bytes", "machine", "date"])
        for stage, (what, size) in facts.items():
            middle = float(np.median(seconds[stage]))
            row = [stage, what, f"{middle:.4f}", size, processor()]
            writer.writerow([*row, datetime.date.today().isoformat()])
    print(target.read_text())


def draw(folder, count):
    """Photographs with a sensor's noise, which makes files as large as cameras'."""
    rng = np.random.default_rng(0)
    photos = load_sample_photos().filenames
    paths = []
    for number in range(count):
        photo = Image.open(photos[number % len(photos)]).convert("RGB").resize(SIZE)
        noise = rng.normal(0, 3, (SIZE[1], SIZE[0], 1)).astype(np.float32)
        pixels = np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8)
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def cpu_seconds(model, rows):
    begin = time.process_time()
    model.fit_transform(rows)
    return time.process_time() - begin


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return " ".join(names[0].split())


if __name__ == "__main__":
    main()
