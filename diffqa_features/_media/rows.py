"""X in any accepted form in; rows, each with frames and a key, out.

The key depends on the content only: the bytes of a file, regardless of its name and of
where it lies, or the 8-bit RGB pixels of an image or array. `tables` takes containers
apart, `files` and `remote` read content; `images`, `animations` and `video/` turn it
into pixels.
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from diffqa_features._media.animations import Animation, open_animation
from diffqa_features._media.files import (
    VideoFile,
    digest,
    identify_bytes,
    identify_file,
)
from diffqa_features._media.images import array_pixels, decode_image, image_pixels
from diffqa_features._media.remote import (
    check_url,
    fetch,
    is_remote,
    is_url,
    name_of,
    read_open_file,
)
from diffqa_features._media.tables import (
    Cell,
    is_content,
    is_dataset,
    is_missing,
    is_stream,
    is_tensor,
    split,
    tensor_array,
)
from diffqa_features._media.video.raw import RawVideo
from diffqa_features._media.video.video import (
    Video,
    check_indices,
    choose_frames,
    gather_bursts,
    open_video,
)
from diffqa_features._utils.files import expand_user
from diffqa_features._utils.shortage import MORE_MEMORY, MORE_THREADS, NO_THREAD

# Reading a file that is open, and loading or converting a PIL image, change it, and
# rows in several threads may share one. The locks do too, so that no lock has to be
# kept per object.
_LOCKS = tuple(threading.Lock() for _ in range(64))


@dataclass(slots=True, eq=False)
class Row:
    """One row of X: its position, its media, and the other columns of its table."""

    index: int
    source: object = field(repr=False)  # a URL may hold a password
    columns: dict[str, object] = field(default_factory=dict)
    from_table: bool = False
    name: str | None = None
    """What it is called, if the source does not say so."""

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
        return f"row {self.index} ({self.name or _name(self.source)})"

    def __reduce__(self):
        # Other processes get the content of this row, not the container it is in.
        name = self.name or _name(self.source)
        source = _portable(self.source)
        return Row, (self.index, source, self.columns, self.from_table, name)


class Media:
    """The content of one row: identified by its key, decoded by calls of `frames`."""

    __slots__ = ("_content", "_key", "_moving", "_reader", "row")

    def __init__(self, row: Row, content, key: str | None, reader: str = "auto"):
        self.row = row
        self._key = key
        # (T, H, W, 3), the bytes of an image file, or a video file that was hashed
        self._content: np.ndarray | bytes | VideoFile = content
        self._reader = reader
        # None of what does not move; False before anybody asked
        self._moving: Video | Animation | RawVideo | bool | None = False

    @property
    def key(self) -> str:
        """What identifies the content; that of pixels is computed once asked for.

        Pixels are the caller's: whoever asks later must still have what was read.
        """
        if self._key is None:
            with self._blamed():
                self._key = _frames_key(self._content)
        return self._key

    @property
    def is_still(self) -> bool:
        """Whether this is a picture, or an array of a single frame."""
        if self.is_array:
            return len(self._content) == 1
        if isinstance(self._content, VideoFile):
            return False
        with self._blamed():
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
        with self._blamed():
            video = self._video()
            return None if video is None else video.frame_rate

    def times(self) -> np.ndarray | None:
        """Presentation times, float64 seconds (T,), 0 for the first frame.

        None without a time base: for stills, arrays, and pages of a TIFF.
        """
        with self._blamed():
            video = self._video()
            return None if video is None else video.times()

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames uint8 (H, W, 3) at increasing indices, decoded one at a time.

        An input array of uint8 RGB is not copied: do not write to it.
        """
        with self._blamed():
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
        with self._blamed():
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
                self._moving = file.raw or open_video(file.source, self._reader)
        return self._moving

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            with blame(self.row):
                yield
        except Exception:
            # A traceback may keep this object for long.
            if isinstance(self._content, VideoFile):
                self._content.remove()
            raise


def as_rows(X) -> list[Row]:
    """Split X into rows; the container is checked, no media is opened."""
    parts = split(X)
    if not parts.sources:
        raise ValueError(
            "Found array with 0 sample(s) while a minimum of 1 is required."
        )
    columns, names = parts.columns, parts.names
    return [
        Row(
            index,
            source,
            {name: values[index] for name, values in columns.items()},
            parts.is_table,
            None if names is None or is_missing(names[index]) else _name(names[index]),
        )
        for index, source in enumerate(parts.sources)
    ]


def take_rows(X, places):
    """Some rows of X, or of a matrix, in a container like it."""
    # It loads pandas, which may load pyarrow.
    from sklearn.utils import _safe_indexing

    return X.select(places) if is_dataset(X) else _safe_indexing(X, places)


