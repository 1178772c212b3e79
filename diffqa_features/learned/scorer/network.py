"""What the scorer is: pixels of a tile in, JOD, its spread and faults out.

A front of statistics that are known to change with quality, and perceptrons that were
trained on them. Nothing in the front is divided by what the whole picture holds, so
tiles of a large picture are comparable.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SCALES = 3
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_STEP = 1 / 255
_DRAWN_IN = 2.5  # spreads
_FAR = 40.0


@torch.no_grad()
def describe(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (N, 3, H, W) in [0, 1] -> 197 statistics each, float32.

    Contrast of colour differences and of luminance around each pixel at three scales,
    the same divided by local contrast with products of neighbours (after BRISQUE),
    local contrast against that of the next scale (sharpness, and noise where there is
    little to see), differences, the width and overshoot of edges, gaps in the
    histogram, exposure and saturation, how much the channels agree.
    """
    pixels = pixels.float()
    planes = _opponent(pixels)
    found = []
    scales = [planes]
    for _ in range(SCALES):
        scales.append(functional.avg_pool2d(scales[-1], 2))
    contrasts, details = [], []
    for scale, at in enumerate(scales):
        # The last scale's contrast of luminance is compared with, and no more.
        seen = at if scale < SCALES else at[:, :1]
        detail, contrast = _local(seen)
        contrasts.append(contrast[:, :1])
        details.append(detail)
        if scale < SCALES:
            found += _normalised(detail / (contrast + _STEP))
            found.append(_log(_quantiles(contrast[:, 1:], _SPREAD)))
    for fine, coarse in pairwise(contrasts):
        found += _sharpness(fine, coarse)
    for axis in (2, 3):
        found += _differences(planes, axis)
        found += _edges(planes[:, :1], axis)
    found += _gaps_and_light(pixels, planes)
    found += _agreement(planes, details[0])
    return torch.cat([part.flatten(1) for part in found], 1)


_SPREAD = (0.02, 0.1, 0.5, 0.9, 0.98)


def _opponent(pixels):
    """Luminance and two differences of colours, (N, 3, H, W)."""
    weights = pixels.new_tensor(_LUMA).view(1, 3, 1, 1)
    luma = (pixels * weights).sum(1, keepdim=True)
    return torch.cat([luma, pixels[:, 2:] - luma, pixels[:, :1] - luma], 1)


def _local(planes):
    """What differs from the surroundings, and how much pixels there do."""
    mean = _local_mean(planes)
    variance = _local_mean(planes.square()) - mean.square()
    return planes - mean, variance.clamp(min=0).sqrt()


def _normalised(normal):
    """Shapes of the distributions of normalised colours and of neighbours' products."""
    luma, chroma = normal[:, :1], normal[:, 1:]
    found = [_shape(chroma), 0.5 * torch.log(chroma.square().mean((2, 3)) + 1e-4)]
    for axis in (3, 2):
        product = _product(chroma, axis, 1)
        found += [
            product.mean((2, 3)),
            product.clamp(max=0).square().mean((2, 3)).sqrt(),
            product.clamp(min=0).square().mean((2, 3)).sqrt(),
        ]
    for axis in (3, 2):
        product = _product(luma, axis, 2)
        found += [product.mean((2, 3)), product.square().mean((2, 3)).sqrt()]
    return found


def _sharpness(fine, coarse):
    """Contrast against the next scale's: at strong, at weak and at other places."""
    fine = functional.avg_pool2d(fine.square(), 2).sqrt()
    height, width = coarse.shape[2:]
    ratio = torch.log(
        (fine[..., :height, :width] + 0.2 * _STEP) / (coarse + 0.2 * _STEP)
    )
    order = coarse.flatten(1).argsort(1)
    share = order.shape[1] // 5
    found = []
    for part in (order[:, -share:], order[:, :share], order[:, 2 * share : 3 * share]):
        found.append(_tenths(ratio.flatten(1).gather(1, part)))
    return found


