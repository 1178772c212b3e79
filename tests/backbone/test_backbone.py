"""Loaded backbones: against diffusers and transformers, closed forms, under threads."""

import copy
import json
import logging
import os
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import diffusers
import huggingface_hub.constants
import pytest
import torch
import transformers
from child_processes import run_in_process
from hub_server import lay_out_cache
from random_models import update_json, write_model
from safetensors.torch import load_file, save_file

from diffqa_features._backbone import backbone as backbone_module
from diffqa_features._backbone import tensors
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._backbone.tensors import read_tensor_list, read_tensors
from diffqa_features._backbone.weights import load_decoder
from diffqa_features._utils.processor import fast_precision

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(sd1_folder, tmp_path):
    """A copy of the SD 1 model that a test may change."""
    return Path(shutil.copytree(sd1_folder, tmp_path / "copy"))


def make_pixels(info, count=2):
    return torch.rand(count, 3, info.image_size, info.image_size) * 2 - 1


def load_vae_of(folder):
    name = json.loads((folder / "vae/config.json").read_text())["_class_name"]
    return getattr(diffusers, name).from_pretrained(
        folder / "vae", low_cpu_mem_usage=False
    )


def mode_times_scale(vae, pixels):
    with torch.no_grad():
        output = vae.encode(pixels)
    is_kl = isinstance(vae, diffusers.AutoencoderKL)
    latents = output.latent_dist.mode() if is_kl else output.latents
    return latents * vae.config.scaling_factor


# -- what is loaded ------------------------------------------------------------------


def test_the_model_is_frozen_and_the_one_in_the_folder(model_folder):
    backbone = load_backbone(model_folder, "cpu")
    assert backbone.dtype == torch.float32
    assert backbone.device == torch.device("cpu")
    assert backbone.info == describe_backbone(model_folder)
    assert not backbone.unet.training
    stored = load_file(model_folder / UNET)
    parameters = dict(backbone.unet.named_parameters())
    assert parameters.keys() == stored.keys()
    for name, parameter in parameters.items():
        assert not parameter.requires_grad
        assert torch.equal(parameter, stored[name])


def test_the_unet_is_that_of_diffusers(model_folder):
    backbone = load_backbone(model_folder, "cpu")
    reference = diffusers.UNet2DConditionModel.from_pretrained(
        model_folder / "unet", low_cpu_mem_usage=False
    ).to(memory_format=torch.channels_last)
    z = backbone.encode_images(make_pixels(backbone.info))
    states = backbone.condition(["Good photo.", "Bad photo."]).states
    with torch.no_grad():
        output = backbone.unet(z, 50, states).sample
        torch.testing.assert_close(output, reference(z, 50, states).sample)
    assert output.std() > 0


def test_a_large_file_in_shards_and_a_variant_are_read(sd1_folder, folder):
    unet = diffusers.UNet2DConditionModel.from_pretrained(
        folder / "unet", low_cpu_mem_usage=False
    )
    (folder / UNET).unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="200KB", variant="fp16")
    assert len(list((folder / "unet").glob("*of*.safetensors"))) > 1
    vae = (folder / VAE).rename(folder / VAE.replace("model.", "model.fp16."))
    text = folder / "text_encoder/model.safetensors"
    text.rename(text.with_name("model.fp16.safetensors"))
    assert vae.exists()
    changed, plain = load_backbone(folder, "cpu"), load_backbone(sd1_folder, "cpu")
    for name, weight in plain.unet.state_dict().items():
        assert torch.equal(weight, changed.unet.state_dict()[name])
    pixels = make_pixels(plain.info)
    assert torch.equal(plain.encode_images(pixels), changed.encode_images(pixels))


def test_files_that_are_opened_again_give_the_same_tensors(folder, monkeypatch):
    weights = load_file(folder / UNET)
    shards = [folder / f"{number}.safetensors" for number in (0, 1)]
    for number, path in enumerate(shards):
        save_file(dict(list(weights.items())[number::2]), path, {"format": "pt"})
    # Many times each, the files of the tests being small.
    monkeypatch.setattr(tensors, "_MOST_MAPPED", 10_000)
    entries = read_tensor_list(shards)
    assert entries.keys() == weights.keys()
    both = [*entries.values(), *entries.values()]
    for entry, value in zip(both, read_tensors(both), strict=True):
        assert torch.equal(value, weights[entry.name])


