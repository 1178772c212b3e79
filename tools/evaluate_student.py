"""Distil a Pipeline on `tiny` into a small network, and compare the two.

    python tools/evaluate_student.py features --memory runs/store  # the long part
    python tools/evaluate_student.py fit --memory runs/store --folder runs/student
    python tools/evaluate_student.py compare --folder runs/student
    python tools/evaluate_student.py speed --folder runs/student

The teacher, frozen features and SVR(C=10), is fitted on procedural pictures; so is the
student, on more of them and on the teacher's scores alone. Both are tested on distorted
photographs, of which neither has seen any. Target = minus the level of distortion.
"""

import argparse
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import (
    DiffusionQAFeatures,
    DistilledStudentRegressor,
    datasets,
    evaluation,
)
from diffqa_features._backbone.info import describe_backbone
from diffqa_features.datasets._distortions import distort

FAMILIES = (
    "gaussian_blur",
    "white_noise",
    "jpeg",
    "jpeg2000",
    "pixelate",
    "oversharpen",
)
_LABELLED_SEED, _UNLABELLED_SEED = 510_000_000, 520_000_000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["features", "fit", "compare", "speed"])
    parser.add_argument("--memory", help="folder of the store")
    parser.add_argument("--folder", type=Path, help="where both models are written")
    parser.add_argument("--labelled", type=int, default=24, help="procedural pictures")
    parser.add_argument("--unlabelled", type=int, default=250, help="the same")
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0, help="of pictures")
    parser.add_argument("--student-seed", type=int, default=0)
    args = parser.parse_args()
    run = {"features": features, "fit": fit, "compare": compare, "speed": speed}
    run[args.what](args)


def photographs(args):
    """The test: distorted photographs."""
    return datasets.make_distorted_images(
        families=FAMILIES, n_levels=4, random_state=args.seed
    )


def labelled(args):
    """What the teacher is fitted on."""
    seed = _LABELLED_SEED + args.seed
    references = datasets.make_procedural_images(args.labelled, random_state=seed)
    return datasets.make_distorted_images(
        references, families=FAMILIES, n_levels=4, random_state=args.seed
    )


def unlabelled(args, start=0, stop=None):
    """Procedural pictures and eight random distortions of each; no target.

    Picture `i` is drawn of the seed and `i` alone, so that parts are the same pictures.
    """
    seed = _UNLABELLED_SEED + 100_000 * args.seed
    pictures = []
    for i in range(start, args.unlabelled if stop is None else stop):
        rng = np.random.default_rng([seed, i])
        (clean,) = datasets.make_procedural_images(1, random_state=seed + i)
        for _ in range(8):
            family = FAMILIES[rng.integers(len(FAMILIES))]
            pictures.append(distort(clean, family, rng.uniform(0, 1), rng))
    return pictures


def make_teacher(args):
    steps = [
        ("features", DiffusionQAFeatures(memory=args.memory)),
        ("scale", StandardScaler()),
        ("svr", SVR(C=10)),
    ]
    return Pipeline(steps)


def features(args):
    """Run all passes that the teacher needs, into the store; may be stopped."""
    extractor = DiffusionQAFeatures(memory=args.memory)
    start = time.perf_counter()
    for part in (photographs(args).data, labelled(args).data):
        extractor.transform(part)
        print(f"{len(part)} pictures, {time.perf_counter() - start:.0f} s", flush=True)
    for first in range(0, args.unlabelled, 25):
        last = min(first + 25, args.unlabelled)
        extractor.transform(unlabelled(args, first, last))
        print(f"unlabelled {last}, {time.perf_counter() - start:.0f} s", flush=True)


def fit(args):
    """The teacher on what is labelled, the student on all of it; both are saved."""
    data = labelled(args)
    student = DistilledStudentRegressor(
        make_teacher(args),
        network="tiny",
        flip=True,
        crop_size=96,
        max_epochs=args.epochs,
        batch_size=16,
        learning_rate=args.learning_rate,
        milestones=(args.epochs * 6 // 10, args.epochs * 17 // 20),
        weight_decay=1e-2,
        max_grad_norm=1.0,
        checkpoint_dir=args.folder / "checkpoints",
        random_state=args.student_seed,
        memory=args.memory,
        verbose=1,
    )
    start = time.process_time()
    student.fit(data.data, data.target, X_unlabelled=unlabelled(args))
    print(f"fit: {(time.process_time() - start) / 60:.1f} core-minutes")
    for record in student.history_:
        print(record)
    student.save_pretrained(args.folder)
    student.export_onnx(args.folder / "student.onnx")
    student.teacher_.set_params(features__memory=None)
    joblib.dump(student.teacher_, args.folder / "teacher.joblib")


def load(args):
    return {
        "teacher": joblib.load(args.folder / "teacher.joblib"),
        "student": DistilledStudentRegressor.from_pretrained(args.folder),
    }


def compare(args):
    """Accuracy of both on photographs."""
    test, models = photographs(args), load(args)
    predicted = {name: model.predict(test.data) for name, model in models.items()}
    count = len(set(test.groups.tolist()))
    print(f"{len(test.data)} pictures of {count} photographs, seed {args.seed}")
    for metric in ("srcc", "plcc"):
        options = {"metric": metric, "groups": test.groups}
        for name, scores in predicted.items():
            found = evaluation.bootstrap_interval(test.target, scores, **options)
            print(f"{metric} {name}: {found[0]:.3f} [{found[1]:.3f}, {found[2]:.3f}]")
        both = predicted["student"], predicted["teacher"]
        found = evaluation.bootstrap_difference(test.target, *both, **options)
        print(f"{metric} student minus teacher: {found}")
    agreement = evaluation.bootstrap_interval(
        predicted["teacher"], predicted["student"], groups=test.groups
    )
    print(f"srcc of student against teacher: {agreement[0]:.3f}")
    for family in FAMILIES:
        rows = test.family == family
        values = [
            evaluation.bootstrap_interval(test.target[rows], p[rows], n_resamples=10)[0]
            for p in predicted.values()
        ]
        print(f"srcc {family}: teacher {values[0]:.3f}, student {values[1]:.3f}")


def speed(args):
    """Cost of both in one run, and what they take on disk."""
    pictures, models = photographs(args).data[:48], load(args)
    table = evaluation.efficiency(models, pictures, n_repeats=10)
    print(table.facts)
    costs = table.frame
    costs = costs[costs["stage"] == "total"].set_index("method")
    columns = ["parameters", "gmac", "latency_p50_ms", "images_per_second", "peak_mib"]
    print(costs[columns].to_string())
    rate = costs["images_per_second"]
    print(f"times as fast: {rate['student'] / rate['teacher']:.1f}", flush=True)
    backbone = describe_backbone(models["teacher"][0].backbone).folder
    files = {
        "teacher": [args.folder / "teacher.joblib", *backbone.rglob("*.safetensors")],
        "student": [args.folder / "config.json", args.folder / "model.safetensors"],
        "student as ONNX": [args.folder / "student.onnx"],
    }
    for name, paths in files.items():
        print(f"{name}: {sum(path.stat().st_size for path in paths) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
