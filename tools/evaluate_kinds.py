"""What else one pass shows of quality: candidates of columns, from known to unknown.

    python tools/evaluate_kinds.py extract SHARDS/choosing.npz RUN
    python tools/evaluate_kinds.py report SHARDS/choosing.npz RUN --out TABLE.csv

The pictures are the choosing set of `label_pictures.py`: crops of 256 pixels of 22
photographs under mild to middling distortions, with JOD. Photographs and families lie
in four folds, and a picture is asked of a fit that has seen neither its photograph nor
any family of its fold: *unknown*, singles and chains of the fold's families; *known*,
families of the other folds on the same photographs. Nothing that ships is tested on
these pictures but the scorer, which was chosen by them.

Every candidate is computed of the same passes of `tiny` over the central 192 pixels,
t = 20 and 50, two prompts; `few steps` adds two passes. One step of restoration needs
no candidate of its own: ẑ_0 − z_0 = σ/√ᾱ (ε − ε̂), so its energies per band are those
of the error but for a constant, which the scaler takes out.

StandardScaler and SVR(C=1); SRCC within a photograph, mean over photographs, with 95 %
intervals over resampled photographs, and the paired difference to the baseline.
"""

import argparse
import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from label_pictures import FOLDS, family_folds, photograph_folds

SIZE, CHUNK = 192, 26
TIMESTEPS = (20, 50)
PROMPTS = ("Good photo.", "Bad photo.")
STEPS = (100, 50)  # of the restoration in a few steps
BASELINE = "error t20"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["extract", "report"])
    parser.add_argument("choosing", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    {"extract": extract, "report": report}[args.command](args)


# -- columns ---------------------------------------------------------------------------


def extract(args):
    import torch

    from diffqa_features._backbone.backbone import load_backbone

    torch.set_num_threads(1)
    data = np.load(args.choosing)
    pixels, numbers = data["pixels"], data["number"]
    first = (pixels.shape[1] - SIZE) // 2
    backbone = load_backbone("tiny", "cpu", "float32")
    # The first crop of every photograph before the second.
    crops = sorted(np.unique(numbers), key=lambda number: (number % 100, number))
    for number in crops:
        path = args.run / f"{number}.npz"
        if path.exists():
            continue
        rows = np.flatnonzero(numbers == number)
        found = []
        for start in range(0, len(rows), CHUNK):
            chunk = pixels[rows[start : start + CHUNK]]
            chunk = chunk[:, first : first + SIZE, first : first + SIZE]
            found.append(observe(backbone, chunk))
        tables = {
            name: np.concatenate([part[name] for part in found]) for name in found[0]
        }
        np.savez(path, rows=rows, **tables)
        print(number, len(rows), flush=True)


def observe(backbone, chunk):
    """Candidate -> columns (n, D) of pictures (n, h, w, 3), by one pass per prompt."""
    import torch

    from diffqa_features._engine.passes import draw_noise
    from diffqa_features._media.views import to_pixels

    with torch.inference_mode():
        pixels = to_pixels(chunk)
        clean = torch.cat([backbone.encode_images(each[None]) for each in pixels])
        noise_at = {
            t: draw_noise(0, t, clean.shape[1:])[None] for t in {*TIMESTEPS, *STEPS}
        }
        found = {}
        for t in TIMESTEPS:
            noisy = backbone.add_noise(clean, t, noise_at[t].expand_as(clean))
            seen = []
            for prompt in PROMPTS:
                states = backbone.condition([prompt])
                parts = [
                    one_pass(backbone, noisy[at : at + 2], t, states, noise_at[t])
                    for at in range(0, len(noisy), 2)
                ]
                seen.append({k: torch.cat([p[k] for p in parts]) for k in parts[0]})
            for name in seen[0]:
                both = [each[name] for each in seen]
                if name == "error":
                    both.append(both[0][:, -1:] - both[1][:, -1:])
                    both = [each[:, :-1] for each in both[:2]] + both[2:]
                elif name.startswith("hidden"):
                    both = [(both[0] + both[1]) / 2]
                found[f"{name} t{t}"] = torch.cat(both, 1)
        found.update(few_steps(backbone, clean, noise_at[STEPS[0]]))
    return {name: values.float().numpy() for name, values in found.items()}


def one_pass(backbone, noisy, t, conditioning, noise):
    import torch

    from diffqa_features._backbone.capture import Tap
    from diffqa_features._engine.pooling import alignment

    seen = {"alignment": [], "entropy": [], "attended": [], "hidden": []}
    waiting = []

    def tap_block(block):
        def see_keys(keys):
            queries = waiting.pop()
            seen["alignment"].append(alignment(queries, keys, block.heads)[:, None])
            seen["entropy"].append(entropy(queries, keys, block.heads))

        return [
            Tap(f"{block.module}.to_q", waiting.append),
            Tap(f"{block.module}.to_k", see_keys),
            Tap(block.module, lambda x: seen["attended"].append(energies(x))),
        ]

    taps = [tap for block in backbone.info.blocks for tap in tap_block(block)]
    taps += [
        Tap(stage.module, lambda x: seen["hidden"].append(energies(x)))
        for stage in backbone.info.stages
    ]
    output = backbone.run(noisy, t, conditioning, taps)
    error = backbone.to_noise(output, noisy, t).double() - noise.double()
    found = {name: torch.cat(parts, 1) for name, parts in seen.items()}
    found = {
        "alignment": found["alignment"],
        "attention entropy": found["entropy"],
        "attended energies": found["attended"],
        "hidden energies": found["hidden"],
        "error": torch.cat(
            [log(error.square().mean((2, 3))) / 2]
            + [error.square().mean((1, 2, 3)).sqrt()[:, None]],
            1,
        ),
    }
    found["error map"] = spatial(error)
    found["error bands"] = bands(error)
    return found


def log(values):
    return values.clamp_min(1e-24).log()


def entropy(queries, keys, heads):
    """Of the attention to the tokens: mean and spread over positions, (B, 2)."""
    import torch

    q, k = (
        x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys)
    )
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    each = -(weights * log(weights)).sum(-1).mean(1)  # (B, HW)
    return torch.stack([each.mean(1), each.std(1)], 1)


