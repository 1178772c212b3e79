"""`MotionFeatures`: videos in, named columns of motion features out."""

import os
from functools import partial

import numpy as np
from sklearn.utils._param_validation import StrOptions

from diffqa_features._media.rows import as_rows
from diffqa_features._media.video.video import VIDEO_BACKENDS
from diffqa_features._store.store import as_store
from diffqa_features._utils.checks import InOrder
from diffqa_features._utils.statistics import pool_rows
from diffqa_features.features._base import MediaTransformer
from diffqa_features.motion._extract import MotionRequest, extract_motion
from diffqa_features.motion._weights import find_weights

STATISTICS = ("mean", "std")

_SIZES = {"tiny": 96, "r50": 224}
_CHANNELS = {"tiny": (64, 32), "r50": (2048, 256)}


class MotionFeatures(MediaTransformer):
    """Features of motion from a frozen two-pathway network (SlowFast).

    A slow pathway sees every fourth frame of a clip and captures what is shown; a thin
    fast pathway sees all frames and captures how it moves [1]_.
    :class:`DiffusionQAFeatures` look at one frame at a time; these columns add what is
    only visible over time: speed, dropped frames, freezes, judder, flicker. Nothing is
    trained: `fit` only checks the parameters and remembers the network.

    Parameters
    ----------
    motion_network : str or path, default="tiny"
        ``"tiny"``, a small network that ships with the package and was trained on
        procedural clips; ``"slowfast_r50"``, SlowFast-R50 8x8 trained on Kinetics-400,
        the motion input of GenzVQA, read from the cache of ``torch.hub`` or downloaded
        there once (138 MB); or a weights file of either network: ``.pyth``, ``.pth`` or
        ``.pt`` (SlowFast-R50; read as data, never executed) or ``.safetensors``.
        Weights are loaded on first use, once per process, and never pickled.

    pooling : str or sequence of str, default=("mean",)
        Statistics over the clips of a video: ``"mean"``, ``"std"`` (0 if there is only
        one clip).

    memory : str, path or FeatureStore, default=None
        Folder or store that caches the features of clips, by content. A video whose
        clips are all cached is not decoded again.

    batch_size : int, default=None
        Clips per pass. ``None`` chooses by device. A batch that runs out of memory is
        halved.

    device : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``None`` uses the first
        accelerator found, else the CPU.

    dtype : {"auto", "float32", "float16", "bfloat16"}, default=None
        Precision of the network. ``None`` means float16 on CUDA and float32 elsewhere;
        ``"auto"`` is the same but on a CPU with AMX, where it is bfloat16. What
        overflows in half precision is recomputed in float32. Features are always
        float32.

    n_jobs : int, default=None
        Processes (any joblib backend), each with its own network. Not allowed on a GPU,
        where larger batches have the same effect with less memory.

    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that cannot be read: raise at the first one; or fill them
        with NaN, warn, and list them in ``failed_``.

    verbose : int, default=0
        1 shows a progress bar.

    reader : {"auto", "decord", "imageio"}, default="auto"
        Decoder for video files, as in :class:`DiffusionQAFeatures`. Frames, and
        therefore stored features, are identical. ``"auto"`` is imageio here: a clip
        uses every frame, so decord's seeking gains nothing, and decord decodes far
        ahead of the requested frame.

    Attributes
    ----------
    failed_ : list of (int, str)
        Index and reason for every row of the last call that could not be read.
    frozen_identity_ : str
        Fingerprint of the model's weights and configuration at `fit`. `transform`
        refuses others.

    See Also
    --------
    DiffusionQAFeatures : Features of single frames.
    FeatureStore : The store behind `memory`.

    Notes
    -----
    *Clips.* A clip is 32 consecutive frames at the video's own frame rate. There is one
    clip for every second of which at least half is shown, and at least one per video.
    It starts at the first frame at or after that second, or earlier if it would run
    past the end. Frames are stretched to 224 x 224 pixels (96 x 96 for ``tiny``).

    *Short videos, arrays and images.* A video shorter than a clip is played forwards
    and backwards, which avoids an artificial freeze. An array (T, H, W, 3) has no time
    base and is assumed to have 30 frames per second, which determines where its clips
    start. An image is a clip in which nothing moves.

    *Columns* are named ``slow__mean__0000`` ... ``fast__std__0255``: 2048 slow and 256
    fast ones per statistic, 64 and 32 for ``tiny``.

    *Memory.* Frames are decoded one at a time and downscaled immediately; only a few
    clips of downscaled frames are in memory, never a whole video (except in decord's
    own queue).

    The file of ``"slowfast_r50"`` has no published checksum: its tensor names and
    shapes are checked, and its SHA-256 is logged.

    References
    ----------
    .. [1] C. Feichtenhofer, H. Fan, J. Malik and K. He, "SlowFast networks for video
       recognition", ICCV 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features import MotionFeatures
    >>> still = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    >>> moving = np.stack([np.roll(still, 2 * t, axis=1) for t in range(40)])
    >>> features = MotionFeatures(pooling=("mean", "std"))
    >>> features.fit_transform([still, moving]).shape
    (2, 192)
    >>> features.get_feature_names_out()[[0, 64, 96]].tolist()
    ['slow__mean__0000', 'fast__mean__0000', 'slow__std__0000']
    >>> slow, fast = features.sequences([moving])[0]
    >>> slow.shape, fast.shape
    ((1, 64), (1, 32))
    """

    _parameter_constraints: dict = {
        "motion_network": [str, os.PathLike],
        "pooling": [str, InOrder()],
        **MediaTransformer._parameter_constraints,
        "reader": [StrOptions(set(VIDEO_BACKENDS))],
    }

    def __init__(
        self,
        motion_network="tiny",
        *,
        pooling=("mean",),
        memory=None,
        batch_size=None,
        device=None,
        dtype=None,
        n_jobs=None,
        on_error="raise",
        verbose=0,
        reader="auto",
    ):
        self.motion_network = motion_network
        self.pooling = pooling
        self.memory = memory
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.verbose = verbose
        self.reader = reader

    def transform(self, X):
        """Compute the features of media rows, pooled over their clips.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            See `DiffusionQAFeatures.transform`; clips of one size as an array
            (N, T, H, W, 3).

        Returns
        -------
        ndarray of shape (N, D), dtype float32
            One row per medium. A DataFrame after ``set_output``.

        Raises
        ------
        ValueError
            If a parameter is invalid, or a row cannot be read and `on_error` is
            ``"raise"``: the message names the row, the file and a remedy.
        OSError
            If the weights or a file cannot be found.
        """
        finish = partial(pool_rows, statistics=self._statistics())
        matrix = np.stack(self._extract(X, finish))
        self._warn_of_failed(matrix)
        return matrix

    def sequences(self, X):
        """Compute the features of each clip, the input of GenzVQA.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            As for `transform`.

        Returns
        -------
        list of N tuples (slow, fast)
            ``slow`` is an ndarray of shape (clips, 2048) and ``fast`` of
            (clips, 256), float32, in the order of the clips; 64 and 32 columns for
            ``tiny``. A row that could not be read yields one clip of NaN.

        Raises
        ------
        ValueError
            As for `transform`.
        OSError
            As for `transform`.
        """
        clips = self._sequences(X)
        self._warn_of_failed(clips)
        return clips

    def _sequences(self, X):
        """`sequences`, for those who warn of failed rows themselves."""
        slow, _ = self._channels()
        # Not a lambda, which cannot be sent to other processes.
        clips = self._extract(X, np.asarray)
        return [(values[:, :slow], values[:, slow:]) for values in clips]

    def get_feature_names_out(self, input_features=None):
        """Get the column names without loading weights.

        Parameters
        ----------
        input_features : object, default=None
            Ignored; present for API consistency.

        Returns
        -------
        ndarray of str of shape (D,)
            For example ``fast__mean__0007``.
        """
        self._validate_params()
        paths = list(zip(("slow", "fast"), self._channels(), strict=True))
        names = [
            f"{path}__{statistic}__{channel:04d}"
            for statistic in self._statistics()
            for path, count in paths
            for channel in range(count)
        ]
        return np.array(names, object)

    def _extract(self, X, finish):
        self._validate_params()
        self._statistics()
        rows = as_rows(X)
        request = self._request()
        results, self.failed_ = extract_motion(
            rows,
            request,
            finish,
            store=as_store(self.memory),
            n_jobs=self.n_jobs,
            on_error=self.on_error,
            verbose=self.verbose,
        )
        return results

    def _check_parameters(self):
        self._statistics()
        return find_weights(self.motion_network)

    def _frozen_identity(self):
        info = find_weights(self.motion_network)
        self._check_frozen(info)
        return info.identity

    def _request(self):
        info = self._check_parameters()
        self._check_frozen(info)
        return MotionRequest(
            weights=info,
            identity=info.identity,
            size=_SIZES[info.kind],
            channels=_CHANNELS[info.kind],
            device=None if self.device is None else str(self.device),
            dtype=self._precision(),
            batch_size=self.batch_size,
            # For 200 frames of 1080p, decord held 650 MB while clips were built, PyAV
            # 48 MB.
            reader="imageio" if self.reader == "auto" else self.reader,
        )

    def _statistics(self):
        return self._choice("pooling", STATISTICS)

    def _channels(self):
        return _CHANNELS[find_weights(self.motion_network, download=False).kind]
