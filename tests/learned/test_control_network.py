"""The control module beside a frozen UNet, and the features of a steered chain."""

import numpy as np
import pytest
import torch
from counting import counting
from diffusers import ControlNetModel, DDIMScheduler
from hooks import hooks_on
from processor import needs_bfloat16_attention
from torch import nn

from diffqa_features import FeatureStore
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._engine.passes import draw_noise
from diffqa_features.learned.control.features import (
    Chain,
    controlled_features,
    default_stages,
    stored_features,
)
from diffqa_features.learned.control.network import make_control, run_controlled


@pytest.fixture(params=["sd1", "sd2", "deep"])
def backbone(request, model_folders):
    """Epsilon and v-prediction, several depths; nothing stays on the shared UNet."""
    backbone = load_backbone(str(model_folders[request.param]), "cpu", "float32")
    before = {k: v.clone() for k, v in backbone.unet.state_dict().items()}
    yield backbone
    assert hooks_on(backbone.unet) == 0
    for name, value in backbone.unet.state_dict().items():
        assert torch.equal(value, before[name])
        assert backbone.unet.get_parameter(name).grad is None


@pytest.fixture
def sd1(sd1_folder):
    return load_backbone(str(sd1_folder), "cpu", "float32")


def inputs(backbone, rows=3, side=8):
    generator = torch.Generator().manual_seed(0)
    shape = rows, backbone.info.latent_channels, side, side
    noisy, clean = (torch.randn(shape, generator=generator) for _ in range(2))
    timesteps = torch.tensor([10, 500, 990])[:rows]
    return noisy, clean, timesteps, backbone.condition([""])


def trained(backbone, seed=0):
    """A network none of whose layers is 0, as after a training."""
    network = make_control(backbone.unet)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network


def latents_of(backbone, rows=3, side=8):
    return inputs(backbone, rows, side)[1].numpy()


# -- one pass ------------------------------------------------------------------------


@torch.no_grad()
def test_untrained_it_changes_nothing(backbone):
    noisy, clean, timesteps, told = inputs(backbone)
    network = make_control(backbone.unet)
    steered, control = run_controlled(backbone, network, noisy, clean, timesteps, told)
    alone, nothing = run_controlled(backbone, None, noisy, clean, timesteps, told)
    plain = backbone.unet(
        noisy, timesteps, encoder_hidden_states=told.expand(3).states
    ).sample
    assert nothing is None
    assert all(not part.any() for part in (*control[0], control[1]))
    assert torch.equal(steered, plain)
    assert torch.equal(alone, plain)


