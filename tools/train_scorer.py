"""Train the scorer on labelled pictures (`label_pictures.py`).

    python tools/train_scorer.py SHARDS --describe      descriptors of all shards, once
    python tools/train_scorer.py SHARDS --choose        compares settings, see below
    python tools/train_scorer.py SHARDS --out FOLDER    trains on all and writes it

Settings are chosen by pictures whose photographs and families of distortions no
training picture had (`VALIDATION_PHOTOGRAPHS`, `VALIDATION_FAMILIES`): from known to
unknown,
as users meet it. Descriptors are kept beside the shards, so a second call is quick.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from _scorer_filters import learn_filters, to_pixels
from label_pictures import VALIDATION_FAMILIES, VALIDATION_PHOTOGRAPHS
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from diffqa_features.datasets._chains import FAULT_OF, FAULTS
from diffqa_features.learned.scorer.network import (
    Front,
    ScorerNetwork,
    plain_filters,
)
from diffqa_features.learned.scorer.scorer import save_scorer

DEFAULTS = {
    "landmarks": 1000,
    "sharpness": 0.1,
    "ridge": 1.5,
    "error_ridge": 20.0,
    "fault_ridge": 1.5,
    "spread": 0.6,
}
_FOLDS = 5
_LOG_NORMAL = 0.635  # minus the mean of log |z| of a standard normal z


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--describe", action="store_true")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--settings", type=json.loads, default={})
    args = parser.parse_args()
    torch.set_num_threads(1)
    front = load_front(args.shards)
    data = Labelled(args.shards, front, args.describe)
    print(f"{len(data.jod)} pictures, {data.rows.shape[1]} descriptors", flush=True)
    if args.choose:
        choose(data, args.settings)
    if args.out:
        everything = np.ones(len(data.jod), bool)
        network = fit(data, everything, front, args.settings)
        facts = {
            "pictures": len(data.jod),
            "references": len(np.unique(data.number)),
            "settings": {**DEFAULTS, **args.settings},
        }
        save_scorer(network, data.kinds, args.out, facts)


def load_front(shards):
    """Filters are learned once, from photographs that do not validate."""
    path = shards / "filters.npy"
    if not path.exists():
        with np.load(shards / "shard00000.npz") as first:
            known = ~np.isin(first["name"], VALIDATION_PHOTOGRAPHS)
            np.save(path, learn_filters(first["pixels"][known]).numpy())
    return Front(torch.from_numpy(np.load(path)), plain_filters())


class Labelled:
    """Descriptors, JOD and faults of the shards; of all, or of those described."""

    def __init__(self, shards, front, everything=True):
        key = front_key(front)
        paths = sorted(shards.glob("shard?????.npz"))
        if (shards / "validation.npz").exists():
            paths.append(shards / "validation.npz")
        parts = {name: [] for name in ("rows", "jod", "name", "number", "chain")}
        for path in paths:
            kept = path.with_name(f"{path.stem}.{key}.npy")
            if not kept.exists():
                if not everything:
                    continue
                with np.load(path) as shard:
                    np.save(kept, describe(front, shard["pixels"]))
            parts["rows"].append(np.load(kept))
            with np.load(path) as shard:
                for name in ("jod", "name", "number", "chain"):
                    parts[name].append(shard[name])
        for name, values in parts.items():
            setattr(self, name, np.concatenate(values))
        self.chain = [json.loads(chain) for chain in self.chain]
        self.kinds = list(FAULTS)
        self.faults = np.array([self._faults(chain) for chain in self.chain])
        families = [{family for family, _ in chain} for chain in self.chain]
        hidden = set(VALIDATION_FAMILIES)
        unknown_photo = np.isin(self.name, VALIDATION_PHOTOGRAPHS)
        of_hidden = np.array([bool(f & hidden) for f in families])
        only_hidden = np.array([f <= hidden for f in families])
        self.known = ~unknown_photo & ~of_hidden
        self.unknown = (self.number >= 10**7) & only_hidden
        self.families = [next(iter(f)) if len(f) == 1 else "" for f in families]

    def _faults(self, chain):
        """1 for kinds that are there, 0 for those that are not, nan if hardly seen."""
        found = dict.fromkeys(self.kinds, 0.0)
        for family, severity in chain:
            kind = FAULT_OF[family]
            seen = 1.0 if severity > -0.1 else np.nan
            if found[kind] != 1:
                found[kind] = seen
        return list(found.values())


def front_key(front):
    state = b"".join(v.numpy().tobytes() for v in front.state_dict().values())
    sample = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    # The code counts too, by what it makes of a picture.
    answer = np.round(describe(front, sample), 3).tobytes()
    return hashlib.blake2b(state + answer, digest_size=4).hexdigest()


def describe(front, pixels, chunk=16):
    parts = [
        front(to_pixels(pixels[at : at + chunk])).numpy()
        for at in range(0, len(pixels), chunk)
    ]
    return np.concatenate(parts).astype(np.float32)


def fit(data, chosen, front, settings, seed=0):
    """The network of the chosen pictures: one linear system per kind of answer."""
    settings = {**DEFAULTS, **settings}
    rows = torch.from_numpy(data.rows[chosen])
    count = min(settings["landmarks"], len(rows))
    network = ScorerNetwork(
        front.normalised, front.plain, rows.shape[1], count, len(data.kinds)
    ).requires_grad_(False)
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
    root = torch.from_numpy(np.sqrt(np.maximum(0, 10 - data.jod[chosen]))).double()
    faults = torch.from_numpy(2 * np.nan_to_num(data.faults[chosen], nan=0.5) - 1)
    wanted = torch.cat([root[:, None], faults], 1)
    middle = wanted.mean(0)
    # What is said of references that did not train: for errors and probabilities.
    unseen = torch.zeros_like(wanted)
    folds = GroupKFold(_FOLDS).split(rows, groups=data.name[chosen])
    for train, test in folds:
        weights = solve(near[train], among, (wanted - middle)[train], settings["ridge"])
        unseen[test] = middle + near[test] @ weights
    weights = solve(near, among, wanted - middle, settings["ridge"])
    error = (unseen[:, 0] - root).abs().clamp(min=0.01).log() + _LOG_NORMAL
    level = error.mean()
    spread = solve(near, among, (error - level)[:, None], settings["error_ridge"])
    network.answers[:, :1] = weights[:, :1].float()
    network.bias[0] = middle[0]
    network.answers[:, 1:2] = spread.float()
    network.bias[1] = level + np.log(settings["spread"])
    for place in range(len(data.kinds)):
        slope, shift = steepness(unseen[:, 1 + place], data.faults[chosen][:, place])
        network.answers[:, 2 + place] = (slope * weights[:, 1 + place]).float()
        network.bias[2 + place] = shift + slope * middle[1 + place]
    return network.eval()


def solve(near, among, wanted, ridge):
    """Weights of landmarks: kernel ridge regression in Nystroem's approximation."""
    matrix = near.T @ near + ridge * among
    matrix.diagonal().add_(1e-6 * len(near))
    return torch.linalg.solve(matrix, near.T @ wanted)


