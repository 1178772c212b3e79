"""Train the scorer on labelled pictures (`label_pictures.py`).

    python tools/train_scorer.py SHARDS --describe      statistics of all shards, once
    python tools/train_scorer.py SHARDS --choose        compares settings, see below
    python tools/train_scorer.py SHARDS --out FOLDER    trains on all and writes it

Settings are chosen by `choosing.npz`: each of its pictures is asked of a machine that
was fitted to other photographs and without any family of the picture's fold. *Unknown*
are those that only families of the fold distorted, *known* the others; SRCC over all
pictures of a fold (mean over folds), and within a crop. What can hardly be seen (JOD
above 9.7) is left out, the undistorted crops are not. Statistics are kept beside the
shards, so a second call is quick.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from label_pictures import FOLDS, NATIVE, family_folds, photograph_folds
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from diffqa_features.datasets._chains import FAULT_OF, FAULTS
from diffqa_features.learned.scorer import network as scorer_network
from diffqa_features.learned.scorer.network import ScorerNetwork
from diffqa_features.learned.scorer.scorer import save_scorer
from diffqa_features.learned.scorer.tiles import cut_tiles

DEFAULTS = {
    "landmarks": 2000,
    "sharpness": 0.3,
    "ridge": 0.2,
    "error_ridge": 20.0,
    "fault_ridge": 1.0,
    "half_weight": 1.5,
    "native_weight": 3.0,
    "shrink": 0.75,
    "spread": 1.0,
}
_ERROR_FOLDS = 4
_LOG_NORMAL = 0.635  # minus the mean of log |z| of a standard normal z
_HARDLY_SEEN = 9.7  # JOD


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--describe", action="store_true")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--settings", type=json.loads, default={})
    args = parser.parse_args()
    torch.set_num_threads(1)
    paths = [*sorted(args.shards.glob("shard?????.npz")), args.shards / "native.npz"]
    data = Labelled(paths, args.describe)
    print(f"{len(data.jod)} pictures, {data.rows.shape[-1]} statistics", flush=True)
    if args.choose:
        choose(data, Labelled([args.shards / "choosing.npz"]), args.settings)
    if args.out:
        everything = np.ones(len(data.jod), bool)
        facts = {
            "pictures": len(data.jod),
            "references": len(np.unique(data.number[data.number < NATIVE])),
            "settings": {**DEFAULTS, **args.settings},
        }
        network = fit(data, everything, args.settings)
        save_scorer(network, data.kinds, args.out, facts)


class Labelled:
    """Statistics of tiles, JOD and faults; of all files, or of those described."""

    def __init__(self, paths, everything=True):
        key = statistics_key()
        parts = {name: [] for name in ("rows", "jod", "name", "number", "chain")}
        for path in paths:
            kept = path.with_name(f"{path.stem}.{key}.npy")
            if not kept.exists():
                if not everything:
                    continue
                with np.load(path) as shard:
                    np.save(kept, describe(shard["pixels"]))
            parts["rows"].append(np.load(kept))
            with np.load(path) as shard:
                for name in ("jod", "name", "number", "chain"):
                    parts[name].append(shard[name])
        for name, values in parts.items():
            setattr(self, name, np.concatenate(values))
        chains = [json.loads(chain) for chain in self.chain]
        self.kinds = list(FAULTS)
        self.faults = np.array([self._faults(chain) for chain in chains])
        self.families = [{family for family, _ in chain} for chain in chains]
        of_photograph = photograph_folds()
        self.fold = np.array([of_photograph.get(name, -1) for name in self.name])

    def of_fold(self, fold, all_of=False):
        """Pictures that families of a fold distorted, or that nothing else did."""
        names = {family for family, at in family_folds().items() if at == fold}
        if all_of:
            return np.array([families <= names for families in self.families])
        return np.array([bool(families & names) for families in self.families])

    def _faults(self, chain):
        """1 for kinds that are there, 0 for those that are not, nan if hardly seen."""
        found = dict.fromkeys(self.kinds, 0.0)
        for family, severity in chain:
            kind = FAULT_OF[family]
            seen = 1.0 if severity > -0.1 else np.nan
            if found[kind] != 1:
                found[kind] = seen
        return list(found.values())


def statistics_key():
    """The version of the statistics, by what they make of a picture."""
    sample = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    answer = np.round(describe(sample), 3).tobytes()
    return hashlib.blake2b(answer, digest_size=4).hexdigest()


def describe(pictures, chunk=16):
    """Statistics (N, tiles, D) of pictures (N, H, W, 3)."""
    tiles = np.concatenate([cut_tiles(picture) for picture in pictures])
    parts = []
    for at in range(0, len(tiles), chunk):
        pixels = torch.from_numpy(tiles[at : at + chunk]).permute(0, 3, 1, 2) / 255
        parts.append(scorer_network.describe(pixels).numpy())
    return np.concatenate(parts).reshape(len(pictures), -1, parts[0].shape[1])


def fit(data, chosen, settings, seed=0):
    """The network of the chosen pictures: one linear system per kind of answer."""
    settings = {**DEFAULTS, **settings}
    rows = torch.from_numpy(data.rows[chosen][:, 0])  # of one tile each
    count = min(settings["landmarks"], len(rows))
    network = ScorerNetwork(rows.shape[1], count, len(data.kinds))
    network.requires_grad_(False)
    network.mean.copy_(rows.mean(0))
    network.scale.copy_(rows.std(0) + 1e-3)
    network.sharpness.fill_(settings["sharpness"])
    rows = network.scaled(rows)
    rng = np.random.default_rng(seed)
    places = rng.choice(len(rows), count, replace=False)
    # As they will be read from the file.
    network.landmarks.copy_(rows[places].half().float())
    near = network.likeness(rows).double()
    among = network.likeness(network.landmarks).double()
    loss = torch.from_numpy(10 - data.jod[chosen]).double()
    weight = torch.from_numpy(weigh(data, chosen, settings))[:, None]
    faults = torch.from_numpy(2 * np.nan_to_num(data.faults[chosen], nan=0.5) - 1)
    wanted = torch.cat([loss[:, None], faults], 1)
    middle = (weight * wanted).sum(0) / weight.sum()
    wanted = wanted - middle
    groups = data.name[chosen]
    folds = [test for _, test in GroupKFold(_ERROR_FOLDS).split(near, groups=groups)]
    parts = []
    for of in folds:
        weighted = (weight[of] * near[of]).T
        parts.append((weighted @ near[of], weighted @ wanted[of]))
    square, side = (sum(part) for part in zip(*parts, strict=True))
    weights = solve(square, side, among, settings)
    # What is said of references that did not train: for errors and probabilities.
    unseen = torch.zeros_like(wanted)
    for test, (own_square, own_side) in zip(folds, parts, strict=True):
        others = solve(square - own_square, side - own_side, among, settings)
        unseen[test] = near[test] @ others
    shrink = settings["shrink"]
    error = (shrink * (unseen[:, 0] + middle[0]) - loss).abs().clamp(min=0.01).log()
    error = error[:, None] + _LOG_NORMAL
    level = (weight * error).sum() / weight.sum()
    side = near.T @ (weight * (error - level))
    spread = solve(square, side, among, {"ridge": settings["error_ridge"]})
    network.answers[:, :1] = shrink * weights[:, :1].float()
    network.bias[0] = shrink * middle[0]
    network.answers[:, 1:2] = spread.float()
    network.bias[1] = level + np.log(settings["spread"])
    for place in range(1, 1 + len(data.kinds)):
        slope, shift = steepness(unseen[:, place], data.faults[chosen][:, place - 1])
        network.answers[:, 1 + place] = (slope * weights[:, place]).float()
        network.bias[1 + place] = shift
    return network.eval()


def weigh(data, chosen, settings):
    """Most pictures that people have lost little; crops as they are come often anyway.

    Tiles of photographs at their own size count more than others, as they are few.
    """
    loss = 10 - data.jod[chosen].astype(float)
    weight = 1 / (1 + loss / settings["half_weight"])
    weight[loss == 0] /= 2
    weight[data.number[chosen] >= NATIVE] = settings["native_weight"] / 2
    return 2 * weight


def solve(square, side, among, settings):
    """Ridge in the space of the kernel: weights of the landmarks, (count, answers).

    The first answer is JOD's, the others are the faults', with their own ridge.
    """
    small = 1e-6 * torch.eye(len(among), dtype=among.dtype)
    ridges = [settings["ridge"]]
    if side.shape[1] > 1:
        ridges.append(settings["fault_ridge"])
    found = [
        torch.linalg.solve(square + ridge * among + small, part)
        for ridge, part in zip(ridges, side.split([1, side.shape[1] - 1], 1))
    ]
    return torch.cat(found, 1)


def steepness(said, faults):
    """Slope and shift that make probabilities of what was said of unseen pictures."""
    certain = ~np.isnan(faults)
    model = LogisticRegression().fit(said[certain, None].numpy(), faults[certain])
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def predict(network, rows):
    """As `QualityScorer` weighs the tiles of a picture; (N,), (N,) and (N, F)."""
    tiles = network.scaled(torch.from_numpy(rows).flatten(0, 1))
    jod, std, faults = (
        part.double().numpy().reshape(*rows.shape[:2], *part.shape[1:])
        for part in network.answer(tiles)
    )
    weights = 1 / std**2
    weights /= weights.sum(1, keepdims=True)
    score = (weights * jod).sum(1)
    variance = (weights * std**2).sum(1)
    variance += (weights * (jod - score[:, None]) ** 2).sum(1) / rows.shape[1]
    return score, np.sqrt(variance), (weights[..., None] * faults).sum(1)


def choose(data, asked, settings):
    trials = [{}, {"ridge": 0.1}, {"ridge": 0.5}, {"sharpness": 0.15}]
    pristine = np.array([not families for families in asked.families])
    seen = pristine | (asked.jod <= _HARDLY_SEEN)
    for trial in trials if not settings else [settings]:
        started = time.process_time()
        jod, std = np.zeros((2, len(asked.jod)))
        faults = np.zeros((len(asked.jod), len(asked.kinds)))
        unknown = np.zeros(len(asked.jod), bool)
        whole = []  # photographs as they are, of those that did not train
        for fold in range(FOLDS):
            known = (data.fold != fold) & ~data.of_fold(fold)
            network = fit(data, known, trial)
            of = asked.fold == fold
            jod[of], std[of], faults[of] = predict(network, asked.rows[of])
            unknown |= of & asked.of_fold(fold, all_of=True)
            for name in np.unique(asked.name[of]):
                tiles = data.rows[(data.number >= NATIVE) & (data.name == name)]
                whole.append(predict(network, tiles.swapaxes(0, 1))[0][0])
        figures = [
            summarise(asked, jod, seen & of) for of in (unknown, ~unknown | pristine)
        ]
        error = np.abs(jod - asked.jod)
        print(
            f"{trial} unknown {figures[0]} known {figures[1]}, "
            f"{np.mean(error <= 2 * std):.3f} within two std, 0.95 within "
            f"{np.quantile(error / std, 0.95):.2f}, pristine at least 9.0: "
            f"{np.mean(jod[pristine] >= 9):.2f} of crops, "
            f"{np.mean(np.array(whole) >= 9):.2f} of whole photographs; "
            f"bias {np.mean(jod - asked.jod):.2f}, "
            f"{time.process_time() - started:.0f} s",
            flush=True,
        )
    for place, kind in enumerate(asked.kinds):
        families = [f for f, of in FAULT_OF.items() if of == kind]
        of = np.array([len(f) == 1 and f <= set(families) for f in asked.families])
        of &= asked.jod < 9
        first = (faults[of].argmax(1) == place).mean()
        rank = spearmanr(jod[of], asked.jod[of])[0]
        print(f"{kind}: {of.sum()} pictures, SRCC {rank:.2f}, named first {first:.2f}")


def summarise(asked, jod, of):
    """SRCC over all of a fold and within a crop, as text."""
    overall = [_srcc(jod, asked.jod, of & (asked.fold == f)) for f in range(FOLDS)]
    within = [_srcc(jod, asked.jod, of & (asked.number == n))
              for n in np.unique(asked.number)]  # fmt: skip
    return f"{np.mean(overall):.3f} / {np.nanmean(within):.3f}"


def _srcc(a, b, of):
    return spearmanr(a[of], b[of])[0]


if __name__ == "__main__":
    main()
