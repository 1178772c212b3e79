"""A student in, its speed in torch, ONNX Runtime and int8 out, against its teacher.

    python benchmarks/student.py

Trains a student on labelled procedural pictures, without a teacher, exports it, and
quantises the file's convolutions to int8 with procedural pictures that it has not seen.
The ways take turns; ratios are of processor seconds with one thread. The SRCC is that
with the levels of distortion of other pictures. The teacher is `DiffusionQAFeatures()`
with a regressor.
"""

import argparse
import csv
import statistics
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, DistilledStudentRegressor, datasets
from diffqa_features.metrics import srcc_score

HERE = Path(__file__).parent
SIZE = 192


class Pictures(CalibrationDataReader):
    """What the int8 ranges are calibrated on."""

    def __init__(self, pixels):
        self.parts = iter(np.split(pixels, len(pixels)))

    def get_next(self):
        part = next(self.parts, None)
        return None if part is None else {"pixels": part}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--pictures", type=int, default=4, help="each has 80 versions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train, held, calibration = (
        datasets.make_distorted_images(
            datasets.make_procedural_images(count, random_state=seed), random_state=seed
        )
        for count, seed in ((arguments.pictures, 0), (3, 1), (1, 2))
    )
    student = DistilledStudentRegressor(
        network="tiny", crop_size=96, max_epochs=arguments.epochs,
        validation_fraction=None, device="cpu", random_state=0,
    ).fit(train.data, train.target)  # fmt: skip
    pixels = np.stack(held.data)
    with tempfile.TemporaryDirectory() as folder:
        exact, small = (str(Path(folder, name)) for name in ("a.onnx", "b.onnx"))
        student.export_onnx(exact)
        quantize_static(
            exact, small, Pictures(np.stack(calibration.data)),
            quant_format=QuantFormat.QOperator, per_channel=True,
            op_types_to_quantize=["Conv"],
        )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        half = clone(student).set_params(dtype="bfloat16")
        half.__dict__.update({k: v for k, v in vars(student).items() if k[-1] == "_"})
        ways = {
            "torch": lambda part: student.predict(list(part)),
            "torch, bfloat16": lambda part: half.predict(list(part)),
        }
        for name, path in (("onnx", exact), ("int8", small)):
            session = onnxruntime.InferenceSession(path, options)
            ways[name] = lambda part, session=session: session.run(
                None, {"pixels": part}
            )[0]
        scores = {
            name: np.concatenate([way(part) for part in np.array_split(pixels, 15)])
            for name, way in ways.items()
        }
        report(ways, scores, pixels, held, train, arguments)


def report(ways, scores, pixels, held, train, arguments):
    teacher = make_pipeline(DiffusionQAFeatures(device="cpu"), StandardScaler(), SVR())
    teacher.fit(train.data[:24], train.target[:24])
    files = [encoded(picture) for picture in pixels[:16]]
    large = Image.fromarray(pixels[0]).resize((1920, 1080))
    calls = {("teacher", 16): lambda: teacher.predict(list(pixels[:16]))}
    for name, way in ways.items():
        for batch in (1, 4, 16):
            calls[name, batch] = lambda way=way, batch=batch: [
                way(pixels[i : i + batch]) for i in range(0, 16, batch)
            ]
    calls["torch, JPEG files of 192 pixels", 16] = lambda: ways["torch"](files)
    calls["resize of 1920 x 1080", 1] = lambda: [
        large.resize((SIZE, SIZE), Image.Resampling.BICUBIC) for _ in range(16)
    ]
    seconds = {key: [] for key in calls}
    for turn in range(arguments.rounds + 1):
        for key, call in calls.items():
            if key[0] == "teacher" and turn > 3:
                continue
            start = time.process_time()
            call()
            if turn:
                seconds[key].append((time.process_time() - start) / 16)
    teachers = statistics.median(seconds["teacher", 16])
    rows = []
    for (name, batch), spent in seconds.items():
        middle = statistics.median(spent)
        rows.append(
            {
                "way": name,
                "batch": batch,
                "threads": arguments.threads,
                "cpu_ms_per_picture": f"{1000 * middle:.3f}",
                "lowest_ms": f"{1000 * min(spent):.3f}",
                "highest_ms": f"{1000 * max(spent):.3f}",
                "teacher_over_this": f"{teachers / middle:.1f}",
                "srcc": f"{srcc_score(held.target, scores[name]):.4f}"
                if name in scores
                else "",
            }
        )
    with (HERE / "results" / "student.csv").open("w", newline="") as file:
        for out in (file, sys.stdout):
            writer = csv.DictWriter(out, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def encoded(picture):
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return file.getvalue()


if __name__ == "__main__":
    main()
