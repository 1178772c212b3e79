"""A described backbone -> its frozen torch modules, tokenizer and noise schedule."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from diffqa_features._backbone.hub import MERGE_LORA
from diffqa_features._backbone.info import BackboneInfo
from diffqa_features._backbone.settings import (
    SPECIAL_TOKENS,
    TOKENIZER,
    check_settings,
    read_json,
)
from diffqa_features._backbone.tensors import (
    pick_shards,
    read_tensor_list,
    read_tensors,
)
from diffqa_features._utils.devices import picture_layout

# diffusers and transformers take seconds to import, and only loading needs them:
# this is the one place below `learned/` that does.
#
# No folder is given to their `from_pretrained`: that obeys much more of its files than
# the model needs, down to quantizers, kernels from the hub and names of other files.
# Modules are made from settings that were checked, on no memory, compared with the
# headers of the weights, and filled from the files that were listed.

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")


def read_schedule(info: BackboneInfo) -> torch.Tensor:
    """Return ᾱ_t, float64, for any sampler named by the scheduler's configuration."""
    from diffusers import DDPMScheduler

    path = info.folder / "scheduler/scheduler_config.json"
    # Samplers share the training betas and differ in how they step, which we never do.
    with _named(path, "noise schedule"):
        schedule = DDPMScheduler(**info.settings["schedule"])
    alphas = schedule.alphas_cumprod.double()
    if not len(alphas) or not ((alphas >= 0) & (alphas <= 1)).all():  # NaN is neither
        raise ValueError(
            f"{path} gives betas whose cumulative products are not all in [0, 1]. "
            "Copy or download it again."
        )
    return alphas


def load_unet(
    info: BackboneInfo, device: torch.device, dtype: torch.dtype
) -> torch.nn.Module:
    """Load the UNet without making a second copy of its weights."""
    from diffusers import UNet2DConditionModel

    return load_module(
        lambda: UNet2DConditionModel.from_config(info.settings["unet"]),
        info.folder / "unet/config.json",
        _files_of(info, "unet"),
        device=device,
        dtype=dtype,
        exact=True,
    )


def load_module(
    make: Callable[[], torch.nn.Module],
    config: Path,
    files: Sequence[Path],
    *,
    device: torch.device,
    dtype: torch.dtype,
    rename: Callable[[str], str] = str,
    exact: bool = False,
) -> torch.nn.Module:
    """Build a module and load it from safetensors files; no other file is opened.

    `rename` maps names in the files and in the module to a common form. With `exact`,
    the files must contain nothing else.

    Raises
    ------
    ValueError
        If its configuration does not describe a module.
    OSError
        If files are corrupt, do not match, or contain non-finite values.
    """
    found = {rename(name): each for name, each in read_tensor_list(files).items()}
    # Nothing is allocated before the shapes are known to be those of the files.
    with _named(config, "model"), torch.device("meta"):
        module = make()
    wanted = {rename(name): name for name in module.state_dict()}
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    missing = [name for name in wanted if name not in found]
    other = [n for n in wanted if n in found and found[n].shape != shapes[wanted[n]]]
    # Older files hold the numbers of positions, which are not trained.
    unknown = [n for n in found if n not in wanted and "position_ids" not in n]
    if missing or other or (exact and unknown):
        first = (missing + other + unknown)[0]
        lora = any("lora_" in name for name in unknown)
        raise OSError(
            f"The weights in {config.parent} do not fit its config.json: "
            f"{len(missing)} are missing, {len(other)} are of another shape and "
            f"{len(unknown)} are unknown, first {first}."
            + (f" {MERGE_LORA}" if lora else "")
        )
    weights = {}
    values = read_tensors(found[name] for name in wanted)
    for own, value in zip(wanted.values(), values, strict=True):
        layout = picture_layout(device) if value.ndim == 4 else torch.preserve_format
        # Copied: a view of the file would change, or crash, with the file.
        weights[own] = value.to(device, dtype, copy=True, memory_format=layout)
    module.load_state_dict(weights, strict=True, assign=True)
    for owner in module.modules():
        positions = dict(owner.named_buffers(recurse=False)).get("position_ids")
        if positions is not None and positions.is_meta:
            count = torch.arange(positions.shape[-1], device=device)
            owner.position_ids = count.expand(positions.shape)
    return module.eval().requires_grad_(False)


def layout_of(weight: torch.Tensor) -> torch.memory_format:
    """Memory layout of a weight on its device: kernels like pictures."""
    is_kernel = weight.ndim == 4
    return picture_layout(weight.device) if is_kernel else torch.contiguous_format


