"""A model's untrusted JSON files -> the settings that are used, each checked.

Only settings listed here reach diffusers and transformers. Their configurations can
also name code, kernels, quantizers and other files; those are ignored.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Check = Callable[[Any], bool]

_DEEPEST = 64
_MOST_BYTES = 2**26  # a JSON file; the largest in use, a tokenizer's, has 2 MB


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises
    ------
    ValueError
        If the file contains anything else; the message names the file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        # A pipe would be waited for, and a device such as /dev/zero has no end.
        raise ValueError(f"{path} is no file, but a folder, a pipe or a device.")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, and at most {_MOST_BYTES} are "
            "read as JSON. It is not the file of a model."
        )
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON: {error}. Copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must hold a JSON object. It holds {_shown(content)} instead."
        )
    return content


def parse_json(text: bytes | str) -> Any:
    """`json.loads`, with a ValueError for excessive nesting too."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return content
    raise ValueError(f"it is nested more than {_DEEPEST} deep")


def check_settings(
    content: Mapping[str, Any], allowed: Mapping[str, tuple[Check, str]], path: Path
) -> dict[str, Any]:
    """The allowed keys present, after checking each value.

    Raises
    ------
    ValueError
        If a value is invalid or the weights are quantized; the message names file and
        key.
    """
    if content.get("quantization_config"):
        raise ValueError(
            f"{path} asks for quantized weights (quantization_config). Use the "
            "repository with the full weights, or load the model once with diffusers, "
            "call its dequantize() and save_pretrained('some/folder')."
        )
    kept = {}
    for key, (check, wanted) in allowed.items():
        if key not in content:
            continue
        if not check(content[key]):
            raise ValueError(
                f"{path}: {key!r} must be {wanted}. Got {_shown(content[key])} instead."
            )
        kept[key] = content[key]
    return kept


