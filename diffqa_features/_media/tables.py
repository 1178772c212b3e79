"""X in any accepted form in; the media of its rows and its other columns out.

Nothing is imported for that: containers of other libraries are known by their module,
and their content is looked at when a row is opened. No media is opened here.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from numbers import Number

import numpy as np
from PIL import Image

_MEDIA = ("path", "bytes", "image", "video")
"""Columns of a table that hold the media, the first that is there."""

# Stored at once, and large: taken out of their table row by row.
_HEAVY = ("binary", "large_binary", "fixed_size_binary", "binary_view", "struct")
_LOCKS = tuple(threading.Lock() for _ in range(16))


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One element of a container, taken out when it is needed."""

    holder: object
    index: int
    column: str | None = None

    def __str__(self) -> str:
        if self.column is not None:
            return f"column '{self.column}'"
        return f"element of a {type(self.holder).__name__}"

    def load(self) -> object:
        """The element; rows are read in several threads, and datasets need not be."""
        with _LOCKS[id(self.holder) % len(_LOCKS)]:
            found = self.holder[self.index]
        if self.column is not None:
            found = found[self.column]
        return found.as_py() if hasattr(found, "as_py") else found


@dataclass(slots=True)
class Parts:
    """The media of the rows, their names, and the other columns."""

    sources: list
    columns: dict[str, list] = field(default_factory=dict)
    names: list | None = None
    is_table: bool = False


def split(X) -> Parts:
    """Take X apart; an error if it is no container of rows."""
    name = type(X).__name__
    if isinstance(X, np.ndarray):
        return Parts(_split_array(X))
    if is_tensor(X):
        return Parts(_split_tensor(X))
    if _is_single(X):
        raise TypeError(f"X is a single {name}; wrap it in a list: [X].")
    if hasattr(X, "__next__"):
        raise TypeError(
            f"X is a {name}, which can be traversed only once; pass list(X)."
        )
    if _is_of("pyarrow", X) and hasattr(X, "to_pylist"):
        if not hasattr(X, "column"):
            return Parts(_cells(X))
        columns = {label: X.column(label) for label in X.column_names}
        if len(columns) < len(X.column_names):
            _refuse_repeated(X.column_names)
        heavy = {label for label, column in columns.items() if _is_heavy(column)}
        return _split_table(
            X.column_names, lambda label: _cells(columns[label]), left_out=heavy
        )
    if is_dataset(X):
        return _split_dataset(X)
    sequence = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    if not sequence or isinstance(X, Mapping):
        raise TypeError(
            f"X is a {name}; pass a list, Series or array of media, or a DataFrame "
            "with the media in its column 'path'."
        )
    if hasattr(X, "columns"):
        return _split_table(list(X.columns), lambda label: _series(X[label]))
    if getattr(X, "ndim", 1) != 1:
        raise TypeError(
            f"X is a {name} with {X.ndim} axes; pass a NumPy array of shape "
            "(n, H, W, 3) or (n, T, H, W, 3)."
        )
    # A sequence of one's own need not end by itself.
    count = len(X)
    if _is_torch_dataset(X):
        return Parts([Cell(X, index) for index in range(count)])
    if hasattr(X, "__iter__"):
        return Parts(_series(X, count))
    return Parts([X[index] for index in range(count)])


def is_dataset(X: object) -> bool:
    """Whether this is a Dataset of Hugging Face."""
    named = hasattr(X, "features") and hasattr(X, "column_names")
    return _is_of("datasets", X) and named


def is_missing(value: object) -> bool:
    """Whether a cell is empty: None, a NaN, or pandas' NA or NaT."""
    if type(value).__name__ in ("NoneType", "NAType", "NaTType"):
        return True
    return isinstance(value, Number) and bool(value != value)


def spelled(value: object) -> str:
    """The text of a cell, whatever other cells are in its column.

    A column of whole numbers becomes one of floats with its first empty cell.
    """
    whole = isinstance(value, (float, np.floating)) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text, unlike one decoded from something else."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_content(value: object) -> bool:
    """Whether this is the content of a file."""
    return isinstance(value, (bytes, bytearray, memoryview))


def is_stream(value: object) -> bool:
    """Whether this is an open file."""
    return hasattr(value, "read") and hasattr(value, "tell")


def is_tensor(value: object) -> bool:
    """Whether this is a tensor of torch, which then is loaded."""
    return _is_loaded("torch", "Tensor", value)


def tensor_array(tensor) -> np.ndarray:
    """A tensor (H, W), (C, H, W) or (T, C, H, W) as an array with channels last."""
    if tensor.ndim > 4 or tensor.ndim < 2:
        raise ValueError(
            f"has shape {tuple(tensor.shape)}; expected (C, H, W) or (T, C, H, W)."
        )
    if tensor.ndim > 2 and tensor.shape[-3] not in (1, 3, 4):
        raise ValueError(
            f"has shape {tuple(tensor.shape)}; expected (C, H, W) or (T, C, H, W) "
            "with 1, 3 or 4 channels. Tensors have their channels first: "
            "x.movedim(-1, -3)."
        )
    tensor = tensor.detach().cpu()
    if tensor.dtype.is_floating_point and tensor.dtype.itemsize < 4:
        tensor = tensor.float()  # NumPy has no bfloat16
    array = tensor.numpy()
    return array if array.ndim == 2 else np.moveaxis(array, -3, -1)


