"""What befalls a picture between the scene and the screen: chains of distortions."""

import numpy as np

from diffqa_features.datasets._distortions import FAMILIES, distort

FAULTS = {
    "blur": (
        "gaussian_blur", "lens_blur", "motion_blur", "camera_shake", "uneven_blur",
        "denoise",
    ),
    "noise": (
        "white_noise", "color_noise", "impulse_noise", "poisson_noise",
        "speckle_noise", "luma_noise", "grain",
    ),
    "compression": ("jpeg", "jpeg2000", "double_jpeg", "webp", "avif", "ringing"),
    "banding": ("quantise", "banding", "color_quantise"),
    "oversharpening": ("oversharpen", "unsharp"),
    "exposure": (
        "low_contrast", "brighten", "darken", "low_light", "overexpose", "haze",
        "mean_shift", "high_contrast",
    ),
    "color": (
        "desaturate", "oversaturate", "color_cast", "chromatic_aberration",
        "color_diffusion", "color_shift",
    ),
    "low_resolution": ("pixelate", "upscale", "demosaic"),
    "damage": ("jitter", "patches", "color_blocks"),
}  # fmt: skip
"""Kind of fault -> the families of that kind; every family is of one."""

FAULT_OF = {family: kind for kind, names in FAULTS.items() for family in names}

_CAMERA = (
    "blur", "noise", "exposure", "color", "oversharpening", "low_resolution",
    "compression",
)  # fmt: skip
_NETWORK = (
    "low_resolution", "color", "oversharpening", "banding", "damage", "compression",
)  # fmt: skip
# Compression, noise and blur are what most pictures have been through.
_WEIGHTS = {"compression": 2.0, "blur": 1.4, "noise": 1.4, "damage": 0.4}
# These pass the undistorted picture on their way below severity 0.
FROM_ZERO = frozenset(
    "low_contrast brighten darken desaturate low_light overexpose banding "
    "demosaic".split()
)
_STEPS = ((2, 0.45), (3, 0.35), (4, 0.2))


def draw_chain(rng, severity, families=FAMILIES):
    """Two to four steps in the order in which a camera and a network take them.

    Parameters
    ----------
    rng : numpy.random.Generator
        What is drawn from.
    severity : float in [0, 1]
        The strength of the strongest step; others are weaker by chance.
    families : collection of str
        Those that may be in it.

    Returns
    -------
    list of (str, float)
        Families and their severities, between -0.5 (not or hardly visible) and 1.
    """
    places = [kind for kind in (*_CAMERA, *_NETWORK) if _choices(kind, families)]
    weights = np.array([_WEIGHTS.get(kind, 1.0) for kind in places])
    counts, shares = zip(*_STEPS, strict=True)
    count = min(int(rng.choice(counts, p=shares)), len(places))
    chosen = rng.choice(len(places), count, replace=False, p=weights / weights.sum())
    strengths = severity - rng.uniform(0, 0.5 + 0.5 * severity, count)
    strengths[rng.integers(count)] = severity
    chain = []
    for place, strength in zip(np.sort(chosen), strengths, strict=True):
        family = str(rng.choice(_choices(places[place], families)))
        lowest = 0.0 if family in FROM_ZERO else -0.5
        chain.append((family, max(lowest, float(strength))))
    return chain


def apply_chain(image, chain, rng):
    """Distort a picture step by step."""
    for family, severity in chain:
        image = distort(image, family, severity, rng)
    return image


def _choices(kind, families):
    return [name for name in FAULTS[kind] if name in families]
