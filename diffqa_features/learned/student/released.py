"""The file of DP-IQA's released student -> weights under this library's names."""

from pathlib import Path

import numpy as np
import torch

from diffqa_features._backbone.tensors import check_finite
from diffqa_features._utils.files import expand_user
from diffqa_features.learned._released import read_tensors
from diffqa_features.learned.student.efficientnet import from_torchvision

_BODY = "base_model."
_HEAD = {
    "conv_transpose": "enlarge",
    "fc1": "score.0",
    "fc2": "score.2",
    "fc3": "score.4",
}


def read_released_student(path, network, config):
    """Arrays by the names of `network`; names and shapes must match exactly."""
    path = Path(expand_user(path))
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file '{path}'. Pass the student's checkpoint itself."
        )
    body, head = {}, {}
    for key, value in read_tensors(path).items():
        key = key.removeprefix("module.")  # as torch's DataParallel saves it
        part, _, kind = key.rpartition(".")
        if key.startswith(_BODY):
            body[key.removeprefix(_BODY)] = value
        elif part in _HEAD:
            head[f"head.{_HEAD[part]}.{kind}"] = value
        else:
            raise ValueError(
                f"{path} holds {key!r}, which DP-IQA's student does not have. It must "
                f"hold {_BODY}features.* and {', '.join(f'{n}.*' for n in _HEAD)}."
            )
    renamed = from_torchvision(body, config)
    found = {**{f"body.model.{k}": v for k, v in renamed.items()}, **head}
    own = network.state_dict()
    wrong = [
        name
        for name in sorted(own.keys() | found.keys())
        if name not in own or name not in found or own[name].shape != found[name].shape
    ]
    if wrong:
        raise ValueError(
            f"{path} does not fit this network: {len(wrong)} of {len(own)} tensors are "
            f"missing, too many or of another shape, first {wrong[0]!r} (in this "
            "library's names)."
        )
    return {name: _array(found[name], path, name) for name in own}


def _array(tensor, path, name):
    check_finite(tensor, path, name)
    kind = np.float32 if tensor.is_floating_point() else np.int64
    return np.ascontiguousarray(tensor.to(torch.float64).numpy(), dtype=kind)
