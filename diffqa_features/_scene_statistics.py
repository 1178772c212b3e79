"""Media in, fifty natural-scene statistics out: the baseline without a network."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.special import gamma
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval

from diffqa_features._media import as_rows, open_media

_N_SCALES = 2
_SMALLEST = 16  # pixels a side, so that the second scale still has neighbours
_PAIRS = {
    "horizontal": (0, 1),
    "vertical": (1, 0),
    "diagonal": (1, 1),
    "antidiagonal": (1, -1),
}
_SHAPES = np.arange(0.2, 10.0005, 0.001)


class NaturalSceneStatistics(TransformerMixin, BaseEstimator):
    """Natural-scene statistics of images and videos, after BRISQUE.

    Locally normalised luminance of a good photograph is distributed in much the same
    way whatever it shows, and distortions change that distribution. As in BRISQUE [1]_
    this transformer describes it, and the products of neighbours, by the parameters of
    generalised Gaussian distributions at two scales (36 numbers). Fourteen plain
    statistics of luminance, gradients and colour, which BRISQUE does not see, follow.
    It is the baseline that features of a network have to beat.

    Parameters
    ----------
    max_frames : int or None, default=None
        At most so many frames of a video, spread uniformly; ``None`` takes one a
        second of a file and all of an array. The statistics are averaged over frames.

    See Also
    --------
    diffqa_features.DiffusionQAFeatures : Features of a frozen diffusion model.

    Notes
    -----
    The transformer is stateless: ``fit`` only validates parameters. Pictures are taken
    in their own size, at least 16 pixels a side.

    References
    ----------
    .. [1] Mittal, A., Moorthy, A. K. and Bovik, A. C. (2012). No-reference image
       quality assessment in the spatial domain. IEEE Transactions on Image Processing
       21(12), 4695-4708.
    .. [2] Hasler, D. and Suesstrunk, S. (2003). Measuring colourfulness in natural
       images. SPIE Human Vision and Electronic Imaging VIII.

    Examples
    --------
    >>> from diffqa_features._scene_statistics import NaturalSceneStatistics
    >>> from diffqa_features.datasets import load_sample_photos
    >>> NaturalSceneStatistics().fit_transform(load_sample_photos().data[:3]).shape
    (3, 50)
    """

    _parameter_constraints = {
        "max_frames": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(self, max_frames=None):
        self.max_frames = max_frames

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Validate the parameters; nothing is learned.

        Parameters
        ----------
        X : array-like of media
            Not opened.
        y : None
            Ignored.

        Returns
        -------
        NaturalSceneStatistics
            Itself.
        """
        as_rows(X)
        return self

    def transform(self, X):
        """Compute the statistics.

        Parameters
        ----------
        X : array-like of media of shape (n,)
            Paths of images or videos, PIL pictures, or arrays of shape (H, W, 3) or
            (T, H, W, 3).

        Returns
        -------
        ndarray of shape (n, 50), dtype float64
            Finite, also for flat pictures.

        Raises
        ------
        ValueError
            If a row cannot be read, or is smaller than 16 pixels a side.
        """
        self._validate_params()
        rows = [self._describe(row) for row in as_rows(X)]
        return np.array(rows).reshape(len(rows), len(_NAMES))

    def _describe(self, row) -> np.ndarray:
        described = []
        for frame in open_media(row).frames(max_frames=self.max_frames):
            h, w = frame.shape[:2]
            if min(h, w) < _SMALLEST:
                raise row.error(
                    f"{w} x {h} pixels; natural-scene statistics "
                    f"need {_SMALLEST} x {_SMALLEST}: drop the row."
                )
            described.append(_scene(frame) + _appearance(frame))
        return np.mean(described, axis=0)

    def get_feature_names_out(self, input_features=None):
        """Name the 50 columns.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        ndarray of shape (50,), dtype object
        """
        return np.array(_NAMES, dtype=object)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        return tags


def _luma(frame: np.ndarray) -> np.ndarray:
    return frame @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, [0, 255]


