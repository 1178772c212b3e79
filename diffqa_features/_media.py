"""X in any accepted form goes in; rows, and of each row frames and a key, come out.

A key follows the content: the bytes of a file, whatever its name, or the 8-bit RGB
pixels of an image or array. How content becomes pixels is written in `_pixels`.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from diffqa_features._pixels import array_pixels, decode_image, image_pixels

# Loading or converting a PIL image changes it, and rows in several threads may share
# one. The locks do too, so that no lock has to be kept per image.
_IMAGE_LOCKS = tuple(threading.Lock() for _ in range(64))


@dataclass(slots=True, eq=False)
class Row:
    """One row of X: its position, its media, and the other columns of its table."""

    index: int
    source: object
    columns: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        if isinstance(self.source, (str, os.PathLike)):
            name = f"'{os.fsdecode(self.source)}'"
        elif isinstance(self.source, Image.Image):
            name = "PIL image"
        elif isinstance(self.source, np.ndarray):
            name = "array"
        else:
            name = type(self.source).__name__
        return f"row {self.index} ({name})"


class Media:
    """The content of one row: known by its key, decoded by each call of `frames`."""

    __slots__ = ("_data", "_frames", "is_still", "key", "row")

    def __init__(self, row: Row, data: bytes | None, frames: np.ndarray | None) -> None:
        self.row = row
        self._data = data
        self._frames = frames  # (T, H, W, 3)
        self.is_still = frames is None or len(frames) == 1
        self.key = _frames_key(frames) if data is None else _digest(b"file 1", data)

    frame_rate = None

    def times(self):
        return None

    def choose(self):
        return np.arange(len(self.frames()))

    def read(self, indices):
        frames = self.frames()
        for index in indices:
            yield frames[index]

    def frames(self, max_frames: int | None = None) -> np.ndarray:
        """Decode to uint8 of shape (T, H, W, 3); `max_frames` are spread uniformly.

        An array that came in as uint8 RGB is not copied: do not write to it.
        """
        frames = self._frames
        if frames is None:
            with _blame(self.row):
                frames = decode_image(self._data)[None]
        count = len(frames)
        if max_frames is None or count <= max_frames:
            return frames
        # The middle frame of each of max_frames equal segments.
        return frames[(2 * np.arange(max_frames) + 1) * count // (2 * max_frames)]


def as_rows(X) -> list[Row]:
    """Split X into rows; the container is checked, no media is opened."""
    sources, columns = _split(X)
    if not sources:
        raise ValueError(
            "Found array with 0 sample(s) while a minimum of 1 is required."
        )
    return [
        Row(index, source, {name: values[index] for name, values in columns.items()})
        for index, source in enumerate(sources)
    ]


def open_media(row: Row, reader: str = "auto") -> Media:
    """Read the bytes of a file, or take the pixels of an image or array."""
    source = row.source
    with _blame(row):
        if isinstance(source, (str, os.PathLike)):
            return Media(row, _read(os.fspath(source)), None)
        if isinstance(source, np.ndarray):
            return Media(row, None, array_pixels(source))
        if isinstance(source, Image.Image):
            with _IMAGE_LOCKS[id(source) % len(_IMAGE_LOCKS)]:
                return Media(row, None, image_pixels(source)[None])
        missing = type(source).__name__ in ("NoneType", "NAType", "NaTType")
        if missing or (isinstance(source, float) and source != source):
            raise ValueError("the media is missing; fill in a path or drop the row.")
        raise ValueError(
            f"a {type(source).__name__} is not media; pass a path, a PIL image, or an "
            "array of shape (H, W), (H, W, 3) or (T, H, W, 3)."
        )


def pixel_key(frame: np.ndarray) -> str:
    """Key of one decoded frame, uint8 (H, W, 3); the same as of a still's pixels."""
    return _frames_key(frame[None])


def _frames_key(frames: np.ndarray) -> str:
    shape = "x".join(map(str, frames.shape))
    return _digest(f"pixels 1 {shape}".encode(), np.ascontiguousarray(frames))


def _digest(kind: bytes, content: bytes | np.ndarray) -> str:
    # The digit in `kind` counts changes of what the same content decodes to.
    digest = hashlib.blake2b(kind + b"\0", digest_size=16)
    digest.update(content)
    return digest.hexdigest()


@contextmanager
def _blame(row: Row) -> Iterator[None]:
    """Name the row in whatever goes wrong with its media."""
    try:
        yield
    except MemoryError:
        raise  # says nothing about the row
    except Exception as error:  # decoders raise nearly every type on broken files
        kind = type(error) if isinstance(error, OSError) else ValueError
        raise kind(f"Row{str(row)[3:]}: {error}") from error


# -- containers --


def _split(X) -> tuple[list, dict[str, list]]:
    """X -> the media of its rows, and the values of its other columns."""
    name = type(X).__name__
    if isinstance(X, np.ndarray):
        return _split_array(X), {}
    if isinstance(X, (str, bytes, os.PathLike, Image.Image)):
        raise TypeError(f"X is a single {name}; wrap it in a list: [X].")
    if hasattr(X, "__next__"):
        raise TypeError(
            f"X is a {name}, which can be traversed only once; pass list(X)."
        )
    sequence = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    if not sequence or isinstance(X, Mapping):
        raise TypeError(
            f"X is a {name}; pass a list, Series or array of media, or a DataFrame "
            "with the media in its column 'path'."
        )
    if hasattr(X, "columns"):
        return _split_table(X)
    if getattr(X, "ndim", 1) != 1:
        raise TypeError(
            f"X is a {name} with {X.ndim} axes; pass a NumPy array of shape "
            "(n, H, W, 3) or (n, T, H, W, 3)."
        )
    return list(X), {}


def _split_table(X) -> tuple[list, dict[str, list]]:
    columns = {str(label): label for label in X.columns}
    if len(columns) < len(X.columns):
        raise ValueError(
            f"The columns of X must have different names. Got {list(X.columns)}."
        )
    path = next(iter(columns)) if len(columns) == 1 else "path"
    if path not in columns:
        raise ValueError(
            f"X must have a column 'path' with the media. Got columns {list(columns)}; "
            "rename the one that holds the media."
        )
    values = {name: list(X[label]) for name, label in columns.items()}
    return values.pop(path), values


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


# -- files --


def _read(name: str | bytes) -> bytes:
    if not name:
        raise ValueError("the path is empty; fill it in or drop the row.")
    try:
        mode = Path(os.fsdecode(name)).stat().st_mode
        if stat.S_ISDIR(mode):
            raise ValueError(
                "this is a directory; pass the files in it, for example "
                "sorted(Path(folder).glob('*.jpg'))."
            )
        if not stat.S_ISREG(mode):
            raise ValueError("this is not a regular file; copy its content to one.")
        data = Path(os.fsdecode(name)).read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no such file; relative paths start in '{Path.cwd()}', and URLs must be "
            "downloaded first."
        ) from error
    except PermissionError as error:
        raise PermissionError(
            "no permission to read the file; change its mode or its owner."
        ) from error
    except OSError as error:
        raise OSError(f"cannot be read ({error.strerror}); check the path.") from error
    if not data:
        raise ValueError("the file is empty; restore it or drop the row.")
    return data
