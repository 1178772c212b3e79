"""One training run of a shipped network: steps, average, checkpoint, losses so far."""

import argparse
import logging
from pathlib import Path

import torch
from tqdm import tqdm

log = logging.getLogger("training_run")


def run_parser(description, *, steps, lr, seed, every):
    """What every training asks for on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--checkpoint-every", type=int, default=every)
    parser.add_argument("--export", type=Path, help="write the model here and stop")
    return parser


def train_or_export(args, train, export):
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.export:
        export(args.out, args.export)
    else:
        train(args)


class TrainingRun:
    """A model, its optimizer and the average of its weights, in a folder.

    Goes on from the checkpoint in `folder` where there is one. The average forgets
    slower from step to step, by ``(step + 1) / (step + lag)`` up to `decay`. `beside`
    is trained too, but neither clipped nor averaged.
    """

    def __init__(self, model, optimizer, folder, *, clip, decay, lag, beside=None):
        self.model, self.optimizer = model, optimizer
        self.beside = torch.nn.ModuleList() if beside is None else beside
        self.clip, self.decay, self.lag = clip, decay, lag
        self.step = 0
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.running = {}
        self.checkpoint = checkpoint_of(folder)
        if self.checkpoint.exists():
            self._resume()

    def _resume(self):
        device = next(self.model.parameters()).device
        state = torch.load(self.checkpoint, weights_only=True, map_location=device)
        self.model.load_state_dict(state["model"])
        self.beside.load_state_dict(state["beside"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step = state["average"], state["step"]
        log.info("resumed at step %d", self.step)

    def progress(self, steps):
        return tqdm(total=steps, initial=self.step, mininterval=5)

    def learn(self, losses, lr, progress):
        """One step down the sum of the losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        decay = min(self.decay, (self.step + 1) / (self.step + self.lag))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - decay)
        for key, value in losses.items():
            old = self.running.get(key, value.item())
            self.running[key] = 0.95 * old + 0.05 * value.item()
        self.step += 1
        progress.update()
        progress.set_postfix({k: f"{v:.4f}" for k, v in self.running.items()})

    def save(self):
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "beside": self.beside.state_dict(),
            "step": self.step,
        }
        part = self.checkpoint.with_suffix(".tmp")
        torch.save(state, part)
        part.replace(self.checkpoint)


def load_average(folder):
    """The averaged weights of a run, on the CPU, and its step."""
    state = torch.load(checkpoint_of(folder), weights_only=True, map_location="cpu")
    return state["average"], state["step"]


def checkpoint_of(folder):
    return folder / "checkpoint.pt"
