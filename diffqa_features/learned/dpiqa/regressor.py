"""`DPIQARegressor`: pictures and opinion scores in, a UNet with adapters out."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from diffqa_features._backbone.info import describe_backbone
from diffqa_features._media.rows import as_rows
from diffqa_features._store.store import as_store
from diffqa_features._utils.checks import InOrder
from diffqa_features.learned._base import BackboneModel, Job
from diffqa_features.learned._pictures import (
    Pictures,
    encode_pictures,
    read_pictures,
)
from diffqa_features.learned._regression import LearnedRegressor, take_weights
from diffqa_features.learned.dpiqa.augmentation import (
    AUGMENTATIONS,
    larger_side,
    vary_views,
)
from diffqa_features.learned.dpiqa.presets import PRESETS, preset_of


class DPIQARegressor(BackboneModel, LearnedRegressor):
    """Image quality from all levels of a diffusion model's UNet (DP-IQA [1]_).

    A picture is encoded and passed through the UNet of a latent diffusion model,
    without noise and at timestep 1. Two adapters feed the UNet: one shifts the text
    features of 1485 prompts, each of which names a quality, a scene and a distortion
    and is represented by one token; the other adds feature maps of the pixels to the
    UNet's encoder. The outputs of the decoder blocks are resampled to one grid,
    weighted, fused and reduced to 8 quality maps, from which a small network computes
    the score.

    With ``train_unet=True``, as published, everything except the VAE and the text
    encoder is trained: 981 million parameters on Stable Diffusion. The trained UNet is
    a copy; the backbone shared with other estimators is not modified.

    Parameters
    ----------
    backbone : str or path, default="tiny"
        The latent diffusion model: an alias (``"tiny"``, ``"sd15"``, as in the paper,
        ``"sd21-base"``), a hub id, or a folder in diffusers layout.

    vae : str or path, default=None
        Autoencoder in place of the backbone's own; see `DiffusionQAFeatures`.

    qualities, scenes, distortions : sequence of str, default=None
        Words for the prompts: each quality is combined with each scene and each
        distortion. ``None`` uses the published lists: 5 qualities from "bad" to
        "perfect"; animal, cityscape, human, indoor, landscape, night, plant, still_life
        and others; 33 distortions from "jpeg2000 compression" to "other realistic". For
        text encoders that read fewer than 64 tokens, the only scene is "photo".

    text_model : str or path, default=None
        Text encoder with a projection, in the layout of transformers' ``CLIPModel``:
        a hub id or folder. The paper uses ``"openai/clip-vit-large-patch14"``. ``None``
        uses the backbone's own text encoder, which has no projection.

    text_adapter, image_adapter : bool, default=True
        Build and train the adapter of the text features, and the one that adds maps of
        the pixels. False leaves it out: the UNet then reads the text features as they
        are, or sees no pixels besides the latent.

    train_unet : bool, default=True
        Train a copy of the UNet, as published. False trains only the adapters and the
        decoder, on the shared UNet.

    decoder_width : int, default=None
        Channels in the decoder. ``None`` means the published 512 for Stable Diffusion,
        and proportionally fewer for narrower UNets (48 for ``"tiny"``).

    timestep : int, default=1
        Timestep passed to the UNet, in [0, 999].

    image_size : int, default=None
        Side of the backbone's input in pixels. ``None`` uses the backbone's native
        size.

    view : {"stretch", "crop"}, default="stretch"
        Stretched to a square of that size, or centre-cropped without scaling.

    normalization : {"unit", "vae"}, default=None
        Pixel range of the VAE's input. ``"unit"``, [0, 1], matches the released code;
        ``"vae"`` is [-1, 1], which the autoencoder was trained on. The image adapter
        always receives [0, 1]. ``None``: see `preset`.

    columns : {"hidden", "stages"}, default="hidden"
        What `transform` returns: the last layer of the network, or pooled states of
        the UNet's decoder, which a support vector machine reads better where hundreds
        of pictures train (:doc:`/dpiqa`).

    ranking_weight : float, default=0.0
        Weight of a margin ranking loss over all pairs of a batch, added to the squared
        error. 0 matches the released code; the paper adds the two.

    ranking_margin : float, default=0.25
        Margin of the ranking loss, in standard deviations of the batch's scores.

    augmentation : {"flips", "flips and crops"}, default=None
        Changes each training picture at random in every epoch: mirrored left to right,
        or mirrored and cropped from a version that is an eighth larger than
        `image_size`. The VAE then encodes each picture in every epoch. ``None``, as in
        the released code, encodes it once.

    preset : str, default=None
        The settings that ``None`` stands for in `normalization`, `max_epochs`,
        `learning_rate` and `milestones`; the table is in the notes. ``None`` uses
        ``"tiny"`` for UNets narrower than Stable Diffusion's, else ``"koniq"``.

    max_epochs : int, default=None
        Number of epochs. ``None``: see `preset`.

    batch_size : int, default=16
        Pictures per training step.

    gradient_accumulation_steps : int, default=1
        Number of parts to split a batch into if it does not fit into memory. The
        ranking loss then only sees pairs within a part.

    learning_rate : float, default=None
        Initial learning rate of AdamW, which is Adam when there is no weight decay.
        ``None``: see `preset`.

    milestones : sequence of int, default=None
        Epochs after which the learning rate is multiplied by `lr_decay`. ``None``: see
        `preset`.

    lr_decay : float, default=0.2
        Factor applied at `milestones`, in (0, 1].

    weight_decay : float, default=0.0
        Weight decay of AdamW.

    max_grad_norm : float, default=None
        Gradients are clipped to this norm; ``None`` does not clip.

    validation_fraction : float, default=None
        Fraction of the rows (or of the groups passed to `fit`) to hold out, in (0, 1).
        The weights of the epoch with the best validation SRCC are kept. ``None`` trains
        on all rows for `max_epochs`.

    patience : int, default=3
        With `validation_fraction`, stop after this many epochs without a better SRCC.

    warm_start : bool, default=False
        Continue from the weights and the line of the last `fit`.

    checkpoint_dir : str or path, default=None
        Folder for checkpoints, written after every epoch and every two minutes. If
        training is killed, the same `fit` resumes from there and ends with the same
        weights.

    random_state : int, default=0
        Seeds the initial weights, the shuffling, the augmentation and the validation
        split; predictions are deterministic.

    memory : str, path or FeatureStore, default=None
        Cache for latents and text features. Without it, they are computed once per
        call.

    device : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``None`` uses the first
        accelerator found, else the CPU.

    dtype : {"float32", "float16", "bfloat16"}, default=None
        Precision of the network under autocast; weights stay in float32. ``None`` means
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
        The trained weights, and the text features used in training.
    slope_, intercept_ : float
        The prediction is ``intercept_ + slope_ * s``, with s the network's score.
    target_range_ : list of two floats, or None
        Smallest and largest `y` of the last `fit`; None for an authors' file.
        Predictions are not clipped to it.
    history_ : list of dict
        One entry per epoch: ``epoch``, ``loss`` (squared error plus any ranking loss,
        with training scores scaled to a range of 1), ``srcc`` (of the training
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
    GenzIQARegressor : Trains prompts and low-rank factors, a thousandth of the weights.
    DiffusionQAFeatures : ``kinds="hidden"`` pools the states of the frozen UNet.

    Notes
    -----
    *Presets.* By the authors' data set, as in the released code, and one of ours for
    ``tiny``:

    =================== ============= ========== ========== =============
    preset              learning_rate max_epochs milestones normalization
    =================== ============= ========== ========== =============
    koniq, spaq, kadid  1e-5          30         (5,)       unit
    clive, tid2013      1e-5          30         (10,)      unit
    livefb, live        1e-5          30         (2,)       unit
    tiny                3e-4          4          (3,)       vae
    =================== ============= ========== ========== =============

    *Units of y.* The network is trained on scores centred at 0 with a range of 1, and a
    line converts between these and the units of `y`, which can have any range and
    direction. `score` is scikit-learn's R²; for the field's metrics see
    :mod:`diffqa_features.metrics`.

    *Prompts* read "a photo of a {scene} with {distortion} artifacts, which is of
    {quality} quality", as published, or "{quality} {scene} {distortion}" for a text
    encoder that reads fewer than 64 tokens (``tiny``: 24). Such an encoder knows no
    scenes: ``scenes=None`` then means one, "photo", hence 165 prompts, which halves the
    time of an epoch. A prompt's token is the text encoder's state at the end token.

    *Cost.* Each picture is decoded once per call and, without `augmentation`, its
    latent computed once; both are kept in a temporary file (0.85 MB per picture at 512
    pixels, in the folder set by ``TMPDIR``), so memory does not grow with the number of
    pictures. The keys and values of the text do not depend on the picture: they are
    computed once per training step, and once per call in prediction. The UNet's output
    convolution does not run.

    *Sizes.* The maps have the resolution of the latent: 64 × 64 at 512 pixels on Stable
    Diffusion, as published, 48 × 48 at 192 pixels on ``tiny``.

    *Differences from the released code.* The latent is the mode of the posterior, not a
    sample, so predictions are deterministic. Pictures are downscaled with Pillow's
    bicubic filter. Scores are centred, as described above, not divided by 100. Two fits
    with the same seed agree exactly on the same machine with the same number of
    threads.

    References
    ----------
    .. [1] H. Fu, Y. Wang, W. Yang, A. C. Kot and B. Wen, "DP-IQA: Utilizing Diffusion
       Prior for Blind Image Quality Assessment in the Wild", arXiv 2405.19996.

    Examples
    --------
    >>> from diffqa_features import DPIQARegressor
    >>> from diffqa_features.datasets import make_distorted_images
    >>> data = make_distorted_images(families="white_noise", n_levels=2, image_size=32)
    >>> model = DPIQARegressor(scenes=["photo"], distortions=["noise"], image_size=32)
    >>> model.set_params(max_epochs=1)
    DPIQARegressor(...)
    >>> model.fit(data.data[:4], data.target[:4]).predict(data.data[:2]).shape
    (2,)
    >>> model.quality_maps(data.data[:2]).shape
    (2, 8, 8, 8)
    """

    _ARCHITECTURE = (
        "qualities",
        "scenes",
        "distortions",
        "text_model",
        "text_adapter",
        "image_adapter",
        "train_unet",
        "decoder_width",
        "timestep",
        "image_size",
        "view",
        "normalization",
    )

    _parameter_constraints: dict = {
        **BackboneModel._parameter_constraints,
        "qualities": [InOrder(), None],
        "scenes": [InOrder(), None],
        "distortions": [InOrder(), None],
        "text_model": BackboneModel._parameter_constraints["checkpoint_dir"],
        "text_adapter": ["boolean"],
        "image_adapter": ["boolean"],
        "train_unet": ["boolean"],
        "decoder_width": [Interval(Integral, 8, None, closed="left"), None],
        "timestep": [Interval(Integral, 0, 999, closed="both")],
        "normalization": [StrOptions({"unit", "vae"}), None],
        "columns": [StrOptions({"hidden", "stages"})],
        "ranking_weight": [Interval(Real, 0, None, closed="left")],
        "ranking_margin": [Interval(Real, 0, None, closed="left")],
        "augmentation": [StrOptions(set(AUGMENTATIONS)), None],
        "preset": [StrOptions(set(PRESETS)), None],
        "max_epochs": [*BackboneModel._parameter_constraints["max_epochs"], None],
        "learning_rate": [*BackboneModel._parameter_constraints["learning_rate"], None],
        "milestones": [InOrder(), None],
        "lr_decay": [Interval(Real, 0, 1, closed="right")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    }

    def __init__(
        self,
        backbone="tiny",
        *,
        vae=None,
        qualities=None,
        scenes=None,
        distortions=None,
        text_model=None,
        text_adapter=True,
        image_adapter=True,
        train_unet=True,
        decoder_width=None,
        timestep=1,
        image_size=None,
        view="stretch",
        normalization=None,
        columns="hidden",
        ranking_weight=0.0,
        ranking_margin=0.25,
        augmentation=None,
        preset=None,
        max_epochs=None,
        batch_size=16,
        gradient_accumulation_steps=1,
        learning_rate=None,
        milestones=None,
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
        self.backbone = backbone
        self.vae = vae
        self.qualities = qualities
        self.scenes = scenes
        self.distortions = distortions
        self.text_model = text_model
        self.text_adapter = text_adapter
        self.image_adapter = image_adapter
        self.train_unet = train_unet
        self.decoder_width = decoder_width
        self.timestep = timestep
        self.image_size = image_size
        self.view = view
        self.normalization = normalization
        self.columns = columns
        self.ranking_weight = ranking_weight
        self.ranking_margin = ranking_margin
        self.augmentation = augmentation
        self.preset = preset
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

    def fit(self, X, y, groups=None, sample_weight=None):
        """Train the adapters, the decoder and, with `train_unet`, a copy of the UNet.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            Each row a path, a ``PIL.Image`` or an array (H, W) or (H, W, 3).
        y : array-like of shape (N,)
            Opinion scores in any unit and direction; finite, at least two.
        groups : array-like of shape (N,), default=None
            With `validation_fraction`, rows of one group (the versions of one reference
            picture, say) stay on the same side of the split. Ignored otherwise.
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
            If a parameter, a picture or `y` is invalid.
        FloatingPointError
            If a loss is not finite; the message names the step and a remedy.
        OSError
            If the backbone, a file or a checkpoint cannot be read.
        """
        return self._fit(X, y, groups, sample_weight)

    def predict(self, X):
        """Predict the quality of pictures.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `fit`.

        Returns
        -------
        ndarray of shape (N,), dtype float64
            Scores in the units and direction of the `y` of `fit`. A picture's score
            does not depend on the other rows or their order.
        """
        return self._finite(*self._look(X, lambda q: [self._in_units(q.scores)], ()))

    def quality_maps(self, X, return_scores=False, tiles=False):
        """Compute the decoder's quality maps, which a student can learn from.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `fit`.
        return_scores : bool, default=False
            Also return the result of `predict`, from the same passes.
        tiles : bool, default=False
            Cut each picture into tiles of the model's input size at native resolution,
            as many as cover it, and put their maps together to one of the whole
            picture, of the same shape: each cell is the mean of the tiles that show it.
            Meant for ``view="crop"``, where the model learned from such pixels.

        Returns
        -------
        maps : ndarray of shape (N, 8, g, g), dtype float32
            Non-negative. The grid g is that of the latents: `image_size` divided by the
            pixels per latent cell.
        scores : ndarray of shape (N,), dtype float64
            Only with `return_scores`, which `tiles` excludes.
        """
        info = self._check_fitted()
        grid = self._grid(info)
        if tiles and return_scores:
            raise ValueError(
                "Scores are of the view that the model was trained on, and not of "
                "tiles. Call predict, or leave tiles=True out."
            )
        if tiles:
            size = self._checked_image_size(info)
            return self._maps_of_tiles(X, size, (8, grid, grid))
        maps, scores = self._look(
            X, lambda q: [q.maps, self._in_units(q.scores)], (8, grid, grid), ()
        )
        return (maps, scores) if return_scores else maps

    def transform(self, X):
        """Compute columns for another regressor, see `columns`.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `fit`.

        Returns
        -------
        ndarray of shape (N, 8 + width) or (N, 2 C), dtype float32
            The spatial means of the 8 maps, then the activations of the last hidden
            layer, of which the score is a linear function. With ``columns="stages"``
            for each of the UNet's decoder stages, finest first, the means of its
            channels and the logarithms of their deviations plus 0.001; C is the
            number of all channels. A DataFrame after ``set_output``.
        """

        stages = self.columns == "stages"

        def take(quality):
            if stages:
                return [quality.pooled]
            return [np.concatenate([quality.maps.mean((2, 3)), quality.hidden], 1)]

        (columns,) = self._look(
            X, take, self.get_feature_names_out().shape, pools_states=stages
        )
        return columns.astype(np.float32, copy=False)

    def get_feature_names_out(self, input_features=None):
        """Get the column names of `transform` without loading weights.

        Parameters
        ----------
        input_features : object, default=None
            Ignored; present for API consistency.

        Returns
        -------
        ndarray of str
            ``map0__mean`` and so on, then ``hidden__0042``; or ``up3__mean__0000`` and
            ``up3__logstd__0000`` and so on.
        """
        self._check_fitted()
        if self.columns == "stages":
            branches = "decoder.branches.{}.conv.weight"
            count = sum(branches.format(i) in self.weights_ for i in range(8))
            return np.array(
                [
                    f"up{count - 1 - i}__{statistic}__{channel:04d}"
                    for i in range(count)
                    for statistic in ("mean", "logstd")
                    for channel in range(self.weights_[branches.format(i)].shape[1])
                ],
                object,
            )
        width = self.weights_["decoder.score.weight"].shape[1]
        names = [f"map{i}__mean" for i in range(8)]
        return np.array([*names, *(f"hidden__{i:04d}" for i in range(width))], object)

    @classmethod
    def from_released(cls, path, backbone="sd15", **parameters):
        """Load a teacher checkpoint written by the authors' released training code.

        Parameters
        ----------
        path : str or path
            A state dict of the whole model. Only tensors are read; the VAE is the
            backbone's.
        backbone : str or path, default="sd15"
            The model that it was trained on.
        **parameters : object
            Other parameters. `text_model` defaults to CLIP ViT-L/14, since the file
            does not contain the text features. `image_size` and `decoder_width` are
            read from the file.

        Returns
        -------
        DPIQARegressor
            A fitted estimator that predicts MOS: 100 times the network's score, which
            is trained on MOS / 100.

        Raises
        ------
        ValueError
            If the file has unexpected contents or does not match the backbone.
        OSError
            If the file, the backbone or the text model cannot be found.
        """
        from diffqa_features.learned.dpiqa.released import ReleasedTeacher

        released = ReleasedTeacher(path)
        parameters = {
            "text_model": "openai/clip-vit-large-patch14", "preset": "koniq",
            **parameters,
        }  # fmt: skip
        estimator = cls(backbone, **parameters)
        estimator._validate_params()
        for name in ("text_adapter", "image_adapter"):
            if not getattr(estimator, name):
                raise estimator._complaint(name, "True: a released teacher has both")
        grid, width = released.sizes()
        factor = describe_backbone(estimator._backbone_name()).latent_factor
        estimator.set_params(image_size=grid * factor, decoder_width=width)
        info = estimator._check_parameters()
        loaded = estimator._load_backbone()
        tokens = estimator._tokens(loaded)
        names = estimator._make_network(loaded, tokens, None).state_dict()
        wanted = {k: v.shape for k, v in names.items() if k != "tokens"}
        weights = {"tokens": np.array(tokens), **released.weights(wanted)}
        fitted = {
            "slope_": 100.0,
            "intercept_": 0.0,
            "target_range_": None,
            "history_": [],
            "backbone_identity_": info.identity,
        }
        return estimator._set_fitted(weights, fitted, estimator._architecture())

    # -- parameters ----------------------------------------------------------------

    def _check_parameters(self):
        info = super()._check_parameters()
        info.require_one_text(type(self).__name__)
        self._grid_of_prompts(info)
        return info

    def _value(self, name):
        value = getattr(self, name)
        if value is not None or name not in PRESETS["tiny"]:
            return value
        preset = self.preset
        if preset is None:
            preset = preset_of(describe_backbone(self._backbone_name()))
        return PRESETS[preset][name]

    def _grid(self, info):
        """Cells per side of the latents, and of the quality maps."""
        return self._checked_image_size(info) // info.latent_factor

    def _grid_of_prompts(self, info):
        from diffqa_features.learned.dpiqa.prompts import default_words, make_prompts

        lists = []
        for name in ("qualities", "scenes", "distortions"):
            value = getattr(self, name)
            words = default_words(name, info.text_length) if value is None else value
            good = not isinstance(words, str) and all(
                isinstance(word, str) for word in words
            )
            if not good or not len(words) or len(set(words)) < len(words):
                raise self._complaint(name, "distinct str, at least one, or None")
            lists.append([str(word) for word in words])
        return make_prompts(*lists, info.text_length)

    # -- data ----------------------------------------------------------------------

    def _open_data(self, job):
        pictures = Pictures(len(job.rows))
        for some in self._encoded(job):
            for picture in some:
                pictures.add(*picture)
        size = self._checked_image_size(job.info)
        side = larger_side(size, self.augmentation)
        if side > size:
            rows = [job.rows[place] for place in job.kept]
            for _, view in read_pictures(rows, self.view, side, self.verbose):
                pictures.add_larger(view)
        return pictures

    def _vary(self, job, rows, generators):
        """Latents and views of these rows, changed at random by their generators."""
        import torch

        from diffqa_features._media.views import to_pixels

        size = self._checked_image_size(job.info)
        views = vary_views(job.data.read_largest(rows), size, generators)
        pixels = to_pixels(views, self._value("normalization"))
        with torch.autocast(job.backbone.device.type, enabled=False):
            latents = job.backbone.encode_images(pixels)
        return latents.clone().cpu().numpy(), views

    def _encoded(self, job):
        """Key, latents and view of each picture, in batches."""
        framing = self._framing(job.info, stills_only=True)

        def encode(rows, see):
            return self._encode(rows, framing, job.failed, see)

        return encode_pictures(job.rows, encode)

    # -- network -------------------------------------------------------------------

    def _build_network(self, job):
        job.backbone = self._load_backbone()
        weights = self.weights_ if job.warm else None
        return self._network(job.backbone, weights, trains=True)

    def _tokens(self, backbone):
        from diffqa_features.learned.dpiqa.prompts import encode_prompts

        name = None if self.text_model is None else str(self.text_model)
        prompts = self._grid_of_prompts(backbone.info)
        tokens = encode_prompts(backbone, prompts, name, as_store(self.memory))
        width = backbone.unet.config.cross_attention_dim
        widths = list(width) if isinstance(width, (list, tuple)) else [width]
        if any(tokens.shape[1] != width for width in widths):
            raise self._complaint(
                "text_model",
                f"a model whose text features have the {widths[0]} channels that the "
                f"UNet of {backbone.info.name!r} reads, and not {tokens.shape[1]}",
            )
        return tokens

    def _make_network(self, backbone, tokens, seed):
        """A network with initial weights or, without a seed, uninitialised."""
        import torch

        from diffqa_features.learned.dpiqa.network import DPIQANetwork

        info = backbone.info
        # The lock: a copy must not take along the hooks of another thread's pass.
        with torch.inference_mode(False), backbone.lock:
            return DPIQANetwork(
                backbone.unet,
                torch.from_numpy(np.array(tokens)),
                text_adapter=bool(self.text_adapter),
                image_adapter=bool(self.image_adapter),
                own_unet=bool(self.train_unet),
                factor=info.latent_factor,
                grid=self._grid(info),
                width=None if self.decoder_width is None else int(self.decoder_width),
                timestep=int(self.timestep),
                seed=seed,
            )

    def _network(self, backbone, weights=None, trains=False):
        """A network on the device, with initial weights or with these arrays.

        If it is not trained, it shares the arrays' memory where torch can.
        """
        import torch

        from diffqa_features._backbone.weights import layout_of

        with torch.inference_mode(False):
            if weights is None:
                tokens = self._tokens(backbone)
                network = self._make_network(backbone, tokens, int(self.random_state))
            else:
                network = self._make_network(backbone, weights["tokens"], None)
                kept = {
                    name: value.copy() if trains or not value.flags.writeable else value
                    for name, value in weights.items()
                }
                network.load_weights({k: torch.from_numpy(v) for k, v in kept.items()})
            for value in network.parameters():
                moved = value.data.to(backbone.device)
                value.data = moved.to(memory_format=layout_of(moved))
            network.tokens = network.tokens.to(backbone.device)
        return network.requires_grad_(trains)

    # -- loss and scores -----------------------------------------------------------

    def _loss(self, job):
        import torch

        from diffqa_features._media.views import to_pixels
        from diffqa_features.learned._training import mean_of
        from diffqa_features.learned.dpiqa.losses import margin_ranking_loss

        device = job.backbone.device
        slope, intercept = job.line
        scaled = (job.y - intercept) / slope
        wanted = torch.from_numpy(scaled).to(device, torch.float32)

        def step(rows, generators):
            if self.augmentation is None:
                latents, views = job.data.read(rows)
            else:
                latents, views = self._vary(job, rows, generators)
            quality = job.network(
                job.backbone,
                torch.from_numpy(latents).to(device),
                to_pixels(views, "unit").to(device),
            )
            scores, target = quality.scores.float(), wanted[rows]
            weight = job.weights_of(rows, device)
            loss = mean_of((scores - target).square(), weight)
            if self.ranking_weight:
                ranking = margin_ranking_loss(
                    scores, target, self.ranking_margin, weight
                )
                loss = loss + self.ranking_weight * ranking
            return loss, intercept + slope * scores

        return step

    def _scores(self, job, rows):
        read = self._reader(job.backbone, job.network)
        parts = np.array_split(rows, -(-len(rows) // 64))
        return np.concatenate([read(*job.data.read(part)).scores for part in parts])

    def _first_line(self, job):
        """From scores centred at 0 with a range of 1 to the units of y."""
        if job.warm:
            return self.slope_, self.intercept_
        y = job.y[job.train]
        mean = np.average(y, weights=take_weights(job.weight, job.train))
        return float(y.max() - y.min()) or 1.0, float(mean)

    def _facts(self, job):
        weights = float(self.ranking_weight), float(self.ranking_margin)
        return job.data.keys, *weights, self.augmentation

    # -- predictions ---------------------------------------------------------------

    def _reader(self, backbone, network):
        """A function from latents and views of any number of pictures to `Quality`."""
        import torch

        from diffqa_features._engine.passes import rows_per_pass
        from diffqa_features._media.views import to_pixels
        from diffqa_features._utils.batching import in_halves
        from diffqa_features.learned._training import precision
        from diffqa_features.learned.dpiqa.decoder import Quality

        device = backbone.device
        dtype = self._arithmetic(device)
        with torch.no_grad(), precision(device, dtype):
            # Once for all pictures: it depends on the weights only.
            condition = network.condition_of(backbone)
        size = None

        @torch.no_grad()
        def run(pairs):
            latents, views = (np.stack(part) for part in zip(*pairs))
            with precision(device, dtype):
                quality = network(
                    backbone,
                    torch.from_numpy(latents).to(device),
                    to_pixels(views, "unit").to(device),
                    condition,
                )
            return [v.float().cpu().numpy() for v in vars(quality).values()]

        def read(latents, views):
            nonlocal size
            size = size or rows_per_pass(backbone, latents[0].shape)
            parts, size = in_halves(run, list(zip(latents, views)), size)
            return Quality(*(np.concatenate(part) for part in zip(*parts)))

        return read

    def _look(self, X, take, *shapes, pools_states=False):
        """What `take` selects from the quality of each picture, in batches."""
        info = self._check_fitted()
        job = Job(X, as_rows(X), info=info, failed=self._list_of_failed())
        backbone = self._load_backbone()
        network = self._network(backbone, self.weights_)
        network.decoder.pools_states = pools_states
        read = self._reader(backbone, network)
        parts = []
        for some in self._encoded(job):
            if some:
                _, latents, views = zip(*some)
                parts.append(take(read(latents, views)))
        return self._by_row(
            job, lambda: [np.concatenate(part) for part in zip(*parts)], *shapes
        )
