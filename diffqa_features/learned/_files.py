"""A fitted learned regressor -> config.json and model.safetensors, and back."""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np

from diffqa_features._backbone.settings import parse_json, read_json
from diffqa_features._utils.files import local_path, one_writer, write_whole

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised whenever the files change their meaning."""

_OBJECTS = {"estimator": str, "parameters": dict, "fitted": dict}
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


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
