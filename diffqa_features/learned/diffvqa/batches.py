"""Clips of any length in padded batches; a network's predictions for them; losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from diffqa_features.learned._training import mean_of, precision
from diffqa_features.learned.diffvqa.network import (
    Clips,
    DiffVQANetwork,
    log_change,
)
from diffqa_features.learned.diffvqa.view_features import ViewedClip

_SMALL = 1e-8


@dataclass
class ClipPrediction:
    """The network's prediction for one clip, averaged over its crops."""

    quality: np.ndarray  # (T,) float64
    weights: np.ndarray  # (T,) float64, with the sum 1
    described: np.ndarray  # (D,) float32

    @property
    def score(self) -> float:
        return float(self.quality @ self.weights)


def collate(
    clips: Sequence[ViewedClip], copies: Sequence[int], device: torch.device
) -> tuple[dict[str, Clips], torch.Tensor]:
    """One batch of clips by view, padded with zeros, and the mask (B, T).

    `copies` selects a crop of each.
    """
    counts = [len(clip.numbers) for clip in clips]
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]

    def padded(parts):
        whole = np.zeros((len(parts), max(counts), *parts[0].shape[1:]), parts[0].dtype)
        for row, part in zip(whole, parts, strict=True):
            row[: len(part)] = part
        return torch.from_numpy(whole).to(device)

    def chosen(arrays):
        # The resized view has one copy only.
        return [a[copy % len(a)] for a, copy in zip(arrays, copies, strict=True)]

    batch = {
        view: Clips(
            padded(chosen([clip.features[view] for clip in clips])),
            padded(chosen([clip.frames[view] for clip in clips]))
            if clips[0].frames
            else None,
            padded(chosen([clip.changes[view] for clip in clips]))
            if clips[0].changes
            else None,
        )
        for view in clips[0].features
    }
    return batch, mask.to(device)


@torch.inference_mode()
def predict_clips(
    network: DiffVQANetwork,
    clips: Sequence[ViewedClip],
    device: torch.device,
    dtype: torch.dtype,
    n_copies: int,
    batch_size: int,
) -> list[ClipPrediction]:
    """Predict clips in batches, once per crop."""
    predicted = []
    for start in range(0, len(clips), batch_size):
        chunk = clips[start : start + batch_size]
        answers = []
        for copy in range(n_copies):
            batch, mask = collate(chunk, [copy] * len(chunk), device)
            with precision(device, dtype):
                answers.append(network(batch, mask))
        quality, weights, described = (
            torch.stack(copies).mean(0).cpu().double().numpy()
            for copies in zip(*answers, strict=True)
        )
        for i, clip in enumerate(chunk):
            count = len(clip.numbers)
            vector = described[i].astype(np.float32)
            predicted.append(
                ClipPrediction(quality[i, :count], weights[i, :count], vector)
            )
    return predicted


def standardise(
    network: DiffVQANetwork,
    clips: Sequence[ViewedClip],
    weight: np.ndarray | None = None,
) -> None:
    """Set every branch's means and spreads per channel from these clips."""
    shares = np.ones(len(clips)) if weight is None else weight
    for view, branch in network.branches.items():
        seen = [clip.features[view] for clip in clips]
        _set_scale(branch.fusion, zip(seen, shares, strict=True))
        if branch.change is not None:
            seen = (_known_changes(branch, clip.changes[view]) for clip in clips)
            _set_scale(branch.change, zip(seen, shares, strict=True))


def _known_changes(branch, changes):
    """As they enter the change branch: (K, T', C, 1, 1)."""
    known = changes[:, ~np.isnan(changes[0, :, 0])]
    logs = log_change(torch.from_numpy(known) / branch.fusion.scale)
    return logs[..., None, None].numpy()


def _set_scale(module, parts):
    """Set mean and scale from arrays (K, T, C, g, g), each with what it counts."""
    # Sums in float64, clip by clip: all features at once would be copied.
    count, total, squares = 0, 0.0, 0.0
    for part, share in parts:
        values = part.astype(np.float64)
        count += share * (values.size // values.shape[2])
        total = total + share * values.sum((0, 1, 3, 4))
        squares = squares + share * np.square(values).sum((0, 1, 3, 4))
    if not count:  # pictures alone never change
        return
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    # A channel that never changes says nothing, and must not be blown up.
    spread[spread <= 1e-5 * np.maximum(np.abs(mean), 1e-5)] = 1.0
    module.mean.copy_(torch.from_numpy(mean))
    module.scale.copy_(torch.from_numpy(spread))


def _compare(scores, target, weight=None):
    """(1 - PLCC) / 2 plus a pairwise hinge: |Δy| minus the signed score difference."""
    w = torch.ones_like(scores) if weight is None else weight
    s, t = (values - (w * values).sum() / w.sum() for values in (scores, target))
    norms = ((w * s.square()).sum() * (w * t.square()).sum() + _SMALL).sqrt()
    correlated = (1 - (w * s * t).sum() / norms) / 2
    wanted = t[:, None] - t
    lacking = F.relu(wanted.abs() - wanted.sign() * (s[:, None] - s))
    counted = (wanted != 0) * w[:, None] * w
    return correlated + (lacking * counted).sum() / counted.sum().clamp(min=_SMALL)


def _absolute(scores, target, weight=None):
    return mean_of((scores - target).abs(), weight)


LOSSES = {"plcc+rank": _compare, "l1": _absolute}
