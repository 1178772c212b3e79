"""`GenzVQARegressor`: videos and opinion scores in, a tuned diffusion model out.

Everything else is as for pictures, in `genziqa.regressor`.
"""

import os
from numbers import Integral

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from diffqa_features.features._base import BackboneTransformer
from diffqa_features.learned._base import BackboneModel, load_weights, state_arrays
from diffqa_features.learned.genziqa import GenzIQARegressor
from diffqa_features.motion import MotionFeatures
from diffqa_features.motion._weights import find_weights

_shared = BackboneTransformer._parameter_constraints


class GenzVQARegressor(GenzIQARegressor):
    """Video quality from learned prompts, cross-attention and motion (GenzVQA [1]_).

    Each frame is scored as :class:`GenzIQARegressor` scores pictures, and block scores
    are averaged over frames. Temporal artefacts are invisible in single frames, so a
    temporal quality modulator turns the motion features of a frozen two-pathway network
    into one factor per block. The score of the video is the mean over blocks of factor
    times score. Context vectors, low-rank factors and modulator are trained together;
    everything else stays frozen. The fitted estimator is also a transformer, for a
    Pipeline.

    Parameters
    ----------
    backbone : str or path, default="tiny"
        The latent diffusion model: an alias (``"tiny"``, ``"sd15"``, ``"sd21-base"``,
        as in the paper), a hub id, or a folder in diffusers layout.

    vae : str or path, default=None
        Autoencoder in place of the backbone's own; see `DiffusionQAFeatures`.

    prompts : sequence of str, default=("Good Photo.", "Bad Photo.")
        At least two with `error_bias`, which compares the first two.

    n_context : int, default=16
        Number of learned context vectors added to the words of each prompt; 0 keeps the
        prompts fixed. They start as the embeddings of the word "image" and of end
        tokens.

    context_position : {"front", "end"}, default="front"
        Position of a prompt's own words: before the learned vectors, or after them.

    lora_rank : int, default=4
        Rank of the low-rank updates of the cross-attention layers (q, k, v and out); 0
        leaves the layers unchanged.

    blocks : str or list of str, default="all"
        Cross-attention blocks to score, adapt and modulate, by name or pattern:
        ``"up*"``, ``["mid.0", "down[01].*"]``.

    head : {"mean", "linear"}, default="mean"
        Mean over blocks and prompts, or learned weights of blocks, prompts and bias,
        see :class:`GenzIQARegressor`.

    error_bias : bool, default=True
        Add to every block score the difference between the norms of the denoising
        errors under the first and the second prompt. Without it, a pass stops after the
        last of `blocks`.

    pooling_lambda : float, default=0.14
        Sharpness of the log-sum-exp over space, above 0.

    timestep_range : (int, int), default=(0, 100)
        Timesteps from the first number up to, but not including, the second, in [0,
        1000]. In training, each video draws one at random at every step, for all its
        frames.

    n_timesteps : int, default=4
        Number of fixed timesteps in that range that predictions are averaged over. Can
        be changed after `fit`.

    frame_rate : float, default=1.0
        Frames sampled per second of video: those shown at 0.5 s + k / `frame_rate`. All
        frames of an array are used, since it has no time base. This parameter and the
        next four can be changed after `fit`.

    max_frames : int, default=None
        Maximum number of frames per video, evenly spaced. ``None`` sets no limit.

    frames : {"spread", "bursts"}, default="spread"
        One frame at each sampled moment, or `burst_length` adjacent ones. See
        :class:`DiffusionQAFeatures`.

    burst_length : int, default=8
        Number of adjacent frames of a burst.

    n_frames : int, default=None
        Use this many frames of every video instead, evenly spaced from first to last,
        as the released code does (12 to train on LSVQ, 8 to test on KoNViD-1k). A video
        with fewer frames is used whole.

    reader : {"auto", "decord", "imageio"}, default="auto"
        Decoder for video files, as in :class:`DiffusionQAFeatures`.

    modulator : bool, default=True
        Whether to use the temporal quality modulator. Without it the model has no
        motion input, and `motion_network` is ignored.

    modulator_scale : {"multiply", "divide"}, default="multiply"
        Whether the products of queries and keys are multiplied or divided by the square
        root of a head's width. The released code multiplies (by 8); attention usually
        divides.

    motion_network : str or path, default="tiny"
        The frozen motion network, as in :class:`MotionFeatures`: ``"tiny"``,
        ``"slowfast_r50"`` (used in the paper), or a file.

    init_from : GenzIQARegressor, str or path, default=None
        Initialise the context vectors and low-rank factors from this fitted estimator,
        or from a folder written by its `save_pretrained`; backbone and architecture
        must be the same. In searches and cross-validation, which clone parameters, wrap
        it in :class:`sklearn.frozen.FrozenEstimator`. ``None`` starts from the frozen
        model.

    image_size : int, default=None
        Side of the backbone's input in pixels. ``None`` uses the backbone's native
        size.

    view : {"stretch", "crop"}, default="stretch"
        How a frame is brought to that size: stretched to a square, or centre-cropped
        without scaling.

    normalization : {"clip", "vae"}, default="clip"
        Normalisation of the VAE's input, as in :class:`GenzIQARegressor`.

    max_epochs : int, default=6
        Number of epochs. 0 fits only the line to `y`, which gives the scores of an
        untrained model.

    batch_size : int, default=16
        Videos per training step. All prompts of all their frames go through the UNet in
        one pass.

    gradient_accumulation_steps : int, default=1
        Number of parts to split a batch into if it does not fit into memory;
        `batch_size` processes one video at a time. On a CPU, batches are taken in more
        where that is faster; results differ by rounding.

    learning_rate : float, default=1e-4
        Constant learning rate of AdamW.

    weight_decay : float, default=1e-2
        Weight decay of AdamW.

    max_grad_norm : float, default=1.0
        Gradients are clipped to this norm.

    validation_fraction : float, default=None
        Fraction of the rows (or of the groups passed to `fit`) to hold out, in (0, 1).
        The weights of the epoch with the best validation SRCC are kept. ``None`` trains
        on all rows for `max_epochs`.

    patience : int, default=3
        With `validation_fraction`, stop after this many epochs without a better SRCC.

    warm_start : bool, default=False
        Continue from the weights and the line of the last `fit`.

    checkpoint_dir : str or path, default=None
        Folder for checkpoints, as in :class:`GenzIQARegressor`.

    random_state : int, default=0
        Seeds the initial weights, the shuffling, the training noise and timesteps, the
        validation split, and the fixed noise of predictions.

    memory : str, path or FeatureStore, default=None
        Cache for the latents of frames and the motion features of clips. Without it,
        they are computed once per call, never once per epoch.

    device : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``None`` uses the first
        accelerator found, else the CPU.

    dtype : {"float32", "float16", "bfloat16"}, default=None
        Precision of the UNet under autocast; weights stay in float32. ``None`` means
        bfloat16 on CUDA (float16 with loss scaling where bfloat16 is not supported) and
        float32 elsewhere.

    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that cannot be read: raise at the first one; or skip them
        in `fit`, return NaN for them elsewhere, warn, and list them in ``failed_``.

    verbose : int, default=0
        1 shows progress bars with loss and SRCC.

    Attributes
    ----------
    weights_ : dict of str to ndarray of float32
        The trained weights.
    slope_, intercept_ : float
        The prediction is ``intercept_ + slope_ * Q``, with Q the model's score.
    target_range_ : list of two floats, or None
        Smallest and largest `y` of the last `fit`; None for an authors' file.
        Predictions are not clipped to it.
    history_ : list of dict
        One entry per epoch: ``epoch``, ``loss`` (mean squared error divided by the
        variance of `y`), ``srcc`` (of the training predictions) and, with validation,
        ``validation_srcc``; with ``head="linear"`` the weights, ``head`` and
        ``head_bias``.
    design_ : dict
        The architecture parameters that the weights belong to. Changing one after `fit`
        raises ValueError.
    backbone_identity_, motion_identity_ : str
        Fingerprints of the backbone's weights and of the motion network's file; the
        latter is None without a modulator.
    failed_ : list of (int, str)
        Index and reason for every row of the last call that could not be read.
    feature_names_in_ : ndarray of str
        Column names of the `X` passed to `fit`, if it was a table.

    See Also
    --------
    GenzIQARegressor : The same for pictures; its notes on units and learning rates
        apply here too.
    MotionFeatures : The input of the modulator.

    Notes
    -----
    *Modulator.* Per block, slow and fast features of each clip are normalised and
    projected to keys; their products with the block's queries, averaged over space, are
    taken per frame, prompt, head and clip. The means s and f of these products give the
    factor ``gamma = relu(w . [s, f] + c)``. It is 1 for every video at first (w = 0, c
    = 1), so training starts from the model without a modulator and no block starts at
    0, where the ReLU has no gradient. On Stable Diffusion 2.1 with SlowFast-R50 the
    modulator has 4,057,520 parameters.

    *Stills.* A picture, or a video of one frame, is treated as a video without motion.

    *Differences from the released code*, besides those for pictures: the queries that
    are compared with motion are averaged over the timesteps of a prediction, as the
    scores are; the released code uses those of the last timestep. The clips are those
    of :class:`MotionFeatures`; the paper does not say which it used.

    References
    ----------
    .. [1] S. Mitra, D. De, S. Rao and R. Soundararajan, "Image and Video Quality
       Assessment using Prompt-Guided Latent Diffusion Models for Cross-Dataset
       Generalization", arXiv 2406.04654.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features import GenzVQARegressor
    >>> still = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    >>> moving = np.stack([np.roll(still, 2 * t, axis=1) for t in range(8)])
    >>> model = GenzVQARegressor(blocks="down0.*", error_bias=False, image_size=32)
    >>> model.set_params(n_frames=2, max_epochs=1, n_timesteps=1)
    GenzVQARegressor(...)
    >>> model.fit([still, moving], [1.0, 4.0]).predict([moving]).shape
    (1,)
    """

    _ARCHITECTURE = (*GenzIQARegressor._ARCHITECTURE, "modulator", "modulator_scale")
    _FITTED = (*GenzIQARegressor._FITTED, "motion_identity_")

    _parameter_constraints: dict = {
        **GenzIQARegressor._parameter_constraints,
        **{
            name: BackboneModel._parameter_constraints[name]
            for name in ("max_epochs", "learning_rate")
        },
        "frame_rate": _shared["frame_rate"],
        "max_frames": _shared["max_frames"],
        "frames": _shared["frames"],
        "burst_length": _shared["burst_length"],
        "n_frames": [Interval(Integral, 1, None, closed="left"), None],
        "reader": _shared["reader"],
        "modulator": ["boolean"],
        "modulator_scale": [StrOptions({"multiply", "divide"})],
        "motion_network": [str, os.PathLike],
        "init_from": [GenzIQARegressor, FrozenEstimator, str, os.PathLike, None],
    }

    def __init__(
        self,
        backbone="tiny",
        *,
        vae=None,
        prompts=("Good Photo.", "Bad Photo."),
        n_context=16,
        context_position="front",
        lora_rank=4,
        blocks="all",
        head="mean",
        error_bias=True,
        pooling_lambda=0.14,
        timestep_range=(0, 100),
        n_timesteps=4,
        frame_rate=1.0,
        max_frames=None,
        frames="spread",
        burst_length=8,
        n_frames=None,
        reader="auto",
        modulator=True,
        modulator_scale="multiply",
        motion_network="tiny",
        init_from=None,
        image_size=None,
        view="stretch",
        normalization="clip",
        max_epochs=6,
        batch_size=16,
        gradient_accumulation_steps=1,
        learning_rate=1e-4,
        weight_decay=1e-2,
        max_grad_norm=1.0,
        validation_fraction=None,
        patience=3,
        warm_start=False,
        checkpoint_dir=None,
        random_state=0,
        memory=None,
        device=None,
        dtype=None,
        on_error="raise",
        verbose=0,
    ):
        self.backbone = backbone
        self.vae = vae
        self.prompts = prompts
        self.n_context = n_context
        self.context_position = context_position
        self.lora_rank = lora_rank
        self.blocks = blocks
        self.head = head
        self.error_bias = error_bias
        self.pooling_lambda = pooling_lambda
        self.timestep_range = timestep_range
        self.n_timesteps = n_timesteps
        self.frame_rate = frame_rate
        self.max_frames = max_frames
        self.frames = frames
        self.burst_length = burst_length
        self.n_frames = n_frames
        self.reader = reader
        self.modulator = modulator
        self.modulator_scale = modulator_scale
        self.motion_network = motion_network
        self.init_from = init_from
        self.image_size = image_size
        self.view = view
        self.normalization = normalization
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.memory = memory
        self.device = device
        self.dtype = dtype
        self.on_error = on_error
        self.verbose = verbose

    def fit(self, X, y, groups=None, sample_weight=None):
        """Train the context vectors, low-rank factors and modulator together.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            Each row a path, a ``PIL.Image`` or an array (H, W), (H, W, 3) or
            (T, H, W, 3); or an array (N, T, H, W, 3); or a DataFrame with the media in
            its column ``path``.
        y : array-like of shape (N,)
            Opinion scores in any unit and direction; finite, at least two.
        groups : array-like of shape (N,), default=None
            With `validation_fraction`, rows of one group (the versions of one content,
            say) stay on the same side of the split. Ignored otherwise.
        sample_weight : array-like of shape (N,), default=None
            Non-negative weight of each row, such as the reciprocal variance of its
            opinion score. A row of weight 2 counts like two identical rows in the loss,
            the fitted line and the validation; a row of weight 0 is left out.

        Returns
        -------
        self : object
            The fitted estimator. If `fit` raises, the estimator keeps its previous
            state.

        Raises
        ------
        ValueError
            If a parameter, a video, `y` or `init_from` is invalid.
        FloatingPointError
            If a loss is not finite; the message names the step and a remedy.
        OSError
            If the backbone, the motion network, a file or a checkpoint cannot be read.
        """
        return self._fit(X, y, groups, sample_weight)

    def predict(self, X):
        """Predict the quality of videos.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            As in `fit`.

        Returns
        -------
        ndarray of shape (N,), dtype float64
            Scores in the units and direction of the `y` of `fit`. A video's score does
            not depend on the other rows or their order.
        """
        return self._predict(X)

    def transform(self, X):
        """Compute block scores, factors and tuned queries of videos.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            As in `fit`.

        Returns
        -------
        ndarray of shape (N, 2 P + sum of channels), dtype float32
            The scores of the P blocks, including the bias; their factors, if there is a
            modulator; then, per block, the mean of its queries over space and prompts.
            All are averaged over frames and the timesteps of a prediction. The Q of the
            prediction is the mean over blocks of factor times score. A DataFrame after
            ``set_output``.
        """
        job = self._open_job(X)

        def read():
            reading = self._read(job, job.data, self._ensemble(), queries=True)
            factors = [reading.factors] if self.modulator else []
            return [np.concatenate([reading.scores, *factors, reading.queries], 1)]

        (columns,) = self._by_row(job, read, self.get_feature_names_out().shape)
        return columns.astype(np.float32, copy=False)

    def frame_scores(self, X):
        """Score each frame that a prediction uses, for `FrameScoresDisplay`.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            As in `fit`.

        Returns
        -------
        list of N dicts
            ``"score"``, float64 (T,), in the units and direction of the `y` of `fit`;
            their mean is the prediction, since all frames share the factors of their
            video. ``"frame"``, int (T,), the index of each frame in the video;
            ``"time"``, float64 (T,), its time in seconds, or None if the medium has no
            time base.
        """
        job = self._open_job(X)
        nothing = np.empty(0)
        found = [{"score": nothing, "frame": nothing, "time": None} for _ in job.rows]

        def read():
            reading = self._read(job, job.data, self._ensemble())
            ends = np.cumsum(job.data.counts)[:-1]
            parts = np.split(reading.frame_scores.astype(np.float64), ends)
            videos = zip(job.kept, job.encoded, parts, reading.factors)
            for place, row, part, factors in videos:
                score = self.intercept_ + self.slope_ * (part * factors).mean(1)
                found[place] = {"score": score, "frame": row.frames, "time": row.times}
            return []

        self._by_row(job, read)
        return found

    def get_feature_names_out(self, input_features=None):
        """Get the column names of `transform` without loading weights.

        Parameters
        ----------
        input_features : object, default=None
            Ignored; present for API consistency.

        Returns
        -------
        ndarray of str
            ``down0.0__score`` and so on, ``down0.0__gamma`` with a modulator, then
            ``down0.0__query__0042``.
        """
        names = super().get_feature_names_out()
        if not self.modulator:
            return names
        blocks = self._chosen(self._check_parameters())
        factors = [f"{block.name}__gamma" for block in blocks]
        return np.insert(names, len(blocks), np.array(factors, object))

    @classmethod
    def from_released(
        cls, folder, backbone="sd21-base", motion_network="slowfast_r50", **parameters
    ):
        """Load weights written by the authors' released training code.

        Parameters
        ----------
        folder : str or path
            Contains, at any depth, `coop_Model_state_dict.pth`, `slowAttn.pth`,
            `fastAttn.pth`, `linearBlocks.pth` and `pytorch_lora_weights.bin` (or
            ``.safetensors``). Only tensors are read.
        backbone : str or path, default="sd21-base"
            The model that they were trained on.
        motion_network : str or path, default="slowfast_r50"
            The network whose features they were trained on.
        **parameters : object
            Other parameters of the estimator; the defaults are the released settings.

        Returns
        -------
        GenzVQARegressor
            A fitted estimator that predicts in the units of its training: the line is
            the identity.

        Raises
        ------
        ValueError
            If the files have unexpected contents or do not match the backbone or the
            motion network.
        OSError
            If the files, the backbone or the motion network cannot be found.
        """
        from diffqa_features.learned.genziqa.released import read_released
        from diffqa_features.learned.genzvqa.released import read_modulator

        parameters = {"context_position": "end", **parameters}
        estimator = cls(backbone, motion_network=motion_network, **parameters)
        estimator._validate_params()
        estimator._check_released()
        info = estimator._check_parameters()
        blocks = estimator._chosen(info)
        weights, sizes = read_released(folder, blocks)
        if estimator.modulator:
            widths = estimator._motion()._channels()
            weights |= read_modulator(folder, blocks, widths)
        estimator.set_params(**sizes)
        fitted = {
            "slope_": 1.0,
            "intercept_": 0.0,
            "target_range_": None,
            "history_": [],
            "motion_identity_": estimator._motion_identity(),
            "backbone_identity_": info.identity,
        }
        return estimator._set_fitted(weights, fitted, estimator._architecture())

    # -- parameters ----------------------------------------------------------------

    def _check_parameters(self):
        info = super()._check_parameters()
        self._check_frames()
        if self.modulator:
            self._motion_weights(download=False)
        return info

    def _check_frames(self):
        if self.n_frames is not None and self.max_frames is not None:
            raise self._complaint(
                "max_frames", "None where n_frames gives their number"
            )
        if self.n_frames is not None and self.frames == "bursts":
            raise self._complaint(
                "frames", "'spread' where n_frames spaces frames evenly"
            )

    def _motion_weights(self, download=True):
        return find_weights(self.motion_network, download=download)

    def _motion_identity(self):
        return self._motion_weights().identity if self.modulator else None

    def _check_fitted(self):
        info = super()._check_fitted()
        self._check_frames()
        if self._motion_identity() != self.motion_identity_:
            raise ValueError(
                f"The motion network {os.fspath(self.motion_network)!r} is not the one "
                f"that this {type(self).__name__} was fitted with: its file has the "
                f"SHA-256 {self._motion_identity()[:12]}, expected "
                f"{self.motion_identity_[:12]}. Set 'motion_network' to the original "
                "file, or fit again."
            )
        return info

    # -- data and network ----------------------------------------------------------

    def _open_data(self, job):
        from diffqa_features.learned.genzvqa.network import Videos, mean_motion

        if not job.warm and self.init_from is not None:
            self._source(job.info)
        latents = self._latents(
            job,
            frame_rate=float(self.frame_rate),
            max_frames=self.max_frames,
            burst_length=self._burst_length(),
            n_frames=self.n_frames,
            reader=self.reader,
        )
        motion = None
        if self.modulator:
            features = self._motion()
            clips = features._sequences(job.X)
            kept = job.kept
            new = [bad for bad in features.failed_ if bad[0] in kept]
            if new:  # read as frames, but not as clips
                job.failed += new
                job.encoded = [row for row in job.encoded if row.index in job.kept]
                read = [row.latents for row in job.encoded] or [latents[:0]]
                latents = np.concatenate(read)
            if job.encoded:
                motion = mean_motion([clips[place] for place in job.kept])
        counts = np.array([len(row.latents) for row in job.encoded], int)
        return Videos(latents, counts, motion)

    def _motion(self):
        return MotionFeatures(
            os.fspath(self.motion_network),
            memory=self.memory,
            device=self.device,
            # As for latents: they are computed once, and stay.
            dtype="float32",
            on_error=self.on_error,
            verbose=self.verbose,
            reader=self.reader,
        )

    def _make_network(self, backbone):
        from diffqa_features.learned.genzvqa.network import GenzVQANetwork

        return GenzVQANetwork(
            backbone,
            self._chosen(backbone.info),
            self._prompts(),
            widths=self._motion()._channels() if self.modulator else None,
            scale=self.modulator_scale,
            **self._settings(),
        )

    def _build_network(self, job):
        network = super()._build_network(job)
        if not job.warm and self.init_from is not None:
            first = self._source(job.info).weights_
            load_weights(network, {**state_arrays(network), **first})
        return network

    # -- loss and scores -----------------------------------------------------------

    def _sample(self, job, rows, generators):
        return job.network.sample_videos(
            job.backbone, job.data[rows], *self._range(), generators
        )

    def _frames_of_a_row(self, job):
        return float(job.data.counts[job.train].mean())

    def _scores(self, job, rows):
        return self._quality(job, job.data[rows], self._ensemble())

    def _quality(self, job, videos, timesteps):
        return self._read(job, videos, timesteps).quality

    def _begin_head(self, job, videos, weight):
        if self.init_from is None:
            weight = None if weight is None else np.repeat(weight, videos.counts)
            super()._begin_head(job, videos.latents, weight)

    def _read(self, job, videos, timesteps, queries=False):
        from diffqa_features.learned.genzvqa.network import read_videos

        return read_videos(
            job.network,
            job.backbone,
            videos,
            timesteps,
            self.random_state,
            self._arithmetic(job.backbone.device),
            queries=queries,
        )

    def _facts(self, job):
        videos = job.data
        facts = videos.latents, videos.counts, videos.motion
        return self._range(), self._ensemble(), facts

    def _end(self, job, trained):
        fitted = super()._end(job, trained)
        return {**fitted, "motion_identity_": self._motion_identity()}

    # -- where training begins -----------------------------------------------------

    def _source(self, info):
        """The fitted GenzIQA of `init_from`, which must have the same architecture."""
        source = self.init_from
        if isinstance(source, (str, os.PathLike)):
            source = GenzIQARegressor.from_pretrained(
                source, backbone=self.backbone, vae=self.vae
            )
        if isinstance(source, FrozenEstimator):
            source = source.estimator
        other = isinstance(source, GenzVQARegressor)
        if other or not isinstance(source, GenzIQARegressor):
            raise self._complaint(
                "init_from",
                "a GenzIQARegressor, also in a FrozenEstimator, a folder of its "
                "save_pretrained, or None",
            )
        try:
            check_is_fitted(source, "weights_")
        except NotFittedError as error:
            raise ValueError(
                "The GenzIQARegressor in 'init_from' is not fitted. Fit it first. A "
                "clone, as searches and cross-validation make, is not fitted either: "
                "there, wrap it in sklearn.frozen.FrozenEstimator, or pass the folder "
                "of its save_pretrained."
            ) from error
        if source.backbone_identity_ != info.identity:
            raise ValueError(
                "The GenzIQARegressor in 'init_from' was fitted on another backbone "
                f"than {info.name!r}: its fingerprint is "
                f"{source.backbone_identity_[:12]}, and not {info.identity[:12]}."
            )
        design = self._architecture()
        for name, value in source.design_.items():
            if value != design[name]:
                raise ValueError(
                    f"The {name!r} parameter of {type(self).__name__} is "
                    f"{design[name]!r}, but the GenzIQARegressor in 'init_from' was "
                    f"fitted with {value!r}. Set both to the same value."
                )
        return source
