"""A file -> the SHA-256 of its bytes; large files are read once until they change."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path

from diffqa_features._utils.files import write_whole

logger = logging.getLogger(__name__)

_LARGE = 2**26  # bytes; reading less takes no time
_SETTLED = 3.0  # seconds; a younger file may still change within one tick of the clock

_known: dict[tuple, str] = {}


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, independent of its name.

    Read once per process as long as inode, size and times do not change. The digest of
    a large file is also kept in the user's own cache folder
    (``$XDG_CACHE_HOME/diffqa_features``), where nobody else can write. Replacing or
    modifying a file always changes its ctime, which no program can set.
    """
    real = path.resolve()
    stat = real.stat()
    key = (
        str(real), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns,
        stat.st_ctime_ns,
    )  # fmt: skip
    if key not in _known:
        note = _find_note(key) if stat.st_size >= _LARGE else None
        digest = _read_note(note)
        if digest is None:
            digest = _hash(real)
            if note is not None and time.time() - stat.st_ctime > _SETTLED:
                _write_note(note, digest)
        _known[key] = digest
    return _known[key]


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _find_note(key: tuple) -> Path | None:
    """Where the digest is cached on disk; None if only in this process."""
    if os.name != "posix":  # elsewhere ctime is the time of creation
        return None
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = cache / "diffqa_features" / "sha256"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stat = folder.stat()
    except (OSError, RuntimeError) as error:
        logger.info("no digests are kept: %s", error)
        return None
    if stat.st_uid != os.getuid() or stat.st_mode & 0o022:
        logger.info("%s can be written by others; no digests are kept there.", folder)
        return None
    return folder / hashlib.sha256(repr(key).encode()).hexdigest()


def _read_note(note: Path | None) -> str | None:
    if note is None:
        return None
    try:
        digest = note.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    whole = len(digest) == 64 and not set(digest) - set("0123456789abcdef")
    return digest if whole else None


def _write_note(note: Path, digest: str) -> None:
    try:
        write_whole(note, digest, wait=True)
    except (OSError, ValueError) as error:
        logger.info("the digest is not kept: %s", error)
