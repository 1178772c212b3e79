"""Go on training ``tiny`` on labelled pictures: true captions, ranks, JOD.

    python tools/train_tiny_quality.py SHARDS --out RUN --start diffqa_features/tiny
    python tools/train_tiny_quality.py SHARDS --out RUN --export diffqa_features/tiny

SHARDS come from `label_pictures.py`. Training resumes from the last checkpoint in
``--out``, where the pixels are unpacked once. Procedural pictures and the photographs
that `photographs.csv` holds out are not drawn.

A step sees two references in four versions each, under two captions each. Beside what
`train_tiny_backbone.py` asks (the noise, under the truer caption; the truer of two
captions predicts it better), `good photo.` against `bad photo.` has to follow JOD, as a
logistic of it and in pairs of versions; and a linear head on what becomes the columns
of kind "error" at t = 50 learns JOD, ranks and kinds of fault. Other makings have no
words: they are only good or bad.
"""

import json
from pathlib import Path

import numpy as np
import torch
from _captions import CLEAN, GRADES, WORDS
from _training_run import TrainingRun, run_parser, train_or_export
from torch.nn import functional as F
from train_tiny_backbone import (
    LATENT_CHANNELS,
    RANKING_SLOPE,
    TOKENS,
    build,
    export,
    run_tokenizer,
    schedule,
    start,
    to_pixels,
)
from training_references import list_photographs

from diffqa_features.datasets._chains import FAULT_OF, FAULTS

REFERENCES, VERSIONS, OF_A_SHARD = 2, 4, 7
POINT, PAIR, COLUMNS = 0.1, 0.3, 0.15  # weights of the terms
TIMESTEP = 50  # the one of the columns by default
LEAST = (9.8, 9.2, 8.2, 6.5, 4.0)  # JOD typical of each of GRADES
NEAREST = {  # words that the tokenizer knows, for families it was not made with
    "uneven_blur": "gaussian_blur",
    "camera_shake": "motion_blur",
    "denoise": "jpeg2000",
    "poisson_noise": "white_noise",
    "speckle_noise": "white_noise",
    "grain": "white_noise",
    "luma_noise": "white_noise",
    "unsharp": "oversharpen",
    "ringing": "oversharpen",
    "upscale": "pixelate",
    "avif": "jpeg2000",
    "webp": "jpeg",
    "double_jpeg": "jpeg",
    "demosaic": "jpeg2000",
    "color_quantise": "quantise",
    "banding": "quantise",
    "haze": "low_contrast",
    "mean_shift": "brighten",
    "overexpose": "brighten",
    "low_light": "darken",
    "high_contrast": "oversharpen",
    "color_cast": "oversaturate",
    "color_shift": "oversaturate",
    "color_diffusion": "desaturate",
    "chromatic_aberration": "color_noise",
    "jitter": "impulse_noise",
    "patches": "impulse_noise",
    "color_blocks": "impulse_noise",
}


def main():
    parser = run_parser(__doc__.splitlines()[0], steps=6000, lr=4e-4, seed=5, every=250)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--crop", type=int, default=64, help="pixels a side")
    parser.add_argument("--start", type=Path, help="exported model to begin with")
    train_or_export(parser.parse_args(), train, export)


def train(args):
    pictures = Pictures(args.shards, args.out / "pixels")
    tokenizer = run_tokenizer(args.out, args.start)
    text, unet, vae, scheduler = build(args.seed, tokenizer)
    model = torch.nn.ModuleDict({"text": text, "unet": unet, "vae": vae})
    if args.start:
        start(model, args.start)
    vae.requires_grad_(False)
    model.to(memory_format=torch.channels_last)
    head = torch.nn.Linear(2 * LATENT_CHANNELS, 1 + len(FAULTS))
    torch.nn.init.zeros_(head.weight)
    trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, args.lr, (0.9, 0.99))
    run = TrainingRun(
        model, optimizer, args.out, clip=1.0, decay=0.999, lag=20, beside=head
    )
    alphas = scheduler.alphas_cumprod
    with run.progress(args.steps) as progress:
        while run.step < args.steps:
            batch, generator = draw_batch(run.step, args, pictures)
            losses = loss_of(batch, generator, tokenizer, text, unet, vae, alphas, head)
            rate = args.lr * schedule(run.step, args.steps, decay=0.4)
            run.learn(losses, rate, progress)
            if run.step % args.checkpoint_every == 0 or run.step == args.steps:
                run.save()