def energies(states):
    """Log energy, log spread over space, and its quantiles over channels: (B, 5)."""
    import torch

    x = states.float()
    x = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x  # (B, HW, C)
    spread = log(x.var(1, correction=0)) / 2  # (B, C)
    quantiles = torch.quantile(spread, torch.tensor([0.1, 0.5, 0.9]), dim=1).T
    whole = log(x.square().mean((1, 2))) / 2
    return torch.cat([whole[:, None], spread.mean(1, keepdim=True), quantiles], 1)


def spatial(error):
    """Of the map of the squared error: spread, quantiles, worst tile of 6 x 6."""
    import torch
    from torch.nn import functional as F

    square = error.square().mean(1, keepdim=True)
    flat = log(square).flatten(1)
    cut = torch.tensor([0.1, 0.5, 0.9, 0.99], dtype=flat.dtype)
    worst = log(F.avg_pool2d(square, 6)).flatten(1).amax(1, keepdim=True)
    quantiles = torch.quantile(flat, cut, dim=1).T
    return torch.cat([flat.std(1, keepdim=True), quantiles, worst], 1)


def bands(error, count=4):
    """Log energy in bands of radial frequency, mean over channels: (B, count)."""
    import torch

    power = torch.fft.fft2(error).abs().square().mean(1)
    y, x = (torch.fft.fftfreq(side).abs() for side in power.shape[1:])
    radius = torch.sqrt(y[:, None] ** 2 + x[None] ** 2)
    edges = torch.linspace(0, 0.5, count + 1)
    edges[-1] = 1
    inside = [(radius >= a) & (radius < b) for a, b in pairwise(edges)]
    return torch.stack([log(power[:, part].mean(1)) for part in inside], 1)


