"""Graded distortions as in KADID-10k: image and severity in, image out."""

import io

import numpy as np
from PIL import Image, ImageEnhance
from scipy import ndimage

from diffqa_features._media.images import frame_pixels, identify


def distort(image, family, severity, rng):
    """Apply one distortion to an image.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), dtype uint8
        RGB picture.
    family : str
        One of `FAMILIES`.
    severity : float in [0, 1]
        0 is the mildest setting of the family (already a change), 1 the strongest.
    rng : numpy.random.Generator
        Source of the noise and of the direction of motion blur.

    Returns
    -------
    ndarray of shape (H, W, 3), dtype uint8
    """
    if family not in FAMILIES:
        raise ValueError(
            f"Unknown distortion family {family!r}. Known: {', '.join(FAMILIES)}."
        )
    return FAMILIES[family](np.asarray(image), float(severity), rng)


def _between(mild, strong, severity):
    """Geometric interpolation: equal steps in severity look about equally large."""
    return mild * (strong / mild) ** severity


def _to_uint8(x):
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _gaussian_blur(image, severity, rng):
    sigma = _between(0.6, 4.5, severity)
    return _to_uint8(
        ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0))
    )


def _convolve(image, kernel):
    kernel = (kernel / kernel.sum()).astype(np.float32)[..., None]
    return _to_uint8(ndimage.convolve(image.astype(np.float32), kernel, mode="nearest"))


def _lens_blur(image, severity, rng):
    radius = _between(0.9, 6.0, severity)
    r = int(np.ceil(radius))
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    # A soft rim keeps fractional radii distinct.
    return _convolve(image, np.clip(radius + 0.5 - np.hypot(x, y), 0, 1))


def _motion_blur(image, severity, rng):
    length = _between(2.5, 18.0, severity)
    angle = rng.uniform(0, np.pi)
    r = int(np.ceil(length / 2))
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    along = x * np.cos(angle) + y * np.sin(angle)
    across = -x * np.sin(angle) + y * np.cos(angle)
    line = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1)
    return _convolve(image, line * np.clip(1 - np.abs(across), 0, 1))


def _white_noise(image, severity, rng):
    std = 255 * _between(0.02, 0.25, severity)
    return _to_uint8(image + rng.normal(0, std, image.shape))


def _color_noise(image, severity, rng):
    ycc = np.asarray(Image.fromarray(image).convert("YCbCr")).astype(np.float32)
    std = 255 * _between(0.025, 0.25, severity)
    ycc[..., 1:] += rng.normal(0, std, (*image.shape[:2], 2))
    h, w = image.shape[:2]
    # Not fromarray(..., "YCbCr"): its mode argument is deprecated in Pillow 11.3.
    noisy = Image.frombytes("YCbCr", (w, h), _to_uint8(ycc).tobytes())
    return np.asarray(noisy.convert("RGB"))


def _impulse_noise(image, severity, rng):
    out = image.copy()
    hit = rng.random(image.shape[:2]) < _between(0.004, 0.15, severity)
    out[hit] = rng.choice(np.array([0, 255], np.uint8), (int(hit.sum()), 3))
    return out


def _recode(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **options)
    return frame_pixels(identify(buffer.getvalue()))


def _jpeg(image, severity, rng):
    quality = round(_between(55, 4, severity))
    return _recode(image, format="JPEG", quality=quality)


def _jpeg2000(image, severity, rng):
    rate = _between(16, 200, severity)
    return _recode(
        image, format="JPEG2000", quality_mode="rates", quality_layers=[rate]
    )


def _pixelate(image, severity, rng):
    h, w = image.shape[:2]
    block = _between(1.6, 9.0, severity)
    small = (max(1, round(w / block)), max(1, round(h / block)))
    picture = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    return np.asarray(picture.resize((w, h), Image.Resampling.NEAREST))


def _quantise(image, severity, rng):
    levels = round(_between(20, 3, severity))
    return _to_uint8(np.rint(image / 255 * (levels - 1)) / (levels - 1) * 255)


def _oversharpen(image, severity, rng):
    x = image.astype(np.float32)
    detail = x - ndimage.gaussian_filter(x, (1.5, 1.5, 0))
    return _to_uint8(x + _between(0.8, 10.0, severity) * detail)


def _low_contrast(image, severity, rng):
    factor = _between(0.75, 0.15, severity)
    mean = image.mean()
    return _to_uint8(mean + factor * (image - mean))


def _brighten(image, severity, rng):
    gamma = _between(0.75, 0.2, severity)
    return _to_uint8(255 * (image / 255.0) ** gamma)


def _darken(image, severity, rng):
    gamma = _between(1.35, 5.0, severity)
    return _to_uint8(255 * (image / 255.0) ** gamma)


def _desaturate(image, severity, rng):
    enhance = ImageEnhance.Color(Image.fromarray(image)).enhance
    return np.asarray(enhance(_between(0.65, 0.02, severity)))


def _oversaturate(image, severity, rng):
    enhance = ImageEnhance.Color(Image.fromarray(image)).enhance
    return np.asarray(enhance(_between(1.5, 7.0, severity)))


FAMILIES = {
    "gaussian_blur": _gaussian_blur,
    "lens_blur": _lens_blur,
    "motion_blur": _motion_blur,
    "white_noise": _white_noise,
    "color_noise": _color_noise,
    "impulse_noise": _impulse_noise,
    "jpeg": _jpeg,
    "jpeg2000": _jpeg2000,
    "pixelate": _pixelate,
    "quantise": _quantise,
    "oversharpen": _oversharpen,
    "low_contrast": _low_contrast,
    "brighten": _brighten,
    "darken": _darken,
    "desaturate": _desaturate,
    "oversaturate": _oversaturate,
}
"""Family name -> function ``(image, severity, rng) -> image``."""
