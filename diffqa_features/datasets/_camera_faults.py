"""What lenses, sensors and their software do: image and severity in, image out."""

import numpy as np
from PIL import Image
from scipy import ndimage, signal

_RESAMPLING = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)


def between(mild, strong, severity):
    """Geometric interpolation: equal steps in severity look about equally large."""
    return mild * (strong / mild) ** severity


def to_uint8(x):
    """Round and clip to 8 bits."""
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _blur(x, sigma):
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest", truncate=3)


def camera_shake(image, severity, rng):
    """A hand-held exposure: the point wanders on a smooth random path."""
    length = between(2.0, 14.0, severity)
    path = np.cumsum(ndimage.gaussian_filter1d(rng.normal(size=(48, 2)), 6, axis=0), 0)
    path -= path.mean(0)
    path *= length / max(np.ptp(path, axis=0).max(), 1e-6)
    r = int(np.ceil(np.abs(path).max())) + 1
    kernel = np.zeros((2 * r + 1, 2 * r + 1), np.float32)
    base = np.floor(path).astype(int)
    part = path - base
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1])
            np.add.at(kernel, (base[:, 0] + r + dy, base[:, 1] + r + dx), weight)
    return _spread(image, kernel)


def _spread(image, kernel):
    kernel = (kernel / kernel.sum())[..., None]
    r = len(kernel) // 2
    padded = np.pad(image.astype(np.float32), ((r, r), (r, r), (0, 0)), mode="edge")
    return to_uint8(signal.fftconvolve(padded, kernel, mode="valid", axes=(0, 1)))


def uneven_blur(image, severity, rng):
    """Out of focus towards one side, as with a tilted or badly centred lens."""
    sigma = between(1.0, 7.0, severity)
    h, w = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    place = x * np.cos(angle) + y * np.sin(angle) - rng.uniform(-0.6, 0.2)
    depth = np.clip(place, 0, 1)[..., None] * 2
    out = image.astype(np.float32)
    for step in (0.5, 1.0, 2.0):  # blurred copies, blended where they belong
        share = np.clip(depth / step, 0, 1)
        out = out + share * (_blur(image.astype(np.float32), sigma * step / 2) - out)
    return to_uint8(out)


def poisson_noise(image, severity, rng):
    """Shot noise: photons are counted, the fewer the noisier."""
    photons = between(400, 4, severity)
    return to_uint8(rng.poisson(image / 255 * photons) / photons * 255)


def speckle_noise(image, severity, rng):
    """Noise in proportion to the light."""
    std = between(0.05, 0.8, severity)
    return to_uint8(image * (1 + rng.normal(0, std, image.shape)))


def luma_noise(image, severity, rng):
    """The same noise in all three colours."""
    std = 255 * between(0.02, 0.25, severity)
    return to_uint8(image + rng.normal(0, std, (*image.shape[:2], 1)))


def grain(image, severity, rng):
    """Noise that has been interpolated or printed: its dots are larger than pixels."""
    size = rng.uniform(0.6, 1.6)
    noise = rng.normal(size=image.shape if rng.random() < 0.5 else image.shape[:2])
    noise = noise.reshape(*image.shape[:2], -1)
    noise = ndimage.gaussian_filter(noise, (size, size, 0))
    return to_uint8(image + 255 * between(0.02, 0.2, severity) * noise / noise.std())


def denoise(image, severity, rng):
    """Noise, and a filter that takes texture away with it."""
    from skimage.restoration import denoise_tv_chambolle

    std = between(0.03, 0.25, severity)
    noisy = np.clip(image / 255 + rng.normal(0, std, image.shape), 0, 1)
    weight = std * rng.uniform(0.7, 1.6)
    clean = denoise_tv_chambolle(noisy, weight, max_num_iter=30, channel_axis=2)
    return to_uint8(255 * clean)


def banding(image, severity, rng):
    """Too few steps of brightness in smooth shades."""
    levels = between(28, 4, severity)
    base = _blur(image.astype(np.float32), 1.5)
    steps = np.rint(base / 255 * levels) / levels * 255
    return to_uint8(steps + rng.uniform(0.4, 1) * (image - base))


