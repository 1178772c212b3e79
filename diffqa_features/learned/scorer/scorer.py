"""`QualityScorer`: media in; JOD, its uncertainty, faults and places out."""

import os
from functools import lru_cache, partial
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions

from diffqa_features._media.rows import as_rows, open_media
from diffqa_features._media.video.video import VIDEO_BACKENDS
from diffqa_features._utils.files import local_path
from diffqa_features.learned import _files
from diffqa_features.learned._base import state_arrays
from diffqa_features.learned.scorer.perceptrons import Perceptrons
from diffqa_features.learned.scorer.statistics import describe
from diffqa_features.learned.scorer.tiles import SMALLEST, cut_tiles, cut_windows
from diffqa_features.learned.scorer.videos import (
    FEWEST,
    TIMING,
    VideoMachine,
    burst_columns,
    frame_times,
    read_bursts,
)

_SHIPPED = Path(__file__).parent
_NAMES = ("tiny",)


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
    return scorer.fit()


class QualityScorer(RegressorMixin, BaseEstimator):
    """Predict the visible loss of pictures and videos, its kind, and where it is.

    The unit is JOD, just-objectionable differences: 10 is no visible loss, and if two
    pictures are one JOD apart, three out of four people prefer the better one. The
    scale was learned from ColorVideoVDP [1]_, which compares pictures with their
    originals and was fitted to human judgements: it estimates what was lost since the
    picture was taken, not its beauty.

    Parameters
    ----------
    weights : str or path, default="tiny"
        ``"tiny"``, which is shipped, or a folder with a scorer's two files and, for
        videos, two more in its folder ``video``. The model cards beside them say what
        they were trained on and where they fail.
    max_tiles : int or None, default=48
        Pictures are cut into tiles of 128 pixels (96 to 128 where a side has 129 to
        255) at native resolution. If a picture has more tiles than this, only this
        many are used, evenly spread. ``None`` uses all.
    device : str, default=None
        Where the perceptrons are: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``;
        ``None`` is the CPU, for which torch is not loaded. The statistics, which take
        nearly all of the time, are computed on the CPU in any case.
    max_bursts : int or None, default=8
        Videos are seen in bursts of 32 adjacent frames. If a video has more of them
        than this, only this many are used, evenly spread. ``None`` uses all.
    reader : {"auto", "decord", "imageio"}, default="auto"
        Decoder for video files, as in :class:`DiffusionQAFeatures`.

    See Also
    --------
    load_scorer : Creates one, and checks its weights at once.
    DistilledStudentRegressor : Learns from this, or from any other teacher.

    Notes
    -----
    The estimator is stateless: `fit` only validates parameters, so it can be used in
    pipelines, searches and comparisons beside estimators that learn.

    A picture's JOD is the mean over its tiles; a video's is the mean over its bursts,
    weighted by their inverse predicted variance. A burst is judged by the scores of
    three of its frames and by how its frames change: repeats, jumps, uneven steps,
    changes of brightness, the gaps between timestamps. An array (T, H, W, 3) has no
    time base and is assumed to have 30 frames per second. A video of one frame is a
    picture; fewer than 8 frames are too few to judge timing and raise an error.

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
        "max_bursts": [Interval(Integral, 1, None, closed="left"), None],
        "reader": [StrOptions(set(VIDEO_BACKENDS))],
    }

    def __init__(
        self,
        weights="tiny",
        *,
        max_tiles=48,
        device=None,
        max_bursts=8,
        reader="auto",
    ):
        self.weights = weights
        self.max_tiles = max_tiles
        self.device = device
        self.max_bursts = max_bursts
        self.reader = reader

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
        self._kinds()  # loads both parts
        return self

    def predict(self, X):
        """Predict JOD.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures or videos
            See `DiffusionQAFeatures.transform`; at least 32 pixels a side.

        Returns
        -------
        ndarray of shape (N,), dtype float64
            At most 10; higher is better.

        Raises
        ------
        ValueError
            If a row is too small, a video too short, or cannot be read.
        """
        return self._score(X)[0]

    def predict_std(self, X):
        """Predict the uncertainty of `predict`.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures or videos
            As in `predict`.

        Returns
        -------
        ndarray of shape (N,), dtype float64
            Standard deviations, JOD. The model card reports how many unseen pictures
            lie within two of them.
        """
        return self._score(X)[1]

    def diagnose(self, X):
        """Predict which kinds of fault a picture or video has.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures or videos
            As in `predict`.

        Returns
        -------
        DataFrame of shape (N, n_faults)
            Probabilities, one column per kind of fault; several may be high. Kinds of
            timing (freeze, drop, judder, low_rate, flicker) are 0 for pictures. Rows
            are those of `X`, with its index if it has one.
        """
        return self.assess(X).drop(columns=["jod", "std"])

    def assess(self, X):
        """Predict JOD, its uncertainty and faults at once.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures or videos
            As in `predict`.

        Returns
        -------
        DataFrame of shape (N, 2 + n_faults)
            The columns ``jod`` and ``std``, and those of `diagnose`.
        """
        import pandas as pd

        scores, spreads, faults = self._score(X)
        table = pd.DataFrame(faults, columns=self._kinds(), index=_index(X))
        table.insert(0, "jod", scores)
        table.insert(1, "std", spreads)
        return table

    def frame_scores(self, X):
        """Score the bursts of a video, for :class:`FrameScoresDisplay`.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures or videos
            As in `predict`.

        Returns
        -------
        list of N :class:`~sklearn.utils.Bunch`
            For the T bursts of a row (one for a picture): ``score``, an ndarray of
            shape (T,), JOD; ``weight`` (T,), with sum 1; ``frame`` (T,), the index of
            the frame in the middle; ``time`` (T,), in seconds, or None if the medium
            has no time base. The prediction is the sum of score times weight.
        """
        self._validate_params()
        return [self._score_row(row)[-1] for row in as_rows(X)]

    def quality_maps(self, X):
        """Predict where the visible loss is.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `predict`, without videos.

        Returns
        -------
        ndarray of shape (N, 1, 8, 8), dtype float32
            Loss, 10 minus JOD and at least 0, of windows of 64 pixels (or of the
            shorter side) that are evenly spread over the picture.
        """
        self._validate_params()
        maps = []
        for row in as_rows(X):
            media = open_media(row, self.reader)
            if len(frame_times(media)) > 1:
                media.check_still("map of the scorer")
            (pixels,) = media.read([0])
            _check_size(row, pixels)
            scores, _, _ = self._look(cut_windows(pixels))
            maps.append(np.maximum(0, 10 - scores).reshape(1, 8, 8))
        return np.stack(maps).astype(np.float32)

    def _score(self, X):
        """JOD (N,), standard deviations (N,), probabilities of faults (N, F)."""
        self._validate_params()
        rows = [self._score_row(row) for row in as_rows(X)]
        scores, spreads, faults, _ = zip(*rows, strict=True)
        return np.array(scores), np.array(spreads), np.stack(faults)

    def _score_row(self, row):
        return self._score_media(open_media(row, self.reader))

    def _score_media(self, media):
        """JOD, standard deviation, probabilities (F,), and parts as `frame_scores`."""
        times = frame_times(media)
        if len(times) > 1:
            return self._score_clip(media, times)
        (pixels,) = media.read([0])
        _check_size(media.row, pixels)
        score, spread, faults = self._judge(cut_tiles(pixels, self.max_tiles))
        kinds = np.zeros(len(self._kinds()))  # a picture has none of timing
        kinds[: len(faults)] = faults
        parts = Bunch(
            score=np.array([score]),
            weight=np.ones(1),
            frame=np.zeros(1, int),
            time=None if media.times() is None else times,
        )
        return score, spread, kinds, parts

    def _score_clip(self, media, times):
        row, machine = media.row, _load_machine(self._folder())
        if machine is None:
            raise row.error(
                f"this is a video, and the scorer in '{self._folder()}' has no part "
                "for videos (the folder 'video'). Pass single frames."
            )
        if len(times) < FEWEST:
            raise row.error(
                f"a clip of {len(times)} frames, but at least {FEWEST} are needed to "
                "judge its timing; pass single frames, or drop the row."
            )
        scores, spreads, kinds, frames = [], [], [], []
        check = partial(_check_size, row)
        for burst in read_bursts(media, times, self.max_bursts, self.max_tiles, check):
            verdicts = [self._judge(tiles) for tiles in burst.looked_at]
            answers = machine(burst_columns(burst, verdicts))
            score, spread, timing = self._checked(answers)
            pictures = np.mean([faults for *_, faults in verdicts], 0)
            scores.append(score)
            spreads.append(spread)
            kinds.append(np.concatenate([pictures, timing]))
            frames.append(burst.middle)
        scores, spreads, frames = map(np.array, (scores, spreads, frames))
        weights = spreads**-2.0 / (spreads**-2.0).sum()
        parts = Bunch(
            score=scores,
            weight=weights,
            frame=frames,
            time=None if media.times() is None else times[frames],
        )
        return *_combine(scores, spreads, np.array(kinds), weights), parts

    def _judge(self, tiles):
        """JOD, standard deviation and probabilities (F,) of a picture's tiles."""
        # Weights by predicted variance rank worse: undamaged tiles are the surest.
        return _combine(*self._look(tiles), np.full(len(tiles), 1 / len(tiles)))

    def _kinds(self):
        """Names of the faults, those of timing last."""
        _, names, _ = _load(self._folder())
        has_videos = _load_machine(self._folder()) is not None
        return [*names, *(TIMING if has_videos else ())]

    def _look(self, tiles):
        """JOD (n,), standard deviations (n,) and probabilities (n, F) of tiles."""
        perceptrons, _, _ = _load(self._folder(), self.device or "cpu")
        return self._checked(perceptrons(describe(tiles)))

    def _checked(self, answers):
        """`answers`; ValueError where they overflow, as those of damaged weights."""
        if not all(np.isfinite(part).all() for part in answers):
            raise ValueError(
                f"The scorer in '{self._folder()}' answers with NaN or infinity: its "
                "weights are damaged. Restore them from a copy, or train it again."
            )
        return answers

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
    """Perceptrons, names of faults, digest; once per device and version of files."""
    return _load_files(str(folder), _changed(folder), str(device))


