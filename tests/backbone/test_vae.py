"""Another autoencoder in place of a backbone's own, and models with fewer blocks."""

import pickle
import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from counting import counting
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from hub_server import lay_out_cache
from random_models import write_json, write_model

from diffqa_features import DiffusionQAFeatures, GenzIQARegressor
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.hub import with_vae
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._backbone.weights import load_decoder
from diffqa_features._engine.passes import draw_noise
from diffqa_features.cli import main

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "diffusion_pytorch_model.safetensors"
TAESD = {
    "encoder_block_out_channels": (8,) * 4,
    "decoder_block_out_channels": (8,) * 4,
    "num_encoder_blocks": (1, 1, 1, 1),
    "num_decoder_blocks": (1, 1, 1, 1),
    "scaling_factor": 0.9,
}
SMALL = {"image_size": 64, "device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def taesd(tmp_path_factory):
    """The shape of TAESD, an eighth as wide."""
    folder = tmp_path_factory.mktemp("vae") / "taesd"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoencoderTiny(**TAESD).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures():
    return list(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8))


def test_latents_are_those_of_the_other_vae(sd1_folder, taesd):
    backbone = load_backbone(with_vae(str(sd1_folder), taesd), "cpu", "float32")
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    theirs = AutoencoderTiny.from_pretrained(taesd)
    with torch.no_grad():
        expected = theirs.encode(pixels).latents * 0.9
    torch.testing.assert_close(backbone.encode_images(pixels), expected)
    assert isinstance(load_decoder(backbone.info), AutoencoderTiny)
    assert pickle.loads(pickle.dumps(backbone)) is backbone
    assert load_backbone(str(sd1_folder), "cpu", "float32") is not backbone


def test_the_vae_is_part_of_the_identity_by_content(sd1_folder, taesd, tmp_path):
    own = describe_backbone(sd1_folder)
    same = describe_backbone(with_vae(str(sd1_folder), sd1_folder / "vae"))
    assert same.identity == own.identity
    # A model in diffusers layout stands for its VAE.
    model = describe_backbone(with_vae(str(sd1_folder), sd1_folder))
    assert model.vae_folder == sd1_folder / "vae"
    other = describe_backbone(with_vae(str(sd1_folder), taesd))
    assert other.identity != own.identity
    moved = shutil.copytree(taesd, tmp_path / "moved")
    assert describe_backbone(with_vae(str(sd1_folder), moved)).identity == (
        other.identity
    )
    assert (other.image_size, other.multiple) == (own.image_size, own.multiple)


def test_stored_features_of_two_vaes_do_not_mix(sd1_folder, taesd, pictures, tmp_path):
    features = DiffusionQAFeatures(str(sd1_folder), memory=tmp_path, **SMALL)
    own = features.transform(pictures)
    features.set_params(vae=taesd)
    with counting(with_vae(str(sd1_folder), taesd)) as count:
        other = features.transform(pictures)
        assert (count.vae_rows, count.unet_rows) == (2, 4)
        np.testing.assert_array_equal(features.transform(pictures), other)
        assert (count.vae_rows, count.unet_rows) == (2, 4)
    assert not np.allclose(own, other)
    np.testing.assert_array_equal(
        features.set_params(vae=None).transform(pictures), own
    )
    described = features.set_params(vae=str(taesd)).get_feature_metadata()[0]
    assert described["backbone"] == with_vae(str(sd1_folder), str(taesd))


