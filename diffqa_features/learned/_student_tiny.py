"""The small network of students: pixels in, features of four scales out."""

from __future__ import annotations

import torch
from torch import nn

_WIDTHS = (24, 32, 64, 96)
_SMALLEST_VARIANCE = 1e-4


class TinyBody(nn.Module):
    """Seven convolutions, of which four halve the picture.

    Distortions live in the finest detail and in its strength. So nothing is pooled
    before the first convolution, its kernel is wide enough for a high-pass, and no
    layer divides by the contrast of a picture, as instance normalisation would.
    """

    image_size = 192

    def __init__(self):
        super().__init__()
        scales, channels = [], 3
        for level, width in enumerate(_WIDTHS):
            kernel = 3 if level else 5
            layers = [_convolution(channels, width, kernel, stride=2)]
            if level:
                layers.append(_Residual(width))
            scales.append(nn.Sequential(*layers))
            channels = width
        self.scales = nn.ModuleList(scales)
        self.width = channels
        self.pooled_width = 2 * sum(_WIDTHS)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels (N, 3, H, W) -> grid (N, C, H/16, W/16), and one vector per picture.

        The vector holds the mean and the logarithm of the spread of every channel at
        every scale: energies of frequency bands, which is how noise and blur show.
        """
        pooled, x = [], 4 * (pixels - 0.5)
        for scale in self.scales:
            x = scale(x)
            mean = x.mean((2, 3))
            variance = (x.square().mean((2, 3)) - mean.square()).clamp(min=0)
            pooled += [mean, 0.5 * torch.log(variance + _SMALLEST_VARIANCE)]
        return x, torch.cat(pooled, 1)


class _Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = _convolution(width, width, 3)

    def forward(self, x):
        return x + self.inner(x)


def _convolution(taken, made, kernel, stride=1):
    return nn.Sequential(
        nn.Conv2d(taken, made, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(made),
        nn.ReLU(),
    )
