"""Distortions written apart from those of the library, to learn from and choose by.

A camera, a codec and a network of somebody else make the same kinds of fault as
`diffqa_features.datasets` by other means: another kernel, another encoder, noise of
another grain. Settings that only suit our makings are found out by these: whoever
chooses leaves every second one out of training (`train_scorer.py --choose`).

Each function takes pixels (H, W, 3) in [0, 1], a strength in [0, 1] and a generator;
strength 0 can hardly be seen, 1 loses about three JOD.
"""

import io

import av
import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage


def make(name, image, strength, rng):
    """One of `MAKINGS` on uint8 pixels."""
    found = MAKINGS[name](image / 255.0, float(strength), rng)
    if found.dtype == np.uint8:
        return found
    return np.round(np.clip(found, 0, 1) * 255).astype(np.uint8)


def _mix(low, high, strength):
    return low * (high / low) ** strength


def _as_image(x):
    return Image.fromarray(np.round(np.clip(x, 0, 1) * 255).astype(np.uint8))


def _ycc(x):
    luma = x @ np.array([0.2126, 0.7152, 0.0722])
    return luma, (x[..., 2] - luma) / 1.8556, (x[..., 0] - luma) / 1.5748


def _rgb(luma, blue, red):
    b, r = luma + 1.8556 * blue, luma + 1.5748 * red
    return np.stack([r, (luma - 0.2126 * r - 0.0722 * b) / 0.7152, b], -1)


# -- blur ------------------------------------------------------------------------------


def box(x, s, rng):
    size = _mix(1.3, 5.0, s)
    low, share = int(size), size - int(size)
    small, large = (ndimage.uniform_filter(x, (n, n, 1)) for n in (low, low + 1))
    return (1 - share) * small + share * large


def median(x, s, rng):
    half = ndimage.median_filter(x, (3, 3, 1))
    if s < 0.5:
        return x + (0.4 + 1.2 * s) * (half - x)
    full = ndimage.median_filter(x, (5, 5, 1))
    return half + (2 * s - 1) * (full - half)


def low_pass(x, s, rng):
    """A Butterworth filter of the spectrum."""
    fy, fx = np.fft.fftfreq(x.shape[0])[:, None], np.fft.rfftfreq(x.shape[1])[None]
    keep = 1 / (1 + (np.hypot(fy, fx) / _mix(0.42, 0.12, s)) ** 6)
    spectrum = np.fft.rfft2(x, axes=(0, 1)) * keep[..., None]
    return np.fft.irfft2(spectrum, x.shape[:2], axes=(0, 1))


def zoom(x, s, rng):
    """Blur along lines through a point, as of a lens that zooms."""
    centre = rng.uniform(0.3, 0.7, 2) * x.shape[:2]
    scales = np.linspace(0, _mix(0.006, 0.04, s), 9)
    parts = []
    for scale in 1 - scales:
        shift = centre * (1 - scale)
        parts.append(
            np.stack(
                [
                    ndimage.affine_transform(
                        x[..., c], [scale, scale], shift, order=1, mode="nearest"
                    )
                    for c in range(3)
                ],
                -1,
            )
        )
    return np.mean(parts, 0)


def smear(x, s, rng):
    """What noise reduction of a phone leaves: texture goes, edges stay."""
    mean = ndimage.gaussian_filter(x, (2, 2, 0))
    spread = ndimage.gaussian_filter((x - mean) ** 2, (2, 2, 0)).mean(-1, keepdims=True)
    keep = spread / (spread + _mix(0.008, 0.08, s) ** 2)
    return mean + keep * (x - mean)


# -- noise -----------------------------------------------------------------------------


def linear_light(x, s, rng):
    """Of a sensor: constant and growing with light, before the gamma."""
    light = x**2.2
    noise = rng.standard_normal(x.shape)
    amount = _mix(0.01, 0.07, s)
    light = light + noise * amount * np.sqrt(0.02 + light) * 0.6
    return np.clip(light, 0, 1) ** (1 / 2.2)


def coarse(x, s, rng):
    """Noise of two pixels' grain, as after a resize."""
    noise = ndimage.gaussian_filter(rng.standard_normal(x.shape), (0.9, 0.9, 0))
    return x + noise / noise.std() * _mix(0.012, 0.08, s)


def blotches(x, s, rng):
    """Coloured noise of a coarse grain, the luminance left alone."""
    luma, blue, red = _ycc(x)
    size = rng.uniform(1.5, 3)
    for plane in (blue, red):
        noise = ndimage.gaussian_filter(rng.standard_normal(luma.shape), size)
        plane += noise / noise.std() * _mix(0.01, 0.07, s)
    return _rgb(luma, blue, red)


