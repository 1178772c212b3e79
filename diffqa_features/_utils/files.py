"""Atomic writes: after a crash a file is old or new, and has one writer at a time."""

import errno
import hashlib
import logging
import os
import platform
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffqa_features._utils.urls import redact_text

try:
    import fcntl
except ImportError:  # Windows, which itself refuses to replace a file in use
    fcntl = None

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of "s3://" a Path keeps one slash
_LONGEST = 255  # bytes of a file name
_PART, _LOCK = ".diffqa-part", ".diffqa-lock"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PATIENCE = 600  # looks at a lock, ten per second, until the log says who has it

logger = logging.getLogger(__name__)


@contextmanager
def whole_file(path: Path, *, wait: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which replaces `path` on success.

    A file of that name is therefore either complete, also on disk, or unchanged. The
    temporary file has a fixed name and is locked during writing: a second writer fails
    immediately or, with `wait`, waits its turn. The next writer takes over what a
    killed process left behind. Through a link the file that it leads to is written.
    """
    path = _behind(path)
    _refuse_devices(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, descriptor = _claim(path, wait)
    ours = True
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(
                f"The temporary file '{temporary}' was removed while it was written; "
                "run again."
            )
        os.fsync(descriptor)
        temporary.replace(path)
        ours = False  # from here on a file of that name is the next writer's
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(
            error.errno,
            "the disk is full, and nothing of this file was written; free some space "
            "and run again",
            str(path),
        ) from error
    finally:
        # Before the lock is released, or it could be a successor's.
        if ours:
            temporary.unlink(missing_ok=True)
        os.close(descriptor)


def write_whole(path: Path, content: bytes | str, *, wait: bool = False) -> None:
    """Write bytes, or text as UTF-8 with its own line ends, with `whole_file`."""
    if isinstance(content, str):
        content = content.encode()
    with whole_file(path, wait=wait) as temporary:
        temporary.write_bytes(content)


@contextmanager
def one_writer(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive write lock on `path` within the context.

    For results of several files, which must come from one writer. A second one fails
    immediately or, with `wait`, waits its turn. On disks without locks, a file that
    names its owner takes their place; of an owner on this machine that is gone it is
    taken over.
    """
    path = _behind(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, descriptor = _claim(path, wait, _LOCK)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def local_path(path, what: str) -> Path:
    """A path of a parameter with `~` expanded; ValueError for a URL or no text."""
    text = os.fsdecode(path)
    if not text:  # as of a variable of a shell that is not set; not the folder "."
        raise ValueError(f"{what} is empty. Write '.' for the working directory.")
    if _URL.match(text):
        raise ValueError(
            f"{what} must be a path of this machine, and {redact_text(text)!r} is a "
            "URL. Mount it as a folder, or write to a local disk and copy the result."
        )
    return Path(expand_user(text))


def expand_user(path: str | bytes):
    """A path with `~` expanded; ``~name`` is kept if there is no such user."""
    # Path.expanduser raises then.
    return os.path.expanduser(path)  # noqa: PTH111


def exists(path: Path) -> bool:
    """Whether a path leads somewhere, which one that is too long or closed does not."""
    # Path.exists raises then.
    return os.path.exists(path)  # noqa: PTH110


def walk(
    root, *, links: bool = True, skip: Callable[[str], bool] = lambda name: False
) -> Iterator[tuple[Path, list[str]]]:
    """Folders below and including `root`, each with its sorted file names.

    Links to folders are followed if requested, and no folder is entered twice, since
    links can form cycles. Folders whose name satisfies `skip` are left out; OSError
    for one that cannot be read, since what is in it must not pass for absent.
    """
    seen = set()
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=links):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # "lost+found" at the top of a disk is for root alone, and nobody's data.
        folders[:] = sorted(n for n in folders if n != "lost+found" and not skip(n))
        yield Path(folder), sorted(names)


def _refuse(error):
    raise OSError(
        f"the folder '{error.filename}' cannot be read ({error.strerror}); change its "
        "mode or its owner, or move it away."
    ) from error


def remove_leftover(path: Path) -> None:
    """Remove leftovers of a killed writer of `path`, but not those of an active one."""
    path = _behind(path)
    if _beside(path, _PART).exists():
        with suppress(OSError):
            left, descriptor = _claim(path, False)
            left.unlink(missing_ok=True)
            os.close(descriptor)


def _behind(path: Path) -> Path:
    return path.resolve() if path.is_symlink() else path


def _refuse_devices(path: Path) -> None:
    """OSError for what may be written to but not replaced, such as /dev/null."""
    try:
        mode = path.stat().st_mode
    except OSError:  # there is nothing yet
        return
    if not stat.S_ISREG(mode):
        raise OSError(f"'{path}' is not a regular file. Choose another name.")


def _beside(path: Path, suffix: str) -> Path:
    name = f".{path.name}{suffix}"
    if len(os.fsencode(name)) > _LONGEST:
        digest = hashlib.blake2b(os.fsencode(path.name), digest_size=16)
        name = f".{digest.hexdigest()}{suffix}"
    return path.with_name(name)


def _claim(path: Path, wait: bool, suffix: str = _PART) -> tuple[Path, int]:
    """Open and lock the temporary file of the writer of `path`."""
    claimed = _beside(path, suffix)
    while True:
        descriptor = _open(claimed)
        try:
            locked = _lock(descriptor, wait)
            if locked and _is_same(descriptor, claimed):
                os.ftruncate(descriptor, 0)
                return claimed, descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise OSError(
                f"'{path}' is being written by another process. Wait until it has "
                "finished, or choose another name."
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not locked:  # a disk without locks
            claimed.unlink(missing_ok=True)
            if suffix == _LOCK:
                return _own(path, wait)
            claimed = path.with_name(f".{uuid.uuid4().hex}{suffix}")
            return claimed, _open(claimed)


def _own(path: Path, wait: bool) -> tuple[Path, int]:
    """Create and open the file that names the one writer of `path`."""
    claimed, waited = _beside(path, ".diffqa-owner"), 0
    while True:
        try:
            descriptor = os.open(claimed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            owner = _owner(claimed)
            if owner is None:
                continue
            advice = f"If that process is gone, delete '{claimed}'."
            if not wait:
                raise OSError(
                    f"'{path}' is being written by {owner}. Wait until it has "
                    f"finished, or choose another name. {advice}"
                ) from None
            if waited == _PATIENCE:
                logger.warning("Waiting for %s. %s", owner, advice)
            time.sleep(0.1)
            waited += 1
            continue
        os.write(descriptor, f"{os.getpid()} {platform.node()}".encode())
        return claimed, descriptor


def _owner(claimed: Path) -> str | None:
    """Who made a file, in words; None if it is gone, as is that of a dead process."""
    try:
        number, _, machine = claimed.read_text("utf-8").partition(" ")
    except FileNotFoundError:
        return None
    if machine == platform.node() and _is_dead(int(number), claimed):
        claimed.unlink(missing_ok=True)
        return None
    return f"process {number} of {machine!r}" if number else "another process"


def _is_dead(number: int, opened: Path) -> bool:
    try:
        if fcntl is None:  # Windows deletes no file that is open
            opened.unlink()
            return True
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _open(path):
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _lock(descriptor, wait):
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _is_same(descriptor, path):
    """Whether the file still has its name: the last writer may have renamed it."""
    ours = os.fstat(descriptor)
    with suppress(FileNotFoundError):
        theirs = path.stat()
        return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
    return False


def _sync_folder(folder):
    """Flush the new name to disk, where the system can open folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
