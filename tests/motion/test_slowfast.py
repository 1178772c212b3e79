"""The two-pathway network against numbers of the public implementation."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diffqa_features.motion._slowfast import (
    MEAN,
    R50,
    STD,
    TINY,
    SlowFast,
    slow_frames,
)

GOLDEN = Path(__file__).parents[1] / "data" / "slowfast_r50.npz"


def recipe(name, shape, fan):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator) * fan**-0.5


def recipe_weights(network):
    """Numbers by name: half the fan-in for matrices, ones for scales, else 100."""
    weights = {}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            weights[name] = value
        elif value.ndim > 1:
            weights[name] = recipe(name, value.shape, value[0].numel() / 2)
        elif name.endswith(("weight", "running_var")):
            weights[name] = torch.ones_like(value)
        else:
            weights[name] = recipe(name, value.shape, 100)
    return weights


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def network():
    made = SlowFast(R50).eval()
    made.load_state_dict(recipe_weights(made))
    return made


def test_names_are_those_of_the_public_checkpoint(network, golden):
    assert list(network.state_dict()) == golden["names"].tolist()


def test_slow_frames_are_those_of_the_public_checkpoint(golden):
    assert slow_frames(32).tolist() == golden["slow_index"].tolist()


def test_golden_features(network, golden):
    pixels = recipe("clip", (1, 3, 32, 64, 64), 1) * STD + MEAN
    with torch.inference_mode():
        slow, fast = network(pixels)
    for mine, theirs in ((slow, golden["slow"]), (fast, golden["fast"])):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-3, atol=1e-5 * scale)


def test_golden_features_need_every_part(network, golden):
    """What the tolerance would not forgive: a lateral connection that is cut."""
    fusion = network.blocks[3].multipathway_fusion.norm
    kept = fusion.weight.detach().clone()
    try:
        with torch.inference_mode():
            fusion.weight.mul_(0)
            slow, _ = network(recipe("clip", (1, 3, 32, 64, 64), 1) * STD + MEAN)
    finally:
        fusion.weight.data.copy_(kept)
    assert np.abs(slow.numpy() / np.maximum(golden["slow"], 1) - 1).max() > 1e-2


def test_half_precision_is_close(network):
    pixels = torch.rand(1, 3, 32, 32, 32)
    with torch.inference_mode():
        exact = torch.cat(network(pixels), 1)
        network.to(torch.bfloat16)
        try:
            rough = torch.cat(network(pixels), 1)
        finally:
            network.float()
    assert rough.dtype == torch.float32  # pooled in float32
    assert nn.functional.cosine_similarity(exact, rough).item() > 0.99


class TestFlow:
    """What the fast pathway of the tiny network is shown."""

    @pytest.fixture
    def texture(self):
        rng = np.random.default_rng(0)
        coarse = torch.from_numpy(rng.random((1, 1, 24, 24), np.float32))
        return nn.functional.interpolate(coarse, (96, 96), mode="bicubic")[0, 0]

    def inputs(self, frames):
        from diffqa_features.motion._slowfast import _luma_and_flow

        clips = torch.stack(frames).expand(3, -1, -1, -1)[None]
        return _luma_and_flow(clips)[0]

    @pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (-1, 0), (1, -1)])
    def test_it_points_where_the_picture_moves(self, texture, dx, dy):
        frames = [texture.roll((t * dy, t * dx), (0, 1)) for t in range(8)]
        flow = self.inputs(frames)[2:, 1:, 8:-8, 8:-8].mean((1, 2, 3)).numpy()
        cosine = flow @ [dx, dy] / np.linalg.norm(flow) / np.hypot(dx, dy)
        assert cosine > 0.9

    def test_what_does_not_move_is_exactly_zero(self, texture):
        inputs = self.inputs([texture] * 8)
        assert inputs[1:].abs().max() == 0

    def test_the_first_frame_has_no_motion(self, texture):
        frames = [texture, texture.roll(2, 0)]
        inputs = self.inputs(frames)
        assert inputs[1:, 0].abs().max() == 0
        assert inputs[1:, 1].abs().max() > 0.5


def test_tiny_has_the_channels_that_it_says():
    network = SlowFast(TINY).eval()
    slow, fast = network(torch.rand(2, 3, 32, 96, 96))
    assert (slow.shape, fast.shape) == ((2, 64), (2, 32))
    assert TINY.channels == (64, 32)
    assert R50.channels == (2048, 256)
