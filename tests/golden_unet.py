"""The UNet of the reference numbers: every tensor is a function of its name."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

_FILE = Path(__file__).parent / "data" / "genziqa_unet.npz"


def load_golden():
    """Numbers of the authors' released GenzIQA on recipe weights."""
    return np.load(_FILE, allow_pickle=False)


def recipe(name, shape, fan):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator) * fan**-0.5


def make_golden_unet(golden):
    unet = UNet2DConditionModel(**json.loads(str(golden["config"]))).eval()
    state = {}
    for name, value in unet.state_dict().items():
        if value.ndim > 1:
            fan = value[0].numel()
            state[name] = recipe(name, value.shape, fan)
        elif "norm" in name and name.endswith("weight"):
            state[name] = torch.ones(value.shape)
        else:
            state[name] = recipe(name, value.shape, 100)
    assert sorted(state) == sorted(json.loads(str(golden["param_names"])))
    unet.load_state_dict(state)
    return unet.requires_grad_(False)
