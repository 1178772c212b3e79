"""A UNet's config.json -> its cross-attention blocks and stages; patterns -> names."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

# Whether a UNet level of this type holds Transformer2DModels (and so an `attn2`).
_DOWN_TYPES = {
    "CrossAttnDownBlock2D": True,
    "DownBlock2D": False,
    "AttnDownBlock2D": False,
    "ResnetDownsampleBlock2D": False,
}
_UP_TYPES = {
    "CrossAttnUpBlock2D": True,
    "UpBlock2D": False,
    "AttnUpBlock2D": False,
    "ResnetUpsampleBlock2D": False,
}
_MID_TYPES = {"UNetMidBlock2DCrossAttn": True, "UNetMidBlock2D": False, None: False}


@dataclass(frozen=True)
class Block:
    """One cross-attention block: its location and width."""

    name: str
    module: str  # dotted path of its cross-attention layer in the UNet
    channels: int
    heads: int


@dataclass(frozen=True)
class Stage:
    """One UNet stage and the channels of its output state."""

    name: str
    module: str
    channels: int


def list_blocks(config: dict[str, Any]) -> tuple[Block, ...]:
    """Name the cross-attention blocks of a UNet in execution order.

    Computed from the configuration alone, so column names and block patterns are known
    without loading a model. ``down1.0`` is the first block of the second down level; if
    a Transformer2DModel has several transformer layers, as in Stable Diffusion XL, a
    third number counts them (``down1.0.0 down1.0.1``), and ``down1.0`` selects all.
    """
    widths, downs, mid, ups = _levels(config)
    count = len(widths)
    # diffusers calls the number of heads `attention_head_dim` in every UNet config.
    heads = _per_level(config, "attention_head_dim", count, 8)
    layers = _per_level(config, "layers_per_block", count, 2)
    depths = _per_level(config, "transformer_layers_per_block", count, 1)
    up_depths = config.get("reverse_transformer_layers_per_block") or depths[::-1]

    blocks = []
    for i, attends in enumerate(downs):
        if attends:
            level_depths = _per_layer(depths[i], layers[i])
            paths = _layer_paths(f"down{i}", f"down_blocks.{i}", level_depths)
            blocks += [Block(*path, widths[i], heads[i]) for path in paths]
    if mid:
        mid_depth = _per_layer(depths[-1], 1)[:1]
        paths = _layer_paths("mid", "mid_block", mid_depth)
        blocks += [Block(*path, widths[-1], heads[-1]) for path in paths]
    for i, attends in enumerate(ups):
        if attends:
            # An up level mirrors a down level and has one layer more.
            mirror = count - 1 - i
            level_depths = _per_layer(up_depths[i], layers[mirror] + 1)
            paths = _layer_paths(f"up{i}", f"up_blocks.{i}", level_depths)
            blocks += [Block(*path, widths[mirror], heads[mirror]) for path in paths]
    return tuple(blocks)


def list_stages(config: dict[str, Any]) -> tuple[Stage, ...]:
    """Name the stages of a UNet in execution order, with their output channels."""
    widths, downs, _, ups = _levels(config)
    stages = [
        Stage(f"down{i}", f"down_blocks.{i}", widths[i]) for i in range(len(downs))
    ]
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None:
        stages.append(Stage("mid", "mid_block", widths[-1]))
    stages += [
        Stage(f"up{i}", f"up_blocks.{i}", widths[-1 - i]) for i in range(len(ups))
    ]
    return tuple(stages)


def select_blocks(
    patterns: str | Iterable[str], names: Iterable[str]
) -> tuple[str, ...]:
    """Select the names that match any of the patterns, in the order of `names`.

    Parameters
    ----------
    patterns : str or iterable of str
        Names, shell patterns (``"up*"``, ``"down[01].*"``), or ``"all"``. Of a block
        with several layers, ``"down1.0.3"`` is one and ``"down1.0"`` all.
    names : iterable of str
        All names, in execution order.

    Returns
    -------
    tuple of str
        Each selected name once, in execution order.

    Raises
    ------
    ValueError
        If there is no pattern, or a pattern matches nothing; the message lists the
        closest names and all names.

    Examples
    --------
    >>> select_blocks(["up*", "mid.0"], ["down0.0", "mid.0", "up1.0", "up1.1"])
    ('mid.0', 'up1.0', 'up1.1')
    """
    names = tuple(names)
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not patterns:
        raise ValueError(f"No block is named. Blocks: {', '.join(names)}.")
    chosen = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"A block pattern must be a str. Got {pattern!r} instead.")
        found = [name for name in names if _matches(name, pattern)]
        if not found:
            close = get_close_matches(pattern, names, n=3, cutoff=0.0)
            raise ValueError(
                f"No block matches {pattern!r}. "
                f"Closest names: {', '.join(close) or 'none'}. "
                f"All blocks: {', '.join(names) or 'none'}."
            )
        chosen.update(found)
    return tuple(name for name in names if name in chosen)


def _matches(name: str, pattern: str) -> bool:
    block = ".".join(name.split(".")[:2])
    return pattern == "all" or fnmatchcase(name, pattern) or fnmatchcase(block, pattern)


def _levels(config: dict[str, Any]) -> tuple[list[int], list[bool], bool, list[bool]]:
    """Level widths, and which down, mid and up levels attend to text."""
    widths = list(config.get("block_out_channels", (320, 640, 1280, 1280)))
    down_default = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_default = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    downs = config.get("down_block_types", down_default)
    ups = config.get("up_block_types", up_default)
    mid = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if not len(widths) == len(downs) == len(ups):
        raise ValueError(
            "The UNet's block_out_channels, down_block_types and up_block_types must "
            f"be of one length. Got {len(widths)}, {len(downs)} and {len(ups)} instead."
        )
    return (
        widths,
        [_attends(kind, _DOWN_TYPES) for kind in downs],
        _attends(mid, _MID_TYPES),
        [_attends(kind, _UP_TYPES) for kind in ups],
    )


def _attends(kind: str | None, table: dict[str | None, bool]) -> bool:
    if kind not in table:
        raise ValueError(
            f"UNet blocks of type {kind} are not supported. "
            f"Supported here: {', '.join(str(name) for name in table)}."
        )
    return table[kind]


def _per_level(config: dict[str, Any], key: str, count: int, default: int) -> list:
    value = config.get(key, default)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count:
        raise ValueError(
            f"The UNet's {key} must be one value or {count}. Got {value} instead."
        )
    return values


def _per_layer(depth: int | list[int], layers: int) -> list[int]:
    return list(depth) if isinstance(depth, (list, tuple)) else [depth] * layers


def _layer_paths(
    name: str, module: str, depths: list[int]
) -> Iterator[tuple[str, str]]:
    for j, depth in enumerate(depths):
        for k in range(depth):
            suffix = f".{k}" if depth > 1 else ""
            path = f"{module}.attentions.{j}.transformer_blocks.{k}.attn2"
            yield f"{name}.{j}{suffix}", path
