"""Pixels and colours that are not where they belong, or missing: KADID-10k's others."""

import numpy as np
from PIL import Image
from scipy import fft, ndimage

from diffqa_features.datasets._camera_faults import between, to_uint8


def _chroma(image):
    picture = np.asarray(Image.fromarray(image).convert("YCbCr"), np.float32)
    return picture[..., :1], picture[..., 1:]


def _merge(luma, chroma):
    h, w = luma.shape[:2]
    ycc = to_uint8(np.concatenate([luma, chroma], 2))
    # Not fromarray(..., "YCbCr"): its mode argument is deprecated in Pillow 11.3.
    return np.asarray(Image.frombytes("YCbCr", (w, h), ycc.tobytes()).convert("RGB"))


def color_diffusion(image, severity, rng):
    """Colours run over the edges of brightness."""
    luma, chroma = _chroma(image)
    sigma = between(1.2, 16.0, severity)
    return _merge(luma, ndimage.gaussian_filter(chroma, (sigma, sigma, 0)))


def color_shift(image, severity, rng):
    """One colour is printed beside the others."""
    distance, angle = between(0.8, 10.0, severity), rng.uniform(0, 2 * np.pi)
    channel = rng.integers(3)
    out = image.copy()
    moved = ndimage.shift(
        image[..., channel].astype(np.float32),
        (distance * np.sin(angle), distance * np.cos(angle)),
        order=1,
        mode="nearest",
    )
    out[..., channel] = to_uint8(moved)
    return out


def color_quantise(image, severity, rng):
    """A palette of few colours."""
    colors = max(2, min(256, round(between(64, 4, severity))))
    picture = Image.fromarray(image)
    few = picture.quantize(colors, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return np.asarray(few.convert("RGB"))


def mean_shift(image, severity, rng):
    """All of it brighter or darker by a constant."""
    sign = 1 if rng.random() < 0.5 else -1
    return to_uint8(
        image.astype(np.float32) + sign * 255 * between(0.06, 0.4, severity)
    )


def high_contrast(image, severity, rng):
    """An S-curve: shadows and highlights are lost."""
    slope = between(1.5, 9.0, severity)
    x = image / 255.0 - 0.5
    return to_uint8(255 * (0.5 + 0.5 * np.tanh(slope * x) / np.tanh(slope / 2)))


def jitter(image, severity, rng):
    """Each pixel comes from a little beside."""
    h, w = image.shape[:2]
    reach = between(1.0, 6.0, severity)
    y, x = np.mgrid[:h, :w]
    dy, dx = np.rint(rng.uniform(-reach, reach, (2, h, w))).astype(int)
    return image[np.clip(y + dy, 0, h - 1), np.clip(x + dx, 0, w - 1)]


def patches(image, severity, rng):
    """Small squares are copied from nearby (KADID's non-eccentricity patch)."""
    h, w = image.shape[:2]
    out = image.copy()
    side = max(4, round(min(h, w) / 16))
    for _ in range(max(1, round(between(14, 120, severity)))):
        top, left = rng.integers(0, h - side), rng.integers(0, w - side)
        dy, dx = rng.integers(-side, side + 1, 2)
        source_top = int(np.clip(top + dy, 0, h - side))
        source_left = int(np.clip(left + dx, 0, w - side))
        source = image[source_top : source_top + side, source_left : source_left + side]
        out[top : top + side, left : left + side] = source
    return out


def color_blocks(image, severity, rng):
    """Squares of one colour, as where data were lost."""
    h, w = image.shape[:2]
    out = image.copy()
    side = max(4, round(min(h, w) / 12))
    for _ in range(max(1, round(between(2, 24, severity)))):
        top, left = rng.integers(0, h - side), rng.integers(0, w - side)
        out[top : top + side, left : left + side] = rng.integers(0, 256, 3)
    return out


def ringing(image, severity, rng):
    """A sharp limit of frequencies: waves beside every edge."""
    limit = between(0.36, 0.05, severity)
    h, w = image.shape[:2]
    # The cosine transform mirrors the picture at its edges.
    spectrum = fft.dctn(image.astype(np.float32), axes=(0, 1))
    fy, fx = np.arange(h)[:, None] / (2 * h), np.arange(w)[None] / (2 * w)
    spectrum[np.hypot(fy, fx) > limit] = 0
    return to_uint8(fft.idctn(spectrum, axes=(0, 1)))