def stripes(x, s, rng):
    """Rows and columns of a sensor that differ."""
    size = _mix(0.006, 0.04, s)
    rows = rng.standard_normal((x.shape[0], 1, 1))
    columns = rng.standard_normal((1, x.shape[1], 1))
    return x + size * (rows + 0.6 * columns)


def hot_pixels(x, s, rng):
    found = x.copy()
    of = rng.random(x.shape[:2]) < _mix(0.0004, 0.012, s)
    found[of] = rng.random((int(of.sum()), 3)) ** 0.5
    return found


def gray_film(x, s, rng):
    """Grain that is strongest in the middle of the scale, the same in all channels."""
    luma = x.mean(-1, keepdims=True)
    grain = ndimage.gaussian_filter(rng.standard_normal(luma.shape), (0.5, 0.5, 0))
    return x + grain / grain.std() * _mix(0.02, 0.12, s) * 4 * luma * (1 - luma)


# -- compression -----------------------------------------------------------------------


def _through(x, **options):
    file = io.BytesIO()
    _as_image(x).save(file, **options)
    return np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))


def jpeg_444(x, s, rng):
    return _through(x, format="JPEG", quality=int(_mix(80, 18, s)), subsampling=0)


def jpeg_flat(x, s, rng):
    """One step for all frequencies, as some cameras' tables nearly are."""
    step = int(_mix(7, 40, s))
    table = [step] * 64
    return _through(x, format="JPEG", qtables=[table, table], subsampling=2)


def jpeg_thrice(x, s, rng):
    """Saved again and again, each time cut by some pixels."""
    quality = int(_mix(86, 35, s))
    for _ in range(3):
        top, left = rng.integers(1, 8, 2)
        inner = _through(x, format="JPEG", quality=quality, subsampling=2)
        x = (
            np.pad(inner[top:, left:], ((top, 0), (left, 0), (0, 0)), mode="edge")
            / 255.0
        )
    return x


def _video(x, codec, pixel_format, options):
    """One key frame through a video encoder."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = x.shape[1], x.shape[0]
        stream.pix_fmt = pixel_format
        frame = av.VideoFrame.from_ndarray(np.asarray(_as_image(x)), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    file.seek(0)
    with av.open(file) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def h264(x, s, rng):
    options = {"qp": str(round(24 + 18 * s)), "threads": "1"}
    return _video(x, "libx264", "yuv420p", options)


def vp9(x, s, rng):
    crf = str(round(30 + 30 * s))
    return _video(x, "libvpx-vp9", "yuv420p", {"crf": crf, "b": "0", "cpu-used": "8"})


def mpeg4(x, s, rng):
    step = str(round(_mix(3, 22, s)))
    return _video(x, "mpeg4", "yuv420p", {"qmin": step, "qmax": step})


# -- banding, sharpening ---------------------------------------------------------------


def palette(x, s, rng):
    count = round(_mix(96, 12, s))
    found = _as_image(x).quantize(count, dither=Image.Dither(int(rng.choice([0, 3]))))
    return np.asarray(found.convert("RGB"))


def floor_luma(x, s, rng):
    luma, blue, red = _ycc(x)
    steps = _mix(56, 10, s)
    return _rgb((np.floor(luma * steps) + 0.5) / steps, blue, red)


def laplacian(x, s, rng):
    edges = np.stack([ndimage.laplace(x[..., c], mode="nearest") for c in range(3)], -1)
    return x - _mix(0.12, 1.2, s) * edges


def local_contrast(x, s, rng):
    """'Clarity', 'structure': a wide radius, halos."""
    luma = x.mean(-1, keepdims=True)
    wide = ndimage.gaussian_filter(luma, (8, 8, 0))
    return x + _mix(0.25, 1.8, s) * (luma - wide)


def detail(x, s, rng):
    image = _as_image(x)
    sharp = image.filter(ImageFilter.SHARPEN).filter(ImageFilter.DETAIL)
    return x + _mix(0.2, 1.5, s) * (np.asarray(sharp) / 255.0 - x)


# -- light and colour ------------------------------------------------------------------


def gamma_dark(x, s, rng):
    return x ** _mix(1.15, 2.6, s)


def gamma_light(x, s, rng):
    return x ** (1 / _mix(1.15, 2.6, s))


def fog(x, s, rng):
    """Thicker to one side."""
    ramp = np.linspace(0.3, 1, x.shape[0])[:, None, None]
    share = _mix(0.08, 0.7, s) * ramp
    return (1 - share) * x + share * np.array([0.78, 0.8, 0.83])


def dusk(x, s, rng):
    """Too little light, raised again: noise of few photons, bluish."""
    photons = _mix(600, 25, s)
    light = (x**2.2) * np.array([0.85, 0.95, 1.1])
    return (rng.poisson(light * photons) / photons).clip(0, 1) ** (1 / 2.2)


def bleed(x, s, rng):
    """Colour of a quarter of the size or less."""
    luma, blue, red = _ycc(x)
    size = _mix(1.5, 9, s)
    return _rgb(luma, *(ndimage.gaussian_filter(plane, size) for plane in (blue, red)))


def fringe(x, s, rng):
    """Red and blue a little larger than green."""
    found = x.copy()
    for channel, sign in ((0, 1), (2, -1)):
        scale = 1 + sign * _mix(0.003, 0.02, s)
        shift = np.array(x.shape[:2]) / 2 * (1 - scale)
        found[..., channel] = ndimage.affine_transform(
            x[..., channel], [scale, scale], shift, order=1, mode="nearest"
        )
    return found


def tint(x, s, rng):
    gains = 1 + _mix(0.05, 0.45, s) * rng.uniform(-1, 1, 3)
    return x * gains


def faded(x, s, rng):
    luma = x.mean(-1, keepdims=True)
    return luma + (1 - _mix(0.2, 0.95, s)) * (x - luma)


# -- resolution, damage ----------------------------------------------------------------


def small(x, s, rng):
    """Smaller and back by other filters than ours."""
    height, width = x.shape[:2]
    by = _mix(1.25, 4, s)
    image = _as_image(x).resize(
        (round(width / by), round(height / by)), Image.Resampling.BOX
    )
    filters = [Image.Resampling.HAMMING, Image.Resampling.LANCZOS]
    return np.asarray(image.resize((width, height), filters[rng.integers(2)]))


def mosaic(x, s, rng):
    """A sensor's pattern of colours, filled in by the nearest."""
    found = x.copy()
    places = {0: (0, 0), 2: (1, 1)}
    for channel, (top, left) in places.items():
        few = x[top::2, left::2, channel]
        whole = few.repeat(2, 0).repeat(2, 1)[: x.shape[0], : x.shape[1]]
        found[..., channel] = whole
    return x + _mix(0.15, 1.0, s) * (found - x)


