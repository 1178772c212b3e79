"""DP-IQA's network against the released code's numbers and against plain diffusers."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_unet import make_golden_unet, recipe
from torch import nn

from diffqa_features.learned._dpiqa_network import DPIQANetwork, TextAdapter
from diffqa_features.learned._dpiqa_released import decoder_name
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
    layer, kind = name.split(".")
    return f"{ {'enter': 'fc.0', 'leave': 'fc.2'}[layer] }.{kind}"


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
    tokens = recipe("ctx", (33, 64), 1)
    network = DPIQANetwork(unet, tokens, own_unet=False, factor=8, grid=16)
    network.text = golden_text()
    fill(network.adapter, "adapter.", lambda name: name)
    image = recipe("img", (1, 3, 128, 128), 4).abs().clamp(0, 1)
    maps = network.adapter(image)
    for statistic in ("mean", "std"):
        found = [getattr(m, statistic)().item() for m in maps]
        np.testing.assert_allclose(found, golden[f"adapter_{statistic}"], rtol=1e-3)
    seen = {}
    network.decoder.register_forward_pre_hook(
        lambda module, args: seen.update(states=args[0])
    )
    backbone = SimpleNamespace(unet=unet, lock=threading.Lock())
    network(backbone, recipe("z_t", (1, 4, 16, 16), 1), image)
    for index, state in enumerate(reversed(seen["states"])):
        close(state[:, ::8], golden[f"up{index}"])


def test_decoder_agrees_with_the_released_code(golden):
    """At full size: 43 million weights."""
    decoder = fill(QualityDecoder([320, 640, 1280, 1280], 64), "qfd.", decoder_name)
    names = {decoder_name(name) for name in decoder.state_dict()}
    unused = set(json.loads(str(golden["qfd_names"]))) - names
    assert {name.split(".")[0] for name in unused} == {"bnc1", "classifier_dist"}
    shapes = {"x1": (320, 64), "x2": (640, 64), "x3": (1280, 32), "x4": (1280, 16)}
    states = [recipe(n, (1, c, side, side), 1) for n, (c, side) in shapes.items()]
    with torch.no_grad():
        quality = decoder(states)
    close(quality.maps[..., ::4, ::4], golden["qfd_map"])
    close(quality.scores, golden["qfd_score"][0])
