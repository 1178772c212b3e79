"""Synthetic pictures: dead leaves, 1/f textures, gradients, shapes, text."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage
from sklearn.utils import check_random_state

_OVERSAMPLING = 2
_WORDS = "light stone river glass north signal paper amber seven cloud 1984 42 open"


def make_procedural_images(n_images=16, *, image_size=192, random_state=0):
    """Draw sharp, clean synthetic pictures with natural-image statistics.

    Each picture is a random mixture of occluding textured leaves (the dead-leaves
    model of Lee, Mumford and Huang, 2001), power-law textures, smooth shading,
    outlined shapes and text, sometimes with an out-of-focus background, drawn at twice
    the size and downscaled. The bundled ``tiny`` backbone was first trained on these.

    Parameters
    ----------
    n_images : int, default=16
        Number of pictures.
    image_size : int, default=192
        Side in pixels.
    random_state : int, RandomState instance or None, default=0
        Picture ``i`` depends only on the seed and ``i``, so a longer run starts with
        the pictures of a shorter one.

    Returns
    -------
    list of ndarray of shape (image_size, image_size, 3), dtype uint8
        RGB pictures.

    Examples
    --------
    >>> from diffqa_features.datasets import make_procedural_images
    >>> [image.shape for image in make_procedural_images(2, image_size=64)]
    [(64, 64, 3), (64, 64, 3)]
    """
    seed = check_random_state(random_state).randint(2**31 - 1)
    return [
        _draw(image_size, np.random.default_rng([seed, i])) for i in range(n_images)
    ]


def _draw(size, rng):
    canvas = size * _OVERSAMPLING
    palette = _palette(rng)
    textures = [_texture(canvas, rng) for _ in range(4)]
    image = _background(canvas, palette, textures, rng)
    kind = rng.choice(["leaves", "scene", "texture"], p=[0.45, 0.4, 0.15])
    if kind == "leaves":
        image = _leaves(image, palette, textures, rng, rng.integers(60, 400))
    elif kind == "scene":
        image = _leaves(image, palette, textures, rng, rng.integers(20, 120))
        if rng.random() < 0.5:  # a lens keeps one depth sharp
            focus = ImageFilter.GaussianBlur(rng.uniform(2, 10))
            image = Image.fromarray(image).filter(focus)
            image = np.asarray(image)
        image = _leaves(image, palette, textures, rng, rng.integers(3, 30), big=True)
        image = _strokes(image, palette, rng)
    picture = Image.fromarray(image).resize((size, size), Image.Resampling.BOX)
    return _develop(np.asarray(picture, np.float32) / 255, rng)


def _palette(rng):
    """A few related colours, mostly muted, as in real scenes."""
    base = rng.uniform(0.08, 0.92, 3)
    spread = rng.uniform(0.05, 0.35)
    colors = base + rng.normal(0, spread, (8, 3))
    luminance = colors.mean(1, keepdims=True) + rng.normal(0, 0.2, (8, 1))
    saturation = rng.uniform(0, 0.8) if rng.random() < 0.85 else 0.0
    chroma = colors - colors.mean(1, keepdims=True)
    return np.clip(luminance + saturation * chroma, 0.01, 0.99)


def _texture(size, rng):
    """Power-law noise, unit variance, sometimes oriented or with sharp ridges."""
    fy = np.fft.fftfreq(size)[:, None]
    fx = np.fft.rfftfreq(size)[None]
    if rng.random() < 0.4:
        angle, stretch = rng.uniform(0, np.pi), rng.uniform(1, 8)
        fx, fy = (
            fx * np.cos(angle) - fy * np.sin(angle),
            stretch * (fx * np.sin(angle) + fy * np.cos(angle)),
        )
    radius = np.sqrt(fx**2 + fy**2)
    radius[0, 0] = np.inf
    shape = radius.shape
    spectrum = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    noise = np.fft.irfft2(spectrum * radius ** -rng.uniform(0.7, 2.0), s=(size, size))
    noise /= noise.std()
    if rng.random() < 0.3:
        noise = np.abs(noise) * 2 - 1.6
    return noise.astype(np.float32)


def _background(size, palette, textures, rng):
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = 0.5 + 0.5 * (x * np.cos(angle) + y * np.sin(angle)) / 1.42
    first, second = palette[rng.choice(8, 2, replace=False)]
    image = first + ramp[..., None] * (second - first)
    image = image + rng.uniform(0, 0.15) * textures[0][..., None]
    return np.clip(image * 255, 0, 255).astype(np.uint8)


def _leaves(image, palette, textures, rng, count, big=False):
    """Occluding shapes with radii of density r^-3, each with texture and shading."""
    size = image.shape[0]
    image = image.copy()
    low, high = (size / 8, size / 2) if big else (size / 80, size / 3)
    u = rng.random(count)
    radii = 1 / np.sqrt(u / high**2 + (1 - u) / low**2)
    for radius in radii:
        r = int(radius) + 2
        cx, cy = rng.integers(-r // 2, size + r // 2, 2)
        x0, x1 = max(cx - r, 0), min(cx + r, size)
        y0, y1 = max(cy - r, 0), min(cy + r, size)
        if x1 <= x0 or y1 <= y0:
            continue
        mask = Image.new("L", (x1 - x0, y1 - y0))
        points = _outline(cx - x0, cy - y0, radius, rng)
        ImageDraw.Draw(mask).polygon(points, fill=255)
        texture = textures[rng.integers(len(textures))]
        oy = rng.integers(0, size - (y1 - y0) + 1)
        ox = rng.integers(0, size - (x1 - x0) + 1)
        patch = texture[oy : oy + y1 - y0, ox : ox + x1 - x0, None]
        color = palette[rng.integers(8)] + rng.normal(0, 0.05, 3)
        shade = np.linspace(-1, 1, x1 - x0)[None, :, None] * rng.normal(0, 0.08)
        shade = shade + np.linspace(-1, 1, y1 - y0)[:, None, None] * rng.normal(0, 0.08)
        contrast = rng.exponential(0.07)
        leaf = np.clip((color + shade + contrast * patch) * 255, 0, 255)
        region = image[y0:y1, x0:x1]
        inside = np.asarray(mask)[..., None] > 0
        image[y0:y1, x0:x1] = np.where(inside, leaf.astype(np.uint8), region)
    return image


def _outline(cx, cy, radius, rng):
    kind = rng.integers(3)
    corners = rng.integers(3, 7) if kind == 0 else 40
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    angles = angles + rng.uniform(0, 2 * np.pi)
    r = np.full(corners, radius)
    if kind == 2:  # a wobbly natural outline
        for k in (2, 3, 5):
            wave = np.cos(k * angles + rng.uniform(0, 6.3))
            r = r * (1 + rng.normal(0, 0.12) * wave)
    aspect, turn = rng.uniform(0.4, 1), rng.uniform(0, np.pi)
    x, y = r * np.cos(angles), aspect * r * np.sin(angles)
    xs = cx + x * np.cos(turn) - y * np.sin(turn)
    ys = cy + x * np.sin(turn) + y * np.cos(turn)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _strokes(image, palette, rng):
    """Thin lines, outlined boxes and words: the sharpest structures in a picture."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    size = image.shape[0]
    for _ in range(rng.integers(0, 12)):
        color = tuple(int(255 * c) for c in palette[rng.integers(8)])
        ends = rng.integers(0, size, 4).tolist()
        draw.line(ends, fill=color, width=int(rng.integers(1, 8)))
    for _ in range(rng.integers(0, 4)):
        color = tuple(int(255 * c) for c in palette[rng.integers(8)])
        words = rng.choice(_WORDS.split(), rng.integers(1, 4))
        font = ImageFont.load_default(size=float(rng.integers(16, 56)))
        position = tuple(rng.integers(0, size, 2) - size // 8)
        draw.text(position, " ".join(words), fill=color, font=font)
    return np.asarray(picture)


def _develop(x, rng):
    """Exposure, tone and a trace of sensor noise, as from a good camera."""
    light = ndimage.zoom(rng.normal(1, 0.12, (3, 3)), x.shape[0] / 3, order=1)
    x = x * light[: x.shape[0], : x.shape[1], None]
    low, high = np.percentile(x, [1, 99])
    bottom, top = rng.uniform(0, 0.12), rng.uniform(0.8, 1.0)
    x = bottom + (x - low) / max(high - low, 0.15) * (top - bottom)
    x = np.clip(x, 0, 1) ** rng.uniform(0.75, 1.35)
    x = x + rng.normal(0, rng.uniform(0, 0.006), x.shape)
    return np.clip(np.rint(x * 255), 0, 255).astype(np.uint8)
