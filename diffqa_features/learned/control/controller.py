"""`DiffusionController`: frames in, a frozen model that reconstructs them out."""

from dataclasses import replace
from numbers import Integral

import numpy as np
from sklearn.utils._param_validation import Interval

from diffqa_features._backbone.blocks import select_blocks
from diffqa_features._engine.kinds import STATISTICS
from diffqa_features._store.store import as_store
from diffqa_features._utils.checks import InOrder
from diffqa_features._utils.hashing import hash_values
from diffqa_features._utils.statistics import pool_rows
from diffqa_features.features._base import FRAME_STATISTICS, BackboneTransformer
from diffqa_features.learned._base import BackboneModel

_KEPT = "mean std max"  # what the store has of each map, in the order of STATISTICS
_shared = BackboneTransformer._parameter_constraints


class DiffusionController(BackboneModel):
    """Control a frozen diffusion model so that it reconstructs frames (DiffVQA [1]_).

    A trainable copy of the UNet's encoder and middle block receives the noisy and the
    clean latent of the same frame, and its outputs are added to the inputs of the
    frozen decoder (ControlNet [2]_). It is trained on noise prediction, without text
    and without scores; the target is the input frame itself, with all its artefacts.
    The features are the UNet's states at the last step of the reverse chain and the
    latent at its end. This is stage 1 of DiffVQA.

    Parameters
    ----------
    backbone : str or path, default="tiny"
        The latent diffusion model: an alias (``"tiny"``, ``"sd15"``, ``"sd21-base"``),
        a hub id, or a folder in diffusers layout.

    vae : str or path, default=None
        Autoencoder in place of the backbone's own; see `DiffusionQAFeatures`.

    stages : str or list of str, default=None
        UNet stages whose feature maps are used (the paper's F_MS), by name or pattern:
        ``down0 ... mid up0 ... up3``. ``None`` selects the first level of the encoder,
        the middle, and the first and last levels of the decoder.

    pooling : str or sequence of str, default=("mean", "std")
        Statistics over space of these maps and of the latent: ``"mean"``, ``"std"``,
        ``"max"``.

    n_steps : int, default=1
        Steps of the reverse chain (DDIM, deterministic). 1 noises the frame to
        `last_timestep` and runs a single pass. With more steps, the chain starts from
        pure noise and costs one pass per step.

    last_timestep : int, default=0
        DDPM training step of the last pass, in [0, 999], where features are extracted.
        The paper extracts them at the end of the chain.

    image_size : int, default=None
        Side of the backbone's input in pixels. ``None`` uses the backbone's native
        size. This and `view` can be changed after `fit`: the network accepts any size.

    view : {"stretch", "crop"}, default="stretch"
        How a frame is brought to that size: stretched to a square, or centre-cropped
        without scaling.

    frame_rate : float, default=1.0
        Frames sampled per second of video, in both `fit` and `transform`. See
        :class:`DiffusionQAFeatures`.

    max_frames : int, default=None
        Maximum number of frames per row.

    frames : {"spread", "bursts"}, default="spread"
        One frame at each sampled moment, or `burst_length` adjacent ones. See
        :class:`DiffusionQAFeatures`.

    burst_length : int, default=8
        Number of adjacent frames of a burst.

    reader : {"auto", "decord", "imageio"}, default="auto"
        Decoder for video files. See :class:`DiffusionQAFeatures`.

    frame_pooling : str or sequence of str, default=("mean",)
        Statistics over frames: ``"mean"``, ``"std"``, ``"max"``, ``"min"``.

    max_epochs : int, default=10
        Number of epochs. 0 leaves the model unchanged: the control then adds nothing.

    batch_size : int, default=16
        Frames per training step, and per pass of the UNet.

    gradient_accumulation_steps : int, default=1
        Number of parts to split a batch into if it does not fit into memory.

    learning_rate : float, default=1e-4
        Constant learning rate of AdamW.

    weight_decay : float, default=1e-2
        Weight decay of AdamW.

    max_grad_norm : float, default=1.0
        Gradients are clipped to this norm.

    warm_start : bool, default=False
        Continue from the weights of the last `fit`.

    checkpoint_dir : str or path, default=None
        Folder for checkpoints, written after every epoch and every two minutes. If
        training is killed, the same `fit` resumes from there and ends with the same
        weights.

    random_state : int, default=0
        Seeds the shuffling, the training noise and timesteps, and the noise of features
        and reconstructions, which is the same for every frame.

    memory : str, path or FeatureStore, default=None
        Cache for the latents and pooled maps of frames. The keys of the maps include a
        fingerprint of the trained weights.

    device : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``None`` uses the first
        accelerator found, else the CPU.

    dtype : {"float32", "float16", "bfloat16"}, default=None
        Precision of both networks under autocast; weights stay in float32. ``None``
        means bfloat16 on CUDA (float16 with loss scaling where bfloat16 is not
        supported) and float32 elsewhere.

    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that cannot be read: raise at the first one; or skip them
        in `fit`, return NaN for them elsewhere, warn, and list them in ``failed_``.

    verbose : int, default=0
        1 shows progress bars with the loss.

    Attributes
    ----------
    weights_ : dict of str to ndarray of float32
        Weights of the control module: 42% of a Stable Diffusion UNet.
    history_ : list of dict
        One entry per epoch: ``epoch`` and ``loss``, the mean squared error of the
        predicted noise; predicting no noise scores 1.
    design_ : dict
        Empty: the weights depend on no parameter but `backbone`.
    backbone_identity_ : str
        Fingerprint of the backbone's weights.
    failed_ : list of (int, str)
        Index and reason for every row of the last call that could not be read.
    feature_names_in_ : ndarray of str
        Column names of the `X` passed to `fit`, if it was a table.

    See Also
    --------
    DiffusionQAFeatures : Features of the frozen model, without training.

    Notes
    -----
    *From the paper* (its figures and the authors' page; no code was released): which
    parts are frozen and which trained, z_t and z_0 as inputs, the null text, the loss
    over all timesteps, the target, features at the last step, and F_Latent as the
    latent after it.

    *Our choices, where nothing is published*: the stages; the chain (DDIM, timesteps
    evenly spaced from 999 to `last_timestep`); `n_steps=1` as the fast default; AdamW
    at 1e-4 as in DiffBIR. Maps of the encoder and the middle are those that the decoder
    receives, with the control added: a ControlNet does not change the encoder itself,
    so with one step its own maps would not depend on the trained weights.

    *Training frames* should resemble the frames to be assessed, artefacts included.

    *Learning rate.* The control module is initialised to add nothing, and training
    starts slowly. On ``tiny``, 96 steps at 5e-4 did not reduce the loss; at 3e-3 with
    four frames per step, a run learned and then diverged after 430 steps.

    *File size.* Pickles and saved files contain the control module: 12 MB for ``tiny``,
    1.4 GB for Stable Diffusion. They never contain the backbone.

    Results do not depend on the batch size beyond rounding: about 1e-5 relative in
    float32, not bitwise, and somewhat more over a chain of many steps.

    References
    ----------
    .. [1] W.-T. Chen, Y.-J. Vong, Y.-T. Lee, S.-Y. Kuo, Q. Gao, S. Ma and J. Wang,
       "DiffVQA: Video Quality Assessment Using Diffusion Feature Extractor", arXiv
       2505.03261.
    .. [2] L. Zhang, A. Rao and M. Agrawala, "Adding conditional control to
       text-to-image diffusion models", ICCV 2023.

    Examples
    --------
    >>> from diffqa_features import DiffusionController
    >>> from diffqa_features.datasets import make_procedural_images
    >>> frames = make_procedural_images(4, image_size=32)
    >>> controller = DiffusionController(image_size=32, max_epochs=1).fit(frames)
    >>> controller.transform(frames).shape
    (4, 704)
    >>> controller.get_feature_names_out()[[0, -1]].tolist()
    ['down0__mean__0000', 'latent__std__0031']
    >>> controller.reconstruct(frames[:1], n_steps=2)[0].shape
    (1, 32, 32, 3)
    """

    # Pixels as the autoencoder was trained on, since it also decodes here.
    normalization = "vae"

    _parameter_constraints: dict = {
        **BackboneModel._parameter_constraints,
        "stages": [str, InOrder(), None],
        "pooling": [str, InOrder()],
        "n_steps": [Interval(Integral, 1, 1000, closed="both")],
        "last_timestep": [Interval(Integral, 0, 999, closed="both")],
        "frame_rate": _shared["frame_rate"],
        "max_frames": _shared["max_frames"],
        "frames": _shared["frames"],
        "burst_length": _shared["burst_length"],
        "reader": _shared["reader"],
        "frame_pooling": [str, InOrder()],
    }

    def __init__(
        self,
        backbone="tiny",
        *,
        vae=None,
        stages=None,
        pooling=("mean", "std"),
        n_steps=1,
        last_timestep=0,
        image_size=None,
        view="stretch",
        frame_rate=1.0,
        max_frames=None,
        frames="spread",
        burst_length=8,
        reader="auto",
        frame_pooling=("mean",),
        max_epochs=10,
        batch_size=16,
        gradient_accumulation_steps=1,
        learning_rate=1e-4,
        weight_decay=1e-2,
        max_grad_norm=1.0,
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
        self.stages = stages
        self.pooling = pooling
        self.n_steps = n_steps
        self.last_timestep = last_timestep
        self.image_size = image_size
        self.view = view
        self.frame_rate = frame_rate
        self.max_frames = max_frames
        self.frames = frames
        self.burst_length = burst_length
        self.reader = reader
        self.frame_pooling = frame_pooling
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.memory = memory
        self.device = device
        self.dtype = dtype
        self.on_error = on_error
        self.verbose = verbose

    def fit(self, X, y=None, groups=None):
        """Train the control module on frames.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            Pictures or videos, as for :meth:`DiffusionQAFeatures.transform`. Every
            sampled frame is used for training.
        y : object, default=None
            Ignored: no scores are needed.
        groups : object, default=None
            Ignored.

        Returns
        -------
        self : object
            The fitted estimator. If `fit` raises, the estimator keeps its previous
            state.

        Raises
        ------
        ValueError
            If a parameter or a row is invalid, or the UNet is of a type that cannot be
            copied.
        FloatingPointError
            If a loss is not finite; the message names the step and a remedy.
        OSError
            If the backbone, a file or a checkpoint cannot be read.
        """
        return self._fit(X)

    def transform(self, X):
        """Compute features, pooled over space and frames.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            As in `fit`.

        Returns
        -------
        ndarray of shape (N, D), dtype float32
            One row per medium. A DataFrame after ``set_output``.
        """
        job = self._open_job(X, network=False)
        chain = self._chain(self._check_parameters())

        def read():
            framing = self._framing(job.info, **self._frames())
            maps = self._features(job.encoded, framing, chain)
            return [np.stack([self._row(maps, framing, r, chain) for r in job.encoded])]

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
            ``down0__mean__0000`` and so on; the last are ``latent__std__0003``. With a
            `frame_pooling` other than ``("mean",)`` each ends in ``__frames-mean``.
        """
        self._validate_params()
        info = self._check_parameters()
        widths = {stage.name: stage.channels for stage in self._stages(info)}
        widths["latent"] = info.latent_channels
        several = self._frame_statistics() != ("mean",)
        names = [
            f"{name}__{statistic}__{channel:04d}"
            + (f"__frames-{pooled}" if several else "")
            for pooled in self._frame_statistics()
            for name, width in widths.items()
            for statistic in self._statistics()
            for channel in range(width)
        ]
        return np.array(names, object)

    def reconstruct(self, X, n_steps=20, control=True, start=None):
        """Reconstruct frames from noise.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            As in `fit`.
        n_steps : int, default=20
            Steps of the reverse chain, at least 2.
        control : bool, default=True
            False runs the frozen model alone, for comparison. From pure noise it
            generates a picture unrelated to the frame.
        start : int, default=None
            Timestep to noise the frame to before reconstruction, in (`last_timestep`,
            999]. ``None`` starts from pure noise, the same for every frame.

        Returns
        -------
        list of N ndarray of shape (T, H, W, 3), dtype uint8
            The frames of each row (one for a picture), at the backbone's input size.

        Raises
        ------
        ValueError
            If `n_steps` or `start` is out of range, or a row cannot be read.
        """
        from diffqa_features.learned.control.features import controlled_frames

        first = 999 if start is None else start
        _check_step("start", first, self.last_timestep + 1, 999)
        _check_step("n_steps", n_steps, 2, first - self.last_timestep + 1)
        job = self._open_job(X)
        info = self._check_parameters()
        chain = self._chain(info, n_steps=n_steps, stages=(), start=start)
        side = self._checked_image_size(info)
        found = [np.empty((0, side, side, 3), np.uint8) for _ in job.rows]

        def read():
            frames = controlled_frames(
                job.backbone,
                job.network if control else None,
                job.data,
                chain,
                batch_size=self.batch_size,
            )
            ends = np.cumsum([len(row.latents) for row in job.encoded])
            for place, part in zip(job.kept, np.split(frames, ends[:-1])):
                found[place] = part
            return []

        self._by_row(job, read)
        return found

    # -- parameters ----------------------------------------------------------------

    def _check_parameters(self):
        info = super()._check_parameters()
        info.require_one_text(type(self).__name__)
        self._stages(info)
        self._statistics()
        self._frame_statistics()
        if self.n_steps > 1000 - self.last_timestep:
            raise self._complaint(
                "n_steps",
                f"at most {1000 - self.last_timestep} with "
                f"last_timestep={self.last_timestep}",
            )
        return info

    def _stages(self, info):
        from diffqa_features.learned.control.features import default_stages

        if self.stages is None:
            return default_stages(info.stages)
        patterns = self.stages if isinstance(self.stages, str) else list(self.stages)
        names = select_blocks(patterns, [stage.name for stage in info.stages])
        return tuple(stage for stage in info.stages if stage.name in names)

    def _statistics(self):
        return self._choice("pooling", STATISTICS)

    def _frame_statistics(self):
        return self._choice("frame_pooling", FRAME_STATISTICS)

    def _frames(self):
        return {
            "frame_rate": float(self.frame_rate),
            "max_frames": self.max_frames,
            "burst_length": self._burst_length(),
            "reader": self.reader,
        }

    def _chain(self, info, **changes):
        from diffqa_features.learned.control.features import Chain

        settings = {
            "stages": self._stages(info),
            "n_steps": int(self.n_steps),
            "last_timestep": int(self.last_timestep),
            "seed": int(self.random_state),
            "dtype": self._arithmetic(self._where()),
        }
        return Chain(**{**settings, **changes})

    # -- data, network and loss ----------------------------------------------------

    def _open_data(self, job):
        """Latents of all frames of all rows; all of them are trained on."""
        return self._latents(job, **self._frames())

    def _build_network(self, job):
        job.backbone = self._load_backbone()
        return self._make_network(job.backbone, self.weights_ if job.warm else None)

    def _make_network(self, backbone, weights):
        import torch

        from diffqa_features.learned.control.network import make_control

        with torch.inference_mode(False):
            return make_control(backbone.unet, weights)

    def _loss(self, job):
        """Predict the noise of every frame at random timesteps."""
        import torch
        from torch.nn import functional as F

        from diffqa_features.learned.control.network import run_controlled

        backbone, latents = job.backbone, job.data
        count, shape = len(backbone.alphas_cumprod), latents.shape[1:]
        conditioning = backbone.condition([""])

        def step(rows, generators):
            timesteps = torch.cat(
                [torch.randint(0, count, (1,), generator=g) for g in generators]
            )
            noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
            timesteps, noise = timesteps.to(backbone.device), noise.to(backbone.device)
            clean = torch.from_numpy(latents[rows]).to(backbone.device)
            noisy = backbone.add_noise(clean, timesteps, noise)
            output, _ = run_controlled(
                backbone, job.network, noisy, clean, timesteps, conditioning
            )
            predicted = backbone.to_noise(output, noisy, timesteps)
            return F.mse_loss(predicted, noise), None

        return step

    def _facts(self, job):
        return job.data

    # -- features ------------------------------------------------------------------

    def _features(self, encoded, framing, chain):
        """Statistics of every map of every frame, by the key of its latent."""
        from diffqa_features._engine.pooling import pool_space
        from diffqa_features.learned.control.features import (
            stored_features,
        )

        store = as_store(self.memory)
        if store is not None:
            chain = replace(chain, control=hash_values(self.weights_))

        def open_model():
            backbone = self._load_backbone()
            return backbone, self._make_network(backbone, self.weights_)

        return stored_features(
            {
                framing.key(key): latent
                for row in encoded
                for key, latent in zip(row.keys, row.latents, strict=True)
            },
            chain,
            open_model,
            lambda maps: pool_space(maps, STATISTICS),
            _KEPT,
            store=store,
            batch_size=self.batch_size,
        )

    def _row(self, maps, framing, row, chain):
        """Columns of one row: statistics over its frames."""
        chosen = [STATISTICS.index(name) for name in self._statistics()]
        table = np.stack(
            [
                np.concatenate(
                    [maps[key][name][chosen].ravel() for name in chain.names]
                )
                for key in map(framing.key, row.keys)
            ]
        )  # (T, D)
        return pool_rows(table, self._frame_statistics())


def _check_step(name, value, low, high):
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise ValueError(
            f"The {name!r} parameter of reconstruct must be an int in the range "
            f"[{low}, {high}]. Got {value!r} instead."
        )
