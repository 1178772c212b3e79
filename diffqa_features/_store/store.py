"""Arrays by content key in, the same arrays out, from one SQLite file in a folder."""

import hashlib
import math
import numbers
import os
import re
import sqlite3
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.ma import isMaskedArray

from diffqa_features._store.sqlite import (
    DATABASE_ERRORS,
    is_damage,
    scalar,
    shared_file,
    transaction,
)
from diffqa_features._utils.files import local_path

_CHUNK = 500  # SQLite before 3.32 allows 999 variables
_LARGEST = 900_000_000  # bytes; SQLite's own limit is 1e9 with all columns
_MANY = 10_000
_DTYPE = re.compile(r"\|b1|\|[iu]1|[<>][iu][248]|[<>]f[248]|[<>]c(8|16)")
_LATENTS = ("keep", "drop", "float16")
_DELETE = "DELETE FROM entries WHERE rowid = ?"


class FeatureStore:
    """On-disk cache of computed features, so that no pass runs twice.

    The key of a value is a hash of everything it depends on: the content of the medium,
    the backbone's weights, timestep, noise seed, prompt, block and so on. Entries are
    therefore never stale, several estimators and processes can share a store, and
    clearing it costs only the time to recompute.

    Parameters
    ----------
    path : str or pathlib.Path
        Folder of the store. It is created by the first `put` and holds one SQLite
        database, ``features.sqlite``, and its journal.
    max_size : int, default=None
        Maximum size of the database in bytes. The least recently used values are
        evicted when it would grow larger, and the file shrinks. The journal comes on
        top: normally about 4 MiB, at most one batch of values. A value larger than
        `max_size` is not stored. ``None`` sets no limit.
    latents : {"keep", "drop", "float16"}, default="keep"
        How to store the latents of pictures and frames, by far the largest values.
        They are needed again only for another timestep, prompt or kind.

        ``"keep"`` stores them in float32. ``"drop"`` does not: whatever needs one
        decodes and encodes the picture again, with the same result. ``"float16"``
        halves their size and computes from the rounded values from the start, so a
        second run gives the same numbers; these differ slightly from those of the other
        two, and have keys of their own.

    See Also
    --------
    DiffusionQAFeatures : Accepts a store, or its folder, as `memory`.

    Notes
    -----
    *Processes and threads* can share a store, also across ``fork``. A store object
    holds no connection: copies, clones and pickles compare equal and work on the same
    folder. A relative one starts in the working directory, and as `memory` of an
    estimator in that of the process that calls it, also for its workers.

    *Crashes.* A batch of values is one transaction. After ``kill -9`` at any moment,
    exactly the committed batches are present. After a power failure the last few
    batches may be lost; the others are intact (WAL journal, ``synchronous=NORMAL``).

    *Corruption.* Each value carries a checksum over key, dtype, shape and bytes. A
    value that fails it is removed with a warning and counts as missing. A corrupt
    database, one of another format, or a file that is not a database is renamed to
    ``features.sqlite.damaged-<n>`` or ``features.sqlite.other-format-<n>`` with a
    warning, never deleted, and a new one is started.

    *Disks.* The folder must be on a local disk: SQLite's WAL needs shared memory
    between processes, which NFS and other network file systems do not provide. On
    Linux, a warning says so where the folder is on one. A read-only store still serves
    the values it has.

    *Recency* is tracked only with a `max_size`, in memory, and written with the next
    `put` or `close`, so reading never writes.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from diffqa_features import FeatureStore
    >>> store = FeatureStore(tempfile.mkdtemp(), max_size=10_000_000)
    >>> store.put({"a": np.arange(3, dtype="float32"), "b": np.ones((2, 2))})
    >>> store.get(["a", "never put"])
    {'a': array([0., 1., 2.], dtype=float32)}
    >>> store.info().entries
    2
    >>> store.clear()
    >>> store.info().entries
    0
    """

    def __init__(self, path, max_size=None, latents="keep"):
        self.path = path
        self.max_size = max_size
        self.latents = latents

    def get(self, keys):
        """Look values up.

        Parameters
        ----------
        keys : iterable of str
            Any number of keys.

        Returns
        -------
        dict of str to ndarray
            The values found, with their original dtype and shape. Keys that are missing
            or damaged are left out.
        """
        keys = _check_keys(keys)
        try:
            found, damaged = self._run(lambda file: self._read(file, keys)) or ({}, 0)
        except NotADirectoryError:
            raise
        except OSError as error:
            self._warn(f"could not be read ({error}); features are computed again")
            return {}
        if damaged:
            self._warn(f"had {damaged} damaged values; they are computed again")
        return found

    def put(self, items):
        """Store values: all of them or, if an error is raised, none.

        Parameters
        ----------
        items : dict of str to ndarray
            Arrays of any shape and of a boolean, integer, float or complex dtype,
            up to 900 MB each. The value of an existing key is replaced.

        Raises
        ------
        OSError
            If the folder cannot be written: disk full, read-only, or locked for a
            minute. Values stored before stay readable.
        """
        _check_keys(items)
        for key, value in items.items():
            _check_value(key, value)
        if not items:
            return
        try:
            self._folder().mkdir(parents=True, exist_ok=True)
            self._run(lambda file: self._write(file, items), create=True)
        except OSError as error:
            raise OSError(
                f"The feature store in '{self.path}' could not be written: {error}. "
                "The features are computed but not kept. Free the disk, empty the "
                "store with its clear(), bound it with max_size, or choose another "
                "folder; what the store held before is still readable."
            ) from error

    def info(self):
        """Describe the store.

        Returns
        -------
        StoreInfo
            Named tuple of `path` (str), `entries` (number of values), `size` (bytes
            of the database) and `max_size`.
        """
        count = "SELECT count(*) FROM entries"
        entries, size = self._run(
            lambda file: (scalar(file.connection, count), _pages(file.connection)[0])
        ) or (0, 0)
        return StoreInfo(str(self.path), entries, size, self.max_size)

    def clear(self):
        """Delete all values and the file itself, which also frees a full disk."""
        # Opening it first sets aside files that are not ours to delete.
        if self._run(lambda file: True):
            shared_file(self._folder()).delete()

    def close(self):
        """Close this process's connection; the next use reopens it."""
        shared_file(self._folder()).close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __getstate__(self):
        # As text: a saved model loads on any system, and holds no connection.
        path = os.fspath(self.path) if isinstance(self.path, Path) else self.path
        return {"path": path, "max_size": self.max_size, "latents": self.latents}

    def __setstate__(self, state):
        # Saved models of earlier versions have no latents.
        self.__dict__.update({"latents": "keep", **state})

    def __eq__(self, other):
        if not isinstance(other, FeatureStore):
            return NotImplemented
        return self._facts() == other._facts()

    def __hash__(self):
        return hash(self._facts())

    def __repr__(self):
        size = "" if self.max_size is None else f", max_size={self.max_size!r}"
        latents = "" if self.latents == "keep" else f", latents={self.latents!r}"
        return f"FeatureStore({str(self.path)!r}{size}{latents})"

    def _facts(self):
        return str(self.path), self.max_size, self.latents

    def _folder(self):
        if not isinstance(self.path, (str, os.PathLike)) or not str(self.path):
            raise TypeError(
                "The 'path' parameter of FeatureStore must be a str or a pathlib.Path. "
                f"Got {self.path!r} instead."
            )
        size = self.max_size
        if size is not None:
            whole = isinstance(size, numbers.Integral) and not isinstance(size, bool)
            if not whole or size < 1:
                raise (ValueError if whole else TypeError)(
                    "The 'max_size' parameter of FeatureStore must be an int in the "
                    f"range [1, inf) or None. Got {size!r} instead."
                )
        if self.latents not in _LATENTS:
            raise ValueError(
                "The 'latents' parameter of FeatureStore must be a str among "
                f"{_LATENTS}. Got {self.latents!r} instead."
            )
        return local_path(self.path, "The folder of a feature store").absolute()

    def _run(self, work, create=False):
        return shared_file(self._folder()).run(work, self._warn, create)

    def _read(self, file, keys):
        found, damaged = {}, []
        for start in range(0, len(keys), _CHUNK):
            chunk = [key.encode() for key in keys[start : start + _CHUNK]]
            rows = file.connection.execute(
                "SELECT rowid, key, header, checksum, value FROM entries "
                f"WHERE key IN ({','.join('?' * len(chunk))})",
                chunk,
            )
            for rowid, *entry in rows:
                try:
                    key, value = _decode(*entry)
                except (ValueError, OverflowError):
                    damaged.append((rowid,))
                else:
                    found[key] = value
        if self.max_size is not None:
            file.touched.update(found)
        if damaged or len(file.touched) > _MANY:
            try:
                with transaction(file.connection):
                    file.connection.executemany(_DELETE, damaged)
                    file.write_touched()
            except DATABASE_ERRORS as error:
                # A read-only store is served as it is.
                if is_damage(error, file.path):
                    raise
        return found, len(damaged)

    def _write(self, file, items):
        now = time.time_ns()
        with transaction(file.connection):
            file.write_touched()
            file.connection.executemany(
                "INSERT OR REPLACE INTO entries (key, header, checksum, used, value) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    _encode(key, value, now)
                    for key, value in items.items()
                    if self.max_size is None or value.nbytes <= self.max_size
                ),
            )
            if self.max_size is not None:
                _evict(file.connection, self.max_size)

    def _warn(self, what):
        warnings.warn(
            f"The feature store in '{self.path}' {what}.", RuntimeWarning, stacklevel=3
        )


