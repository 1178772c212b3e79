"""A version of Stable Diffusion -> its full-size shape with random weights, on disk."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from random_models import write_json, write_tokenizer
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

# As in the config.json files of the published models, defaults left out.
UNETS = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sd21-base": {
        "sample_size": 64,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
}
UNETS["sdxl"] = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "down_block_types": (
        "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
    ),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
UNETS["sd21"] = {**UNETS["sd21-base"], "sample_size": 96, "upcast_attention": True}

_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "force_upcast": False,
    "sample_size": 512,
}
_CLIP_L = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP_L["intermediate_size"] = 3072
_CLIP_H = {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16}
_CLIP_H.update(intermediate_size=4096, hidden_act="gelu")
_CLIP_G = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20}
_CLIP_G.update(intermediate_size=5120, hidden_act="gelu", projection_dim=1280)
_PREDICTIONS = {"sd21": "v_prediction"}


def write_full_size(folder, version, dtype=torch.bfloat16, seed=0):
    """Write a version of `UNETS` (2 to 7 GB) and return the folder.

    Weights are uniform with variance 1 / fan-in, so that activations stay in range.
    """
    folder = Path(folder)
    text = _CLIP_H if version.startswith("sd21") else _CLIP_L
    texts = {"": (CLIPTextModel, text)}
    if version == "sdxl":
        texts["_2"] = CLIPTextModelWithProjection, _CLIP_G
    for suffix, (kind, shape) in texts.items():
        ids = write_tokenizer(
            folder / f"tokenizer{suffix}",
            length=77,
            pad_token="<|endoftext|>" if shape is _CLIP_L else "!</w>",
        )
        config = CLIPTextConfig(**shape, **{**ids, "vocab_size": 49408})
        _write_text(folder / f"text_encoder{suffix}", kind, config, dtype, seed)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[version])
        vae = AutoencoderKL(**_VAE)
    for part, model in {"unet": unet, "vae": vae}.items():
        model.save_config(folder / part)
        path = folder / part / "diffusion_pytorch_model.safetensors"
        save_file(_random_weights(model, dtype, seed), path)
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": _PREDICTIONS.get(version, "epsilon"),
    }
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    return folder


def _write_text(folder, kind, config, dtype, seed):
    with torch.device("meta"):
        encoder = kind(config)
    config.save_pretrained(folder)
    weights = _random_weights(encoder, dtype, seed)
    # The published files have this prefix; newer transformers write none.
    weights = {
        k if k.startswith("text_projection") else
        f"text_model.{k.removeprefix('text_model.')}": value
        for k, value in weights.items()
    }  # fmt: skip
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _random_weights(model, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, parameter in model.named_parameters():
        shape = parameter.shape
        if parameter.ndim > 1:
            bound = (3 / shape[1:].numel()) ** 0.5
            value = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        else:
            value = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
        weights[name] = value.to(dtype)
    return weights
