"""No hook stays on the shared UNet: after success, a bad tap, or an exception."""

import numpy as np
import pytest
import torch
from hooks import hooks_on

from diffqa_features import DiffusionQAFeatures, PromptAlignmentMaps
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.capture import Tap


@pytest.fixture
def backbone(sd1_folder):
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")
    assert hooks_on(backbone.unet) == 0
    yield backbone
    assert hooks_on(backbone.unet) == 0


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.mark.parametrize("kinds", ["alignment", "hidden", ("attended", "error")])
def test_after_success(backbone, sd1_folder, image, kinds):
    features = DiffusionQAFeatures(str(sd1_folder), kinds=kinds, image_size=64)
    features.transform([image])


def test_after_maps(backbone, sd1_folder, image):
    PromptAlignmentMaps(str(sd1_folder), image_size=64).maps([image])


def inputs(backbone):
    conditioning = backbone.condition(["photo"])
    return torch.randn(1, backbone.info.latent_channels, 8, 8), conditioning


def test_after_a_tap_that_is_not_there(backbone):
    noisy, conditioning = inputs(backbone)
    good = Tap(backbone.info.blocks[0].module, lambda hidden: None)
    with pytest.raises(AttributeError):
        backbone.run(noisy, 1, conditioning, [good, Tap("up_blocks.9", print)])


def test_after_an_exception_in_an_observer(backbone):
    noisy, conditioning = inputs(backbone)

    def fail(hidden):
        raise ZeroDivisionError

    taps = [Tap(block.module, fail) for block in backbone.info.blocks]
    with pytest.raises(ZeroDivisionError):
        backbone.run(noisy, 1, conditioning, taps)


def test_after_an_exception_inside_the_unet(backbone):
    noisy, conditioning = inputs(backbone)
    taps = [Tap(block.module, lambda hidden: None) for block in backbone.info.blocks]
    with pytest.raises(RuntimeError):
        backbone.run(noisy[:, :1], 1, conditioning, taps)


def test_after_a_bad_block(backbone, sd1_folder, image):
    features = DiffusionQAFeatures(str(sd1_folder), blocks="up9.9", image_size=64)
    with pytest.raises(ValueError, match=r"up9\.9"):
        features.transform([image])
