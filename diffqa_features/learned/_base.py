"""The common `fit` of all estimators trained by gradient descent.

A method supplies data, network, loss and scores (the hooks below `_fit`). This file has
the checks, the splits, the loop, the line to the units of `y`, and the fitted
attributes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_feature_names, check_is_fitted

from diffqa_features._backbone.info import describe_backbone
from diffqa_features._engine.latents import encode_rows
from diffqa_features._engine.request import FrameSpec
from diffqa_features._media.rows import as_rows
from diffqa_features._store.store import as_store, wants_half
from diffqa_features._utils.files import local_path
from diffqa_features._utils.hashing import hash_values
from diffqa_features.features._base import BackboneTransformer
from diffqa_features.features._parameters import BackboneParameters, MediaParameters
from diffqa_features.learned._files import SavedModel, plain
from diffqa_features.learned._pictures import whole_maps

_SCHEDULE = (
    "max_epochs",
    "batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "patience",
    "milestones",
    "lr_decay",
)

_shared = BackboneTransformer._parameter_constraints


@dataclass
class Job:
    """State of one call of `fit` or of a prediction."""

    X: object
    rows: list
    more: dict = field(default_factory=dict)
    """What else `fit` was given."""
    info: object = None
    """What `_check_parameters` gave: of the backbone, where there is one."""
    warm: bool = False
    """Whether the network begins with the weights that were fitted before."""
    failed: list[tuple[int, str]] | None = None
    """Index and reason of rows that cannot be read; None where they are errors."""
    data: object = None
    encoded: list = field(default_factory=list)
    """Those rows one by one, where a method needs to know their frames."""
    backbone: object = None
    network: object = None
    y: np.ndarray | None = None
    """Of the rows that can be read, as the next two."""
    groups: np.ndarray | None = None
    weight: np.ndarray | None = None
    """What each row counts, 1 on average over those that train; None is 1 for all."""
    train: np.ndarray | None = None
    held: np.ndarray | None = None
    """Places in `data` of the rows that train, and of those held out, if any."""
    line: tuple[float, float] | None = None
    """Slope and intercept from the network's scores to the units of `y`."""

    @property
    def kept(self) -> list[int]:
        """Positions in `rows` of the readable ones."""
        lost = {index for index, _ in self.failed or ()}
        return [place for place in range(len(self.rows)) if place not in lost]

    def weights_of(self, places, device):
        """Weights of these rows as a tensor; None means 1 for all."""
        import torch

        if self.weight is None:
            return None
        return torch.from_numpy(self.weight[places]).to(device, torch.float32)