def test_a_vae_with_the_old_names_of_its_attention_is_read(sd1_folder, folder):
    # The published Stable Diffusion 1 VAE still has them.
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for key, value in load_file(folder / VAE).items():
        for new, old in names.items():
            if "attentions" in key:
                key = key.replace(f".{new}.", f".{old}.")
        weights[key] = value
    assert any(".query." in key for key in weights)
    save_file(weights, folder / VAE, {"format": "pt"})
    pixels = make_pixels(describe_backbone(folder))
    torch.testing.assert_close(
        load_backbone(folder, "cpu").encode_images(pixels),
        load_backbone(sd1_folder, "cpu").encode_images(pixels),
    )


def test_a_file_that_changes_later_does_not_change_the_model(folder):
    backbone = load_backbone(folder, "cpu")
    before = {k: v.clone() for k, v in backbone.unet.state_dict().items()}
    for name in (UNET, VAE, "text_encoder/model.safetensors"):
        path = folder / name
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(len(content) // 2)
            file.write(bytes(len(content) - len(content) // 2))
    for key, weight in backbone.unet.state_dict().items():
        assert torch.equal(weight, before[key])
    assert backbone.condition(["Good photo."]).states.std() > 0


@pytest.mark.parametrize(
    "name", [UNET, VAE, "text_encoder/model.safetensors"], ids=["unet", "vae", "text"]
)
def test_weights_that_do_not_fit_are_refused(folder, name):
    # diffusers and transformers would fill the gap with random numbers.
    weights = load_file(folder / name)
    weights.pop(sorted(weights)[3])
    save_file(weights, folder / name, {"format": "pt"})
    with pytest.raises(OSError, match=r"do not fit its config\.json"):
        load_backbone(folder, "cpu")


def test_loading_by_hub_id_and_alias_from_a_cache(tmp_path, sd2_folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    lay_out_cache(tmp_path, "owner/name", COMMIT, sd2_folder)
    lay_out_cache(tmp_path, "stabilityai/stable-diffusion-2-1-base", COMMIT, sd2_folder)
    backbone = load_backbone("owner/name", "cpu")
    assert load_backbone("sd21-base", "cpu") is backbone
    assert load_backbone(sd2_folder, "cpu") is backbone
    loaded = backbone.unet.state_dict()
    for name, weight in load_file(sd2_folder / UNET).items():
        assert torch.equal(loaded[name], weight)


# -- images --------------------------------------------------------------------------


def test_latents_are_the_posterior_mode_times_the_scale(model_folder):
    backbone = load_backbone(model_folder, "cpu")
    pixels = make_pixels(backbone.info, 3)
    latents = backbone.encode_images(pixels)
    side = backbone.info.image_size // backbone.info.latent_factor
    assert latents.shape == (3, backbone.info.latent_channels, side, side)
    assert latents.dtype == torch.float32
    assert latents.is_contiguous()
    expected = mode_times_scale(load_vae_of(model_folder), pixels)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5)
    assert latents.std() > 0


def test_a_shift_of_the_latents_is_taken_off(folder):
    update_json(folder / "vae/config.json", shift_factor=0.25)
    backbone = load_backbone(folder, "cpu")
    pixels = make_pixels(backbone.info)
    vae = load_vae_of(folder)
    expected = mode_times_scale(vae, pixels) - 0.25 * vae.config.scaling_factor
    torch.testing.assert_close(backbone.encode_images(pixels), expected)


def test_other_sizes_and_batches_of_one(odd_folder):
    backbone = load_backbone(odd_folder, "cpu")
    pixels = torch.rand(3, 3, 24, 40) * 2 - 1
    latents = backbone.encode_images(pixels)
    assert latents.shape == (3, 5, 6, 10)
    alone = torch.cat([backbone.encode_images(row[None]) for row in pixels])
    torch.testing.assert_close(latents, alone, rtol=1e-5, atol=1e-6)


def test_results_can_be_used_under_autograd(sd1_folder):
    backbone = load_backbone(sd1_folder, "cpu")
    latents = backbone.encode_images(make_pixels(backbone.info))
    states = backbone.condition(["Good photo.", ""]).states
    assert not latents.requires_grad
    assert not states.requires_grad
    adapter = torch.nn.Linear(states.shape[-1], states.shape[-1])
    backbone.unet(latents, 50, adapter(states)).sample.square().mean().backward()
    assert adapter.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in backbone.unet.parameters())


def test_a_model_loaded_in_inference_mode_still_takes_gradients(tmp_path):
    folder = write_model(tmp_path, "sd1", seed=7)  # that no test has loaded
    with torch.inference_mode():
        backbone = load_backbone(folder, "cpu")
    states = torch.randn(1, 77, 32, requires_grad=True)
    backbone.unet(torch.randn(1, 4, 8, 8), 50, states).sample.sum().backward()
    assert states.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 64, 64), "must be of shape"), ((1, 1, 64, 64), "must be of shape")]
    + [((1, 3, 60, 64), "must divide by 8. Got 60 x 64")],
)
def test_pixels_of_a_wrong_shape_are_refused(sd1_folder, shape, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(sd1_folder, "cpu").encode_images(torch.zeros(shape))


def test_latents_that_are_not_finite_are_refused(sd1_folder):
    backbone = load_backbone(sd1_folder, "cpu")
    pixels = make_pixels(backbone.info)
    pixels[1, 0, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="latents that are not finite"):
        backbone.encode_images(pixels)


# -- half precision ------------------------------------------------------------------


def scale_vae_input(folder, factor):
    """Let the hidden state leave the float16 range while the latents stay the same."""
    weights = {k: v.clone() for k, v in load_file(folder / VAE).items()}
    for name in ("weight", "bias"):
        weights[f"encoder.conv_in.{name}"] *= factor
    save_file(weights, folder / VAE, {"format": "pt"})
    update_json(folder / "vae/config.json", force_upcast=False)


def test_a_row_that_overflows_float16_is_encoded_in_float32(folder):
    scale_vae_input(folder, 1e5)
    full = load_backbone(folder, "cpu", "float32")
    half = load_backbone(folder, "cpu", "float16")
    assert half.dtype == torch.float16
    pixels = make_pixels(half.info, 3)
    # A row this dark stays in range; the other two do not.
    pixels[1] *= 1e-3
    with torch.inference_mode():
        output = half._vae.encode(pixels.half()).latent_dist.mode()
    finite = [bool(row.isfinite().all()) for row in output]
    assert finite == [False, True, False]
    expected = full.encode_images(pixels)
    latents = half.encode_images(pixels)
    assert latents.isfinite().all()
    torch.testing.assert_close(latents[[0, 2]], expected[[0, 2]])
    # No row depends on its neighbours.
    torch.testing.assert_close(half.encode_images(pixels[1:2]), latents[1:2])


def test_weights_beyond_float16_are_read_again_from_disk(folder):
    weights = {k: v.clone() for k, v in load_file(folder / VAE).items()}
    weights["encoder.conv_in.weight"] *= 1e7
    save_file(weights, folder / VAE, {"format": "pt"})
    update_json(folder / "vae/config.json", force_upcast=False)
    half = load_backbone(folder, "cpu", "float16")
    assert half._vae.encoder.conv_in.weight.isinf().any()
    pixels = make_pixels(half.info)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(half.encode_images, [pixels] * 4))
    expected = load_backbone(folder, "cpu", "float32").encode_images(pixels)
    for latents in results:
        torch.testing.assert_close(latents, expected)


