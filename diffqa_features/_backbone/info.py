"""A backbone's name -> its description, without loading weights."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from diffqa_features._backbone.blocks import Block, Stage, list_blocks, list_stages
from diffqa_features._backbone.digests import hash_file
from diffqa_features._backbone.files import Parts, list_parts, list_vae
from diffqa_features._backbone.hub import (
    find_commit,
    find_folder,
    find_vae,
    list_files,
    split_vae,
    with_vae,
)
from diffqa_features._backbone.settings import (
    SCHEDULE,
    TEXT_ENCODER,
    TOKENIZER,
    UNET,
    VAES,
    check_settings,
    read_json,
)

_MOST_BLOCKS = 4096
_SIZES = 6  # of a picture, that a model of the SDXL kind is told


@dataclass(frozen=True)
class BackboneInfo:
    """Contents of the configuration files of a backbone.

    Attributes
    ----------
    name : str
        The requested alias or hub id, or the absolute path of a local folder; with
        another VAE, of both (:func:`diffqa_features._backbone.hub.with_vae`).
    folder : Path
        Folder in diffusers layout.
    vae_folder : Path
        Folder of its VAE: ``vae/`` in the first, or that of another.
    commit : str or None
        Hub commit, if the folder is a snapshot in the hub cache.
    blocks : tuple of Block
        Cross-attention blocks in execution order.
    stages : tuple of Stage
        UNet stages in execution order.
    latent_channels : int
    latent_factor : int
        Pixels per latent cell, along each side.
    image_size : int
        Native side length in pixels.
    multiple : int
        Sides in pixels must be multiples of this.
    prediction_type : {'epsilon', 'v_prediction', 'sample'}
        What the UNet predicts.
    text_length : int
        Tokens per prompt, with start, end and padding.
    parts : Parts
        The files to read, relative to the folder.
    vae_class : {'AutoencoderKL', 'AutoencoderTiny'}
    settings : dict of str to dict
        The settings used from the configurations, by part: ``unet``, ``vae``,
        ``text_encoder``, ``schedule``, ``tokenizer``; with two text encoders also
        ``text_encoder_2`` and ``tokenizer_2``.
    """

    name: str
    folder: Path
    vae_folder: Path
    commit: str | None
    blocks: tuple[Block, ...]
    stages: tuple[Stage, ...]
    latent_channels: int
    latent_factor: int
    image_size: int
    multiple: int
    prediction_type: str
    text_length: int
    parts: Parts = field(repr=False)
    vae_class: str
    settings: dict[str, dict[str, Any]] = field(repr=False, compare=False)

    @property
    def two_texts(self) -> bool:
        """Whether prompts pass two text encoders, as in Stable Diffusion XL."""
        return "text_encoder_2" in self.settings

    def require_one_text(self, what: str) -> None:
        """Refuse a model with two text encoders, where `what` edits the only one."""
        if self.two_texts:
            raise ValueError(
                f"{what} needs a backbone with one text encoder, and {self.name!r} has "
                "two. Choose one of the Stable Diffusion 1 or 2 kind, such as 'sd15'."
            )

    @cached_property
    def identity(self) -> str:
        """Fingerprint (hex) of configurations and weights, independent of names.

        It covers every byte but no name. Files are read once per process, large ones
        once per machine until they change.
        """
        return _fingerprint(self)

    def path(self, file: str) -> Path:
        """Where a file of `parts` is."""
        if file.startswith("vae/"):
            return self.vae_folder / file.removeprefix("vae/")
        return self.folder / file


def describe_backbone(name: str | os.PathLike) -> BackboneInfo:
    """Read a backbone's JSON files; load no weights and import no torch.

    Parameters
    ----------
    name : str or path
        Alias, hub id or folder, see :func:`diffqa_features._backbone.hub.find_folder`,
        perhaps :func:`~diffqa_features._backbone.hub.with_vae`.

    Raises
    ------
    ValueError
        If the name is unknown or the model is not a text-to-image latent diffusion
        model of the Stable Diffusion 1, 2 or XL type.
    OSError
        If files are missing.
    """
    own, other = split_vae(name)
    name, folder = find_folder(own)
    unet = read_json(folder / "unet/config.json")
    vae = read_json(folder / "vae/config.json")
    texts = {"text_encoder": _text_config(folder / "text_encoder/config.json")}
    second = folder / "text_encoder_2/config.json"
    if unet.get("addition_embed_type") and second.is_file():
        texts["text_encoder_2"] = _text_config(second)
    scheduler = read_json(folder / "scheduler/scheduler_config.json")
    problem = _find_problem(unet, vae, list(texts.values()), scheduler)
    if not problem:
        vae_class = vae["_class_name"]
        settings = _check_all(folder, unet, vae, texts, scheduler)
        unet, vae = settings["unet"], settings["vae"]
        problem = _find_width_problem(unet, [settings[part] for part in texts])
    if problem:
        raise ValueError(f"The backbone {name!r} is not supported: {problem}")
    parts = list_parts(list_files(folder))
    factor = _latent_factor(vae_class, vae)
    size = _sample_size(unet, vae, folder, factor)
    vae_folder = folder / "vae"
    if other is not None:
        other, vae_folder = find_vae(other)
        vae_class, settings["vae"] = _check_vae(other, vae_folder, name, vae, factor)
        parts = parts.with_vae(list_vae(list_files(vae_folder)))
        name = with_vae(name, other)

    try:
        blocks, stages = list_blocks(unet), list_stages(unet)
    except (ValueError, IndexError, TypeError) as error:  # levels that do not match
        raise ValueError(
            f"{folder / 'unet/config.json'} describes no UNet of a known kind: {error}"
        ) from error
    if not blocks:
        raise ValueError(
            f"The backbone {name!r} is not supported: its UNet has no "
            "cross-attention block."
        )
    if len(blocks) > _MOST_BLOCKS:
        raise ValueError(
            f"{folder / 'unet/config.json'} asks for {len(blocks)} cross-attention "
            f"blocks, and at most {_MOST_BLOCKS} are built. It is not the file of a "
            "model."
        )
    levels = len(unet.get("block_out_channels", (320, 640, 1280, 1280)))
    return BackboneInfo(
        name=name,
        folder=folder,
        vae_folder=vae_folder,
        commit=find_commit(folder),
        blocks=blocks,
        stages=stages,
        latent_channels=unet.get("in_channels", 4),
        latent_factor=factor,
        image_size=size,
        multiple=factor * 2 ** (levels - 1),
        prediction_type=scheduler.get("prediction_type", "epsilon"),
        text_length=min(
            _text_length(settings[part.replace("text_encoder", "tokenizer")], text)
            for part, text in texts.items()
        ),
        parts=parts,
        vae_class=vae_class,
        settings=settings,
    )


def _check_vae(name: str, folder: Path, backbone: str, own: dict, factor: int):
    """Class and settings of a VAE that stands in for a backbone's own."""
    path = folder / "config.json"
    content = read_json(path)
    vae_class = content.get("_class_name")
    if vae_class not in VAES:
        raise ValueError(
            f"The VAE {name!r} is not supported: it is a {vae_class}, not an "
            f"{' or '.join(VAES)}."
        )
    settings = check_settings(content, VAES[vae_class], path)
    makes = settings.get("latent_channels", 4), _latent_factor(vae_class, settings)
    wanted = own.get("latent_channels", 4), factor
    if makes != wanted:
        raise ValueError(
            f"The VAE {name!r} does not fit the backbone {backbone!r}: it makes "
            f"{makes[0]} channels at a factor of {makes[1]}, and the UNet was trained "
            f"on {wanted[0]} channels at {wanted[1]}. Choose one that was made for "
            "this kind of model."
        )
    return vae_class, settings


