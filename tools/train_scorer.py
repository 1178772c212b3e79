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
from torch.nn import functional

from diffqa_features.datasets._chains import FAULT_OF, FAULTS
from diffqa_features.learned.scorer.network import (
    Front,
    Layers,
    ScorerNetwork,
    plain_filters,
)

DEFAULTS = {
    "hidden": 192,
    "dropout": 0.3,
    "weight_decay": 3e-2,
    "learning_rate": 2e-3,
    "epochs": 40,
    "rank_weight": 0.5,
    "fault_weight": 0.3,
}
_BATCH = 32  # references


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--describe", action="store_true")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--settings", type=json.loads, default={})
    args = parser.parse_args()
    torch.set_num_threads(1)
    front = load_front(args.shards)
    data = Labelled(args.shards, front)
    print(f"{len(data.jod)} pictures, {data.rows.shape[1]} descriptors", flush=True)
    if args.choose:
        choose(data, args.settings)
    if args.out:
        everything = np.ones(len(data.jod), bool)
        network = fit(data, everything, front, args.members, args.settings)
        write(network, data, args)


def load_front(shards):
    """Filters are learned once, from photographs that do not validate."""
    path = shards / "filters.npy"
    if not path.exists():
        with np.load(shards / "shard00000.npz") as first:
            known = ~np.isin(first["name"], VALIDATION_PHOTOGRAPHS)
            np.save(path, learn_filters(first["pixels"][known]).numpy())
    return Front(torch.from_numpy(np.load(path)), plain_filters())


class Labelled:
    """Descriptors, JOD and faults of every shard that is there."""

    def __init__(self, shards, front):
        key = front_key(front)
        paths = sorted(shards.glob("shard?????.npz"))
        if (shards / "validation.npz").exists():
            paths.append(shards / "validation.npz")
        parts = {name: [] for name in ("rows", "jod", "name", "number", "chain")}
        for path in paths:
            kept = path.with_name(f"{path.stem}.{key}.npy")
            if not kept.exists():
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


def fit(data, chosen, front, n_members, settings, seed=0):
    """The network whose members were trained on the chosen pictures."""
    settings = {**DEFAULTS, **settings}
    rows = torch.from_numpy(data.rows[chosen])
    width = rows.shape[1]
    network = ScorerNetwork(
        front.normalised, front.plain, width, len(data.kinds), n_members,
        settings["hidden"],
    )  # fmt: skip
    network.mean.copy_(rows.mean(0))
    network.scale.copy_(rows.std(0) + 1e-3)
    rows = network.scaled(rows)
    jod = torch.from_numpy(data.jod[chosen])
    faults = torch.from_numpy(data.faults[chosen]).float()
    groups = np.unique(data.number[chosen], return_inverse=True)[1]
    for member in range(n_members):
        layers = train(rows, jod, faults, groups, settings, seed + member)
        network.members[member].load_state_dict(layers.state_dict())
    return network.eval()


def train(rows, jod, faults, groups, settings, seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    layers = Layers(
        rows.shape[1], faults.shape[1], settings["hidden"], settings["dropout"]
    )
    torch.nn.init.zeros_(layers.head.weight)
    layers.head.bias.data.zero_()
    layers.head.bias.data[0] = jod.mean()
    optimizer = torch.optim.AdamW(
        layers.parameters(), settings["learning_rate"],
        weight_decay=settings["weight_decay"],
    )  # fmt: skip
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    # Groups of a reference; large ones are cut, so that batches are alike.
    members = [part for g in members for part in np.array_split(g, -(-len(g) // 7))]
    steps = settings["epochs"] * -(-len(members) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings["learning_rate"], total_steps=steps
    )
    layers.train()
    for _ in range(settings["epochs"]):
        turn = rng.permutation(len(members))
        for at in range(0, len(turn), _BATCH):
            chosen = [members[i] for i in turn[at : at + _BATCH]]
            batch = np.concatenate(chosen)
            owner = torch.from_numpy(np.repeat(range(len(chosen)), [*map(len, chosen)]))
            loss = loss_of(
                layers(rows[batch]), jod[batch], faults[batch], owner, settings
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return layers


def loss_of(answers, jod, faults, owner, settings):
    scores, spreads, logits = answers
    # Half of it sees no spread, so that pictures taken for hopeless are learned too.
    error = functional.smooth_l1_loss(scores, jod, beta=1.0)
    spreads = spreads.clamp(-3, 2)
    likelihood = 0.5 * ((scores.detach() - jod) / spreads.exp()).square() + spreads
    loss = error + 0.2 * likelihood.mean()
    known = ~faults.isnan()
    loss = loss + settings["fault_weight"] * (
        functional.binary_cross_entropy_with_logits(logits[known], faults[known])
    )
    if settings["rank_weight"]:
        first, second = torch.where(
            (owner[:, None] == owner[None]) & (jod[:, None] > jod[None] + 0.1)
        )
        # Chance that the first is preferred, on the scale of JOD: 3 of 4 at 1.
        ahead = 1.0986 * (scores[first] - scores[second])
        wanted = torch.sigmoid(1.0986 * (jod[first] - jod[second]))
        rank = functional.binary_cross_entropy_with_logits(ahead, wanted)
        loss = loss + settings["rank_weight"] * rank
    return loss


@torch.no_grad()
def predict(network, rows):
    scaled = network.scaled(torch.from_numpy(rows))
    return np.mean([member(scaled)[0].numpy() for member in network.members], axis=0)


def summarise(data, chosen, scores):
    """SRCC over all, within a crop, and per family of the chosen pictures."""
    jod, number = data.jod[chosen], data.number[chosen]
    inside = [
        spearmanr(scores[number == n], jod[number == n])[0] for n in np.unique(number)
    ]
    family = np.array(data.families)[chosen]
    per_family = {
        f: round(float(spearmanr(scores[family == f], jod[family == f])[0]), 2)
        for f in sorted(set(family) - {""})
    }
    return spearmanr(scores, jod)[0], float(np.nanmean(inside)), per_family


def choose(data, settings):
    trials = [
        {},
        {"rank_weight": 0.0},
        {"rank_weight": 2.0},
        {"dropout": 0.5},
        {"dropout": 0.1},
        {"hidden": 64},
        {"weight_decay": 0.3},
        {"epochs": 15},
        {"fault_weight": 0.0},
        {"fault_weight": 1.0},
    ]
    unknown = data.unknown
    print(f"{data.known.sum()} known, {unknown.sum()} unknown pictures")
    front = Front(torch.zeros(1, 1, 7, 7), plain_filters())
    for trial in trials if not settings else [settings]:
        started = time.perf_counter()
        network = fit(data, data.known, front, 2, trial)
        overall, inside, per_family = summarise(
            data, unknown, predict(network, data.rows[unknown])
        )
        seconds = time.perf_counter() - started
        print(f"{overall:.3f} {inside:.3f} {trial} {per_family} {seconds:.0f} s")


def write(network, data, args):
    from diffqa_features.learned.scorer.scorer import save_scorer

    save_scorer(network, data.kinds, args.out, {"pictures": len(data.jod)})


if __name__ == "__main__":
    main()
