"""Learned context, low-rank adapters and block scores, against independent numbers."""

import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from full_size import UNETS
from golden_unet import load_golden, make_golden_unet, recipe
from hooks import hooks_on
from torch.overrides import TorchFunctionMode

from diffqa_features._backbone.backbone import Backbone, load_backbone
from diffqa_features._backbone.blocks import list_blocks
from diffqa_features._backbone.conditioning import Conditioning
from diffqa_features._backbone.info import describe_backbone
from diffqa_features.learned.genziqa.block_scores import read_blocks
from diffqa_features.learned.genziqa.context import PromptContext
from diffqa_features.learned.genziqa.head import LinearHead
from diffqa_features.learned.genziqa.low_rank import (
    LAYERS,
    LowRankAdapters,
    factor_name,
)
from diffqa_features.learned.genziqa.network import (
    GenzIQANetwork,
    ensemble_timesteps,
)
from diffqa_features.learned.genziqa.regressor import fit_line


@pytest.fixture
def backbone(model_folder):
    backbone = load_backbone(str(model_folder), "cpu", "float32")
    before = {k: v.clone() for k, v in backbone.unet.state_dict().items()}
    yield backbone
    assert hooks_on(backbone.unet) == 0
    assert hooks_on(backbone._text_encoder) == 0
    for name, value in backbone.unet.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in backbone.unet.parameters())
    assert all(p.grad is None for p in backbone._text_encoder.parameters())


def make_network(backbone, seed=0, **changes):
    settings = {
        "n_context": 3,
        "context_position": "end",
        "lora_rank": 2,
        "bias": True,
        "sharpness": 0.14,
        "seed": seed,
    }
    prompts = ("Good Photo.", "Bad Photo.")
    return GenzIQANetwork(
        backbone, backbone.info.blocks, prompts, **{**settings, **changes}
    )


def make_inputs(backbone, count=3, side=8):
    shape = (count, backbone.info.latent_channels, side, side)
    return torch.randn(shape), torch.randn(shape), torch.tensor([5, 57, 99])[:count]


def awake(network):
    """The same network with `up` drawn at random, where training would bring it."""
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("_up"):
                value.normal_(std=0.3)
    return network


@pytest.mark.parametrize("adapted", [0, 1])
def test_agrees_with_the_released_genziqa(adapted):
    golden = load_golden()
    unet = make_golden_unet(golden)
    blocks = list_blocks(dict(unet.config))
    lora = LowRankAdapters(unet, blocks, 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for block in blocks:
            for layer in LAYERS:
                for side in ("down", "up"):
                    factor = getattr(lora, factor_name(block, layer, side))
                    name = f"{block.module}.{layer}_lora.{side}.weight"
                    value = recipe(name, factor.shape, factor.shape[1])
                    factor.copy_(value * 0.5)
    noisy = recipe("z_t", (1, 4, 16, 16), 1)
    outputs = []
    stand_in = SimpleNamespace(
        unet=unet,
        lock=threading.RLock(),
        device=torch.device("cpu"),
        dtype=torch.float32,
        add_noise=lambda latents, t, noise: noisy,
        to_noise=lambda output, rows, t: outputs.append(output) or output,
    )
    stand_in.run = partial(Backbone.run, stand_in)
    with torch.no_grad():
        reading = read_blocks(
            stand_in,
            noisy,
            recipe("eps", (1, 4, 16, 16), 1),
            torch.tensor([57]),
            Conditioning(recipe("ctx", (2, 77, 64), 1)),
            blocks,
            adapters=lora.adapters() if adapted else None,
            sharpness=0.14,
            queries=True,
        )
    expected = golden[f"bias_{adapted}"][0]
    assert reading.bias.item() == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(
        reading.scores[0], golden[f"score_{adapted}"], atol=1e-4, rtol=0
    )
    for index, queries in enumerate(reading.queries):
        expected = golden[f"query_{adapted}_{index:02d}"]
        np.testing.assert_allclose(queries[0], expected, atol=1e-4)
    (output,) = outputs
    for row, prompt in enumerate(("good", "bad")):
        expected = golden[f"eps_{prompt}_{adapted}"]
        np.testing.assert_allclose(output[row].flatten()[None], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("version", "lora", "width"), [("sd15", 397_824, 768), ("sd21-base", 430_592, 1024)]
)
def test_parameter_counts_of_stable_diffusion(version, lora, width):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[version])
    blocks = list_blocks(dict(unet.config))
    info = SimpleNamespace(text_length=77, name=version)
    backbone = SimpleNamespace(
        info=info,
        unet=unet,
        embed_tokens=lambda ids: torch.empty(len(ids), width),
        tokenize=lambda prompts: (
            torch.zeros(len(prompts), 77, dtype=torch.long),
            (torch.arange(77) < 5).expand(len(prompts), 77),
        ),
    )
    network = GenzIQANetwork(
        backbone,
        blocks,
        ("Good Photo.", "Bad Photo."),
        n_context=16,
        context_position="end",
        lora_rank=4,
        bias=True,
        sharpness=0.14,
        seed=0,
    )
    counts = {
        part: sum(p.numel() for p in getattr(network, part).parameters())
        for part in ("lora", "context")
    }
    assert len(blocks) == 16
    assert counts == {"lora": lora, "context": 16 * width}