@torch.no_grad()
def test_it_is_a_controlnet_whose_first_layer_sees_both_latents(backbone):
    """Against diffusers' own, with one convolution over z_t and z_0 together."""
    noisy, clean, timesteps, told = inputs(backbone)
    network = trained(backbone)
    _, (skips, middle) = run_controlled(
        backbone, network, noisy, clean, timesteps, told
    )
    twin = ControlNetModel.from_unet(backbone.unet)
    weights = network.state_dict()
    hint = weights.pop("controlnet_cond_embedding.weight")
    twin.load_state_dict(weights, strict=False)
    both = nn.Conv2d(2 * noisy.shape[1], hint.shape[0], 3, padding=1)
    both.weight.copy_(torch.cat([weights["conv_in.weight"], hint], 1))
    both.bias.copy_(weights["conv_in.bias"])
    twin.conv_in = both
    # A zero for the network that would look at a picture.
    twin.controlnet_cond_embedding = nn.Identity()
    states = told.expand(3).states
    expected = twin(
        torch.cat([noisy, clean], 1), timesteps, states, torch.zeros(1, 1, 1, 1)
    )
    for part, other in zip(skips, expected.down_block_res_samples, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        middle, expected.mid_block_res_sample, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_what_is_steered_is_the_decoder(backbone):
    """Output against the UNet's own words for it; the encoder sees no difference."""
    noisy, clean, timesteps, told = inputs(backbone)
    network = trained(backbone)
    output, (skips, middle) = run_controlled(
        backbone, network, noisy, clean, timesteps, told
    )
    expected = backbone.unet(
        noisy,
        timesteps,
        encoder_hidden_states=told.expand(3).states,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
    ).sample
    assert torch.equal(output, expected)
    plain, _ = run_controlled(backbone, None, noisy, clean, timesteps, told)
    assert (output - plain).abs().max() > 1e-3
    other, _ = run_controlled(backbone, network, noisy, clean.flip(0), timesteps, told)
    assert (output - other).abs().max() > 1e-4  # it does look at z_0


def test_it_begins_as_a_copy_that_trains_alone(backbone):
    network = make_control(backbone.unet)
    original = backbone.unet.state_dict()
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        if name.startswith("controlnet_"):
            assert not value.any()
        else:
            assert torch.equal(value, original[name])
            assert value.data_ptr() != original[name].data_ptr()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    reached = []
    for _ in range(2):
        output, _ = run_controlled(backbone, network, *inputs(backbone))
        optimizer.zero_grad()
        output.square().mean().backward()
        reached.append(
            {n for n, p in network.named_parameters() if (p.grad != 0).any()}
        )
        optimizer.step()
    # First what is 0 moves, and only then what lies before it.
    assert {name.split("_")[0] for name in reached[0]} == {"controlnet"}
    assert "controlnet_cond_embedding.weight" not in reached[0]
    assert reached[1] > {"controlnet_cond_embedding.weight", "conv_in.weight"}


def test_making_it_draws_nothing(sd1):
    before = torch.get_rng_state()
    make_control(sd1.unet)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_unet_that_cannot_be_copied(odd_folder):
    unet = load_backbone(str(odd_folder), "cpu", "float32").unet
    with pytest.raises(ValueError, match=r"as many layers at each level.*\[1, 3, 2\]"):
        make_control(unet)


# -- the chain -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("control", [False, True])
def test_the_chain_is_ddim_from_noise(model_folders, kind, control):
    """Against diffusers' scheduler, for both kinds of prediction."""
    backbone = load_backbone(str(model_folders[kind]), "cpu", "float32")
    network = trained(backbone) if control else None
    _, clean, _, told = inputs(backbone)
    found = controlled_features(
        backbone, network, clean.numpy(), Chain((), n_steps=4, seed=3)
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=backbone.info.prediction_type,
    )
    scheduler.set_timesteps(3)  # that is steps of 333
    z = draw_noise(3, 999, clean.shape[1:]).expand_as(clean)
    with torch.no_grad():
        for t in (999, 666, 333, 0):
            output, _ = run_controlled(backbone, network, z, clean, t, told)
            z = scheduler.step(output, t, z).prev_sample
    assert set(found) == {"latent"}
    np.testing.assert_allclose(found["latent"], z.numpy(), rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_one_step_is_one_pass_on_the_noised_frame(backbone):
    network = trained(backbone)
    stages = default_stages(backbone.info.stages)
    chain = Chain(stages, last_timestep=40, seed=5)
    latents = latents_of(backbone)
    found = controlled_features(backbone, network, latents, chain)
    clean = torch.from_numpy(latents)
    noise = draw_noise(5, 40, clean.shape[1:]).expand_as(clean)
    alpha = backbone.alphas_cumprod[40].float()
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    told = backbone.condition([""])
    output, _ = run_controlled(backbone, network, noisy, clean, 40, told)
    predicted = output
    if backbone.info.prediction_type == "v_prediction":
        predicted = alpha.sqrt() * output + (1 - alpha).sqrt() * noisy
    expected = (noisy - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
    torch.testing.assert_close(
        torch.from_numpy(found["latent"]), expected, rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_maps_are_what_the_decoder_receives(backbone):
    """Every stage against what the up blocks are really called with."""
    network = trained(backbone)
    received, left = {}, {}

    def see(module, args, kwargs, output):
        received[module] = kwargs["hidden_states"], kwargs["res_hidden_states_tuple"]
        left[module] = output

    ups = backbone.unet.up_blocks
    handles = [up.register_forward_hook(see, with_kwargs=True) for up in ups]
    latents = latents_of(backbone)
    try:
        found = controlled_features(
            backbone, network, latents, Chain(backbone.info.stages, n_steps=2)
        )
    finally:
        for handle in handles:
            handle.remove()
    hidden, _ = received[ups[0]]
    np.testing.assert_allclose(found["mid"], hidden, rtol=1e-5, atol=1e-5)
    skips = [skip.numpy() for up in ups for skip in received[up][1]]
    downs = [name for name in found if name.startswith("down")]
    assert len(downs) == len(ups)
    for name in downs:
        alike = [s for s in skips if s.shape == found[name].shape]
        assert any(np.allclose(found[name], s, rtol=1e-5, atol=1e-5) for s in alike)
    for i, up in enumerate(ups):
        np.testing.assert_array_equal(found[f"up{i}"], left[up])
    alone = controlled_features(
        backbone, None, latents, Chain(backbone.info.stages, n_steps=1)
    )
    steered = controlled_features(
        backbone, network, latents, Chain(backbone.info.stages, n_steps=1)
    )
    for name in found:
        assert np.abs(alone[name] - steered[name]).max() > 1e-4, name


def test_default_stages(sd1, model_folders):
    assert [s.name for s in default_stages(sd1.info.stages)] == [
        "down0",
        "mid",
        "up0",
        "up3",
    ]
    deep = load_backbone(str(model_folders["deep"]), "cpu", "float32").info.stages
    assert [s.name for s in default_stages(deep)] == ["down0", "mid", "up0", "up1"]


@pytest.mark.parametrize("n_steps", [1, 3])
def test_neighbours_and_batches_do_not_matter(sd1, n_steps):
    network = trained(sd1)
    chain = Chain(default_stages(sd1.info.stages), n_steps)
    latents = latents_of(sd1)
    together = controlled_features(sd1, network, latents, chain)
    backwards = controlled_features(sd1, network, latents[::-1], chain, batch_size=2)
    alone = controlled_features(sd1, network, latents[1:2], chain)
    for name in chain.names:
        scale = np.abs(together[name]).max()
        np.testing.assert_allclose(
            backwards[name][::-1] / scale, together[name] / scale, atol=1e-4
        )
        np.testing.assert_allclose(
            alone[name][0] / scale, together[name][1] / scale, atol=1e-4
        )


def test_no_hook_stays_after_an_error(sd1, monkeypatch):
    def fail(*arguments, **keywords):
        raise ZeroDivisionError

    monkeypatch.setattr(sd1.unet.up_blocks[1], "forward", fail)
    with pytest.raises(ZeroDivisionError):
        controlled_features(
            sd1, trained(sd1), latents_of(sd1), Chain(sd1.info.stages)
        )  # fmt: skip
    assert hooks_on(sd1.unet) == 0


def test_less_is_taken_where_memory_runs_out(sd1):
    sizes = []

    def short(module, args):
        sizes.append(len(args[0]))
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    chain = Chain(default_stages(sd1.info.stages))
    latents = np.concatenate([latents_of(sd1)] * 2)
    expected = controlled_features(sd1, None, latents, chain)
    handle = sd1.unet.conv_in.register_forward_pre_hook(short)
    try:
        found = controlled_features(sd1, None, latents, chain, batch_size=6)
    finally:
        handle.remove()
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    for name in chain.names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-3)


# -- the store -----------------------------------------------------------------------


@needs_bfloat16_attention
def test_stored_features_are_computed_once(sd1, sd1_folder, tmp_path):
    store = FeatureStore(tmp_path)
    stages = default_stages(sd1.info.stages)
    latents = dict(zip("abc", latents_of(sd1), strict=True))
    network = trained(sd1)

    def pooled(maps):
        return maps.mean((2, 3))

    def take(chain, names="abc", reduction="mean", network=network, reduce=pooled):
        with counting(sd1_folder) as count:
            found = stored_features(
                {name: latents[name] for name in names},
                chain,
                lambda: (sd1, network),
                reduce,
                reduction,
                store=store,
                batch_size=2,
            )
        return found, count.unet_rows

    chain = Chain(stages, control="one")
    first, rows = take(chain, "ab")
    assert rows == 2
    plain = controlled_features(sd1, network, [latents["a"]], chain, reduce=pooled)
    for name in chain.names:
        np.testing.assert_allclose(
            first["a"][name], plain[name][0], rtol=1e-4, atol=1e-5
        )
    again, rows = take(chain, "abc")
    assert rows == 1
    for name in chain.names:
        np.testing.assert_array_equal(again["a"][name], first["a"][name])
    # Fewer stages are there; all that changes a number is not.
    assert take(Chain(stages[:2], control="one"))[1] == 0
    assert take(Chain(sd1.info.stages, control="one"))[1] == 3
    assert take(Chain(stages, control="two"))[1] == 3
    assert take(Chain(stages, seed=1, control="one"))[1] == 3
    assert take(Chain(stages, last_timestep=9, control="one"))[1] == 3
    assert take(Chain(stages, 2, control="one"))[1] == 6
    assert take(Chain(stages, dtype=torch.bfloat16, control="one"))[1] == 3
    assert take(Chain(stages), network=None)[1] == 3
    found, rows = take(chain, reduction="all", reduce=lambda maps: maps)
    assert rows == 3
    assert found["a"]["mid"].ndim == 3
