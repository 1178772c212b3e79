"""The files that GenzIQA's authors write -> weights under this library's names."""

import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from diffqa_features.learned._low_rank import LAYERS, factor_name
from diffqa_features.learned._modulator import WIDTH, module_name

_CONTEXT = "coop_Model_state_dict.pth"
_LORA = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
_KEY = re.compile(
    r"(?:unet\.)?(?P<path>.+\.attn(?P<which>[12]))\.(?:processor\.)?"
    r"(?P<layer>to_q|to_k|to_v|to_out)_lora\.(?P<side>down|up)\.weight"
)


def read_released(folder, blocks):
    """Read context and low-rank factors: {name: float32 array}, and their sizes.

    `coop_Model_state_dict.pth` holds the prompt learner (``ctx``; its other entries are
    embeddings of the fixed words, which the text encoder gives again), and
    `pytorch_lora_weights` the attention processors as diffusers 0.17 saves them. They
    may lie in sub-folders.
    """
    folder = Path(folder).expanduser()
    learner = read_tensors(_find(folder, (_CONTEXT,)))
    context = [v for k, v in learner.items() if k.split(".")[-1] == "ctx"]
    if len(context) != 1 or context[0].ndim != 2:
        raise ValueError(
            f"{_CONTEXT} in '{folder}' must hold one matrix of context vectors, 'ctx'. "
            f"Got the entries {sorted(learner)} instead."
        )
    weights = {"context.vectors": as_array(context[0], folder)}
    known = {block.module: block for block in blocks}
    path = _find(folder, _LORA)
    for key, value in read_tensors(path).items():
        match = _KEY.fullmatch(key)
        if match is None or (match["which"] == "2" and match["path"] not in known):
            raise ValueError(
                f"{path} holds {key!r}, which is no low-rank factor of a "
                "cross-attention layer of this backbone."
            )
        if match["which"] == "1":
            # Saved beside the others, and never trained: up is still 0.
            if match["side"] == "up" and value.any():
                raise ValueError(
                    f"{path} changes self-attention ({key!r}), which GenzIQA does not."
                )
            continue
        name = factor_name(known[match["path"]], match["layer"], match["side"])
        weights[f"lora.{name}"] = as_array(value, path)
    missing = [
        f"{block.module}.{layer} ({side})"
        for block in blocks
        for layer in LAYERS
        for side in ("down", "up")
        if f"lora.{factor_name(block, layer, side)}" not in weights
    ]
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} of the low-rank factors of this backbone, "
            f"first {missing[0]}."
        )
    ranks = {v.shape[0] for k, v in weights.items() if k.endswith("_down")}
    if len(ranks) != 1:
        raise ValueError(f"{path} mixes the ranks {sorted(ranks)}.")
    return weights, {"n_context": len(context[0]), "lora_rank": ranks.pop()}


def read_modulator(folder, blocks, widths):
    """Read the temporal quality modulator of GenzVQA: {name: float32 array}.

    `slowAttn.pth` and `fastAttn.pth` hold per block, which they call
    ``down_block_0_attn_1``, ``norm``, ``k_down`` and ``k_up``; `linearBlocks.pth` the
    layer that makes a factor. `widths` are the numbers of slow and fast features.
    """
    weights = {}
    for path, width in zip(("slow", "fast"), widths, strict=True):
        wanted = {}
        for block in blocks:
            name = f"modulator.{path}.{module_name(block)}"
            layers = {
                "norm": (f"{name}.norm_", (width,), (width,)),
                "k_down": (f"{name}.down.", (WIDTH, width), (WIDTH,)),
                "k_up": (f"{name}.up.", (block.channels, WIDTH), (block.channels,)),
            }
            for layer, (ours, weight, bias) in layers.items():
                theirs = f"{_released_name(block)}.{layer}"
                wanted[f"{theirs}.weight"] = f"{ours}weight", weight
                wanted[f"{theirs}.bias"] = f"{ours}bias", bias
        weights |= _take(folder, f"{path}Attn.pth", wanted)
    wanted = {}
    for block in blocks:
        ours, theirs = f"modulator.gamma.{module_name(block)}", _released_name(block)
        wanted[f"{theirs}.weight"] = f"{ours}.weight", (1, 2)
        wanted[f"{theirs}.bias"] = f"{ours}.bias", (1,)
    return weights | _take(folder, "linearBlocks.pth", wanted)


def _take(folder, name, wanted):
    """Tensors of a file under our names; their names and shapes have to be `wanted`."""
    path = _find(Path(folder).expanduser(), (name,))
    found = read_tensors(path)
    odd = sorted(found.keys() ^ wanted.keys())
    if odd:
        raise ValueError(
            f"{path} must hold {len(wanted)} tensors for the blocks of this backbone, "
            f"and holds {len(found)}. The first that is missing or unknown is "
            f"{odd[0]!r}."
        )
    for theirs, (_, shape) in wanted.items():
        if tuple(found[theirs].shape) != shape:
            raise ValueError(
                f"{path}: {theirs!r} has the shape {tuple(found[theirs].shape)}, and "
                f"{shape} fits this backbone and this motion network."
            )
    return {ours: as_array(found[theirs], path) for theirs, (ours, _) in wanted.items()}


def _released_name(block):
    """``down_block_0_attn_1`` of ``down0.1``."""
    level, _, layer = block.name.partition(".")
    kind = level.rstrip("0123456789")
    number = f"_{level.removeprefix(kind)}" if level != kind else ""
    return f"{kind}_block{number}_attn_{layer}"


def _find(folder, names):
    found = sorted(path for name in names for path in folder.rglob(name))
    if len(found) != 1:
        wanted = " or ".join(names)
        listed = ", ".join(map(str, found)) or "none"
        raise FileNotFoundError(
            f"'{folder}' and its sub-folders must hold one {wanted}. Found: {listed}."
        )
    return found[0]


def read_tensors(path):
    """A file of tensors by name; nothing in it is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Mapped: a whole model is read piece by piece, and not what nobody takes.
        mapped = zipfile.is_zipfile(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        odd = [k for k, v in dict(found).items() if not isinstance(v, torch.Tensor)]
        if odd:
            raise ValueError(f"{odd[0]!r} is a {type(found[odd[0]]).__name__}")
        return found
    except Exception as error:  # torch and zipfile raise many types on damage
        raise ValueError(
            f"{path} is not a file of tensors only: {error}. Nothing else is loaded, "
            "since it could run code."
        ) from error


def as_array(tensor, path):
    """A float32 copy: a mapped tensor would change, or crash, with its file."""
    array = np.array(tensor.float().numpy(), np.float32, order="C")
    if not np.isfinite(array).all():
        raise ValueError(
            f"'{path}' holds weights that are NaN or infinity. It is damaged; copy or "
            "download it again."
        )
    return array
