"""What the scorer is: pixels of a tile in, JOD, its spread and faults out.

A fixed front of filters and counts, whose pooled values say how strong detail is at
each scale and orientation, and a kernel machine that was fitted to them. Nothing in the
front is divided by what the whole picture holds, so tiles of a large picture are
comparable.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

SCALES = 3
_WINDOW = 7  # pixels, of the local mean and variance
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_STEP = 1 / 255


class Front(nn.Module):
    """Pixels (N, 3, H, W) in [0, 1] -> descriptors (N, D), float32.

    Per scale: strengths of the channels of two filter banks, one on the luminance
    divided by its local contrast, one on luminance and colours as they are; histograms
    of luminance, local contrast and normalised luminance; products of neighbours; how
    often neighbours are equal, and whether steps between them keep to a grid.

    Parameters
    ----------
    normalised : Tensor of shape (K, 1, k, k)
        Filters of the normalised luminance: a dictionary of patches.
    plain : Tensor of shape (P, 1, p, p)
        Filters of luminance and colour differences.
    """

    def __init__(self, normalised: torch.Tensor, plain: torch.Tensor):
        super().__init__()
        self.register_buffer("normalised", normalised)
        self.register_buffer("plain", plain)

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found, planes = [], _opponent(pixels.float())
        found += _light(pixels.float(), planes)
        for scale in range(SCALES):
            if scale:
                planes = functional.avg_pool2d(planes, 2)
            found += self._describe(planes, scale)
        return torch.cat([part.flatten(1) for part in found], 1)

    def _describe(self, planes, scale):
        luma = planes[:, :1]
        detail = luma - _local_mean(luma)
        contrast = (_local_mean(detail.square()) + 0.25 * _STEP**2).sqrt()
        normal = detail / (contrast + 2 * _STEP)
        # Strides of three meet every place of a grid of eight.
        stride = (3, 2, 1)[scale]
        answers = functional.conv2d(normal, self.normalised, stride=stride)
        found = _strengths(answers, tails=True)
        n, _, h, w = planes.shape
        planes_apart = planes.reshape(3 * n, 1, h, w)
        answers = functional.conv2d(planes_apart, self.plain, stride=stride)
        answers = answers.reshape(n, -1, *answers.shape[2:])
        found += _strengths(answers, tails=False)
        found.append(_histogram(torch.log2(contrast / _STEP), -1, 6, 15))
        found.append(_histogram(normal, -2.6, 2.6, 14))
        found += _products(normal)
        found += _steps(planes, scale)
        return found


def _opponent(pixels):
    """Luminance and two differences of colours, (N, 3, H, W)."""
    weights = pixels.new_tensor(_LUMA).view(1, 3, 1, 1)
    luma = (pixels * weights).sum(1, keepdim=True)
    return torch.cat([luma, pixels[:, 2:] - luma, pixels[:, :1] - luma], 1)


def _light(pixels, planes):
    """Exposure and colour: how light, saturated, clipped."""
    luma, chroma = planes[:, :1], planes[:, 1:]
    saturation = chroma.square().sum(1, keepdim=True).sqrt()
    flat = planes.flatten(2)
    few = pixels.new_tensor([0.02, 0.98])
    return [
        _histogram(luma, 0, 1, 16),
        _histogram(torch.log2(saturation + _STEP), -8, 0, 9),
        (pixels <= 0.5 * _STEP).float().mean((2, 3)),
        (pixels >= 1 - 0.5 * _STEP).float().mean((2, 3)),
        flat.mean(2),
        _log_root(flat.var(2)),
        # Tints that all pixels share, dark ones too, as of haze and wrong white.
        pixels.flatten(2).amin(2),
        pixels.flatten(2).amax(2),
        *pixels[:, :, ::4, ::4].flatten(2).quantile(few, 2),
    ]


def _strengths(answers, tails):
    """Per channel: log spread, and how much rarer large answers are than of noise."""
    flat = answers.flatten(2)
    count = flat.shape[2]
    # Norms make no copies, squares and absolute values do.
    variance = torch.linalg.vector_norm(flat, 2, 2).square() / count
    mean = torch.linalg.vector_norm(flat, 1, 2) / count
    found = [_log_root(variance), torch.log(mean.square() / (variance + 1e-12) + 1e-3)]
    if tails:
        largest = torch.maximum(flat.amax(2), -flat.amin(2))
        found.append(torch.log(largest + _STEP))
    return found


def _log_root(variance):
    return 0.5 * torch.log(variance + (0.05 * _STEP) ** 2)


def _histogram(plane, low, high, bins):
    """Shares of soft bins, (N, bins); square roots, so that rare ones count."""
    n = len(plane)
    at = (plane.reshape(n, -1) - low) / (high - low) * (bins - 1)
    at = at.clamp(0, bins - 1)
    left = at.floor().clamp(max=bins - 2)
    part = at - left
    index = left.long()
    counts = plane.new_zeros(n, bins)
    counts.scatter_add_(1, index, 1 - part)
    counts.scatter_add_(1, index + 1, part)
    return (counts / at.shape[1]).sqrt()


def _products(normal):
    """Neighbours in four directions: mean product and the share of either sign."""
    found = []
    h, w = normal.shape[2:]
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        first = normal[:, :, : h - dy, max(0, -dx) : w - max(0, dx)]
        second = normal[:, :, dy:, max(0, dx) : w + min(0, dx)]
        product = first * second
        found += [
            product.mean((1, 2, 3))[:, None],
            product.clamp(min=0).square().mean((1, 2, 3)).sqrt()[:, None],
            product.clamp(max=0).square().mean((1, 2, 3)).sqrt()[:, None],
        ]
    return found


def _steps(planes, scale):
    """How many neighbours are equal, and how much steps keep to a grid of 8 (or 4)."""
    found = []
    period = max(4, 8 >> scale)
    for axis in (2, 3):
        step = planes.diff(dim=axis).abs()
        found.append(torch.exp(-step / (0.6 * _STEP)).mean((2, 3)))
        profile = torch.log(step.mean(5 - axis) + 0.2 * _STEP)  # (N, 3, length)
        length = profile.shape[2] // period * period
        phases = profile[:, :, :length].unflatten(2, (-1, period)).mean(2)
        found.append(phases.amax(2) - phases.mean(2))
        found.append(phases.amin(2) - phases.mean(2))
        # Places where steps repeat at other distances, as of enlarged pixels.
        centred = profile - profile.mean(2, keepdim=True)
        power = torch.fft.rfft(centred, dim=2).abs().square()
        found.append(
            torch.log(power[:, :1, 2:].amax(2) / (power[:, :1].mean(2) + 1e-6) + 0.1)
        )
    return found


def _local_mean(plane):
    """Mean over a window around each pixel; at edges the last pixel is repeated.

    Shifted copies are added up: on a CPU torch pools with a stride of one 25 times
    slower, and convolves 4 times slower.
    """
    height, width = plane.shape[2:]
    padded = functional.pad(plane, (_WINDOW // 2,) * 4, mode="replicate")
    rows = sum(padded[:, :, i : i + height] for i in range(_WINDOW))
    return sum(rows[..., i : i + width] for i in range(_WINDOW)) / _WINDOW**2


class ScorerNetwork(nn.Module):
    """The front, the scaling of what it says, and a kernel machine on that.

    Parameters
    ----------
    normalised, plain : Tensor
        Filters of the front.
    width, count, n_faults : int
        Descriptors, landmarks, kinds of fault.
    """

    def __init__(self, normalised, plain, width, count, n_faults):
        super().__init__()
        self.front = Front(normalised, plain)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("sharpness", torch.tensor(0.1))
        self.landmarks = nn.Parameter(torch.zeros(count, width))
        self.answers = nn.Parameter(torch.zeros(count, 2 + n_faults))
        self.bias = nn.Parameter(torch.zeros(2 + n_faults))

    def scaled(self, descriptors):
        """Descriptors in units of their spread; what is far outside is drawn in."""
        rows = (descriptors - self.mean) / self.scale
        return 4 * torch.tanh(rows / 4)

    def likeness(self, rows):
        """How near rows are to the landmarks, 1 for equal: (N, count)."""
        distance = torch.cdist(rows, self.landmarks).square().mul(1 / rows.shape[1])
        return torch.exp(-self.sharpness * distance)

    def forward(self, pixels):
        """Pixels (N, 3, H, W) in [0, 1] -> JOD (N,), std (N,), probabilities (N, F)."""
        return self.answer(self.scaled(self.front(pixels)))

    def answer(self, rows):
        """The same from scaled descriptors (N, D).

        The machine answers with the root of the loss, in which errors are alike, with
        the logarithm of its own error there, and with a logit per kind of fault.
        """
        answers = self.bias + self.likeness(rows) @ self.answers
        root = answers[:, 0].clamp(min=0)
        error = answers[:, 1].clamp(-4, 1).exp()
        # The variance of the square of a normal root.
        variance = 4 * root.square() * error.square() + 2 * error.pow(4)
        return 10 - root.square(), variance.sqrt(), torch.sigmoid(answers[:, 2:])


def plain_filters(size: int = 4) -> torch.Tensor:
    """Products of cosines, the constant one left out: (size² - 1, 1, size, size)."""
    at = torch.arange(size) + 0.5
    waves = torch.stack([torch.cos(math.pi * k * at / size) for k in range(size)])
    waves = waves / waves.norm(dim=1, keepdim=True)
    bank = torch.einsum("iy,jx->ijyx", waves, waves).flatten(0, 1)[1:]
    return bank[:, None].contiguous()


def build(weights, n_faults: int) -> ScorerNetwork:
    """The network of these arrays; their shapes say how large it is."""
    tensors = {name: torch.from_numpy(value).float() for name, value in weights.items()}
    count, width = tensors["landmarks"].shape
    network = ScorerNetwork(
        tensors["front.normalised"], tensors["front.plain"], width, count, n_faults
    )
    network.load_state_dict(tensors)
    return network