def comb(x, s, rng):
    """Interlaced fields that moved."""
    by = max(1, round(_mix(1, 5, s)))
    found = x.copy()
    found[1::2] = np.roll(x[1::2], by, 1)
    return x + min(1.0, 0.4 + s) * (found - x)


def wobble(x, s, rng):
    """Places drift smoothly, as through heated air."""
    size = _mix(0.5, 2.5, s)
    shape = x.shape[:2]
    drift = [ndimage.gaussian_filter(rng.standard_normal(shape), 4) for _ in range(2)]
    places = [
        at + size * d / d.std() for at, d in zip(np.indices(shape), drift, strict=True)
    ]
    return np.stack(
        [
            ndimage.map_coordinates(x[..., c], places, order=1, mode="nearest")
            for c in range(3)
        ],
        -1,
    )


def lost_blocks(x, s, rng):
    """Blocks of a stream that did not arrive: the neighbour's are shown."""
    found = x.copy()
    rows, columns = x.shape[0] // 16, x.shape[1] // 16
    for _ in range(round(_mix(1, 14, s))):
        top = 16 * rng.integers(rows)
        left = 16 * rng.integers(1, columns)
        found[top : top + 16, left : left + 16] = x[top : top + 16, left - 16 : left]
    return found


_KINDS = {
    "blur": (box, median, low_pass, zoom, smear),
    "noise": (
        linear_light, coarse, blotches, stripes, hot_pixels, gray_film
    ),
    "compression": (jpeg_444, jpeg_flat, jpeg_thrice, h264, vp9, mpeg4),
    "banding": (palette, floor_luma),
    "oversharpening": (laplacian, local_contrast, detail),
    "exposure": (gamma_dark, gamma_light, fog, dusk),
    "color": (bleed, fringe, tint, faded),
    "low_resolution": (small, mosaic),
    "damage": (comb, wobble, lost_blocks),
}  # fmt: skip

MAKINGS = {f.__name__: f for functions in _KINDS.values() for f in functions}
KIND_OF = {f.__name__: kind for kind, functions in _KINDS.items() for f in functions}