def _scene(frame: np.ndarray) -> list[float]:
    """BRISQUE's 18 numbers at each scale."""
    luma = _luma(frame)
    numbers = []
    for scale in range(_N_SCALES):
        if scale:
            h, w = luma.shape
            picture = Image.fromarray(luma.astype(np.float32))
            half = picture.resize((w // 2, h // 2), Image.Resampling.BICUBIC)
            luma = np.asarray(half, np.float64)
        x = normalise(luma)
        numbers += fit_symmetric(x)
        for down, right in _PAIRS.values():
            numbers += fit_asymmetric(neighbour_products(x, down, right))
    return numbers


def normalise(luma: np.ndarray) -> np.ndarray:
    """Mean-subtracted, contrast-normalised (MSCN) coefficients: eqs. 1-3."""
    window = {"sigma": 7 / 6, "radius": 3, "mode": "nearest"}
    mean = ndimage.gaussian_filter(luma, **window)
    variance = ndimage.gaussian_filter(luma**2, **window) - mean**2
    x = (luma - mean) / (np.sqrt(np.maximum(variance, 0)) + 1)
    # One step of one channel leaves at least 1e-5, so less is the rounding of a flat
    # patch, which would otherwise be given a shape.
    return np.where(np.abs(x) < 1e-8, 0.0, x)


def neighbour_products(x: np.ndarray, down: int, right: int) -> np.ndarray:
    """Products of pixels ``down`` rows and ``right`` columns apart: eqs. 7-10."""
    h, w = x.shape
    first = x[: h - down, max(-right, 0) : w - max(right, 0)]
    second = x[down:, max(right, 0) : w + min(right, 0)]
    return first * second


def fit_symmetric(x: np.ndarray) -> list[float]:
    """Shape and variance of a generalised Gaussian, by moments."""
    variance = np.mean(x**2)
    return [_shape(np.mean(np.abs(x)), variance), float(variance)]


def fit_asymmetric(x: np.ndarray) -> list[float]:
    """Shape, mean, left and right variance of an asymmetric one, by moments.

    Lasmar, Stitou and Berthoumieu (2009); eqs. 11-15 of Mittal et al.
    """
    left, right = (
        float(np.mean(side**2)) if side.size else 0.0 for side in (x[x < 0], x[x > 0])
    )
    low, high = np.sqrt(left), np.sqrt(right)
    # The published factor, written for both sides so that none is a denominator.
    total = (low**2 + high**2) ** 2
    skew = (low**3 + high**3) * (low + high) / total if total else 1.0
    shape = _shape(np.mean(np.abs(x)) * np.sqrt(skew), np.mean(x**2))
    spread = gamma(2 / shape) / np.sqrt(gamma(1 / shape) * gamma(3 / shape))
    return [shape, float((high - low) * spread), left, right]


def _shape(absolute: float, square: float) -> float:
    """Invert (E|x|)^2 / E[x^2] = G(2/a)^2 / (G(1/a) G(3/a)) for the shape a."""
    if square == 0:
        return float(_SHAPES[-1])  # a flat picture: nothing lies in the tails
    return float(np.interp(absolute**2 / square, _RATIOS, _SHAPES))


_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))


def _appearance(frame: np.ndarray) -> list[float]:
    """Fourteen numbers on [0, 1] pixels that BRISQUE leaves out."""
    rgb = frame / 255
    luma = _luma(frame) / 255
    low, high = np.percentile(luma, [5, 95])
    saturation = rgb.max(-1) - rgb.min(-1)
    red_green = rgb[..., 0] - rgb[..., 1]
    yellow_blue = (rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]
    gradient = np.hypot(*np.gradient(luma))
    chroma_gradient = np.hypot(*np.gradient(red_green))
    chroma_gradient += np.hypot(*np.gradient(yellow_blue))
    opponents = np.hypot(red_green.std(), yellow_blue.std())
    return [
        luma.mean(),
        luma.std(),
        np.cbrt(np.mean((luma - luma.mean()) ** 3)),
        high - low,
        np.mean(luma < 0.02),
        np.mean(luma > 0.98),
        saturation.mean(),
        saturation.std(),
        red_green.std(),
        yellow_blue.std(),
        opponents + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()),  # [2]
        gradient.mean(),
        gradient.std(),
        chroma_gradient.mean(),
    ]


_NAMES = [
    f"scale{scale}_{name}"
    for scale in range(1, _N_SCALES + 1)
    for name in (
        "mscn_shape",
        "mscn_variance",
        *(
            f"{pair}_{number}"
            for pair in _PAIRS
            for number in ("shape", "mean", "left_variance", "right_variance")
        ),
    )
] + [
    "luminance_mean",
    "luminance_std",
    "luminance_skew",
    "luminance_range",
    "dark_fraction",
    "bright_fraction",
    "saturation_mean",
    "saturation_std",
    "red_green_std",
    "yellow_blue_std",
    "colorfulness",
    "gradient_mean",
    "gradient_std",
    "chroma_gradient_mean",
]
