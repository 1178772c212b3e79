"""What all that gradient descent fits has in common: training, files, its design."""

import os
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from diffqa_features.features._base import BackboneTransformer
from diffqa_features.learned import _files

_SCHEDULE = (
    "max_epochs",
    "batch_size",
    "accumulation",
    "learning_rate",
    "weight_decay",
    "gradient_clip",
    "patience",
    "milestones",
    "decay",
)
# What belongs to a machine, or to where training began, and not to a model.
_LOCAL = (
    "memory", "checkpoint_dir", "device", "verbose", "init_from", "teacher",
    "controller",
)  # fmt: skip

_shared = BackboneTransformer._parameter_constraints


class TrainedModel(BaseEstimator):
    """Base of what gradient descent fits; it has no constructor.

    A subclass names in `_DESIGN` the parameters that its weights belong to: these
    cannot be changed between `fit` and `predict`. In `_FITTED` it names the plain
    attributes beside the weights that `fit` leaves and files keep.
    """

    _DESIGN = ()
    _FITTED = ("history_",)

    _parameter_constraints: dict = {
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

    def _minimise(self, network, step, target, device, validate, facts, past=0):
        """The loop with this estimator's parameters; the history of its epochs.

        `facts` are what the result depends on beside the parameters and the network:
        they name the checkpoint. `past` counts the epochs of earlier fits. Without
        scores `target` is the number of rows.
        """
        from diffqa_features.learned import _training

        # A method lists the parameters that it has; the others stay the loop's own.
        settings = {n: getattr(self, n) for n in _SCHEDULE if hasattr(self, n)}
        if "milestones" in settings:
            settings["milestones"] = tuple(map(int, settings["milestones"]))
        dtype = self._arithmetic(device)
        checkpoint = None
        if self.checkpoint_dir is not None:
            name = type(self).__name__.lower()
            key = _training.run_key(
                self._design(), settings, self.random_state, str(dtype), past,
                target, facts, dict(network.state_dict()),
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
        return _training.train(network, step, target, schedule, device, validate)

    # -- files ---------------------------------------------------------------------

    def save_pretrained(self, folder):
        """Write what was trained: `config.json` and `model.safetensors`.

        A backbone itself is not written, only its name and fingerprint, and a teacher
        not at all. A crash leaves the files of before or those of now, never a part.

        Parameters
        ----------
        folder : str or path
            Made if it is not there; files of these names are replaced.
        """
        from diffqa_features import __version__

        origin = self._origin()
        parameters = self.get_params(deep=False)
        config = {
            "library": f"diffqa_features {__version__}",
            "estimator": type(self).__name__,
            "parameters": {
                name: _plain(value)
                for name, value in parameters.items()
                if name not in _LOCAL
            },
            **origin,
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
        design = cls(**config["parameters"])._design()
        estimator._restore_files(weights, config, design)
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

    def _origin(self):
        """What else the weights belong to, for the files; checks that it is there."""
        self._check_fitted()
        return {}

    def _restore_files(self, weights, config, design):
        self._take(weights, config["fitted"], design)

    def _take(self, weights, fitted, design):
        """Take all that `fit` leaves, from wherever it comes."""
        # Arrays: a pickle of them needs no torch, and skops reads them.
        self.weights_ = weights
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
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        tags.requires_fit = True
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
