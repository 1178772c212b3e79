"""A folder in, an intact SQLite database out, whatever other processes do."""

import atexit
import itertools
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

from diffqa_features._store.disks import network_disk

try:
    import fcntl
except ImportError:  # Windows, which itself refuses to rename a file in use
    fcntl = None

FORMAT = 1
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS format (name TEXT PRIMARY KEY, version INTEGER)",
    f"INSERT OR IGNORE INTO format VALUES ('diffqa_features store', {FORMAT})",
    "CREATE TABLE IF NOT EXISTS entries (rowid INTEGER PRIMARY KEY, key BLOB UNIQUE, "
    "header BLOB, checksum BLOB, used INTEGER, value BLOB)",
    "CREATE INDEX IF NOT EXISTS recency ON entries (used)",
)
_PATIENCE = 60.0  # seconds to wait for other processes
_SMALLEST = 512  # bytes of a database
_JOURNAL_SIZE = 4 * 2**20  # bytes

# SQLite quotes the damaged text in its message, which Python then cannot decode.
DATABASE_ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)

# One for all files: the clones of an estimator share a connection, and a fork must
# find no thread inside SQLite.
_MUTEX = threading.RLock()
_FILES: "dict[Path, SharedFile]" = {}


def shared_file(folder: Path) -> "SharedFile":
    """The database file of a folder: one object and one connection per process."""
    with _MUTEX:
        path = folder / "features.sqlite"
        return _FILES.setdefault(path, SharedFile(path))


