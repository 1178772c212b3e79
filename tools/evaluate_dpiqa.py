"""Train DP-IQA on distorted procedural pictures, and ask it about photographs.

    python tools/evaluate_dpiqa.py runs/dpiqa
    python tools/evaluate_dpiqa.py runs/dpiqa --methods frozen-unet

All families of distortions at four levels; target = minus the level. No photograph is
in the training. Beside the teacher stands a support vector machine on the features of
the frozen model, which sees the same pictures. A run that was stopped goes on; models
and predictions stay in the folder.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, DPIQARegressor, datasets
from diffqa_features.evaluation import bootstrap_interval

METHODS = ("teacher", "svr", "frozen-unet")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS[:2])
    parser.add_argument("--pictures", type=int, default=12, help="procedural ones")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--max-epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    seen, unseen = load(args)
    print(f"{len(seen.data)} pictures to train on, {len(unseen.data)} to judge")
    for name in args.methods:
        model, start = make(name, args), time.process_time()
        model.fit(seen.data, seen.target)
        fitted = time.process_time()
        predicted = model.predict(unseen.data)
        seconds = fitted - start, time.process_time() - fitted
        args.folder.mkdir(parents=True, exist_ok=True)
        np.save(args.folder / f"{name}.npy", predicted)
        if name != "svr":
            model.save_pretrained(args.folder / name)
        for metric in ("srcc", "plcc"):
            interval = bootstrap_interval(
                unseen.target, predicted, metric=metric, groups=unseen.groups
            )
            print(name, metric, interval)
        print(name, "CPU seconds: fit {:.0f}, predict {:.0f}".format(*seconds))


def load(args):
    """What is trained on, and what is asked about."""
    settings = {"n_levels": 4, "image_size": args.image_size}
    pictures = datasets.make_procedural_images(
        args.pictures, image_size=args.image_size, random_state=5 + args.seed
    )
    photographs = datasets.load_sample_photos().data
    return (
        datasets.make_distorted_images(pictures, **settings),
        datasets.make_distorted_images(photographs, **settings),
    )


def make(name, args):
    if name == "svr":
        features = DiffusionQAFeatures(image_size=args.image_size, device="cpu")
        return make_pipeline(features, StandardScaler(), SVR(C=10))
    return DPIQARegressor(
        image_size=args.image_size,
        scenes=["photo"],
        train_unet=name == "teacher",
        batch_size=8,
        learning_rate=args.learning_rate,
        max_epochs=args.max_epochs,
        milestones=(3,),
        checkpoint_dir=args.folder,
        random_state=args.seed,
        device="cpu",
    )


if __name__ == "__main__":
    main()
