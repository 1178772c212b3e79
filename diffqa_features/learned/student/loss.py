"""Rows of the training data and a network in, the loss of distillation out."""

import numpy as np
import torch

from diffqa_features._media.views import to_pixels
from diffqa_features.learned._training import mean_of


def distillation_step(student, job, scale):
    """The loss of a batch, and its scores in the units of the target, as a function.

    `scale` is the spread of the maps. Scores and maps count in units of their spread.
    """
    device, data, network = student._where(), job.data, job.network
    slope, intercept = job.line
    goals = np.stack([data.taught, data.truth], 1)
    known = np.isfinite(goals)
    shares = known / known.sum(1, keepdims=True)
    goals = np.nan_to_num((goals - intercept) / slope)
    with torch.inference_mode(False):  # a caller may be in it
        shares, goals = (
            torch.from_numpy(part).to(device, torch.float32) for part in (shares, goals)
        )  # (N, 2)

    def step(rows, generators):
        network.train()
        turned = draw_flips(generators, student.flip).to(device)
        views = draw_crops(data.pixels, rows, student.crop_size, generators)
        scores, maps = network(flip(to_pixels(views, "unit").to(device), turned))
        weight = job.weights_of(rows, device)
        errors = (scores[:, None] - goals[rows]).square()
        loss = mean_of((errors * shares[rows]).sum(1), weight)
        if data.maps is not None:
            wanted = torch.from_numpy(np.array(data.maps[rows])).to(device)
            missed = (maps - flip(wanted, turned) / scale).square()
            if weight is None:
                missed = missed.mean()
            else:
                missed = mean_of(missed.mean((1, 2, 3)), weight)
            loss = loss + student.map_weight * missed
        return loss, intercept + slope * scores

    return step


def draw_flips(generators, wanted):
    """Which pictures of a batch to mirror: a bool tensor."""
    if not wanted:
        return torch.zeros(len(generators), dtype=torch.bool)
    return torch.cat([torch.rand(1, generator=g) < 0.5 for g in generators])


def draw_crops(pixels, rows, side, generators):
    """A random crop of each picture, or all of it: uint8 (n, side, side, 3)."""
    if side is None:
        return pixels[rows]
    free = pixels.shape[1] - side + 1
    corners = [torch.randint(free, (2,), generator=g).tolist() for g in generators]
    return np.stack(
        [
            pixels[row, top : top + side, left : left + side]
            for row, (top, left) in zip(rows, corners, strict=True)
        ]
    )


def flip(tensor, turned):
    """Mirror those pictures or maps horizontally."""
    if not turned.any():
        return tensor
    return tensor.flip(-1).where(turned[:, None, None, None], tensor)
