"""DP-IQA's network against the released code's numbers and against plain diffusers."""

import json
from types import SimpleNamespace
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_unet import make_golden_unet, recipe
from torch import nn
from torch.nn import functional as F

from diffqa_features._capture import Tap, run_unet
from diffqa_features.learned._dpiqa_network import DPIQANetwork, TextAdapter
from diffqa_features.learned._quality_decoder import QualityDecoder

FILE = Path(__file__).parent / "data" / "dpiqa.npz"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(FILE, allow_pickle=False))


def fill(module, prefix, names):
    """Recipe weights under the names of the released code."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            fan = value[0].numel() if value.ndim > 1 else 100
            value.copy_(recipe(prefix + names(name), value.shape, fan))
    return module


def close(found, expected):
    """To 1e-3 of the largest value."""
    expected = np.asarray(expected)
    error = np.abs(np.asarray(found.detach()) - expected).max()
    assert error < 1e-3 * np.abs(expected).max()


def text_names(name):
    return {"enter": "fc.0", "leave": "fc.2"}[name.split(".")[0]] + "." + name.split(".")[1]


def golden_text():
    adapter = TextAdapter(64)
    gamma = adapter.gamma
    del adapter.gamma
    fill(adapter, "text.", text_names)
    adapter.gamma = nn.Parameter(torch.full_like(gamma, 0.5))
    return adapter


def test_text_adapter_agrees_with_the_released_code(golden):
    close(golden_text()(recipe("ctx", (33, 64), 1)), golden["text"])


def test_adapters_and_hidden_states_agree_with_the_released_code(golden):
    unet = make_golden_unet(golden)
    network = DPIQANetwork(unet, recipe("ctx", (33, 64), 1), own_unet=False, factor=8, grid=16)
    network.text = golden_text()
    fill(network.adapter, "adapter.", lambda name: name)
    image = recipe("img", (1, 3, 128, 128), 4).abs().clamp(0, 1)
    maps = network.adapter(image)
    np.testing.assert_allclose([m.mean().item() for m in maps], golden["adapter_mean"], rtol=1e-3)
    np.testing.assert_allclose([m.std().item() for m in maps], golden["adapter_std"], rtol=1e-3)
    seen = {}
    network.decoder.register_forward_pre_hook(lambda _, args: seen.update(states=args[0]))
    backbone = SimpleNamespace(unet=unet, lock=threading.Lock())
    network(backbone, recipe("z_t", (1, 4, 16, 16), 1), image)
    for index, state in enumerate(reversed(seen["states"])):
        close(state[:, ::8], golden[f"up{index}"])


def decoder_names(name):
    """Names of ours -> those of the released code."""
    part, *rest, kind = name.split(".")
    if part in ("branches", "fuse"):
        index = str(int(rest[0]) + 1) if part == "branches" else "_fuse"
        layer = rest[-1]
        if layer == "conv":
            return ("fuse_conv" if part == "fuse" else f"conv{index}") + f".{kind}"
        return f"se{index}.fc.{ {'squeeze': 0, 'excite': 2}[layer] }.{kind}"
    if part == "score":
        return f"fc3.{kind}"
    return {"shrink": "conv_score", "hidden": "fc"}[part] + f"{int(rest[0]) + 1}.{kind}"


def test_decoder_agrees_with_the_released_code(golden):
    """At full size: 43 million weights."""
    decoder = fill(QualityDecoder([320, 640, 1280, 1280], 64), "qfd.", decoder_names)
    names = {decoder_names(name) for name in decoder.state_dict()}
    unused = set(json.loads(str(golden["qfd_names"]))) - names
    assert {name.split(".")[0] for name in unused} == {"bnc1", "classifier_dist"}
    shapes = {"x1": (320, 64), "x2": (640, 64), "x3": (1280, 32), "x4": (1280, 16)}
    states = [recipe(n, (1, c, side, side), 1) for n, (c, side) in shapes.items()]
    with torch.no_grad():
        quality = decoder(states)
    close(quality.maps[..., ::4, ::4], golden["qfd_map"])
    close(quality.scores, golden["qfd_score"][0])