def load_vae(info: BackboneInfo) -> torch.nn.Module:
    """Load the encoder side of the VAE in float32 on the CPU."""
    vae = _load_whole_vae(info)
    # Features only ever encode.
    vae.decoder = None
    return vae


def load_decoder(info: BackboneInfo) -> torch.nn.Module:
    """Load the decoder side of the VAE in float32 on the CPU; no backbone keeps it."""
    vae = _load_whole_vae(info)
    vae.encoder = None
    return vae


def _load_whole_vae(info: BackboneInfo) -> torch.nn.Module:
    import diffusers

    return load_module(
        lambda: getattr(diffusers, info.vae_class).from_config(info.settings["vae"]),
        info.path("vae/config.json"),
        _files_of(info, "vae"),
        device=torch.device("cpu"),
        dtype=torch.float32,
        rename=_rename_attention,
    )


def latent_scale(
    config: Mapping, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift and scale of a VAE's latents, one each or one per channel: (1, C, 1, 1)."""
    scale = torch.tensor(config["scaling_factor"], device=device)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return torch.tensor(config.get("shift_factor") or 0.0, device=device), scale
    mean, std = (
        torch.tensor(value, device=device).view(1, -1, 1, 1) for value in (mean, std)
    )
    return mean, scale / std


def _rename_attention(name: str) -> str:
    # The published VAE of Stable Diffusion 1 has the names of older versions.
    if ".attentions." in name:
        for old, new in _OLD_NAMES.items():
            name = name.replace(f".{old}.", f".{new}.")
    return name


_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_texts(info: BackboneInfo, device: torch.device) -> list[tuple]:
    """Load each tokenizer with its text encoder in float32: one, or two as in SDXL."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    parts = [("text_encoder", "tokenizer", CLIPTextModel)]
    if info.two_texts:
        parts.append(("text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection))
    loaded = []
    for part, words, kind in parts:
        encoder = load_text_model(
            kind,
            info.settings[part],
            info.folder / part / "config.json",
            _files_of(info, part),
            device,
        )
        tokenizer = load_tokenizer(info.folder / words, encoder.config.vocab_size)
        loaded.append((tokenizer, encoder))
    return loaded


def load_text_model(
    kind: type,
    settings: dict,
    config: Path,
    files: Sequence[Path],
    device: torch.device,
) -> torch.nn.Module:
    """Load a CLIP text model of transformers' class `kind`, in float32."""
    from transformers import CLIPTextConfig

    return load_module(
        lambda: kind(CLIPTextConfig(**settings, attn_implementation="sdpa")),
        config,
        files,
        device=device,
        dtype=torch.float32,
        # With or without the prefix, as versions of transformers differ.
        rename=lambda name: name.removeprefix("text_model."),
    )


def load_tokenizer(folder: Path, vocabulary: int):
    """Load a CLIP tokenizer whose ids are below `vocabulary`."""
    from transformers import CLIPTokenizer

    # A copy with the settings that are obeyed: from_pretrained takes them, the other
    # files that they name and templates from the folder alone.
    with tempfile.TemporaryDirectory(prefix="diffqa-") as copy:
        for name in _TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(copy, name))
        for name, allowed in (
            ("tokenizer_config.json", TOKENIZER),
            ("special_tokens_map.json", SPECIAL_TOKENS),
        ):
            path = folder / name
            if path.is_file():
                kept = check_settings(read_json(path), allowed, path)
                Path(copy, name).write_text(json.dumps(kept), encoding="utf-8")
        with _named(folder, "tokenizer"):
            tokenizer = CLIPTokenizer.from_pretrained(copy, local_files_only=True)
            largest = max(tokenizer.get_vocab().values(), default=-1)
    tokenizer.name_or_path = str(folder)
    if not 0 <= largest < vocabulary:
        raise ValueError(
            f"The tokenizer in {folder} has ids up to {largest}, and its text encoder "
            f"has embeddings for {vocabulary}. They are not of one model."
        )
    return tokenizer


def _files_of(info: BackboneInfo, part: str) -> list[Path]:
    return pick_shards([info.path(f) for f in info.parts.weights_of(part)[1]])


@contextlib.contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Turn any error that the libraries raise on a file into one that names it."""
    try:
        yield
    # They raise what the arithmetic or the parser inside raises, of any type.
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        raise ValueError(
            f"{path} describes no {what} that can be made: {type(error).__name__}: "
            f"{lines[0]} Copy or download it again."
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the loading messages of diffusers and transformers, then restore them."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