def test_force_upcast_runs_the_vae_in_float32(folder):
    update_json(folder / "vae/config.json", force_upcast=True)
    half = load_backbone(folder, "cpu", "float16")
    pixels = make_pixels(half.info)
    assert half.unet.dtype == torch.float16
    torch.testing.assert_close(
        half.encode_images(pixels),
        load_backbone(folder, "cpu", "float32").encode_images(pixels),
    )
    update_json(folder / "vae/config.json", force_upcast=False)
    assert load_backbone(folder, "cpu", "float16")._vae.dtype == torch.float16


def test_bfloat16_stays_close_to_float32(deep_folder):
    low = load_backbone(deep_folder, "cpu", torch.bfloat16)
    full = load_backbone(deep_folder, "cpu")
    assert low.unet.dtype == torch.bfloat16
    states = low.condition(["Good photo."]).states
    assert states.dtype == torch.bfloat16
    exact = full.condition(["Good photo."]).states
    assert torch.equal(states, exact.bfloat16())
    pixels = make_pixels(full.info)
    error = low.encode_images(pixels) - full.encode_images(pixels)
    assert 0 < error.abs().max() < 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_runs_in_float16_by_default(sd2_folder):
    cuda, cpu = load_backbone(sd2_folder), load_backbone(sd2_folder, "cpu")
    assert (cuda.device.type, cuda.dtype) == ("cuda", torch.float16)
    assert load_backbone(sd2_folder, "cuda:0", "auto") is cuda
    pixels = make_pixels(cpu.info)
    latents = cuda.encode_images(pixels)
    torch.testing.assert_close(
        latents.cpu(), cpu.encode_images(pixels), rtol=0, atol=0.01
    )
    conditioning = cuda.condition(["Good photo.", ""])
    states, content = conditioning.states, conditioning.content
    assert content.device.type == "cpu"
    with torch.no_grad():
        output = cuda.unet(latents.half(), 50, states).sample
        exact = cpu.unet(latents.cpu(), 50, states.float().cpu()).sample
    torch.testing.assert_close(output.float().cpu(), exact, rtol=0, atol=0.05)


