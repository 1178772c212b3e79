"""A network and a loss in, trained weights out: the loop of all learned methods.

Every random choice (order, timesteps, noise) depends only on the seed, the epoch and
the row. A killed run therefore resumes from its checkpoint as if nothing had happened,
and no random generator state has to be saved.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import UndefinedMetricWarning
from torch import nn
from tqdm.auto import tqdm

from diffqa_features._utils.files import remove_leftover, whole_file
from diffqa_features._utils.hashing import make_seed
from diffqa_features.metrics import srcc_score

_SAVE_SECONDS = 120  # between checkpoints inside an epoch
_STANDS_STILL = 0.01  # relative change of the loss below which nothing was learned

Step = Callable[
    [np.ndarray, list[torch.Generator]], tuple[torch.Tensor, torch.Tensor | None]
]


@dataclass(frozen=True)
class Schedule:
    """Length, learning rate and checkpointing of a training run."""

    max_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 1e-2
    max_grad_norm: float | None = 1.0
    milestones: tuple[int, ...] = ()  # epochs after which the rate is multiplied ...
    lr_decay: float = 1.0  # ... by this
    gradient_accumulation_steps: int = 1
    smallest_batch: int = 1
    """A last batch of fewer rows goes into the one before."""
    patience: int = 3
    seed: int = 0
    dtype: torch.dtype = torch.float32
    checkpoint: Path | None = None
    verbose: int = 0


def train(
    network: nn.Module,
    step: Step,
    target: np.ndarray | int,
    schedule: Schedule,
    device: torch.device,
    validate: Callable[[], float] | None = None,
    note: Callable[[], dict] = dict,
) -> list[dict]:
    """Minimise a loss over rows with AdamW; return the history, one dict per epoch.

    Parameters
    ----------
    network : nn.Module
        The network to train. With `validate` it ends with the weights of the best
        epoch.
    step : callable
        ``step(indices, generators) -> (loss, predictions)``: the mean loss of these
        rows with its graph, and one number per row. All randomness comes from the
        generators, one per row (on the CPU), so the result does not depend on
        `gradient_accumulation_steps`.
    target : ndarray of shape (N,) or int
        Target for the SRCC in the history. An int is N, the number of rows, if there is
        no target: the predictions are then None.
    schedule : Schedule
    device : torch.device
    validate : callable, default=None
        Returns the SRCC on held-out rows; called after every epoch.
    note : callable, default=dict
        Returns what else the history of an epoch records.

    Raises
    ------
    FloatingPointError
        If a loss is not finite; the message names the step and a remedy.
    """
    if not any(p.requires_grad for p in network.parameters()):
        return []
    run = _Run(network, step, target, schedule, device, validate, note)
    run.resume()
    # A caller may be in inference mode.
    with torch.inference_mode(False), torch.enable_grad(), run.progress() as bar:
        while not run.finished:
            run.epoch(bar)
    return run.conclude()


@contextlib.contextmanager
def precision(device: torch.device, dtype: torch.dtype):
    """Mixed precision: weights in float32, arithmetic in `dtype` where safe."""
    half = dtype != torch.float32
    with torch.autocast(device.type, dtype=dtype if half else None, enabled=half):
        yield


def mean_of(values: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Mean of one loss per row (n,); weights (n,) are 1 on average over all rows.

    They are not normalised within a batch: a batch of low-weight rows counts less.
    """
    return values.mean() if weight is None else (values * weight).mean()


