"""Qualities, scenes and distortions in, one text token per prompt out (DP-IQA)."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from diffqa_features._backbone.digests import hash_file
from diffqa_features._backbone.settings import TEXT_ENCODER, check_settings, read_json
from diffqa_features._engine.parallel import put_or_disable
from diffqa_features._store.store import FeatureStore
from diffqa_features._utils.files import expand_user
from diffqa_features._utils.hashing import make_key

QUALITIES = ("bad", "poor", "fair", "good", "perfect")
SCENES = (
    "animal", "cityscape", "human", "indoor", "landscape", "night", "plant",
    "still_life", "others",
)  # fmt: skip
# Spelled as in the released code: its weights belong to these tokens.
DISTORTIONS = (
    "jpeg2000 compression", "jpeg compression", "white noise", "gaussian blur",
    "fastfading", "fnoise", "contrast", "lens", "motion", "diffusion", "shifting",
    "color quantization", "oversaturation", "desaturation", "white with color",
    "impulse", "multiplicative", "white noise with denoise", "brighten", "darken",
    "shifting the mean", "jitter", "noneccentricity patch", "pixelate", "quantization",
    "color blocking", "sharpness", "realistic blur", "realistic noise",
    "underexposure", "overexposure", "realistic contrast change", "other realistic",
)  # fmt: skip
TEMPLATE = (
    "a photo of a {scene} with {distortion} artifacts, which is of {quality} quality"
)
# For text encoders that read too few tokens for the other (`tiny`: 24).
SHORT_TEMPLATE = "{quality} {scene} {distortion}"
SHORT_SCENES = ("photo",)
_LONG_ENOUGH = 64  # tokens

_TEXT_FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_BATCH = 64
_KEPT = 4
_kept: OrderedDict[str, np.ndarray] = OrderedDict()
_lock = threading.Lock()


def default_words(name: str, text_length: int) -> tuple[str, ...]:
    """What None stands for in `qualities`, `scenes` or `distortions`.

    A text encoder that reads few tokens is a small one, which knows no scenes: nine
    times as many prompts would cost twice the time and say the same.
    """
    if name == "scenes" and text_length < _LONG_ENOUGH:
        return SHORT_SCENES
    return {"qualities": QUALITIES, "scenes": SCENES, "distortions": DISTORTIONS}[name]


def make_prompts(
    qualities: Sequence[str],
    scenes: Sequence[str],
    distortions: Sequence[str],
    text_length: int,
) -> tuple[str, ...]:
    """Every combination, the distortion changing fastest."""
    template = TEMPLATE if text_length >= _LONG_ENOUGH else SHORT_TEMPLATE
    return tuple(
        template.format(quality=q, scene=s, distortion=d)
        for q, s, d in itertools.product(qualities, scenes, distortions)
    )


def encode_prompts(
    backbone,
    prompts: Sequence[str],
    text_model: str | None = None,
    store: FeatureStore | None = None,
) -> np.ndarray:
    """One vector per prompt, float32 (K, C): the state at its end token.

    From the backbone's own text encoder or, with a `text_model` in CLIP's layout (hub
    id or folder), from that and its projection. Cached in this process, and in the
    store if there is one.
    """
    name = backbone.info.identity if text_model is None else _files_key(text_model)
    key = make_key("here", name, *prompts)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    if text_model is None:
        encode, ids, attended, identity = _own(backbone, prompts)
    else:
        encode, ids, attended, identity = _clip(text_model, prompts, backbone.device)
    store_key = make_key("text tokens", identity, *prompts)
    found = {} if store is None else store.get([store_key])
    tokens = found.get(store_key)
    if tokens is None:
        # Padding behind the longest prompt is not computed: nothing attends to it.
        longest = int(attended.sum(1).max())
        parts = []
        with torch.no_grad():
            for start in range(0, len(ids), _BATCH):
                rows = slice(start, start + _BATCH)
                part = encode(ids[rows, :longest], attended[rows, :longest])
                parts.append(part.float().cpu())
        tokens = torch.cat(parts).numpy()
        put_or_disable(store, {store_key: tokens})
    with _lock:
        _kept[key] = tokens
        while len(_kept) > _KEPT:
            _kept.popitem(last=False)
    return tokens


def _own(backbone, prompts):
    ids, attended = backbone.tokenize(list(prompts))

    def encode(ids, attended):
        made = backbone.encode_embeddings(ids, attended, lambda embedded: embedded)
        states = made.states
        last = attended.sum(1).to(states.device) - 1
        return states[torch.arange(len(states), device=states.device), last]

    return encode, ids, attended, backbone.info.identity


def _clip(name, prompts, device):
    """CLIP's text features: pooled at the end token and projected, not normalised."""
    from transformers import CLIPTextModelWithProjection

    from diffqa_features._backbone.weights import load_text_model, load_tokenizer, quiet

    try:
        with torch.inference_mode(False), quiet():
            config = Path(_text_folder(name), "config.json")
            content = read_json(config)
            inner = content.get("text_config")
            if isinstance(inner, dict):
                # Of a whole CLIP the width of the projection stands beside the towers.
                content = {
                    **inner,
                    "projection_dim": content.get("projection_dim", 512),
                    "quantization_config": content.get("quantization_config"),
                }
            settings = check_settings(content, TEXT_ENCODER, config)
            files = [config.with_name("model.safetensors")]
            model = load_text_model(
                CLIPTextModelWithProjection, settings, config, files, device
            )
            tokenizer = load_tokenizer(config.parent, model.config.vocab_size)
    except (OSError, ValueError, RuntimeError) as error:
        raise OSError(
            f"The text model {name!r} could not be loaded: {error} Pass a folder or a "
            "hub id in the layout of transformers' CLIPModel, with safetensors, such "
            "as 'openai/clip-vit-large-patch14', or text_model=None for the backbone's "
            "own text encoder."
        ) from error
    length = model.config.max_position_embeddings
    batch = tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True,
        return_tensors="pt",
    )  # fmt: skip

    def encode(ids, attended):
        output = model(ids.to(device), attention_mask=attended.long().to(device))
        return output.text_embeds

    digest = hashlib.blake2b(digest_size=16)
    for weight in model.state_dict().values():
        digest.update(weight.detach().cpu().contiguous().numpy())
    ids, attended = batch["input_ids"], batch["attention_mask"].bool()
    digest.update(ids.numpy())
    return encode, ids, attended, digest.hexdigest()


def _text_folder(name):
    """The folder of a text model; for a hub id its snapshot, maybe downloaded."""
    folder = Path(expand_user(name))
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=_TEXT_FILES))


def _files_key(name):
    """Identify a text model by the content of its files, which can change."""
    folder = Path(expand_user(name))
    if not folder.is_dir():
        return f"hub {name}"
    found = [folder / file for file in _TEXT_FILES if (folder / file).is_file()]
    return " ".join(["folder", *map(hash_file, found)])
