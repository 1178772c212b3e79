"""URLs and open files in; the bytes of a picture, or a local copy of a video, out.

URLs are read through fsspec, one file at a time. Credentials, end points and time-outs
other than these are those of fsspec's own configuration (``fsspec.config``, the
``FSSPEC_...`` variables). No message holds a password or a query string.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from diffqa_features._media.budget import check_file_size, check_video_size
from diffqa_features._media.video.containers import PREFIX, is_video
from diffqa_features._media.video.raw import is_raw_video
from diffqa_features._utils.urls import is_url, redact_text, redact_url

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "http", "https", "hf", "zip")
"""URLs that are read, besides ``file``; others only as objects of ``fsspec.open``."""

_LISTED = ("s3", "gs", "gcs", "az", "hf", "zip")  # in which a pattern finds names
_PIECE = 1 << 20  # bytes that are in memory at once
_WAITS = (0.25, 1.0, 4.0)  # seconds before each further attempt
_SILENCE = 30  # seconds without a byte
_LONGEST = 3600  # seconds of one request
# Not worth another attempt, whatever their class is derived from.
_HOPELESS = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(ImportError, NotImplementedError, MemoryError),
    *(ValueError, TypeError, KeyError, AttributeError),
)
_NO_LUCK = ("NoCredentialsError", "OfflineModeIsEnabled")


class TypedUrl(str):
    """A URL that the user has typed, so that it is followed from a table too."""

    __slots__ = ()


def is_remote(source: object) -> bool:
    """Whether a row is an object of ``fsspec.open``, or a path of its kind."""
    return hasattr(source, "fs") and hasattr(source, "path")


def check_url(url: str, from_table: bool = False) -> None:
    """Reject schemes that are not known and, in a table, those of this machine.

    Tables come from elsewhere: what they name must not depend on where it is read.
    """
    schemes = _schemes(url)
    for scheme in schemes:
        if scheme not in (*SCHEMES, "file"):
            raise ValueError(
                f"URLs of {scheme!r} are not read, only those of {', '.join(SCHEMES)} "
                "and file; open it yourself and pass fsspec.open(url)."
            )
    if not from_table or isinstance(url, TypedUrl):
        return
    if schemes == ["file"]:
        raise ValueError(
            "a 'file://' URL in a table is not read; write the path itself."
        )
    if len(schemes) > 1:
        raise ValueError(
            "a chain of URLs ('::') in a table is not read, as it may lead to files of "
            "this machine; if you trust the table, pass its column as a list."
        )


def name_of(source) -> str:
    """What a URL or an object of fsspec is called in messages."""
    if is_url(source):
        return redact_url(source)
    full = getattr(source, "full_name", None)  # of an OpenFile
    return redact_url(full if isinstance(full, str) else str(source.path))


def expand_url(url: str) -> list[str]:
    """The URLs that a pattern matches, sorted; the URL itself if it is no pattern."""
    scheme, _, rest = url.partition("://")
    pattern, chain, outer = rest.partition("::")
    if scheme not in _LISTED or not re.search(r"[*\[]", pattern):
        return [url]

    def match():
        system, path = _file_system(url)
        return [
            f"{scheme}://{name}{chain}{outer}" for name in sorted(system.glob(path))
        ]

    return _insist(match, url)


def fetch(source) -> bytes | Path:
    """The content of a URL or object of fsspec, as `collect` returns it.

    What fails for reasons that may pass is tried again, with longer and longer waits.
    """
    raw = is_raw_video(name_of(source))

    def read():
        with _opened(source) as file:
            return collect(file, raw)

    return _insist(read, source)


def read_open_file(file) -> bytes | Path:
    """The content of a binary file that the caller opened, as `collect` returns it.

    It must be at its beginning, and is left there: a row that was read once reads the
    same a second time.
    """
    if getattr(file, "closed", False):
        raise ValueError("the file is closed; pass it open, or pass its path.")
    if isinstance(file, io.TextIOBase):
        raise ValueError("the file is open as text; open it with mode 'rb'.")
    if not getattr(file, "seekable", lambda: False)():
        raise ValueError(
            "this is a stream that cannot be wound back; pass its content, "
            "stream.read()."
        )
    at = file.tell()
    if at:
        raise ValueError(
            f"the file stands at byte {at}, so that it is not clear what belongs to "
            "the row; call its seek(0) first."
        )
    try:
        return collect(file)
    finally:
        file.seek(0)


def collect(file, raw: bool = False) -> bytes | Path:
    """Read an open binary file to its end, within the budget.

    A picture is returned as bytes; a video, and anything if `raw`, as the path of a
    private temporary file, which the caller removes.
    """
    size = getattr(file, "size", None)
    size = size if isinstance(size, int) else None
    prefix = b""
    while len(prefix) < PREFIX and (piece := file.read(PREFIX - len(prefix))):
        prefix += piece
    moving = raw or is_video(prefix)
    check = check_video_size if moving else check_file_size
    if size is not None:
        check(size)
    path = None
    if moving:
        descriptor, name = tempfile.mkstemp(prefix="diffqa-")
        path, target = Path(name), os.fdopen(descriptor, "wb")
    else:
        target = io.BytesIO()
    try:
        with target:
            target.write(prefix)
            done = len(prefix)
            while piece := file.read(_PIECE):
                done += len(piece)
                check(done)
                target.write(piece)
            if size is not None and done < size:
                raise OSError(f"it ended after {done} of {size} bytes")
            return path or target.getvalue()
    except BaseException:
        if path is not None:
            path.unlink(missing_ok=True)
        raise


def _insist(work, source):
    """The result of `work`, tried several times; an error that holds no secret."""
    for attempt, wait in enumerate((*_WAITS, None), start=1):
        try:
            return work()
        except Exception as error:
            # Libraries keep errors in cycles, and with them the callers' variables.
            error.__traceback__ = None
            if wait is None or not _may_pass(error):
                failure = _explained(error, source, attempt)
                break
        time.sleep(wait)
    # Outside of the handler: as a context, the library's error would be printed too.
    try:
        raise failure
    finally:
        del failure  # a cycle too


@contextmanager
def _opened(source) -> Iterator:
    """The file at a URL or of an object of fsspec, open for reading."""
    how = {}
    if is_url(source):
        system, path = _file_system(source)
        if _schemes(source)[0] in ("http", "https"):
            # One request, read as it comes: fsspec would ask for the size before, and
            # take every failure of that for a file that is not there.
            how = {"block_size": 0, "size": 1}
    else:
        system, path = source.fs, source.path
        how = {"compression": getattr(source, "compression", None)}
    with system.open(path, "rb", **how) as file:
        yield file


def _file_system(url: str):
    """fsspec's file system of a URL, and the path there."""
    from fsspec.core import url_to_fs

    options = {scheme: _patience(scheme) for scheme in dict.fromkeys(_schemes(url))}
    return url_to_fs(str(url), **{key: each for key, each in options.items() if each})


