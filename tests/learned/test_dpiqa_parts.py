"""DP-IQA's network against the released code's numbers and against plain diffusers."""

import itertools
import json
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from counting import counting
from diffusers import UNet2DConditionModel
from diffusers.models.adapter import FullAdapter
from diffusers.models.modeling_utils import no_init_weights
from full_size import UNETS
from golden_unet import make_golden_unet, recipe
from hooks import hooks_on
from plain_dpiqa import PlainDPIQA, plain_name, text_name
from random_models import write_tokenizer
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from diffqa_features import FeatureStore
from diffqa_features._backbone.backbone import Backbone, load_backbone
from diffqa_features._backbone.weights import load_vae
from diffqa_features.learned._pictures import Pictures
from diffqa_features.learned.dpiqa.augmentation import vary_views
from diffqa_features.learned.dpiqa.decoder import QualityDecoder
from diffqa_features.learned.dpiqa.losses import margin_ranking_loss
from diffqa_features.learned.dpiqa.network import (
    DPIQANetwork,
    TextAdapter,
    default_width,
)
from diffqa_features.learned.dpiqa.prompts import (
    DISTORTIONS,
    QUALITIES,
    SCENES,
    encode_prompts,
    make_prompts,
)
from diffqa_features.learned.dpiqa.released import decoder_name

FILE = Path(__file__).parents[1] / "data" / "dpiqa.npz"


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


def close(found, expected, noise=0.0):
    """To 1e-3 of the largest value, unless it is noise."""
    expected = np.asarray(expected)
    error = np.abs(np.asarray(found.detach()) - expected).max()
    assert error <= 1e-3 * np.abs(expected).max() + noise


def golden_text():
    adapter = TextAdapter(64)
    gamma = adapter.gamma
    del adapter.gamma
    fill(adapter, "text.", text_name)
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
        expected = golden[f"adapter_{statistic}"]  # means of positive and negative
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    seen = {}
    network.decoder.register_forward_pre_hook(
        lambda module, args: seen.update(states=args[0])
    )
    backbone = SimpleNamespace(unet=unet, lock=threading.RLock(), dtype=torch.float32)
    backbone.run = partial(Backbone.run, backbone)
    network(backbone, recipe("z_t", (1, 4, 16, 16), 1), image)
    for index, state in enumerate(reversed(seen["states"])):
        close(state[:, ::8], golden[f"up{index}"])


def test_decoder_agrees_with_the_released_code(golden):
    """At full size: 43 million weights."""
    with torch.device("meta"):
        decoder = QualityDecoder([320, 640, 1280, 1280], 64)
    fill(decoder.to_empty(device="cpu"), "qfd.", decoder_name)
    names = {decoder_name(name) for name in decoder.state_dict()}
    unused = set(json.loads(str(golden["qfd_names"]))) - names
    assert {name.split(".")[0] for name in unused} == {"bnc1", "classifier_dist"}
    shapes = {"x1": (320, 64), "x2": (640, 64), "x3": (1280, 32), "x4": (1280, 16)}
    states = [recipe(n, (1, c, side, side), 1) for n, (c, side) in shapes.items()]
    with torch.no_grad():
        quality = decoder(states)
    close(quality.maps[..., ::4, ::4], golden["qfd_map"])
    close(quality.scores, golden["qfd_score"][0])


def test_parameter_counts_of_stable_diffusion():
    with torch.device("meta"), no_init_weights():
        unet = UNet2DConditionModel(**UNETS["sd15"])
        tokens = torch.empty(1485, 768)
    network = DPIQANetwork(unet, tokens, own_unet=True, factor=8, grid=64, seed=None)
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in network.named_children()
    }
    output = 2 * 320 + 9 * 320 * 4 + 4  # of the output convolution and its norm
    assert counts == {
        "text": 1_181_952,
        "adapter": 77_369_280,
        "decoder": 42_934_697,
        "unet": 859_520_964 - output,
    }
    assert default_width([32, 64, 96, 128]) == 48


# -- the same computed straight down ---------------------------------------------------


