"""The perceptrons in torch: to be trained, or on another device than the CPU."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from diffqa_features.learned.scorer.perceptrons import DRAWN_IN


class ScorerNetwork(nn.Module):
    """The scaling of statistics, and several perceptrons on them that are averaged.

    Parameters
    ----------
    width : int
        Statistics.
    hidden : sequence of two int
        Units of the two hidden layers.
    n_faults, n_members : int
        Kinds of fault, perceptrons.
    """

    def __init__(self, width, hidden, n_faults, n_members):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        sides = [width, *hidden, 2 + n_faults]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for before, after in pairwise(sides):
            drawn = torch.rand(n_members, before, after) * 2 - 1
            drawn /= before**0.5
            self.weights.append(nn.Parameter(drawn))
            self.biases.append(nn.Parameter(torch.zeros(n_members, 1, after)))

    def scaled(self, rows):
        """Statistics in units of their spread; what is far outside is drawn in."""
        rows = (rows - self.mean) / self.scale
        return DRAWN_IN * torch.tanh(rows / DRAWN_IN)

    def hidden(self, rows, dropout=0.0):
        """The last hidden layer of each member, (members, N, units).

        Scaled statistics are (N, D), or (members, N, D) where members see others.
        """
        x = rows.expand(len(self.weights[0]), *rows.shape[-2:])
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = functional.gelu(torch.baddbmm(bias, x, weight))
            x = functional.dropout(x, dropout, self.training)
        return x

    def members(self, hidden):
        """What each member answers, (members, N, 2 + F)."""
        return torch.baddbmm(self.biases[-1], hidden, self.weights[-1])

    def forward(self, rows):
        """Statistics (N, D) -> JOD (N,), std (N,), probabilities (N, F)."""
        return self.answer(self.scaled(rows))

    def answer(self, rows):
        """The same from scaled statistics (N, D).

        A member answers with JOD below 10, with the logarithm of its error, and with a
        logit per kind of fault.
        """
        answers = self.members(self.hidden(rows)).mean(0)
        error = answers[:, 1].clamp(-4, 2).exp()
        return 10 - answers[:, 0], error, torch.sigmoid(answers[:, 2:])


def build(weights, device: torch.device) -> ScorerNetwork:
    """The network of these arrays; their shapes say how large it is."""
    tensors = {name: torch.from_numpy(value).float() for name, value in weights.items()}
    n_members, width, first = tensors["weights.0"].shape
    second, last = tensors["weights.2"].shape[1:]
    network = ScorerNetwork(width, (first, second), last - 2, n_members)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False).to(device)
