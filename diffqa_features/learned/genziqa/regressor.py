"""`GenzIQARegressor`: pictures and opinion scores in, a tuned diffusion model out."""

import math
from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from diffqa_features._backbone.blocks import select_blocks
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._utils.checks import InOrder
from diffqa_features.features._base import BackboneTransformer
from diffqa_features.learned._base import BackboneModel
from diffqa_features.learned._presets import is_narrow
from diffqa_features.learned._regression import LearnedRegressor, spread, take_weights

# The published one, and that of narrow UNets; docs/learned.rst says where from.
_SETTINGS = {"max_epochs": (10, 4), "learning_rate": (1e-4, 3e-3)}
_PROBED = 128  # pictures used to estimate the scale of the scores
_DRAWS = 4  # of timestep and noise, for each of them


class GenzIQARegressor(BackboneModel, LearnedRegressor):
    """Image quality from learned prompts and learned cross-attention (GenzIQA [1]_).

    A picture is encoded, noised and passed through the UNet of a latent diffusion model
    with a good and a bad prompt. Each cross-attention block scores how well picture and
    prompts match; the mean over blocks is the quality score. Two things are trained:
    context vectors, shared by all prompts and placed beside their words, and low-rank
    updates of the cross-attention layers; together 447 thousand parameters on Stable
    Diffusion 2.1. A third is optional: weights of blocks and prompts. Everything else
    stays frozen, and the backbone shared with other estimators is not modified.

    The fitted estimator is also a transformer, which gives block scores and tuned
    queries to a Pipeline.

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
        tokens. Vectors and words together must fit into the text encoder's token limit.

    context_position : {"front", "end"}, default="front"
        Position of a prompt's own words: ``"front"``, before the learned vectors, which
        leaves the words as they were; ``"end"``, after them, as in the released code.
        The text encoder is causal, so vectors before the words change every word.

    lora_rank : int, default=4
        Rank of the low-rank updates of the cross-attention layers (q, k, v and out); 0
        leaves the layers unchanged.

    blocks : str or list of str, default="all"
        Cross-attention blocks to score and adapt, by name or pattern: ``"up*"``,
        ``["mid.0", "down[01].*"]``.

    head : {"mean", "linear"}, default="mean"
        How alignments of blocks and prompts become one score: ``"mean"``, as in the
        paper; ``"linear"``, with learned non-negative weights of blocks, prompts and
        bias. The first prompt then counts positively and the others negatively, so
        that a picture that fits the first one better scores higher from the start.

    error_bias : bool, default=True
        Add to every block score the difference between the norms of the denoising
        errors under the first and the second prompt. Without it, a pass stops after the
        last of `blocks`.

    pooling_lambda : float, default=0.14
        Sharpness of the log-sum-exp over space, above 0: it approaches the mean at 0
        and the maximum at infinity.

    timestep_range : (int, int), default=(0, 100)
        Timesteps from the first number up to, but not including, the second, in [0,
        1000]. In training, each picture draws one at random at every step.

    n_timesteps : int, default=8
        Number of fixed timesteps in that range that predictions are averaged over. Can
        be changed after `fit`.

    image_size : int, default=None
        Side of the backbone's input in pixels. ``None`` uses the backbone's native
        size.

    view : {"stretch", "crop"}, default="stretch"
        How a picture is brought to that size: stretched to a square, or centre-cropped
        without scaling.

    normalization : {"clip", "vae"}, default="clip"
        Normalisation of the VAE's input. ``"clip"``, CLIP's mean and standard
        deviation, matches the released code; ``"vae"`` is [-1, 1], which the
        autoencoder was trained on and the other estimators of this library use.

    max_epochs : int, default=None
        Number of epochs. 0 fits only the line to `y`, which gives the scores of an
        untrained model. ``None`` means 10, or 4 for UNets narrower than Stable
        Diffusion's (``tiny``).

    batch_size : int, default=16
        Pictures per training step. Their prompts go through the UNet in one pass, on a
        CPU in parts that stay near the processor.

    gradient_accumulation_steps : int, default=1
        Number of parts to split a batch into if it does not fit into memory. On a CPU,
        batches are taken in more where that is faster; results differ by rounding.

    learning_rate : float, default=None
        Constant learning rate of AdamW. ``None`` means the published 1e-4, or 3e-3 for
        UNets narrower than Stable Diffusion's.

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
        Folder for checkpoints, written after every epoch and every two minutes. If
        training is killed, the same `fit` resumes from there and ends with the same
        weights. The file is named after everything the result depends on, so a search
        can share one folder. It is not removed; delete it when `fit` has finished.

    random_state : int, default=0
        Seeds the initial weights, the shuffling, the training noise and timesteps, the
        validation split, and the fixed noise of predictions.

    memory : str, path or FeatureStore, default=None
        Cache for latents. Without it, they are computed once per call, never once per
        epoch.

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
        variance of `y`; predicting the mean scores 1), ``srcc`` (of the training
        predictions) and, with validation, ``validation_srcc``. With ``head="linear"``
        also the weights after that epoch: ``head``, per prompt one per block, and
        ``head_bias``.
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
    DiffusionQAFeatures : The same block scores from the frozen model, without training.

    Notes
    -----
    *Units of y.* The score Q is a soft maximum over space with its own magnitude: 48.27
    plus the contribution of the logits on Stable Diffusion at 512 pixels. The released
    code regresses it on raw MOS, which works for MOS in [0, 100]. Here a line maps Q to
    the units of `y`. It is set before training from untrained scores, with a negative
    slope if they decrease with `y`, and refitted after training by least squares
    over at most 128 training pictures. `y` can therefore have any range and direction,
    and predictions have the same. `score` is scikit-learn's R²; for the field's metrics
    see :mod:`diffqa_features.metrics`.

    *Special case.* With ``n_context=0, lora_rank=0`` nothing is trained, and Q is the
    mean of the ``alignment`` columns of :class:`DiffusionQAFeatures` over blocks and
    prompts, plus the bias.

    *Few pictures.* The published learning rate is for tens of thousands of pictures.
    ``head="linear"`` needs fewer, since it starts with the right direction.

    *Direction.* The bias of the released code is negative where noise is predicted
    better under the first, the good prompt: Q falls with quality where the bias
    dominates it, as on ``tiny``, and the line then has a negative slope. Without the
    bias the direction of the untrained mean is that of content and little else; take
    ``head="linear"`` there.

    *Differences from the released code.* Context vectors start from words and follow
    the prompt (the code: random, before it; ``context_position="end"``). The latent is
    the mode of the posterior, not a sample. Pictures are not flipped. The noise of
    predictions is seeded.

    Results do not depend on the batch size beyond rounding: about 1e-5 relative in
    float32, not bitwise. Two fits with the same seed agree exactly on the same machine
    with the same number of threads.

    References
    ----------
    .. [1] S. Mitra, D. De, S. Rao and R. Soundararajan, "Image and Video Quality
       Assessment using Prompt-Guided Latent Diffusion Models for Cross-Dataset
       Generalization", arXiv 2406.04654.

    Examples
    --------
    >>> from diffqa_features import GenzIQARegressor
    >>> from diffqa_features.datasets import make_distorted_images
    >>> data = make_distorted_images(families="white_noise", n_levels=2, image_size=32)
    >>> model = GenzIQARegressor(blocks="down0.*", error_bias=False, image_size=32)
    >>> model.set_params(max_epochs=1, n_timesteps=1)
    GenzIQARegressor(...)
    >>> model.fit(data.data[:4], data.target[:4]).predict(data.data[:2]).shape
    (2,)
    >>> model.get_feature_names_out()[:2]
    array(['down0.0__score', 'down0.1__score'], dtype=object)
    """

    _ARCHITECTURE = (
        "prompts",
        "n_context",
        "context_position",
        "lora_rank",
        "blocks",
        "head",
        "error_bias",
        "pooling_lambda",
        "image_size",
        "view",
        "normalization",
    )

    _parameter_constraints: dict = {
        **BackboneModel._parameter_constraints,
        "prompts": BackboneTransformer._parameter_constraints["prompts"],
        "blocks": BackboneTransformer._parameter_constraints["blocks"],
        "normalization": [StrOptions({"clip", "vae"})],
        "n_context": [Interval(Integral, 0, None, closed="left")],
        "context_position": [StrOptions({"front", "end"})],
        "lora_rank": [Interval(Integral, 0, None, closed="left")],
        "head": [StrOptions({"mean", "linear"})],
        "error_bias": ["boolean"],
        "pooling_lambda": [Interval(Real, 0, None, closed="neither")],
        "timestep_range": [InOrder()],
        "max_epochs": [*BackboneModel._parameter_constraints["max_epochs"], None],
        "learning_rate": [*BackboneModel._parameter_constraints["learning_rate"], None],
        "n_timesteps": [Interval(Integral, 1, None, closed="left")],
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
        n_timesteps=8,
        image_size=None,
        view="stretch",
        normalization="clip",
        max_epochs=None,
        batch_size=16,
        gradient_accumulation_steps=1,
        learning_rate=None,
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
        """Train the context vectors and low-rank factors.

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
        return self._predict(X)

    def transform(self, X):
        """Compute block scores and tuned queries of pictures.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N pictures
            As in `fit`.

        Returns
        -------
        ndarray of shape (N, P + sum of channels), dtype float32
            First the scores of the P blocks, including the bias; their mean is the Q of
            the prediction. Then, per block, the mean of its queries over space and
            prompts. All are averaged over the timesteps of a prediction. A DataFrame
            after ``set_output``.
        """
        job = self._open_job(X)

        def read():
            parts = self._read(job, job.data, self._ensemble(), queries=True)
            return [np.concatenate(parts, 1)]

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
        ndarray of str
            ``up1.0__score`` and so on, then ``up1.0__query__0042``.
        """
        self._validate_params()
        blocks = self._chosen(self._check_parameters())
        names = [f"{block.name}__score" for block in blocks]
        for block in blocks:
            names += [f"{block.name}__query__{c:04d}" for c in range(block.channels)]
        return np.array(names, object)

    @classmethod
    def from_released(cls, folder, backbone="sd21-base", **parameters):
        """Load weights written by the authors' released training code.

        Parameters
        ----------
        folder : str or path
            Contains, at any depth, `coop_Model_state_dict.pth` and
            `pytorch_lora_weights.bin` (or ``.safetensors``). Only tensors are read.
        backbone : str or path, default="sd21-base"
            The model that they were trained on.
        **parameters : object
            Other parameters of the estimator; the defaults are the released settings,
            with ``context_position="end"``.

        Returns
        -------
        GenzIQARegressor
            A fitted estimator that predicts in the units of its training: the line is
            the identity.

        Raises
        ------
        ValueError
            If the files have unexpected contents or do not match the backbone.
        OSError
            If the files or the backbone cannot be found.
        """
        from diffqa_features.learned.genziqa.released import read_released

        estimator = cls(backbone, **{"context_position": "end", **parameters})
        estimator._validate_params()
        estimator._check_released()
        info = estimator._check_parameters()
        weights, sizes = read_released(folder, estimator._chosen(info))
        estimator.set_params(**sizes)
        fitted = {
            "slope_": 1.0,
            "intercept_": 0.0,
            "target_range_": None,
            "history_": [],
            "backbone_identity_": info.identity,
        }
        return estimator._set_fitted(weights, fitted, estimator._architecture())

    # -- parameters ----------------------------------------------------------------

    def _check_parameters(self):
        info = super()._check_parameters()
        if self.error_bias and len(self._prompts()) < 2:
            raise self._complaint(
                "prompts",
                "at least two with error_bias=True, which is a difference between the "
                "first two; set error_bias=False to use one",
            )
        self._ensemble()
        self._chosen(info)
        if self.n_context:
            info.require_one_text("Learned context (n_context above 0)")
        return info

    def _value(self, name):
        value = getattr(self, name)
        if value is not None or name not in _SETTINGS:
            return value
        info = describe_backbone(self._backbone_name())
        return _SETTINGS[name][is_narrow(info)]

    def _check_released(self):
        if self.head != "mean":
            raise self._complaint(
                "head", "'mean' for released weights, which have no other"
            )

    def _chosen(self, info):
        patterns = self.blocks if isinstance(self.blocks, str) else list(self.blocks)
        names = select_blocks(patterns, [block.name for block in info.blocks])
        return [block for block in info.blocks if block.name in names]

    def _range(self):
        values = list(self.timestep_range)
        whole = all(isinstance(t, Integral) and not isinstance(t, bool) for t in values)
        if len(values) != 2 or not whole or not 0 <= values[0] < values[1] <= 1000:
            raise self._complaint(
                "timestep_range", "two ints, 0 <= lowest < highest <= 1000"
            )
        return int(values[0]), int(values[1])

    def _ensemble(self):
        from diffqa_features.learned.genziqa.network import ensemble_timesteps

        lowest, highest = self._range()
        if self.n_timesteps > highest - lowest:
            raise self._complaint(
                "n_timesteps",
                f"at most {highest - lowest}, the timesteps of timestep_range",
            )
        return ensemble_timesteps(lowest, highest, self.n_timesteps)

    # -- data and network ----------------------------------------------------------

    def _open_data(self, job):
        return self._latents(job, stills_only=True)

    def _build_network(self, job):
        import torch

        job.backbone = self._load_backbone()
        with torch.inference_mode(False):
            network = self._make_network(job.backbone)
        if job.warm:
            self._load_weights(network)
        return network.to(job.backbone.device)

    def _make_network(self, backbone):
        from diffqa_features.learned.genziqa.network import GenzIQANetwork

        return GenzIQANetwork(
            backbone, self._chosen(backbone.info), self._prompts(), **self._settings()
        )

    def _settings(self):
        return {
            "n_context": self.n_context,
            "context_position": self.context_position,
            "lora_rank": self.lora_rank,
            "bias": bool(self.error_bias),
            "sharpness": float(self.pooling_lambda),
            "head": self.head,
            "seed": int(self.random_state),
        }

    # -- loss and scores -----------------------------------------------------------

    def _loss(self, job):
        import torch

        from diffqa_features.learned._training import mean_of

        slope, intercept = job.line
        wanted = torch.from_numpy(job.y).to(job.backbone.device, torch.float32)
        unit = self._unit(wanted[job.train], job.weights_of(job.train, wanted.device))

        def step(rows, generators):
            sampled = self._sample(job, rows, generators)
            predicted = intercept + slope * sampled
            errors = (predicted - wanted[rows]) / unit
            weight = job.weights_of(rows, wanted.device)
            return mean_of(errors.square(), weight), predicted

        return step

    @staticmethod
    def _unit(wanted, weight):
        if weight is None:
            return float(wanted.std(correction=0)) or 1.0
        return spread(wanted.cpu().numpy(), weight.cpu().numpy())

    def _sample(self, job, rows, generators):
        """Q of a training step, with its graph, float32 (n,)."""
        import torch

        latents = torch.from_numpy(job.data[rows])
        drawn = job.network.sample(job.backbone, latents, *self._range(), generators)
        return drawn.scores.mean(1)

    def _scores(self, job, rows):
        everyone = len(rows) == len(job.data)  # not copied
        latents = job.data if everyone else job.data[rows]
        return self._quality(job, latents, self._ensemble())

    def _quality(self, job, latents, timesteps):
        """Q, the mean over blocks and timesteps, float64 (N,)."""
        scores, _ = self._read(job, latents, timesteps)
        return scores.astype(np.float64).mean(axis=1)

    def _note(self, job):
        head = job.network.head
        return {} if head is None else head.weights()

    def _read(self, job, latents, timesteps, queries=False):
        from diffqa_features.learned.genziqa.network import read_ensemble

        return read_ensemble(
            job.network,
            job.backbone,
            latents,
            timesteps,
            self.random_state,
            self._arithmetic(job.backbone.device),
            queries=queries,
        )

    # -- from Q to the units of y --------------------------------------------------

    def _first_line(self, job):
        """From the untrained model: its direction, and a scale that suits training.

        From draws as training makes them, of new noise for every picture: with one
        noise for all, Q spreads less, and the slope would be too steep.
        """
        if job.warm:
            return self.slope_, self.intercept_
        rows = self._probed(job)
        weight = take_weights(job.weight, rows)
        self._begin_head(job, job.data[rows], weight)
        return fit_line(
            self._draws(job, rows), job.y[rows], job.y[job.train],
            weight, take_weights(job.weight, job.train),
        )  # fmt: skip

    def _draws(self, job, rows):
        """Untrained Q at random timesteps and noise, float64 (n, draws)."""
        import torch

        from diffqa_features.learned._training import precision, seed_of

        dtype = self._arithmetic(job.backbone.device)

        @torch.no_grad()
        def read(chosen, draw):
            generators = [
                torch.Generator().manual_seed(seed_of(self.random_state, draw, row))
                for row in chosen.tolist()
            ]
            with precision(job.backbone.device, dtype):
                return self._sample(job, chosen, generators).double().cpu().numpy()

        size = -(-self.batch_size // self._parts(job))
        parts = np.array_split(rows, -(-len(rows) // size))
        return np.stack(
            [np.concatenate([read(p, d) for p in parts]) for d in range(_DRAWS)], 1
        )

    def _parts(self, job):
        """On a CPU, enough that a part's numbers stay near the processor.

        A training step of `tiny` on 16 pictures of 192 pixels takes 1.4 times as long
        in one part as in four. Parts depend on the size of pictures: small ones are
        faster together.
        """
        from diffqa_features._engine.passes import rows_per_pass

        asked = self.gradient_accumulation_steps
        if job.backbone.device.type != "cpu":
            return asked
        share = self._checked_image_size(job.info) / job.info.image_size
        rows = self.batch_size * len(self._prompts()) * self._frames_of_a_row(job)
        parts = math.ceil(rows * share**2 / (2 * rows_per_pass(job.backbone)))
        return max(asked, min(parts, self.batch_size))

    def _frames_of_a_row(self, job):
        """Mean number of frames of those that train."""
        return 1

    def _begin_head(self, job, latents, weight):
        from diffqa_features.learned.genziqa.network import (
            ensemble_timesteps,
            read_alignments,
        )

        if job.network.head is None:
            return
        lowest, highest = self._range()
        timesteps = ensemble_timesteps(lowest, highest, min(_DRAWS, highest - lowest))
        dtype = self._arithmetic(job.backbone.device)
        alignments = read_alignments(
            job.network, job.backbone, latents, timesteps, self.random_state, dtype
        )
        job.network.head.begin(alignments, weight)

    def _last_line(self, job, trained):
        return self._least_squares(job, self._probed(job), trained) or job.line

    def _probed(self, job):
        rng = np.random.default_rng(self.random_state)
        return np.sort(rng.permutation(job.train)[:_PROBED])

    def _facts(self, job):
        return self._range(), self._ensemble(), job.data


def fit_line(drawn, known, target, weight=None, target_weight=None):
    """Slope and intercept that map scores (n, draws) to the target's units.

    The means are matched. The slope is that of least squares over all draws, by which
    no line has a smaller loss, but at least half of what gives the scores the target's
    spread: scores that say nothing yet would get none, and training could not begin.
    Scores that hardly spread count as if by 1/2, and in least squares by 1, the unit of
    logits: smaller changes would drown in noise. The slope is negative if untrained
    scores decrease with the target (DMOS, where lower is better).
    """
    scores = drawn.mean(axis=1)
    mean = np.average(scores, weights=weight)
    target_mean = np.average(target, weights=target_weight)
    inside = known - np.average(known, weights=weight)
    agreement = float(np.average((scores - mean) * inside, weights=weight))
    direction = 1.0 if agreement >= 0 else -1.0
    variance = float(np.average(((drawn - mean) ** 2).mean(axis=1), weights=weight))
    slope = max(
        abs(agreement) / max(variance, 1.0),
        spread(target, target_weight) / max(2 * variance**0.5, 1.0),
    )
    return float(direction * slope), float(target_mean - direction * slope * mean)