def _text_config(path: Path) -> dict[str, Any]:
    content = read_json(path)
    inner = content.get("text_config") or content
    if not isinstance(inner, dict):
        raise ValueError(f"{path}: 'text_config' must be an object. Got {inner!r:.60}.")
    return inner


def _check_all(folder: Path, unet: dict, vae: dict, texts: dict, scheduler: dict):
    """The checked settings of each file."""
    wanted = {
        "unet": (unet, UNET, folder / "unet/config.json"),
        "vae": (vae, VAES[vae["_class_name"]], folder / "vae/config.json"),
        "schedule": (scheduler, SCHEDULE, folder / "scheduler/scheduler_config.json"),
    }
    for part, text in texts.items():
        wanted[part] = text, TEXT_ENCODER, folder / part / "config.json"
        words = part.replace("text_encoder", "tokenizer")
        path = folder / words / "tokenizer_config.json"
        wanted[words] = read_json(path) if path.is_file() else {}, TOKENIZER, path
    return {part: check_settings(*each) for part, each in wanted.items()}


def _find_problem(
    unet: dict, vae: dict, texts: list[dict], scheduler: dict
) -> str | None:
    """Why these configurations are not supported, or None."""
    if unet.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        return f"its UNet is a {unet['_class_name']}, not a UNet2DConditionModel."
    for key in (
        "class_embed_type",
        "num_class_embeds",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "dual_cross_attention",
    ):
        if unet.get(key):
            return (
                f"its UNet wants a condition beside the prompt ({key}={unet[key]!r}), "
                "as unCLIP models do."
            )
    if unet.get("attention_type", "default") != "default":
        return f"its UNet has attention_type={unet['attention_type']!r}."
    if vae.get("_class_name") not in ("AutoencoderKL", "AutoencoderTiny"):
        return (
            f"its VAE is a {vae.get('_class_name')}, not an AutoencoderKL or "
            "AutoencoderTiny."
        )
    latent_channels = vae.get("latent_channels", 4)
    in_channels, out_channels = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if in_channels != latent_channels:
        return (
            f"its UNet takes {in_channels} channels and its VAE makes "
            f"{latent_channels}, as in inpainting, depth and upscaling models."
        )
    if out_channels != in_channels:
        return f"its UNet takes {in_channels} channels and returns {out_channels}."
    problem = _find_text_problem(unet, texts)
    if problem:
        return problem
    if not (scheduler.get("beta_schedule") or scheduler.get("trained_betas")):
        return (
            f"its scheduler {scheduler.get('_class_name')} names no betas; continuous "
            "schedules (EDM, as in Playground 2.5) have no integer timesteps."
        )
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction", "sample"):
        return f"its scheduler has prediction_type={prediction!r}."
    return None


