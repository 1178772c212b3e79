"""Distorted pictures with JOD labels, in shards: what the scorer learns from.

    PYTHONPATH=JOD:. python tools/label_pictures.py PACKAGES SHARDS --count 400
    PYTHONPATH=JOD:. python tools/label_pictures.py PACKAGES SHARDS --mild --first 900
    PYTHONPATH=JOD:. python tools/label_pictures.py PACKAGES SHARDS --first 2000
        --packages gcompris-qt-data palapeli-data
    PYTHONPATH=JOD:. python tools/label_pictures.py PACKAGES SHARDS --first 3000
        --packages gcompris-qt-data palapeli-data --others
    PYTHONPATH=JOD:. python tools/label_pictures.py PACKAGES OTHER-SHARDS --first 6000
        --count 3 --packages gcompris-qt-data palapeli-data --held-out
    PYTHONPATH=JOD:. python tools/label_pictures.py PACKAGES SHARDS --choosing
    PYTHONPATH=JOD:. python tools/label_pictures.py PACKAGES SHARDS --makings
    PYTHONPATH=JOD:. python tools/label_pictures.py PACKAGES SHARDS --native

Shard k depends on k (and on `--mild`, `--others`, `--packages` and `--held-out`) only:
a call that was stopped goes on with the first one that is not there. A shard holds 64
references and 7 pictures of each: the reference itself (JOD 10), three single
distortions, three chains; with `--others` by what `_other_makings.py` makes. JOD is
ColorVideoVDP's (`standard_4k`), computed for the pictures of a reference at once. With
`--mild` most pictures lose less than two JOD, as most pictures that people look at do.
With `--held-out` the photographs are those that `tiny` was not trained on.

`chains` are the true steps as JSON, so that captions can be made of them.

The choosing set: crops of 256 pixels of every photograph under mild to middling
distortions. Photographs and families are in `FOLDS` folds; a picture says which it is
of, and whoever chooses by it fits on pictures of other photographs without any family
of that fold.

Makings: other crops under the same kinds of fault, made by other means
(`_other_makings.py`), twice each. Whoever chooses by them fits on pictures of other
photographs and without every second one of them.

Native: tiles of every photograph as it is, JOD 10, although cameras leave noise, soft
edges and traces of JPEG: nothing was lost since.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from _other_makings import MAKINGS, make
from PIL import Image
from training_references import References, list_photographs, unpack

from diffqa_features.datasets._chains import (
    FAULTS,
    FROM_ZERO,
    apply_chain,
    draw_chain,
)
from diffqa_features.datasets._distortions import FAMILIES
from diffqa_features.learned.scorer.tiles import cut_tiles

REFERENCES, SINGLES, CHAINS = 64, 3, 3
FOLDS = 4
_FIRST = ("mate-backgrounds", "plasma-workspace-wallpapers")
NATIVE = 3 * 10**7  # numbers from here on are tiles of photographs as they are


def family_folds():
    """Family -> fold; the families of a kind of fault are spread over the folds."""
    names = [family for kind in FAULTS.values() for family in kind]
    return {family: place % FOLDS for place, family in enumerate(names)}


def photograph_folds():
    """Name of a photograph to choose by -> fold."""
    names = [row["name"] for row in list_photographs() if row["package"] in _FIRST]
    return {name: place % FOLDS for place, name in enumerate(names)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packages")
    parser.add_argument("shards", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--mild", action="store_true")
    parser.add_argument("--packages", nargs="+", dest="used", default=list(_FIRST))
    parser.add_argument("--choosing", action="store_true")
    parser.add_argument("--makings", action="store_true")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--held-out", action="store_true")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    unpack(args.packages)
    args.shards.mkdir(parents=True, exist_ok=True)
    measure = Measure()
    if args.choosing:
        save(args.shards / "choosing.npz", choosing_pictures(args.packages), measure)
        return
    if args.makings:
        save(args.shards / "makings.npz", makings(args.packages), measure)
        return
    if args.native:
        save(args.shards / "native.npz", native_tiles(args.packages), measure)
        return
    drawn = 0.35 if args.held_out or set(args.used) == set(_FIRST) else 0.1
    rows = [row for row in list_photographs() if row["package"] in args.used]
    if args.held_out:
        rows = [row for row in rows if row["held_out"]]
        if not rows:
            parser.error("--held-out needs --packages gcompris-qt-data palapeli-data")
    names = [row["name"] for row in rows]
    references = References(args.packages, args.size, drawn, names)
    for shard in range(args.first, args.first + args.count):
        path = args.shards / f"shard{shard:05d}.npz"
        if not path.exists():
            make_shard = other_pictures if args.others else shard_pictures
            save(path, make_shard(references, shard, args.mild), measure)


def shard_pictures(references, shard, mild):
    """Per reference: its name, its pixels, and distorted pictures with their steps."""
    strengths = (-0.4, 0.35) if mild else (-0.1, 1)
    for number in range(shard * REFERENCES, (shard + 1) * REFERENCES):
        name, reference = references(number)
        rng = np.random.default_rng([1, number])
        steps = [[]]
        for family in rng.choice(list(FAMILIES), SINGLES, replace=False):
            if mild:
                steps.append([(str(family), mild_strength(family, rng))])
            else:
                steps.append([(str(family), float(rng.random() ** 0.7))])
        for _ in range(CHAINS):
            steps.append(draw_chain(rng, rng.uniform(*strengths)))
        images = [apply_chain(reference, chain, rng) for chain in steps]
        yield name, number, reference, steps, images


def other_pictures(references, shard, mild):
    """The same by `MAKINGS`: three alone, one after another, two among the library's.

    With `mild` they are weaker.
    """
    strongest = 0.5 if mild else 1.0
    for number in range(shard * REFERENCES, (shard + 1) * REFERENCES):
        name, reference = references(number)
        rng = np.random.default_rng([5, number])
        drawn = rng.choice(list(MAKINGS), 7, replace=False)
        names = [[], *([str(making)] for making in drawn[:3])]
        names.append([str(making) for making in drawn[3:5]])
        for making in drawn[5:]:
            pair = [str(making), str(rng.choice(list(FAMILIES)))]
            names.append([pair[place] for place in rng.permutation(2)])
        steps = [
            [
                (step, strongest * float(rng.random()))
                if step in MAKINGS
                else (step, mild_strength(step, rng))
                for step in chain
            ]
            for chain in names
        ]
        images = []
        for chain in steps:
            image = reference
            for step, strength in chain:
                if step in MAKINGS:
                    image = make(step, image, strength, rng)
                else:
                    image = apply_chain(image, [(step, strength)], rng)
            images.append(image)
        yield name, number, reference, steps, images


def mild_strength(family, rng):
    """Between hardly visible and the middle of the family's scale."""
    return float(max(0.0 if family in FROM_ZERO else -0.5, rng.uniform(-0.5, 0.55)))


