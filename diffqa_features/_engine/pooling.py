"""Captured tensors in, values out: the formulas of all feature kinds."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from diffqa_features._utils.profiling import timed

LAMBDA = 0.14
"""Sharpness of the log-sum-exp over space (the released code of GenzIQA)."""

_SAFE = 60  # exp(±60) and sums of thousands of them are floats
_CHUNK = 2**24  # attention logits held at once: 64 MiB in float32


@timed("pool")
def alignment(
    queries: torch.Tensor,
    keys: torch.Tensor,
    heads: int,
    sharpness: float = LAMBDA,
) -> torch.Tensor:
    """Log-sum-exp alignment of a picture with a text, one value per row: (B,).

    ``mean over heads and tokens of (1/lambda) log sum_HW exp(lambda S)`` with
    ``lambda`` the sharpness and
    ``S = Q K^T / sqrt(d)``, the logits before the softmax, from ``queries``
    (B, HW, C) and ``keys`` (B, L, C). In float32: the sum overflows in half precision.
    """
    rows = []
    for q, k in _chunks(queries, keys, heads):
        pooled = _log_sum_exp(_logits(q, k, heads, sharpness)) / sharpness
        rows.append(pooled.mean((1, 2)))
    return torch.cat(rows)


def _log_sum_exp(logits):
    """Log-sum-exp over the positions of (b, heads, HW, L), in place."""
    if logits.device.type == "cpu":
        low, high = logits.detach().aminmax()
        if -_SAFE < low and high < _SAFE:
            # As nearly always: without the search for the maximum of every column,
            # which costs more than the exponentials.
            return logits.exp_().sum(2).log()
    return torch.logsumexp(logits, dim=2)


@timed("pool")
def attention_maps(
    queries: torch.Tensor,
    keys: torch.Tensor,
    heads: int,
    content: torch.Tensor,
    *,
    signed: bool,
) -> torch.Tensor:
    """Attention of every position to the prompt's own words: (B, HW).

    ``content`` (B, L) is true at the prompt's words. Unsigned: the softmax over all
    tokens, averaged over heads and words, in [0, 1]. Signed: the logits before the
    softmax minus their mean over the picture.
    """
    rows, start = [], 0
    for q, k in _chunks(queries, keys, heads):
        logits = _logits(q, k, heads)  # (b, heads, HW, L)
        if signed:
            values = logits - logits.mean(2, keepdim=True)
        else:
            values = logits.softmax(-1)
        words = content[start : start + len(q)].to(values)
        start += len(q)
        weights = words / words.sum(1, keepdim=True).clamp_min(1)
        rows.append(torch.einsum("bhnl,bl->bn", values, weights) / heads)
    return torch.cat(rows)


def resize_maps(
    values: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """Resample (B, positions) of a UNet level to (B, *size); latents are `grid`."""
    h, w = grid
    while h * w > values.shape[1]:
        h, w = -(-h // 2), -(-w // 2)
    maps = values.reshape(len(values), 1, h, w)
    return F.interpolate(maps, size, mode="bilinear", antialias=True)[:, 0]


def _chunks(queries, keys, heads):
    per_row = heads * queries.shape[1] * keys.shape[1]
    step = max(1, _CHUNK // per_row)
    for start in range(0, len(queries), step):
        yield queries[start : start + step], keys[start : start + step]


def _logits(queries, keys, heads, factor=1.0):
    """Scaled dot products (b, heads, HW, L) in float32, times ``factor``."""
    q = queries.float().unflatten(-1, (heads, -1)).transpose(1, 2)
    k = keys.float().unflatten(-1, (heads, -1)).transpose(1, 2)
    # The few keys are scaled, not the many logits.
    return q @ (k * (factor * q.shape[-1] ** -0.5)).transpose(-1, -2)


@timed("pool")
def pool_space(hidden: torch.Tensor, statistics: tuple[str, ...]) -> torch.Tensor:
    """Pool (B, HW, C) or (B, C, h, w) over space in float32: (B, statistics, C).

    ``std`` is the population standard deviation.
    """
    x = hidden.float()
    if x.ndim == 4:
        x = x.flatten(2).transpose(1, 2)
    pooled = {
        "mean": lambda: x.mean(1),
        "std": lambda: x.std(1, correction=0),
        "max": lambda: x.amax(1),
    }
    return torch.stack([pooled[name]() for name in statistics], 1)


@timed("pool")
def error_spectrum(predicted: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Denoising error of (B, C, h, w): log RMS per channel, then the total RMS.

    Returns (B, C + 1) in float64: the difference of two nearly equal totals is itself a
    feature, and would lose most of its digits in float32.
    """
    square = (predicted.double() - noise.double()).square()
    spectrum = square.mean((2, 3)).clamp_min(1e-24).log() / 2
    total = square.mean((1, 2, 3)).sqrt()
    return torch.cat([spectrum, total[:, None]], 1)
