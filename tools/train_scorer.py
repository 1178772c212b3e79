"""Train the scorer on labelled pictures (`label_pictures.py`).

    python tools/train_scorer.py SHARDS --describe      statistics of all shards, once
    python tools/train_scorer.py SHARDS --choose        compares settings, see below
    python tools/train_scorer.py SHARDS --out FOLDER    trains on all and writes it

Settings are chosen by `choosing.npz` and `makings.npz`: each of their pictures is asked
of a network that saw no picture of its photograph. *Unknown* are the distortions of
`makings.npz` that it never saw either: half of them, all others are *known*. SRCC over
all pictures of a fold of photographs (mean over folds), and within a crop. What can
hardly be seen (JOD above 9.7) is left out, the undistorted crops are not. Statistics
are kept beside the shards, so a second call is quick.

The network learns three things of the seven pictures of a reference: their loss in JOD,
which of two is the better one, and the kinds of fault.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from _other_makings import KIND_OF, MAKINGS
from label_pictures import FOLDS, NATIVE, photograph_folds
from scipy.stats import spearmanr
from sklearn.model_selection import GroupKFold
from torch.nn import functional

from diffqa_features.datasets._chains import FAULT_OF, FAULTS
from diffqa_features.learned.scorer import statistics
from diffqa_features.learned.scorer.network import ScorerNetwork
from diffqa_features.learned.scorer.scorer import save_scorer
from diffqa_features.learned.scorer.tiles import cut_tiles

DEFAULTS = {
    "hidden": [256, 128],
    "members": 4,
    "steps": 2000,
    "references": 32,
    "rate": 2e-3,
    "decay": 0.1,
    "dropout": 0.2,
    "noise": 0.1,
    "rank": 1.0,
    "drawn": 0.25,
    "native": 3.0,
    "error_ridge": 100.0,
    "spread": 1.0,
}
TRIALS = [{}]  # beside --settings
_PICTURES = 7  # of a reference
LOG_NORMAL = 0.635  # minus the mean of log |z| of a standard normal z
HARDLY_SEEN = 9.7  # JOD


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
        sets = {
            name: Labelled([args.shards / f"{name}.npz"], args.describe)
            for name in ("choosing", "makings")
        }
        choose(data, sets, [{**args.settings, **trial} for trial in TRIALS])
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
        self.faults = np.array([faults_of(chain) for chain in chains], np.float32)
        hidden = set(list(MAKINGS)[1::2])
        self.hidden = np.array([any(f in hidden for f, _ in c) for c in chains])
        self.pristine = np.array([not chain for chain in chains])
        self.single = [chain[0][0] if len(chain) == 1 else None for chain in chains]
        of_photograph = photograph_folds()
        self.fold = np.array([of_photograph.get(name, -1) for name in self.name])


def faults_of(chain):
    """1 for kinds that are there, 0 for those that are not, nan if hardly seen."""
    found = dict.fromkeys(FAULTS, 0.0)
    for step, severity in chain:
        kind = FAULT_OF.get(step) or KIND_OF[step]
        if found[kind] != 1:
            found[kind] = 1.0 if severity > -0.1 else np.nan
    return list(found.values())


def statistics_key():
    """The version of the statistics, by what they make of a picture."""
    sample = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    return version_of(describe(sample))


def version_of(columns):
    """The version of what makes these statistics of a fixed sample, hexadecimal."""
    answer = np.round(columns, 3).tobytes()
    return hashlib.blake2b(answer, digest_size=4).hexdigest()


def describe(pictures):
    """Statistics (N, tiles, D) of pictures (N, H, W, 3)."""
    return np.stack([statistics.describe(cut_tiles(picture)) for picture in pictures])


def fit(data, chosen, settings, seed=0):
    """The network of the chosen pictures.

    Each member leaves out its own part of the photographs: what it says of them tells
    how large errors are.
    """
    settings = {**DEFAULTS, **settings}
    torch.manual_seed(seed)
    rows = torch.from_numpy(data.rows[:, 0])  # of one tile each
    network = ScorerNetwork(
        rows.shape[1], settings["hidden"], len(data.kinds), settings["members"]
    )
    network.mean.copy_(rows[chosen].mean(0))
    network.scale.copy_(rows[chosen].std(0) + 1e-3)
    rows = network.scaled(rows)
    lost = torch.from_numpy(10 - data.jod)
    faults = torch.from_numpy(data.faults)
    known = torch.from_numpy(chosen.astype(np.float32))
    members = folds_of(data.name, settings["members"])
    references, shares = references_of(data, chosen, settings)
    member_shares = [
        np.where(members[references[:, 0]] == m, 0, shares)
        for m in range(settings["members"])
    ]
    optimizer = torch.optim.AdamW(
        [
            {"params": network.weights, "weight_decay": settings["decay"]},
            {"params": network.biases, "weight_decay": 0.0},
        ]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings["rate"], total_steps=settings["steps"], pct_start=0.1
    )
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(
            len(references), (settings["steps"], settings["references"]), p=p / p.sum()
        )
        for p in member_shares
    ]
    for step in range(settings["steps"]):
        at = np.stack([references[d[step]].ravel() for d in drawn])
        seen = rows[at]
        seen = seen + settings["noise"] * torch.randn_like(seen)
        said = network.members(network.hidden(seen, settings["dropout"]))
        loss = loss_of(said, lost[at], faults[at], known[at], settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.requires_grad_(False).eval()
    fit_errors(network, rows[chosen], lost[chosen], members[chosen], settings)
    return network


def folds_of(names, count):
    """A fold per picture; pictures of a photograph are in one."""
    found = np.zeros(len(names), int)
    if count > 1:
        folds = GroupKFold(count).split(names, groups=names)
        for fold, (_, test) in enumerate(folds):
            found[test] = fold
    return found


def references_of(data, chosen, settings):
    """Rows (n, 7) of the pictures of a reference, and how often each is drawn.

    Tiles of photographs at their own size have no others beside them: seven of them
    are taken together.
    """
    native = data.number >= NATIVE
    kept = np.flatnonzero(native & chosen)
    found = [kept[: len(kept) // _PICTURES * _PICTURES].reshape(-1, _PICTURES)]
    shares = [np.full(len(found[0]), settings["native"])]
    rows = np.flatnonzero(~native).reshape(-1, _PICTURES)
    rows = rows[chosen[rows].sum(1) > 1]
    found.append(rows)
    is_drawn = np.char.startswith(data.name[rows[:, 0]], "procedural")
    shares.append(np.where(is_drawn, settings["drawn"], 1.0))
    return np.concatenate(found), np.concatenate(shares)


def loss_of(said, lost, faults, known, settings):
    """Of what members (M, n, 2 + F) say: errors of JOD, of ranks and of faults."""
    # Mild damage is what people meet; undistorted pictures come in every reference.
    weight = known / (1 + lost / 1.5) * torch.where(lost == 0, 0.5, 1.0)
    error = functional.smooth_l1_loss(said[..., 0], lost, reduction="none", beta=0.5)
    of_jod = (weight * error).sum() / weight.sum()
    lost, answer, kept = (
        part.view(len(said), -1, _PICTURES) for part in (lost, said[..., 0], known)
    )
    true = lost[..., :, None] - lost[..., None, :]
    step = answer[..., :, None] - answer[..., None, :]
    pairs = kept[..., :, None] * kept[..., None, :] * (true.abs() > 0.03)
    pairs = pairs * true.abs().clamp(max=1).sqrt()
    of_rank = functional.binary_cross_entropy_with_logits(
        3 * step, torch.sigmoid(3 * true), reduction="none"
    )
    of_rank = (pairs * of_rank).sum() / pairs.sum().clamp(min=1)
    certain = ~faults.isnan() * known[..., None]
    of_faults = functional.binary_cross_entropy_with_logits(
        said[..., 2:], faults.nan_to_num(), reduction="none"
    )
    of_faults = (certain * of_faults).sum() / certain.sum()
    return len(said) * (of_jod + settings["rank"] * of_rank + 0.3 * of_faults)


def fit_errors(network, rows, lost, members, settings):
    """How large errors are, learned from photographs that a member never saw."""
    hidden = network.hidden(rows)
    said = network.members(hidden)[..., 0]
    error = said[torch.from_numpy(members), torch.arange(len(rows))] - lost
    error = error.abs().clamp(min=0.01).log() + LOG_NORMAL
    weight = 1 / (1 + lost / 1.5) * torch.where(lost == 0, 0.5, 1.0)
    level = (weight * error).sum() / weight.sum()
    network.weights[-1][..., 1] = 0
    network.biases[-1][..., 1] = level + np.log(settings["spread"])
    for place, units in enumerate(hidden):
        middle = (weight[:, None] * units).sum(0) / weight.sum()
        units = units - middle
        square = (weight * units.T) @ units
        square += settings["error_ridge"] * torch.eye(len(square))
        slope = torch.linalg.solve(square, units.T @ (weight * (error - level)))
        network.weights[-1][place, :, 1] = slope
        network.biases[-1][place, 0, 1] -= middle @ slope


def predict(network, rows):
    """As `QualityScorer` takes the mean over tiles; (N,), (N,) and (N, F)."""
    tiles = network.scaled(torch.from_numpy(rows).flatten(0, 1))
    jod, std, faults = (
        part.double().numpy().reshape(*rows.shape[:2], *part.shape[1:])
        for part in network.answer(tiles)
    )
    variance = (std**2).mean(1) + jod.var(1) / rows.shape[1]
    return jod.mean(1), np.sqrt(variance), faults.mean(1)


def choose(data, sets, trials):
    for trial in trials:
        started = time.process_time()
        networks = [
            fit(data, (data.fold != fold) & ~data.hidden, trial)
            for fold in range(FOLDS)
        ]
        print(f"{trial}: {time.process_time() - started:.0f} s")
        for name, asked in sets.items():
            report(name, asked, networks)
        whole = []  # photographs as they are
        for fold, network in enumerate(networks):
            of = (data.fold == fold) & (data.number >= NATIVE)
            for name in np.unique(data.name[of]):
                tiles = data.rows[of & (data.name == name)].swapaxes(0, 1)
                whole.append(predict(network, tiles)[0][0])
        whole = np.array(whole)
        print(
            f"  whole photographs: {np.mean(whole >= 9):.2f} are at least 9.0",
            flush=True,
        )


def report(name, asked, networks):
    jod, std = np.zeros((2, len(asked.jod)))
    faults = np.zeros((len(asked.jod), len(asked.kinds)))
    for fold, network in enumerate(networks):
        of = asked.fold == fold
        jod[of], std[of], faults[of] = predict(network, asked.rows[of])
    seen = asked.pristine | (asked.jod <= HARDLY_SEEN)
    parts = {"all": seen}
    if asked.hidden.any():
        parts["unknown"] = seen & (asked.hidden | asked.pristine)
        parts["known"] = seen & ~asked.hidden
    figures = [f"{part} {summarise(asked, jod, of)}" for part, of in parts.items()]
    error = np.abs(jod - asked.jod)
    inside, wanted = np.mean(error <= 2 * std), np.quantile(error / std, 0.95)
    print(
        f"  {name}: {', '.join(figures)}; {inside:.3f} within two std, 0.95 within "
        f"{wanted:.2f}; {np.mean(jod[asked.pristine] >= 9):.2f} of undistorted crops "
        f"at least 9.0; bias {np.mean(jod - asked.jod):.2f}"
    )
    kinds = np.array([FAULT_OF.get(f) or KIND_OF.get(f) for f in asked.single])
    for place, kind in enumerate(asked.kinds):
        of = (kinds == kind) & (asked.jod < 9)
        if of.any():
            rank, first = (
                _srcc(jod, asked.jod, of),
                (faults[of].argmax(1) == place).mean(),
            )
            print(f"    {kind}: {of.sum()}, SRCC {rank:.2f}, named first {first:.2f}")


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
