"""The Stable Diffusion XL family against diffusers' own pipeline code."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from random_models import update_json, write_json, write_model
from scipy.special import logsumexp

from diffqa_features import (
    DiffusionController,
    DiffusionQAFeatures,
    DPIQARegressor,
    GenzIQARegressor,
    PromptAlignmentMaps,
)
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._engine.passes import draw_noise

SIZE, T = 64, 50
PROMPTS = ("Good photo.", "a noisy, blurred picture", "")


@pytest.fixture(scope="module")
def pipeline(xl_folder):
    parts = {
        "_class_name": "StableDiffusionXLPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    write_json(xl_folder / "model_index.json", parts)
    return StableDiffusionXLPipeline.from_pretrained(
        xl_folder, local_files_only=True, add_watermarker=False
    )


@pytest.fixture(scope="module")
def told(pipeline):
    """States and pooled text as diffusers encodes them."""
    states, _, pooled, _ = pipeline.encode_prompt(
        list(PROMPTS), device="cpu", do_classifier_free_guidance=False
    )
    return states, pooled


def sizes(pipeline, height, width):
    return pipeline._get_add_time_ids(
        (height, width), (0, 0), (height, width), torch.float32,
        text_encoder_projection_dim=pipeline.text_encoder_2.config.projection_dim,
    )  # fmt: skip


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def plain(pipeline, told, image):
    """The same picture by hand: what every module of the UNet gave."""
    unet, vae, seen = pipeline.unet, pipeline.vae, {}
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    handles = [
        module.register_forward_hook(
            lambda m, args, output, name=name: seen.__setitem__(name, output)
        )
        for name, module in unet.named_modules()
    ]
    states, pooled = told
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        noise = draw_noise(0, T, latents.shape[1:])[None]
        noisy = schedule.add_noise(latents, noise, torch.tensor([T]))
        count = len(PROMPTS)
        added = {
            "text_embeds": pooled,
            "time_ids": sizes(pipeline, SIZE, SIZE).repeat(count, 1),
        }
        predicted = unet(
            noisy.expand(count, -1, -1, -1), T, states, added_cond_kwargs=added
        ).sample
    for handle in handles:
        handle.remove()
    return seen, (predicted - noise).double().numpy()


def columns(folder, image, **parameters):
    features = DiffusionQAFeatures(
        str(folder), timesteps=T, prompts=PROMPTS, image_size=SIZE, device="cpu",
        dtype="float32", **parameters,
    )  # fmt: skip
    row = features.transform([image])[0]
    return dict(zip(features.get_feature_names_out(), row, strict=True))


def test_prompts_are_encoded_as_by_the_pipeline(xl_folder, told):
    conditioning = load_backbone(xl_folder, "cpu").condition(PROMPTS)
    torch.testing.assert_close(conditioning.states, told[0])
    torch.testing.assert_close(conditioning.pooled, told[1])
    assert conditioning.content.sum(1).tolist()[2] == 0
    alone = load_backbone(xl_folder, "cpu").condition(PROMPTS[1:2])
    torch.testing.assert_close(alone.pooled, told[1][1:2])


def test_rows_of_a_conditioning(xl_folder, told):
    conditioning = load_backbone(xl_folder, "cpu").condition(PROMPTS)
    turned = type(conditioning).stack([conditioning[2], conditioning[:2]])
    torch.testing.assert_close(turned.pooled, told[1][[2, 0, 1]])
    sized = conditioning[1].expand(3).for_size(64, 96)
    assert sized.sizes.tolist() == [[64, 96, 0, 0, 64, 96]] * 3
    assert conditioning.sizes is None


@torch.inference_mode()
def test_a_pass_is_the_pipelines(xl_folder, pipeline, told):
    """Of any size, which the model is told."""
    noisy = torch.randn(3, 4, 8, 12)
    added = {
        "text_embeds": told[1], "time_ids": sizes(pipeline, 64, 96).repeat(3, 1)
    }  # fmt: skip
    expected = pipeline.unet(noisy, 700, told[0], added_cond_kwargs=added).sample
    backbone = load_backbone(xl_folder, "cpu")
    found = backbone.run(noisy, 700, backbone.condition(PROMPTS))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    added["time_ids"] = sizes(pipeline, 128, 128).repeat(3, 1)
    other = pipeline.unet(noisy, 700, told[0], added_cond_kwargs=added).sample
    assert (other - expected).abs().max() > 1e-3


def test_columns_are_those_of_a_pass_by_hand(xl_folder, plain, image):
    seen, error = plain
    found = columns(
        xl_folder, image, kinds=("alignment", "query", "attended", "hidden", "error")
    )
    for k, each in enumerate(error):
        for c, value in enumerate(np.log(np.sqrt((each**2).mean(axis=(1, 2))))):
            name = f"t{T}__error__prompt{k}__{c:04d}"
            assert found[name] == pytest.approx(value, abs=1e-4)
    info = describe_backbone(xl_folder)
    for block in (info.blocks[0], info.blocks[5], info.blocks[-1]):
        prefix = f"t{T}__{block.name}"
        q, k = (seen[f"{block.module}.{n}"].numpy() for n in ("to_q", "to_k"))
        d = q.shape[-1] // block.heads
        for prompt in range(3):
            values = [
                logsumexp(
                    0.14 * q[prompt][:, h : h + d] @ k[prompt][:, h : h + d].T / d**0.5,
                    axis=0,
                )
                / 0.14
                for h in range(0, q.shape[-1], d)
            ]
            name = f"{prefix}__alignment__prompt{prompt}"
            assert found[name] == pytest.approx(np.mean(values), rel=1e-4)
            attended = seen[block.module].numpy()[prompt].mean(0)
            name = f"{prefix}__attended__prompt{prompt}__mean__0003"
            assert found[name] == pytest.approx(attended[3], abs=1e-4)
        query = q.mean((0, 1))
        assert found[f"{prefix}__query__mean__0003"] == pytest.approx(
            query[3], abs=1e-4
        )
    hidden = seen["down_blocks.2"][0].numpy().mean((0, 2, 3))
    assert found[f"t{T}__down2__hidden__mean__0005"] == pytest.approx(
        hidden[5], abs=1e-4
    )


def test_patterns_choose_blocks_and_layers(xl_folder):
    def names(*blocks):
        features = DiffusionQAFeatures(
            str(xl_folder), blocks=list(blocks), kinds="alignment", prompts=["a"]
        )
        return [n.split("__")[1] for n in features.get_feature_names_out()]

    assert names("down1.0") == ["down1.0.0", "down1.0.1"]
    assert names("down1.0.1", "down2.0.2") == ["down1.0.1", "down2.0.2"]
    assert names("down[12].0*") == names("down1.0", "down2.0")
    assert len(names("all")) == len(describe_backbone(xl_folder).blocks)


def test_rows_do_not_depend_on_neighbours(xl_folder, image):
    features = DiffusionQAFeatures(str(xl_folder), image_size=SIZE, device="cpu")
    together = features.transform([image, image[::-1], image[:, ::-1]])
    alone = features.set_params(batch_size=1).transform([image[::-1]])
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-4, atol=1e-4)


def test_maps_and_learned_prompts(xl_folder, image):
    maps = PromptAlignmentMaps(str(xl_folder), image_size=SIZE, device="cpu")
    assert np.isfinite(maps.fit_transform([image])).all()
    model = GenzIQARegressor(
        str(xl_folder), image_size=SIZE, n_context=0, max_epochs=1, n_timesteps=1,
        device="cpu",
    )  # fmt: skip
    images = [image, image[::-1], image[:, ::-1]]
    model.fit(images, [1.0, 2.0, 3.0])
    assert np.isfinite(model.predict(images)).all()
    assert any(value.any() for k, value in model.weights_.items() if k.endswith("_up"))


@pytest.mark.parametrize(
    "kind", [GenzIQARegressor, DPIQARegressor, DiffusionController]
)
def test_what_edits_the_one_text_encoder_is_refused(xl_folder, kind, image):
    with pytest.raises(
        ValueError, match=r"needs a backbone with one text encoder.*sd15"
    ):
        kind(str(xl_folder)).fit([image, image], [1.0, 2.0])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("sdxl") / "sdxl", "sdxl")


@pytest.fixture
def copy(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "sdxl"))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet", {"projection_class_embeddings_input_dim": 64}, "refiner"),
        ("unet", {"addition_embed_type": "image"}, "addition_embed_type='image'"),
        (
            "unet",
            {"cross_attention_dim": 32},
            "makes 72 channels and its UNet takes 32",
        ),
        ("text_encoder_2", {"model_type": "t5"}, "a 't5', not a CLIP"),
        ("text_encoder_2", {"hidden_act": "nothing"}, "text_encoder_2.*'hidden_act'"),
        ("vae", {"latents_std": [0.0] * 4}, "'latents_std' must be"),
    ],
)
def test_other_models_are_refused_with_the_reason(copy, file, change, message):
    path = copy / file / "config.json"
    update_json(path, **change)
    with pytest.raises(ValueError, match=message):
        describe_backbone(copy)


def test_a_missing_second_encoder_is_named(copy):
    (copy / "text_encoder_2/config.json").unlink()
    with pytest.raises(ValueError, match=r"with text_encoder_2/ and tokenizer_2/"):
        describe_backbone(copy)
    write_json(copy / "text_encoder_2/config.json", {})
    (copy / "tokenizer_2/tokenizer.json").unlink()
    with pytest.raises(OSError, match="tokenizer_2/ has neither"):
        describe_backbone(copy)


def test_both_text_encoders_are_part_of_the_identity(copy, tmp_path):
    other = write_model(tmp_path / "other", "sdxl")  # from the same seed
    assert describe_backbone(other).identity == describe_backbone(copy).identity
    path = other / "text_encoder_2/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert describe_backbone(other).identity != describe_backbone(copy).identity


def test_means_and_deviations_per_channel_of_the_latents(copy):
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    plain = load_backbone(copy, "cpu").encode_images(pixels)
    path = copy / "vae/config.json"
    mean, std = [0.1, -0.2, 0.3, 0.0], [0.5, 1.0, 2.0, 4.0]
    config = json.loads(path.read_text())
    write_json(path, {**config, "latents_mean": mean, "latents_std": std})
    found = load_backbone(copy, "cpu").encode_images(pixels)
    mean, std = (torch.tensor(value).view(1, 4, 1, 1) for value in (mean, std))
    scale = config["scaling_factor"]
    expected = (plain / scale - mean) * scale / std
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
