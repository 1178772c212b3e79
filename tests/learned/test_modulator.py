"""The temporal quality modulator against the released code and plain attention."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from full_size import UNETS
from golden_unet import recipe
from torch import nn

from diffqa_features._backbone.blocks import Block, list_blocks
from diffqa_features.learned.genzvqa.modulator import TemporalModulator, normalise

GOLDEN = Path(__file__).parents[1] / "data" / "tqm.npz"


def released_name(block):
    """``down_block_0_attn_1``, as the released code calls it."""
    level, _, layer = block.name.partition(".")
    level = level.replace("down", "down_block_").replace("up", "up_block_")
    return f"{level.replace('mid', 'mid_block')}_attn_{layer}"


@pytest.fixture(scope="module")
def sd21_blocks():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS["sd21-base"])
    return list_blocks(dict(unet.config))


def make(blocks, widths=(2048, 256), scale="multiply", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TemporalModulator(blocks, *widths, scale, generator)


def test_agrees_with_the_released_modulator(sd21_blocks):
    modulator = make(sd21_blocks)
    golden = np.load(GOLDEN, allow_pickle=False)
    assert [block.channels for block in sd21_blocks] == golden["blocks"].tolist()

    def fill(parameter, name, fan):
        parameter.data = recipe(name, parameter.shape, fan)

    queries = []
    for index, block in enumerate(sd21_blocks):
        inner, released = block.name.replace(".", "_"), released_name(block)
        for path, width in (("slow", 2048), ("fast", 256)):
            keys = getattr(modulator, path)[inner]
            name = f"{path}.{released}"
            for layer, fan in (("down", width), ("up", 64)):
                linear = getattr(keys, layer)
                fill(linear.weight, f"{name}.k_{layer}.weight", fan)
                fill(linear.bias, f"{name}.k_{layer}.bias", 100)
            keys.norm_weight.data = torch.ones(width)
            fill(keys.norm_bias, f"{name}.norm.bias", 100)
        gamma = modulator.gamma[inner]
        fill(gamma.weight, f"gamma.{released}.weight", 2)
        fill(gamma.bias, f"gamma.{released}.bias", 100)
        gamma.bias.data += 1
        frames = [
            recipe(f"q{frame}_{index}", (2, block.channels), 1) for frame in range(3)
        ]
        queries.append(torch.stack(frames).mean((0, 1))[None])
    slow = normalise(recipe("slow_features", (2, 2048), 1))[None]
    fast = normalise(recipe("fast_features", (3, 256), 1))[None]
    with torch.no_grad():
        gammas = modulator(queries, slow, fast)[0]
    np.testing.assert_allclose(gammas, golden["gamma"], rtol=1e-3)


def test_size_on_stable_diffusion(sd21_blocks):
    count = sum(p.numel() for p in make(sd21_blocks).parameters())
    assert count == 4_057_520


BLOCKS = (Block("down0.1", "a", 12, 3), Block("mid.0", "b", 8, 2))


@pytest.mark.parametrize("scale", ["multiply", "divide"])
def test_is_attention_written_out(scale):
    """Every frame, prompt, head and clip for itself, with layers of PyTorch."""
    modulator = make(BLOCKS, (6, 5), scale)
    with torch.no_grad():
        for parameter in modulator.parameters():
            parameter.normal_(std=0.5)
        for gamma in modulator.gamma.values():
            gamma.bias.fill_(3.0)
    motion = {"slow": torch.randn(4, 6), "fast": torch.randn(3, 5)}
    expected, means = [], []
    for block in BLOCKS:
        name, width = block.name.replace(".", "_"), block.channels // block.heads
        queries = torch.randn(2, 7, block.channels)  # prompts, frames
        means.append(queries.mean((0, 1))[None])
        seen = []
        for path, clips in motion.items():
            keys = getattr(modulator, path)[name]
            norm = nn.LayerNorm(clips.shape[1])
            norm.weight, norm.bias = keys.norm_weight, keys.norm_bias
            k = keys.up(keys.down(norm(clips)))
            k = k.view(len(clips), block.heads, width).permute(1, 2, 0)
            q = queries.view(2, 7, block.heads, width).transpose(1, 2)
            logits = q @ k[None]  # (prompts, heads, frames, clips)
            root = width**0.5
            logits = logits * root if scale == "multiply" else logits / root
            seen.append(logits.mean())
        expected.append(modulator.gamma[name](torch.stack(seen)).relu())
    with torch.no_grad():
        got = modulator(means, *(normalise(part)[None] for part in motion.values()))
    torch.testing.assert_close(got[0], torch.cat(expected).detach())
    assert (got > 0).all()


def test_begins_alive_and_without_effect():
    """Every factor is 1, and after a step every parameter has a gradient."""
    modulator = make(BLOCKS, (6, 5))
    queries = [torch.randn(3, 12), torch.randn(3, 8)]
    slow, fast = torch.randn(3, 6), torch.randn(3, 5)
    wanted = torch.randn(3, 2)
    optimizer = torch.optim.SGD(modulator.parameters(), lr=0.01)
    torch.testing.assert_close(modulator(queries, slow, fast), torch.ones(3, 2))
    for _ in range(2):
        optimizer.zero_grad()
        (modulator(queries, slow, fast) - wanted).square().sum().backward()
        optimizer.step()
    for name, parameter in modulator.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_draws_from_its_generator_only():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, again, other = (make(BLOCKS, (6, 5), seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    key = "slow.mid_0.up.weight"
    assert torch.equal(first.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_half_precision_around_it_changes_nothing():
    modulator = make(BLOCKS, (6, 5))
    with torch.no_grad():
        for gamma in modulator.gamma.values():
            gamma.weight.fill_(0.3)
    queries = [torch.randn(3, 12), torch.randn(3, 8)]
    motion = torch.randn(3, 6), torch.randn(3, 5)
    plain = modulator(queries, *motion)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(modulator(queries, *motion), plain)
