"""Packed weights give the numbers of plain ones; copies and gradients know nothing."""

import copy

import pytest
import torch
from processor import needs_bfloat16_attention, needs_bfloat16_kernels

from diffqa_features._backbone import packing
from diffqa_features._backbone.backbone import Backbone
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._backbone.packing import pack_weights
from diffqa_features.evaluation._meters import CostMeter

CPU = torch.device("cpu")
PACKED = [
    pytest.param(name, marks=[needs_bfloat16_attention, needs_bfloat16_kernels])
    for name in ("sd2", "odd")
]


@pytest.fixture(scope="module", params=PACKED)
def backbones(request, model_folders):
    """Two of the same weights; the second is packed. Tests undo what they change."""
    info = describe_backbone(model_folders[request.param])
    plain, packed = (Backbone(info, CPU, torch.bfloat16) for _ in range(2))
    assert pack_weights(packed.unet, smallest=0)
    return plain, packed


def inputs(backbone, rows=2, side=16):
    generator = torch.Generator().manual_seed(0)
    shape = rows, backbone.info.latent_channels, side, side
    return torch.randn(shape, generator=generator), 50, backbone.condition(["a"])


def run(backbone, **more):
    return backbone.run(*inputs(backbone, **more)).float()


def count_packed(backbone):
    found = (packing._packed.get(module) for module in backbone.unet.modules())
    return sum(each is not None and each[1] is not None for each in found)


def test_the_numbers_are_the_same(backbones):
    """Up to another order of sums in bfloat16, at this size and then at another."""
    plain, packed = backbones
    with torch.inference_mode():
        for more in ({}, {"rows": 3}, {"side": 8}, {}):
            expected, found = run(plain, **more), run(packed, **more)
            bound = 0.02 * expected.abs().max()
            assert (found - expected).abs().max() <= bound
            assert count_packed(packed) > 20


def test_operations_are_counted(backbones):
    counts = []
    for backbone in backbones:
        noisy, t, conditioning = inputs(backbone)
        with torch.inference_mode(), CostMeter() as costs:
            backbone.run(noisy, t, conditioning)
        counts.append(costs.of(None)["gmac"])
    assert counts[0] == pytest.approx(counts[1], rel=1e-12)


def test_changed_weights_are_packed_again(backbones):
    with torch.inference_mode():
        before = [run(backbone) for backbone in backbones]
    scale_weights(backbones, 2)
    with torch.inference_mode():
        plain, packed = (run(backbone) for backbone in backbones)
    scale_weights(backbones, 0.5)
    assert (plain - before[0]).abs().max() > 0.1
    assert (packed - plain).abs().max() <= 0.02 * plain.abs().max()


def scale_weights(backbones, factor):
    for backbone in backbones:
        with torch.no_grad():
            backbone.unet.conv_in.weight.mul_(factor)
            backbone.unet.time_embedding.linear_1.weight.mul_(factor)


def test_a_trained_copy_uses_its_own_weights(backbones):
    plain, packed = backbones
    noisy, t, conditioning = inputs(plain)
    with torch.no_grad():
        run(packed)
        plain, packed = (copy.deepcopy(backbone.unet) for backbone in backbones)
        for factor in (1, 2):
            for each in (plain, packed):
                each.conv_out.weight.data = each.conv_out.weight.data * factor
            expected, found = (
                backbones[0].run(noisy, t, conditioning, unet=each)
                for each in (plain, packed)
            )
            assert torch.equal(found, expected)


def test_gradients_pass(backbones):
    _, packed = backbones
    with torch.no_grad():
        run(packed)
    noisy, t, conditioning = inputs(packed)
    noisy.requires_grad_()
    packed.run(noisy, t, conditioning).float().square().sum().backward()
    assert noisy.grad.abs().sum() > 0


def test_small_networks_are_left_alone(sd1_folder):
    backbone = Backbone(describe_backbone(sd1_folder), CPU, torch.bfloat16)
    assert {type(m) for m in backbone.unet.modules()} >= {torch.nn.Linear}
    assert count_packed(backbone) == 0