class _Run:
    """State of a training run, all of which goes into a checkpoint."""

    def __init__(self, network, step, target, schedule, device, validate, note):
        self.network, self.step = network, step
        self.target = None if isinstance(target, int) else target
        self.rows = target if isinstance(target, int) else len(target)
        self.schedule, self.device = schedule, device
        self.validate, self.note = validate, note
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
        )
        # float16 has few exponents, so small gradients are lost without a scale.
        scaled = schedule.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.batches = -(-self.rows // schedule.batch_size)
        rest = self.rows % schedule.batch_size
        if 0 < rest < schedule.smallest_batch and self.batches > 1:
            self.batches -= 1
        self.done_epochs, self.done_batches = 0, 0
        self.losses, self.order_seen, self.predictions = [], [], []
        self.history: list[dict] = []
        self.best: dict | None = None
        self.saved_at = time.monotonic()

    @property
    def finished(self) -> bool:
        if self.done_epochs >= self.schedule.max_epochs:
            return True
        if self.best is None:
            return False
        return self.done_epochs - self.best["epoch"] >= self.schedule.patience

    def progress(self):
        return tqdm(
            total=self.schedule.max_epochs * self.batches,
            initial=self.done_epochs * self.batches + self.done_batches,
            unit="step",
            desc="train",
            disable=not self.schedule.verbose,
        )

    def epoch(self, bar):
        schedule = self.schedule
        order = np.random.default_rng([schedule.seed, self.done_epochs])
        order = order.permutation(self.rows)
        passed = sum(self.done_epochs >= epoch for epoch in schedule.milestones)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.learning_rate * schedule.lr_decay**passed
        while self.done_batches < self.batches:
            start = self.done_batches * schedule.batch_size
            last = self.done_batches == self.batches - 1
            self._update(order[start : None if last else start + schedule.batch_size])
            self.done_batches += 1
            bar.update(1)
            loss = sum(self.losses) / len(self.order_seen)
            bar.set_postfix(loss=f"{loss:.4f}", **self._last_srcc())
            if time.monotonic() - self.saved_at > _SAVE_SECONDS:
                self.save()
        self._end_epoch()
        bar.set_postfix(loss=f"{self.history[-1]['loss']:.4f}", **self._last_srcc())
        self.save()

    def _update(self, rows):
        """One optimizer step, with its rows in the requested number of parts."""
        self.optimizer.zero_grad(set_to_none=True)
        where = self.schedule.seed, self.done_epochs
        parts = min(self.schedule.gradient_accumulation_steps, len(rows))
        for chosen in np.array_split(rows, parts):
            generators = [
                torch.Generator().manual_seed(seed_of(*where, int(row)))
                for row in chosen
            ]
            with precision(self.device, self.schedule.dtype):
                loss, predictions = self.step(chosen, generators)
            value = float(loss.detach())
            if not np.isfinite(value):
                raise FloatingPointError(self._not_finite(value))
            share = len(chosen) / len(rows)
            self.scaler.scale(loss * share).backward()
            self.losses.append(value * len(chosen))
            self.order_seen += [int(row) for row in chosen]
            if predictions is not None:
                self.predictions += predictions.detach().float().cpu().tolist()
        self.scaler.unscale_(self.optimizer)
        limit = self.schedule.max_grad_norm
        limit = float("inf") if limit is None else limit
        norm = nn.utils.clip_grad_norm_(self.parameters, limit)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise FloatingPointError(self._not_finite(float(norm), "gradient"))
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _not_finite(self, value, what="loss"):
        return (
            f"The {what} became {value} in step {self.done_batches + 1} of epoch "
            f"{self.done_epochs + 1} (learning_rate={self.schedule.learning_rate:g}, "
            f"dtype={str(self.schedule.dtype).removeprefix('torch.')}). Take a smaller "
            "learning_rate or max_grad_norm, or dtype='float32' where it is not; the "
            "estimator is as it was before fit."
        )

    def _end_epoch(self):
        record = {
            "epoch": self.done_epochs + 1,
            "loss": sum(self.losses) / self.rows,
        }
        if self.target is not None:
            record["srcc"] = _srcc(self.target[self.order_seen], self.predictions)
        self.done_epochs, self.done_batches = self.done_epochs + 1, 0
        self.losses, self.order_seen, self.predictions = [], [], []
        if self.validate is not None:
            score = float(self.validate())
            record["validation_srcc"] = score
            if self.best is None or score > self.best["score"]:
                weights = {k: v.clone() for k, v in self.network.state_dict().items()}
                self.best = {
                    "score": score, "epoch": self.done_epochs, "weights": weights
                }  # fmt: skip
        self.history.append({**record, **self.note()})
        self._warn_if_it_stands_still()

    def _warn_if_it_stands_still(self):
        """Once, when a second epoch shows how far the first one came."""
        if self.done_epochs != 2:
            return
        before, after = (record["loss"] for record in self.history)
        if abs(after - before) < _STANDS_STILL * abs(before):
            warnings.warn(
                f"The loss went from {before:.4g} in epoch 1 to {after:.4g} in epoch "
                f"2, by less than {_STANDS_STILL:.0%}: learning_rate="
                f"{self.schedule.learning_rate:g} teaches this network nothing here. "
                "Stop, and choose a larger one (ten times, say); or a smaller one, if "
                "the first loss is far above those of other rates.",
                UserWarning,
                stacklevel=6,
            )

    def _last_srcc(self):
        if self.target is None:
            return {}
        name = "srcc" if self.validate is None else "validation_srcc"
        if not self.history:
            return {name: "-"}
        return {name: f"{self.history[-1][name]:.3f}"}

    def conclude(self):
        if self.best is not None:
            self.network.load_state_dict(self.best["weights"])
        return self.history

    # -- checkpoints -------------------------------------------------------------

    _STATE = {
        "done_epochs": int, "done_batches": int, "losses": list, "order_seen": list,
        "predictions": list, "history": list, "best": (dict, type(None)),
    }  # fmt: skip

    def save(self):
        self.saved_at = time.monotonic()
        if self.schedule.checkpoint is None:
            return
        state = {name: getattr(self, name) for name in self._STATE}
        state["network"] = self.network.state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["scaler"] = self.scaler.state_dict()
        # Two runs of one checkpoint are equal, so they may take turns.
        checkpoint = whole_file(self.schedule.checkpoint, wait=True)
        with checkpoint as path, path.open("wb") as file:
            torch.save(state, file)

    def resume(self):
        path = self.schedule.checkpoint
        if path is None:
            return
        try:
            # Now, and not when the first epoch is done and would be lost.
            path.parent.mkdir(parents=True, exist_ok=True)
            writable = os.access(path.parent, os.W_OK)
            reason = "it is read-only"
        except OSError as error:
            writable, reason = False, error.strerror
        if not writable:
            raise OSError(
                f"The folder of checkpoints, '{path.parent}', cannot be written: "
                f"{reason}. Choose another checkpoint_dir, or None."
            )
        remove_leftover(path)
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            for name, kind in self._STATE.items():
                if not isinstance(state[name], kind):
                    raise TypeError(f"{name!r} is a {type(state[name]).__name__}")
        except Exception as error:  # torch and zipfile raise many types on damage
            raise OSError(
                f"The checkpoint {path} is damaged: {error!r}. Delete it to train from "
                "the beginning."
            ) from error
        for name in self._STATE:
            setattr(self, name, state[name])


def seed_of(*parts):
    # NumPy's numbers have another repr.
    plain = (p.item() if isinstance(p, np.generic) else p for p in parts)
    return make_seed(repr(tuple(plain)))


def _srcc(target, predictions):
    if len(target) < 2:
        return 0.0
    with warnings.catch_warnings():
        # Constant predictions have no order: 0.
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        return float(srcc_score(target, np.asarray(predictions)))