def test_timesteps_of_the_released_code():
    assert ensemble_timesteps(0, 100, 8) == (9, 21, 33, 45, 57, 69, 81, 93)
    assert ensemble_timesteps(0, 100, 4) == (9, 34, 59, 84)
    assert ensemble_timesteps(0, 100, 2) == (40, 80)
    assert ensemble_timesteps(0, 100, 1) == (50,)
    assert ensemble_timesteps(900, 1000, 4) == (909, 934, 959, 984)


@pytest.mark.parametrize("width", [1, 3, 50, 100, 1000])
def test_any_count_of_timesteps_is_distinct_and_in_range(width):
    for count in range(1, min(width, 100) + 1):
        steps = ensemble_timesteps(0, width, count)
        assert len(set(steps)) == count
        assert min(steps) >= 0
        assert max(steps) < width


@pytest.mark.parametrize("position", ["end", "front"])
def test_context_made_of_words_is_the_prompt_with_these_words(backbone, position):
    """Where the vectors are embeddings of words, the text encoder itself tells."""
    context = PromptContext(backbone, ["photo."], 2, position)
    ids, _ = backbone.tokenize(["sharp image"])
    table = backbone._text_encoder.get_input_embeddings()
    with torch.no_grad():
        context.vectors.copy_(table(ids[0, 1:3]))
        states = context.condition(backbone).states
    text = "sharp image photo." if position == "end" else "photo. sharp image"
    conditioning = backbone.condition([text])
    expected, content = conditioning.states, conditioning.content
    # Padding differs: the released code masks it, Stable Diffusion does not.
    upto = int(content.sum()) + 2
    torch.testing.assert_close(states[:, :upto], expected[:, :upto])


def test_context_starts_as_a_word_that_the_prompt_ends_with(backbone):
    context = PromptContext(backbone, ["photo."], 4, "front")
    conditioning = backbone.condition(["photo. image"])
    upto = int(conditioning.content.sum()) + 2  # with start and end
    states = context.condition(backbone).states
    torch.testing.assert_close(states[:, :upto], conditioning.states[:, :upto])