class StoreInfo(NamedTuple):
    """What `FeatureStore.info` returns."""

    path: str
    entries: int
    size: int
    max_size: "int | None"


def as_store(memory):
    """The store of a `memory` parameter: None, a folder or a store.

    Its folder is absolute: processes that it is sent to may have another working
    directory, and mean the same folder.
    """
    if memory is None:
        return None
    if isinstance(memory, FeatureStore):
        folder = memory._folder()
        if Path(memory.path) == folder:
            return memory
        return FeatureStore(str(folder), memory.max_size, memory.latents)
    if isinstance(memory, (str, os.PathLike)):
        return FeatureStore(local_path(memory, "The 'memory' parameter").absolute())
    hint = ""
    if type(memory).__module__.startswith("joblib"):
        hint = (
            " A joblib.Memory keeps the results of whole calls, a FeatureStore those of"
            " single samples: pass a folder of its own."
        )
    raise TypeError(
        "The 'memory' parameter must be a str, a pathlib.Path, a FeatureStore or None. "
        f"Got {memory!r} instead.{hint}"
    )


def wants_half(memory) -> bool:
    """Whether a `memory` parameter is a store of latents in float16."""
    return isinstance(memory, FeatureStore) and memory.latents == "float16"


def _check_keys(keys) -> "list[str]":
    if isinstance(keys, str):
        raise TypeError(f"Keys of a FeatureStore come as a list. Got {keys!r} instead.")
    keys = list(dict.fromkeys(keys))
    for key in keys:
        if not isinstance(key, str):
            raise TypeError(f"Keys of a FeatureStore must be str. Got {key!r} instead.")
    return keys