def _changed(folder):
    """What differs between versions of the files in a folder; None if it has none.

    Not the time of change alone: unpacked and copied files have that of the original.
    """
    found = []
    for name in ("model.safetensors", "config.json"):
        try:
            stat = Path(folder, name).stat()
        except (FileNotFoundError, NotADirectoryError):
            if not found:
                return None
            continue
        found.append((
            stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        ))  # fmt: skip
    return tuple(found)


@lru_cache(maxsize=4)
def _load_files(folder, stamp, device):
    config, weights = _read(folder, QualityScorer)
    faults = config["fitted"].get("faults")
    if not isinstance(faults, list) or not all(isinstance(f, str) for f in faults):
        raise ValueError(f"'{folder}': 'faults' in config.json is not a list of names.")
    taken = {"jod", "std", *TIMING}
    if len({*faults, *taken}) < len(faults) + len(taken):
        raise ValueError(
            f"'{folder}': 'faults' in config.json must be distinct, and none of "
            f"{', '.join(sorted(taken))}. Got {faults}."
        )
    try:
        perceptrons = Perceptrons(weights, len(faults))
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"'{folder}' holds weights of another network: {error}"
        ) from error
    if device != "cpu":
        perceptrons = _on_device(weights, device)
    return perceptrons, faults, config["weights_sha256"]