def make_network(backbone, tokens, **settings):
    factor = backbone.info.latent_factor
    settings = {"own_unet": False, "factor": factor, "grid": 64 // factor, **settings}
    return DPIQANetwork(backbone.unet, tokens, width=32, **settings)


@pytest.fixture(scope="module", params=["sd1", "sd2", "deep", "tiny"])
def plain(request, model_folders):
    """A plain teacher, what it is shown, what it says of it, and its gradients."""
    kind = request.param
    folder = "tiny" if kind == "tiny" else str(model_folders[kind])
    torch.manual_seed(0)
    backbone = load_backbone(folder, "cpu", "float32")
    info = backbone.info
    unet = UNet2DConditionModel.from_pretrained(info.folder / "unet")
    tokens = torch.randn(7, unet.config.cross_attention_dim)
    teacher = PlainDPIQA(unet.eval(), load_vae(info), tokens, 64, width=32)
    nn.init.normal_(teacher.gamma)
    pixels = torch.rand(3, 3, 64, 64)
    scores, maps = teacher(pixels)
    direction = torch.randn_like(maps)
    (scores.sum() + (direction * maps).sum()).backward()
    return SimpleNamespace(
        backbone=backbone,
        tokens=tokens,
        weights=teacher.state_dict(),
        pixels=pixels,
        scores=scores.detach(),
        maps=maps.detach(),
        direction=direction,
        gradients={name: value.grad for name, value in teacher.named_parameters()},
    )


@pytest.mark.parametrize("own_unet", [False, True])
def test_scores_maps_and_gradients_are_those_of_plain_diffusers(plain, own_unet):
    """With text that is computed once and not for each picture; `tiny` reads it twice.

    There the first layers of a block attend to the text in place of the picture.
    """
    backbone, pixels, direction = plain.backbone, plain.pixels, plain.direction
    network = make_network(backbone, plain.tokens, own_unet=own_unet, seed=None)
    weights = {
        name: plain.tokens if name == "tokens" else plain.weights[plain_name(name)]
        for name in network.state_dict()
    }
    network.load_weights({name: value.clone() for name, value in weights.items()})
    latents = backbone.encode_images(pixels)
    quality = network(backbone, latents, pixels)
    torch.testing.assert_close(quality.maps, plain.maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quality.scores, plain.scores, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        condition = network.condition_of(backbone)
        again = network(backbone, latents, pixels, condition)
    torch.testing.assert_close(again.maps, quality.maps, rtol=1e-5, atol=1e-6)
    (quality.scores.sum() + (direction * quality.maps).sum()).backward()
    for name, value in network.named_parameters():
        close(value.grad, plain.gradients[plain_name(name)], noise=1e-8)
    if own_unet:
        assert any("attn2.to_k" in name for name, _ in network.unet.named_parameters())
    assert all(value.grad is None for value in backbone.unet.parameters())
    assert hooks_on(backbone.unet) == hooks_on(network) == 0


def test_a_level_without_attention_takes_the_adapter_before_it_shrinks(odd_folder):
    """Which diffusers cannot: it would add after the downsampler, at another size."""
    backbone = load_backbone(str(odd_folder), "cpu", "float32")
    tokens = torch.randn(5, 32)
    network = make_network(backbone, tokens)
    latents, pixels = torch.randn(2, 5, 16, 16), torch.rand(2, 3, 64, 64)
    quality = network(backbone, latents, pixels)
    assert quality.maps.shape == (2, 8, 16, 16)
    quality.scores.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.adapter.parameters())


def test_what_is_not_needed_does_not_run(sd1_folder):
    """No output convolution; keys and values of the text once for all pictures."""
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")
    network = make_network(backbone, torch.randn(7, 32))
    entered = []

    def see(module, args, output):
        entered.append(tuple(args[0].shape))

    layers = [backbone.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k]
    layers.append(backbone.unet.conv_out)
    handles = [layer.register_forward_hook(see) for layer in layers]
    try:
        with torch.no_grad():
            condition = network.condition_of(backbone)
            for _ in range(2):
                pixels = torch.rand(3, 3, 64, 64)
                network(backbone, torch.randn(3, 4, 8, 8), pixels, condition)
    finally:
        for handle in handles:
            handle.remove()
    assert entered == [(1, 7, 32), (3, 1, 32), (3, 1, 32)]


def test_nothing_is_left_behind_by_an_exception(sd1_folder):
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")
    network = make_network(backbone, torch.randn(7, 32))
    with pytest.raises(RuntimeError):
        network(backbone, torch.randn(1, 4, 8, 8), torch.rand(1, 3, 32, 32))
    network.text.leave.weight.data = network.text.leave.weight.data[:, :1]
    with pytest.raises(RuntimeError):
        network(backbone, torch.randn(1, 4, 8, 8), torch.rand(1, 3, 64, 64))
    assert hooks_on(backbone.unet) == 0
    assert backbone.lock.acquire(blocking=False)
    backbone.lock.release()


def test_first_weights_follow_the_seed_and_nothing_else(sd1_folder):
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")

    def make(seed):
        settings = {"own_unet": False, "factor": 8, "grid": 8, "seed": seed}
        return DPIQANetwork(backbone.unet, torch.ones(2, 32), **settings).state_dict()

    state = torch.get_rng_state()
    first, again, other = make(0), make(0), make(1)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert torch.isfinite(value).all()
    assert not torch.equal(
        first["adapter.conv_in.weight"], other["adapter.conv_in.weight"]
    )
    assert torch.equal(first["text.gamma"], torch.full((32,), 1e-4))
    spread = first["adapter.conv_in.weight"].std().item()
    expected = FullAdapter(3, [16]).conv_in.weight.std().item()
    assert spread == pytest.approx(expected, rel=0.05)


# -- prompts ---------------------------------------------------------------------------


def test_the_published_grid():
    prompts = make_prompts(QUALITIES, SCENES, DISTORTIONS, 77)
    assert len(prompts) == len(set(prompts)) == 1485
    assert prompts[0] == (
        "a photo of a animal with jpeg2000 compression artifacts, "
        "which is of bad quality"
    )
    assert prompts[33] == (
        "a photo of a cityscape with jpeg2000 compression artifacts, "
        "which is of bad quality"
    )
    assert prompts[-1].endswith(
        "others with other realistic artifacts, which is of perfect quality"
    )
    assert make_prompts(["good"], ["night"], ["noise"], 24) == ("good night noise",)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_a_token_is_the_pooled_state_of_its_prompt(model_folders, kind):
    """As transformers pools it, of prompts that are padded as for the UNet."""
    backbone = load_backbone(str(model_folders[kind]), "cpu", "float32")
    prompts = ["good night noise", "a bad photo of an animal", "fair"]
    tokens = encode_prompts(backbone, prompts)
    ids, attended = backbone.tokenize(prompts)
    with torch.no_grad():
        output = backbone._text_encoder(ids, attention_mask=attended.long())
    np.testing.assert_allclose(tokens, output.pooler_output, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"), projection=32)


def write_clip(folder, projection):
    """A random CLIP with both towers, as the published one is saved."""
    ids = write_tokenizer(folder, length=77)
    text = {
        "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, **ids,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    config = CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=projection
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_a_text_model_gives_clips_text_features(sd1_folder, clip_folder, tmp_path):
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")
    prompts = ["good night noise", "a bad photo of an animal", "fair"]
    store = FeatureStore(tmp_path)
    tokens = encode_prompts(backbone, prompts, str(clip_folder), store)
    assert store.info().entries == 1
    clip = CLIPModel.from_pretrained(clip_folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    with torch.no_grad():
        output = clip.get_text_features(
            **tokenizer(prompts, padding=True, return_tensors="pt")
        )
    expected = getattr(output, "pooler_output", output)
    np.testing.assert_allclose(tokens, expected, rtol=1e-4, atol=1e-5)
    message = r"(?s)'nowhere' could not be loaded.*text_model=None"
    with pytest.raises(OSError, match=message):
        encode_prompts(backbone, prompts, "nowhere")


def test_prompts_are_encoded_once(sd1_folder, tmp_path):
    """Once per process, and with a store once in all."""
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")
    prompts = [f"good night noise {i}" for i in range(70)]
    others = [[f"{word} noise"] for word in "abcd"]
    with counting(sd1_folder) as count:
        tokens = encode_prompts(backbone, prompts, None, FeatureStore(tmp_path))
        assert count.text_rows == [64, 6]
        assert encode_prompts(backbone, prompts, None, None) is tokens
        for other in others:  # as many as a process keeps
            encode_prompts(backbone, other, None, None)
        again = encode_prompts(backbone, prompts, None, FeatureStore(tmp_path))
        assert again is not tokens
        np.testing.assert_array_equal(again, tokens)
    assert count.text_rows == [64, 6, 1, 1, 1, 1]


# -- losses and pictures --------------------------------------------------------------


def test_ranking_loss_is_the_mean_over_pairs():
    predicted = torch.randn(6, generator=torch.Generator().manual_seed(3))
    target = torch.tensor([0.1, 0.5, 0.5, 0.9, 0.3, 0.2])
    margin, total = 0.25 * float(np.std(target.numpy(), ddof=1)), 0.0
    for i in range(6):
        for j in range(i + 1, 6):
            sign = float(torch.sign(target[i] - target[j]))
            total += max(0.0, margin - sign * float(predicted[i] - predicted[j]))
    found = margin_ranking_loss(predicted, target)
    assert found.item() == pytest.approx(total / 15, rel=1e-5)
    assert margin_ranking_loss(predicted[:1], target[:1]).item() == 0


def test_pictures_wait_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((70, 4, 8, 8)).astype(np.float32)
    views = rng.integers(0, 256, (70, 16, 16, 3), np.uint8)
    pictures = Pictures(70)
    for index in range(70):
        pictures.add(f"key {index}", latents[index], views[index])
    some = [69, 0, 33, 33]
    found = pictures.read(some)
    np.testing.assert_array_equal(found[0], latents[some])
    np.testing.assert_array_equal(found[1], views[some])
    assert pictures.keys[69] == "key 69"
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_changes_of_a_view_are_its_own():
    """Windows of the view, some mirrored; neighbours and order do not matter."""
    views = np.random.default_rng(0).integers(0, 256, (9, 9, 9, 3), np.uint8)

    def vary(rows):
        generators = [torch.Generator().manual_seed(int(row)) for row in rows]
        return vary_views(views[rows], 8, generators)

    varied = vary(np.arange(9))
    for order in (np.arange(9)[::-1], np.array([3]), np.array([5, 2])):
        np.testing.assert_array_equal(vary(order), varied[order])
    kinds = set()
    for view, found in zip(views, varied, strict=True):
        for top, left, step in itertools.product((0, 1), (0, 1), (1, -1)):
            window = view[top : top + 8, left : left + 8][:, ::step]
            if np.array_equal(window, found):
                kinds.add((top, left, step))
    assert {step for *_, step in kinds} == {1, -1}
    assert len(kinds) > 3
