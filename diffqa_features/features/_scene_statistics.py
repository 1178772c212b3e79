"""Media in, fifty natural-scene statistics out: the baseline without a network."""

from __future__ import annotations

from functools import partial
from numbers import Integral

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.special import gamma
from sklearn.utils._param_validation import Interval

from diffqa_features._engine.parallel import map_rows, put_or_disable
from diffqa_features._media.rows import as_rows, open_media
from diffqa_features._store.store import as_store
from diffqa_features._utils.hashing import make_key
from diffqa_features.features._base import MediaTransformer

_N_SCALES = 2
_SMALLEST = 16  # pixels a side, so that the second scale still has neighbours
_PAIRS = {
    "horizontal": (0, 1),
    "vertical": (1, 0),
    "diagonal": (1, 1),
    "antidiagonal": (1, -1),
}
_SHAPES = np.arange(0.2, 10.0005, 0.001)


class NaturalSceneStatistics(MediaTransformer):
    """Natural-scene statistics of images and videos, after BRISQUE.

    In good photographs, locally normalised luminance follows much the same distribution
    regardless of content, and distortions change that distribution. As in BRISQUE [1]_,
    the distribution and that of products of neighbouring pixels are described by the
    parameters of generalised Gaussians at two scales (36 numbers). Fourteen simple
    statistics of luminance, gradients and colour, which BRISQUE does not use, are
    appended. This is the baseline that network features have to beat; it needs no
    model.

    Parameters
    ----------
    max_frames : int or None, default=None
        Maximum number of frames of a video, evenly spaced; ``None`` uses one frame per
        second of a file and all frames of an array. The statistics are averaged over
        frames.
    memory : str, path, FeatureStore or None, default=None
        Folder or store that caches the statistics on disk, by content.
    n_jobs : int or None, default=None
        Processes that share the rows. ``None`` means 1 unless in a
        ``joblib.parallel_config`` context.
    on_error : {"raise", "nan"}, default="raise"
        What to do with a row that cannot be read: raise an error, or return a row of
        NaN with a warning.
    verbose : int, default=0
        Above 0, show a progress bar over rows.

    Attributes
    ----------
    failed_ : list of (int, str)
        Index and reason for every row that the last call of `transform` could not read.

    See Also
    --------
    diffqa_features.DiffusionQAFeatures : Features of a frozen diffusion model.

    Notes
    -----
    The transformer is stateless: ``fit`` only validates parameters. Pictures are
    analysed at their own size, which must be at least 16 pixels a side.

    References
    ----------
    .. [1] Mittal, A., Moorthy, A. K. and Bovik, A. C. (2012). No-reference image
       quality assessment in the spatial domain. IEEE Transactions on Image Processing
       21(12), 4695-4708.
    .. [2] Hasler, D. and Suesstrunk, S. (2003). Measuring colourfulness in natural
       images. SPIE Human Vision and Electronic Imaging VIII.

    Examples
    --------
    >>> from diffqa_features import NaturalSceneStatistics
    >>> from diffqa_features.datasets import load_sample_photos
    >>> NaturalSceneStatistics().fit_transform(load_sample_photos().data[:3]).shape
    (3, 50)
    """

    _parameter_constraints: dict = {
        "max_frames": [Interval(Integral, 1, None, closed="left"), None],
        **{
            name: MediaTransformer._parameter_constraints[name]
            for name in ("memory", "n_jobs", "on_error", "verbose")
        },
    }

    def __init__(
        self, max_frames=None, memory=None, n_jobs=None, on_error="raise", verbose=0
    ):
        self.max_frames = max_frames
        self.memory = memory
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.verbose = verbose

    def transform(self, X):
        """Compute the statistics.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            See `DiffusionQAFeatures.transform`.

        Returns
        -------
        ndarray of shape (N, 50), dtype float32
            Finite even for flat pictures; NaN for rows that could not be read.

        Raises
        ------
        ValueError
            If a row cannot be read, or is smaller than 16 pixels a side, and
            `on_error` is ``"raise"``.
        """
        self._validate_params()
        rows = as_rows(X)
        store = as_store(self.memory)
        if store is not None:
            store.info()  # an unusable store is one error, not one per row
        describe = partial(
            _describe_rows,
            max_frames=None if self.max_frames is None else int(self.max_frames),
            store=store,
            on_error=self.on_error,
        )
        parts, self.failed_ = map_rows(
            rows, describe, device="cpu", n_jobs=self.n_jobs, verbose=self.verbose
        )
        matrix = np.empty((len(rows), len(_NAMES)), np.float32)
        for places, part in parts:
            matrix[places] = part
        self._warn_of_failed(rows)
        return matrix

    def get_feature_names_out(self, input_features=None):
        """Get the names of the 50 columns.

        Parameters
        ----------
        input_features : object, default=None
            Ignored; present for API consistency.

        Returns
        -------
        ndarray of str of shape (50,)
            For example ``scale1_mscn_shape``.
        """
        return np.array(_NAMES, dtype=object)

    def _check_parameters(self):
        """No parameter depends on another one."""


def _describe_rows(rows, advance, *, max_frames, store, on_error):
    """The statistics of the rows of one process, and the rows that failed."""
    matrix = np.full((len(rows), len(_NAMES)), np.nan, np.float32)
    failed = []
    for i, row in enumerate(rows):
        try:
            media = open_media(row)
            key = make_key("scene statistics", media.key, max_frames)
            stored = {} if store is None else store.get([key])
            if key not in stored:
                stored = {key: _describe(media, max_frames)}
                store = put_or_disable(store, stored)
            matrix[i] = stored[key]
        except (ValueError, OSError) as error:
            if on_error == "raise":
                raise
            failed.append((row.index, str(error)))
        advance(1)
    return matrix, failed


def _describe(media, max_frames) -> np.ndarray:
    described = []
    for frame in media.frames(max_frames=max_frames):
        h, w = frame.shape[:2]
        if min(h, w) < _SMALLEST:
            raise media.row.error(
                f"{w} x {h} pixels; natural-scene statistics "
                f"need {_SMALLEST} x {_SMALLEST}: drop the row."
            )
        described.append(_scene(frame) + _appearance(frame))
    return np.mean(described, axis=0).astype(np.float32)


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