def test_a_vae_of_the_hub_cache(sd1_folder, taesd, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    name = with_vae(str(sd1_folder), "owner/taesd")
    with pytest.raises(
        OSError, match=r"VAE 'owner/taesd' could not be found.*hf downl"
    ):
        describe_backbone(name)
    lay_out_cache(cache, "owner/taesd", COMMIT, taesd)
    assert describe_backbone(name).identity == (
        describe_backbone(with_vae(str(sd1_folder), taesd)).identity
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_channels": 5}, "does not fit .* 5 channels at a factor of 8.* on 4"),
        (
            {
                "num_encoder_blocks": (1, 1, 1),
                "num_decoder_blocks": (1, 1, 1),
                "encoder_block_out_channels": (8, 8, 8),
                "decoder_block_out_channels": (8, 8, 8),
            },
            "4 channels at a factor of 4.* on 4 channels at 8",
        ),
        ({"_class_name": "AutoencoderDC"}, "it is a AutoencoderDC, not an"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantized weights"),
        ({"scaling_factor": "1"}, "'scaling_factor' must be"),
    ],
)
def test_a_vae_that_does_not_fit_is_refused(
    sd1_folder, taesd, tmp_path, change, message
):
    folder = shutil.copytree(taesd, tmp_path / "vae")
    write_json(
        folder / "config.json", {"_class_name": "AutoencoderTiny", **TAESD} | change
    )
    with pytest.raises(ValueError, match=message):
        DiffusionQAFeatures(str(sd1_folder), vae=folder).fit()


def test_a_vae_that_is_not_there_is_refused(sd1_folder, taesd, tmp_path):
    for vae in ("taesd", tmp_path / "nothing"):
        with pytest.raises(ValueError, match="'vae' parameter must be None, a hub id"):
            DiffusionQAFeatures(str(sd1_folder), vae=vae).fit()
    folder = Path(shutil.copytree(taesd, tmp_path / "vae"))
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match=r"VAE .* \.bin weights only.*save_pretrained"):
        DiffusionQAFeatures(str(sd1_folder), vae=folder).fit()
    with pytest.raises(ValueError, match="'vae' parameter of DiffusionQAFeatures"):
        DiffusionQAFeatures(vae=3).fit()


@pytest.mark.filterwarnings("ignore:Only 2 rows train")
def test_a_trained_model_keeps_its_vae(sd1_folder, taesd, pictures, tmp_path):
    quick = {"n_context": 2, "lora_rank": 1, "n_timesteps": 1, "max_epochs": 1}
    model = GenzIQARegressor(
        str(sd1_folder), vae=str(taesd), blocks="mid*", **quick, **SMALL
    ).fit(pictures, [1.0, 2.0])
    model.save_pretrained(tmp_path / "model")
    loaded = GenzIQARegressor.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.vae == str(taesd)
    np.testing.assert_allclose(
        loaded.predict(pictures), model.predict(pictures), rtol=1e-5
    )
    with pytest.raises(ValueError, match="is not the one"):
        GenzIQARegressor.from_pretrained(tmp_path / "model", vae=None)


def test_info_describes_both(sd1_folder, taesd, capsys):
    assert main(["info", str(sd1_folder), "--vae", str(taesd)]) == 0
    assert f"AutoencoderTiny in {taesd}" in capsys.readouterr().out


# -- fewer blocks ----------------------------------------------------------------------

# As BK-SDM: one layer per level and no middle; in the smallest, a level less too.
PRUNED = {
    "small": {"layers_per_block": 1, "mid_block_type": None},
    "tiny": {
        "layers_per_block": 1,
        "mid_block_type": None,
        "block_out_channels": (16, 32, 48),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    },
}


@pytest.mark.parametrize("kind", PRUNED)
def test_a_pruned_unet_loads_by_its_configuration(kind, pictures, tmp_path):
    folder = write_model(tmp_path / kind, "sd1", unet=PRUNED[kind])
    features = DiffusionQAFeatures(
        str(folder), prompts="Good photo.", kinds=("hidden", "error"), **SMALL
    )
    row = features.transform(pictures[:1])[0]
    names = features.get_feature_names_out()
    assert not any("__mid" in name for name in names)

    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    pixels = torch.from_numpy(pictures[0]).permute(2, 0, 1)[None] / 127.5 - 1
    backbone = load_backbone(folder, "cpu", "float32")
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        noise = draw_noise(0, 50, latents.shape[1:])[None]
        alpha = backbone.alphas_cumprod[50].float()
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        text = backbone.condition(["Good photo."]).states
        predicted = unet(noisy, 50, text).sample
    error = (predicted - noise).square().mean((0, 2, 3)).log() / 2
    np.testing.assert_allclose(row[-4:], error, rtol=1e-4, atol=1e-5)


def test_an_empty_name_of_a_vae_is_refused(sd1_folder):
    features = DiffusionQAFeatures(str(sd1_folder), vae="", device="cpu")
    with pytest.raises(ValueError, match="'vae' parameter must be None"):
        features.fit()
