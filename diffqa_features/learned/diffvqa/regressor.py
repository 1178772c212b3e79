"""`DiffVQARegressor`: videos and opinion scores in, quality frame by frame out."""

import os
from functools import partial
from numbers import Integral, Real

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import _is_fitted

from diffqa_features._media.rows import take_rows
from diffqa_features._store.store import as_store
from diffqa_features._utils.checks import InOrder
from diffqa_features._utils.hashing import hash_values
from diffqa_features.features._base import BackboneTransformer
from diffqa_features.learned._base import BackboneModel, load_weights, state_arrays
from diffqa_features.learned._regression import LearnedRegressor, take_weights
from diffqa_features.learned.control.controller import DiffusionController

VIEWS = ("resize", "crop")
CONTROL, NETWORK = "control.", "network."  # before the names of weights

_OF_STAGE_1 = (
    "image_size", "frame_rate", "max_frames", "reader", "random_state", "memory",
    "device", "dtype", "on_error", "verbose", "checkpoint_dir",
)  # fmt: skip
_shared = BackboneTransformer._parameter_constraints
_positive = [Interval(Integral, 1, None, closed="left")]


class DiffVQARegressor(BackboneModel, LearnedRegressor):
    """Video quality from two views of each frame and of the whole clip (DiffVQA [1]_).

    Each frame is seen in two views: resized, which shows its content, and as a crop at
    native resolution, which shows its distortions. For both, a diffusion model that is
    controlled to reconstruct the frame (:class:`DiffusionController`) provides features
    at several levels. These are fused and compared from frame to frame; in a second
    branch, Mamba reads the frames themselves in both directions of time. The resized
    view then determines the weight of each frame and the crops its quality; the score
    is the weighted sum.

    Features are computed once; the network trained on them is small and takes minutes.

    Parameters
    ----------
    backbone : str or path, default="tiny"
        The latent diffusion model: an alias (``"tiny"``, ``"sd15"``, ``"sd21-base"``),
        a hub id, or a folder in diffusers layout.

    vae : str or path, default=None
        Autoencoder in place of the backbone's own; see `DiffusionQAFeatures`.

    controller : DiffusionController, str, path or None, default=None
        The control module of the backbone. A fitted one is used as it is. An unfitted
        one is cloned and fitted first, on the rows passed to `fit`; ``None`` does so
        with default parameters. A str or path is a folder written by
        ``save_pretrained``. Searches clone estimators without their fitted state: pass
        a folder, or ``FrozenEstimator(controller)``.

    control : bool, default=True
        False uses the plain backbone and ignores `controller`.

    representation : {"change", "paper"}, default="change"
        How frames and clips are described to the network.

        - ``"change"``: mean and log standard deviation of each cell of a map, in which
          blur and noise show; the log of each channel's change since the previous
          frame, in which temporal artefacts show; mean, standard deviation, minimum and
          maximum of these over the clip; the whole crop for Mamba.
        - ``"paper"``: the mean of each cell; the signed difference of fused features, 0
          for the first frame; the mean over the clip; the middle of the crop at native
          resolution for Mamba.

    views : str or sequence of str, default=("resize", "crop")
        Views to use, one or both. A single view provides both weights and quality.

    n_steps : int, default=1
        Steps of the reverse chain; features are extracted at the last one. 1 noises the
        frame to `last_timestep`; with more, the chain starts from pure noise and costs
        one pass per step.

    last_timestep : int, default=0
        DDPM training step of the last pass, in [0, 999].

    image_size : int, default=None
        Side of the resized view in pixels. ``None`` uses the backbone's native size.

    crop_size : int, default=None
        Side of a crop in pixels; smaller frames are upscaled first. ``None`` uses the
        size of the resized view.

    n_crops : int, default=1
        Number of crops. All frames of a clip are cropped at the same positions, which
        depend on the clip's content and `random_state`. Training uses one crop per
        step, prediction averages over all. Can be changed after `fit`: the paper
        predicts with 20.

    frame_rate : float, default=1.0
        Frames sampled per second of video, as in :class:`DiffusionQAFeatures`.

    max_frames : int, default=None
        Maximum number of those frames per row, evenly spaced.

    frames : {"spread", "bursts"}, default="bursts"
        One frame at each sampled moment, or `burst_length` adjacent ones, as in
        :class:`DiffusionQAFeatures`. With ``"bursts"``, frames are only compared within
        a burst; otherwise with the frame sampled before, which is a second away with
        the default `frame_rate`.

    burst_length : int, default=32
        Number of adjacent frames of a burst. With the default `frame_rate`, bursts of
        32 are every frame of a video of up to 32 frames a second. Bursts of 8 cost a
        quarter; on ``tiny``, first edition, they reached an SRCC of 0.63 instead of
        0.83.

    reader : {"auto", "decord", "imageio"}, default="auto"
        Decoder for video files.

    grid_size : int, default=4
        Side of the grid of cells that features of every level are reduced to before
        they are stored.

    width : int, default=64
        Channels of the fused features.

    mamba : bool, default=True
        Read the frames themselves with Mamba, in both directions of time.

    mamba_size : int, default=64
        Side of Mamba's input in pixels, to which frames and crops are downscaled; with
        ``representation="paper"`` it is the centre of the crop.

    patch_size : int, default=16
        Side of its patches in pixels; must divide `mamba_size`.

    mamba_width : int, default=64
        Channels of Mamba's tokens.

    mamba_layers : int, default=2
        Number of Mamba layers.

    mamba_state : int, default=16
        Size of Mamba's state per inner channel.

    loss : {"plcc+rank", "l1"}, default="plcc+rank"
        ``"plcc+rank"``: (1 - PLCC) / 2 over the batch, plus a pairwise hinge: how far
        the difference of two predictions falls short of that of their scores. ``"l1"``:
        the mean absolute error. Both use scores scaled to standard deviation 1.

    max_epochs : int, default=30
        Number of epochs. 0 fits only the line to `y`.

    batch_size : int, default=16
        Clips per training step. ``"plcc+rank"`` compares clips and needs at least two;
        a single leftover clip joins the last step.

    learning_rate : float, default=1e-3
        Initial learning rate of AdamW.

    milestones : sequence of int, default=()
        Epochs after which the learning rate is multiplied by `lr_decay`. At a constant
        rate, the ranks of unseen clips may change a lot from one epoch to the next.

    lr_decay : float, default=0.2
        Factor applied at `milestones`, in (0, 1].

    weight_decay : float, default=1e-2
        Weight decay of AdamW.

    max_grad_norm : float, default=1.0
        Gradients are clipped to this norm.

    validation_fraction : float, default=None
        Fraction of the rows (or of the groups passed to `fit`) to hold out, in (0, 1).
        The weights of the epoch with the best validation SRCC are kept.

    patience : int, default=5
        With `validation_fraction`, stop after this many epochs without a better SRCC.

    warm_start : bool, default=False
        Continue from the weights of the last `fit`, with its control module.

    checkpoint_dir : str or path, default=None
        Folder for checkpoints. If training is killed, the same `fit` resumes from there
        and ends with the same weights.

    random_state : int, default=0
        Seeds the initial weights, the shuffling, the crop positions, and the noise of
        features, which is the same for every frame.

    memory : str, path or FeatureStore, default=None
        Cache for features, per frame and view. A frame whose features are cached is not
        decoded again.

    device : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``None`` uses the first
        accelerator found, else the CPU.

    dtype : {"float32", "float16", "bfloat16"}, default=None
        Precision of all networks under autocast; weights stay in float32. ``None``
        means bfloat16 on CUDA (float16 with loss scaling where bfloat16 is not
        supported) and float32 elsewhere.

    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that cannot be read: raise at the first one; or skip them
        in `fit`, return NaN for them elsewhere, warn, and list them in ``failed_``.

    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    weights_ : dict of str to ndarray of float32
        The trained weights of both stages.
    slope_, intercept_ : float
        The prediction is ``intercept_ + slope_ * Q``, with Q the network's score.
    target_range_ : list of two floats, or None
        Smallest and largest `y` of the last `fit`; None for an authors' file.
        Predictions are not clipped to it.
    history_ : list of dict
        One entry per epoch of stage 2: ``epoch``, ``loss``, ``srcc`` (of the training
        predictions) and, with validation, ``validation_srcc``.
    design_ : dict
        The architecture parameters that the weights belong to. Changing one after `fit`
        raises ValueError.
    backbone_identity_ : str
        Fingerprint of the backbone's weights.
    failed_ : list of (int, str)
        Index and reason for every row of the last call that could not be read.
    feature_names_in_ : ndarray of str
        Column names of the `X` passed to `fit`, if it was a table.

    See Also
    --------
    DiffusionController : Stage 1.
    MotionFeatures : Motion at the video's own frame rate, for any regressor.

    Notes
    -----
    *From the paper* (its figures and the authors' page; no code was released): the two
    views and their roles, features of four levels and the latent at the last step,
    their fusion (1 x 1 convolutions, concatenation with the latent, a convolution,
    channel and then spatial attention), the difference from the previous frame, the
    parallel Mamba branch on frames, the two heads and the weighted sum.

    *Departures from the paper* with ``representation="change"``: spreads beside means;
    the log size of the change of raw features, also relative to its mean over the clip,
    instead of a signed difference after fusion; statistics over the clip beside its
    mean. The first frame of a burst gets the change of the second, since a change of 0
    would look like a freeze; a picture gets that of an average clip. The user guide
    reports what each of these gains.

    *Our choices, where nothing is published*: every default above; separate weights for
    the views; features standardised per channel over the training clips; a fixed crop
    position per clip, since differences between crops at two positions would not be
    motion; the losses.

    *Number of frames.* The paper's layers flatten N frames, which fixes N. Here the
    heads see one frame, described by convolutions over space and time, and statistics
    over its clip. Padding after the end of a clip is masked: a clip gets the same
    values alone and in a batch, to about 1e-5 relative.

    *Mamba* uses the mixer from transformers, one per direction in every layer, over the
    patches of all frames. Time and memory are linear in their number; on a GPU, the
    kernels of `mamba_ssm` and `causal_conv1d` are used if installed.

    *Units of y.* Any range and direction: a line maps the network's score to `y`,
    fitted by least squares over the training clips.

    *Memory.* Stage 2 keeps the features of all clips in memory: 8 bytes (mean and
    spread; 4 with ``representation="paper"``) times `grid_size`² times the channels of
    the levels (352 on ``tiny``, about 3,200 on Stable Diffusion) for each frame and
    view. The control module (12 MB on ``tiny``, 1.4 GB on Stable Diffusion) is part of
    `weights_`, and so of pickles and saved files.

    References
    ----------
    .. [1] W.-T. Chen, Y.-J. Vong, Y.-T. Lee, S.-Y. Kuo, Q. Gao, S. Ma and J. Wang,
       "DiffVQA: Video Quality Assessment Using Diffusion Feature Extractor", arXiv
       2505.03261.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features import DiffVQARegressor
    >>> rng = np.random.default_rng(0)
    >>> clips = [rng.integers(0, 256, (t, 48, 48, 3), np.uint8) for t in (2, 3, 4, 2)]
    >>> model = DiffVQARegressor(control=False, image_size=32, max_epochs=2)
    >>> model.set_params(width=8, mamba_size=32, mamba_width=8, mamba_layers=1)
    DiffVQARegressor(...)
    >>> model.fit(clips, [1.0, 2.0, 3.0, 4.0]).predict(clips[:2]).shape
    (2,)
    >>> model.frame_scores(clips[1:2])[0].weight.shape
    (3,)
    >>> model.get_feature_names_out()[[0, 1, -1]].tolist()
    ['quality', 'resize__fusion__mean__0000', 'crop__mamba__max__0007']
    """

    _ARCHITECTURE = (
        "representation",
        "views",
        "control",
        "n_steps",
        "last_timestep",
        "image_size",
        "crop_size",
        "grid_size",
        "width",
        "mamba",
        "mamba_size",
        "patch_size",
        "mamba_width",
        "mamba_layers",
        "mamba_state",
    )
    _parameter_constraints: dict = {
        **BackboneModel._parameter_constraints,
        "controller": [str, os.PathLike, HasMethods("fit"), None],
        "control": ["boolean"],
        "representation": [StrOptions({"change", "paper"})],
        "views": [str, InOrder()],
        "n_steps": [Interval(Integral, 1, 1000, closed="both")],
        "last_timestep": [Interval(Integral, 0, 999, closed="both")],
        "crop_size": _shared["image_size"],
        "n_crops": _positive,
        "frame_rate": _shared["frame_rate"],
        "max_frames": _shared["max_frames"],
        "frames": _shared["frames"],
        "burst_length": _shared["burst_length"],
        "reader": _shared["reader"],
        "grid_size": _positive,
        "width": _positive,
        "mamba": ["boolean"],
        "mamba_size": _positive,
        "patch_size": _positive,
        "mamba_width": _positive,
        "mamba_layers": _positive,
        "mamba_state": _positive,
        "loss": [StrOptions({"plcc+rank", "l1"})],
        "milestones": [InOrder()],
        "lr_decay": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(
        self,
        backbone="tiny",
        *,
        vae=None,
        controller=None,
        control=True,
        representation="change",
        views=("resize", "crop"),
        n_steps=1,
        last_timestep=0,
        image_size=None,
        crop_size=None,
        n_crops=1,
        frame_rate=1.0,
        max_frames=None,
        frames="bursts",
        burst_length=32,
        reader="auto",
        grid_size=4,
        width=64,
        mamba=True,
        mamba_size=64,
        patch_size=16,
        mamba_width=64,
        mamba_layers=2,
        mamba_state=16,
        loss="plcc+rank",
        max_epochs=30,
        batch_size=16,
        learning_rate=1e-3,
        milestones=(),
        lr_decay=0.2,
        weight_decay=1e-2,
        max_grad_norm=1.0,
        validation_fraction=None,
        patience=5,
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
        self.controller = controller
        self.control = control
        self.representation = representation
        self.views = views
        self.n_steps = n_steps
        self.last_timestep = last_timestep
        self.image_size = image_size
        self.crop_size = crop_size
        self.n_crops = n_crops
        self.frame_rate = frame_rate
        self.max_frames = max_frames
        self.frames = frames
        self.burst_length = burst_length
        self.reader = reader
        self.grid_size = grid_size
        self.width = width
        self.mamba = mamba
        self.mamba_size = mamba_size
        self.patch_size = patch_size
        self.mamba_width = mamba_width
        self.mamba_layers = mamba_layers
        self.mamba_state = mamba_state
        self.loss = loss
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.milestones = milestones
        self.lr_decay = lr_decay
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
        """Fit the control module if needed, then train on features.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            Videos (paths or arrays (T, H, W, 3)) or pictures, of any sizes and lengths.
        y : array-like of shape (N,)
            Opinion scores in any unit and direction; finite, at least two.
        groups : array-like of shape (N,), default=None
            With `validation_fraction`, rows of one group stay on the same side of the
            split. Ignored otherwise.
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
            If a parameter, a row or `y` is invalid.
        FloatingPointError
            If a loss is not finite; the message names the step and a remedy.
        OSError
            If the backbone, a file or a checkpoint cannot be read.
        """
        self._validate_params()
        if self.batch_size < self._smallest_batch():
            raise self._complaint(
                "batch_size",
                f"at least 2 with loss={self.loss!r}, which compares the clips of a "
                "step; loss='l1' trains on single clips",
            )
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
            Scores in the units and direction of the `y` of `fit`. A row's score does
            not depend on the other rows or their order.
        """
        return self._predict(X)

    def frame_scores(self, X):
        """Score and weight each frame, for :class:`FrameScoresDisplay`.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            As in `fit`.

        Returns
        -------
        list of N :class:`~sklearn.utils.Bunch`
            For the T frames sampled from a row: ``score``, an ndarray of shape (T,), in
            the units of `y`; ``weight`` (T,), non-negative with sum 1; ``frame`` (T,),
            their indices in the medium; ``time`` (T,), in seconds, or None if the
            medium has no time base. The prediction is the sum of score times weight.
        """
        job = self._open_job(X)
        nothing = np.empty(0)
        found = [
            Bunch(score=nothing, weight=nothing, frame=nothing, time=None)
            for _ in job.rows
        ]

        def read():
            clips = zip(job.kept, job.data, self._predict_clips(job, job.data))
            for place, clip, predicted in clips:
                found[place] = Bunch(
                    score=self._in_units(predicted.quality),
                    weight=predicted.weights,
                    frame=clip.numbers,
                    time=clip.times,
                )
            return []

        self._by_row(job, read)
        return found

    def transform(self, X):
        """Compute the network's score and the inputs of its heads.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            As in `fit`.

        Returns
        -------
        ndarray of shape (N, D), dtype float32
            The network's score, then, per view and branch (fused features, their
            change, Mamba's output), the statistics over frames. A DataFrame after
            ``set_output``.
        """
        job = self._open_job(X)

        def read():
            predicted = self._predict_clips(job, job.data)
            rows = [np.append(np.float32(p.score), p.described) for p in predicted]
            return [np.stack(rows)]

        (columns,) = self._by_row(job, read, self.get_feature_names_out().shape)
        return columns.astype(np.float32, copy=False)

    def get_feature_names_out(self, input_features=None):
        """Get the column names of `transform` without loading weights.

        Parameters
        ----------
        input_features : object, default=None
            Ignored; present for API consistency.

        Returns
        -------
        ndarray of str of shape (D,)
            ``quality``, then ``resize__fusion__mean__0000`` and so on; with
            ``representation="paper"``, which knows no other statistic,
            ``resize__fusion__0000``.
        """
        self._validate_params()
        self._check_parameters()
        parts, statistics = {"fusion": self.width}, [""]
        if self.representation == "change":
            parts["change"] = self.width
            statistics = ["mean__", "std__", "min__", "max__"]
        if self.mamba:
            parts["mamba"] = self.mamba_width
        names = [
            f"{view}__{part}__{statistic}{channel:04d}"
            for view in self._chosen_views()
            for part, width in parts.items()
            for statistic in statistics
            for channel in range(width)
        ]
        return np.array(["quality", *names], object)

    # -- parameters ----------------------------------------------------------------

    def _check_parameters(self):
        info = super()._check_parameters()
        self._checked_crop_size(info)
        self._chosen_views()
        if self.mamba_size % self.patch_size:
            raise self._complaint(
                "patch_size", f"a divisor of mamba_size={self.mamba_size}"
            )
        if self.n_steps > 1000 - self.last_timestep:
            raise self._complaint(
                "n_steps",
                f"at most {1000 - self.last_timestep} with "
                f"last_timestep={self.last_timestep}",
            )
        return info

    def _check_fitted(self):
        info = super()._check_fitted()
        self._check_parameters()
        return info

    def _check_saved(self, weights, config, folder):
        if "representation" not in config["parameters"]:
            raise ValueError(
                f"'{folder}' was written by {config.get('library', 'an old version')}, "
                "which knew only the representation of the paper. In its config.json, "
                'add "representation": "paper" and "frames": "spread" to the '
                "parameters, or fit again."
            )
        super()._check_saved(weights, config, folder)

    def _chosen_views(self):
        chosen = self._choice("views", VIEWS)
        return tuple(view for view in VIEWS if view in chosen)

    def _architecture(self):
        return {**super()._architecture(), "views": list(self._chosen_views())}

    def _checked_crop_size(self, info):
        if self.crop_size is None:
            return self._checked_image_size(info)
        if self.crop_size % info.multiple:
            raise self._complaint(
                "crop_size", f"a multiple of {info.multiple} for {info.name}"
            )
        return int(self.crop_size)

    def _smallest_batch(self):
        return 2 if self.loss == "plcc+rank" else 1

    # -- data ----------------------------------------------------------------------

    def _open_data(self, job):
        """Features and frames of both views, computed unless stored."""
        from diffqa_features._engine.passes import Passes
        from diffqa_features.learned.diffvqa.view_features import (
            Extractor,
            mean_and_spread_per_cell,
            mean_per_cell,
            view_rows,
        )
        from diffqa_features.learned.diffvqa.views import ViewSpec

        if job.warm:
            control = _part(self.weights_, CONTROL)
        else:
            X = job.X
            if job.weight is not None:  # a weight of 0 is a row that is not there
                X = take_rows(X, np.flatnonzero(job.weight))
            control = self._control_weights(X, job.info)
        job.more["control"] = control
        chain = self._chain(job.info, control)
        grid = int(self.grid_size)
        facts = (job.info.identity, chain.names, chain.facts, grid)
        reduce = mean_per_cell
        changes = self.representation == "change"
        if changes:
            reduce, facts = mean_and_spread_per_cell, (*facts, "mean and log std")
        spec = ViewSpec(
            views=self._chosen_views(),
            image_size=self._checked_image_size(job.info),
            crop_size=self._checked_crop_size(job.info),
            n_crops=int(self.n_crops),
            seed=int(self.random_state),
            mamba_size=int(self.mamba_size) if self.mamba else None,
            changes=changes,
            frame_rate=float(self.frame_rate),
            max_frames=self.max_frames,
            burst_length=self._burst_length(),
            reader=self.reader,
            facts=facts,
        )
        # Weights in float32; `dtype` is that of the arithmetic, by autocast.
        passes = Passes(self._backbone_name(), self.device, "float32", seed=0)
        return view_rows(
            job.rows,
            spec,
            Extractor(passes, control or None, chain, partial(reduce, grid=grid)),
            store=as_store(self.memory),
            verbose=self.verbose,
            failed=job.failed,
        )

    def _control_weights(self, X, info):
        """Weights of the control module selected by `controller`."""
        if not self.control:
            return {}
        given = self.controller
        if isinstance(given, FrozenEstimator):
            given = given.estimator
        if isinstance(given, (str, os.PathLike)):
            given = DiffusionController.from_pretrained(
                given, backbone=self.backbone, vae=self.vae, device=self.device
            )
        if given is None:
            given = DiffusionController(
                self.backbone,
                vae=self.vae,
                **{name: getattr(self, name) for name in _OF_STAGE_1},
            )
        if not isinstance(given, DiffusionController):
            raise self._complaint(
                "controller", "None, a folder, or a DiffusionController"
            )
        if not _is_fitted(given, "weights_"):
            # A copy: parameters of an estimator stay as they came.
            given = clone(given).fit(X)
        if given.backbone_identity_ != info.identity:
            raise self._complaint(
                "controller", f"one of the backbone {info.name!r}, as it is now"
            )
        return given.weights_

    def _chain(self, info, control):
        from diffqa_features.learned.control.features import (
            Chain,
            default_stages,
        )

        return Chain(
            stages=default_stages(info.stages),
            n_steps=int(self.n_steps),
            last_timestep=int(self.last_timestep),
            seed=int(self.random_state),
            dtype=self._arithmetic(self._where()),
            control=hash_values(control) if control else "",
        )

    # -- network -------------------------------------------------------------------

    def _build_network(self, job):
        from diffqa_features.learned.diffvqa.batches import standardise

        network = self._make_network(job.info)
        if job.warm:
            load_weights(network, _part(self.weights_, NETWORK))
        else:
            weight = take_weights(job.weight, job.train)
            standardise(network, [job.data[i] for i in job.train], weight)
        return network.to(self._where())

    def _make_network(self, info):
        import torch

        from diffqa_features.learned.control.features import default_stages
        from diffqa_features.learned.diffvqa.network import DiffVQANetwork, Sizes

        changes = self.representation == "change"
        levels = [stage.channels for stage in default_stages(info.stages)]
        # What is kept of a channel: the mean, or mean and spread.
        kept = 2 if changes else 1
        sizes = ("width", "mamba_size", "patch_size", "mamba_width", "mamba_layers",
                 "mamba_state")  # fmt: skip
        with torch.inference_mode(False):
            return DiffVQANetwork(
                [kept * channels for channels in (*levels, info.latent_channels)],
                self._chosen_views(),
                Sizes(
                    mamba=bool(self.mamba),
                    change=changes,
                    **{name: int(getattr(self, name)) for name in sizes},
                ),
                int(self.random_state),
            )

    def _arrays(self, job):
        arrays = state_arrays(job.network).items()
        network = {NETWORK + name: value for name, value in arrays}
        return network | {CONTROL + name: v for name, v in job.more["control"].items()}

    # -- loss and scores -----------------------------------------------------------

    def _first_line(self, job):
        """From unit standard deviation to the units of y; on a warm start too."""
        return self._standard_line(job)

    def _loss(self, job):
        import torch

        from diffqa_features.learned.diffvqa.batches import LOSSES, collate

        device = self._where()
        unit, mean = job.line
        wanted = torch.from_numpy((job.y - mean) / unit).to(device, torch.float32)
        compute_loss = LOSSES[self.loss]

        def step(rows, generators):
            # One of its crops for each clip, another one every time.
            copies = [
                int(torch.randint(self.n_crops, (1,), generator=g)) for g in generators
            ]
            batch, mask = collate([job.data[i] for i in rows], copies, device)
            quality, weights, _ = job.network(batch, mask)
            scores = (quality * weights).sum(1)
            weight = job.weights_of(rows, device)
            return compute_loss(scores, wanted[rows], weight), scores

        return step

    def _scores(self, job, rows):
        predicted = self._predict_clips(job, [job.data[i] for i in rows])
        return np.array([each.score for each in predicted])

    def _last_line(self, job, trained):
        line = self._least_squares(job, job.train, trained)
        if line is not None:
            return line
        unit, mean = job.line
        weight = take_weights(job.weight, job.train)
        middle = np.average(self._scores(job, job.train), weights=weight)
        return unit, float(mean - unit * middle)

    def _predict_clips(self, job, clips):
        """The network's output for each clip, in training units."""
        from diffqa_features.learned.diffvqa.batches import predict_clips

        device = self._where()
        return predict_clips(
            job.network,
            clips,
            device,
            self._arithmetic(device),
            int(self.n_crops) if "crop" in self._chosen_views() else 1,
            int(self.batch_size),
        )

    def _facts(self, job):
        seen = [(clip.features, clip.frames, clip.changes) for clip in job.data]
        return self.loss, int(self.n_crops), seen


def _part(weights, prefix):
    """The weights whose names have this prefix, with the prefix removed."""
    return {
        k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)
    }
