"""The small student body: pixels in, features at four scales out."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

_WIDTHS = (24, 32, 64, 96)
_WINDOW = 7  # pixels, of the local mean and variance
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_SMALLEST = 1e-5  # variance: less than one of 255 steps
_SMALLEST_POOLED = 1e-4


class TinyBody(nn.Module):
    """Seven convolutions, four of them with stride 2, on five planes of a picture.

    Distortions show in the finest detail and in its strength relative to its
    surroundings. Besides colours, the input therefore contains luminance divided by
    local contrast, as in natural-scene statistics; nothing is pooled before the first
    convolution; and no layer divides by the contrast of the whole picture.
    """

    image_size = 192

    def __init__(self):
        super().__init__()
        scales, channels = [], 5
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

        The vector holds the mean and the log standard deviation of every channel at
        every scale: energies of frequency bands, which reveal noise and blur.
        """
        pooled, x = [], _planes(pixels)
        for scale in self.scales:
            x = scale(x)
            exact = x.float()  # squares of halves overflow
            mean = exact.mean((2, 3))
            variance = (exact.square().mean((2, 3)) - mean.square()).clamp(min=0)
            pooled += [mean, 0.5 * torch.log(variance + _SMALLEST_POOLED)]
        return x, torch.cat(pooled, 1)


def _planes(pixels):
    """Colours, normalised luminance, logarithm of the local contrast: (N, 5, H, W)."""
    red, green, blue = (w * p for w, p in zip(_LUMA, pixels.split(1, 1), strict=True))
    luma = red + green + blue
    detail = luma - _local_mean(luma)
    variance = _local_mean(detail.square()) + _SMALLEST
    contrast = 0.5 * torch.log(variance)
    # Shifted and scaled to about zero mean and unit spread.
    return torch.cat(
        [4 * (pixels - 0.5), detail * torch.rsqrt(variance), contrast + 3], 1
    )


def _local_mean(plane):
    """Mean over a window around each pixel, with replicated edges.

    Shifted copies are summed: on a CPU, torch's pooling with stride one is 25 times
    slower and convolution 4 times slower.
    """
    padded = functional.pad(plane, (_WINDOW // 2,) * 4, mode="replicate")
    return _window_sum(_window_sum(padded, 2), 3) / _WINDOW**2


def _window_sum(plane, axis):
    """Sums of seven neighbours along an axis, three times two and one."""
    count = plane.shape[axis] - _WINDOW + 1
    twos = plane.narrow(axis, 0, count + 5) + plane.narrow(axis, 1, count + 5)
    sums = twos.narrow(axis, 0, count) + twos.narrow(axis, 2, count)
    sums = sums + twos.narrow(axis, 4, count)
    return sums + plane.narrow(axis, 6, count)


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
