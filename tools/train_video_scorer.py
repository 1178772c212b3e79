"""Train the scorer's part for videos on labelled clips (`label_videos.py`).

    python tools/train_video_scorer.py SHARDS --choose      compares settings
    python tools/train_video_scorer.py SHARDS --evaluate    figures of the model card
    python tools/train_video_scorer.py SHARDS --out FOLDER  trains on all, writes it

Columns of clips are kept beside the shards under a key of the picture part and of the
statistics of change: after either was replaced, the same call makes them again (some
minutes) and fits. FOLDER is the scorer's, whose `video` is written; `--scorer` is the
one that scores the frames, by default the same as the shipped one.

Everything is chosen by folds over contents: a clip is asked of a machine that saw none
of its photograph. Shards from 900 on are for tests only. `--baseline` adds
`NaturalSceneStatistics` and `MotionFeatures` with a support vector machine.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from train_scorer import HARDLY_SEEN, LOG_NORMAL, version_of

from diffqa_features import MotionFeatures, NaturalSceneStatistics, load_scorer
from diffqa_features.datasets._chains import FAULTS
from diffqa_features.learned import _files
from diffqa_features.learned.scorer.motion import to_luma
from diffqa_features.learned.scorer.tiles import cut_tiles
from diffqa_features.learned.scorer.videos import (
    BURST,
    TIMING,
    Burst,
    VideoMachine,
    burst_columns,
    looked_at,
    to_jod,
)

DEFAULTS = {
    "landmarks": 3000,
    "sharpness": 0.3,
    "ridge": 0.3,
    "error_ridge": 20.0,
    "fault_ridge": 0.1,
}
FAMILY_OF = {"freeze": "freeze", "drop": "frame_drop", "judder": "judder",
             "low_rate": "frame_rate", "flicker": "flicker"}  # fmt: skip
TESTS = {"photographs for tests": range(900, 950), "camera clips": range(950, 1000)}
BLIND = {*FAULTS["exposure"], *FAULTS["color"]}  # nobody knows without the original
EIGHT = {"x264", "mpeg4", "gaussian_blur", "white_noise", *FAMILY_OF.values()}
BASELINE = "MotionFeatures and scene statistics, SVR(C=3)"
FEWEST = 12  # clips of a family
FOLDS = 6
_HARDLY_CHANGED = 1.0  # grey levels; of sensors, noise alone comes to this
_NEVER = -6.0  # logit


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--scorer", default="tiny")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--baseline", action="store_true", help="minutes more")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--settings", type=json.loads, default={})
    args = parser.parse_args()
    scorer = load_scorer(args.scorer)
    paths = sorted(args.shards.glob("clips?????.npz"))
    known = [p for p in paths if int(p.stem[5:]) < 900]
    data = Clips(known, scorer, baseline=args.baseline)
    print(f"{len(data.jod)} clips, {len(data.columns)} columns", flush=True)
    if args.choose:
        choose(data, args.settings)
    if args.evaluate:
        tests = {
            name: Clips(found, scorer, baseline=args.baseline)
            for name, of in TESTS.items()
            if (found := [p for p in paths if int(p.stem[5:]) in of])
        }
        evaluate(data, tests, args.settings, args.baseline)
    if args.out:
        weights = fit(data, np.ones(len(data.jod), bool), args.settings)
        picture, _ = _files.load(scorer._folder())
        save_machine(
            weights, data, args.out / "video", args.settings, picture["weights_sha256"]
        )


class Clips:
    """Columns, JOD and faults of labelled clips."""

    def __init__(self, paths, scorer, baseline=False):
        self.columns, key = columns_key(scorer)
        rows, others, parts = [], [], {}
        for path in paths:
            kept = path.parent / "columns" / f"{path.stem}.{key}.npy"
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                with np.load(path) as shard:
                    np.save(kept, describe(shard, scorer))
            rows.append(np.load(kept))
            if baseline:
                others.append(other_columns(path))
            with np.load(path) as shard:
                for name in set(shard.files) - {"pixels", "times"}:
                    parts.setdefault(name, []).append(shard[name])
        self.rows = np.concatenate(rows)
        self.others = np.concatenate(others) if baseline else None
        for name, values in parts.items():
            setattr(self, name, np.concatenate(values))
        timing = [json.loads(text) for text in self.timing]
        chains = [json.loads(text) for text in self.picture]
        self.timed = np.array([bool(steps) for steps in timing])
        self.damaged = np.array([bool(steps) for steps in chains])
        self.families = [
            {family for family, _ in steps + chain}
            for steps, chain in zip(timing, chains, strict=True)
        ]
        self.seen = np.array([not found & BLIND for found in self.families])
        self.eight = np.array([found <= EIGHT for found in self.families])
        self.faults = np.array([
            self._faults(row, *steps)
            for row, steps in enumerate(zip(timing, chains, strict=True))
        ])  # fmt: skip

    def _faults(self, row, timing, chain):
        """1 for kinds that are there, 0 for those that are not, nan if hardly seen."""
        found = dict(timing)
        unseen = self.change[row] < _HARDLY_CHANGED
        unseen |= not chain and self.jod[row] > HARDLY_SEEN
        faults = np.zeros(len(TIMING))
        for place, kind in enumerate(TIMING):
            strength = found.get(FAMILY_OF[kind])
            if strength is None:
                continue
            # The milder of two may hide behind the other; nothing repeats in a still.
            hidden = len(found) > 1 and strength < max(found.values())
            hidden |= self.kind[row] == "still" and kind != "flicker"
            faults[place] = np.nan if unseen or hidden else 1.0
        return faults


def columns_key(scorer):
    """Names of the columns, and their version, by what they make of a clip."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (BURST, 64, 64, 3)).astype(np.uint8)
    found = clip_columns(frames, np.arange(BURST) / 30, scorer)
    return list(found), version_of(list(found.values()))


