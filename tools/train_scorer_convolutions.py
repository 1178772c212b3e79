"""Train the scorer's convolutional network on labelled pictures (`label_pictures.py`).

    python tools/train_scorer_convolutions.py SHARDS FOLDER --judge   to choose by
    python tools/train_scorer_convolutions.py SHARDS FOLDER --start OTHER --steps 1500

The network learns three things of the seven pictures of a reference: their loss in JOD,
which of two is the better one, and the kinds of fault. With `--judge`, photographs of
the choosing sets and every second one of the other makings are left out, so that
`train_scorer.py --choose` can ask about them. `--start` goes on from trained weights.

A checkpoint is written every 500 steps, and a call that was stopped goes on from it.
Shards that appear meanwhile are used from the next round on. 3.8 ms of one core with
AMX per picture.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _training_run import TrainingRun, load_average
from label_pictures import photograph_folds
from torch.nn import functional
from train_scorer import faults_of, half_of_makings

from diffqa_features.datasets._chains import FAULTS
from diffqa_features.learned.scorer.convolution import Convolutions, show

WIDTHS, HIDDEN = (32, 64, 96), 128
_PICTURES = 7  # of a reference
_CROP = 96
_RISING = 0.15  # of the steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--start", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--references", type=int, default=8, help="per step")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args)


class References:
    """Pictures of the shards, by reference."""

    def __init__(self, folder, judge):
        self.folder, self.judge = folder, judge
        self.hidden = half_of_makings() if judge else ()
        self.files, self.places, self._seen = [], [], set()
        self.look()

    def look(self):
        """Read shards that were not there."""
        for path in [*sorted(self.folder.glob("shard?????.npz")),
                     self.folder / "native.npz"]:  # fmt: skip
            if path not in self._seen:
                self._seen.add(path)
                self._read(path)

    def _read(self, path):
        with np.load(path) as shard:
            count = len(shard["jod"]) // _PICTURES
            kept = np.ones(count, bool)
            if self.judge:
                names = shard["name"][: count * _PICTURES : _PICTURES]
                kept = ~np.isin(names, list(photograph_folds()))
            chains = [json.loads(c) for c in shard["chain"][: count * _PICTURES]]
            known = [all(f not in self.hidden for f, _ in chain) for chain in chains]
            faults = np.array([faults_of(chain) for chain in chains], np.float32)
            parts = shard["pixels"], shard["jod"], faults, np.array(known, np.float32)
        parts = [part[: count * _PICTURES] for part in parts]
        self.places += [(len(self.files), i) for i in range(kept.sum())]
        self.files.append(
            [part.reshape(count, _PICTURES, *part.shape[1:])[kept] for part in parts]
        )

    def draw(self, count, rng):
        """Pixels (n * 7, 3, h, w), JOD (n, 7), faults (n * 7, F), whether to learn."""
        drawn = rng.choice(len(self.places), count, replace=False)
        places = [self.places[place] for place in drawn]
        pixels = [_view(self.files[file][0][at], rng) for file, at in places]
        pixels = torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2) / 255
        jod, faults, known = (
            torch.from_numpy(np.stack([self.files[file][k][at] for file, at in places]))
            for k in (1, 2, 3)
        )
        return pixels, jod, faults.flatten(0, 1), known


def _view(pixels, rng):
    """One crop of all pictures of a reference, mirrored and turned alike."""
    top, left = rng.integers(0, pixels.shape[1] - _CROP + 1, 2)
    pixels = pixels[:, top : top + _CROP, left : left + _CROP]
    for axes in ((slice(None), slice(None, None, -1)), np.s_[:, :, ::-1]):
        if rng.random() < 0.5:
            pixels = pixels[axes]
    return pixels.swapaxes(1, 2) if rng.random() < 0.5 else pixels


def train(args):
    torch.manual_seed(args.seed)
    network = Convolutions(WIDTHS, HIDDEN, 1 + len(FAULTS), normalise=True)
    network.answers.bias.data[0] = 0.8  # about the mean loss
    if args.start:
        network.load_state_dict(load_average(args.start)[0])
    network.to(memory_format=torch.channels_last)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05},
         {"params": others, "weight_decay": 0.0}]
    )  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    run = TrainingRun(network, optimizer, args.out, clip=2.0, decay=0.998, lag=50)
    references = References(args.shards, args.judge)
    progress = run.progress(args.steps)
    while run.step < args.steps:
        rng = np.random.default_rng([args.seed, run.step])
        pixels, jod, faults, known = references.draw(args.references, rng)
        planes = show(pixels).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            pooled = network.pool(planes)
        losses = learn_from(network.answer(pooled), jod, faults, known)
        run.learn(losses, args.rate * _course(run.step / args.steps), progress)
        if run.step % 500 == 0 or run.step == args.steps:
            references.look()
            run.save()


def _course(share):
    """Of the learning rate: up in a straight line, down along a cosine."""
    if share < _RISING:
        return share / _RISING
    return (1 + np.cos(np.pi * (share - _RISING) / (1 - _RISING))) / 2


def learn_from(said, jod, faults, known):
    """Losses of a batch: of JOD, of ranks within a reference, of faults."""
    lost = 10 - jod
    answer = said[:, 0].view_as(lost)
    # Mild damage is what people meet; undistorted pictures come in every reference.
    weight = known / (1 + lost / 1.5) * torch.where(lost == 0, 0.5, 1.0)
    error = functional.smooth_l1_loss(answer, lost, reduction="none", beta=0.5)
    of_jod = (weight * error).sum() / weight.sum()
    true = lost[:, :, None] - lost[:, None, :]
    step = answer[:, :, None] - answer[:, None, :]
    pairs = known[:, :, None] * known[:, None, :] * (true.abs() > 0.03)
    pairs = pairs * true.abs().clamp(max=1).sqrt()
    of_rank = functional.binary_cross_entropy_with_logits(
        3 * step, torch.sigmoid(3 * true), reduction="none"
    )
    of_rank = (pairs * of_rank).sum() / pairs.sum().clamp(min=1)
    certain = ~faults.isnan() * known.reshape(-1, 1)
    of_faults = functional.binary_cross_entropy_with_logits(
        said[:, 1:], faults.nan_to_num(), reduction="none"
    )
    of_faults = (certain * of_faults).sum() / certain.sum()
    return {"jod": of_jod, "rank": of_rank, "faults": 0.5 * of_faults}


if __name__ == "__main__":
    main()
