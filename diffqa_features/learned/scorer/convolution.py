"""A small convolutional network that looks at detail only: pixels in, answers out.

What it is shown is what differs from the surroundings of a few pixels, so it can learn
what faults look like and hardly what pictures are of.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from diffqa_features.learned.scorer.network import _LUMA, _window

_SHOWN = 19
_STEPS = 255 / 2  # differences are shown in steps of two values


@torch.no_grad()
def show(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (N, 3, H, W) in [0, 1] -> planes (N, 19, H // 2, W // 2).

    Differences of luminance and colours from their surroundings, large ones drawn in;
    those of luminance also divided by local contrast. Squares of 2 x 2 pixels are
    channels. The first three again at half the size.
    """
    height, width = (side - side % 2 for side in pixels.shape[2:])
    pixels = pixels[..., :height, :width].float()
    fine = _differences(pixels, _FINE, 2)
    half = _differences(functional.avg_pool2d(pixels, 2), _HALF, 1)
    luma = fine[:, :4]
    contrast = functional.pad(
        luma.square().mean(1, keepdim=True), (1,) * 4, "replicate"
    )
    contrast = functional.avg_pool2d(contrast, 3, 1).sqrt()
    return torch.cat([_drawn_in(fine), luma / (contrast + 0.5), _drawn_in(half)], 1)


def _differences(pixels, kernel, stride):
    """From a weighted mean of 7 x 7 pixels; at edges the last pixel is repeated."""
    padded = functional.pad(pixels, (3, 3, 3, 3), mode="replicate")
    return functional.conv2d(padded, kernel.to(pixels.device), stride=stride)


def _drawn_in(values):
    """Large values by their roots."""
    return values * torch.rsqrt(1 + values.abs())


def _kernels():
    line = torch.tensor(_window())
    detail = -torch.outer(line, line)
    detail[3, 3] += 1
    red, green, blue = _LUMA
    colours = torch.tensor(
        [[red, green, blue], [-red, -green, 1 - blue], [1 - red, -green, -blue]]
    )
    half = _STEPS * colours[:, :, None, None] * detail
    fine = torch.zeros(3, 4, 3, 8, 8)
    for place in range(4):
        top, left = divmod(place, 2)
        fine[:, place, :, top : top + 7, left : left + 7] = half
    return fine.flatten(0, 1), half


_FINE, _HALF = _kernels()


class Convolutions(nn.Module):
    """Stages of two convolutions; means and spreads of each; two dense layers.

    Parameters
    ----------
    widths : sequence of int
        Channels of the stages.
    hidden, n_answers : int
        Units of the dense layer, answers.
    normalise : bool
        Whether there is batch normalisation: in training. It is folded for shipping.
    """

    def __init__(self, widths, hidden, n_answers, normalise=False):
        super().__init__()
        self.stages = nn.ModuleList()
        before = _SHOWN
        for place, width in enumerate(widths):
            layers = []
            for stride, of in ((2 if place else 1, before), (1, width)):
                layers.append(nn.Conv2d(of, width, 3, stride, 1, bias=not normalise))
                if normalise:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU())
            self.stages.append(nn.Sequential(*layers))
            before = width
        self.hidden = nn.Linear(2 * sum(widths), hidden)
        self.answers = nn.Linear(hidden, n_answers)

    def forward(self, pixels):
        return self.answer(self.pool(show(pixels)))

    def pool(self, x):
        """Means and spreads of all channels of all stages."""
        found = []
        for stage in self.stages:
            x = stage(x)
            flat = x.float().flatten(2)
            mean = flat.mean(2)
            spread = (flat - mean[..., None]).square().mean(2).add(1e-6).sqrt()
            found += [mean, spread]
        return torch.cat(found, 1)

    def answer(self, pooled):
        return self.answers(torch.relu(self.hidden(pooled)))