def _is_single(X) -> bool:
    single = (str, os.PathLike, Image.Image)
    return isinstance(X, single) or is_content(X) or is_stream(X)


def _is_of(package: str, X) -> bool:
    return type(X).__module__.partition(".")[0] == package


def _is_loaded(module: str, kind: str, value) -> bool:
    """Whether this is of a class whose module need not be there.

    Another thread may be importing it: a module without the class has no instances yet.
    """
    found = getattr(sys.modules.get(module), kind, None)
    return found is not None and isinstance(value, found)


def _is_torch_dataset(X) -> bool:
    return _is_loaded("torch.utils.data", "Dataset", X)


def _is_heavy(column) -> bool:
    """Whether a column of Arrow holds content rather than names and numbers."""
    return str(column.type).partition("<")[0].partition("[")[0] in _HEAVY


def _cells(column) -> list:
    """The values of a column of Arrow; large ones stay there until a row is read."""
    if _is_heavy(column):
        return [Cell(column, index) for index in range(len(column))]
    return column.to_pylist()


def _series(values, count: int | None = None) -> list:
    """The values of a sequence or a series of pandas or polars."""
    if _is_of("polars", values) and str(values.dtype).startswith(("Binary", "Struct")):
        return _cells(values.to_arrow())
    return list(islice(values, count))


def _refuse_repeated(labels) -> None:
    raise ValueError(f"The columns of X must have different names. Got {labels}.")


def _split_table(labels: list, values: Callable, left_out: set = frozenset()) -> Parts:
    columns = {str(label): label for label in labels}
    if len(columns) < len(labels):
        _refuse_repeated(labels)
    media = next((name for name in _MEDIA if name in columns), None)
    media = next(iter(columns)) if len(columns) == 1 else media
    if media is None:
        raise ValueError(
            f"X must have a column 'path' with the media. Got columns {list(columns)}; "
            "rename the one that holds the media."
        )
    table = {
        name: values(label)
        for name, label in columns.items()
        if name in (media, "bytes") or label not in left_out
    }
    parts = Parts(table.pop(media), table, is_table=True)
    content = table.get("bytes", [])
    if media == "path" and any(is_content(x) or isinstance(x, Cell) for x in content):
        # As Ray reads files: the paths are the names of what is beside them.
        parts.names = parts.sources
        parts.sources = [
            {"bytes": data, "path": path}
            for data, path in zip(table.pop("bytes"), parts.sources, strict=True)
        ]
    return parts


def _split_dataset(X) -> Parts:
    """A Dataset of Hugging Face: undecoded, so that keys are those of the files."""
    plain, names = X.with_format(None), list(X.column_names)
    kinds = {name: type(plain.features[name]).__name__ for name in names}
    media = [name for name in names if kinds[name] in ("Image", "Video")]
    if len(media) > 1:
        media = [name for name in _MEDIA if name in media]
    if not media:
        media = [next((name for name in _MEDIA if name in names), None)]
        media = names if len(names) == 1 else media
    if media[0] is None:
        raise ValueError(
            "X must have one column of Image or Video, or one called 'path' with the "
            f"media. Got columns {names}; use X.select_columns or X.rename_column."
        )
    chosen = media[0]
    feature = plain.features[chosen]
    if getattr(feature, "decode", False):
        plain = plain.cast_column(chosen, replace(feature, decode=False))
    narrow = plain.select_columns([chosen])
    others = [
        name
        for name in names
        if name != chosen
        and kinds[name] in ("Value", "ClassLabel")
        and "binary" not in plain.features[name].dtype
    ]
    table = plain.select_columns(others)[:] if others else {}
    return Parts(
        [Cell(narrow, index, chosen) for index in range(len(narrow))],
        {name: list(table[name]) for name in others},
        is_table=True,
    )


def _split_tensor(X) -> list:
    if X.ndim in (4, 5) and X.shape[-3] in (1, 3, 4):
        return list(X)
    raise ValueError(
        f"X is a tensor of shape {tuple(X.shape)}; expected images (n, C, H, W) or "
        "clips (n, T, C, H, W), channels first. Wrap a single image or clip in a list: "
        "[X]."
    )


def _split_array(X: np.ndarray) -> list:
    if X.ndim and len(X) == 0:
        return []
    if X.dtype.kind in "OUT":  # objects, and the two kinds of strings
        if X.ndim == 2 and X.shape[1] == 1:
            X = X[:, 0]
        if X.ndim == 1:
            return X.tolist()
        raise ValueError(
            f"X is an array of {X.dtype} with shape {X.shape}; expected (n,) or "
            "(n, 1): one path, PIL image or numeric array per row."
        )
    if X.dtype.kind in "buif" and X.ndim in (4, 5) and X.shape[-1] in (1, 3, 4):
        return list(X)
    raise ValueError(
        f"X is an array of {X.dtype} with shape {X.shape}; expected images "
        "(n, H, W, 3) or clips (n, T, H, W, 3). Wrap a single image or clip in a "
        "list: [X]; give grey images (n, H, W) a channel axis: X[..., None]."
    )
