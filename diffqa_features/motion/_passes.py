"""Clips in, their features out: runs the network in batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from diffqa_features._utils.batching import in_halves
from diffqa_features._utils.devices import pick_device, pick_dtype
from diffqa_features.motion._weights import WeightsInfo, load_network

log = logging.getLogger(__name__)

_WAYS_OUT = "dtype='float16' or 'bfloat16', motion_network='tiny', or another device"


class MotionPasses:
    """The network during one call of an estimator."""

    def __init__(self, weights: WeightsInfo, device, dtype, batch_size):
        self._weights = weights
        self._device = pick_device(device)
        self._dtype = pick_dtype(dtype, self._device)
        self._batch_size = batch_size

    @cached_property
    def network(self):
        return load_network(self._weights, self._device, self._dtype)

    def features(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Uint8 clips (32, H, W, 3) -> float32 (N, C slow + C fast)."""
        parts, self._batch_size = in_halves(
            self._run, clips, self._batch_size, _WAYS_OUT
        )
        return np.concatenate(parts)

    def _run(self, clips):
        values = self._observe(self.network, clips)
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if self._dtype != torch.float32 and len(bad):
            log.warning("Half precision overflows: clips are taken in float32.")
            exact = load_network(self._weights, self._device, torch.float32)
            # These alone, so that no clip depends on its neighbours.
            values[bad] = self._observe(exact, [clips[i] for i in bad])
        return values

    @torch.inference_mode()
    def _observe(self, network, clips):
        frames = torch.from_numpy(np.stack(clips)).to(self._device)  # (N, T, H, W, 3)
        pixels = frames.permute(0, 4, 1, 2, 3).float() / 255
        return torch.cat(network(pixels), 1).cpu().numpy()
