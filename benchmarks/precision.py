"""Half precision against float32: how far every kind of feature moves.

    python benchmarks/precision.py --backbone tiny --images 48

Printed per kind: the median and the largest, over columns, of the root mean square
difference in units of the column's standard deviation over the pictures, which is what
a regressor behind a StandardScaler sees; and the seconds of both.
"""

import argparse
import time

import numpy as np

from diffqa_features import DiffusionQAFeatures, datasets

KINDS = ("alignment", "query", "attended", "hidden", "error")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tiny", help="alias or folder")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = datasets.make_distorted_images(
        datasets.make_procedural_images(2, random_state=arguments.seed + 99),
        random_state=arguments.seed,
    )
    picked = np.random.default_rng(arguments.seed).permutation(len(data.data))
    images = [data.data[i] for i in picked[: arguments.images]]
    exact, exact_s = extract(images, arguments, "float32")
    half, half_s = extract(images, arguments, arguments.dtype)
    spread = exact.std(axis=0)
    moved = np.sqrt(((half - exact) ** 2).mean(axis=0)) / spread
    print(
        f"{arguments.backbone}, {len(images)} pictures, {arguments.device}: "
        f"{arguments.dtype} {half_s:.1f} s, float32 {exact_s:.1f} s"
    )
    print(f"{'kind':10s} {'columns':>7s} {'median':>8s} {'largest':>8s}")
    for kind in KINDS:
        part = moved[[f"__{kind}" in name for name in exact.columns]]
        print(f"{kind:10s} {len(part):7d} {part.median():8.4f} {part.max():8.4f}")


def extract(images, arguments, dtype):
    features = DiffusionQAFeatures(
        arguments.backbone, kinds=KINDS, device=arguments.device, dtype=dtype
    ).set_output(transform="pandas")
    features.transform(images[:1])  # the backbone is loaded before the clock starts
    start = time.perf_counter()
    return features.transform(images), time.perf_counter() - start


if __name__ == "__main__":
    main()
