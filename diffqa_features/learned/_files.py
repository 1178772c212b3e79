"""A fitted learned regressor -> config.json and model.safetensors, and back."""

import hashlib
import json
import logging
import os
import uuid
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator

logger = logging.getLogger(__name__)

FORMAT = 2
"""Raised whenever the files change their meaning."""

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
# What belongs to a machine, or to where training began, and not to a model.
_LOCAL = (
    "memory", "checkpoint_dir", "device", "verbose", "init_from", "teacher",
    "controller",
)  # fmt: skip


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
        config, weights = load(folder)
        if config["estimator"] != cls.__name__:
            raise ValueError(
                f"'{folder}' holds a {config['estimator']}, not a {cls.__name__}. Load "
                f"it with {config['estimator']}.from_pretrained."
            )
        estimator = cls(**{**config["parameters"], **parameters})
        architecture = cls(**config["parameters"])._architecture()
        estimator._restore_files(weights, config, architecture)
        estimator._check_fitted()
        return estimator

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

    folder = Path(folder).expanduser()
    config = {"format": FORMAT, **config}
    inner = json.dumps(config, sort_keys=True, allow_nan=False)
    content = to_bytes(weights, metadata={"config": inner})
    outer = {**config, "weights_sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(outer, indent=2, allow_nan=False) + "\n"
    write_whole(folder / _WEIGHTS, lambda file: file.write(content))
    write_whole(folder / _CONFIG, lambda file: file.write(text.encode()))


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
        inner = json.loads(content[8 : 8 + length]).get("__metadata__", {})["config"]
    except (SafetensorError, ValueError, KeyError) as error:
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
        config = json.loads(inner)
    if config.get("format") != FORMAT:
        raise ValueError(
            f"'{folder}' has format {config.get('format')!r}, and this version of "
            f"diffqa_features reads {FORMAT}. Load it with the version that wrote it: "
            f"{config.get('library', 'unknown')}."
        )
    return config, weights


def write_whole(path, write):
    """Write a file so that under its name there is always a whole one, old or new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        with beside.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def _read_config(path):
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return config if isinstance(config, dict) else None
