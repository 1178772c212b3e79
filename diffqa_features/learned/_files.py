"""A fitted learned estimator -> config.json and model.safetensors, and back."""

import hashlib
import json
import logging
import os
import tempfile
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator

from diffqa_features._backbone.hub import is_hub_id
from diffqa_features._backbone.settings import (
    FITTED,
    check_settings,
    parse_json,
    read_json,
)
from diffqa_features._utils.files import (
    expand_user,
    local_path,
    one_writer,
    write_whole,
)
from diffqa_features._utils.parameters import LOCAL

logger = logging.getLogger(__name__)

FORMAT = 2
"""Raised whenever the files change their meaning."""

_OBJECTS = {"estimator": str, "parameters": dict, "fitted": dict}
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
# What belongs to a machine, or to where training began, and not to a model: neither
# written into its files nor, where somebody else wrote them, taken from there.
_LOCAL = LOCAL | {"init_from", "teacher", "controller"}
_SIZES = (
    "n_context", "lora_rank", "width", "decoder_width", "patch_size", "mamba_width",
    "mamba_layers", "mamba_state",
)  # fmt: skip
_LARGE = 4096  # a size that needs weights of that size to show for it


class SavedModel(BaseEstimator):
    """Mixin: weights that can be saved and loaded; it has no constructor."""

    def save_pretrained(self, folder):
        """Save the trained weights: `config.json` and `model.safetensors`.

        The backbone itself is not saved, only its name and fingerprint; a teacher is
        not saved at all. A crash leaves either the old files or the new ones, never a
        mixture.

        Parameters
        ----------
        folder : str or path
            Created if necessary; existing files of these names are replaced.
        """
        from diffqa_features import __version__

        origin = self._origin()
        parameters = self.get_params(deep=False)
        config = {
            "library": f"diffqa_features {__version__}",
            "estimator": type(self).__name__,
            "parameters": {
                name: plain(self._value(name))
                for name in parameters
                if name not in _LOCAL
            },
            **origin,
            "fitted": {name: getattr(self, name) for name in self._FITTED},
        }
        save(folder, config, self.weights_)

    def push_to_hub(self, repo_id, *, card="", licence="other", private=None):
        """Save to a repository of the Hugging Face hub, with a model card.

        Parameters
        ----------
        repo_id : str
            ``"owner/name"``, created if necessary. ``HF_TOKEN`` and ``HF_ENDPOINT``
            work as usual.
        card : str, default=""
            Markdown for the model card: training data, split, figures with intervals,
            and what is known to fail. The rest is written from the estimator.
        licence : str, default="other"
            The hub's name of a licence, such as ``"apache-2.0"``.
        private : bool, default=None
            Whether a repository that is created is private; None is the owner's
            default.

        Returns
        -------
        str
            Address of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        with tempfile.TemporaryDirectory(prefix="diffqa-") as folder:
            self.save_pretrained(folder)
            # In full: "name" alone is one of the owner of the token.
            created = api.create_repo(repo_id, private=private, exist_ok=True)
            repo_id = created.repo_id
            text = model_card(self, repo_id, card, licence)
            Path(folder, "README.md").write_text(text, encoding="utf-8")
            message = f"{type(self).__name__} by diffqa_features"
            info = api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=message
            )
        return info.commit_url

    @classmethod
    def from_pretrained(cls, folder, **parameters):
        """Load an estimator saved by `save_pretrained`.

        Parameters
        ----------
        folder : str or path
            Folder with the two files, or a repository of the Hugging Face hub,
            ``"owner/name"`` or ``"owner/name@revision"``, of which these two are read.
            A folder of that name comes first.
        **parameters : object
            Parameters that override the saved ones, such as `backbone` (another
            location of the same model), `device` or `memory`. The last two, and
            everything else specific to a machine, are never read from the files.

        Returns
        -------
        object
            A fitted estimator with the same output as the saved one.

        Raises
        ------
        ValueError
            If the files are corrupt or belong to another estimator, or the backbone is
            not the one used in training.
        OSError
            If the files or the backbone cannot be found.

        Notes
        -----
        Untrusted files run no code. They do name the models they were trained on
        (`backbone` and, if the estimator has them, `vae`, `motion_network`,
        `text_model` and `network`): an alias, a hub id, which may trigger a download,
        or a folder. Pass these parameters to choose them yourself.
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

    def _value(self, name):
        """A parameter, or what its None stands for: files store what was used."""
        return getattr(self, name)

    def _check_saved(self, weights, config, folder):
        """Reject what `save_pretrained` would not write, before building anything."""
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
        """Other models that the weights depend on; checks that they exist."""
        self._check_fitted()
        return {}

    def _restore_files(self, weights, config, architecture):
        self._set_fitted(weights, config["fitted"], architecture)


