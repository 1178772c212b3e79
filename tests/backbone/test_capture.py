"""`Backbone.run` against the authors' numbers, eager attention, and plain hooks."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from golden_unet import load_golden, make_golden_unet, recipe

from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.blocks import list_blocks
from diffqa_features._backbone.capture import Tap, run_unet
from diffqa_features._backbone.conditioning import Conditioning
from diffqa_features._engine import pooling


@pytest.fixture(scope="module")
def golden():
    return load_golden()


@pytest.fixture(scope="module")
def golden_unet(golden):
    return make_golden_unet(golden)


def observe_golden(unet, golden):
    """Queries and alignment per block under both prompts, and the predictions."""
    noisy = recipe("z_t", (1, 4, 16, 16), 1)
    told = Conditioning(recipe("ctx", (2, 77, 64), 1))
    queries, alignments = {}, {}
    taps = []
    for block in list_blocks(dict(unet.config)):
        taps.append(
            Tap(f"{block.module}.to_q", lambda q, b=block: queries.update({b.name: q}))
        )
        taps.append(
            Tap(
                f"{block.module}.to_k",
                lambda k, b=block: alignments.update(
                    {b.name: pooling.alignment(queries[b.name], k, b.heads)}
                ),
            )
        )
    output = run_unet(unet, noisy.expand(2, -1, -1, -1), 57, told, taps)
    return queries, alignments, output


def test_agrees_with_the_released_genziqa(golden_unet, golden):
    with torch.inference_mode():
        queries, alignments, output = observe_golden(golden_unet, golden)
    noise = recipe("eps", (1, 4, 16, 16), 1)
    totals = pooling.error_spectrum(output, noise.expand(2, -1, -1, -1))[:, -1]
    bias = (totals[0] - totals[1]).item() * noise.numel() ** 0.5
    assert bias == pytest.approx(float(golden["bias_0"][0]), abs=1e-4)
    scores = [values.mean().item() + bias for values in alignments.values()]
    np.testing.assert_allclose(scores, golden["score_0"], atol=1e-4)
    for index, q in enumerate(queries.values()):
        expected = golden[f"query_0_{index:02d}"]
        pooled = pooling.pool_space(q, ("mean",))[:, 0]
        np.testing.assert_allclose(pooled, expected, atol=1e-4)
    np.testing.assert_allclose(output[:1].flatten(1), golden["eps_good_0"], atol=1e-4)
    np.testing.assert_allclose(output[1:].flatten(1), golden["eps_bad_0"], atol=1e-4)


def make_inputs(backbone, rows=2, side=16):
    channels = backbone.info.latent_channels
    conditioning = backbone.condition(["a sharp photo."] * rows)
    return torch.randn(rows, channels, side, side), conditioning


def test_observing_leaves_the_output_bit_identical(model_folder):
    backbone = load_backbone(str(model_folder), "cpu", "float32")
    noisy, conditioning = make_inputs(backbone)
    seen = []
    taps = [Tap(b.module, seen.append) for b in backbone.info.blocks]
    taps += [Tap(f"{b.module}.to_q", seen.append) for b in backbone.info.blocks]
    with torch.inference_mode():
        states = conditioning.states
        plain = backbone.unet(noisy, 50, encoder_hidden_states=states).sample
        observed = backbone.run(noisy, 50, conditioning, taps)
        again = backbone.unet(noisy, 50, encoder_hidden_states=states).sample
    assert len(seen) == len(taps)
    assert torch.equal(plain, observed)
    assert torch.equal(plain, again)


class Eager(AttnProcessor):
    """diffusers' own eager attention, keeping its softmaxed weights."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def __call__(self, attn, *args, **kwargs):
        original = attn.get_attention_scores

        def keep(*scores_args, **scores_kwargs):
            scores = original(*scores_args, **scores_kwargs)
            self.kept.append(scores)
            return scores

        attn.get_attention_scores = keep
        try:
            return super().__call__(attn, *args, **kwargs)
        finally:
            del attn.get_attention_scores


def test_maps_are_the_eager_processors_attention(model_folder):
    backbone = load_backbone(str(model_folder), "cpu", "float32")
    noisy, conditioning = make_inputs(backbone)
    states, content = conditioning.states, conditioning.content
    maps, queries = {}, {}
    taps = []
    for block in backbone.info.blocks:
        taps.append(
            Tap(f"{block.module}.to_q", lambda q, b=block: queries.update({b.name: q}))
        )
        taps.append(
            Tap(
                f"{block.module}.to_k",
                lambda k, b=block: maps.update(
                    {
                        b.name: pooling.attention_maps(
                            queries[b.name], k, b.heads, content, signed=False
                        )
                    }
                ),
            )
        )
    unet = UNet2DConditionModel.from_pretrained(Path(model_folder) / "unet").eval()
    processors = {}
    for block in backbone.info.blocks:
        processors[block.name] = Eager()
        unet.get_submodule(block.module).set_processor(processors[block.name])
    with torch.inference_mode():
        backbone.run(noisy, 50, conditioning, taps)
        unet(noisy, 50, encoder_hidden_states=states)
    for block in backbone.info.blocks:
        (weights,) = processors[block.name].kept  # (B * heads, HW, L)
        weights = weights.unflatten(0, (len(noisy), block.heads)).mean(1)
        expected = (weights * content[:, None]).sum(-1) / content.sum(1)[:, None]
        torch.testing.assert_close(maps[block.name], expected, rtol=1e-4, atol=1e-6)


def test_stops_after_the_last_needed_module_in_execution_order(sd1_folder):
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")
    noisy, conditioning = make_inputs(backbone)
    unet, reached = backbone.unet, []
    handles = [
        unet.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: reached.append(name)
        )
        for name in ("mid_block", "up_blocks.0", "conv_out")
    ]
    try:
        with torch.inference_mode():
            # mid_block is registered behind up_blocks, but runs before them.
            middle = [Tap("mid_block", lambda hidden: None)]
            assert backbone.run(noisy, 50, conditioning, middle, whole=False) is None
            assert reached == ["mid_block"]
            reached.clear()
            assert backbone.run(noisy, 50, conditioning, middle) is not None
            assert reached == ["mid_block", "up_blocks.0", "conv_out"]
    finally:
        for handle in handles:
            handle.remove()


def test_a_module_that_is_never_reached_is_named(sd1_folder):
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")
    noisy, conditioning = make_inputs(backbone)
    unet = backbone.unet
    spare = torch.nn.Identity()
    unet.add_module("spare", spare)
    try:
        with pytest.raises(RuntimeError, match="never reached: spare"):
            backbone.run(noisy, 50, conditioning, [Tap("spare", lambda x: None)])
    finally:
        del unet.spare


def test_two_threads_do_not_observe_each_other(sd1_folder):
    """Passes under the backbone's lock see their own tensors only."""
    from diffqa_features import DiffusionQAFeatures

    images = list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8))
    parameters = {"backbone": str(sd1_folder), "image_size": 64}
    expected = [
        DiffusionQAFeatures(**parameters, random_state=s).transform(images)
        for s in range(4)
    ]
    results = [None] * 4

    def work(seed):
        estimator = DiffusionQAFeatures(**parameters, random_state=seed)
        results[seed] = estimator.transform(images)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-6)