# -- text ----------------------------------------------------------------------------


def test_states_are_those_of_the_text_encoder(model_folder):
    backbone = load_backbone(model_folder, "cpu")
    prompts = ["Good photo.", "", "a blurred picture!"]
    states = backbone.condition(prompts).states
    tokenizer = transformers.CLIPTokenizer.from_pretrained(model_folder / "tokenizer")
    encoder = transformers.CLIPTextModel.from_pretrained(model_folder / "text_encoder")
    ids = tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    assert ids.shape[1] == backbone.info.text_length
    with torch.no_grad():
        expected = encoder(ids)[0]
    torch.testing.assert_close(states, expected)
    assert (states[0] - states[1]).abs().max() > 1e-3


def test_content_is_the_words_of_the_prompt(model_folder):
    backbone = load_backbone(model_folder, "cpu")
    prompts = ["photo", "Good photo!", "", "! !"]
    content = backbone.condition(prompts).content
    assert content.shape == (4, backbone.info.text_length)
    assert (content.dtype, content.device.type) == (torch.bool, "cpu")
    path = model_folder / "tokenizer"
    tokenizer = transformers.CLIPTokenizer.from_pretrained(path)
    for prompt, row in zip(prompts, content, strict=True):
        words = tokenizer(prompt, add_special_tokens=False).input_ids
        assert row.nonzero().flatten().tolist() == list(range(1, len(words) + 1))


def test_the_attention_mask_is_used_where_the_encoder_says_so(folder, sd1_folder):
    update_json(folder / "text_encoder/config.json", use_attention_mask=True)
    masked = load_backbone(folder, "cpu").condition(["Good photo."])
    plain = load_backbone(sd1_folder, "cpu").condition(["Good photo."]).states
    used, masked = int(masked.content.sum()) + 2, masked.states
    # Causal: what comes after cannot change what is before it, the padding itself does.
    torch.testing.assert_close(masked[:, :used], plain[:, :used])
    assert (masked[:, used:] - plain[:, used:]).abs().max() > 1e-3


def test_a_long_prompt_is_cut_with_a_warning_that_names_it(odd_folder, caplog):
    backbone = load_backbone(odd_folder, "cpu")
    prompt = "good " * 30
    with caplog.at_level(logging.WARNING):
        conditioning = backbone.condition(["bad photo", prompt])
    (record,) = caplog.records
    assert repr(prompt) in record.getMessage()
    assert "first 12" in record.getMessage()
    assert conditioning.content[1].tolist() == [False] + [True] * 10 + [False]
    assert conditioning.states.shape[1] == 12


def test_many_prompts_equal_each_alone(odd_folder):
    backbone = load_backbone(odd_folder, "cpu")
    prompts = [f"photo number {i}" for i in range(70)]
    conditioning = backbone.condition(prompts)
    states = conditioning.states
    assert len(conditioning) == len(states) == len(conditioning.content) == 70
    for i in (0, 63, 64, 69):
        alone = backbone.condition(prompts[i : i + 1]).states
        torch.testing.assert_close(states[i : i + 1], alone)


def test_prompts_that_are_no_list_of_str_are_refused(sd1_folder):
    backbone = load_backbone(sd1_folder, "cpu")
    for prompts in ("Good photo.", ["a", 3]):
        with pytest.raises(TypeError, match="must be a list of str"):
            backbone.condition(prompts)
    with pytest.raises(ValueError, match="at least one"):
        backbone.condition([])