def test_linear_head_begins_as_the_contrast_and_stays_positive():
    rng = np.random.default_rng(0)
    alignments = rng.normal(40, [[[0.1, 2.0, 0.0]]], (5, 2, 3)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32)
    inputs = torch.from_numpy(alignments), torch.from_numpy(bias)
    head = LinearHead(2, 3, True)
    head.begin(alignments)
    contrast = (alignments[:, 0] - alignments[:, 1]) / 2 - bias[:, None]
    np.testing.assert_allclose(head(*inputs).detach(), contrast, atol=1e-5)
    # One step of training moves every block by as much of its spread.
    spread = np.where(alignments.std(0) > 0, alignments.std(0), 1)
    moved = alignments / spread * [[[0.1], [-0.1]]]
    with torch.no_grad():
        head.alignment += 0.1
    expected = contrast + moved.sum(1)
    np.testing.assert_allclose(head(*inputs).detach(), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        head.alignment.mul_(-1)
        head.bias.mul_(-1)
    weights = head.weights()
    assert np.min(weights["head"]) > 0
    assert weights["head_bias"] == 1
    np.testing.assert_allclose(head(*inputs).detach(), expected, rtol=1e-4, atol=1e-4)


def test_padding_does_not_see_padding(backbone):
    """As in the released code: the padding is masked beside the causal mask."""
    context = PromptContext(backbone, ["photo."], 2, "end")
    with torch.no_grad():
        plain = context.condition(backbone).states
        used = int(context._attended.sum())
        table = backbone._text_encoder.get_input_embeddings()

        def noise_in_padding(module, args, output):
            changed = output.clone()
            changed[:, used, 0] += 5  # not on all: norms take a constant away
            return changed

        handle = table.register_forward_hook(noise_in_padding, prepend=True)
        try:
            changed = context.condition(backbone).states
        finally:
            handle.remove()
    torch.testing.assert_close(changed[:, :used], plain[:, :used])
    torch.testing.assert_close(changed[:, used + 1 :], plain[:, used + 1 :])
    assert (changed[:, used] - plain[:, used]).abs().max() > 1e-3


def test_context_that_does_not_fit_says_how_much_does(sd2_folder):
    backbone = load_backbone(str(sd2_folder), "cpu", "float32")
    with pytest.raises(ValueError, match="n_context of at most 15"):
        PromptContext(backbone, ["Good Photo."], 16, "end")
    PromptContext(backbone, ["Good Photo."], 15, "end")


def test_gradients_reach_context_and_factors_only(backbone):
    network = awake(make_network(backbone))
    latents, noise, timesteps = make_inputs(backbone)
    told = network.context.condition(backbone)
    reading = network.read(backbone, latents, noise, timesteps, told)
    reading.scores.mean().backward()
    for name, value in network.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().sum() > 0, name


class InFloat64(TorchFunctionMode):
    """Where code says float32, for the sake of half precision, it is float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*args, **(kwargs or {}))


def test_gradient_is_the_finite_difference(sd1_folder):
    """Through the frozen UNet and text encoder, of both kinds of parameters.

    In float64: of a score of about 20, float32 keeps too few digits for a difference
    over a step that is short enough.
    """
    backbone = Backbone(
        describe_backbone(str(sd1_folder)), torch.device("cpu"), torch.float64
    )
    backbone._text_encoder.double()
    network = awake(make_network(backbone)).double()
    latents, noise, timesteps = make_inputs(backbone)

    def score():
        with InFloat64():
            told = network.context.condition(backbone)
            reading = network.read(backbone, latents, noise, timesteps, told)
            return reading.scores.mean()

    assert score().dtype == torch.float64
    score().backward()
    last = factor_name(network.blocks[-2], "to_v", "down")
    for value in (network.context.vectors, getattr(network.lora, last)):
        direction = torch.sign(value.grad)
        expected = (value.grad * direction).sum().item()
        step = 1e-6
        with torch.no_grad():
            value += step * direction
            above = score().item()
            value -= 2 * step * direction
            below = score().item()
            value += step * direction
        # Off by the third derivative times the step squared: less than 1e-8.
        assert (above - below) / (2 * step) == pytest.approx(expected, rel=1e-6)


def test_untrained_factors_change_nothing_and_awake_ones_do(backbone):
    latents, noise, timesteps = make_inputs(backbone)
    with torch.no_grad():
        fresh = make_network(backbone)
        told = fresh.context.condition(backbone)
        plain = make_network(backbone, lora_rank=0)
        scores = [
            network.read(backbone, latents, noise, timesteps, told).scores
            for network in (plain, fresh, awake(make_network(backbone)))
        ]
    assert torch.equal(scores[0], scores[1])
    assert (scores[2] - scores[0]).abs().max() > 1e-4


def test_a_batch_is_its_rows(backbone):
    network = awake(make_network(backbone))
    latents, noise, timesteps = make_inputs(backbone)
    with torch.no_grad():
        told = network.context.condition(backbone)
        whole = network.read(backbone, latents, noise, timesteps, told)
        rows = [
            network.read(backbone, z[None], e[None], t[None], told)
            for z, e, t in zip(latents, noise, timesteps)
        ]
    alone = torch.cat([row.scores for row in rows])
    torch.testing.assert_close(whole.scores, alone, rtol=1e-5, atol=1e-4)


def test_one_step_is_one_pass(sd1_folder):
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")
    network = make_network(backbone)
    passes = []
    handle = backbone.unet.conv_in.register_forward_hook(
        lambda module, args, output: passes.append(len(output))
    )
    try:
        generators = [torch.Generator().manual_seed(i) for i in range(16)]
        network.sample(backbone, torch.randn(16, 4, 8, 8), 0, 100, generators)
    finally:
        handle.remove()
    assert passes == [32]


def test_without_bias_the_pass_ends_at_the_last_block(sd1_folder):
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")
    network = make_network(backbone, bias=False)
    network.blocks = network.blocks[:2]
    reached = []
    handle = backbone.unet.mid_block.register_forward_hook(
        lambda *args: reached.append("mid")
    )
    try:
        latents, noise, timesteps = make_inputs(backbone)
        told = network.context.condition(backbone)
        reading = network.read(backbone, latents, noise, timesteps, told)
    finally:
        handle.remove()
    assert reading.scores.shape == (3, 2)
    assert reading.bias is None
    assert reached == []


def test_two_networks_share_a_backbone(backbone):
    """Each sees its own adapters only, also in turns and in threads."""
    latents, noise, timesteps = make_inputs(backbone)
    networks = [awake(make_network(backbone, seed=s)) for s in (1, 2)]
    results = {}

    def read(index):
        with torch.no_grad():
            told = networks[index].context.condition(backbone)
            reading = networks[index].read(backbone, latents, noise, timesteps, told)
        return reading.scores

    alone = [read(0), read(1)]
    assert (alone[0] - alone[1]).abs().max() > 1e-4

    def work(index):
        results[index] = [read(index) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in (0, 1):
        for scores in results[index]:
            torch.testing.assert_close(scores, alone[index], rtol=1e-5, atol=1e-4)


def test_nothing_is_left_behind_by_an_exception(backbone):
    """In an adapter, in the UNet, in the text encoder; the fixture looks."""
    network = awake(make_network(backbone))
    latents, noise, timesteps = make_inputs(backbone)
    told = network.context.condition(backbone)
    with pytest.raises(RuntimeError):
        network.read(backbone, latents[:, :1], noise[:, :1], timesteps, told)
    with pytest.raises(ValueError, match="timestep"):
        network.read(backbone, latents, noise, timesteps + 1000, told)
    up = getattr(network.lora, factor_name(network.blocks[0], "to_q", "up"))
    up.data = up.data[:, :1]
    with pytest.raises(RuntimeError):
        network.read(backbone, latents, noise, timesteps, told)
    network.context.vectors.data = network.context.vectors.data[:, :1]
    with pytest.raises(RuntimeError):
        network.context.condition(backbone)


# -- from Q to the units of y ----------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_the_first_line_starts_at_the_loss_of_the_mean(sign):
    """Where scores are mostly noise, and where they are nearly right."""
    rng = np.random.default_rng(0)
    y = rng.normal(3, 2, 200)
    for noise, most in ((100.0, 1.3), (0.2, 0.2)):
        drawn = sign * 5 * y[:, None] + noise * 10 * rng.normal(size=(200, 4))
        slope, intercept = fit_line(drawn, y, y)
        assert np.sign(slope) == sign or noise == 100
        loss = np.mean((intercept + slope * drawn - y[:, None]) ** 2) / y.var()
        assert loss < most
        assert intercept + slope * drawn.mean() == pytest.approx(y.mean())


def test_a_weight_is_a_number_of_rows_to_the_first_line():
    rng = np.random.default_rng(0)
    y, drawn = rng.normal(size=6), rng.normal(0, 4, (6, 3))
    times = np.array([1, 2, 0, 3, 1, 1])
    again = np.repeat(np.arange(6), times)
    found = fit_line(drawn, y, y, times, times)
    expected = fit_line(drawn[again], y[again], y[again])
    np.testing.assert_allclose(found, expected)