def _find_text_problem(unet: dict, texts: list[dict]) -> str | None:
    for text in texts:
        kind = text.get("model_type", "clip_text_model")
        if kind not in ("clip_text_model", "clip"):
            return f"its text encoder is a {kind!r}, not a CLIP text model."
    added = unet.get("addition_embed_type")
    if added and (added != "text_time" or len(texts) < 2):
        return (
            f"its UNet wants a condition beside the prompt (addition_embed_type="
            f"{added!r}), which is known of models of the Stable Diffusion XL kind, "
            "with text_encoder_2/ and tokenizer_2/."
        )
    return None


def _find_width_problem(unet: dict, texts: list[dict]) -> str | None:
    """Why these checked settings do not fit each other, or None."""
    made = sum(text.get("hidden_size", 512) for text in texts)
    taken = unet.get("cross_attention_dim", 1280)
    if any(made != dim for dim in (taken if isinstance(taken, list) else [taken])):
        return f"its text encoder makes {made} channels and its UNet takes {taken}."
    if len(texts) < 2:
        return None
    pooled = texts[1].get("projection_dim", 512) or 0
    size = pooled + _SIZES * (unet.get("addition_time_embed_dim", 256) or 0)
    if unet.get("projection_class_embeddings_input_dim") != size:
        return (
            "its UNet's projection_class_embeddings_input_dim is "
            f"{unet.get('projection_class_embeddings_input_dim')}, where pooled text "
            f"and {_SIZES} sizes make {size}. The refiner of Stable Diffusion XL is "
            "such a model; take its base."
        )
    return None


def _latent_factor(vae_class: str, vae: dict[str, Any]) -> int:
    if vae_class == "AutoencoderTiny":
        return 2 ** (len(vae.get("num_encoder_blocks", (1, 3, 3, 3))) - 1)
    return 2 ** (len(vae.get("block_out_channels", (64,))) - 1)


def _sample_size(unet: dict, vae: dict, folder: Path, factor: int) -> int:
    size = unet.get("sample_size")
    pixels = vae.get("sample_size") if size is None else None
    sides = size if isinstance(size, list) else [size, size]
    if pixels is None and (size is None or sides[0] != sides[1]):
        raise ValueError(
            f"{folder / 'unet/config.json'} gives no square sample_size. Set it to the "
            "latent side length that the UNet was trained at."
        )
    return pixels if pixels is not None else sides[0] * factor


def _text_length(tokenizer: dict[str, Any], text: dict[str, Any]) -> int:
    positions = text.get("max_position_embeddings", 77)
    # A tokenizer without a limit says 1e30.
    return int(min(tokenizer.get("model_max_length") or positions, positions))


def _fingerprint(info: BackboneInfo) -> str:
    digest = hashlib.sha256()
    for name in info.parts.configs:
        path = info.path(name)
        if path.suffix == ".json":
            # Parsed, so that a file that was only written anew counts as the same.
            content = read_json(path)
            content.pop("_diffusers_version", None)
            content.pop("_name_or_path", None)
            payload = json.dumps(content, sort_keys=True).encode()
        else:
            payload = path.read_bytes()
        digest.update(f"{name}:{hashlib.sha256(payload).hexdigest()}\n".encode())
    for part, _, names in info.parts.weights:
        for name in names:
            digest.update(f"{part}:{hash_file(info.path(name))}\n".encode())
    return digest.hexdigest()
