"""What the learned estimators share: data in and out, target, weights, files."""

import os
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from diffqa_features._latents import Framing, encode_rows
from diffqa_features._resolve import describe_backbone
from diffqa_features._store import as_store
from diffqa_features._transformer import BackboneTransformer
from diffqa_features.learned import _files

_SCHEDULE = (
    "max_epochs",
    "batch_size",
    "accumulation",
    "learning_rate",
    "weight_decay",
    "gradient_clip",
    "patience",
)
# What belongs to a machine and not to a model.
_LOCAL = ("memory", "checkpoint_dir", "device", "verbose")

_shared = BackboneTransformer._parameter_constraints


class LearnedModel(BackboneTransformer):
    """Base of what gradient descent fits; it has no constructor.

    A subclass names in `_DESIGN` the parameters that its weights belong to: these
    cannot be changed between `fit` and `predict`. In `_FITTED` it names the plain
    attributes beside the weights that `fit` leaves and files keep, and in `_UNSAVED`
    parameters that files do not need: what they gave is among the weights.
    """

    _DESIGN = ()
    _FITTED = ("history_",)
    _UNSAVED = ()

    _parameter_constraints: dict = {
        "backbone": _shared["backbone"],
        "image_size": _shared["image_size"],
        "view": [StrOptions({"stretch", "crop"})],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "accumulation": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "gradient_clip": [Interval(Real, 0, None, closed="neither")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "checkpoint_dir": [str, os.PathLike, None],
        "random_state": _shared["random_state"],
        "memory": _shared["memory"],
        "device": _shared["device"],
        "dtype": _shared["dtype"],
        "verbose": _shared["verbose"],
    }

    # -- data ----------------------------------------------------------------------

    def _framing(self, info, **more):
        return Framing(
            identity=info.identity,
            view=self.view,
            image_size=self._checked_image_size(info),
            multiple=info.multiple,
            normalization=self.normalization,
            **more,
        )

    def _encode(self, rows, framing):
        """Latents of every frame of every row, each encoded once."""
        from diffqa_features._passes import Passes

        # The VAE in float32 everywhere: latents are computed once, and stay.
        passes = Passes(self._backbone_name(), self.device, "float32", seed=0)
        return encode_rows(
            rows,
            framing,
            passes,
            store=as_store(self.memory),
            verbose=self.verbose,
        )

    def _load_backbone(self):
        from diffqa_features._backbone import load_backbone

        # Weights in float32; `dtype` is that of the arithmetic, by autocast.
        return load_backbone(self._backbone_name(), self.device, "float32")

    def _arithmetic(self, device):
        """The dtype of passes: of `dtype`, or what suits the device."""
        import torch

        if self.dtype is not None:
            return getattr(torch, self.dtype)
        if device.type == "cuda":
            exact = torch.cuda.is_bf16_supported()
            return torch.bfloat16 if exact else torch.float16
        return torch.float32

    # -- training ------------------------------------------------------------------

    def _run_training(self, network, step, target, backbone, validate, facts, past=0):
        """The loop with this estimator's parameters; the history of its epochs.

        `facts` are what the result depends on beside the parameters and the network:
        they name the checkpoint. `past` counts the epochs of earlier fits. Without
        scores `target` is the number of rows.
        """
        from diffqa_features.learned import _training

        parameters = self.get_params(deep=False)
        settings = {k: parameters[k] for k in _SCHEDULE if k in parameters}
        dtype = self._arithmetic(backbone.device)
        checkpoint = None
        if self.checkpoint_dir is not None:
            name = type(self).__name__.lower()
            key = _training.run_key(
                self._design(), settings, self.random_state, str(dtype), past,
                backbone.info.identity, target, facts, dict(network.state_dict()),
            )  # fmt: skip
            folder = Path(self.checkpoint_dir).expanduser()
            checkpoint = folder / f"{name}-{key}.pt"
        schedule = _training.Schedule(
            **settings,
            seed=_training.seed_of(int(self.random_state), past),
            dtype=dtype,
            checkpoint=checkpoint,
            verbose=self.verbose,
        )
        device = backbone.device
        return _training.train(network, step, target, schedule, device, validate)

    # -- files ---------------------------------------------------------------------

    def save_pretrained(self, folder):
        """Write what was trained: `config.json` and `model.safetensors`.

        The backbone itself is not written, only its name and fingerprint. A crash
        leaves the files of before or those of now, never a part.

        Parameters
        ----------
        folder : str or path
            Made if it is not there; files of these names are replaced.
        """
        from diffqa_features import __version__

        info = self._check_fitted()
        parameters = self.get_params(deep=False)
        config = {
            "library": f"diffqa_features {__version__}",
            "estimator": type(self).__name__,
            "parameters": {
                name: _plain(value)
                for name, value in parameters.items()
                if name not in (*_LOCAL, *self._UNSAVED)
            },
            "backbone": {
                "name": info.name,
                "commit": info.commit,
                "identity": info.identity,
            },
            "fitted": {name: getattr(self, name) for name in self._FITTED},
        }
        _files.save(folder, config, self.weights_)

    @classmethod
    def from_pretrained(cls, folder, **parameters):
        """Load what `save_pretrained` wrote.

        Parameters
        ----------
        folder : str or path
            Where the two files are.
        **parameters : object
            Parameters to set beside the saved ones, such as `backbone` (another place
            of the same model), `device` or `memory`.

        Returns
        -------
        object
            A fitted estimator, whose output is that of the one saved.

        Raises
        ------
        ValueError
            If the files are damaged or are another estimator's, or if the backbone is
            not the one that it was fitted on.
        OSError
            If the files or the backbone are not there.
        """
        config, weights = _files.load(folder)
        if config["estimator"] != cls.__name__:
            raise ValueError(
                f"'{folder}' holds a {config['estimator']}, not a {cls.__name__}. Load "
                f"it with {config['estimator']}.from_pretrained."
            )
        estimator = cls(**{**config["parameters"], **parameters})
        estimator._restore(
            weights,
            config["backbone"]["identity"],
            config["fitted"],
            cls(**config["parameters"])._design(),
        )
        estimator._check_fitted()
        return estimator

    # -- what is fitted --------------------------------------------------------------

    def _design(self):
        """Parameters that the weights belong to, in a form that compares and saves."""
        return {name: _plain(getattr(self, name)) for name in self._DESIGN}

    def _check_fitted(self):
        check_is_fitted(self, "weights_")
        self._validate_params()
        for name, value in self._design().items():
            if value != self.design_[name]:
                raise ValueError(
                    f"The {name!r} parameter of {type(self).__name__} is {value!r}, "
                    f"but the estimator was fitted with {self.design_[name]!r}. Fit it "
                    "again, or set the parameter back."
                )
        info = describe_backbone(self._backbone_name())
        self._check_backbone(info)
        return info

    def _check_backbone(self, info):
        if info.identity != self.backbone_identity_:
            raise ValueError(
                f"The backbone {info.name!r} is not the one that this "
                f"{type(self).__name__} was fitted on: its weights or configuration "
                f"have the fingerprint {info.identity[:12]}, expected "
                f"{self.backbone_identity_[:12]}. Set 'backbone' to a folder or hub id "
                "with the original model, or fit again."
            )

    def _restore(self, weights, identity, fitted, design):
        """Take all that `fit` leaves, from wherever it comes."""
        # Arrays: a pickle of them needs no torch, and skops reads them.
        self.weights_ = weights
        self.backbone_identity_ = identity
        self.design_ = design
        for name, value in fitted.items():
            setattr(self, name, value)
        return self

    def _give_weights(self, network):
        import torch

        network.load_state_dict(
            {name: torch.from_numpy(v.copy()) for name, v in self.weights_.items()}
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        return tags


class LearnedRegressor(RegressorMixin, LearnedModel):
    """Base of the regressors among them."""

    _FITTED = ("slope_", "intercept_", "history_")

    @staticmethod
    def _check_target(rows, y):
        if y is None:
            raise ValueError("fit needs y: one score per row of X. Got None.")
        y = column_or_1d(np.asarray(y), dtype=np.float64, warn=True)
        check_consistent_length(rows, y)
        bad = np.flatnonzero(~np.isfinite(y))
        if len(bad):
            raise ValueError(
                f"Row {bad[0]}: y is {y[bad[0]]}. Drop rows without a finite score."
            )
        if len(y) < 2:
            raise ValueError("fit needs at least two rows. Got 1 sample.")
        return y

    def _split(self, y, groups):
        """Places of the rows that train, and of those held out (or None)."""
        if groups is not None:
            check_consistent_length(y, groups)
        if self.validation_fraction is None:
            return np.arange(len(y)), None
        kind = ShuffleSplit if groups is None else GroupShuffleSplit
        splitter = kind(
            1, test_size=self.validation_fraction, random_state=self.random_state
        )
        train, held = (np.sort(part) for part in next(splitter.split(y, y, groups)))
        if len(train) < 2 or len(held) < 2:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} leaves {len(train)} "
                f"rows to train and {len(held)} to validate on; at least two of each "
                "are needed. Change it, or set it to None."
            )
        return train, held

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _plain(value):
    """A parameter as JSON has it."""
    if isinstance(value, (str, type(None))):
        return value
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_plain(item) for item in value]
