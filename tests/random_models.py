"""A kind of model -> a small seeded random one in a folder in diffusers layout."""

import json
import shutil
from pathlib import Path

import diffqa_features

_TOKENIZER = Path(diffqa_features.__file__).parent / "tiny" / "tokenizer"
_TEXT_DIM = 32

_UNET = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (16, 32, 48, 48),
    "norm_num_groups": 8,
    "cross_attention_dim": _TEXT_DIM,
    "attention_head_dim": 2,
}
_KL = {
    "block_out_channels": (8, 16, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "layers_per_block": 1,
}
_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}

# Stable Diffusion 1: one number of heads, PNDM sampler, tokenizer in two files, no
# prediction_type written down.
_SD1 = {
    "unet": _UNET,
    "vae": _KL,
    "scheduler": {"_class_name": "PNDMScheduler", **_SCHEDULER},
    "tokenizer": {"slow": True, "length": 77},
}
# Stable Diffusion 2: linear projections, heads per level, v-prediction, "!" as padding.
_SD2 = {
    "unet": {
        **_UNET,
        "use_linear_projection": True,
        "attention_head_dim": (2, 4, 6, 6),
    },
    "vae": {**_KL, "scaling_factor": 0.5},
    "scheduler": {
        "_class_name": "DDIMScheduler",
        "prediction_type": "v_prediction",
        **_SCHEDULER,
    },
    "tokenizer": {"length": 20, "pad_token": "!</w>"},
}
# Three levels of which the first does not attend, odd widths and heads, no attention in
# the middle, layers per level, five latent channels at a factor of four.
_ODD = {
    "unet": {
        **_UNET,
        "sample_size": 16,
        "in_channels": 5,
        "out_channels": 5,
        "down_block_types": (
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
        ),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "block_out_channels": (16, 40, 24),
        "layers_per_block": (1, 3, 2),
        "attention_head_dim": (2, 5, 3),
    },
    "vae": {
        **_KL,
        "latent_channels": 5,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    },
    "scheduler": {
        "_class_name": "DDPMScheduler",
        "prediction_type": "sample",
        "beta_schedule": "linear",
        "num_train_timesteps": 1000,
        "rescale_betas_zero_snr": True,
    },
    "tokenizer": {"length": 12},
}
# Two transformer layers in one level and in the middle, a tiny autoencoder.
_DEEP = {
    "unet": {
        **_UNET,
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "transformer_layers_per_block": (1, 2),
    },
    "vae": {
        "_class_name": "AutoencoderTiny",
        "latent_channels": 3,
        "encoder_block_out_channels": (8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8),
        "num_encoder_blocks": (1, 1, 1),
        "num_decoder_blocks": (1, 1, 1),
        "scaling_factor": 0.7,
    },
    "scheduler": {"_class_name": "EulerDiscreteScheduler", **_SCHEDULER},
    "tokenizer": {"length": 16},
}
# Two levels and nothing that sets it apart: for what is asked of any model.
_SMALL = {
    "unet": {
        **_UNET,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32),
    },
    "vae": _KL,
    "scheduler": _SD1["scheduler"],
    "tokenizer": {"length": 16},
}
# Stable Diffusion XL, a tenth as wide: two text encoders, pooled text and sizes, up to
# ten layers per block (here three), none in the first level.
_XL_SECOND = {
    "hidden_size": 40,
    "intermediate_size": 80,
    "projection_dim": 24,
    "hidden_act": "gelu",
}
_XL = {
    "unet": {
        "sample_size": 16,
        "down_block_types": (
            "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
        ),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (16, 32, 64),
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "attention_head_dim": (1, 2, 4),
        "transformer_layers_per_block": (1, 2, 3),
        "use_linear_projection": True,
        "cross_attention_dim": _TEXT_DIM + _XL_SECOND["hidden_size"],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": _XL_SECOND["projection_dim"] + 6 * 8,
    },
    "vae": {**_KL, "scaling_factor": 0.13025, "force_upcast": True},
    "scheduler": {"_class_name": "EulerDiscreteScheduler", **_SCHEDULER},
    "tokenizer": {"length": 77},
}  # fmt: skip
# Pruned as Segmind's SSD-1B: no attention in the middle, layers listed per block and
# another list on the way up.
_SSD = {
    **_XL,
    "unet": {
        **_XL["unet"],
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": (1, (2, 1), (3, 1)),
        "reverse_transformer_layers_per_block": ((1, 1, 2), (2, 1, 1), 1),
    },
}
# Two text encoders; the tests of models with one take `KINDS`.
XL_KINDS = {"sdxl": _XL, "ssd": _SSD}
KINDS = {"sd1": _SD1, "sd2": _SD2, "odd": _ODD, "deep": _DEEP}
_ALL = {**KINDS, **XL_KINDS, "small": _SMALL}


def write_model(folder, kind, seed=0, **changes):
    """Write a random model and return its folder.

    `changes` are keyed by part (``unet``, ``vae``, ``scheduler``, ``tokenizer``,
    ``text``) and update that part's configuration, e.g. ``unet={"sample_size": 16}``.
    """
    # Here: `conftest` reads this file in processes that run no test.
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        part: {**config, **changes.get(part, {})} for part, config in _ALL[kind].items()
    }
    ids = write_tokenizer(folder / "tokenizer", **parts["tokenizer"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        UNet2DConditionModel(**parts["unet"]).save_pretrained(folder / "unet")
        vae = dict(parts["vae"])
        kinds = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
        vae_class = kinds[vae.pop("_class_name", "AutoencoderKL")]
        vae_class(**vae).save_pretrained(folder / "vae")
        text = {
            "hidden_size": _TEXT_DIM,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 77,
            **ids,
            **changes.get("text", {}),
        }
        CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(folder / "text_encoder")
        if kind in XL_KINDS:
            write_tokenizer(folder / "tokenizer_2", 77, pad_token="!</w>")
            second = CLIPTextConfig(**{**text, **_XL_SECOND})
            model = CLIPTextModelWithProjection(second)
            model.save_pretrained(folder / "text_encoder_2")
    write_json(folder / "scheduler" / "scheduler_config.json", parts["scheduler"])
    return folder


def write_tokenizer(folder, length, slow=False, pad_token="<|endoftext|>"):
    """Write the tokenizer of `tiny` with other settings; return the encoder's ids."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((_TOKENIZER / "tokenizer_config.json").read_text())
    config.update(model_max_length=length, pad_token=pad_token)
    model = json.loads((_TOKENIZER / "tokenizer.json").read_text())["model"]
    if slow:
        write_json(folder / "vocab.json", model["vocab"])
        merges = [" ".join(pair) for pair in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
        config.pop("backend", None)
    else:
        shutil.copy(_TOKENIZER / "tokenizer.json", folder)
    write_json(folder / "tokenizer_config.json", config)
    vocab = model["vocab"]
    return {
        "vocab_size": len(vocab),
        "bos_token_id": vocab["<|startoftext|>"],
        "eos_token_id": vocab["<|endoftext|>"],
    }


def write_json(path, content):
    """Write JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))


def update_json(path, **changes):
    """Change some values of a JSON object in a file."""
    write_json(path, {**json.loads(path.read_text()), **changes})
