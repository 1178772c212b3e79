"""`DistilledStudentRegressor`: a slow teacher and pictures in, a small network out."""

import os
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import has_fit_parameter

from diffqa_features._media.rows import as_rows, take_rows
from diffqa_features._utils.checks import InOrder
from diffqa_features.learned._base import Job
from diffqa_features.learned._pictures import read_pictures
from diffqa_features.learned._regression import (
    LearnedRegressor,
    check_target,
    take_weights,
)
from diffqa_features.learned.student.data import DistillationData, is_fitted

PAPERS_MAP = (8, 64, 64)


def _has_maps(self):
    return getattr(self, "map_shape_", None) is not None


class DistilledStudentRegressor(LearnedRegressor):
    """Convolutional network that learns to score pictures from a teacher.

    Any fitted regressor on pictures can be the teacher: a Pipeline of frozen features
    and SVR, or a learned method. To predict, the student needs neither the teacher nor
    a diffusion model. If the teacher has quality maps, the student learns these too, as
    DP-IQA's student does [1]_. Pictures without opinion scores can also be used: the
    teacher scores them.

    Parameters
    ----------
    teacher : estimator, default=None
        Has ``predict`` on pictures and optionally ``quality_maps``. A fitted teacher is
        used as it is; if it is unfitted, a clone is fitted on the `X` and `y` passed to
        `fit`. ``clone`` and searches discard the fitted state unless the teacher is
        wrapped in :class:`~sklearn.frozen.FrozenEstimator`. ``None`` trains on `y`
        alone.

    network : str or path, default="efficientnet_b0"
        ``"tiny"``, 0.2 million parameters, meant for distortions and a CPU;
        ``"efficientnet_b0"`` to ``"efficientnet_b7"``, the last of which the paper
        uses; or a hub id or folder with an EfficientNet saved by transformers, which
        then also provides the initial weights.

    weights : str or path, default=None
        hub id or folder with the initial weights of an EfficientNet (safetensors), such
        as ``"google/efficientnet-b0"``. ``None`` uses those that come with `network`,
        or random ones.

    image_size : int, default=None
        Side of the student's input in pixels, at least 64. ``None``: 192 for
        ``"tiny"``, 224 for B0, 512 for B7. The teacher uses its own size.

    view : {"stretch", "crop"}, default="stretch"
        How a picture is brought to that size: resized to a square (Pillow's bicubic),
        or centre-cropped without scaling.

    normalization : {"unit", "imagenet"}, default="unit"
        Pixels in [0, 1], as in the paper, or standardised with ImageNet's mean and
        standard deviation, which weights trained on ImageNet expect.

    head : {"auto", "map", "pooled"}, default="auto"
        How the score is computed. ``"map"``: from the whole quality map by three
        layers, as in the paper. ``"pooled"``: from features averaged over the picture;
        maps are learned in parallel. ``"auto"``: ``"map"`` for an EfficientNet whose
        teacher has maps, else ``"pooled"``.

    target : {"teacher", "truth", "both"}, default="teacher"
        What the score is trained on. ``"teacher"``: the teacher's score. ``"truth"``:
        `y`, as in the paper, and the teacher's score for pictures without `y`.
        ``"both"``: the mean of the two errors; the teacher must predict in the units of
        `y`.

    map_weight : float, default=1.0
        Weight of the map error relative to the score error, at least 0. 0 ignores the
        maps.

    flip : bool, default=False
        Randomly mirror pictures and their maps in training. The paper does not.

    crop_size : int, default=None
        Train on random crops of this side in pixels, at least 32, with the score of the
        whole picture. Faster, and valid for distortions that cover the whole picture.
        Not available with quality maps.

    max_epochs : int, default=30
        Number of epochs.

    batch_size : int, default=24
        Pictures per training step.

    gradient_accumulation_steps : int, default=1
        Number of parts to split a batch into if it does not fit into memory. Batch
        normalisation works on the parts.

    learning_rate : float, default=1e-4
        Initial learning rate of AdamW. ``"tiny"`` learns faster with 1e-3 to 3e-3.

    milestones : sequence of int, default=()
        Epochs after which the learning rate is multiplied by `lr_decay`. The paper uses
        5 for KonIQ-10k.

    lr_decay : float, default=0.2
        Factor applied at `milestones`, in (0, 1].

    weight_decay : float, default=0.0
        Weight decay of AdamW.

    max_grad_norm : float, default=None
        Gradients are clipped to this norm. ``None`` does not clip.

    validation_fraction : float, default=None
        Fraction of the rows (or of the groups passed to `fit`) to hold out, in (0, 1).
        The weights of the epoch with the best validation SRCC against the same target
        are kept. A teacher that is fitted here has seen the held-out rows.

    patience : int, default=3
        With `validation_fraction`, stop after this many epochs without a better SRCC.

    warm_start : bool, default=False
        Continue from the weights and units of the last `fit`.

    checkpoint_dir : str or path, default=None
        Folder for checkpoints. If training is killed, the same `fit` resumes from there
        and ends with the same weights.

    random_state : int, default=0
        Seeds the initial weights, the shuffling, the flips and the validation split.

    memory : str, path or FeatureStore, default=None
        Cache for the teacher's scores and maps, keyed by the content of the picture and
        of the teacher. Without it, they are computed once per fit, never once per
        epoch.

    device : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``None`` uses the first
        accelerator found, else the CPU.

    dtype : {"float32", "float16", "bfloat16"}, default=None
        Autocast precision; weights stay in float32. ``None`` means bfloat16 on CUDA
        (float16 with loss scaling where bfloat16 is not supported) and float32
        elsewhere.

    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that cannot be read: raise at the first one; or skip them
        in `fit`, return NaN for them elsewhere, warn, and list them in ``failed_``.

    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    teacher_ : estimator
        The fitted teacher; absent if there is none, and after `from_pretrained`.
    weights_ : dict of str to ndarray
        The trained weights, float32, and the counters of batch normalisation, int64.
    slope_, intercept_ : float
        Spread and mean of the target; they map the network's output to a prediction.
    target_range_ : list of two floats, or None
        Smallest and largest target of the last `fit`; None for an authors' file.
        Predictions are not clipped to it.
    map_scale_ : float
        Spread of the teacher's maps.
    map_shape_, head_ : list of int, str
        Channels, height and width of the quality map, or None; ``"map"`` or
        ``"pooled"``.
    image_size_ : int
        Side of the network's input in pixels.
    architecture_ : dict
        Arguments that rebuild the network.
    history_ : list of dict
        One entry per epoch: ``epoch``, ``loss``, ``srcc`` (of the training predictions
        against the target) and, with validation, ``validation_srcc``.
    design_ : dict
        The architecture parameters that the weights belong to. Changing one after `fit`
        raises ValueError.
    failed_ : list of (int, str)
        Index and reason for every row of the last call that could not be read.
    feature_names_in_ : ndarray of str
        Column names of the `X` passed to `fit`, if it was a table.

    See Also
    --------
    DPIQARegressor : The paper's teacher.

    Notes
    -----
    *Loss.* Squared error of the score divided by the variance of the target, plus
    `map_weight` times that of the map divided by the variance of the maps. The paper
    adds both errors unscaled, with `y` in [0, 1].

    *Memory.* Views are decoded once per fit into a file in the temporary folder
    (``TMPDIR``), together with the maps; training reads them from there.

    *The store* identifies a teacher by its class, parameters, fitted attributes and
    frozen model, but not by the code of your own classes: clear it when that changes.

    *Differences from the paper's student.* No layers are dropped in training
    (torchvision's B7 uses stochastic depth); AdamW without weight decay; the units of
    the loss.

    References
    ----------
    .. [1] H. Fu, Y. Wang, W. Yang, A. C. Kot and B. Wen, "DP-IQA: Utilizing Diffusion
       Prior for Blind Image Quality Assessment in the Wild", arXiv 2405.19996.
    .. [2] M. Tan and Q. V. Le, "EfficientNet: Rethinking Model Scaling for
       Convolutional Neural Networks", ICML 2019.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from diffqa_features import DiffusionQAFeatures, DistilledStudentRegressor
    >>> from diffqa_features.datasets import make_distorted_images
    >>> data = make_distorted_images(families="jpeg", n_levels=2, image_size=64)
    >>> teacher = make_pipeline(DiffusionQAFeatures(image_size=64), Ridge())
    >>> student = DistilledStudentRegressor(teacher, network="tiny", max_epochs=1)
    >>> student.fit(data.data[:4], data.target[:4]).predict(data.data[4:16]).shape
    (12,)
    """

    _ARCHITECTURE = ("network", "image_size", "view", "normalization", "head")
    _FITTED = (
        "slope_", "intercept_", "target_range_", "map_scale_", "map_shape_", "head_",
        "image_size_", "architecture_", "history_",
    )  # fmt: skip

    _parameter_constraints: dict = {
        **LearnedRegressor._parameter_constraints,
        "teacher": [HasMethods("predict"), None],
        "network": [str, os.PathLike],
        "weights": [str, os.PathLike, None],
        "image_size": [Interval(Integral, 64, None, closed="left"), None],
        "normalization": [StrOptions({"unit", "imagenet"})],
        "head": [StrOptions({"auto", "map", "pooled"})],
        "target": [StrOptions({"teacher", "truth", "both"})],
        "map_weight": [Interval(Real, 0, None, closed="left")],
        "flip": ["boolean"],
        "crop_size": [Interval(Integral, 32, None, closed="left"), None],
        "milestones": [InOrder()],
        "lr_decay": [Interval(Real, 0, 1, closed="right")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    }

    def __init__(
        self,
        teacher=None,
        *,
        network="efficientnet_b0",
        weights=None,
        image_size=None,
        view="stretch",
        normalization="unit",
        head="auto",
        target="teacher",
        map_weight=1.0,
        flip=False,
        crop_size=None,
        max_epochs=30,
        batch_size=24,
        gradient_accumulation_steps=1,
        learning_rate=1e-4,
        milestones=(),
        lr_decay=0.2,
        weight_decay=0.0,
        max_grad_norm=None,
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
        self.teacher = teacher
        self.network = network
        self.weights = weights
        self.image_size = image_size
        self.view = view
        self.normalization = normalization
        self.head = head
        self.target = target
        self.map_weight = map_weight
        self.flip = flip
        self.crop_size = crop_size
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.gradient_accumulation_steps = gradient_accumulation_steps
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

    def fit(self, X, y=None, groups=None, X_unlabelled=None, sample_weight=None):
        """Train the student on its teacher's predictions, on `y`, or on both.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            Each row a path, a ``PIL.Image`` or an array (H, W) or (H, W, 3).
        y : array-like of shape (N,), default=None
            Opinion scores in any unit and direction, finite. Required without a
            teacher, with an unfitted one, and for a `target` other than ``"teacher"``.
        groups : array-like of shape (N,), default=None
            With `validation_fraction`, rows of one group stay on the same side of the
            split.
        X_unlabelled : list, array, Series or DataFrame of pictures, default=None
            Additional pictures, scored by the teacher. All of them are used for
            training.
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
            If a parameter, a picture, `y` or the teacher's output is invalid.
        FloatingPointError
            If a loss is not finite; the message names the step and a remedy.
        OSError
            If weights, a file or a checkpoint cannot be read.
        """
        self._validate_params()
        self._check_asked(y, X_unlabelled)
        return self._fit(X, y, groups, sample_weight, X_unlabelled=X_unlabelled)

    def predict(self, X):
        """Predict the quality of pictures; no teacher is needed.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `fit`.

        Returns
        -------
        ndarray of shape (N,), dtype float64
            Scores in the units of the teacher, or of `y`.
        """
        found = self._look_at(X, lambda scores, _: [self._in_units(scores)], ())
        return self._finite(*found)

    @available_if(_has_maps)
    def quality_maps(self, X, tiles=False):
        """Predict the teacher's quality maps; only available if it has some.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `fit`.
        tiles : bool, default=False
            Cut each picture into tiles of the model's input size at native resolution,
            as many as cover it, and put their maps together to one of the whole
            picture, of the same shape: each cell is the mean of the tiles that show it.
            Meant for ``view="crop"``, where the model learned from such pixels.

        Returns
        -------
        ndarray of shape (N, C, h, w), dtype float32
            Non-negative, in the teacher's units.
        """
        if tiles:
            self._check_fitted()
            return self._maps_of_tiles(X, self.image_size_, tuple(self.map_shape_))
        (maps,) = self._look_at(
            X,
            lambda _, maps: [np.float32(self.map_scale_) * maps],
            tuple(getattr(self, "map_shape_", ())),
            maps=True,
        )
        return maps

    def export_onnx(self, path):
        """Export the fitted student to a single ONNX file, which runs without torch.

        Its input ``pixels`` is uint8 of shape (N, S, S, 3), RGB pictures resized by
        Pillow's bicubic filter to S = `image_size_` (centre-cropped with
        ``view="crop"``). Its output ``score``, float32 of shape (N,), equals `predict`.

        Parameters
        ----------
        path : str or path
            The file; an existing one is replaced atomically.

        Raises
        ------
        ImportError
            If the packages of the extra ``onnx`` are not installed.
        """
        from diffqa_features.learned.student.onnx import export

        self._check_fitted()
        export(self, path)

    @classmethod
    def from_released(cls, path, network="efficientnet_b7", **parameters):
        """Load a student checkpoint from DP-IQA's authors.

        Parameters
        ----------
        path : str or path
            A state dict (``.pth``, only tensors are read, or ``.safetensors``) with
            torchvision's names of EfficientNet-B7 and the paper's head.
        network : str or path, default="efficientnet_b7"
            The EfficientNet in the file.
        **parameters : object
            Other parameters, such as `device`.

        Returns
        -------
        DistilledStudentRegressor
            A fitted estimator that predicts in the units of its training, MOS / 100.

        Raises
        ------
        ValueError
            If the file has unexpected contents.
        OSError
            If the file cannot be found.

        Notes
        -----
        The authors resize with Pillow's bilinear filter, this library with the bicubic
        one.
        """
        from diffqa_features.learned.student.released import read_released_student

        estimator = cls(network=network, head="map", **parameters)
        estimator._validate_params()
        architecture, size = estimator._check_parameters()
        architecture = {**architecture, "symmetric": True}
        network = estimator._make_network(architecture, "map", PAPERS_MAP)
        weights = read_released_student(path, network, architecture["config"])
        fitted = {
            "slope_": 1.0, "intercept_": 0.0, "target_range_": None, "map_scale_": 1.0,
            "map_shape_": list(PAPERS_MAP), "head_": "map", "image_size_": size,
            "architecture_": architecture, "history_": [],
        }  # fmt: skip
        return estimator._set_fitted(weights, fitted, estimator._architecture())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.teacher is None or self.target != "teacher"
        return tags

    # -- parameters ----------------------------------------------------------------

    def _check_parameters(self):
        """Architecture and input size; checks parameters against each other."""
        from diffqa_features.learned.student.efficientnet import find_config

        if str(self.network) == "tiny":
            if self.weights is not None:
                raise ValueError(
                    "The 'weights' parameter must be None for network='tiny', which "
                    "starts from random weights, or goes on from those of its last "
                    f"fit with warm_start=True. Got {self.weights!r} instead."
                )
            architecture, size = {"kind": "tiny"}, 192
        else:
            config, size = find_config(self.network)
            architecture = {
                "kind": "efficientnet", "config": config, "symmetric": False
            }  # fmt: skip
        size = size if self.image_size is None else int(self.image_size)
        if self.crop_size is not None and self.crop_size > size:
            raise ValueError(
                f"The 'crop_size' parameter of {type(self).__name__} must be at most "
                f"the image_size, {size}. Got {self.crop_size!r} instead."
            )
        return architecture, size

    def _check_asked(self, y, X_unlabelled):
        """Raise if the parameters require something that is missing."""
        if self.teacher is None:
            missing, why = y is None, "teacher=None"
            if X_unlabelled is not None:
                raise ValueError(
                    "X_unlabelled needs a teacher to score it. Got teacher=None."
                )
        elif self.target != "teacher":
            missing, why = y is None, f"target={self.target!r}"
        else:
            missing = y is None and not is_fitted(self.teacher)
            why = "a teacher that is not fitted"
        if missing:
            raise ValueError(f"fit needs y with {why}. Got None.")

    def _check_saved(self, weights, config, folder):
        from diffqa_features.learned.student.efficientnet import checked_config

        super()._check_saved(weights, config, folder)
        architecture = config["fitted"]["architecture_"]
        if architecture["kind"] == "efficientnet":
            path = Path(folder) / "config.json"
            architecture["config"] = checked_config(architecture["config"], path)

    # -- data: pictures, and what the teacher says of them -------------------------

    def _check_targets(self, job, y, groups, sample_weight):
        if y is not None:
            job.y = check_target(y, job.rows)
        others = job.more["X_unlabelled"]
        job.more["rows"] = [] if others is None else as_rows(others)
        self._check_rows(job, groups, sample_weight)

    def _open_data(self, job):
        architecture, size = job.info
        if not job.warm:
            job.more["weights"] = self._first_weights(architecture)
        data = DistillationData(len(job.rows) + len(job.more["rows"]), size)
        data.read(job.rows, self.view, self.verbose, job.failed)
        kept = job.kept
        if not kept:
            return data
        parts = [(job.X, [job.rows[place] for place in kept])]
        if job.more["rows"]:
            bad = self._list_of_failed()
            data.read(job.more["rows"], self.view, self.verbose, bad)
            lost = {index for index, _ in bad or ()}
            others = [row for row in job.more["rows"] if row.index not in lost]
            parts.append((job.more["X_unlabelled"], others))
            if bad:
                job.failed += [(len(job.rows) + index, why) for index, why in bad]
        y = job.y
        if job.failed:
            y = None if y is None else y[kept]
        teacher = self._fitted_teacher(job, y)
        maps = self.map_weight > 0 and hasattr(teacher, "quality_maps")
        if self.crop_size is not None and (maps or self.head == "map"):
            raise ValueError(
                "crop_size needs a student without quality maps, which are those of "
                "whole pictures. Set crop_size=None, or map_weight=0 and head='pooled'."
            )
        data.set_targets(self, parts, y, teacher)
        job.more["teacher"] = teacher
        return data

    def _fitted_teacher(self, job, y):
        """The teacher, fitted on X and y if necessary; None without one."""
        if self.teacher is None:
            return None
        if isinstance(self.teacher, type):
            raise ValueError(
                f"The 'teacher' parameter of {type(self).__name__} must be an estimator"
                f" and not its class: {self.teacher.__name__}(). Got the class."
            )
        if is_fitted(self.teacher):
            return self.teacher
        X = take_rows(job.X, job.kept) if job.failed else job.X
        passed = {
            name: values if not job.failed else values[job.kept]
            for name, values in (("groups", job.groups), ("sample_weight", job.weight))
            if values is not None and has_fit_parameter(self.teacher, name)
        }
        return clone(self.teacher).fit(X, y, **passed)

    def _divide(self, job):
        labelled = len(job.kept)
        others = np.arange(labelled, len(job.data.keys))
        train, job.held = self._split(job.kept, job.groups, job.weight)
        if job.weight is not None:
            # Pictures without scores count like those with scores on average.
            mean = job.weight[train].mean()
            job.weight = np.append(job.weight / mean, np.ones(len(others)))
        job.train = np.concatenate([train, others])
        job.y = job.data.target
        self._check_divided(job)

    # -- network -------------------------------------------------------------------

    def _build_network(self, job):
        import torch

        shape = None if job.data.maps is None else list(job.data.maps.shape[1:])
        network = self._go_on(shape) if job.warm else self._start(job, shape)
        with torch.inference_mode(False):  # a caller may be in it
            # Trains in 0.7 to 0.9 of the time on a CPU, and predicts like this too.
            return network.to(self._where(), memory_format=torch.channels_last)

    def _start(self, job, map_shape):
        """A network with initial weights, and its fitted attributes."""
        from diffqa_features.learned.student.efficientnet import load_into

        architecture, size = job.info
        head, map_shape = self._choose_head(architecture, map_shape)
        network = self._make_network(architecture, head, map_shape)
        source, weights = job.more["weights"]
        if weights is not None:
            load_into(network.body, weights, str(source))
        job.more["fitted"] = {
            "map_scale_": job.data.spread_of_maps(
                job.train, take_weights(job.weight, job.train)
            ),
            "map_shape_": map_shape,
            "head_": head,
            "image_size_": size,
            "architecture_": architecture,
        }
        return network

    def _go_on(self, map_shape):
        """The fitted network, if the maps have the shape it was fitted on."""
        if map_shape is not None and map_shape != self.map_shape_:
            raise ValueError(
                f"warm_start=True goes on with quality maps of shape {self.map_shape_},"
                f" but the teacher's have {map_shape}. Set warm_start=False, or "
                "map_weight=0."
            )
        network = self._make_network(self.architecture_, self.head_, self.map_shape_)
        self._load_weights(network)
        return network

    def _first_weights(self, architecture):
        """Source and values of the body's initial weights; or None twice."""
        from diffqa_features.learned.student.efficientnet import VARIANTS, read_weights

        source = self.weights
        if source is None and architecture["kind"] == "efficientnet":
            source = None if str(self.network) in VARIANTS else self.network
        return source, None if source is None else read_weights(source)

    def _make_network(self, architecture, head, map_shape):
        import torch

        from diffqa_features.learned.student.network import StudentNetwork

        imagenet = self.normalization == "imagenet"
        seed = int(self.random_state)
        with torch.inference_mode(False):  # a caller may be in it
            return StudentNetwork(architecture, head, map_shape, imagenet, seed)

    def _choose_head(self, architecture, map_shape):
        head = self.head
        if head == "auto":
            tiny = architecture["kind"] == "tiny"
            head = "pooled" if tiny or map_shape is None else "map"
        if head == "map" and map_shape is None:
            map_shape = list(PAPERS_MAP)
        return head, map_shape

    # -- loss and scores -----------------------------------------------------------

    def _loss(self, job):
        from diffqa_features.learned.student.loss import distillation_step

        scale = self.map_scale_ if job.warm else job.more["fitted"]["map_scale_"]
        return distillation_step(self, job, scale)

    def _scores(self, job, rows):
        views = (job.data.pixels[row] for row in rows)
        scores, _ = self._look(job.network.eval(), views, self._where())
        return scores

    def _end(self, job, trained):
        fitted = super()._end(job, trained)
        if not job.warm:
            fitted |= job.more["fitted"]
        if job.more["teacher"] is not None:
            fitted["teacher_"] = job.more["teacher"]
        return fitted

    def _set_fitted(self, weights, fitted, architecture):
        vars(self).pop("teacher_", None)
        return super()._set_fitted(weights, fitted, architecture)

    def _facts(self, job):
        data = job.data
        settings = self.flip, self.crop_size, float(self.map_weight)
        return data.keys, data.taught, data.truth, data.maps, settings

    # -- predictions ---------------------------------------------------------------

    def _look_at(self, X, take, shape, maps=False):
        """What `take` returns for the scores and, if requested, maps of pictures."""
        self._check_fitted()
        job = Job(X, as_rows(X), failed=self._list_of_failed())
        device = self._where()
        pictures = read_pictures(
            job.rows, self.view, self.image_size_, self.verbose, job.failed
        )
        views = (view for _, view in pictures)
        found = self._look(self._trained(device), views, device, maps)
        return self._by_row(job, lambda: take(*found), shape)

    def _look(self, network, views, device, maps=False):
        from diffqa_features.learned.student.predict import score_views

        return score_views(network, views, device, self._arithmetic(device), maps)

    def _trained(self, device):
        from diffqa_features.learned.student.predict import ready_network

        return ready_network(self, device)