def describe(shard, scorer):
    """Columns (N, D) of the clips of a shard."""
    times = shard["times"].copy()
    # Where frames were dropped, every other file has a clock that hides it.
    hidden = shard["number"] % 2 == 0
    times[hidden] = np.arange(BURST) / shard["frame_rate"][hidden, None]
    return np.array([
        list(clip_columns(frames, when, scorer).values())
        for frames, when in zip(shard["pixels"], times, strict=True)
    ])  # fmt: skip


def other_columns(path):
    """What the library's own columns say of the clips of a shard, kept beside it."""
    kept = path.parent / "columns" / f"{path.stem}.baseline.npy"
    if not kept.exists():
        with np.load(path) as shard:
            clips = list(shard["pixels"])
        # As many frames as the scorer scores.
        frames = [clip[at] for clip in clips for at in looked_at(len(clip))]
        scenes = NaturalSceneStatistics().transform(frames)
        scenes = scenes.reshape(len(clips), -1, scenes.shape[1]).mean(1)
        motion = MotionFeatures(pooling=("mean",), device="cpu").transform(clips)
        np.save(kept, np.column_stack([scenes, motion]))
    return np.load(kept)


def clip_columns(frames, times, scorer):
    tiles = [cut_tiles(frame, smaller=False) for frame in frames]
    luma = np.stack([to_luma(tile) for tile in tiles])
    seen = [tiles[at] for at in looked_at(len(frames))]
    burst = Burst(luma, times, seen, len(frames) // 2)
    return burst_columns(burst, [scorer._judge(tile) for tile in seen])


def fit(data, chosen, settings, seed=0):
    """Weights of a machine for the chosen clips: a linear system per kind of answer."""
    settings = {**DEFAULTS, **settings}
    rows = data.rows[chosen]
    jod = data.jod[chosen].astype(float)
    faults = data.faults[chosen]
    count = min(settings["landmarks"], len(rows))
    weights = {
        "mean": rows.mean(0),
        "scale": rows.std(0) + 1e-3,
        "sharpness": np.array(settings["sharpness"]),
        "landmarks": np.zeros((count, rows.shape[1])),
        "answers": np.zeros((count, 2 + len(TIMING))),
        "bias": np.zeros(2 + len(TIMING)),
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    rows = VideoMachine(weights, data.columns).scaled(rows)
    places = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    weights["landmarks"] = rows[places].astype(np.float16)
    machine = VideoMachine(weights, data.columns)
    near, among = machine.likeness(rows), machine.likeness(machine.landmarks)
    # Of the loss the root: errors count as much where little is lost.
    root = np.sqrt(10 - jod)
    wanted = np.column_stack([root, 2 * np.nan_to_num(faults, nan=0.5) - 1])
    middle = wanted.mean(0)
    wanted = wanted - middle
    folds = [test for _, test in GroupKFold(4).split(near, groups=data.name[chosen])]
    parts = [(near[of].T @ near[of], near[of].T @ wanted[of]) for of in folds]
    square, side = (sum(part) for part in zip(*parts, strict=True))
    found = solve(square, side, among, settings)
    # What is said of contents that did not train: for errors and probabilities.
    unseen = np.zeros_like(wanted)
    for test, (own_square, own_side) in zip(folds, parts, strict=True):
        unseen[test] = near[test] @ solve(
            square - own_square, side - own_side, among, settings
        )
    missed = to_jod(unseen[:, 0] + middle[0]) - jod
    error = np.log(np.maximum(np.abs(missed), 0.01)) + LOG_NORMAL
    level = error.mean()
    side = near.T @ (error - level)[:, None]
    spread = solve(square, side, among, {"ridge": settings["error_ridge"]})
    # A few errors are large: a standard deviation counts them as the square.
    said = np.exp(level + near @ spread[:, 0])
    level += np.log(np.mean((missed / said) ** 2)) / 2
    answers, bias = weights["answers"], weights["bias"]
    answers[:, 0], bias[0] = found[:, 0], middle[0]
    answers[:, 1], bias[1] = spread[:, 0], level
    for place in range(len(TIMING)):
        certain = ~np.isnan(faults[:, place])
        if not np.nanmax(faults[:, place]):  # a family that is left out
            bias[2 + place] = _NEVER
            continue
        model = LogisticRegression().fit(
            unseen[certain, 1 + place, None], faults[certain, place]
        )
        answers[:, 2 + place] = model.coef_[0, 0] * found[:, 1 + place]
        bias[2 + place] = model.intercept_[0]
    return weights


def solve(square, side, among, settings):
    """Ridge in the space of the kernel; the first answer is JOD's."""
    small = 1e-6 * np.eye(len(among))
    found = [np.linalg.solve(square + settings["ridge"] * among + small, side[:, :1])]
    if side.shape[1] > 1:
        ridge = settings["fault_ridge"] * among + small
        found.append(np.linalg.solve(square + ridge, side[:, 1:]))
    return np.concatenate(found, 1)


def save_machine(weights, data, folder, settings, picture_part):
    from diffqa_features import __version__

    config = {
        "library": f"diffqa_features {__version__}",
        "estimator": VideoMachine.__name__,
        "parameters": {},
        "fitted": {
            "columns": data.columns,
            "training": {
                "clips": len(data.jod),
                "contents": len(np.unique(data.number)),
                "picture_part": picture_part,
                "settings": {**DEFAULTS, **settings},
            },
        },
    }
    _files.save(folder, config, weights)


def across(data, settings, groups, known=True):
    """What is said of each clip by a machine that saw nothing of its group."""
    jod, std = np.zeros((2, len(data.jod)))
    faults = np.zeros(data.faults.shape)
    for train, test in GroupKFold(FOLDS).split(data.rows, groups=groups):
        chosen = np.zeros(len(data.jod), bool)
        chosen[train] = True
        machine = VideoMachine(fit(data, chosen & known, settings), data.columns)
        jod[test], std[test], faults[test] = machine.answer(data.rows[test])
    return jod, std, faults


def choose(data, settings):
    trials = [
        {},
        {"ridge": 0.1},
        {"ridge": 1.0},
        {"sharpness": 0.2},
        {"sharpness": 0.8},
    ]
    for trial in [{**settings, **more} for more in trials]:
        started = time.process_time()
        jod, std, _ = across(data, trial, data.name)
        error = np.abs(jod - data.jod)
        print(
            f"{trial} {summarise(data, jod)}, {np.mean(error <= 2 * std):.3f} within "
            f"two std, {time.process_time() - started:.0f} s",
            flush=True,
        )


def evaluate(data, tests, settings, baseline):
    """Folds over contents, families left out, other contents, baselines."""
    print(f"\n{len(np.unique(data.name))} contents, folds over contents")
    jod, std, faults = across(data, settings, data.name)
    report("this scorer", data, jod)
    report("mean of three frames' scores alone", data, data.rows[:, 0])
    if baseline:
        other = make_pipeline(StandardScaler(), SVR(C=3))
        report(
            BASELINE,
            data,
            cross_val_predict(
                other, data.others, data.jod, groups=data.name, cv=GroupKFold(FOLDS)
            ),
        )
    error = np.abs(jod - data.jod)
    print(f"{np.mean(error <= 2 * std):.3f} within two std; 0.95 within "
          f"{np.quantile(error / std, 0.95):.2f}; bias {np.mean(jod - data.jod):.2f}, "
          f"mean absolute error {error.mean():.2f}")  # fmt: skip
    pristine = ~data.timed & ~data.damaged
    print("undistorted, by kind of content: share of at least 9.0, any timing fault")
    for kind in np.unique(data.kind):
        of = pristine & (data.kind == kind)
        named = faults[of].max(1) >= 0.5
        print(f"  {kind}: {of.sum()}, {np.mean(jod[of] >= 9):.2f}, {named.mean():.2f}")
    for place, kind in enumerate(TIMING):
        certain = ~np.isnan(data.faults[:, place])
        true, said = data.faults[certain, place] == 1, faults[certain, place] >= 0.5
        print(
            f"{kind}: {true.sum()} clips, found {said[true].mean():.2f}, wrongly named "
            f"{said[~true].mean():.3f}, of undistorted "
            f"{said[pristine[certain]].mean():.3f}"
        )
    print("left out, with the clip's content: SRCC of clips of nothing else")
    groups = {family: {family} for family in (*FAMILY_OF.values(), "x264", "mpeg4")}
    groups |= {kind: set(families) for kind, families in FAULTS.items()}
    for name, families in groups.items():
        of = np.array([bool(families & found) for found in data.families])
        alone = of & np.array([found <= families for found in data.families])
        if alone.sum() < FEWEST:
            continue
        unseen, _, _ = across(data, settings, data.name, ~of)
        print(f"  {name}: {of.sum()} ({alone.sum()} of nothing else), left out "
              f"{_srcc(unseen, data.jod, alone):.2f}, known "
              f"{_srcc(jod, data.jod, alone):.2f}")  # fmt: skip
    machine = VideoMachine(fit(data, pristine | True, settings), data.columns)
    for name, clips in tests.items():
        print(f"\n{len(np.unique(clips.name))} {name}, {len(clips.jod)} clips")
        jod, std, _ = machine.answer(clips.rows)
        report("this scorer", clips, jod)
        report("mean of three frames' scores alone", clips, clips.rows[:, 0])
        print(f"{np.mean(np.abs(jod - clips.jod) <= 2 * std):.3f} within two std")
        if baseline:
            other = make_pipeline(StandardScaler(), SVR(C=3))
            other.fit(data.others, data.jod)
            report(BASELINE, clips, other.predict(clips.others))


def report(name, data, jod, resamples=500):
    """SRCC of kinds of clips with intervals: bootstrap over contents."""
    rng = np.random.default_rng(0)
    contents = np.unique(data.name)
    places = [np.flatnonzero(data.name == content) for content in contents]
    figures = subsets(data, jod)
    drawn = []
    for _ in range(resamples):
        some = np.concatenate(
            [places[i] for i in rng.integers(len(places), size=len(places))]
        )
        drawn.append(list(subsets(data, jod, some).values()))
    low, high = np.nanquantile(drawn, (0.025, 0.975), axis=0)
    text = ", ".join(
        f"{key} {value:.3f} [{a:.3f}, {b:.3f}]"
        for (key, value), a, b in zip(figures.items(), low, high, strict=True)
    )
    print(f"{name}: {text}, within {within(data, jod):.3f}", flush=True)


def subsets(data, jod, places=None):
    places = np.arange(len(jod)) if places is None else places
    timed, damaged = data.timed[places], data.damaged[places]
    pristine = ~timed & ~damaged
    return {
        name: _srcc(jod[places], data.jod[places], of)
        for name, of in {
            "all": pristine | True,
            "with faults": ~pristine,
            "of timing": timed & ~damaged,
            "of the picture": damaged & ~timed,
            "of both": timed & damaged,
            "of no light or colour": ~pristine & data.seen[places],
            "of eight families": ~pristine & data.eight[places],
        }.items()
    }


def within(data, jod):
    """Mean SRCC of the clips of one content in motion."""
    numbers = np.unique(data.number)
    return np.nanmean([_srcc(jod, data.jod, data.number == n) for n in numbers])


def summarise(data, jod):
    figures = {**subsets(data, jod), "within": within(data, jod)}
    return ", ".join(f"{key} {value:.3f}" for key, value in figures.items())


def _srcc(a, b, of):
    return spearmanr(a[of], b[of])[0]


if __name__ == "__main__":
    main()
