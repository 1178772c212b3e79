"""A name -> an EfficientNet from transformers, and weights for it."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import torch
from torch import nn

from diffqa_features._backbone.settings import EFFICIENTNET, check_settings, read_json
from diffqa_features._backbone.tensors import read_tensor_list, read_tensors
from diffqa_features._utils.files import expand_user

# name -> width, depth, side of the pictures it is meant for (of b7: DP-IQA's).
VARIANTS = {
    "efficientnet_b0": (1.0, 1.0, 224),
    "efficientnet_b1": (1.0, 1.1, 240),
    "efficientnet_b2": (1.1, 1.2, 260),
    "efficientnet_b3": (1.2, 1.4, 300),
    "efficientnet_b4": (1.4, 1.8, 380),
    "efficientnet_b5": (1.6, 2.2, 456),
    "efficientnet_b6": (1.8, 2.6, 528),
    "efficientnet_b7": (2.0, 3.1, 512),
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_UNKNOWN = (
    "The {name!r} parameter must be {allowed}a hub id 'owner/name' or a folder that "
    "exists, of an EfficientNet as transformers saves it. Got {value!r} instead."
)


class EfficientNetBody(nn.Module):
    """transformers' EfficientNetModel without its pooling.

    `symmetric` pads both sides equally, as in torchvision; otherwise the last row and
    column are padded more, as in TensorFlow, the origin of the weights on the hub. With
    the wrong padding, weights see pictures shifted by one pixel.
    """

    def __init__(self, config: dict, symmetric: bool):
        from transformers import EfficientNetConfig, EfficientNetModel

        super().__init__()
        blocks = sum(
            math.ceil(config["depth_coefficient"] * n)
            for n in config["num_block_repeats"]
        )
        if symmetric:
            config = {**config, "depthwise_padding": list(range(blocks))}
        # Nothing is dropped: that would draw from the global generator.
        config = {**config, "drop_connect_rate": 0.0, "dropout_rate": 0.0}
        self.model = EfficientNetModel(EfficientNetConfig(**config))
        if symmetric:
            self.model.embeddings.padding = nn.ZeroPad2d(1)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # The configuration has TensorFlow's number, which is 1 minus torch's.
                module.momentum = 0.1
        _draw(self.model)
        self.width = self.pooled_width = config["hidden_dim"]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels (N, 3, H, W) -> grid (N, C, H/32, W/32) and its mean (N, C)."""
        grid = self.model(pixels).last_hidden_state
        return grid, grid.mean((2, 3))


def _draw(model):
    """First weights as in torchvision: He's by fan-out, and normalisation by 1.

    transformers draws all of them with a deviation of 0.02, the factors of the
    normalisation too, by which the signal is 1e-29 after 16 blocks: nothing trains.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def find_config(network: str | os.PathLike) -> tuple[dict, int]:
    """Configuration and input size of a network."""
    name = os.fspath(network)
    if name in VARIANTS:
        width, depth, size = VARIANTS[name]
        return _config(width_coefficient=width, depth_coefficient=depth), size
    folder = _find(name, "network", f"'tiny', one of {list(VARIANTS)}, ", "config.json")
    found = read_json(folder / "config.json")
    if found.get("model_type") != "efficientnet":
        raise ValueError(
            f"{folder / 'config.json'} describes a {found.get('model_type')!r}, not an "
            "'efficientnet'."
        )
    kept = check_settings(found, EFFICIENTNET, folder / "config.json")
    size = kept.pop("image_size", 224)
    return _config(**kept), size


def checked_config(content: dict, path: Path) -> dict:
    """The configuration of a saved student, checked since the file is untrusted."""
    full = _config()
    kept = check_settings(content, EFFICIENTNET, path)
    kept.pop("image_size", None)
    return {**full, **_config(**kept)}


def read_weights(name: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Tensors of `EfficientNetModel`, from a model on the hub or in a folder.

    Only safetensors are read. An image classifier's last layer is left out.
    """
    name = os.fspath(name)
    folder = _find(name, "weights", "None, ", "model.safetensors")
    found = read_tensor_list([folder / "model.safetensors"])
    wanted = {
        key.removeprefix("efficientnet."): entry
        for key, entry in found.items()
        if not key.startswith("classifier.") and not key.endswith("num_batches_tracked")
    }
    # Copied: a view of the file would change, or crash, with the file.
    values = (value.clone() for value in read_tensors(wanted.values()))
    return dict(zip(wanted, values, strict=True))