def _differences(planes, axis):
    """How often neighbours are equal; shapes of first and second differences."""
    step = planes.diff(dim=axis)
    first = step[:, :1]
    second = first.diff(dim=axis)
    # Numbers that are too small for their format take ten times as long.
    far = (step.abs() / (0.6 * _STEP)).clamp(max=_FAR)
    found = [torch.exp(-far).mean((2, 3))]
    for part in (first, second):
        found += [_shape(part), 0.5 * torch.log(part.square().mean((2, 3)) + 1e-4)]
    found.append(_log(_quantiles(first.abs(), (0.5, 0.9, 0.99))))
    return found


def _edges(luma, axis):
    """How much of the change over three pixels one has, and how far it swings back."""
    length = luma.shape[axis]
    change = luma.narrow(axis, 3, length - 3) - luma.narrow(axis, 0, length - 3)
    middle = luma.diff(dim=axis).narrow(axis, 1, length - 3)
    top, _, among = _strongest(change)
    inner = middle.abs().flatten(1).gather(1, among)
    found = [_tenths((inner + _STEP) / (top + _STEP))]
    change = change.narrow(axis, 3, length - 9)
    around = luma.narrow(axis, 9, length - 9) - luma.narrow(axis, 0, length - 9)
    top, sign, among = _strongest(change)
    outer = around.flatten(1).gather(1, among) * sign / top.clamp(min=_STEP)
    found.append(_tenths(outer.clamp(-2, 4)))
    return found


def _gaps_and_light(pixels, planes):
    """Values that no pixel has; light, saturation, clipping, the darkest channel."""
    counts = _counts(pixels)
    gaps = (counts[..., 1:-1] - 0.5 * (counts[..., :-2] + counts[..., 2:])).abs().sum(2)
    luma, chroma = planes[:, :1], planes[:, 1:]
    lowest, highest = pixels.amin(1, keepdim=True), pixels.amax(1, keepdim=True)
    saturation = highest - lowest
    return [
        gaps.mean(1, keepdim=True),
        (counts > 0).float().mean(2),
        counts.square().sum(2).log().mean(1, keepdim=True),
        counts[..., 0],
        counts[..., -1],
        counts[..., :3].sum(2),
        counts[..., -3:].sum(2),
        _quantiles(luma, (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)),
        luma.mean((2, 3)),
        _spread(luma),
        _quantiles(saturation, (0.05, 0.25, 0.5, 0.75, 0.95)),
        saturation.mean((2, 3)),
        _spread(saturation),
        chroma.mean((2, 3)),
        _spread(chroma),
        _quantiles(lowest, (0.01, 0.1, 0.5)),
    ]


def _agreement(planes, detail):
    """Correlations of detail between planes; colour against luminance."""
    red, blue = detail[:, :1] + detail[:, 2:], detail[:, :1] + detail[:, 1:2]
    green = (detail[:, :1] - _LUMA[0] * red - _LUMA[2] * blue) / _LUMA[1]
    found = []
    for channels, pairs in (
        (detail, ((0, 1), (0, 2), (1, 2))),
        (torch.cat([red, green, blue], 1), ((0, 1), (1, 2), (0, 2))),
    ):
        size = channels.square().mean((2, 3)).sqrt() + 0.3 * _STEP
        for i, j in pairs:
            product = (channels[:, i] * channels[:, j]).mean((1, 2))
            found.append((product / (size[:, i] * size[:, j]))[:, None])
    spread = torch.log(_spread(planes) + _STEP)
    found.append(spread[:, 1:] - spread[:, :1])
    return found


def _shape(plane):
    """How heavy the tails are: log of (E|x|)² / E[x²]."""
    absolute = plane.abs().mean((2, 3))
    return torch.log((absolute.square() + 1e-6) / (plane.square().mean((2, 3)) + 2e-6))


def _product(plane, axis, distance):
    length = plane.shape[axis] - distance
    return plane.narrow(axis, 0, length) * plane.narrow(axis, distance, length)


