"""A fitted learned regressor -> config.json and model.safetensors, and back."""

import hashlib
import json
import logging
import os
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator

from diffqa_features._backbone.settings import (
    FITTED,
    check_settings,
    parse_json,
    read_json,
)
from diffqa_features._utils.files import local_path, one_writer, write_whole

logger = logging.getLogger(__name__)

FORMAT = 2
"""Raised whenever the files change their meaning."""

_OBJECTS = {"estimator": str, "parameters": dict, "fitted": dict}
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
# What belongs to a machine, or to where training began, and not to a model: neither
# written into its files nor, where somebody else wrote them, taken from there.
_LOCAL = (
    "memory", "checkpoint_dir", "device", "n_jobs", "verbose", "init_from", "teacher",
    "controller",
)  # fmt: skip
_SIZES = (
    "n_context", "lora_rank", "width", "decoder_width", "patch_size", "mamba_width",
    "mamba_layers", "mamba_state",
)  # fmt: skip
_LARGE = 4096  # a size that needs weights of that size to show for it


class SavedModel(BaseEstimator):
    """What has weights that can be saved and loaded; it has no constructor."""

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
                name: plain(value)
                for name, value in parameters.items()
                if name not in _LOCAL
            },
            **origin,
            "fitted": {name: getattr(self, name) for name in self._FITTED},
        }
        save(folder, config, self.weights_)

    @classmethod
    def from_pretrained(cls, folder, **parameters):
        """Load what `save_pretrained` wrote.

        Parameters
        ----------
        folder : str or path
            Where the two files are.
        **parameters : object
            Parameters to set beside the saved ones, such as `backbone` (another place
            of the same model), `device` or `memory`. The last two, and all that belongs
            to a machine, are never taken from the files.

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

        Notes
        -----
        Files of a stranger run no code. They do name the models that they were trained
        on (`backbone`, and where the estimator has them `motion_network`, `text_model`
        and `network`): an alias, a hub id, which may be downloaded, or a folder. Pass
        these parameters to decide it yourself.
        """
        config, weights = load(folder)
        if config["estimator"] != cls.__name__:
            raise ValueError(
                f"'{folder}' holds a {config['estimator']}, not a {cls.__name__}. Load "
                f"it with {config['estimator']}.from_pretrained."
            )
        saved = {k: v for k, v in config["parameters"].items() if k not in _LOCAL}
        unknown = sorted(saved.keys() - set(cls._get_param_names()))
        if unknown:
            raise ValueError(
                f"'{folder}' names the parameter {unknown[0]!r}, which no "
                f"{cls.__name__} has. Load it with the version that wrote it: "
                f"{config.get('library', 'unknown')}."
            )
        estimator = cls(**{**saved, **parameters})
        original = cls(**saved)
        try:
            original._validate_params()
            original._check_saved(weights, config, folder)
            estimator._restore_files(weights, config, original._architecture())
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"'{folder}' is damaged or was not written by save_pretrained: "
                f"{error!r}. Restore it from a copy, or fit again."
            ) from error
        estimator._check_fitted()
        return estimator

    def _check_saved(self, weights, config, folder):
        """Refuse what `save_pretrained` does not write, before anything is built."""
        fitted, path = config["fitted"], Path(folder) / "config.json"
        odd = sorted(fitted.keys() ^ set(self._FITTED))
        if odd:
            raise ValueError(
                f"{path}: 'fitted' must hold {', '.join(self._FITTED)}. The first that "
                f"is missing or unknown is {odd[0]!r}."
            )
        config["fitted"] = check_settings(fitted, FITTED, path)
        largest = max(
            [len(weights), *(max(v.shape, default=0) for v in weights.values())]
        )
        for name in self._ARCHITECTURE:
            value = getattr(self, name)
            if (
                name in _SIZES
                and isinstance(value, int)
                and value > max(largest, _LARGE)
            ):
                raise ValueError(
                    f"{path}: {name}={value}, but no weight beside it is larger than "
                    f"{largest}. It is not the file of these weights."
                )

    def _origin(self):
        """What else the weights belong to, for the files; checks that it is there."""
        self._check_fitted()
        return {}

    def _restore_files(self, weights, config, architecture):
        self._set_fitted(weights, config["fitted"], architecture)


def plain(value):
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
    return [plain(item) for item in value]


def save(folder, config, weights):
    """Write both files so that a crash at any moment leaves a model that loads.

    The weights carry the configuration too. They come first; where the configuration
    beside them is then not theirs, because a crash came between, their own is read.
    """
    from safetensors.numpy import save as to_bytes

    folder = local_path(folder, "The folder of save_pretrained")
    config = {"format": FORMAT, **config}
    inner = json.dumps(config, sort_keys=True, allow_nan=False)
    content = to_bytes(weights, metadata={"config": inner})
    outer = {**config, "weights_sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(outer, indent=2, allow_nan=False) + "\n"
    with one_writer(folder / _CONFIG):
        write_whole(folder / _WEIGHTS, content)
        write_whole(folder / _CONFIG, text)


def load(folder):
    """Configuration and weights of a folder, which are sure to belong together."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    folder = Path(folder).expanduser()
    path = folder / _WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {_WEIGHTS} in '{folder}'. Pass the folder that "
            "save_pretrained wrote; for the files of a method's authors, see "
            "from_released."
        )
    content = path.read_bytes()
    try:
        weights = from_bytes(content)
        length = int.from_bytes(content[:8], "little")
        header = parse_json(content[8 : 8 + length])
        inner = parse_json(header["__metadata__"]["config"])
        if not isinstance(inner, dict):
            raise ValueError("its configuration is no JSON object")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged or was not written by save_pretrained: {error!r}. "
            "Restore it from a copy, or fit again."
        ) from error
    config = _read_config(folder / _CONFIG)
    if config is None or config.get("weights_sha256") != _sha256(content):
        logger.warning(
            "%s is not the one that was saved with the weights beside it, as after a "
            "crash; the weights' own copy is used.",
            folder / _CONFIG,
        )
        config = inner
    if config.get("format") != FORMAT:
        raise ValueError(
            f"'{folder}' has format {config.get('format')!r}, and this version of "
            f"diffqa_features reads {FORMAT}. Load it with the version that wrote it: "
            f"{config.get('library', 'unknown')}."
        )
    for key, kind in _OBJECTS.items():
        if not isinstance(config.get(key), kind):
            raise ValueError(
                f"'{folder}': the configuration must have {key!r}, a JSON "
                f"{'string' if kind is str else 'object'}. Got "
                f"{config.get(key)!r:.60} instead. Restore it from a copy."
            )
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise ValueError(
                f"{path}: {name!r} holds NaN or infinity, and so would every "
                "prediction. Restore it from a copy, or fit again."
            )
    return config, weights


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def _read_config(path):
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return None