def few_steps(backbone, clean, noise):
    """The picture against its restoration from t = 100 in two steps of DDIM."""
    import torch

    states = backbone.condition([PROMPTS[0]])
    noisy = backbone.add_noise(clean, STEPS[0], noise.expand_as(clean))
    for t, following in zip(STEPS, (*STEPS[1:], None)):
        outputs = [
            backbone.run(noisy[at : at + 2], t, states)
            for at in range(0, len(noisy), 2)
        ]
        output = torch.cat(outputs)
        estimate = backbone.to_clean(output, noisy, t)
        if following is None:
            break
        predicted = backbone.to_noise(output, noisy, t)
        noisy = backbone.add_noise(estimate, following, predicted)
    difference = (estimate - clean).double()
    spectrum = log(difference.square().mean((2, 3))) / 2
    return {
        "few steps": torch.cat([spectrum, bands(difference)], 1),
        "few steps, bands": bands(difference),
    }


# -- what they are worth ---------------------------------------------------------------


def report(args):
    data = np.load(args.choosing)
    parts = [np.load(path) for path in sorted(args.run.glob("*.npz"))]
    rows = np.concatenate([part["rows"] for part in parts])
    tables = {
        name: np.concatenate([part[name] for part in parts])
        for name in parts[0].files
        if name != "rows"
    }
    tables["difference of error t20 - t50"] = tables["error t20"] - tables["error t50"]
    target, names = data["jod"][rows].astype(float), data["name"][rows]
    splits = list(make_splits(names, data["chain"][rows]))
    unknown = {which: measure(tables[which], target, names, splits) for which in tables}
    for name in list(tables):
        if name not in (BASELINE, "alignment t20"):
            tables[f"{BASELINE} + {name}"] = np.hstack([tables[BASELINE], tables[name]])
    tables["alignment t50 + error t50 (the default)"] = np.hstack(
        [tables["alignment t50"], tables["error t50"]]
    )
    for which in tables:
        if which not in unknown:
            unknown[which] = measure(tables[which], target, names, splits)
    lines = []
    for which, (on_unknown, on_known) in unknown.items():
        base_unknown, base_known = unknown[BASELINE]
        lines.append(
            [which, tables[which].shape[1]]
            + interval(on_unknown)
            + interval(on_unknown - base_unknown)
            + interval(on_known)
            + interval(on_known - base_known)
        )
        print(*lines[-1], sep=" | ", flush=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        numbers = [
            f"{test}{what}{end}"
            for test in ("unknown", "known")
            for what in ("", "_minus_baseline")
            for end in ("", "_low", "_high")
        ]
        writer.writerow(["columns_of", "columns", *numbers, "pictures", "photographs"])
        writer.writerows([*line, len(rows), len(np.unique(names))] for line in lines)


def make_splits(names, chains):
    """(train, unknown, known) rows of every fold."""
    of_family, of_name = family_folds(), photograph_folds()
    steps = [[of_family[family] for family, _ in json.loads(chain)] for chain in chains]
    fold = np.array([of_name[name] for name in names])
    for held in range(FOLDS):
        clean = np.array([held not in each for each in steps])
        only = np.array([bool(each) and set(each) == {held} for each in steps])
        mine = fold == held
        yield ~mine & clean, mine & only, mine & clean


def measure(matrix, target, names, splits):
    """SRCC within every photograph, of unknown and of known pictures."""
    from scipy.stats import spearmanr
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    found = ({}, {})
    for train, *tests in splits:
        model = make_pipeline(StandardScaler(), SVR()).fit(matrix[train], target[train])
        for scores, test in zip(found, tests):
            predicted = model.predict(matrix[test])
            for name in np.unique(names[test]):
                its = names[test] == name
                value = spearmanr(target[test][its], predicted[its]).statistic
                scores[name] = np.nan_to_num(value)
    return [np.array([scores[n] for n in sorted(scores)]) for scores in found]


def interval(values, n_resamples=2000):
    rng = np.random.default_rng(0)
    means = rng.choice(values, (n_resamples, len(values))).mean(1)
    return [f"{v:.3f}" for v in (values.mean(), *np.quantile(means, [0.025, 0.975]))]


if __name__ == "__main__":
    main()