def upscale(image, severity, rng):
    """Enlarged from a smaller picture by a usual filter."""
    h, w = image.shape[:2]
    factor = between(1.5, 6.0, severity)
    small = (max(2, round(w / factor)), max(2, round(h / factor)))
    down, up = rng.choice(len(_RESAMPLING), 2)
    picture = Image.fromarray(image).resize(small, _RESAMPLING[down])
    return np.asarray(picture.resize((w, h), _RESAMPLING[up]))


def unsharp(image, severity, rng):
    """Unsharp masking of a random radius: halos along edges."""
    x = image.astype(np.float32)
    detail = x - _blur(x, rng.uniform(0.7, 4.0))
    return to_uint8(x + between(0.6, 7.0, severity) * detail)


def low_light(image, severity, rng):
    """Little light, amplified in part: dark, noisy, flat colours."""
    gain = between(0.6, 0.05, severity)
    linear = (image / 255.0) ** 2.2 * gain
    photons, read = 600, 0.004
    seen = rng.poisson(linear * photons) / photons
    seen = seen + rng.normal(0, read, image.shape)
    amplified = np.clip(seen * gain ** -rng.uniform(0.2, 0.9), 0, 1)
    return to_uint8(255 * amplified ** (1 / 2.2))


def overexpose(image, severity, rng):
    """More light than the sensor holds: highlights are gone."""
    linear = (image / 255.0) ** 2.2 * between(1.3, 6.0, severity)
    return to_uint8(255 * np.clip(linear, 0, 1) ** (1 / 2.2))


def haze(image, severity, rng):
    """A veil of one light colour over everything."""
    veil = rng.uniform(170, 240) + rng.normal(0, 8, 3)
    return to_uint8(image + between(0.12, 0.8, severity) * (veil - image))


def color_cast(image, severity, rng):
    """The wrong white balance."""
    direction = rng.normal(size=3)
    direction -= direction.mean()
    direction /= np.abs(direction).max()
    linear = (image / 255.0) ** 2.2 * np.exp(between(0.15, 1.2, severity) * direction)
    return to_uint8(255 * np.clip(linear, 0, 1) ** (1 / 2.2))


def chromatic_aberration(image, severity, rng):
    """Red and blue are magnified differently from green."""
    h, w = image.shape[:2]
    extent = between(0.006, 0.06, severity) * (1 if rng.random() < 0.5 else -1)
    out = image.copy()
    for channel, sign in ((0, 1), (2, -1)):
        scale = 1 / (1 + sign * extent)
        offset = [(side - 1) / 2 * (1 - scale) for side in (h, w)]
        plane = image[..., channel].astype(np.float32)
        moved = ndimage.affine_transform(
            plane, [scale, scale], offset, order=1, mode="nearest"
        )
        out[..., channel] = to_uint8(moved)
    return out


def demosaic(image, severity, rng):
    """One colour per pixel of a small sensor, interpolated linearly: zips and maze."""
    h, w = image.shape[:2]
    factor = between(1.0, 2.5, severity)
    small = (max(4, round(w / factor)), max(4, round(h / factor)))
    picture = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    x = np.asarray(picture, np.float32)
    y0, x0 = rng.integers(0, 2, 2)
    rows, columns = np.mgrid[y0 : y0 + x.shape[0], x0 : x0 + x.shape[1]] % 2
    masks = ((rows + columns) == 0, (rows + columns) == 1, (rows + columns) == 2)
    window = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)
    planes = []
    for channel, mask in enumerate(masks):
        known = ndimage.convolve(mask.astype(np.float32), window)
        light = ndimage.convolve(np.where(mask, x[..., channel], 0), window)
        planes.append(light / known)
    out = Image.fromarray(to_uint8(np.stack(planes, 2)))
    return np.asarray(out.resize((w, h), Image.Resampling.BICUBIC))