# -- noise ---------------------------------------------------------------------------


def betas_of(folder):
    """ᾱ from the formulas, in float64."""
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    power = 0.5 if config["beta_schedule"] == "scaled_linear" else 1.0
    betas = torch.linspace(start**power, end**power, 1000, dtype=torch.float64)
    alphas = (1 - betas ** (1 / power)).cumprod(0)
    if config.get("rescale_betas_zero_snr"):
        root = alphas.sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        alphas = root**2
    return alphas


def test_the_schedule_is_the_closed_form_whatever_the_sampler(model_folder):
    backbone = load_backbone(model_folder, "cpu")
    alphas = backbone.alphas_cumprod
    assert alphas.dtype == torch.float64
    assert alphas.device.type == "cpu"
    torch.testing.assert_close(alphas, betas_of(model_folder), rtol=2e-5, atol=1e-6)


def test_trained_betas_are_used(folder):
    betas = torch.linspace(0.001, 0.3, 50)
    update_json(
        folder / "scheduler/scheduler_config.json",
        trained_betas=betas.tolist(),
        num_train_timesteps=50,
    )
    backbone = load_backbone(folder, "cpu")
    expected = (1 - betas.double()).cumprod(0)
    torch.testing.assert_close(backbone.alphas_cumprod, expected, rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match=r"in \[0, 49\]. Got 50"):
        backbone.add_noise(torch.zeros(1), 50, torch.zeros(1))


@pytest.mark.parametrize("t", [0, 50, 999])
def test_noise_is_added_as_diffusers_adds_it(model_folder, t):
    backbone = load_backbone(model_folder, "cpu")
    scheduler = diffusers.DDPMScheduler.from_pretrained(model_folder / "scheduler")
    latents, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    expected = scheduler.add_noise(latents, noise, torch.tensor([t, t]))
    noisy = backbone.add_noise(latents, t, noise)
    assert noisy.dtype == torch.float32
    torch.testing.assert_close(noisy, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "odd"])
@pytest.mark.parametrize("t", [0, 5, 500, 998])
def test_a_perfect_prediction_of_any_type_is_the_noise(model_folders, kind, t):
    backbone = load_backbone(model_folders[kind], "cpu")
    clean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    alpha = betas_of(model_folders[kind])[t]
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    noisy = (signal * clean + sigma * noise).float()
    perfect = {
        "epsilon": noise,
        "v_prediction": (signal * noise - sigma * clean).float(),
        "sample": clean,
    }[backbone.info.prediction_type]
    found = backbone.to_noise(perfect, noisy, t)
    # At t = 0 the noise is a hundredth of what it is taken from.
    torch.testing.assert_close(found, noise, rtol=1e-3, atol=2e-3 if t == 0 else 1e-4)
    found = backbone.to_noise(perfect.half(), noisy, t)
    assert found.dtype == torch.float32


def test_velocity_is_that_of_diffusers(sd2_folder):
    backbone = load_backbone(sd2_folder, "cpu")
    scheduler = diffusers.DDPMScheduler.from_pretrained(sd2_folder / "scheduler")
    clean, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    v = scheduler.get_velocity(clean, noise, torch.tensor([300]))
    noisy = backbone.add_noise(clean, 300, noise)
    torch.testing.assert_close(backbone.to_noise(v, noisy, 300), noise)


@pytest.mark.parametrize("t", [-1, 1000])
def test_a_timestep_out_of_range_is_refused(sd1_folder, t):
    with pytest.raises(ValueError, match=rf"in \[0, 999\]. Got {t}"):
        load_backbone(sd1_folder, "cpu").to_noise(torch.zeros(1), torch.zeros(1), t)


# -- one per process -----------------------------------------------------------------


def test_one_model_per_identity_device_and_dtype(folder, sd1_folder):
    backbone = load_backbone(sd1_folder)
    assert load_backbone(str(sd1_folder), torch.device("cpu"), "float32") is backbone
    assert load_backbone(sd1_folder, "cpu:0", None) is backbone
    fast, _ = fast_precision()
    automatic = load_backbone(sd1_folder, "cpu:0", "auto")
    assert automatic is load_backbone(sd1_folder, "cpu", fast)
    assert load_backbone(folder, "cpu") is backbone  # a copy is the same model
    assert load_backbone(sd1_folder, "cpu", "bfloat16") is not backbone
    update_json(folder / "scheduler/scheduler_config.json", beta_end=0.013)
    assert load_backbone(folder, "cpu") is not backbone
    assert load_backbone(sd1_folder, "cpu") is backbone


