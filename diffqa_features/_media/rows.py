"""X in any accepted form in; rows, each with frames and a key, out.

The key depends on the content only: the bytes of a file, regardless of its name, or the
8-bit RGB pixels of an image or array. `images`, `animations` and `video/` turn content
into pixels.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from numbers import Number
from pathlib import Path

import numpy as np
from PIL import Image

from diffqa_features._media.animations import Animation, open_animation
from diffqa_features._media.budget import check_file_size
from diffqa_features._media.images import array_pixels, decode_image, image_pixels
from diffqa_features._media.video.containers import PREFIX, is_video
from diffqa_features._media.video.raw import RawVideo, is_raw_video
from diffqa_features._media.video.video import (
    Video,
    check_indices,
    choose_frames,
    gather_bursts,
    open_video,
)
from diffqa_features._utils.files import expand_user
from diffqa_features._utils.shortage import MORE_MEMORY, MORE_THREADS, NO_THREAD

# Loading or converting a PIL image changes it, and rows in several threads may share
# one. The locks do too, so that no lock has to be kept per image.
_IMAGE_LOCKS = tuple(threading.Lock() for _ in range(64))
_PIECE = 1 << 20  # bytes of a video file that are in memory at once


@dataclass(slots=True, eq=False)
class Row:
    """One row of X: its position, its media, and the other columns of its table."""

    index: int
    source: object
    columns: dict[str, object] = field(default_factory=dict)

    def error(self, cause: object, kind: type = ValueError) -> Exception:
        """An exception that names this row, in its text and in `row_index`.

        `row_index` and `cause` (the text without the row's name) are plain attributes,
        which travel with the exception between processes, so nobody has to parse the
        text.
        """
        error = kind(f"{self.label}: {cause}")
        error.row_index, error.cause = self.index, str(cause)
        return error

    @property
    def label(self) -> str:
        """Name of this row at the start of an error message."""
        return f"R{str(self)[1:]}"

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
    """The content of one row: identified by its key, decoded by calls of `frames`."""

    __slots__ = ("_content", "_moving", "_reader", "key", "row")

    def __init__(self, row: Row, content, key: str, reader: str = "auto") -> None:
        self.row = row
        self.key = key
        # (T, H, W, 3), the bytes of an image file, or a video file that was hashed
        self._content: np.ndarray | bytes | _File = content
        self._reader = reader
        # None of what does not move; False before anybody asked
        self._moving: Video | Animation | RawVideo | bool | None = False

    @property
    def is_still(self) -> bool:
        """Whether this is a picture, or an array of a single frame."""
        if self.is_array:
            return len(self._content) == 1
        if isinstance(self._content, _File):
            return False
        with _blame(self.row):
            return self._video() is None

    def check_still(self, taker: str = "estimator") -> None:
        """Raise unless this is a picture; `taker` is what takes no clips."""
        if not self.is_still:
            raise self.row.error(
                f"this is a clip of several frames, and the {taker} takes pictures. "
                "Pass single frames."
            )

    @property
    def is_array(self) -> bool:
        """Whether the row holds pixels rather than a file."""
        return isinstance(self._content, np.ndarray)

    @property
    def frame_rate(self) -> float | None:
        """Frames per second on average; None for stills, arrays and pages."""
        with _blame(self.row):
            video = self._video()
            return None if video is None else video.frame_rate

    def times(self) -> np.ndarray | None:
        """Presentation times, float64 seconds (T,), 0 for the first frame.

        None without a time base: for stills, arrays, and pages of a TIFF.
        """
        with _blame(self.row):
            video = self._video()
            return None if video is None else video.times()

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames uint8 (H, W, 3) at increasing indices, decoded one at a time.

        An input array of uint8 RGB is not copied: do not write to it.
        """
        with _blame(self.row):
            content = self._content
            if isinstance(content, np.ndarray):
                for at in check_indices(indices, len(content)):
                    yield content[at]
            elif (video := self._video()) is None:
                for _ in check_indices(indices, 1):
                    yield decode_image(content, str(self.row))
            elif isinstance(video, Animation):
                yield from video.read(check_indices(indices, len(video)))
            else:
                yield from video.read(indices)
                content.check()

    def frames(
        self, frame_rate: float = 1.0, max_frames: int | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the frames selected by `choose`."""
        yield from self.read(self.choose(frame_rate, max_frames))

    def choose(
        self,
        frame_rate: float = 1.0,
        max_frames: int | None = None,
        burst_length: int = 1,
    ) -> np.ndarray:
        """Indices of the frames that `choose_frames` samples from a video.

        Without a time base, all frames or `max_frames` evenly spaced ones, in bursts.
        """
        times = self.times()
        if times is not None:
            duration = self._video().duration
            return choose_frames(times, duration, frame_rate, max_frames, burst_length)
        with _blame(self.row):
            several = self._content if self.is_array else self._video() or [0]
            count = len(several)
            return gather_bursts(np.arange(count), count, max_frames, burst_length)

    def _video(self) -> Video | Animation | RawVideo | None:
        if self._moving is False:
            if isinstance(self._content, bytes):
                self._moving = open_animation(self._content)
            elif self.is_array:
                self._moving = None
            else:
                file = self._content
                self._moving = file.raw or open_video(file.path, self._reader)
        return self._moving


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
    """Read the bytes of a file, or use the pixels of an image or array.

    A video file is only hashed, in chunks; `reader` decodes it.
    """
    source = row.source
    with _blame(row):
        if isinstance(source, (str, os.PathLike)):
            path = expand_user(os.fspath(source))
            return Media(row, *_read(path, row.columns), reader)
        frames = None
        if isinstance(source, np.ndarray):
            frames = array_pixels(source)
        elif isinstance(source, Image.Image):
            with _IMAGE_LOCKS[id(source) % len(_IMAGE_LOCKS)]:
                frames = image_pixels(source, str(row))[None]
        if frames is not None:
            return Media(row, frames, _frames_key(frames))
        if is_missing(source):
            raise ValueError("the media is missing; fill in a path or drop the row.")
        raise ValueError(
            f"a {type(source).__name__} is not media; pass a path, a PIL image, or an "
            "array of shape (H, W), (H, W, 3) or (T, H, W, 3)."
        )


def is_missing(value: object) -> bool:
    """Whether a cell is empty: None, a NaN, or pandas' NA or NaT."""
    if type(value).__name__ in ("NoneType", "NAType", "NaTType"):
        return True
    return isinstance(value, Number) and bool(value != value)


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


@dataclass(slots=True, frozen=True)
class _File:
    """A video file at the time it was hashed."""

    path: str
    size: int
    changed: int
    raw: RawVideo | None = None

    def check(self) -> None:
        now = Path(self.path).stat()
        if (now.st_size, now.st_mtime_ns) != (self.size, self.changed):
            raise ValueError(
                "the file changed while it was read; pass it again when it is finished."
            )


@contextmanager
def _blame(row: Row) -> Iterator[None]:
    """Add the row's name to any error with its media."""
    try:
        yield
    except MemoryError as error:
        # Not a bad row: with more memory it is a good one.
        text = str(error) or "out of memory"
        raise row.error(f"{text}; {MORE_MEMORY}", MemoryError) from error
    except Exception as error:  # decoders raise nearly every type on broken files
        if NO_THREAD in str(error):
            raise RuntimeError(MORE_THREADS) from error
        # Decoders derive errors of their own from OSError, which take other arguments.
        plain = isinstance(error, OSError) and type(error).__module__ == "builtins"
        kind = type(error) if plain else ValueError
        raise row.error(error, kind) from error


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
    if name in ("Table", "RecordBatch") and _of_arrow(X):
        return _split_table(X.column_names, lambda label: X.column(label).to_pylist())
    if _of_arrow(X):
        return X.to_pylist(), {}
    sequence = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    if not sequence or isinstance(X, Mapping):
        raise TypeError(
            f"X is a {name}; pass a list, Series or array of media, or a DataFrame "
            "with the media in its column 'path'."
        )
    if hasattr(X, "columns"):
        return _split_table(list(X.columns), lambda label: list(X[label]))
    if getattr(X, "ndim", 1) != 1:
        raise TypeError(
            f"X is a {name} with {X.ndim} axes; pass a NumPy array of shape "
            "(n, H, W, 3) or (n, T, H, W, 3)."
        )
    # A sequence of one's own, as a Dataset of torch, need not end by itself.
    count = len(X)
    if hasattr(X, "__iter__"):
        return list(islice(X, count)), {}
    return [X[index] for index in range(count)], {}


def _of_arrow(X) -> bool:
    return type(X).__module__.partition(".")[0] == "pyarrow" and hasattr(X, "to_pylist")


def _split_table(labels: list, values) -> tuple[list, dict[str, list]]:
    columns = {str(label): label for label in labels}
    if len(columns) < len(labels):
        raise ValueError(f"The columns of X must have different names. Got {labels}.")
    path = next(iter(columns)) if len(columns) == 1 else "path"
    if path not in columns:
        raise ValueError(
            f"X must have a column 'path' with the media. Got columns {list(columns)}; "
            "rename the one that holds the media."
        )
    table = {name: values(label) for name, label in columns.items()}
    return table.pop(path), table


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


def _read(name: str | bytes, columns: Mapping) -> tuple[bytes | _File, str]:
    """Content and key of a file; `columns` describe a raw video."""
    if not name:
        raise ValueError("the path is empty; fill it in or drop the row.")
    try:
        path = Path(os.fsdecode(name))
        status = path.stat()
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise ValueError(
                "this is a directory; pass the files in it, for example "
                "sorted(Path(folder).glob('*.jpg'))."
            )
        if not stat.S_ISREG(mode):
            raise ValueError("this is not a regular file; copy its content to one.")
        raw = RawVideo.from_columns(name, columns) if is_raw_video(name) else None
        with path.open("rb") as file:
            prefix = file.read(PREFIX)
            if prefix and (raw is not None or is_video(prefix)):
                kind = "file 1" if raw is None else f"raw 1 {raw.facts}"
                digest = hashlib.blake2b(kind.encode() + b"\0", digest_size=16)
                digest.update(prefix)
                while piece := file.read(_PIECE):
                    digest.update(piece)
                content = _File(
                    str(path.absolute()), status.st_size, status.st_mtime_ns, raw
                )
                return content, digest.hexdigest()
            check_file_size(status.st_size)
            data = prefix + file.read()
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
    return data, _digest(b"file 2", data)
