"""A student in, its speed in torch, ONNX Runtime and OpenVINO out, against its teacher.

    pip install openvino
    python benchmarks/student.py

Trains a student on labelled procedural pictures, without a teacher, exports it, and
quantises the file's convolutions to int8 with procedural pictures that it has not seen.
The ways take turns; ratios are of processor seconds with one thread. The SRCC is that
with the levels of distortion of other pictures. The teacher is `DiffusionQAFeatures()`
with a regressor. In the end, two sessions of one thread score frames side by side;
beside other jobs, the frames in two processor seconds are nearer to what two free cores
do than those by the clock. Without OpenVINO, its rows are left out.
"""

import argparse
import csv
import statistics
import sys
import tempfile
import threading
import time
from functools import cache
from importlib.util import find_spec
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
SECONDS = 3  # of scoring frames


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
        half = clone(student).set_params(dtype="bfloat16")
        half.__dict__.update({k: v for k, v in vars(student).items() if k[-1] == "_"})
        ways = {
            "torch": lambda part: student.predict(list(part)),
            "torch, bfloat16": lambda part: half.predict(list(part)),
        }
        sessions = {
            "onnx": lambda: in_onnxruntime(exact, arguments.threads),
            "int8": lambda: in_onnxruntime(small, arguments.threads),
        }
        if find_spec("openvino"):
            for name, kind in (("openvino", "f32"), ("openvino, bfloat16", "bf16")):
                sessions[name] = lambda kind=kind: in_openvino(
                    exact, kind, arguments.threads
                )
        ways |= {name: start() for name, start in sessions.items()}
        scores = {
            name: np.concatenate([way(part) for part in np.array_split(pixels, 15)])
            for name, way in ways.items()
        }
        report(ways, scores, pixels, held, train, arguments)
        for name, start in sessions.items():
            by_clock, by_processor = frames_per_second([start(), start()], pixels[:16])
            sys.stdout.write(
                f"{name}: two sessions score {by_clock:.0f} frames per second by the "
                f"clock, {2 * by_processor:.0f} in two processor seconds\n"
            )


def in_onnxruntime(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options)
    return lambda part: session.run(None, {"pixels": part})[0]


def in_openvino(path, kind, threads):
    from openvino import Core

    core = Core()
    settings = {
        "INFERENCE_PRECISION_HINT": kind,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # or two sessions share one core
        "NUM_STREAMS": 1,
    }

    @cache
    def request(shape):
        model = core.read_model(path)
        model.reshape(shape)  # with any number of pictures, half as fast
        return core.compile_model(model, "CPU", settings).create_infer_request()

    # A copy: the next call writes into the same output.
    return lambda part: request(part.shape).infer({0: part})[0].copy()


def frames_per_second(sessions, pixels):
    """Frames per second by the clock and per processor second, one a call."""
    counts = [0] * len(sessions)

    def work(which):
        while time.perf_counter() < end:
            for i in range(len(pixels)):
                sessions[which](pixels[i : i + 1])
            counts[which] += len(pixels)

    for session in sessions:
        session(pixels[:1])
    start, start_cpu = time.perf_counter(), time.process_time()
    end = start + SECONDS
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(sessions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = sum(counts)
    return (
        count / (time.perf_counter() - start),
        count / (time.process_time() - start_cpu),
    )


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
