"""`DistilledStudentRegressor`: a slow teacher and pictures in, a small network out."""

import numpy as np
from sklearn.utils.metaestimators import available_if

from diffqa_features._media.rows import as_rows
from diffqa_features.learned.student.distilling import PAPERS_MAP, Distilling


def _has_maps(self):
    return getattr(self, "map_shape_", None) is not None


class DistilledStudentRegressor(Distilling):
    """A convolutional network that learns to score pictures as a teacher does.

    Any fitted regressor on pictures can be the teacher: a Pipeline of frozen features
    and SVR, or a learned method. The student needs neither it nor a diffusion model to
    predict. From a teacher with quality maps it learns these too, as DP-IQA's student
    does [1]_. Pictures without opinion scores serve as well: the teacher scores them.

    Parameters
    ----------
    teacher : estimator, default=None
        Has ``predict`` on pictures and may have ``quality_maps``. A fitted one is taken
        as it is; of one that is not, a clone is fitted on the `X` and `y` of `fit`.
        ``clone`` and searches forget what was fitted, unless it is wrapped in
        :class:`~sklearn.frozen.FrozenEstimator`. ``None`` trains on `y` alone.

    network : str or path, default="efficientnet_b0"
        ``"tiny"``, 0.2 million numbers, meant for distortions and a CPU;
        ``"efficientnet_b0"`` to ``"efficientnet_b7"``, the last one being the paper's;
        a hub id or a folder with an EfficientNet as transformers saves it, which is
        also where its first weights come from.

    weights : str or path, default=None
        Hub id or folder with an EfficientNet's first weights (safetensors), such as
        ``"google/efficientnet-b0"``. ``None`` are those that `network` brings, or
        random ones.

    image_size : int, default=None
        Side of the picture that the student sees, pixels, at least 64. ``None``: 192
        for ``"tiny"``, 224 for B0, 512 for B7. The teacher has its own way to see.

    view : {"stretch", "crop"}, default="stretch"
        How a picture is brought to that size: resized to a square (Pillow's bicubic),
        or its centre cut out without scaling.

    normalization : {"unit", "imagenet"}, default="unit"
        Pixels in [0, 1], as in the paper, or with ImageNet's mean and standard
        deviation, which weights trained on ImageNet are used to.

    head : {"auto", "map", "pooled"}, default="auto"
        Where the score is read. ``"map"``: from the quality map, whole, by three
        layers, as in the paper. ``"pooled"``: from features averaged over the picture;
        maps are learned beside it. ``"auto"``: ``"map"`` for an EfficientNet whose
        teacher has maps.

    target : {"teacher", "truth", "both"}, default="teacher"
        What the score is compared with. ``"teacher"``: the teacher's score.
        ``"truth"``: `y`, as in the paper, and the teacher's score where a picture has
        no `y`. ``"both"``: the mean of the two errors, for a teacher in the units of
        `y`.

    map_weight : float, default=1.0
        Weight of the maps' error beside that of the score, at least 0. 0 leaves the
        maps out.

    flip : bool, default=False
        Mirror pictures and their maps at random in training. The paper does not.

    crop_size : int, default=None
        Train on random squares of this side, pixels, at least 32, as if they had the
        score of the whole; quicker, and true of distortions that are everywhere. Not
        with quality maps.

    max_epochs : int, default=30
        Passes over all pictures.

    batch_size : int, default=24
        Pictures per step.

    accumulation : int, default=1
        Parts of a batch, where it does not fit into memory. Batch normalisation sees
        the parts.

    learning_rate : float, default=1e-4
        Of AdamW. ``"tiny"`` learns faster with 1e-3 to 3e-3.

    milestones : sequence of int, default=()
        Epochs after which the rate is multiplied by `decay`. The paper's is 5 for
        KonIQ-10k.

    decay : float, default=0.2
        The factor of `milestones`, in (0, 1].

    weight_decay : float, default=0.0
        Of AdamW.

    gradient_clip : float, default=None
        Largest norm of a step's gradient. ``None`` does not clip.

    validation_fraction : float, default=None
        Part of the rows (or of the groups given to `fit`) that is held out, in (0, 1).
        The weights of the epoch with the best SRCC there against the same target are
        kept. A teacher fitted here has seen them.

    patience : int, default=3
        With `validation_fraction`: stop after this many epochs without a better SRCC.

    warm_start : bool, default=False
        Go on from the weights and units of the last `fit`.

    checkpoint_dir : str or path, default=None
        Folder for the state of a training that runs. The same `fit` after a kill goes
        on from there and ends with the same weights.

    random_state : int, default=0
        Seeds the first weights, the order, flips and the split.

    memory : str, path or FeatureStore, default=None
        Where the teacher's scores and maps are kept, by content of the picture and of
        the teacher. Without it they are asked for once per fit, never once per epoch.

    device : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``None`` takes the first
        accelerator there is, else the CPU.

    dtype : {"float32", "float16", "bfloat16"}, default=None
        Arithmetic, by autocast; all weights are in float32. ``None`` is bfloat16 on
        CUDA (float16 with a scaled loss where there is none) and float32 elsewhere.

    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    teacher_ : estimator
        The fitted teacher; absent without one, and after `from_pretrained`.
    weights_ : dict of str to ndarray
        What was trained, float32, with counters of batch normalisation, int64.
    slope_, intercept_ : float
        Spread and mean of the target, by which the network's output is a prediction.
    map_scale_ : float
        Spread of the teacher's maps.
    map_shape_, head_ : list of int, str
        Channels, height and width of the quality map or None; ``"map"``, ``"pooled"``.
    image_size_ : int
        Side of the network's pictures, pixels.
    architecture_ : dict
        What it takes to build the network again.
    history_ : list of dict
        Per epoch: ``epoch``, ``loss``, ``srcc`` (of what was trained on, against the
        target) and, with validation, ``validation_srcc``.
    design_ : dict
        The parameters that the weights belong to. Changed, they are refused.

    See Also
    --------
    DPIQARegressor : The paper's teacher.

    Notes
    -----
    *Loss.* Squared error of the score over the variance of the target, plus
    `map_weight` times that of the map over the variance of maps. The paper adds both
    errors as they are, with `y` in [0, 1].

    *Memory.* Views are decoded once per fit into a file in the temporary folder
    (``TMPDIR``), where maps go too; training reads them from there.

    *The store* knows a teacher by class, parameters, fitted attributes and frozen
    model, and not by the code of a class of your own: clear it where that changes.

    *What differs from the paper's student.* Nothing is dropped in training, where
    torchvision drops layers of B7; AdamW without weight decay; the units of the loss.

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
        accumulation=1,
        learning_rate=1e-4,
        milestones=(),
        decay=0.2,
        weight_decay=0.0,
        gradient_clip=None,
        validation_fraction=None,
        patience=3,
        warm_start=False,
        checkpoint_dir=None,
        random_state=0,
        memory=None,
        device=None,
        dtype=None,
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
        self.accumulation = accumulation
        self.learning_rate = learning_rate
        self.milestones = milestones
        self.decay = decay
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.memory = memory
        self.device = device
        self.dtype = dtype
        self.verbose = verbose

    def fit(self, X, y=None, groups=None, X_unlabelled=None):
        """Train the student on what its teacher says, on `y`, or on both.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            Each row a path, a ``PIL.Image`` or an array (H, W) or (H, W, 3).
        y : array-like of shape (N,), default=None
            Opinion scores in any unit and direction, finite. Needed without a teacher,
            to fit one, and for a `target` other than ``"teacher"``.
        groups : array-like of shape (N,), default=None
            With `validation_fraction`, rows of a group stay on one side.
        X_unlabelled : list, array, Series or DataFrame of pictures, default=None
            More pictures, which the teacher scores. All of them train.

        Returns
        -------
        self : object
            The fitted estimator. After an error it is as it was before.

        Raises
        ------
        ValueError
            If a parameter, a picture, `y` or what the teacher says cannot be used.
        FloatingPointError
            If a loss is not finite; the message names the step and the way out.
        OSError
            If weights, a file or a checkpoint cannot be read.
        """
        self._validate_params()
        self._check_asked(y, X_unlabelled)
        parts = [(X, as_rows(X))]
        if X_unlabelled is not None:
            parts.append((X_unlabelled, as_rows(X_unlabelled)))
        if y is not None:
            y = self._check_target(parts[0][1], y)
        return self._fit(parts, y, groups)

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
        scores, _ = self._looked_at(X)
        return self.intercept_ + self.slope_ * scores

    @available_if(_has_maps)
    def quality_maps(self, X):
        """Predict the teacher's quality maps; only there if it had some.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `fit`.

        Returns
        -------
        ndarray of shape (N, C, h, w), dtype float32
            Not negative, in the teacher's units.
        """
        _, maps = self._looked_at(X, maps=True)
        return np.float32(self.map_scale_) * maps

    def export_onnx(self, path):
        """Write the fitted student as one ONNX file, which runs without torch.

        Its input ``pixels`` is uint8 of shape (N, S, S, 3), RGB pictures resized by
        Pillow's bicubic filter to S = `image_size_` (with ``view="crop"``, cut out);
        its output ``score``, float32 of shape (N,), is what `predict` gives.

        Parameters
        ----------
        path : str or path
            The file, replaced once the new one is whole.

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
        """Load a student checkpoint of DP-IQA's authors.

        Parameters
        ----------
        path : str or path
            A state dict (``.pth``, only tensors are read, or ``.safetensors``) with
            torchvision's names of EfficientNet-B7 and the paper's head.
        network : str or path, default="efficientnet_b7"
            The EfficientNet in it.
        **parameters : object
            Other parameters, such as `device`.

        Returns
        -------
        DistilledStudentRegressor
            A fitted estimator that predicts in the units it was trained in, MOS / 100.

        Raises
        ------
        ValueError
            If the file holds something else.
        OSError
            If it is not there.

        Notes
        -----
        The authors resize with Pillow's bilinear filter, this library with bicubic.
        """
        from diffqa_features.learned.student.released import read_released_student

        estimator = cls(network=network, head="map", **parameters)
        estimator._validate_params()
        architecture, size = estimator._plan()
        architecture = {**architecture, "symmetric": True}
        network = estimator._build(architecture, "map", PAPERS_MAP)
        weights = read_released_student(path, network, architecture["config"])
        fitted = {
            "slope_": 1.0, "intercept_": 0.0, "map_scale_": 1.0,
            "map_shape_": list(PAPERS_MAP), "head_": "map", "image_size_": size,
            "architecture_": architecture, "history_": [],
        }  # fmt: skip
        return estimator._take(weights, fitted, estimator._design())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.teacher is None or self.target != "teacher"
        return tags
