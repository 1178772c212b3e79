"""`QualityScorer`: pictures in; JOD, its uncertainty, faults and places out."""

import os
from functools import lru_cache
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils._param_validation import Interval

from diffqa_features._media.rows import as_rows, open_media
from diffqa_features._utils.files import local_path
from diffqa_features.learned import _files
from diffqa_features.learned._base import state_arrays
from diffqa_features.learned.scorer.tiles import SMALLEST, cut_tiles, cut_windows

_SHIPPED = Path(__file__).parent
_NAMES = ("tiny",)
_CHUNK = 16  # tiles per pass; more do not fit into a processor's cache


def load_scorer(name="tiny", **parameters):
    """Load a scorer that needs no opinion scores, no backbone and no download.

    Parameters
    ----------
    name : str or path, default="tiny"
        ``"tiny"``, which is shipped, or a folder with a scorer's two files.
    **parameters : object
        Parameters of :class:`QualityScorer`, such as `device`.

    Returns
    -------
    QualityScorer
        Ready to predict.

    Raises
    ------
    ValueError
        If there is no scorer of that name, or its files are damaged.
    OSError
        If a folder is given and has no scorer in it.

    Examples
    --------
    >>> from diffqa_features import load_scorer
    >>> from diffqa_features.datasets import load_sample_photos
    >>> load_scorer().predict(load_sample_photos().data[:2]).shape
    (2,)
    """
    scorer = QualityScorer(weights=name, **parameters)
    scorer._validate_params()
    _load(scorer._folder())
    return scorer


class QualityScorer(RegressorMixin, BaseEstimator):
    """Predict the visible loss of pictures, its kind and its place, without fitting.

    The unit is JOD, just-objectionable differences: 10 is no visible loss, and if two
    pictures are one JOD apart, three out of four people prefer the better one. The
    scale was learned from ColorVideoVDP [1]_, which compares pictures with their
    originals and was fitted to human judgements: it estimates what was lost since the
    picture was taken, not its beauty.

    Parameters
    ----------
    weights : str or path, default="tiny"
        ``"tiny"``, which is shipped, or a folder with a scorer's two files. The model
        card beside them says what it was trained on and where it fails.
    max_tiles : int or None, default=48
        Pictures are cut into tiles of 128 pixels at native resolution. If a picture has
        more tiles than this, only this many are used, evenly spread. ``None`` uses all.
    device : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``None`` is the CPU, which is
        fast enough.

    See Also
    --------
    load_scorer : Creates one, and checks its weights at once.
    DistilledStudentRegressor : Learns from this, or from any other teacher.

    Notes
    -----
    The estimator is stateless: `fit` only validates parameters, so it can be used in
    pipelines, searches and comparisons beside estimators that learn.

    A picture's JOD is the mean over its tiles. Videos raise an error: temporal
    artefacts are invisible in single frames.

    References
    ----------
    .. [1] Mantiuk, R. K., Hanji, P., Ashraf, M., Asano, Y. and Chapiro, A. (2024).
       ColorVideoVDP: A visual difference predictor for image, video and display
       distortions. ACM Transactions on Graphics 43(4).

    Examples
    --------
    >>> from diffqa_features import QualityScorer
    >>> from diffqa_features.datasets import load_sample_photos, make_distorted_images
    >>> photo = load_sample_photos().data[0]
    >>> noisy = make_distorted_images([photo], families="white_noise", n_levels=2)
    >>> clean, strong = QualityScorer().predict([photo, noisy.data[1]])
    >>> bool(clean > strong)
    True
    """

    _parameter_constraints: dict = {
        "weights": [str, os.PathLike],
        "max_tiles": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str, None],
    }

    def __init__(self, weights="tiny", *, max_tiles=48, device=None):
        self.weights = weights
        self.max_tiles = max_tiles
        self.device = device

    def fit(self, X=None, y=None):
        """Check the parameters; nothing is learned.

        Parameters
        ----------
        X : object, default=None
            Not used.
        y : object, default=None
            Not used.

        Returns
        -------
        self : object
            The estimator.
        """
        self._validate_params()
        _load(self._folder())
        return self

    def predict(self, X):
        """Predict JOD.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            See `DiffusionQAFeatures.transform`; pictures of at least 32 pixels a side.

        Returns
        -------
        ndarray of shape (N,), dtype float64
            At most 10; higher is better.

        Raises
        ------
        ValueError
            If a row is a video, too small or cannot be read.
        """
        return self._score(X)[0]

    def predict_std(self, X):
        """Predict the uncertainty of `predict`.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `predict`.

        Returns
        -------
        ndarray of shape (N,), dtype float64
            Standard deviations, JOD. The model card reports how many unseen pictures
            lie within two of them.
        """
        return self._score(X)[1]

    def diagnose(self, X):
        """Predict which kinds of fault a picture has.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `predict`.

        Returns
        -------
        DataFrame of shape (N, n_faults)
            Probabilities, one column per kind of fault; several may be high. Rows are
            those of `X`, with its index if it has one.
        """
        return self.assess(X).drop(columns=["jod", "std"])

    def assess(self, X):
        """Predict JOD, its uncertainty and faults at once.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `predict`.

        Returns
        -------
        DataFrame of shape (N, 2 + n_faults)
            The columns ``jod`` and ``std``, and those of `diagnose`.
        """
        import pandas as pd

        scores, spreads, faults = self._score(X)
        _, names = _load(self._folder())
        table = pd.DataFrame(faults, columns=names, index=_index(X))
        table.insert(0, "jod", scores)
        table.insert(1, "std", spreads)
        return table

    def quality_maps(self, X):
        """Predict where the visible loss is.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `predict`.

        Returns
        -------
        ndarray of shape (N, 1, 8, 8), dtype float32
            Loss, 10 minus JOD and at least 0, of windows of 64 pixels (or of the
            shorter side) that are evenly spread over the picture.
        """
        maps = []
        for row in as_rows(X):
            scores, _, _ = self._look(cut_windows(_read(row)))
            maps.append(np.maximum(0, 10 - scores).reshape(1, 8, 8))
        return np.stack(maps).astype(np.float32)

    def _score(self, X):
        """JOD (N,), standard deviations (N,), probabilities of faults (N, F)."""
        self._validate_params()
        rows = [self._score_row(row) for row in as_rows(X)]
        scores, spreads, faults = zip(*rows, strict=True)
        return np.array(scores), np.array(spreads), np.stack(faults)

    def _score_row(self, row):
        scores, spreads, faults = self._look(cut_tiles(_read(row), self.max_tiles))
        # Tiles of a picture err together: their mean is no surer than one of them.
        variance = np.mean(spreads**2) + np.var(scores) / len(scores)
        return min(scores.mean(), 10.0), np.sqrt(variance), faults.mean(0)

    def _look(self, tiles):
        """JOD (n,), standard deviations (n,) and probabilities (n, F) of tiles."""
        import torch

        from diffqa_features._utils.batching import in_halves
        from diffqa_features._utils.devices import pick_device

        device = pick_device(self.device or "cpu")
        network, _ = _load(self._folder(), device)

        @torch.inference_mode()
        def run(chunk):
            pixels = torch.from_numpy(chunk).to(device)
            found = network(pixels.permute(0, 3, 1, 2).float() / 255)
            return [part.double().cpu().numpy() for part in found]

        parts, _ = in_halves(run, tiles, _CHUNK)
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _folder(self):
        if str(self.weights) in _NAMES:
            return _SHIPPED / str(self.weights)
        folder = local_path(self.weights, "The 'weights' parameter")
        if not folder.is_dir():
            raise ValueError(
                f"The 'weights' parameter of {type(self).__name__} must be "
                f"{' or '.join(map(repr, _NAMES))} or a folder with a scorer. Got "
                f"{str(self.weights)!r} instead, and there is no such folder."
            )
        return folder

    def __sklearn_is_fitted__(self):
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.target_tags.required = False
        tags.no_validation = True
        tags.requires_fit = False
        return tags


