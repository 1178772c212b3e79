"""DP-IQA: an epoch and a prediction, against everything computed for every picture.

    python benchmarks/dpiqa.py --images 32
    python benchmarks/dpiqa.py --count sd15

Either way runs in a process of its own on the same weights and pictures, and both must
give the same scores before anything counts. The plain way (`tests/plain_dpiqa.py`) has
the whole VAE in memory and encodes in every epoch, repeats the text for every picture
of a batch before the adapters and attention layers read it, and runs the UNet to its
end. With `--count` nothing is computed: operations are counted on the full shape.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from full_size import _VAE, UNETS  # noqa: E402
from plain_dpiqa import PlainDPIQA, plain_name  # noqa: E402

from diffqa_features import DPIQARegressor  # noqa: E402
from diffqa_features._backbone.backbone import load_backbone  # noqa: E402
from diffqa_features._backbone.info import describe_backbone  # noqa: E402
from diffqa_features.datasets import make_procedural_images  # noqa: E402
from diffqa_features.evaluation._meters import _attention  # noqa: E402
from diffqa_features.learned._base import Job  # noqa: E402
from diffqa_features.learned._pictures import Pictures  # noqa: E402
from diffqa_features.learned.dpiqa.network import DPIQANetwork  # noqa: E402

BATCH = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tiny", help="alias or folder")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, help="pixels; default the native size")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--count", choices=["sd15"], help="count on a full shape only")
    parser.add_argument("--way", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--tokens", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count:
        count(arguments.count)
    elif arguments.way:
        print(json.dumps(measure(arguments)))
    else:
        compare(arguments)


def compare(arguments):
    """Both ways in turns, each in a process of its own; medians, and their ratios."""
    runs = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        # The authors have the text features from a file too.
        tokens = Path(folder) / "tokens.npy"
        backbone = load_backbone(arguments.backbone, "cpu", "float32")
        np.save(tokens, DPIQARegressor(arguments.backbone)._tokens(backbone))
        words = [sys.executable, __file__, *sys.argv[1:], "--tokens", str(tokens)]
        for _ in range(arguments.repeat):
            for way, results in runs.items():
                child = subprocess.run(
                    [*words, "--way", way],
                    env={**os.environ, "PYTHONPATH": str(HERE.parent)},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                results.append(json.loads(child.stdout.splitlines()[-1]))
    scores = [np.array(results[0]["scores"]) for results in runs.values()]
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-4)
    print(f"{'':24}{'plain':>10}{'ours':>10}{'ratio':>8}")
    for key in runs["plain"][0]:
        if key != "scores":
            plain, ours = (np.median([r[key] for r in v]) for v in runs.values())
            print(f"{key:24}{plain:10.2f}{ours:10.2f}{plain / ours:8.2f}")


def measure(arguments):
    size = arguments.size or describe_backbone(arguments.backbone).image_size
    model = DPIQARegressor(
        arguments.backbone,
        image_size=size,
        batch_size=BATCH,
        max_epochs=1,
        device="cpu",
    )
    views = list(make_procedural_images(arguments.images, image_size=size))
    y = np.random.default_rng(0).uniform(size=len(views))
    if arguments.way == "ours":
        way = Ours(model, views, y)
    else:
        way = Plain(model, views, y, np.load(arguments.tokens))
    found = {"scores": way.predict().tolist()}  # and warm
    for name in ("predict", "epoch"):
        start, start_cpu = time.perf_counter(), time.process_time()
        getattr(way, name)()
        found[f"{name}, s"] = time.perf_counter() - start
        found[f"{name}, CPU s"] = time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["peak memory, MiB"] = peak / (2**20 if sys.platform == "darwin" else 2**10)
    for name in ("predict", "epoch"):
        with FlopCounterMode(display=False, custom_mapping=_attention()) as counter:
            getattr(way, name)()
        found[f"{name}, GMAC"] = counter.get_total_flops() / 2e9
    return found


class Ours:
    """The estimator's own parts, on first weights."""

    def __init__(self, model, views, y):
        self.model, self.views, self.y = model, views, y
        self.backbone = load_backbone(model.backbone, "cpu", "float32")
        self.network = model._network(self.backbone, trains=True)
        self.pictures = Pictures(len(views))
        for view in views:
            self.pictures.add("", self.encode([view])[0][0], view)

    def predict(self):
        read = self.model._reader(self.backbone, self.network)
        scores = [read(*self.encode(part)).scores for part in batches(self.views)]
        return np.concatenate(scores)

    def encode(self, views):
        latents = [self.backbone.encode_images(to_unit([view])) for view in views]
        return torch.cat(latents).numpy(), views

    def epoch(self):
        """One of those that find the latents there."""
        job = Job(None, [], data=self.pictures, y=self.y, line=(1.0, 0.0))
        job.backbone, job.network = self.backbone, self.network
        job.train = np.arange(len(self.y))
        self.model._minimise(job, past=0)


