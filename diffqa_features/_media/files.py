"""A file of this machine, or the bytes of one, in; its content and key out.

Pictures are held as bytes, videos only hashed. A key is a hash of the content, so that
it is the same wherever the file lies.
"""

import hashlib
import os
import stat
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffqa_features._media.budget import check_file_size
from diffqa_features._media.video.containers import PREFIX, is_video
from diffqa_features._media.video.raw import RawVideo, is_raw_video

_PIECE = 1 << 20  # bytes of a video file that are in memory at once
_PICTURE, _VIDEO = "file 2", "file 1"
_EMPTY = "the file is empty; restore it or drop the row."


class VideoFile:
    """A video at the time it was hashed: a file, or its bytes."""

    def __init__(self, source: str | bytes, status=None, raw: RawVideo | None = None):
        self.source = source
        self.raw = raw
        self._stamp = None if status is None else _stamp(status)
        self._remove = None

    def check(self) -> None:
        """Raise if the file is another one by now."""
        if self._stamp is not None and _stamp(Path(self.source).stat()) != self._stamp:
            raise ValueError(
                "the file changed while it was read; pass it again when it is finished."
            )

    def remove_when_done(self) -> None:
        """Remove the file with this object, or earlier by `remove`."""
        path = Path(self.source)
        self._remove = weakref.finalize(self, path.unlink, missing_ok=True)

    def remove(self) -> None:
        """Remove a temporary file; others are left alone."""
        if self._remove is not None:
            self._remove()


def identify_bytes(data, name: str = "") -> tuple[bytes | VideoFile, str]:
    """Content and key of the bytes of a file; `name` is that of the file, if known."""
    data = bytes(data)
    if not data:
        raise ValueError(_EMPTY)
    if name and is_raw_video(name):
        raise ValueError("a .yuv file is read from its path only; pass that.")
    if is_video(data[:PREFIX]):
        return VideoFile(data), digest(_VIDEO, data)
    check_file_size(len(data))
    return data, digest(_PICTURE, data)


def identify_file(
    name: str | bytes | Path,
    columns: Mapping,
    *,
    title: str = "",
    temporary: bool = False,
) -> tuple[bytes | VideoFile, str]:
    """Content and key of a file; `columns` describe a raw video.

    `title` is the name that says what it is, if not its own. A temporary file is
    removed with the content.
    """
    if not name:
        raise ValueError("the path is empty; fill it in or drop the row.")
    path = Path(os.fsdecode(name))
    try:
        return _identify(path, title or path, columns, temporary)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no such file; relative paths start in '{Path.cwd()}'. Correct the path "
            "or drop the row."
        ) from error
    except PermissionError as error:
        raise PermissionError(
            "no permission to read the file; change its mode or its owner."
        ) from error
    except OSError as error:
        raise OSError(f"cannot be read ({error.strerror}); check the path.") from error


def digest(kind: str, content: bytes | np.ndarray) -> str:
    """Key of content of a kind, whose digit counts changes of what it decodes to."""
    hashed = _begun(kind)
    hashed.update(content)
    return hashed.hexdigest()


def _identify(path, title, columns, temporary):
    try:
        status = path.stat()
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise ValueError(
                "this is a directory; pass the files in it, for example "
                "sorted(Path(folder).glob('*.jpg'))."
            )
        if not stat.S_ISREG(mode):
            raise ValueError("this is not a regular file; copy its content to one.")
        raw = None
        if is_raw_video(title):
            raw = RawVideo.from_columns(path, columns)
        with path.open("rb") as file:
            prefix = file.read(PREFIX)
            if prefix and (raw is not None or is_video(prefix)):
                hashed = _begun(_VIDEO if raw is None else f"raw 1 {raw.facts}")
                hashed.update(prefix)
                while piece := file.read(_PIECE):
                    hashed.update(piece)
                content = VideoFile(str(path.absolute()), status, raw)
                if temporary:
                    content.remove_when_done()
                    temporary = False
                return content, hashed.hexdigest()
            check_file_size(status.st_size)
            data = prefix + file.read()
    finally:
        if temporary:
            path.unlink(missing_ok=True)
    if not data:
        raise ValueError(_EMPTY)
    return data, digest(_PICTURE, data)


def _begun(kind: str):
    return hashlib.blake2b(kind.encode() + b"\0", digest_size=16)


def _stamp(status) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