def save_scorer(network, faults, folder, facts):
    """Write a trained network; its matrices in half precision."""
    from diffqa_features import __version__

    halves = state_arrays(network)
    for name in halves:
        if name.startswith("weights."):
            halves[name] = halves[name].astype(np.float16)
    config = {
        "library": f"diffqa_features {__version__}",
        "estimator": QualityScorer.__name__,
        "parameters": {},
        "fitted": {"faults": list(faults), "training": facts},
    }
    _files.save(folder, config, halves)


def _load(folder, device="cpu"):
    """Network and names of faults, once per device and version of the files."""
    path = Path(folder) / "model.safetensors"
    stamp = path.stat().st_mtime_ns if path.is_file() else None
    return _load_files(str(folder), stamp, str(device))


@lru_cache(maxsize=4)
def _load_files(folder, stamp, device):
    import torch

    from diffqa_features.learned.scorer.network import build

    config, weights = _files.load(folder)
    if config["estimator"] != QualityScorer.__name__:
        raise ValueError(
            f"'{folder}' holds a {config['estimator']!r}, not a "
            f"{QualityScorer.__name__}."
        )
    faults = config["fitted"].get("faults")
    if not isinstance(faults, list) or not all(isinstance(f, str) for f in faults):
        raise ValueError(f"'{folder}': 'faults' in config.json is not a list of names.")
    with torch.inference_mode(False):  # a caller may be in it
        try:
            network = build(weights, len(faults))
        except (KeyError, RuntimeError, ValueError, IndexError) as error:
            raise ValueError(
                f"'{folder}' holds weights of another network: {error}"
            ) from error
        return network.eval().requires_grad_(False).to(device), faults


def _read(row):
    """Pixels (H, W, 3) of a still picture that is large enough."""
    media = open_media(row)
    media.check_still("scorer")
    (pixels,) = media.frames()
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        raise row.error(
            f"{width} x {height} pixels, but a picture must have at least {SMALLEST} a "
            "side to be scored; drop the row."
        )
    return pixels


def _index(X):
    index = getattr(X, "index", None)
    return None if index is None or callable(index) else index
