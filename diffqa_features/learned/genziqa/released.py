"""Files written by GenzIQA's authors' code -> weights under this library's names."""

import re
from pathlib import Path

from diffqa_features._utils.files import expand_user
from diffqa_features.learned._released import as_array, find_file, read_tensors
from diffqa_features.learned.genziqa.low_rank import LAYERS, factor_name

_CONTEXT = "coop_Model_state_dict.pth"
_LORA = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
_KEY = re.compile(
    r"(?:unet\.)?(?P<path>.+\.attn(?P<which>[12]))\.(?:processor\.)?"
    r"(?P<layer>to_q|to_k|to_v|to_out)_lora\.(?P<side>down|up)\.weight"
)


def read_released(folder, blocks):
    """Read context and low-rank factors: {name: float32 array}, and their sizes.

    `coop_Model_state_dict.pth` holds the prompt learner (``ctx``; its other entries are
    embeddings of the fixed words, which the text encoder provides anyway), and
    `pytorch_lora_weights` the attention processors as saved by diffusers 0.17. Both can
    be in subfolders.
    """
    folder = Path(expand_user(folder))
    learner = read_tensors(find_file(folder, (_CONTEXT,)))
    context = [v for k, v in learner.items() if k.split(".")[-1] == "ctx"]
    if len(context) != 1 or context[0].ndim != 2:
        raise ValueError(
            f"{_CONTEXT} in '{folder}' must hold one matrix of context vectors, 'ctx'. "
            f"Got the entries {sorted(learner)} instead."
        )
    weights = {"context.vectors": as_array(context[0], folder)}
    known = {block.module: block for block in blocks}
    path = find_file(folder, _LORA)
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
