"""A list of file names -> the files of a diffusers folder that a backbone needs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

# Part -> stem of its weight files. Full precision first: a variant is read only where
# nothing else is there, so that what is loaded does not depend on the dtype asked for.
_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
_STEMS["text_encoder"] = "model"
# Of models with two text encoders, as Stable Diffusion XL.
_SECOND = "text_encoder_2"
_REFUSED = (".gguf", ".bin", ".ckpt", ".pt", ".pth")
LORA = "pytorch_lora_weights.safetensors"
"""Weights of an adapter beside those of a model, which alone would be used."""
_VARIANTS = (None, "fp16", "bf16")
_TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")
_TOKENIZER_EXTRA = ("tokenizer_config.json", "special_tokens_map.json")
_TOKENIZER_EXTRA += ("added_tokens.json",)


@dataclass(frozen=True)
class Parts:
    """The files to read, the weight variant of each part, and what is missing."""

    configs: tuple[str, ...]
    weights: tuple[tuple[str, str | None, tuple[str, ...]], ...]  # part, variant, files
    problems: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of the backbone, relative to its folder."""
        return self.configs + tuple(f for _, _, files in self.weights for f in files)

    def with_vae(self, other: "Parts") -> "Parts":
        """The same with the VAE of `list_vae`, in the place of its own."""
        (new,) = other.weights
        weights = tuple(new if old[0] == "vae" else old for old in self.weights)
        return replace(self, weights=weights)

    def weights_of(self, part: str) -> tuple[str | None, tuple[str, ...]]:
        """Return the variant and the files that hold the weights of `part`."""
        return next((v, files) for name, v, files in self.weights if name == part)


def list_parts(names: Iterable[str]) -> Parts:
    """Choose the safetensors, JSON and text files that a backbone needs.

    `names` are paths relative to the model folder, with forward slashes, from a disk or
    a hub listing.
    """
    names = set(names)
    configs, weights, problems = [], [], []
    stems, tokenizers = _STEMS, ("tokenizer",)
    if f"{_SECOND}/config.json" in names:
        stems, tokenizers = {**_STEMS, _SECOND: "model"}, ("tokenizer", "tokenizer_2")
    for part, stem in stems.items():
        _add_part(part, stem, names, configs, weights, problems)
    _require("scheduler/scheduler_config.json", names, configs, problems)

    for folder in tokenizers:
        present = [f for f in _TOKENIZER if f"{folder}/{f}" in names]
        if "tokenizer.json" not in present and len(present) < 2:
            problems.append(
                f"{folder}/ has neither tokenizer.json nor vocab.json + merges.txt"
            )
        extra = [f for f in _TOKENIZER_EXTRA if f"{folder}/{f}" in names]
        configs += [f"{folder}/{f}" for f in present + extra]
    if any(PurePosixPath(name).name == LORA for name in names):
        problems.append(f"{LORA} holds LoRA weights that are not merged")
    return Parts(tuple(configs), tuple(weights), tuple(problems))


def list_vae(names: Iterable[str]) -> Parts:
    """The files of an autoencoder in a folder of its own, as those of ``vae/``."""
    names = {f"vae/{name}" for name in names}
    configs, weights, problems = [], [], []
    _add_part("vae", _STEMS["vae"], names, configs, weights, problems)
    return Parts(tuple(configs), tuple(weights), tuple(problems))


def _add_part(part, stem, names, configs, weights, problems):
    _require(f"{part}/config.json", names, configs, problems)
    variant, files = _find_weights(part, stem, names)
    if files:
        weights.append((part, variant, files))
        return
    inside = [name for name in names if name.startswith(f"{part}/")]
    for kind in _REFUSED:
        if any(name.endswith(kind) for name in inside):
            problems.append(f"{part}/ has {kind} weights only")
            return
    problems.append(f"{part}/{stem}.safetensors is missing")


def _require(name: str, names: set[str], found: list[str], problems: list[str]) -> None:
    if name in names:
        found.append(name)
    else:
        problems.append(f"{name} is missing")


def _find_weights(
    part: str, stem: str, names: set[str]
) -> tuple[str | None, tuple[str, ...]]:
    for variant in _VARIANTS:
        dotted = f".{variant}" if variant else ""
        single = f"{part}/{stem}{dotted}.safetensors"
        if single in names:
            return variant, (single,)
        # Both spellings of a sharded variant are in use on the hub.
        tag = f"({re.escape(dotted)})?"
        shard = rf"{part}/{stem}{tag}-\d+-of-\d+{tag}\.safetensors"
        shards = sorted(name for name in names if re.fullmatch(shard, name))
        index = f"{part}/{stem}.safetensors.index{dotted}.json"
        if index in names and shards:
            return variant, (index, *shards)
    return None, ()
