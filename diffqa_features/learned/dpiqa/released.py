"""A checkpoint from DP-IQA's authors -> weights under this library's names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffqa_features._utils.files import expand_user
from diffqa_features.learned._released import as_array, read_tensors
from diffqa_features.learned.dpiqa.decoder import MAPS

logger = logging.getLogger(__name__)

_TEXT = {
    "enter.weight": "fc.0.weight",
    "enter.bias": "fc.0.bias",
    "leave.weight": "fc.2.weight",
    "leave.bias": "fc.2.bias",
}


class ReleasedTeacher:
    """A state dict of the whole model.

    Its parts are found by their tensor names and shapes, regardless of the attribute
    they were saved under. Everything not needed (the VAE, the UNet's output
    convolution, unused members of the decoder) is ignored.

    Parameters
    ----------
    path : str or path
        Written by ``torch.save``; only tensors are read.
    """

    def __init__(self, path):
        self.path = Path(expand_user(path))
        if not self.path.is_file():
            raise FileNotFoundError(
                f"There is no file '{self.path}'. Pass the authors' checkpoint, such "
                "as koniq_model_plcc_best.pth."
            )
        self._tensors = read_tensors(self.path)
        if not isinstance(self._tensors, Mapping):
            raise ValueError(f"{self.path} is no state dict.")
        self._taken: set[str] = set()

    def sizes(self) -> tuple[int, int]:
        """Grid and width of the decoder."""
        fuse, first = self._one("fuse_conv.weight"), self._one("fc1.weight")
        grid = round((first.shape[1] / MAPS) ** 0.5)
        return grid, fuse.shape[0]

    def weights(self, wanted: Mapping[str, tuple]) -> dict[str, np.ndarray]:
        """Arrays under our names; `wanted` maps these names to their shapes."""
        parts: dict[str, dict] = {}
        for name, shape in wanted.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tuple(shape)
        gamma = self._gamma(parts["text"].pop("gamma"))
        names = {
            "unet": dict.fromkeys(parts.get("unet", ())),
            "adapter": dict.fromkeys(parts["adapter"]),
            "text": _TEXT,
            "decoder": {name: decoder_name(name) for name in parts["decoder"]},
        }
        weights = {"text.gamma": gamma}
        for part, shapes in parts.items():
            theirs = {name: names[part][name] or name for name in shapes}
            prefix = self._prefix(
                part, {theirs[name]: shape for name, shape in shapes.items()}
            )
            for name in shapes:
                weights[f"{part}.{name}"] = self._array(prefix + theirs[name])
        left = sorted(set(self._tensors) - self._taken)
        logger.info("%d tensors of %s are not used.", len(left), self.path)
        return weights

    def _prefix(self, part, shapes):
        """Name prefix of a part: the one under which all tensors exist and match."""
        probe = next(iter(shapes))
        prefixes = {
            key.removesuffix(probe)
            for key in self._tensors
            if key == probe or key.endswith(f".{probe}")
        }

        def wrong(prefix):
            return [
                prefix + name
                for name, shape in shapes.items()
                if prefix + name not in self._tensors
                or tuple(self._tensors[prefix + name].shape) != shape
            ]

        found = sorted((wrong(prefix) for prefix in prefixes), key=len)
        if not found or found[0]:
            first = found[0][0] if found else probe
            raise ValueError(
                f"{self.path} does not hold the {part} of a DP-IQA teacher on this "
                f"backbone: {len(found[0]) if found else 'all'} of its weights are "
                f"missing or of another shape, first {first!r}. Load it with the "
                "backbone that it was trained on."
            )
        return min(prefix for prefix in prefixes if not wrong(prefix))

    def _gamma(self, shape):
        for key, value in self._tensors.items():
            if key.split(".")[-1] == "gamma" and tuple(value.shape) == shape:
                return self._array(key)
        raise ValueError(
            f"{self.path} holds no 'gamma' of shape {shape}, as the text adapter of a "
            "DP-IQA teacher on this backbone has."
        )

    def _one(self, name):
        for key, value in self._tensors.items():
            if key == name or key.endswith(f".{name}"):
                return value
        raise ValueError(
            f"{self.path} holds no {name!r}: it is no checkpoint of a DP-IQA teacher."
        )

    def _array(self, key):
        self._taken.add(key)
        return as_array(self._tensors[key], self.path)


def decoder_name(name: str) -> str:
    """A weight of our decoder -> its name in the authors' decoder."""
    part, *rest, kind = name.split(".")
    if part == "score":
        return f"fc3.{kind}"
    if part in ("shrink", "hidden"):
        return f"{'conv_score' if part == 'shrink' else 'fc'}{int(rest[0]) + 1}.{kind}"
    number = "_fuse" if part == "fuse" else str(int(rest[0]) + 1)
    if rest[-1] == "conv":
        return f"fuse_conv.{kind}" if part == "fuse" else f"conv{number}.{kind}"
    return f"se{number}.fc.{ {'squeeze': 0, 'excite': 2}[rest[-1]] }.{kind}"