def _patience(scheme: str) -> dict:
    """Time-outs of a file system, except those that the user has configured."""
    from fsspec.config import conf

    if scheme in ("http", "https"):
        try:
            from aiohttp import ClientTimeout
        except ImportError:
            return {}  # fsspec says so
        name, same = "client_kwargs", ("http", "https")
        limits = ClientTimeout(_LONGEST, sock_connect=_SILENCE, sock_read=_SILENCE)
        options = {"timeout": limits}
    elif scheme == "s3":
        name, same = "config_kwargs", ("s3",)
        options = {"connect_timeout": _SILENCE, "read_timeout": _SILENCE}
    else:
        return {}  # they have time-outs of their own, or need none
    for each in same:
        options.update(conf.get(each, {}).get(name, {}))
    return {name: options}


def _schemes(url: str) -> list[str]:
    """The schemes of a URL and of those chained to it, as fsspec takes them."""
    *chained, last = url.split("::")
    found = [part.partition("://")[0] for part in chained]
    if "://" in last:
        found.append(last.partition("://")[0])
    else:
        # A single word is a scheme to fsspec, anything else a path.
        found.append(last if re.fullmatch("[a-z]+", last) else "file")
    return [scheme.lower() for scheme in found]


def _may_pass(error: Exception) -> bool:
    """Whether the cause of an error may be gone at the next attempt."""
    status = getattr(error, "status", None)  # of HTTP
    if isinstance(status, int) and 400 <= status < 600:
        return status in (408, 425, 429) or status >= 500
    return not isinstance(error, _HOPELESS) and type(error).__name__ not in _NO_LUCK


def _explained(error: Exception, source, attempts: int) -> Exception:
    """The error with its way out and without secrets."""
    text = _without_secrets(str(error), source)
    kind = type(error).__name__
    status = getattr(error, "status", None)
    if isinstance(error, MemoryError):
        return error
    if isinstance(error, ImportError):
        name = redact_url(str(source)).partition("://")[0]
        return ImportError(f"URLs of '{name}' need another package: {text}.")
    # Older versions of fsspec say KeyError of what an archive does not hold.
    if isinstance(error, (FileNotFoundError, KeyError)) or status in (404, 410):
        return FileNotFoundError("no such file there; check the URL, or drop the row.")
    if isinstance(error, PermissionError) or status in (401, 403):
        return PermissionError(
            "access is refused; give fsspec your credentials, or drop the row."
        )
    if type(error) is ValueError:
        return ValueError(text)
    tries = f" in {attempts} attempts" if attempts > 1 else ""
    said = f"{kind}: {text}" if text else kind
    return OSError(f"cannot be fetched{tries} ({said}); try later, or drop the row.")


def _without_secrets(text: str, source) -> str:
    if is_url(source):
        text = text.replace(source, redact_url(source))
        for part in source.split("::"):
            pieces = urlsplit(part)
            user = pieces.netloc.rpartition("@")[0]
            marks = zip("?#", (pieces.query, pieces.fragment))
            secrets = [mark + said for mark, said in marks if said]
            # Alone only if they are long: a short one is in other words, too.
            secrets += [s for s in (pieces.query, pieces.fragment) if len(s) > 5]
            for secret in [*secrets, user]:
                text = text.replace(secret, "...") if secret else text
    return " ".join(redact_text(text).split())[:300].rstrip(".")