def load_into(body: EfficientNetBody, weights: dict, source: str) -> None:
    """Load the body's weights; names and shapes must match exactly."""
    own = body.model.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    wrong = [
        key
        for key in sorted((own.keys() | weights.keys()) - counters)
        if key not in own or key not in weights or own[key].shape != weights[key].shape
    ]
    if wrong:
        raise ValueError(
            f"The weights in '{source}' are not those of this network: {len(wrong)} of "
            f"{len(own)} tensors are missing, too many or of another shape, first "
            f"{wrong[0]!r}."
        )
    kept = {key: value for key, value in weights.items() if key in own}
    body.model.load_state_dict({**own, **kept})


def from_torchvision(weights: dict[str, torch.Tensor], config: dict) -> dict:
    """Rename torchvision's tensors (`features.*`) to those of `EfficientNetModel`.

    torchvision numbers blocks within stages and layers within blocks; a block without
    expansion has one layer less. transformers numbers all blocks consecutively.
    """
    first = [0]
    for repeats in config["num_block_repeats"]:
        first.append(first[-1] + math.ceil(config["depth_coefficient"] * repeats))
    top = len(config["num_block_repeats"]) + 1
    ends = {"0.0": "embeddings.convolution", "0.1": "embeddings.batchnorm"}
    ends |= {f"{top}.0": "encoder.top_conv", f"{top}.1": "encoder.top_bn"}
    renamed = {}
    for key, value in weights.items():
        place, _, kind = key.removeprefix("features.").rpartition(".")
        if place in ends:
            renamed[f"{ends[place]}.{kind}"] = value
            continue
        match = re.fullmatch(r"(\d+)\.(\d+)\.block\.(\d)\.(\w+)", place)
        if match is None or not 0 < int(match[1]) < top:
            raise ValueError(
                f"{key!r} is no name of torchvision's EfficientNet of this size."
            )
        stage = int(match[1])
        expands = config["expand_ratios"][stage - 1] != 1
        layer = _LAYERS[expands].get(f"{match[3]}.{match[4]}")
        if layer is None:
            raise ValueError(f"{key!r} is no name of torchvision's EfficientNet.")
        block = first[stage - 1] + int(match[2])
        renamed[f"encoder.blocks.{block}.{layer}.{kind}"] = value
    return renamed


# Whether a block expands -> torchvision's layer -> transformers' layer.
_AFTER = (
    ("0", "depthwise_conv.depthwise_conv"),
    ("1", "depthwise_conv.depthwise_norm"),
    ("fc1", "squeeze_excite.reduce"),
    ("fc2", "squeeze_excite.expand"),
    ("0", "projection.project_conv"),
    ("1", "projection.project_bn"),
)
_LAYERS = {
    expands: {
        **({"0.0": "expansion.expand_conv", "0.1": "expansion.expand_bn"}
           if expands else {}),
        **{f"{place // 2 + expands}.{part}": layer
           for place, (part, layer) in enumerate(_AFTER)},
    }
    for expands in (False, True)
}  # fmt: skip


def _config(**found) -> dict:
    """The complete part of a configuration that determines the network."""
    from transformers import EfficientNetConfig

    keys = (
        "width_coefficient", "depth_coefficient", "depth_divisor", "kernel_sizes",
        "in_channels", "out_channels", "depthwise_padding", "strides",
        "num_block_repeats", "expand_ratios", "squeeze_expansion_ratio", "hidden_act",
        "batch_norm_eps",
    )  # fmt: skip
    full = EfficientNetConfig(**{k: v for k, v in found.items() if k in keys})
    config = {key: getattr(full, key) for key in keys}
    config = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
    # transformers takes the width of the last layer from here and from the
    # coefficient, and they have to agree.
    width = 1280 * config["width_coefficient"]
    divisor = config["depth_divisor"]
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    config["hidden_dim"] = rounded if rounded >= 0.9 * width else rounded + divisor
    return config


def _find(name, parameter, allowed, file) -> Path:
    """Folder with the file, local or in the hub cache."""
    folder = Path(expand_user(name))
    if folder.is_dir():
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"There is no {file} in '{folder}'. It must be a folder as "
                "EfficientNetModel.save_pretrained writes it; of weights, safetensors."
            )
        return folder
    if not _HUB_ID.fullmatch(name):
        raise ValueError(_UNKNOWN.format(name=parameter, allowed=allowed, value=name))
    from huggingface_hub import hf_hub_download

    repo, _, revision = name.partition("@")
    try:
        return Path(hf_hub_download(repo, file, revision=revision or None)).parent
    # huggingface_hub raises what its transport raises, of many types.
    except Exception as error:
        raise OSError(
            f"{file} of {name!r} is neither in the hub's cache nor could it be "
            f"downloaded ({type(error).__name__}: {error}). Download the repository "
            "elsewhere and give its folder, or unset HF_HUB_OFFLINE where there is a "
            "network."
        ) from error