def _check_value(key: str, value) -> None:
    array = isinstance(value, np.ndarray) and not isMaskedArray(value)
    # A long double is another number on another machine.
    if not array or value.dtype.kind not in "biufc" or value.dtype.char in "gG":
        what = f"{value.dtype} {type(value).__name__}" if array else type(value)
        raise TypeError(
            "Values of a FeatureStore must be arrays of a boolean, integer, float or "
            f"complex dtype, long doubles excepted. Got {what} for key {key!r} instead."
        )
    if value.nbytes > _LARGEST:
        raise ValueError(
            f"Values of a FeatureStore take at most {_LARGEST} bytes. Got "
            f"{value.nbytes} bytes for key {key!r} instead."
        )


def _encode(key: str, value: np.ndarray, now: int) -> tuple:
    name, content = key.encode(), value.tobytes()
    header = " ".join([value.dtype.str, *map(str, value.shape)]).encode()
    return name, header, _checksum(name, header, content), now, content


def _decode(name, header, checksum, content) -> "tuple[str, np.ndarray]":
    """Key and array of a row; ValueError where the row is damaged."""
    whole = all(isinstance(part, bytes) for part in (name, header, content))
    if not whole or checksum != _checksum(name, header, content):
        raise ValueError("checksum")
    dtype, *shape = header.decode().split()
    # A checksum proves no good will: of objects, NumPy would follow the bytes as
    # addresses.
    if not _DTYPE.fullmatch(dtype) or not all(map(str.isdecimal, shape)):
        raise ValueError("header")
    shape = tuple(map(int, shape))
    if math.prod(shape) * np.dtype(dtype).itemsize != len(content):
        raise ValueError("length")
    return name.decode(), np.ndarray(shape, dtype, buffer=bytearray(content)).copy()


def _checksum(name: bytes, header: bytes, content: bytes) -> bytes:
    digest = hashlib.blake2b(b"%d %d " % (len(name), len(header)), digest_size=16)
    for part in (name, header, content):
        digest.update(part)
    return digest.digest()


def _evict(connection: sqlite3.Connection, max_size: int) -> None:
    """Evict the least recently used values until the database fits, then shrink it."""
    while (excess := _pages(connection)[1] - max_size) > 0:
        victims = []
        with closing(
            connection.execute(
                "SELECT rowid, length(value) FROM entries ORDER BY used, rowid"
            )
        ) as oldest:
            for rowid, length in oldest:
                victims.append((rowid,))
                excess -= length or 0  # NULL where damaged
                if excess <= 0:
                    break
        # Nothing more to drop, or an index that is damaged and names no row.
        if connection.executemany(_DELETE, victims).rowcount < 1:
            break
    if _pages(connection)[0] > max_size:
        for _ in range(scalar(connection, "PRAGMA freelist_count")):
            # Without a number too, Python runs it for a single page.
            connection.execute("PRAGMA incremental_vacuum(1)")


def _pages(connection: sqlite3.Connection) -> "tuple[int, int]":
    """Bytes of the database, and those of them in use."""
    size = scalar(connection, "PRAGMA page_size")
    count = scalar(connection, "PRAGMA page_count")
    return count * size, (count - scalar(connection, "PRAGMA freelist_count")) * size