def test_a_loaded_model_reads_later_files_where_the_caller_says(sd1_folder, folder):
    """And not from the first of equal folders, which may be gone or changed by then."""
    backbone = load_backbone(folder)
    assert backbone.info.folder == folder
    update_json(folder / "vae/config.json", scaling_factor=0.5)
    assert load_backbone(sd1_folder) is backbone
    assert backbone.info.folder == Path(sd1_folder)
    shutil.rmtree(folder)
    decoder = load_decoder(backbone.info)
    assert decoder.config.scaling_factor == 0.18215
    assert pickle.loads(pickle.dumps(backbone)) is backbone


def test_the_four_used_last_are_kept(tmp_path, deep_folder):
    folders = [Path(shutil.copytree(deep_folder, tmp_path / str(i))) for i in range(5)]
    for number, folder in enumerate(folders):  # that no test has loaded
        schedule = folder / "scheduler/scheduler_config.json"
        update_json(schedule, beta_end=0.02 + number / 1000)
    first = [load_backbone(folder, "cpu") for folder in folders[:4]]
    assert load_backbone(folders[0], "cpu") is first[0]
    load_backbone(folders[4], "cpu")
    assert load_backbone(folders[0], "cpu") is first[0]
    assert load_backbone(folders[2], "cpu") is first[2]
    assert load_backbone(folders[1], "cpu") is not first[1]


def test_threads_that_ask_at_once_share_one_load(tmp_path):
    folder = write_model(tmp_path, "deep", seed=7)  # that no test has loaded
    barrier = threading.Barrier(8)

    def load(_):
        barrier.wait()
        return load_backbone(folder, "cpu")

    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(load, range(8)))
    assert len({id(backbone) for backbone in loaded}) == 1
    assert load_backbone(folder, "cpu") is loaded[0]


def test_threads_get_the_numbers_that_one_thread_gets(sd1_folder, odd_folder):
    def work(i):
        backbone = load_backbone((sd1_folder, odd_folder)[i % 2], "cpu")
        told = backbone.condition([f"photo {i // 2}", "good " * (i // 2)])
        return told.states, told.content, backbone.encode_images(pixels)

    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    expected = [work(i) for i in range(12)]
    with ThreadPoolExecutor(6) as pool:
        for got, want in zip(pool.map(work, range(12)), expected, strict=True):
            for a, b in zip(got, want, strict=True):
                torch.testing.assert_close(a, b)


def test_a_pickle_is_a_name(sd1_folder):
    backbone = load_backbone(sd1_folder, "cpu", "bfloat16")
    content = pickle.dumps(backbone)
    assert len(content) < 300
    assert pickle.loads(content) is backbone
    assert copy.deepcopy(backbone) is backbone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_loads_for_itself_though_a_lock_is_held(deep_folder):
    assert run_in_process(_load_in_fork, deep_folder) == 7


def _load_in_fork(folder):
    torch.set_num_threads(1)
    parent = load_backbone(folder, "cpu")
    held = threading.Event()

    def hold():
        with backbone_module._loading_lock, backbone_module._loaded_lock:
            held.set()
            threading.Event().wait(60)

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(7 if load_backbone(folder, "cpu") is not parent else 8)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


# -- device and dtype ----------------------------------------------------------------


@pytest.mark.parametrize(
    "device", ["gpu", "cuda:99", "cpu cpu", 3.5, "xpu:9", "vulkan"]
)
def test_a_device_that_is_not_there_is_refused(sd1_folder, device):
    with pytest.raises(ValueError, match=r"'device' parameter|There is no device"):
        load_backbone(sd1_folder, device)


@pytest.mark.parametrize("dtype", ["half", "float64", torch.int8, 16])
def test_a_dtype_that_is_not_offered_is_refused(sd1_folder, dtype):
    with pytest.raises(ValueError, match=r"'dtype' parameter must be .*'bfloat16'"):
        load_backbone(sd1_folder, "cpu", dtype)