def _strongest(change):
    """Size, sign and place of the strongest twentieth."""
    flat = change.flatten(1)
    top, among = flat.abs().topk(flat.shape[1] // 20, 1)
    sign = torch.where(flat.gather(1, among) > 0, 1.0, -1.0)
    return top, sign, among


def _tenths(values):
    """The value that a tenth, half and nine tenths lie below, (N, 3)."""
    count = values.shape[1]
    return _sorted(values)[:, [count // 10, count // 2, count * 9 // 10]]


def _quantiles(plane, shares):
    """Of every fourth pixel, (N, channels * shares)."""
    values = _sorted(plane[:, :, ::2, ::2].flatten(2))
    last = values.shape[2] - 1
    return values[..., [round(share * last) for share in shares]].flatten(1)


def _counts(pixels):
    """Shares of the 256 values per channel, (N, 3, 256)."""
    values = (pixels * 255).round().long().clamp(0, 255).flatten(2)
    count, channels, size = values.shape
    places = torch.arange(count * channels, device=pixels.device).view(count, -1, 1)
    found = (256 * places + values).flatten().bincount(minlength=256 * places.numel())
    return found.view(count, channels, 256).float() / size


def _spread(plane):
    """Standard deviations, (N, channels); torch's own are 5 times slower."""
    deviation = plane - plane.mean((2, 3), keepdim=True)
    size = plane.shape[2] * plane.shape[3]
    return (deviation.square().sum((2, 3)) / (size - 1)).sqrt()


def _sorted(values):
    """Along the last axis; on a CPU, NumPy sorts 20 times faster than torch."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy()))
    return values.sort(-1)[0]


def _log(spread):
    return torch.log(spread + 0.1 * _STEP)


def _window():
    """A Gaussian of 7 pixels: BRISQUE's."""
    weights = torch.exp(-0.5 * (torch.arange(-3, 4) / (7 / 6)) ** 2)
    return (weights / weights.sum()).tolist()


_WEIGHTS = _window()


def _local_mean(plane):
    """Weighted mean around each pixel; at edges the last pixel is repeated.

    Shifted copies are added up: on a CPU torch convolves single planes 4 times slower.
    """
    height, width = plane.shape[2:]
    padded = functional.pad(plane, (3, 3, 3, 3), mode="replicate")
    rows = _weighted([padded[:, :, i : i + height] for i in range(7)])
    return _weighted([rows[..., i : i + width] for i in range(7)])


def _weighted(copies):
    """The window is symmetric: pairs are added before they are weighted."""
    total = _WEIGHTS[3] * copies[3]
    for i in range(3):
        total += _WEIGHTS[i] * (copies[i] + copies[6 - i])
    return total


class ScorerNetwork(nn.Module):
    """The statistics, their scaling, and several perceptrons on them that are averaged.

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
        return _DRAWN_IN * torch.tanh(rows / _DRAWN_IN)

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

    def forward(self, pixels):
        """Pixels (N, 3, H, W) in [0, 1] -> JOD (N,), std (N,), probabilities (N, F)."""
        return self.answer(self.scaled(describe(pixels)))

    def answer(self, rows):
        """The same from scaled statistics (N, D).

        A member answers with JOD below 10, with the logarithm of its error, and with a
        logit per kind of fault.
        """
        answers = self.members(self.hidden(rows)).mean(0)
        error = answers[:, 1].clamp(-4, 2).exp()
        return 10 - answers[:, 0], error, torch.sigmoid(answers[:, 2:])


def build(weights, n_faults: int) -> ScorerNetwork:
    """The network of these arrays; their shapes say how large it is."""
    tensors = {name: torch.from_numpy(value).float() for name, value in weights.items()}
    n_members, width, first = tensors["weights.0"].shape
    second = tensors["weights.1"].shape[2]
    network = ScorerNetwork(width, (first, second), n_faults, n_members)
    network.load_state_dict(tensors)
    return network
