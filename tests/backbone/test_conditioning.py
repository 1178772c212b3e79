"""`Backbone.run` and what it is told: rows, against the UNet called by hand."""

import threading

import pytest
import torch

from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.capture import Tap
from diffqa_features._backbone.conditioning import Conditioning


@pytest.fixture
def backbone(model_folder):
    return load_backbone(str(model_folder), "cpu", "float32")


def draw(backbone, rows):
    return torch.randn(rows, backbone.info.latent_channels, 8, 8)


def test_rows_of_a_conditioning(backbone):
    told = backbone.condition(["Good photo.", "Bad photo.", ""])
    assert len(told) == 3
    for index in (0, 2, -1):
        assert torch.equal(told[index].states, told.states[index][None])
        assert torch.equal(told[index].content, told.content[index][None])
    turned = Conditioning.stack([told[2], told[:2]])
    assert torch.equal(turned.states, told.states[[2, 0, 1]])
    assert torch.equal(turned.content, told.content[[2, 0, 1]])
    twice = told[:2].repeat(2)
    assert torch.equal(twice.states, told.states[[0, 1, 0, 1]])
    assert torch.equal(twice.content, told.content[[0, 1, 0, 1]])
    assert torch.equal(told[1].expand(3).states, told.states[[1, 1, 1]])
    half = told.to(torch.float16)
    assert (half.states.dtype, half.content.dtype) == (torch.float16, torch.bool)
    bare = Conditioning(told.states)
    assert bare.repeat(2).content is bare[0].content is None
    assert Conditioning.stack([bare, bare]).content is None


@torch.inference_mode()
def test_a_pass_is_the_unets_own(backbone):
    """One row for all, a row each, timesteps of each, and what ends early."""
    noisy = draw(backbone, 2)
    told = backbone.condition(["Good photo.", "Bad photo."])
    times = torch.tensor([3, 700])
    plain = backbone.unet(noisy, times, told.states).sample
    assert torch.equal(backbone.run(noisy, times, told), plain)
    shared = backbone.unet(noisy, 50, told.states[[1, 1]]).sample
    assert torch.equal(backbone.run(noisy, 50, told[1]), shared)
    assert torch.equal(
        backbone.run(noisy.double(), 50, told[1].to(torch.float64)), shared
    )
    seen = []
    taps = [Tap(backbone.info.blocks[0].module, seen.append)]
    assert backbone.run(noisy, 50, told, taps, whole=False) is None
    assert len(seen) == 1
    with pytest.raises(RuntimeError, match="expand"):
        backbone.run(draw(backbone, 3), 50, told)


def test_the_lock_is_free_for_the_same_thread_and_held_for_others(backbone):
    """While a tap looks, no other thread enters; afterwards each may."""
    inside, entered = [], []

    def other():
        got = backbone.lock.acquire(timeout=0.05)
        entered.append(got)
        if got:
            backbone.lock.release()

    def look(hidden):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        inside.append(hidden)

    taps = [Tap(backbone.info.blocks[0].module, look)]
    with torch.inference_mode():
        backbone.run(draw(backbone, 1), 50, backbone.condition([""]), taps)
    other()
    assert (len(inside), entered) == (1, [False, True])