class LearnedModel(MediaParameters, SavedModel):
    """Base of estimators trained by gradient descent; it has no constructor.

    A subclass lists in `_ARCHITECTURE` the parameters that its weights belong to, which
    cannot change between `fit` and `predict`, and in `_FITTED` the plain attributes,
    besides the weights, that `fit` sets and files store.
    """

    _ARCHITECTURE = ()
    _FITTED = ("history_",)
    # With routing enabled, searches and cross-validation pass groups on unasked.
    __metadata_request__fit = {"groups": True}

    _parameter_constraints: dict = {
        "image_size": _shared["image_size"],
        "view": [StrOptions({"stretch", "crop"})],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "gradient_accumulation_steps": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "checkpoint_dir": [str, os.PathLike, None],
        # What scikit-learn's splits take as a seed.
        "random_state": [Interval(Integral, 0, 2**32 - 1, closed="both")],
        "memory": _shared["memory"],
        "device": _shared["device"],
        "dtype": [StrOptions({"float32", "float16", "bfloat16"}), None],
        "on_error": _shared["on_error"],
        "verbose": _shared["verbose"],
    }

    # -- the skeleton --------------------------------------------------------------

    def _fit(self, X, y=None, groups=None, sample_weight=None, **more):
        """Fit; the previous state is kept until everything is done."""
        self._validate_params()
        job = Job(X, as_rows(X), more, failed=self._list_of_failed())
        self._check_targets(job, y, groups, sample_weight)
        job.info = self._check_parameters()
        self._check_milestones()
        job.warm = self.warm_start and hasattr(self, "weights_")
        if job.warm:
            self._check_fitted()
        job.data = self._open_data(job)
        self._leave_out_failed(job)
        self._divide(job)
        job.network = self._build_network(job)
        self._begin(job)
        past = list(self.history_) if job.warm else []
        history = self._minimise(job, len(past))
        fitted = self._end(job, bool(history))
        history = [{**new, "epoch": len(past) + new["epoch"]} for new in history]
        fitted["history_"] = past + history
        self._set_fitted(self._arrays(job), fitted, self._architecture())
        _check_feature_names(self, X, reset=True)
        self.failed_ = job.failed or []
        self._warn_of_failed(job.rows, "were left out")
        return self

    def _check_milestones(self):
        if hasattr(self, "milestones"):
            epochs = list(self._value("milestones"))
            if not all(isinstance(epoch, Integral) and epoch > 0 for epoch in epochs):
                raise self._complaint("milestones", "positive ints, numbers of epochs")

    # What a method supplies:

    def _check_parameters(self):
        """Check parameters against each other; return the backbone's description."""

    def _open_data(self, job):
        """Read the rows; bad ones go to `job.failed` and are left out."""
        raise NotImplementedError

    def _build_network(self, job):
        """The network on its device, with the fitted weights if `job.warm`."""
        raise NotImplementedError

    def _loss(self, job):
        """Make ``step(rows, generators) -> (loss, predictions)``, see `train`.

        `rows` are positions in the data.
        """
        raise NotImplementedError

    def _facts(self, job):
        """What the result depends on besides architecture, schedule and targets."""
        return ()

    def _note(self, job):
        """What the history of an epoch records besides loss and SRCC."""
        return {}

    def _smallest_batch(self):
        """Minimum number of rows that the loss needs."""
        return 1

    def _parts(self, job):
        """Number of parts that a batch is taken in."""
        return self.gradient_accumulation_steps

    # What those that learn scores do in between:

    def _check_targets(self, job, y, groups, sample_weight):
        pass

    def _divide(self, job):
        job.train = np.arange(len(job.data))

    def _begin(self, job):
        pass

    def _validation(self, job):
        """A function that returns the SRCC of the held-out rows, or None."""

    def _end(self, job, trained):
        """Fitted attributes besides the weights."""
        return {}

    # -- training ------------------------------------------------------------------

    def _minimise(self, job, past):
        """Run the loop with this estimator's parameters; return the history.

        `past` counts the epochs of earlier fits.
        """
        from diffqa_features.learned import _training

        # A method lists the parameters that it has; the others stay the loop's own.
        settings = {n: self._value(n) for n in _SCHEDULE if hasattr(self, n)}
        if "milestones" in settings:
            settings["milestones"] = tuple(map(int, settings["milestones"]))
        device = self._where()
        dtype = self._arithmetic(device)
        checkpoint = None
        if self.checkpoint_dir is not None:
            name = type(self).__name__.lower()
            key = hash_values(
                self._architecture(), settings, self.random_state, str(dtype), past,
                getattr(job.info, "identity", None), job.y, job.weight, job.train,
                job.held, self._facts(job), dict(job.network.state_dict()),
                # Of an earlier fit; a new one follows from the rest, up to rounding.
                job.line if job.warm else None,
            )  # fmt: skip
            folder = local_path(self.checkpoint_dir, "The 'checkpoint_dir' parameter")
            checkpoint = folder / f"{name}-{key}.pt"
        if "gradient_accumulation_steps" in settings:
            # After the key: it changes nothing but rounding, and with the threads.
            settings["gradient_accumulation_steps"] = self._parts(job)
        schedule = _training.Schedule(
            **settings,
            seed=_training.seed_of(int(self.random_state), past),
            smallest_batch=self._smallest_batch(),
            dtype=dtype,
            checkpoint=checkpoint,
            verbose=self.verbose,
        )
        step = self._loss(job)
        return _training.train(
            job.network,
            lambda chosen, generators: step(job.train[chosen], generators),
            len(job.train) if job.y is None else job.y[job.train],
            schedule,
            device,
            self._validation(job),
            lambda: self._note(job),
        )

    def _where(self):
        from diffqa_features._utils.devices import pick_device

        return pick_device(self.device)

    def _arithmetic(self, device):
        """The dtype of passes: `dtype`, or the default of the device."""
        import torch

        if self.dtype is not None:
            return getattr(torch, self.dtype)
        if device.type == "cuda":
            # One of another machine has bfloat16 as a rule.
            exact = not torch.cuda.is_available() or torch.cuda.is_bf16_supported()
            return torch.bfloat16 if exact else torch.float16
        return torch.float32

    def _precision(self):
        """Name of the dtype that `dtype` stands for on this machine."""
        from diffqa_features._utils.devices import parse_device

        dtype = self._arithmetic(parse_device(self.device))
        return str(dtype).removeprefix("torch.")

    # -- rows that cannot be read --------------------------------------------------

    def _list_of_failed(self):
        return None if self.on_error == "raise" else []

    def _leave_out_failed(self, job):
        if job.failed:
            if not job.kept:
                raise ValueError(f"No row can be read. {job.failed[0][1]}")
            job.failed.sort()
            for name in ("y", "groups", "weight"):
                values = getattr(job, name)
                if values is not None:
                    setattr(job, name, values[job.kept])

    def _open_job(self, X, network=True):
        """State of a prediction: data and, if requested, the fitted network."""
        info = self._check_fitted()
        job = Job(X, as_rows(X), info=info, warm=True, failed=self._list_of_failed())
        job.data = self._open_data(job)
        if network and job.kept:
            job.network = self._build_network(job)
        return job

    def _by_row(self, job, read, *shapes):
        """Arrays from `read()` for the readable rows, with NaN for the others.

        `shapes` are those of one row, in case no row can be read.
        """
        kept = job.kept
        parts = read() if kept else [np.empty((0, *shape)) for shape in shapes]
        self.failed_ = sorted(job.failed or [])
        self._warn_of_failed(job.rows)
        if not job.failed:
            return parts
        filled = []
        for part in parts:
            shape = len(job.rows), *part.shape[1:]
            filled.append(np.full(shape, np.nan, part.dtype))
            filled[-1][kept] = part
        return filled

    def _maps_of_tiles(self, X, size, shape):
        """Quality maps (N, *shape) of whole pictures, from those of their tiles."""
        job = Job(X, as_rows(X), failed=self._list_of_failed())
        maps = list(
            whole_maps(job.rows, size, self.quality_maps, self.verbose, job.failed)
        )
        (found,) = self._by_row(job, lambda: [np.stack(maps)], shape)
        return found

    # -- what is fitted --------------------------------------------------------------

    def _arrays(self, job):
        """Trained weights as arrays, which unpickle without torch."""
        return state_arrays(job.network)

    def _set_fitted(self, weights, fitted, architecture):
        """Set all fitted attributes."""
        self.weights_ = weights
        self.design_ = architecture
        for name, value in fitted.items():
            setattr(self, name, value)
        return self

    def _load_weights(self, network):
        load_weights(network, self.weights_)

    def _architecture(self):
        """Parameters that the weights belong to, comparable and serialisable."""
        return {name: plain(self._value(name)) for name in self._ARCHITECTURE}

    def _check_fitted(self):
        check_is_fitted(self, "weights_")
        self._validate_params()
        for name, value in self._architecture().items():
            if value != self.design_[name]:
                raise ValueError(
                    f"The {name!r} parameter of {type(self).__name__} is {value!r}, "
                    f"but the estimator was fitted with {self.design_[name]!r}. Fit it "
                    "again, or set the parameter back."
                )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        return tags