def _shown(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -- checks -------------------------------------------------------------------------


def _whole(lowest, highest):
    def check(value):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and lowest <= value <= highest

    return check, f"an int in the range [{lowest}, {highest}]"


def _one_of(*words):
    return (
        lambda value: isinstance(value, (str, type(None))) and value in words,
        f"one of {', '.join(map(repr, words))}",
    )


def _each(kind, most=16, least=1):
    check, wanted = kind

    def check_all(value):
        fits = isinstance(value, list) and least <= len(value) <= most
        return fits and all(map(check, value))

    return check_all, f"a list of {least} to {most}, each {wanted}"


def _either(first, second):
    return (
        lambda value: first[0](value) or second[0](value),
        f"{first[1]}, or {second[1]}",
    )


def _or_null(kind):
    check, wanted = kind
    return lambda value: value is None or check(value), f"{wanted}, or null"


def _is_number(value):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and abs(value) < 1e12


_NUMBER = (_is_number, "a finite number")
_POSITIVE = (lambda v: _is_number(v) and v > 0, "a finite number above 0")
_BETA = (lambda v: _is_number(v) and 0 <= v <= 1, "a number in the range [0, 1]")
_FLAG = (lambda value: isinstance(value, bool), "true or false")
_TEXT = (lambda value: isinstance(value, str), "a string")
_WIDTH = _whole(1, 2**20)
_LAYERS = _whole(0, 64)
_KERNEL = _whole(1, 31)
_LATENT_SIDE = _whole(1, 4096)
_ACTIVATION = _one_of("silu", "swish", "mish", "gelu", "relu")


def _per_level(kind):
    return _either(kind, _each(kind))


def _fixed(value):
    return lambda given: given == value, f"{value!r}"


UNET = {
    "sample_size": _or_null(_per_level(_LATENT_SIDE)),
    "in_channels": _WIDTH,
    "out_channels": _WIDTH,
    "center_input_sample": _FLAG,
    "flip_sin_to_cos": _FLAG,
    "freq_shift": _NUMBER,
    "down_block_types": _each(_TEXT),
    "mid_block_type": _or_null(_TEXT),
    "up_block_types": _each(_TEXT),
    "only_cross_attention": _per_level(_FLAG),
    "block_out_channels": _each(_WIDTH),
    "layers_per_block": _per_level(_whole(1, 64)),
    "downsample_padding": _whole(0, 8),
    "mid_block_scale_factor": _POSITIVE,
    "dropout": _BETA,
    "act_fn": _ACTIVATION,
    "norm_num_groups": _or_null(_WIDTH),
    "norm_eps": _POSITIVE,
    "cross_attention_dim": _per_level(_WIDTH),
    "transformer_layers_per_block": _per_level(_per_level(_whole(1, 64))),
    "reverse_transformer_layers_per_block": _or_null(_each(_per_level(_whole(1, 64)))),
    "attention_head_dim": _per_level(_WIDTH),
    "num_attention_heads": _or_null(_per_level(_WIDTH)),
    "use_linear_projection": _FLAG,
    "upcast_attention": _FLAG,
    "resnet_time_scale_shift": _one_of("default", "scale_shift"),
    "resnet_skip_time_act": _FLAG,
    "resnet_out_scale_factor": _POSITIVE,
    "time_embedding_type": _one_of("positional"),
    "time_embedding_dim": _or_null(_WIDTH),
    "time_embedding_act_fn": _or_null(_ACTIVATION),
    "timestep_post_act": _or_null(_ACTIVATION),
    "time_cond_proj_dim": _or_null(_WIDTH),
    "conv_in_kernel": _KERNEL,
    "conv_out_kernel": _KERNEL,
    "mid_block_only_cross_attention": _or_null(_FLAG),
    "cross_attention_norm": _one_of(None, "layer_norm", "group_norm"),
    "addition_embed_type": _one_of(None, "text_time"),
    "addition_time_embed_dim": _or_null(_WIDTH),
    "projection_class_embeddings_input_dim": _or_null(_WIDTH),
}

_VAE = {
    "in_channels": _fixed(3),
    "out_channels": _fixed(3),
    "latent_channels": _WIDTH,
    "scaling_factor": _POSITIVE,
    "shift_factor": _or_null(_NUMBER),
    "force_upcast": _FLAG,
    "latents_mean": _or_null(_each(_NUMBER, most=64)),
    "latents_std": _or_null(_each(_POSITIVE, most=64)),
}
VAES = {
    "AutoencoderKL": {
        **_VAE,
        "down_block_types": _each(_TEXT),
        "up_block_types": _each(_TEXT),
        "block_out_channels": _each(_WIDTH),
        "layers_per_block": _whole(1, 64),
        "act_fn": _ACTIVATION,
        "norm_num_groups": _WIDTH,
        "sample_size": _or_null(_whole(1, 2**16)),
        "use_quant_conv": _FLAG,
        "use_post_quant_conv": _FLAG,
        "mid_block_add_attention": _FLAG,
    },
    "AutoencoderTiny": {
        **_VAE,
        "encoder_block_out_channels": _each(_WIDTH),
        "decoder_block_out_channels": _each(_WIDTH),
        "act_fn": _ACTIVATION,
        "upsample_fn": _one_of("nearest", "bilinear", "bicubic", "area"),
        "upsampling_scaling_factor": _whole(1, 8),
        "num_encoder_blocks": _each(_LAYERS),
        "num_decoder_blocks": _each(_LAYERS),
        "latent_magnitude": _POSITIVE,
        "latent_shift": _NUMBER,
    },
}

_TOKEN_ID = _or_null(_whole(0, 2**31))
TEXT_ENCODER = {
    "vocab_size": _WIDTH,
    "hidden_size": _WIDTH,
    "intermediate_size": _WIDTH,
    "projection_dim": _or_null(_WIDTH),
    "num_hidden_layers": _whole(1, 512),
    "num_attention_heads": _WIDTH,
    "max_position_embeddings": _whole(2, 2**16),
    "hidden_act": _one_of(
        "quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish"
    ),
    "layer_norm_eps": _POSITIVE,
    "attention_dropout": _BETA,
    "pad_token_id": _TOKEN_ID,
    "bos_token_id": _TOKEN_ID,
    "eos_token_id": _TOKEN_ID,
    "use_attention_mask": _FLAG,
}

# Samplers share the training betas and differ in how they step, which we never do.
SCHEDULE = {
    "num_train_timesteps": _whole(1, 100_000),
    "beta_start": _BETA,
    "beta_end": _BETA,
    "beta_schedule": _one_of(
        "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", None
    ),
    "trained_betas": _or_null(_each(_BETA, most=100_000)),
    "rescale_betas_zero_snr": _FLAG,
}


def _is_token(value):
    if isinstance(value, dict):
        flags = {k: v for k, v in value.items() if k not in ("content", "__type")}
        plain = all(isinstance(v, (bool, type(None))) for v in flags.values())
        value = value.get("content") if plain else 0
    return isinstance(value, str)


_TOKEN = (_is_token, "a token")
_TOKENS = (
    lambda value: isinstance(value, dict) and all(map(_is_token, value.values())),
    "an object of tokens",
)
TOKENIZER = {
    "model_max_length": _or_null(
        (lambda v: isinstance(v, (int, float)) and v >= 2, "a number from 2 on")
    ),
    "bos_token": _TOKEN,
    "eos_token": _TOKEN,
    "unk_token": _TOKEN,
    "pad_token": _TOKEN,
    "add_prefix_space": _FLAG,
    "do_lower_case": _FLAG,
    "errors": _one_of("replace", "strict", "ignore"),
    "added_tokens_decoder": _TOKENS,
    "additional_special_tokens": _or_null(_each(_TOKEN, most=10_000, least=0)),
    "extra_special_tokens": _or_null(
        _either(_each(_TOKEN, most=10_000, least=0), _TOKENS)
    ),
}
SPECIAL_TOKENS = {
    key: TOKENIZER[key]
    for key in (
        "bos_token", "eos_token", "unk_token", "pad_token", "additional_special_tokens",
    )
}  # fmt: skip

_FEW = _each(_whole(0, 4096), most=64)
EFFICIENTNET = {
    "image_size": _whole(32, 4096),
    "width_coefficient": (lambda v: _is_number(v) and 0 < v <= 8, "a number up to 8"),
    "depth_coefficient": (lambda v: _is_number(v) and 0 < v <= 8, "a number up to 8"),
    "depth_divisor": _whole(1, 64),
    "kernel_sizes": _FEW,
    "in_channels": _FEW,
    "out_channels": _FEW,
    "depthwise_padding": _each(_whole(0, 4096), most=512, least=0),
    "strides": _FEW,
    "num_block_repeats": _each(_whole(1, 32), most=16),
    "expand_ratios": _each(_whole(1, 16), most=64),
    "squeeze_expansion_ratio": (
        lambda v: _is_number(v) and 0 < v <= 1, "a number in (0, 1]",
    ),
    "hidden_act": _one_of("swish", "silu", "relu", "gelu"),
    "batch_norm_eps": _POSITIVE,
}  # fmt: skip


def _is_architecture(value):
    if not isinstance(value, dict):
        return False
    if value.get("kind") == "tiny":
        return set(value) == {"kind"}
    return (
        value.get("kind") == "efficientnet"
        and set(value) == {"kind", "config", "symmetric"}
        and isinstance(value["config"], dict)
        and isinstance(value["symmetric"], bool)
    )


# What estimators keep beside their weights and parameters.
FITTED = {
    "slope_": _NUMBER,
    "intercept_": _NUMBER,
    "target_range_": _or_null(
        (
            lambda v: isinstance(v, list) and len(v) == 2 and all(map(_NUMBER[0], v)),
            "two numbers",
        )
    ),
    "history_": (
        lambda v: isinstance(v, list) and all(isinstance(e, dict) for e in v),
        "a list of objects",
    ),
    "motion_identity_": _or_null(_TEXT),
    "map_scale_": _NUMBER,
    "map_shape_": _or_null(
        (
            lambda v: (
                isinstance(v, list) and len(v) == 3 and all(map(_whole(1, 1024)[0], v))
            ),
            "three ints in the range [1, 1024]",
        )
    ),
    "head_": _one_of("map", "pooled"),
    "image_size_": _whole(32, 2**14),
    "architecture_": (_is_architecture, "the architecture of a student"),
}