def open_media(row: Row, reader: str = "auto") -> Media:
    """Read the bytes of a file, or use the pixels of an image or array.

    A video file is only hashed, in chunks; `reader` decodes it.
    """
    with blame(row):
        return Media(row, *_identified(row.source, row), reader)


def _identified(source, row: Row) -> tuple:
    """Content and key of the media of a row; pixels come without one."""
    if isinstance(source, Cell):
        return _identified(source.load(), row)
    if isinstance(source, Exception):  # of taking it out, before it was sent here
        raise source
    if isinstance(source, Mapping) and ("bytes" in source or "path" in source):
        data, path = source.get("bytes"), source.get("path")
        data = data.load() if isinstance(data, Cell) else data
        if is_missing(data):
            return _identified(path, row)
        if not is_content(data):
            raise ValueError(
                f"its 'bytes' are a {type(data).__name__}; pass the content of a file."
            )
        return identify_bytes(data, path if isinstance(path, str) else "")
    if is_content(source):
        return identify_bytes(source)
    if is_url(source) or is_remote(source):
        if is_url(source):
            check_url(source, row.from_table)
        return _received(fetch(source), row, name_of(source))
    if is_stream(source):
        with _locked(source):
            content = read_open_file(source)
        return _received(content, row)
    if isinstance(source, (str, os.PathLike)):
        return identify_file(expand_user(os.fspath(source)), row.columns)
    frames = None
    if is_tensor(source):
        frames = array_pixels(tensor_array(source))
    elif isinstance(source, np.ndarray):
        frames = array_pixels(source)
    elif isinstance(source, Image.Image):
        with _locked(source):
            frames = image_pixels(source, str(row))[None]
    if frames is not None:
        return frames, None
    if is_missing(source):
        raise ValueError("the media is missing; fill in a path or drop the row.")
    raise ValueError(
        f"a {type(source).__name__} is not media; pass a path, a PIL image, or an "
        "array of shape (H, W), (H, W, 3) or (T, H, W, 3)."
    )


def _received(content, row: Row, name: str = "") -> tuple:
    """Content and key of what came as bytes, or was copied to a temporary file."""
    if isinstance(content, bytes):
        return identify_bytes(content)
    return identify_file(content, row.columns, title=name, temporary=True)


def _locked(source) -> threading.Lock:
    return _LOCKS[id(source) % len(_LOCKS)]


def _name(source) -> str:
    if is_url(source) or is_remote(source):
        return f"'{name_of(source)}'"
    if isinstance(source, (str, os.PathLike)):
        return f"'{os.fsdecode(source)}'"
    if isinstance(source, Image.Image):
        return "PIL image"
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, Cell):
        return str(source)
    if isinstance(source, Mapping) and isinstance(source.get("path"), str):
        return _name(source["path"])
    return type(source).__name__


def _portable(source) -> object:
    """A source that other processes can be given, without what it was taken from."""
    try:
        if isinstance(source, Cell):
            return _portable(source.load())
        if isinstance(source, Mapping):
            return {key: _portable(value) for key, value in source.items()}
        if is_content(source):
            return bytes(source)
        if is_stream(source):
            with _locked(source):
                content = read_open_file(source)
            if isinstance(content, bytes):
                return content
            try:
                return content.read_bytes()
            finally:
                content.unlink()
    except Exception as error:  # said by the process that opens the row
        return error
    return source


def pixel_key(frame: np.ndarray) -> str:
    """Key of one decoded frame, uint8 (H, W, 3); the same as of a still's pixels."""
    return _frames_key(frame[None])


def _frames_key(frames: np.ndarray) -> str:
    shape = "x".join(map(str, frames.shape))
    return digest(f"pixels 1 {shape}", np.ascontiguousarray(frames))


@contextmanager
def blame(row: Row) -> Iterator[None]:
    """Add the row's name to any error with its media."""
    try:
        yield
    except MemoryError as error:
        # Not a bad row: with more memory it is a good one.
        text = str(error) or "out of memory"
        raise row.error(f"{text}; {MORE_MEMORY}", MemoryError) from error
    except ImportError as error:
        # Not a bad row either: with the package it is a good one.
        raise row.error(error, ImportError) from error
    except Exception as error:  # decoders raise nearly every type on broken files
        if NO_THREAD in str(error):
            raise RuntimeError(MORE_THREADS) from error
        # Decoders derive errors of their own from OSError, which take other arguments.
        plain = isinstance(error, OSError) and type(error).__module__ == "builtins"
        kind = type(error) if plain else ValueError
        raise row.error(error, kind) from error
