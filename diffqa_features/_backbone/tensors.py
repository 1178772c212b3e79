"""Untrusted safetensors files -> complete, finite floating-point tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffqa_features._backbone.settings import read_json

_FLOATS = ("F16", "BF16", "F32", "F64")
_MOST_MAPPED = 64 << 20  # bytes of a file that are read before it is opened again


@dataclass(frozen=True)
class TensorEntry:
    """Location of a tensor, from the header of its file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def read_tensor_list(files: Sequence[Path]) -> dict[str, TensorEntry]:
    """Read the headers of safetensors files, but no weights.

    Raises
    ------
    OSError
        If a file is corrupt or truncated, or two files contain the same name.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, TensorEntry] = {}
    for path in files:
        try:
            # Checks that the tensors fill the file, no more and no less.
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():
                    part = file.get_slice(name)
                    if name in found:
                        raise OSError(
                            f"{path} and {found[name].path} both hold {name!r}. Keep "
                            "the files of one model only."
                        )
                    found[name] = TensorEntry(
                        path, name, part.get_dtype(), tuple(part.get_shape())
                    )
        except (SafetensorError, ValueError, OverflowError) as error:
            raise OSError(
                f"{path} is not a safetensors file, or is damaged: {error}. Copy or "
                "download it again."
            ) from error
    return found


def read_tensors(entries: Iterable[TensorEntry]) -> Iterator:
    """Read torch tensors one after the other; copy each before taking the next.

    Raises
    ------
    OSError
        If values are not floats, or not all finite.
    """
    from safetensors import safe_open

    # Opening parses the whole header, hence not once per tensor. What was read stays
    # mapped while the file is open, hence not once per file either.
    opened, mapped = None, 0
    with contextlib.ExitStack() as stack:
        for entry in entries:
            if entry.dtype not in _FLOATS:
                raise OSError(
                    f"{entry.path}: {entry.name!r} is of type {entry.dtype}. Weights "
                    f"must be floats ({', '.join(_FLOATS)}); dequantize and save them "
                    "first."
                )
            if entry.path != opened or mapped > _MOST_MAPPED:
                stack.close()
                file = stack.enter_context(safe_open(entry.path, framework="pt"))
                opened, mapped = entry.path, 0
            value = file.get_tensor(entry.name)
            mapped += value.nbytes
            check_finite(value, entry.path, entry.name)
            yield value


def check_finite(value, path: Path | str, name: str) -> None:
    """Reject a tensor that is not finite in float32: all results would be NaN."""
    if not value.is_floating_point() or not value.numel():
        return
    # One pass and no copy; both ends are NaN where any number is.
    lowest, highest = value.aminmax()
    if not (lowest.float().isfinite() and highest.float().isfinite()):
        raise OSError(
            f"{path}: {name!r} holds NaN or infinity, or more than float32 can. The "
            "file is damaged, or its training diverged; copy or download it again, or "
            "take another."
        )


def pick_shards(files: Sequence[Path]) -> list[Path]:
    """The files that a sharded checkpoint's index names, all in its own folder."""
    indices = [path for path in files if path.suffix == ".json"]
    weights = [path for path in files if path.suffix != ".json"]
    if not indices:
        return weights
    (index,) = indices
    mapping = read_json(index).get("weight_map")
    listed = set(mapping.values()) if _is_mapping(mapping) else set()
    known = {path.name: path for path in weights}
    odd = sorted(listed - known.keys())
    if odd or not listed:
        what = repr(odd[0]) if odd else "no file"
        raise OSError(
            f"{index} names {what}. It must name the files of the weights beside it: "
            f"{', '.join(sorted(known))}."
        )
    return [known[name] for name in sorted(listed)]


def _is_mapping(value):
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
