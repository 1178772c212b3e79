"""Students and their teacher in, peak memory of scoring one picture and sixteen out.

    python benchmarks/student_memory.py

Each runs in a process of its own with one thread. `start_mib` is what the process took
before it had read a model: the interpreter and the libraries. The weights are random:
nothing here depends on them. Linux only.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

from diffqa_features import DistilledStudentRegressor

HERE = Path(__file__).parent
BATCHES = (1, 16)
STUDENTS = {
    'student "tiny"': {"network": "tiny"},
    "EfficientNet-B0": {"network": "efficientnet_b0"},
    "EfficientNet-B0, head of the paper": {"network": "efficientnet_b0", "head": "map"},
    "EfficientNet-B7, head of the paper": {"network": "efficientnet_b7", "head": "map"},
}
CHILD = """
import re, sys
from pathlib import Path
import numpy as np
way, path, side, count = *sys.argv[1:3], *map(int, sys.argv[3:])
def peak():  # not getrusage, which begins with what the parent had
    status = Path("/proc/self/status").read_text()
    return str(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024)
def say(*words):
    sys.stdout.write(" ".join(words) + " ")
pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
if way == "onnx":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    say(peak())
    session = onnxruntime.InferenceSession(path, options)
    session.run(None, {"pixels": pixels})
else:
    import torch
    from diffqa_features import DiffusionQAFeatures, DistilledStudentRegressor
    torch.set_num_threads(1)
    say(peak())
    if way == "teacher":
        DiffusionQAFeatures(device="cpu").fit_transform(list(pixels))
    else:
        model = DistilledStudentRegressor.from_pretrained(path)
        model.set_params(device="cpu", batch_size=count).predict(list(pixels))
say(peak())
"""


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    lines = [line("teacher, DiffusionQAFeatures", "teacher", "", 192)]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, settings) in enumerate(STUDENTS.items()):
            model = DistilledStudentRegressor(**settings, max_epochs=0, device="cpu")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that two rows are few
                model.fit(list(rng.integers(0, 256, (2, 64, 64, 3), "u1")), [0.0, 1.0])
            path, side = Path(folder, str(number)), model.image_size_
            model.save_pretrained(path)
            lines.append(line(name, "torch", path, side))
            if number < 2:
                file = Path(folder, f"{number}.onnx")
                model.export_onnx(file)
                lines.append(line(f"{name}, ONNX Runtime", "onnx", file, side))
    with (HERE / "results" / "student-memory.csv").open("w", newline="") as file:
        for out in (file, sys.stdout):
            writer = csv.DictWriter(out, lines[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)


def line(name, way, path, side):
    told = {"model": name, "pixels": side}
    for count in BATCHES:
        start, peak = measured(way, path, side, count)
        told |= {"start_mib": start, f"peak_mib_of_{count}": peak}
    return told


def measured(way, path, side, count):
    output = subprocess.run(
        [sys.executable, "-c", CHILD, way, str(path), str(side), str(count)],
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return map(int, output.split())


if __name__ == "__main__":
    main()
