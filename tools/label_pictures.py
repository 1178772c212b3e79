"""Distorted pictures with JOD labels, in shards: what the scorer learns from.

    PYTHONPATH=JOD:. python tools/label_pictures.py PACKAGES SHARDS --count 400
    PYTHONPATH=JOD:. python tools/label_pictures.py PACKAGES SHARDS --validation

Shard k depends on k only: a call that was stopped goes on with the first one that is
not there. A shard holds 64 references and 7 pictures of each: the reference itself
(JOD 10), three single distortions, three chains. JOD is ColorVideoVDP's
(`standard_4k`), computed for the pictures of a reference at once.

`chains` are the true steps as JSON, so that captions can be made of them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from training_references import References, list_photographs, unpack

from diffqa_features.datasets._chains import apply_chain, draw_chain
from diffqa_features.datasets._distortions import FAMILIES

REFERENCES, SINGLES, CHAINS = 64, 3, 3
VALIDATION_PHOTOGRAPHS = ("EveningGlow", "TwoWings", "Path", "ColdRipple", "Garden")
VALIDATION_FAMILIES = (
    "camera_shake", "speckle_noise", "double_jpeg", "avif", "color_quantise",
    "unsharp", "low_light", "color_diffusion", "upscale", "jitter",
)  # fmt: skip
"""One or two of each kind of fault; left out together with the photographs above."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packages")
    parser.add_argument("shards", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--validation", action="store_true")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    unpack(args.packages)
    args.shards.mkdir(parents=True, exist_ok=True)
    measure = Measure()
    if args.validation:
        make = validation_pictures(args)
        save(args.shards / "validation.npz", make, measure)
        return
    references = References(args.packages, args.size)
    for shard in range(args.first, args.first + args.count):
        path = args.shards / f"shard{shard:05d}.npz"
        if not path.exists():
            save(path, shard_pictures(references, shard), measure)


def shard_pictures(references, shard):
    """Per reference: its name, its pixels, and distorted pictures with their steps."""
    for number in range(shard * REFERENCES, (shard + 1) * REFERENCES):
        name, reference = references(number)
        rng = np.random.default_rng([1, number])
        steps = [[]]
        families = list(FAMILIES)
        for family in rng.choice(families, SINGLES, replace=False):
            steps.append([(str(family), float(rng.random() ** 0.7))])
        for _ in range(CHAINS):
            steps.append(draw_chain(rng, rng.uniform(-0.1, 1)))
        images = [apply_chain(reference, chain, rng) for chain in steps]
        yield name, number, reference, steps, images


def validation_pictures(args, n_crops=10, levels=(0.0, 0.33, 0.67, 1.0)):
    """Known to nothing that is trained without the photographs and families above."""
    for index, name in enumerate(VALIDATION_PHOTOGRAPHS):
        references = References(args.packages, args.size, 0.0, [name])
        for crop in range(n_crops):
            number = 10**7 + 100 * index + crop
            _, reference = references(number, seed=2)
            rng = np.random.default_rng([2, number])
            steps = [[]]
            steps += [[(f, s)] for f in VALIDATION_FAMILIES for s in levels]
            images = [apply_chain(reference, chain, rng) for chain in steps]
            yield name, number, reference, steps, images


class Measure:
    """JOD of pictures against one reference, by ColorVideoVDP."""

    def __init__(self):
        import pycvvdp

        self._metric = pycvvdp.cvvdp(display_name="standard_4k", quiet=True)

    def __call__(self, reference, images):
        import torch

        def planes(x):
            return torch.from_numpy(x).permute(0, 3, 1, 2)[:, :, None].contiguous()

        images = np.stack(images)
        with torch.inference_mode():
            jod, _ = self._metric.predict(
                planes(images),
                planes(np.broadcast_to(reference, images.shape).copy()),
                dim_order="BCFHW",
            )
        return jod.reshape(-1).numpy()


def save(path, made, measure):
    pixels, jod, names, numbers, chains = [], [], [], [], []
    for name, number, reference, steps, images in made:
        pixels += images
        jod.append(measure(reference, images))
        names += [name] * len(images)
        numbers += [number] * len(images)
        chains += [json.dumps(chain) for chain in steps]
    part = path.with_suffix(".part.npz")
    np.savez(
        part,
        pixels=np.stack(pixels),
        jod=np.concatenate(jod).astype(np.float32),
        name=np.array(names),
        number=np.array(numbers),
        chain=np.array(chains),
    )
    part.replace(path)


if __name__ == "__main__":
    assert set(VALIDATION_PHOTOGRAPHS) <= {row["name"] for row in list_photographs()}
    main()