# -- data ------------------------------------------------------------------------------


class Pictures:
    """Versions of a reference at random, from mapped files."""

    def __init__(self, shards, folder):
        folder.mkdir(parents=True, exist_ok=True)
        held_out = [row["name"] for row in list_photographs() if row["held_out"]]
        self.parts = []
        for path in sorted(shards.glob("shard?????.npz")):
            shard = np.load(path)
            raw = folder / f"{path.stem}.npy"
            if not raw.exists():
                part = raw.with_suffix(".part.npy")
                np.save(part, shard["pixels"])
                part.replace(raw)
            of_reference = shard["number"].reshape(-1, OF_A_SHARD)
            if np.ptp(of_reference, axis=1).any():
                raise ValueError(f"{path} does not hold seven pictures per reference.")
            names = shard["name"][::OF_A_SHARD]
            drawn = np.char.startswith(names, "procedural")
            places = np.flatnonzero(~drawn & ~np.isin(names, held_out))
            if len(places):
                pixels = np.load(raw, mmap_mode="r")
                self.parts.append((pixels, shard["jod"], shard["chain"], places))

    def draw(self, rng):
        pixels, jod, chains, places = self.parts[rng.integers(len(self.parts))]
        first = OF_A_SHARD * rng.choice(places)
        which = first + rng.permutation(OF_A_SHARD)[:VERSIONS]
        return pixels[which], jod[which], [json.loads(str(chains[i])) for i in which]


def draw_batch(step, args, pictures):
    """Pictures and what is to be learnt of each.

    Returns
    -------
    dict
        Per picture its "image", "jod", "reference" (0 or 1), "t", the two "captions",
        the "truth" of the first (0 to 1), whether these are `scale` words (good, bad),
        and its "kinds" of fault, None where they are unknown.
    generator : torch.Generator
        Of the noise.
    """
    rng = np.random.default_rng([args.seed, step])
    rows = []
    for reference in range(REFERENCES):
        pixels, jods, chains = pictures.draw(rng)
        y, x = rng.integers(0, pixels.shape[1] - args.crop + 1, 2)
        flip = rng.random() < 0.5
        form = rng.random()
        named = all(family in FAULT_OF for chain in chains for family, _ in chain)
        if not named:
            form *= 0.66
        small = rng.random() < 0.7
        t = rng.uniform(3, 130) if small else 1 + 999 * rng.random() ** 3
        if form < 0.6 and rng.random() < 0.6:
            t = TIMESTEP
        for image, jod, chain in zip(pixels, jods, chains, strict=True):
            image = image[y : y + args.crop, x : x + args.crop]
            row = {"image": image[:, ::-1] if flip else image, "jod": float(jod)}
            row |= {"reference": reference, "t": min(int(t), 999), "scale": form < 0.6}
            row["kinds"] = kinds_of(chain)
            if form < 0.6:
                row["captions"] = ("good photo.", "bad photo.")
                row["truth"] = 1 / (1 + np.exp(-1.1 * (jod - 8.7)))
            elif form < 0.66:
                row |= {"captions": ("", ""), "truth": 0.5}
            else:
                row["captions"] = captions(chain, jod, chains, rng)
                row["truth"] = 0.95
            rows.append(row)
    batch = {key: [row[key] for row in rows] for key in rows[0]}
    return batch, torch.Generator().manual_seed(args.seed * 1_000_003 + step)


def kinds_of(chain):
    if any(family not in FAULT_OF for family, _ in chain):
        return None
    here = {FAULT_OF[family] for family, _ in chain}
    return [kind in here for kind in FAULTS]