class BackboneModel(BackboneParameters, TransformerMixin, LearnedModel):
    """Base of estimators trained with a frozen backbone; it has no constructor."""

    _parameter_constraints: dict = {
        "backbone": _shared["backbone"],
        "vae": _shared["vae"],
        **LearnedModel._parameter_constraints,
    }

    def _check_parameters(self):
        info = describe_backbone(self._backbone_name())
        self._checked_image_size(info)
        return info

    def _framing(self, info, **more):
        return FrameSpec(
            identity=info.identity,
            view=self.view,
            image_size=self._checked_image_size(info),
            multiple=info.multiple,
            normalization=self._value("normalization"),
            half=wants_half(self.memory),
            **more,
        )

    def _encode(self, rows, framing, failed=None, see=None):
        """Latents of every frame of every row, each encoded once; `see` gets views."""
        from diffqa_features._engine.passes import Passes

        # The VAE in float32 everywhere: latents are computed once, and stay.
        passes = Passes(self._backbone_name(), self.device, "float32", seed=0)
        return encode_rows(
            rows,
            framing,
            passes,
            store=as_store(self.memory),
            verbose=self.verbose,
            failed=failed,
            see=see,
        )

    def _latents(self, job, **more):
        """Latents (F, C, h, w) of all frames; `job.encoded` has them row by row."""
        framing = self._framing(job.info, **more)
        job.encoded = self._encode(job.rows, framing, job.failed)
        nothing = np.empty((0, job.info.latent_channels, 1, 1), np.float32)
        return np.concatenate([row.latents for row in job.encoded] or [nothing])

    def _load_backbone(self):
        from diffqa_features._backbone.backbone import load_backbone

        # Weights in float32; `dtype` is that of the arithmetic, by autocast.
        return load_backbone(self._backbone_name(), self.device, "float32")

    def _end(self, job, trained):
        fitted = super()._end(job, trained)
        return {**fitted, "backbone_identity_": job.info.identity}

    def _origin(self):
        info = self._check_fitted()
        names = ("name", "commit", "identity")
        return {"backbone": {name: getattr(info, name) for name in names}}

    def _restore_files(self, weights, config, architecture):
        identity = config["backbone"]["identity"]
        fitted = {**config["fitted"], "backbone_identity_": identity}
        self._set_fitted(weights, fitted, architecture)

    def _check_fitted(self):
        super()._check_fitted()
        info = describe_backbone(self._backbone_name())
        if info.identity != self.backbone_identity_:
            raise ValueError(
                f"The backbone {info.name!r} is not the one that this "
                f"{type(self).__name__} was fitted on: its weights or configuration "
                f"have the fingerprint {info.identity[:12]}, expected "
                f"{self.backbone_identity_[:12]}. Set 'backbone' to a folder or hub id "
                "with the original model, or fit again."
            )
        return info

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def state_arrays(network):
    """Copies of a network's weights and buffers as arrays."""
    return {
        name: np.array(value.detach().cpu().numpy(), order="C")
        for name, value in network.state_dict().items()
    }


def load_weights(network, weights):
    """Load arrays into a network; names and shapes must match exactly."""
    import torch

    odd = [
        name
        for name, value in network.state_dict().items()
        if name in weights
        and value.is_floating_point() != (weights[name].dtype.kind == "f")
    ]
    try:
        if odd:
            raise TypeError(f"{odd[0]!r} is of type {weights[odd[0]].dtype}.")
        network.load_state_dict(
            {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
        )
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            "The weights of this estimator do not fit its parameters. If it was loaded "
            f"with from_pretrained, its files are damaged; restore them. {error}"
        ) from error
