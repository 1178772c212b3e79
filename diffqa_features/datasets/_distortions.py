"""Graded distortions by name: image and severity in, image out."""

import numpy as np
from PIL import Image, ImageEnhance
from scipy import ndimage

from diffqa_features.datasets import _camera_faults, _codecs, _displacements
from diffqa_features.datasets._camera_faults import between, to_uint8


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


def _gaussian_blur(image, severity, rng):
    sigma = between(0.6, 4.5, severity)
    return to_uint8(
        ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0))
    )


def _convolve(image, kernel):
    kernel = (kernel / kernel.sum()).astype(np.float32)[..., None]
    return to_uint8(ndimage.convolve(image.astype(np.float32), kernel, mode="nearest"))


def _lens_blur(image, severity, rng):
    radius = between(0.9, 6.0, severity)
    r = int(np.ceil(radius))
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    # A soft rim keeps fractional radii distinct.
    return _convolve(image, np.clip(radius + 0.5 - np.hypot(x, y), 0, 1))


def _motion_blur(image, severity, rng):
    length = between(2.5, 18.0, severity)
    angle = rng.uniform(0, np.pi)
    r = int(np.ceil(length / 2))
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    along = x * np.cos(angle) + y * np.sin(angle)
    across = -x * np.sin(angle) + y * np.cos(angle)
    line = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1)
    return _convolve(image, line * np.clip(1 - np.abs(across), 0, 1))


def _white_noise(image, severity, rng):
    std = 255 * between(0.02, 0.25, severity)
    return to_uint8(image + rng.normal(0, std, image.shape))


def _color_noise(image, severity, rng):
    ycc = np.asarray(Image.fromarray(image).convert("YCbCr")).astype(np.float32)
    std = 255 * between(0.025, 0.25, severity)
    ycc[..., 1:] += rng.normal(0, std, (*image.shape[:2], 2))
    h, w = image.shape[:2]
    # Not fromarray(..., "YCbCr"): its mode argument is deprecated in Pillow 11.3.
    noisy = Image.frombytes("YCbCr", (w, h), to_uint8(ycc).tobytes())
    return np.asarray(noisy.convert("RGB"))


def _impulse_noise(image, severity, rng):
    out = image.copy()
    hit = rng.random(image.shape[:2]) < between(0.004, 0.15, severity)
    out[hit] = rng.choice(np.array([0, 255], np.uint8), (int(hit.sum()), 3))
    return out


def _pixelate(image, severity, rng):
    h, w = image.shape[:2]
    block = between(1.6, 9.0, severity)
    small = (max(1, round(w / block)), max(1, round(h / block)))
    picture = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    return np.asarray(picture.resize((w, h), Image.Resampling.NEAREST))


def _quantise(image, severity, rng):
    levels = round(between(20, 3, severity))
    return to_uint8(np.rint(image / 255 * (levels - 1)) / (levels - 1) * 255)


def _oversharpen(image, severity, rng):
    x = image.astype(np.float32)
    detail = x - ndimage.gaussian_filter(x, (1.5, 1.5, 0))
    return to_uint8(x + between(0.8, 10.0, severity) * detail)


def _low_contrast(image, severity, rng):
    factor = between(0.75, 0.15, severity)
    mean = image.mean()
    return to_uint8(mean + factor * (image - mean))


def _brighten(image, severity, rng):
    gamma = between(0.75, 0.2, severity)
    return to_uint8(255 * (image / 255.0) ** gamma)


def _darken(image, severity, rng):
    gamma = between(1.35, 5.0, severity)
    return to_uint8(255 * (image / 255.0) ** gamma)


def _desaturate(image, severity, rng):
    enhance = ImageEnhance.Color(Image.fromarray(image)).enhance
    return np.asarray(enhance(between(0.65, 0.02, severity)))


def _oversaturate(image, severity, rng):
    enhance = ImageEnhance.Color(Image.fromarray(image)).enhance
    return np.asarray(enhance(between(1.5, 7.0, severity)))


_BASIC = {
    "gaussian_blur": _gaussian_blur,
    "lens_blur": _lens_blur,
    "motion_blur": _motion_blur,
    "white_noise": _white_noise,
    "color_noise": _color_noise,
    "impulse_noise": _impulse_noise,
    "jpeg": _codecs.jpeg,
    "jpeg2000": _codecs.jpeg2000,
    "pixelate": _pixelate,
    "quantise": _quantise,
    "oversharpen": _oversharpen,
    "low_contrast": _low_contrast,
    "brighten": _brighten,
    "darken": _darken,
    "desaturate": _desaturate,
    "oversaturate": _oversaturate,
}

BASIC = tuple(_BASIC)
"""The sixteen that come first; what shipped models name as theirs."""

FAMILIES = {
    **_BASIC,
    "double_jpeg": _codecs.double_jpeg,
    "webp": _codecs.webp,
    "avif": _codecs.avif,
    "camera_shake": _camera_faults.camera_shake,
    "uneven_blur": _camera_faults.uneven_blur,
    "poisson_noise": _camera_faults.poisson_noise,
    "speckle_noise": _camera_faults.speckle_noise,
    "luma_noise": _camera_faults.luma_noise,
    "grain": _camera_faults.grain,
    "denoise": _camera_faults.denoise,
    "banding": _camera_faults.banding,
    "upscale": _camera_faults.upscale,
    "unsharp": _camera_faults.unsharp,
    "low_light": _camera_faults.low_light,
    "overexpose": _camera_faults.overexpose,
    "haze": _camera_faults.haze,
    "color_cast": _camera_faults.color_cast,
    "chromatic_aberration": _camera_faults.chromatic_aberration,
    "demosaic": _camera_faults.demosaic,
    "color_diffusion": _displacements.color_diffusion,
    "color_shift": _displacements.color_shift,
    "color_quantise": _displacements.color_quantise,
    "mean_shift": _displacements.mean_shift,
    "high_contrast": _displacements.high_contrast,
    "jitter": _displacements.jitter,
    "patches": _displacements.patches,
    "color_blocks": _displacements.color_blocks,
    "ringing": _displacements.ringing,
}
"""Family name -> function ``(image, severity, rng) -> image``."""