def plain(value):
    """A parameter as a JSON value."""
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
    """Write both files so that a crash at any moment leaves a loadable model.

    The weights file contains the configuration too and is written first. If a crash
    leaves a configuration file that does not match it, the embedded one is used.
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
    """Configuration and weights of a folder, guaranteed to belong together."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    folder = _find(folder)
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
    config, digest = _read_config(folder / _CONFIG), _sha256(content)
    if config is None or config.get("weights_sha256") != digest:
        logger.warning(
            "%s is not the one that was saved with the weights beside it, as after a "
            "crash; the weights' own copy is used.",
            folder / _CONFIG,
        )
        config = {**inner, "weights_sha256": digest}
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
        # Others would be rounded to fit, without a word. A single integer counts the
        # batches that a normalisation has seen.
        counts = value.dtype == np.int64 and value.size == 1
        if value.dtype.kind != "f" and not counts:
            raise ValueError(
                f"{path}: {name!r} is of type {value.dtype}, and weights are floats. "
                "Dequantize and save them first, or restore the file from a copy."
            )
        if not counts:  # files may be in half or double precision
            with np.errstate(over="ignore"):
                value = weights[name] = value.astype(np.float32, copy=False)
        if not np.isfinite(value).all():
            raise ValueError(
                f"{path}: {name!r} holds NaN or infinity, or more than float32 can, "
                "and so would every prediction. Restore it from a copy, or fit again."
            )
    return config, weights


def _find(folder):
    """The folder of a saved model, which may be a repository of the hub."""
    path, text = Path(expand_user(folder)), os.fspath(folder)
    if path.exists() or not isinstance(text, str) or not is_hub_id(text):
        return path
    from huggingface_hub import snapshot_download

    name, _, revision = text.partition("@")
    try:
        return Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=[_CONFIG, _WEIGHTS]
            )
        )
    # What its transport raises differs between its versions.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise OSError(
            f"There is no folder '{path}', and the hub does not give {text!r}: "
            f"{reason} Download it with 'hf download {name}' and pass that folder."
        ) from error


def model_card(model, name, text, licence):
    """A model card: what the hub reads, then what a reader wants to know."""
    from huggingface_hub import ModelCardData

    tags = ["image-quality-assessment", "no-reference", "diffusion", "scikit-learn"]
    about = ModelCardData(library_name="diffqa_features", license=licence, tags=tags)
    origin = model._origin()
    parameters = {
        key: value
        for key, value in model.get_params(deep=False).items()
        if key not in _LOCAL
    }
    kind = type(model).__name__
    lines = [
        "---",
        about.to_yaml(),
        "---",
        "",
        f"# {name.rpartition('/')[2]}",
        "",
        f"A `{kind}` of diffqa_features, for no-reference quality assessment. "
        "Predictions are in the units and the direction of the scores that it was "
        f"trained on{_range_of(model)}, and are not clipped to their range.",
        "",
        "```python",
        f"from diffqa_features import {kind}",
        "",
        f'model = {kind}.from_pretrained("{name}")',
        'model.predict(["photo.jpg"])',
        "```",
        "",
        text.strip()
        or "No data, split or figures are stated. Do not trust it blindly.",
        "",
        "## Parameters",
        "",
        # As code of several lines, which text in them cannot end.
        "```text",
        *(
            f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}"
            for key, value in [*sorted(parameters.items()), *sorted(origin.items())]
        ),
        "```",
        "",
    ]
    return "\n".join(lines)


def _range_of(model):
    found = getattr(model, "target_range_", None)
    return "" if found is None else ", {:g} to {:g}".format(*found)


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def _read_config(path):
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return None