def steepness(answers, faults):
    """Slope and shift that make probabilities of answers (Platt)."""
    known = ~np.isnan(faults)
    model = LogisticRegression().fit(answers.numpy()[known, None], faults[known])
    return float(model.coef_[0, 0]), float(model.intercept_[0])


@torch.no_grad()
def predict(network, rows):
    """JOD, std and probabilities from descriptors."""
    parts = [
        network.answer(network.scaled(torch.from_numpy(part)))
        for part in np.array_split(rows, -(-len(rows) // 1024))
    ]
    return [torch.cat(part).numpy() for part in zip(*parts, strict=True)]


def summarise(data, chosen, scores):
    """SRCC over all, within a crop, and per family of the chosen pictures."""
    jod, number = data.jod[chosen], data.number[chosen]
    inside = [
        spearmanr(scores[number == n], jod[number == n])[0] for n in np.unique(number)
    ]
    family = np.array(data.families)[chosen]
    per_family = {
        str(f): round(float(spearmanr(scores[family == f], jod[family == f])[0]), 2)
        for f in sorted(set(family) - {""})
    }
    return spearmanr(scores, jod)[0], float(np.nanmean(inside)), per_family


def choose(data, settings):
    trials = [
        {},
        {"ridge": 0.7},
        {"ridge": 3.0},
        {"sharpness": 0.05},
        {"sharpness": 0.2},
        {"landmarks": 500},
    ]
    unknown = data.unknown
    print(f"{data.known.sum()} known, {unknown.sum()} unknown pictures")
    front = Front(torch.zeros(1, 1, 7, 7), plain_filters())
    for trial in trials if not settings else [settings]:
        started = time.perf_counter()
        network = fit(data, data.known, front, trial)
        jod, std, faults = predict(network, data.rows[unknown])
        overall, inside, per_family = summarise(data, unknown, jod)
        error = jod - data.jod[unknown]
        print(
            f"{overall:.3f} {inside:.3f} {trial} {per_family} "
            f"rmse {np.sqrt((error**2).mean()):.2f}, 95 % within "
            f"{np.quantile(np.abs(error) / std, 0.95):.2f} std, "
            f"{time.perf_counter() - started:.0f} s",
            flush=True,
        )
    single = np.array(data.families)[unknown]
    for family in VALIDATION_FAMILIES:
        of = (single == family) & (data.jod[unknown] < 9.5)
        own = data.kinds.index(FAULT_OF[family])
        first = (faults[of].argmax(1) == own).mean()
        print(f"{family}: {data.kinds[own]} named first in {first:.2f} of pictures")


if __name__ == "__main__":
    main()