def choosing_pictures(packages, size=256, n_crops=2):
    """Per crop: itself, unknown families twice, chains of them, and known families."""
    of_family = family_folds()
    for index, (name, fold) in enumerate(photograph_folds().items()):
        references = References(packages, size, 0.0, [name])
        unknown = [family for family, at in of_family.items() if at == fold]
        known = [family for family, at in of_family.items() if at != fold]
        for crop in range(n_crops):
            number = 2 * 10**7 + 100 * index + crop
            _, reference = references(number, seed=3)
            rng = np.random.default_rng([3, number])
            steps = [[]]
            for family in 2 * unknown + list(rng.choice(known, 10, replace=False)):
                steps.append([(str(family), mild_strength(family, rng))])
            for _ in range(6):
                steps.append(draw_chain(rng, rng.uniform(-0.4, 0.35), unknown))
            images = [apply_chain(reference, chain, rng) for chain in steps]
            yield name, number, reference, steps, images


def makings(packages, size=256, n_crops=2):
    """Per crop: itself, and each of `MAKINGS` at two strengths."""
    for index, name in enumerate(photograph_folds()):
        references = References(packages, size, 0.0, [name])
        for crop in range(n_crops):
            number = 4 * 10**7 + 100 * index + crop
            _, reference = references(number, seed=4)
            rng = np.random.default_rng([4, number])
            steps, images = [[]], [reference]
            for making in 2 * list(MAKINGS):
                strength = float(rng.random())
                steps.append([(making, strength)])
                images.append(make(making, reference, strength, rng))
            yield name, number, reference, steps, images


def native_tiles(packages, count=24):
    of_cameras = [row for row in list_photographs() if row["package"] in _FIRST]
    for index, row in enumerate(of_cameras):
        pixels = np.asarray(Image.open(Path(packages) / row["file"]).convert("RGB"))
        for at, tile in enumerate(cut_tiles(pixels, count)):
            yield row["name"], NATIVE + 100 * index + at, tile, [[]], [tile]


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
    main()
