"""Train the shipped tiny motion network, on one CPU core.

    python tools/train_tiny_motion.py --out runs/motion --steps 900
    python tools/train_tiny_motion.py --out runs/motion --export exported

Training resumes from the last checkpoint in ``--out``. Everything it sees is drawn:
procedural pictures under a moving camera, some with a second thing that moves on its
own, shown with dropped, repeated, late and flickering frames. No photograph enters.

From the pooled features the head tells which fault a clip has, how much, how fast the
content moves and where to. A second head, which is not shipped, tells the same of every
single frame from the fast pathway: it is what makes rare faults learnable at all.
"""

import logging
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from _moving_clips import CLASSES, Targets, draw_clip, picture_pool
from _training_run import TrainingRun, load_average, run_parser, train_or_export
from safetensors.torch import save_file
from torch.nn import functional as F

from diffqa_features.motion._slowfast import TINY, SlowFast

log = logging.getLogger("train_tiny_motion")


def main():
    parser = run_parser(__doc__.splitlines()[0], steps=900, lr=4e-3, seed=0, every=50)
    parser.add_argument("--stop", type=int, help="end at this step; go on later")
    parser.add_argument("--clips", type=int, default=16, help="clips a step")
    parser.add_argument("--pool", type=int, default=400, help="pictures drawn")
    train_or_export(parser.parse_args(), train, export)


def batch(pool, count, seed, step):
    """Clips (N, 3, 32, 96, 96) in [0, 1] and their targets; the same for a seed."""
    drawn = [
        draw_clip(pool, np.random.default_rng([seed, step, i])) for i in range(count)
    ]
    clips = torch.from_numpy(np.stack([clip for clip, _ in drawn]))
    clips = clips.permute(0, 4, 1, 2, 3).float() / 255
    return clips, Targets.stack([target for _, target in drawn])


class Trainee(torch.nn.Module):
    """The network, and the head for single frames that is left behind."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.network = SlowFast(TINY)
        self.frames = torch.nn.Linear(TINY.channels[1], 3)

    def forward(self, clips):
        slow, fast = self.network.pathways(clips)
        whole = self.network.head(self.network.pool(slow), self.network.pool(fast))
        return whole, self.frames(fast.mean((3, 4)).transpose(1, 2))


def losses_of(whole, frames, targets):
    logits, amounts, direction = whole.split([len(CLASSES), 5, 2], 1)
    weight = targets.directed
    angle = 1 - F.cosine_similarity(direction, targets.direction, dim=1)
    repeated, jump, light = frames.unbind(2)
    return {
        "class": F.cross_entropy(logits, targets.kind),
        "amounts": F.smooth_l1_loss(amounts, targets.amounts, beta=0.2),
        "direction": 0.3 * (weight * angle).sum() / weight.sum().clamp(min=1),
        "repeated": F.binary_cross_entropy_with_logits(repeated, targets.repeated),
        "jump": F.binary_cross_entropy_with_logits(jump, targets.jump),
        "light": F.smooth_l1_loss(light, targets.light, beta=0.2),
    }


def train(args):
    pool = picture_pool(args.out, args.pool, args.seed)
    model = Trainee(args.seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 0.02},
            {"params": others, "weight_decay": 0},
        ],
        args.lr,
    )
    run = TrainingRun(model, optimizer, args.out, clip=2.0, decay=0.98, lag=10)
    with ThreadPoolExecutor(1) as ahead, run.progress(args.steps) as progress:
        upcoming = ahead.submit(batch, pool, args.clips, args.seed, run.step)
        while run.step < (args.stop or args.steps):
            clips, targets = upcoming.result()
            upcoming = ahead.submit(batch, pool, args.clips, args.seed, run.step + 1)
            losses = losses_of(*model(clips), targets)
            run.learn(losses, args.lr * schedule(run.step, args.steps), progress)
            last = run.step in (args.stop, args.steps)
            if last or run.step % args.checkpoint_every == 0:
                run.save()


def schedule(step, steps):
    """Warm up, then a half cosine to nothing."""
    return min((step + 1) / 50, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))


def export(out, folder):
    """Write the averaged weights of the network, in float16, as safetensors."""
    average, step = load_average(out)
    prefix = "network."
    weights = {
        key.removeprefix(prefix): value.half() if value.is_floating_point() else value
        for key, value in average.items()
        if key.startswith(prefix)
    }
    SlowFast(TINY).load_state_dict(weights)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    save_file(weights, path, {"step": str(step)})
    log.info("step %d, %d kB in %s", step, path.stat().st_size // 1000, path)


if __name__ == "__main__":
    main()