def captions(chain, jod, chains, rng):
    """A true one with the grade, and that of another version."""
    other = chains[rng.integers(len(chains))]
    if other == chain:
        other = [(str(rng.choice(list(WORDS))), rng.random())]
    wrong = words(other, rng)
    grade = GRADES[int(np.abs(np.array(LEAST) - jod).argmin())]
    return f"{words(chain, rng)} photo, {grade} quality.", f"{wrong} photo."


def words(chain, rng):
    """The last two steps of a chain."""
    if not chain:
        return str(rng.choice(CLEAN))
    said = []
    for family, strength in chain[-2:]:
        known = WORDS.get(family) or WORDS[NEAREST[family]]
        how = "slightly " if strength < 0.3 else "" if strength < 0.7 else "strongly "
        said.append((how if rng.random() < 0.5 else "") + str(rng.choice(known)))
    return " and ".join(said)


# -- losses ----------------------------------------------------------------------------


def loss_of(batch, generator, tokenizer, text, unet, vae, alphas, head):
    with torch.no_grad():
        latents = vae.encode(to_pixels(batch["image"])).latents
    t, jod, reference, truth, scale = (
        torch.tensor(batch[key]) for key in ("t", "jod", "reference", "truth", "scale")
    )
    truth = truth.float()
    shape = (REFERENCES, *latents.shape[1:])
    noise = torch.randn(shape, generator=generator)[reference]
    a = alphas[t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
    texts = [pair[place] for place in range(2) for pair in batch["captions"]]
    tokens = tokenizer(
        texts,
        padding="max_length",
        max_length=TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    unique, back = tokens.unique(dim=0, return_inverse=True)
    states = text(unique).last_hidden_state[back]
    predicted = unet(noisy.repeat(2, 1, 1, 1), t.repeat(2), states).sample
    squares = (predicted - noise.repeat(2, 1, 1, 1)).square().mean((2, 3))
    one, two = squares.mean(1).chunk(2)
    logit = RANKING_SLOPE * (two.log() - one.log())
    losses = {
        "noise": (truth * one + (1 - truth) * two).mean(),
        "point": POINT * F.binary_cross_entropy_with_logits(logit, truth),
    }
    same = (reference[:, None] == reference) & scale[:, None]
    losses |= weighted("pair", PAIR, ranks(logit, 2 * jod, same, 2 * 2.0))
    shown = (scale & (t == TIMESTEP)).nonzero()[:, 0]
    if len(shown):
        spectrum = torch.cat(squares.chunk(2), 1)[shown].log() + 2
        said = head(spectrum)
        true = (jod[shown] - 8.7) / 1.3
        losses |= weighted("head", COLUMNS, F.smooth_l1_loss(said[:, 0], true))
        known = [i for i, at in enumerate(shown) if batch["kinds"][at] is not None]
        if known:
            kinds = torch.tensor([batch["kinds"][shown[i]] for i in known]).float()
            loss = F.binary_cross_entropy_with_logits(said[known, 1:], kinds)
            losses |= weighted("kind", COLUMNS, loss)
        same = reference[shown][:, None] == reference[shown]
        loss = ranks(3 * said[:, 0], 3 * true, same, 3 * 2.0)
        losses |= weighted("order", COLUMNS, loss)
    return losses


def weighted(name, weight, loss):
    return {} if loss is None else {name: weight * loss}


def ranks(score, true, same, most):
    """Cross-entropy of score differences, weighted by those of `true` up to `most`."""
    first, second = (same & (true[:, None] > true)).nonzero(as_tuple=True)
    if not len(first):
        return None
    wanted = true[first] - true[second]
    weight = wanted.clamp(max=most)
    difference = score[first] - score[second]
    each = F.binary_cross_entropy_with_logits(
        difference, wanted.sigmoid(), reduction="none"
    )
    return (weight * each).sum() / weight.sum()


if __name__ == "__main__":
    main()
