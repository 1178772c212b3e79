"""Statistics of tiles in; their JOD, its spread and faults out.

In NumPy: torch takes seconds to load, and twice as long for a few tiles. `network` has
the same perceptrons in torch, to be trained, or on another device.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.special import erf, expit

DRAWN_IN = 2.5  # spreads


class Perceptrons:
    """The scaling of statistics, and several perceptrons on them that are averaged.

    Parameters
    ----------
    weights : dict of str to ndarray
        ``mean``, ``scale`` (D,), and ``weights.0`` to ``weights.2`` (members, units
        before, units after), ``biases.0`` to ``biases.2`` (members, 1, units after).
    n_faults : int
        Kinds of fault; there are two more units after the last layer.
    """

    def __init__(self, weights, n_faults):
        members, width, first = weights["weights.0"].shape
        sides = [width, first, weights["weights.1"].shape[2], 2 + n_faults]
        shapes = {"mean": (width,), "scale": (width,)}
        for place, (before, after) in enumerate(pairwise(sides)):
            shapes[f"weights.{place}"] = members, before, after
            shapes[f"biases.{place}"] = members, 1, after
        if weights.keys() != shapes.keys():
            raise ValueError(f"its arrays are {', '.join(sorted(weights))}.")
        for name, shape in shapes.items():
            if weights[name].shape != shape:
                raise ValueError(f"{name!r} has the shape {weights[name].shape}.")
        check_scale(weights["scale"])
        values = {name: weights[name].astype(np.float32) for name in shapes}
        self._mean, self._scale = values["mean"], values["scale"]
        *self._hidden, self._last = [
            (values[f"weights.{place}"], values[f"biases.{place}"])
            for place in range(len(sides) - 1)
        ]

    def __call__(self, rows):
        """Statistics (N, D) -> JOD (N,), std (N,), probabilities (N, F), float64."""
        x = (rows - self._mean) / self._scale
        x = DRAWN_IN * np.tanh(x / DRAWN_IN)
        for weight, bias in self._hidden:
            x = x @ weight + bias
            x *= 0.5 * (1 + erf(x * np.float32(0.5**0.5)))  # GELU
        weight, bias = self._last
        answers = (x @ weight + bias).mean(0).astype(float)
        spread = np.exp(np.clip(answers[:, 1], -4, 2))
        return 10 - answers[:, 0], spread, expit(answers[:, 2:])


def check_scale(scale):
    """ValueError for a spread of 0: what is divided by it still looks like a number."""
    bad = np.flatnonzero(~(np.atleast_1d(scale) > 0))
    if len(bad):
        raise ValueError(f"'scale' holds {scale[bad[0]]} where spreads are above 0.")
