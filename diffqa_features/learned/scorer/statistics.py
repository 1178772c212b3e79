"""Pixels of a tile in, 197 statistics that are known to change with quality out.

Nothing is divided by what the whole picture holds, so tiles of a large picture are
comparable. The arithmetic is NumPy's, whose operations on few pixels cost a third of
torch's, and as many tiles are seen at once as stay in a core's cache.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

SCALES = 3
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_STEP = 1 / 255
_EQUAL, _FAR = 0.6 * _STEP, 40.0
_SPREAD = (0.02, 0.1, 0.5, 0.9, 0.98)
_WINDOW = 0.012560194358, 0.07882796973, 0.23729608953, 0.34263151884
"""BRISQUE's Gaussian of 7 pixels, from its end to its middle."""

_AT_ONCE = 2**16  # pixels


def describe(tiles: np.ndarray) -> np.ndarray:
    """Tiles (N, H, W, 3), uint8 -> 197 statistics each, float32 (N, 197).

    Contrast of colour differences and of luminance around each pixel at three scales,
    the same divided by local contrast with products of neighbours (after BRISQUE),
    local contrast against that of the next scale (sharpness, and noise where there is
    little to see), differences, the width and overshoot of edges, gaps in the
    histogram, exposure and saturation, how much the channels agree.
    """
    at_once = max(1, _AT_ONCE // (tiles.shape[1] * tiles.shape[2]))
    parts = range(0, len(tiles), at_once)
    return np.concatenate([_describe(tiles[at : at + at_once]) for at in parts])


def _describe(tiles):
    """Inside, planes come before tiles, (3, N, H, W), and statistics are rows of N."""
    channels = np.ascontiguousarray(tiles.transpose(3, 0, 1, 2))
    planes = _opponent(channels)
    scales = [planes]
    for _ in range(SCALES):
        scales.append(_halved(scales[-1]))
    found, agreement, variances = [], [], []
    for scale, at in enumerate(scales):
        # The last scale's contrast of luminance is compared with, and no more.
        seen = at if scale < SCALES else at[:1]
        detail, variance = _local(seen)
        variances.append(variance[0])
        if scale == 0:
            agreement = _agreement(detail)
        if scale < SCALES:
            of_colours = _log(np.sqrt(_quantiles(variance[1:], _SPREAD)))
            contrast = np.sqrt(variance)
            contrast += _STEP
            detail /= contrast
            found += [*_normalised(detail), of_colours]
    for fine, coarse in pairwise(variances):
        found += _sharpness(fine, coarse)
    for axis in (-2, -1):
        found += _differences(planes, axis)
        found += _edges(planes[0], axis)
    means, spreads = _mean_and_spread(planes)
    found += _gaps(_counts(channels))
    found += _light(channels, planes[0], means, spreads)
    spreads = np.log(spreads + _STEP)
    return np.concatenate([*found, *agreement, spreads[1:] - spreads[:1]]).T


def _opponent(channels):
    """Luminance and two differences of colours, (3, N, H, W)."""
    planes = channels.astype(np.float32)
    planes /= 255
    red, green, blue = planes
    luma = red * _LUMA[0]
    luma += green * _LUMA[1]
    luma += blue * _LUMA[2]
    red -= luma
    blue -= luma
    planes[0], planes[1], planes[2] = luma, blue, red.copy()
    return planes


def _halved(planes):
    """Means of 2 x 2 pixels."""
    height, width = (side // 2 * 2 for side in planes.shape[-2:])
    found = planes[..., :height:2, :width:2] + planes[..., :height:2, 1:width:2]
    found += planes[..., 1:height:2, :width:2]
    found += planes[..., 1:height:2, 1:width:2]
    found /= 4
    return found


def _local(planes):
    """What differs from the surroundings, and the variance that pixels have there."""
    height, width = planes.shape[-2:]
    flat = planes.reshape(-1, height, width)
    detail, variance = np.empty_like(flat), np.empty_like(flat)
    at_once = max(1, _AT_ONCE // (height * width))
    for start in range(0, len(flat), at_once):
        part = slice(start, start + at_once)
        padded = _padded(flat[part])
        mean = _local_mean(padded)
        square = _local_mean(np.square(padded, out=padded))
        np.subtract(flat[part], mean[:, :height, :width], out=detail[part])
        np.square(mean, out=mean)
        np.subtract(square, mean, out=square)
        np.maximum(square[:, :height, :width], 0, out=variance[part])
    return detail.reshape(planes.shape), variance.reshape(planes.shape)


def _normalised(normal):
    """Shapes of the distributions of normalised colours and of neighbours' products."""
    luma, chroma = normal[:1], normal[1:]
    found = _shape(chroma, np.abs(chroma))
    for axis in (-1, -2):
        product = _product(chroma, axis, 1)
        positive = np.maximum(product, 0)
        mean = _mean(product)
        product -= positive
        found += [mean, _size(product), _size(positive)]
    for axis in (-1, -2):
        product = _product(luma, axis, 2)
        found += [_mean(product), _size(product)]
    return found


def _sharpness(fine, coarse):
    """Contrast against the next scale's: at strong, at weak and at other places."""
    coarse = np.sqrt(coarse).reshape(len(coarse), -1)
    ratio = np.sqrt(_halved(fine)).reshape(coarse.shape)
    ratio += 0.2 * _STEP
    ratio /= coarse + 0.2 * _STEP
    order = _places(np.sort(_keys(coarse)))
    share = order.shape[1] // 5
    parts = order[:, -share:], order[:, :share], order[:, 2 * share : 3 * share]
    return [np.log(_tenths(_at(ratio, part))) for part in parts]


def _differences(planes, axis):
    """How often neighbours are equal; shapes of first and second differences."""
    step = _steps(planes, axis, 1)
    far = np.abs(step)
    first = step[:1]
    second = _steps(first, axis, 1)
    sizes = _log(_quantiles(far[:1], (0.5, 0.9, 0.99)))
    shapes = [*_shape(first, far[:1]), *_shape(second, np.abs(second))]
    # Numbers that are too small for their format take ten times as long.
    np.minimum(far, _FAR * _EQUAL, out=far)
    far *= -1 / _EQUAL
    return [_mean(np.exp(far, out=far)), *shapes, sizes]


def _edges(luma, axis):
    """How much of the change over three pixels one has, and how far it swings back."""
    length = luma.shape[axis]
    change = _steps(luma, axis, 3)
    top, among = _strongest(change)
    middle = _at(_steps(_cut(luma, axis, 1, length - 1), axis, 1), among)
    found = [_tenths((np.abs(middle) + _STEP) / (np.abs(top) + _STEP))]
    top, among = _strongest(_cut(change, axis, 3, length - 6))
    around = _at(_steps(luma, axis, 9), among)
    around = np.where(top > 0, around, -around) / np.maximum(np.abs(top), _STEP)
    found.append(_tenths(np.clip(around, -2, 4)))
    return found


def _gaps(counts):
    """Of shares (3, N, 256): values that no pixel has, clipping."""
    gaps = np.abs(counts[..., 1:-1] - 0.5 * (counts[..., :-2] + counts[..., 2:])).sum(2)
    return [
        gaps.mean(0)[None],
        (counts > 0).mean(2, dtype=np.float32),
        np.log(np.square(counts).sum(2)).mean(0)[None],
        counts[..., 0],
        counts[..., -1],
        counts[..., :3].sum(2),
        counts[..., -3:].sum(2),
    ]


def _light(channels, luma, means, spreads):
    """Light, saturation, colour, the darkest channel."""
    lowest = np.minimum(np.minimum(channels[0], channels[1]), channels[2])
    highest = np.maximum(np.maximum(channels[0], channels[1]), channels[2])
    saturation, lowest = (
        part.astype(np.float32) / 255 for part in (highest - lowest, lowest)
    )
    mean, spread = _mean_and_spread(saturation)
    return [
        _quantiles(luma[None], (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)),
        means[:1],
        spreads[:1],
        _quantiles(saturation[None], (0.05, 0.25, 0.5, 0.75, 0.95)),
        mean[None],
        spread[None],
        means[1:],
        spreads[1:],
        _quantiles(lowest[None], (0.01, 0.1, 0.5)),
    ]


def _agreement(detail):
    """Correlations of detail between planes, and between the colours they are of."""
    flat = detail.reshape(3, detail.shape[1], -1)
    products = np.einsum("ank,bnk->nab", flat, flat) / flat.shape[2]
    found = []
    # Colours are sums of planes, and so are their products.
    for square, i, j in (
        (products, [0, 0, 1], [1, 2, 2]),
        (_COLOURS @ products @ _COLOURS.T, [0, 1, 0], [1, 2, 2]),
    ):
        size = np.sqrt(np.maximum(square.diagonal(0, 1, 2), 0)) + 0.3 * _STEP
        found.append((square[:, i, j] / (size[:, i] * size[:, j])).T)
    return found


# Red, green and blue as sums of luminance and the differences of blue and red to it.
_COLOURS = np.array(
    [[1, 0, 1], [1, -_LUMA[2] / _LUMA[1], -_LUMA[0] / _LUMA[1]], [1, 1, 0]], np.float32
)


def _shape(planes, absolute):
    """How heavy the tails are, log of (E|x|)² / E[x²], and log of the size."""
    square = _mean_square(planes)
    absolute = np.square(_mean(absolute))
    tails = np.log((absolute + 1e-6) / (square + 2e-6))
    return [tails, 0.5 * np.log(square + 1e-4)]


def _mean(planes):
    """Of each plane; NumPy's own takes twice as long."""
    flat = planes.reshape(*planes.shape[:-2], -1)
    return np.einsum("...i->...", flat) / flat.shape[-1]


def _mean_square(planes):
    flat = planes.reshape(*planes.shape[:-2], -1)
    return np.einsum("...i,...i->...", flat, flat) / flat.shape[-1]


def _size(planes):
    """Root of the mean square."""
    return np.sqrt(_mean_square(planes))


def _mean_and_spread(planes):
    """Means and standard deviations."""
    mean = _mean(planes)
    size = planes.shape[-2] * planes.shape[-1]
    variance = _mean_square(planes - mean[..., None, None]) * (size / (size - 1))
    return mean, np.sqrt(variance)


def _cut(planes, axis, start, stop):
    """From start to stop along the last axis or the one before."""
    part = slice(start, stop)
    return planes[..., part] if axis == -1 else planes[..., part, :]


def _product(planes, axis, distance):
    length = planes.shape[axis]
    before = _cut(planes, axis, 0, length - distance)
    return before * _cut(planes, axis, distance, length)


def _steps(planes, axis, distance):
    length = planes.shape[axis]
    before = _cut(planes, axis, 0, length - distance)
    return _cut(planes, axis, distance, length) - before


def _strongest(change):
    """The strongest twentieth, and its places, (N, n)."""
    size = np.abs(change).reshape(len(change), -1)
    count = size.shape[1] // 20
    among = _places(np.partition(_keys(size), -count)[:, -count:])
    return _at(change, among), among


def _keys(values):
    """Values of at least 0 and their places as one integer each, (N, n).

    In their order equal values are in that of their places, on every processor, and
    they are sorted faster than NumPy finds the order of floats.
    """
    keys = values.view(np.int32).astype(np.int64)
    keys <<= 32
    keys |= np.arange(keys.shape[1])
    return keys


def _places(keys):
    return keys & 0xFFFFFFFF


def _at(planes, places):
    """What planes (N, ...) have at these places, (N, n)."""
    return planes.reshape(len(planes), -1)[np.arange(len(planes))[:, None], places]


def _tenths(values):
    """The value that a tenth, half and nine tenths lie below, (3, N)."""
    count = values.shape[1]
    return np.sort(values)[:, [count // 10, count // 2, count * 9 // 10]].T


def _quantiles(planes, shares):
    """Of every fourth pixel, (planes * shares, N)."""
    values = planes[..., ::2, ::2]
    values = np.sort(values.reshape(*values.shape[:2], -1))
    last = values.shape[-1] - 1
    values = values[..., [round(share * last) for share in shares]]
    return values.swapaxes(1, 2).reshape(-1, values.shape[1])


def _counts(channels):
    """Shares of the 256 values, of channels (3, N, H, W): (3, N, 256)."""
    count = channels.shape[1]
    values = channels.reshape(3 * count, -1) + 256 * np.arange(3 * count)[:, None]
    found = np.bincount(values.ravel(), minlength=3 * count * 256)
    return found.reshape(3, count, 256).astype(np.float32) / values.shape[1]


def _log(spread):
    return np.log(spread + 0.1 * _STEP)


def _padded(planes):
    """With three pixels more on each side: the last ones, repeated."""
    count, height, width = planes.shape
    found = np.empty((count, height + 6, width + 6), np.float32)
    found[:, 3:-3, 3:-3] = planes
    found[:, 3:-3, :3] = planes[:, :, :1]
    found[:, 3:-3, -3:] = planes[:, :, -1:]
    found[:, :3] = found[:, 3:4]
    found[:, -3:] = found[:, -4:-3]
    return found


def _local_mean(padded):
    """Weighted mean around each pixel of padded planes, in their upper left part.

    What is to the right and below it means nothing: shifted copies of all planes are
    added up as if they were one line.
    """
    line = padded.ravel()
    rows = _weighted(line, padded.shape[2])
    found = np.empty_like(padded)
    line = found.ravel()
    line[len(rows) - 6 :] = 0
    _weighted(rows, 1, out=line[: len(rows) - 6])
    return found


def _weighted(line, step, out=None):
    """Sum over the window, whose places are so far apart; it is symmetric."""
    length = len(line) - 6 * step
    copies = [line[i * step : i * step + length] for i in range(7)]
    total = np.multiply(copies[3], _WINDOW[3], out=out)
    pair = np.empty_like(total)
    for i in range(3):
        np.add(copies[i], copies[6 - i], out=pair)
        np.multiply(pair, _WINDOW[i], out=pair)
        np.add(total, pair, out=total)
    return total