class Plain:
    """The same weights, straight down."""

    def __init__(self, model, views, y, tokens):
        import diffusers

        self.views, self.y = views, torch.from_numpy(y).float()
        info = describe_backbone(model.backbone)
        kind = json.loads((info.folder / "vae/config.json").read_text())["_class_name"]
        vae = getattr(diffusers, kind).from_pretrained(info.folder / "vae").float()
        unet = diffusers.UNet2DConditionModel.from_pretrained(info.folder / "unet")
        tokens, grid = torch.from_numpy(tokens), model.image_size // info.latent_factor
        ours = DPIQANetwork(
            unet, tokens, own_unet=False, factor=info.latent_factor, grid=grid
        )
        width = ours.decoder.score.in_features
        self.teacher = PlainDPIQA(unet.float(), vae, tokens, model.image_size, width)
        state = self.teacher.eval().state_dict()
        for name, value in ours.state_dict().items():
            if name != "tokens":
                state[plain_name(name)].copy_(value)
        vae.requires_grad_(False)

    @torch.no_grad()
    def predict(self):
        parts = [self.teacher(to_unit(part))[0] for part in batches(self.views)]
        return torch.cat(parts).numpy()

    def epoch(self):
        trained = [p for p in self.teacher.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=1e-5)
        for numbers in batches(np.random.default_rng(0).permutation(len(self.views))):
            optimizer.zero_grad()
            scores, _ = self.teacher(to_unit([self.views[i] for i in numbers]))
            (scores - self.y[numbers]).square().mean().backward()
            optimizer.step()


def count(version):
    """Operations per picture of 16 at 512 pixels, on tensors without data."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    batch, line = 16, "{:36}{:10.1f}{:10.1f}{:8.2f}"
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[version])
        vae = AutoencoderKL(**_VAE).requires_grad_(False)
        tokens = torch.empty(1485, 768)
        plain = PlainDPIQA(unet, vae, tokens, 512, 512).eval()
        pixels, latents = torch.empty(batch, 3, 512, 512), torch.empty(batch, 4, 64, 64)
    ours = DPIQANetwork(unet, tokens, own_unet=True, factor=8, grid=64, seed=None)

    def gmac(work):
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops() / 2e9 / batch

    def without_graph(work):
        with torch.no_grad():
            return gmac(work)

    encode = without_graph(lambda: vae.encode(pixels))
    condition = without_graph(lambda: ours.condition(ours.unet))
    made = ours.condition(ours.unet)
    read = without_graph(lambda: ours(None, latents, pixels, made))
    rows = {
        "a prediction, GMAC": (without_graph(lambda: plain(pixels)), encode + read),
        "once per call besides, GMAC": (0, condition * batch),
        "a picture of an epoch, GMAC": (
            gmac(lambda: plain(pixels)[0].sum().backward()),
            gmac(lambda: ours(None, latents, pixels).scores.sum().backward()),
        ),
    }
    print(f"{version + ', 16 pictures of 512 pixels':36}{'plain':>10}{'ours':>10}")
    for name, (first, second) in rows.items():
        print(line.format(name, first, second, first / second))
    weights = [sum(p.numel() for p in m.parameters()) * 4e-9 for m in (plain, ours)]
    print(line.format("weights in a checkpoint, GB", *weights, weights[0] / weights[1]))


def batches(items):
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def to_unit(views):
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255


if __name__ == "__main__":
    main()
