"""The files of GenzVQA's modulator -> weights under this library's names."""

from pathlib import Path

from diffqa_features._utils.files import expand_user
from diffqa_features.learned._released import as_array, find_file, read_tensors
from diffqa_features.learned.genzvqa.modulator import WIDTH, module_name


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
        weights |= _read_tensors(folder, f"{path}Attn.pth", wanted)
    wanted = {}
    for block in blocks:
        ours, theirs = f"modulator.gamma.{module_name(block)}", _released_name(block)
        wanted[f"{theirs}.weight"] = f"{ours}.weight", (1, 2)
        wanted[f"{theirs}.bias"] = f"{ours}.bias", (1,)
    return weights | _read_tensors(folder, "linearBlocks.pth", wanted)


def _read_tensors(folder, name, wanted):
    """Tensors of a file under our names; their names and shapes have to be `wanted`."""
    path = find_file(Path(expand_user(folder)), (name,))
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