def _on_device(weights, device):
    """The same by torch, which takes seconds to load."""
    import torch

    from diffqa_features._utils.devices import pick_device
    from diffqa_features.learned.scorer.network import build

    with torch.inference_mode(False):  # a caller may be in it
        device = pick_device(device)
        network = build(weights, device)

    @torch.inference_mode()
    def perceptrons(rows):
        found = network(torch.from_numpy(rows).to(device))
        return [part.cpu().double().numpy() for part in found]  # MPS has no double

    return perceptrons


def _load_machine(folder):
    """The part for videos, once per version of its files; None if there is none."""
    part = Path(folder, "video")
    stamp = _changed(part)
    if stamp is None:
        return None
    _, _, picture_part = _load(folder)
    return _load_machine_files(str(part), stamp, picture_part)


@lru_cache(maxsize=4)
def _load_machine_files(folder, stamp, picture_part):
    config, weights = _read(folder, VideoMachine)
    trained = config["fitted"].get("training")
    known = trained.get("picture_part") if isinstance(trained, dict) else None
    if known != picture_part:
        raise ValueError(
            f"'{folder}' was trained on the scores of another part for pictures than "
            f"that in '{Path(folder).parent}'. Copy both folders of one scorer, or "
            "remove the folder 'video' to score pictures only."
        )
    try:
        return VideoMachine(weights, config["fitted"]["columns"])
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"'{folder}' holds weights of another machine: {error}"
        ) from error


def _read(folder, kind):
    """Configuration and arrays of a folder that holds this kind of machine."""
    config, weights = _files.load(folder)
    if config["estimator"] != kind.__name__:
        raise ValueError(
            f"'{folder}' holds a {config['estimator']!r}, not a {kind.__name__}."
        )
    return config, weights


def _combine(scores, spreads, faults, weights):
    """Weighted means over the tiles of a picture or the bursts of a clip."""
    score = weights @ scores
    # They err together: their mean is no surer than one of them.
    variance = weights @ (spreads**2) + weights @ (scores - score) ** 2 / len(scores)
    return min(score, 10.0), np.sqrt(variance), weights @ faults


def _check_size(row, pixels):
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        raise row.error(
            f"{width} x {height} pixels, but a picture must have at least {SMALLEST} a "
            "side to be scored; drop the row."
        )


def _index(X):
    index = getattr(X, "index", None)
    return None if index is None or callable(index) else index
