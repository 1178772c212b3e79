"""`DiffusionController`: frames in, a frozen diffusion model that rebuilds them out."""

from dataclasses import replace
from numbers import Integral

import numpy as np
from sklearn.utils._param_validation import Interval

from diffqa_features._backbone.blocks import select_blocks
from diffqa_features._engine.kinds import STATISTICS
from diffqa_features._store.store import as_store
from diffqa_features._utils.checks import InOrder
from diffqa_features._utils.statistics import pool_rows
from diffqa_features.features._base import FRAME_STATISTICS, BackboneTransformer
from diffqa_features.learned._base import BackboneModel

_KEPT = "mean std max"  # what the store has of each map, in the order of STATISTICS
_shared = BackboneTransformer._parameter_constraints


class DiffusionController(BackboneModel):
    """Steer a frozen diffusion model to rebuild each frame as it is (DiffVQA [1]_).

    A trainable copy of the UNet's encoder and middle block sees the noisy latent and
    the clean latent of the same frame, and adds to what the frozen decoder receives
    (ControlNet [2]_). It trains on noise prediction without text and without scores;
    the frame to be rebuilt is the one that came in, with all its faults. What the UNet
    then computes at the last step of the reverse chain, and the latent at its end, are
    the features: stage 1 of DiffVQA.

    Parameters
    ----------
    backbone : str or path, default="tiny"
        The latent diffusion model: an alias (``"tiny"``, ``"sd15"``, ``"sd21-base"``),
        a hub id, or a folder in diffusers layout.

    stages : str or list of str, default=None
        UNet stages whose maps are features (the paper's F_MS), by name or pattern:
        ``down0 ... mid up0 ... up3``. ``None`` takes the first level of the encoder,
        the middle, and the first and the last level of the decoder.

    pooling : str or sequence of str, default=("mean", "std")
        Statistics over space of these maps and of the latent: ``"mean"``, ``"std"``,
        ``"max"``.

    n_steps : int, default=1
        Steps of the reverse chain, DDIM without fresh noise. 1 noises the frame to the
        last timestep and takes that one pass. With more the chain begins at nothing but
        noise, and costs as many passes.

    last_timestep : int, default=0
        DDPM training step of the last pass, in [0, 999], where features are taken. The
        paper takes them at the end of the chain.

    image_size : int, default=None
        Side of the picture that the backbone sees, pixels. ``None`` is the backbone's
        own. It and `view` may be changed after `fit`: the network takes any size.

    view : {"stretch", "crop"}, default="stretch"
        How a frame is brought to that size: stretched to a square, or its centre cut
        out without scaling.

    frame_rate : float, default=1.0
        Frames per second taken from a video, in `fit` as in `transform`. See
        :class:`DiffusionQAFeatures`.

    max_frames : int, default=None
        At most this many of them per row.

    reader : {"auto", "decord", "imageio"}, default="auto"
        What decodes video files. See :class:`DiffusionQAFeatures`.

    frame_pooling : str or sequence of str, default=("mean",)
        Statistics over frames: ``"mean"``, ``"std"``, ``"max"``, ``"min"``.

    max_epochs : int, default=10
        Passes over the training frames. 0 leaves the model as it is: then the control
        adds nothing.

    batch_size : int, default=16
        Frames per step of the training, and per pass of the UNet.

    gradient_accumulation_steps : int, default=1
        Parts in which a batch goes through the training, where it does not fit into
        memory.

    learning_rate : float, default=1e-4
        Of AdamW, constant.

    weight_decay : float, default=1e-2
        Of AdamW.

    max_grad_norm : float, default=1.0
        Largest norm of a step's gradient.

    warm_start : bool, default=False
        Go on from the weights of the last `fit`.

    checkpoint_dir : str or path, default=None
        Folder for the state of a training that runs, saved after every epoch and every
        two minutes. The same `fit` after a kill goes on from there and ends with the
        same weights.

    random_state : int, default=0
        Seeds the order, the training noise and timesteps, and the noise of features and
        reconstructions, which is the same for every frame.

    memory : str, path or FeatureStore, default=None
        Where latents and pooled maps of frames are kept. The keys of the latter hold a
        fingerprint of what was trained.

    device : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``None`` takes the first
        accelerator there is, else the CPU.

    dtype : {"float32", "float16", "bfloat16"}, default=None
        Arithmetic of both networks, by autocast; all weights are in float32. ``None``
        is bfloat16 on CUDA (float16 with a scaled loss where there is none) and float32
        elsewhere.

    on_error : {"raise", "nan"}, default="raise"
        What to do with a row that cannot be read: raise at the first; or leave it out
        of `fit`, give NaN for it elsewhere, warn, and list it in ``failed_``.

    verbose : int, default=0
        1 shows progress bars with the loss.

    Attributes
    ----------
    weights_ : dict of str to ndarray of float32
        The control module: 42% of a Stable Diffusion UNet.
    history_ : list of dict
        Per epoch: ``epoch`` and ``loss``, the mean squared error of the predicted
        noise; 1 is what predicting no noise gets.
    design_ : dict
        Empty: no parameter binds the weights but `backbone`.
    backbone_identity_ : str
        Fingerprint of the backbone.
    failed_ : list of (int, str)
        Position and reason of every row of the last call that could not be read.
    feature_names_in_ : ndarray of str
        Columns of the X of `fit`, if that was a table.

    See Also
    --------
    DiffusionQAFeatures : Features of the frozen model, nothing trained.

    Notes
    -----
    *From the paper* (its figures and the authors' page; no code was released): what is
    frozen and what trains, the input of z_t and z_0, the null text, the loss over all
    timesteps, the target, features at the last step, F_Latent as the latent at its end.

    *Ours, since it is not published*: the stages; the chain (DDIM, timesteps spread
    evenly from 999 to `last_timestep`); `n_steps=1` as the fast default; AdamW at 1e-4
    as in DiffBIR. Maps of encoder and middle are taken as the decoder receives them,
    with the control added: a ControlNet leaves the encoder itself as it is, and with
    one step its maps would not depend on what was trained.

    *Which frames to train on*: such as the features are wanted of, faults included.

    *Learning rate.* The control adds nothing at first and is slow to begin. On
    ``tiny``, 96 steps at 5e-4 did not move the loss; at 3e-3, with four frames a step,
    a run learned and then fell apart after 430 steps.

    *Sizes of the module.* A pickle and the saved files hold it: 12 MB for ``tiny``,
    1.4 GB for Stable Diffusion. They never hold the backbone.

    A batch of n and n batches of one agree to about 1e-5 relative in float32, not
    bitwise, and less over a chain of many steps.

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
        "reader": _shared["reader"],
        "frame_pooling": [str, InOrder()],
    }

    def __init__(
        self,
        backbone="tiny",
        *,
        stages=None,
        pooling=("mean", "std"),
        n_steps=1,
        last_timestep=0,
        image_size=None,
        view="stretch",
        frame_rate=1.0,
        max_frames=None,
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
        self.stages = stages
        self.pooling = pooling
        self.n_steps = n_steps
        self.last_timestep = last_timestep
        self.image_size = image_size
        self.view = view
        self.frame_rate = frame_rate
        self.max_frames = max_frames
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
            frame that is taken of a row trains.
        y : object, default=None
            Ignored: no scores are needed.
        groups : object, default=None
            Ignored.

        Returns
        -------
        self : object
            The fitted estimator. After an error it is as it was before.

        Raises
        ------
        ValueError
            If a parameter or a row cannot be used, or the UNet is of a kind that cannot
            be copied.
        FloatingPointError
            If a loss is not finite; the message names the step and the way out.
        OSError
            If the backbone, a file or a checkpoint cannot be read.
        """
        return self._fit(X)

    def transform(self, X):
        """Pool the features of frames over space and time.

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
        """Names of the columns of `transform`; needs no weights in memory.

        Parameters
        ----------
        input_features : object, default=None
            Ignored, there for scikit-learn.

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
        """Rebuild frames from noise.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            As in `fit`.
        n_steps : int, default=20
            Steps of the reverse chain, at least 2.
        control : bool, default=True
            False leaves the frozen model alone, to compare with. From nothing but noise
            it makes a picture that has nothing to do with the frame.
        start : int, default=None
            Timestep that the frame is noised to before it is rebuilt, in
            (`last_timestep`, 999]. ``None`` begins at nothing but noise, the same for
            every frame.

        Returns
        -------
        list of N ndarray of shape (T, H, W, 3), dtype uint8
            The frames of each row, of a picture one, at the size that the backbone
            sees.

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
        """Latents of all frames of all rows: each of them trains."""
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
            fingerprint,
            stored_features,
        )

        store = as_store(self.memory)
        if store is not None:
            chain = replace(chain, control=fingerprint(self.weights_))

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
        """The columns of one row: statistics over its frames."""
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