class SharedFile:
    """This process's one connection to a database file."""

    def __init__(self, path: Path):
        self.path = path
        self.connection = None
        self.identity = None  # device and inode: the name may come to mean another file
        self.ready = False
        self.touched: set[str] = set()  # keys whose use is yet to be written down
        self.looked = False  # at the disk it is on

    def run(self, work: Callable, warn: Callable, create: bool = False):
        """Result of `work(self)` on an intact file, or None; may raise OSError.

        A file found corrupt, before or during the work, is set aside with a warning
        through `warn`; the work then starts again.
        """
        if not self.looked:
            self.looked = True
            if kind := network_disk(self.path.parent):
                warn(
                    f"is on a network disk ({kind}), where SQLite can lock files at "
                    "best between processes of one machine; use it from one machine at "
                    "a time, or choose a folder on a local disk"
                )
        give_up = time.monotonic() + _PATIENCE
        failures = 0
        while True:
            with _MUTEX:
                if _identity(self.path) is None and not create:
                    return None
                with _folder_lock(self.path):
                    try:
                        return work(self) if self._open(create) else None
                    except DATABASE_ERRORS as caught:
                        error = caught
                        busy = "locked" in str(error)
                        failures += not busy
                        damaged = is_damage(error, self.path)
                        # A connection that outlived its file errs too: look again
                        # before the second failure condemns the file.
                        doomed = damaged and failures == 2
                        if not doomed:
                            self._disconnect()
                moved = self._set_aside(error) if doomed else None
            if moved is not None:
                warn(f"was unusable ({error}); moved to '{moved}' and begun anew")
            if not (busy or damaged) or failures > 3 or time.monotonic() > give_up:
                raise OSError(f"'{self.path}': {error}") from error
            if busy:
                time.sleep(0.02)

    def close(self) -> None:
        with _MUTEX:
            if self.connection is not None:
                with _folder_lock(self.path):
                    self._disconnect()

    def delete(self) -> None:
        """Delete the file; other processes notice at their next use."""
        with _MUTEX, _folder_lock(self.path, exclusive=True):
            self.touched.clear()
            self._disconnect()
            for path in _parts(self.path):
                path.unlink(missing_ok=True)

    def write_touched(self) -> None:
        now = time.time_ns()
        rows = [(now, key.encode()) for key in self.touched]
        self.touched.clear()
        self.connection.executemany("UPDATE entries SET used = ? WHERE key = ?", rows)

    def _open(self, create: bool) -> bool:
        """Connect if necessary; False if there is nothing to read yet."""
        if self.connection is not None:
            if self.ready and self.identity == _identity(self.path):
                return True
            self._disconnect()
        if not create and _identity(self.path) is None:
            return False
        # A folder that may not be written, or has no room for WAL's shared memory,
        # can be read without taking part in locking, for this one operation.
        modes = (
            ["mode=rwc"] if create else ["mode=rw", "mode=ro", "mode=ro&immutable=1"]
        )
        for mode in modes:
            try:
                return self._connect(mode, create)
            except sqlite3.OperationalError as error:
                busy = "locked" in str(error)
                if busy or mode == modes[-1] or is_damage(error, self.path):
                    raise
                self._disconnect()

    def _connect(self, mode: str, create: bool) -> bool:
        self.connection = sqlite3.connect(
            f"{self.path.as_uri()}?{mode}",
            uri=True,
            timeout=_PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        # Damaged text must reach the checksum, not fail to decode.
        self.connection.text_factory = bytes
        if mode.startswith("mode=rw"):
            self.identity = _identity(self.path)
        run = self.connection.execute
        run("PRAGMA cell_size_check = ON")
        tables = run("SELECT name FROM sqlite_master").fetchall()
        if 0 < self.path.stat().st_size < _SMALLEST:
            # SQLite would take it for an empty database and write over it.
            raise sqlite3.DatabaseError("file is not a database")
        if not tables:
            if not create:
                self._disconnect()
                return False
            run("PRAGMA auto_vacuum = INCREMENTAL")
            run("PRAGMA journal_mode = WAL").fetchall()
            with transaction(self.connection):
                for statement in _SCHEMA:
                    run(statement)
        run("PRAGMA synchronous = NORMAL")
        run(f"PRAGMA journal_size_limit = {_JOURNAL_SIZE}").fetchall()
        if tables and (b"format",) not in tables:
            raise _OtherFormat("it is a database of something else")
        version = scalar(self.connection, "SELECT version FROM format")
        if version != FORMAT:
            raise _OtherFormat(f"its format is {version!r}, not {FORMAT}")
        self.ready = True
        return True

    def _disconnect(self) -> None:
        if self.connection is not None:
            if self.touched:
                with suppress(*DATABASE_ERRORS), transaction(self.connection):
                    self.write_touched()
            with suppress(*DATABASE_ERRORS):
                self.connection.close()
        self.connection = self.identity = None
        self.ready = False

    def _set_aside(self, error: Exception) -> "Path | None":
        """Rename the corrupt file, unless another process already has."""
        with _folder_lock(self.path, exclusive=True):
            if self.identity is None or self.identity != _identity(self.path):
                self._disconnect()
                return None
            self._disconnect()
            what = "other-format" if isinstance(error, _OtherFormat) else "damaged"
            for number in itertools.count(1):
                target = Path(f"{self.path}.{what}-{number}")
                if not any(path.exists() for path in _parts(target)):
                    break
            # The database last: a journal without one is dropped by SQLite.
            for old, new in zip(_parts(self.path)[::-1], _parts(target)[::-1]):
                with suppress(FileNotFoundError):
                    old.rename(new)
            return target


class _OtherFormat(sqlite3.DatabaseError):
    pass


def scalar(connection: sqlite3.Connection, statement: str):
    row = connection.execute(statement).fetchone()
    return row[0] if row else None


@contextmanager
def transaction(connection: sqlite3.Connection):
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself has rolled back on some errors.
        with suppress(*DATABASE_ERRORS):
            connection.execute("ROLLBACK")
        raise


def is_damage(error: Exception, path: Path) -> bool:
    """Whether an error means that the file is corrupt, not that its environment failed.

    A corrupt schema can raise almost any SQLite error, so environment errors are
    listed.
    """
    if isinstance(error, (sqlite3.ProgrammingError, sqlite3.DataError)):
        return False
    if "readonly" in str(error):  # also said where the header forbids writing
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    surroundings = ("locked", "locking", "is full", "I/O error", "unable to open")
    return not any(word in str(error) for word in surroundings)


def _identity(path: Path) -> "tuple[int, int] | None":
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise NotADirectoryError(
            f"A feature store needs a folder, but '{path.parent}' is a file or lies "
            "below one. Choose another folder."
        ) from None
    if not stat.S_ISREG(status.st_mode):
        # SQLite would wait for the other end of a pipe.
        raise OSError(
            f"'{path}' is not a regular file; move it away, or choose another folder "
            "for the store."
        )
    return status.st_dev, status.st_ino


def _parts(path: Path) -> "list[Path]":
    """Database, journal, shared memory."""
    return [Path(f"{path}{end}") for end in ("", "-wal", "-shm")]


@contextmanager
def _folder_lock(path: Path, exclusive: bool = False):
    """Held shared by users of the files, exclusively to move or delete them.

    SQLite finds a journal by name: a database renamed under a connection could pick up
    its successor's journal.
    """
    descriptor = None
    if fcntl is not None:
        for flags in (os.O_RDONLY | os.O_CREAT, os.O_RDONLY):
            with suppress(OSError):
                # Not waiting for the other end, where it is a pipe.
                descriptor = os.open(f"{path}.lock", flags | os.O_NONBLOCK, 0o666)
                break
    if descriptor is None:
        yield
        return
    try:
        wanted = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, wanted | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise TimeoutError(f"'{path}' is in use elsewhere") from None
                time.sleep(0.005)
            except OSError:
                break  # a drive without locks
        yield
    finally:
        # Said explicitly: a forked child keeps the descriptor.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@atexit.register
def _close_all() -> None:
    with _MUTEX:
        for file in _FILES.values():
            with suppress(OSError):
                file.close()


def _before_fork() -> None:
    # SQLite connections do not survive a fork: the child would believe in locks that
    # only its parent holds.
    _MUTEX.acquire()
    _close_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_MUTEX.release,
        after_in_child=_MUTEX.release,
    )
