"""Batches in, a folder of Parquet files out, from which work goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import compute, parquet

from diffqa_features._backbone.settings import read_json
from diffqa_features._media.tables import is_missing, spelled
from diffqa_features._utils.files import (
    expand_user,
    local_path,
    one_writer,
    remove_leftover,
    write_whole,
)
from diffqa_features._utils.hashing import hash_values
from diffqa_features._utils.urls import redact_text

_SETTINGS = "_settings.json"
STAMPS = ("size", "modified", "inputs")
"""Columns that tell whether a row has changed: bytes and nanoseconds of its file, and a
hash of the other cells that its values depend on."""


class Parts:
    """A folder of Parquet files, each written whole, with one set of settings.

    The name of a file follows from the keys in it, so a batch that an engine computes
    twice is written twice under one name. Engines read such a folder as one table; they
    skip names that begin with ``_`` or ``.``.

    Parameters
    ----------
    folder : path
        On a disk that all workers see under this name.
    key : str
        Column that tells rows apart.
    """

    def __init__(self, folder: str | os.PathLike, key: str):
        self.folder = local_path(folder, "The 'out' parameter").absolute()
        self.key = key

    def alone(self) -> AbstractContextManager:
        """Context in which no other process drops rows; those before are waited for.

        Two that take rows from one file would each bring back what the other took.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"'{self.folder}' is a file; name a folder.")
        return one_writer(self.folder / _SETTINGS, wait=True)

    def begin(self, settings: dict) -> None:
        """Claim the folder for these settings.

        Raises
        ------
        FileExistsError
            If the folder holds the results of other settings, or other files.
        """
        path = self.folder / _SETTINGS
        if not path.exists():
            # Hidden ones are our own, and what systems leave everywhere.
            others = [p.name for p in self.folder.glob("[!.]*")]
            if others and not path.exists():
                raise FileExistsError(
                    f"'{self.folder}' holds '{sorted(others)[0]}' and no {_SETTINGS}: "
                    "it was not made by an extraction. Name a new folder."
                )
            write_whole(path, json.dumps(settings, indent=1), wait=True)
            return
        before = read_json(path)
        if before != settings:
            raise FileExistsError(
                f"'{self.folder}' holds results of other settings "
                f"({', '.join(differing(before, settings))} differ). Name a new "
                "folder, or delete this one."
            )
        for path in self.folder.glob(".part-*.parquet.*"):  # of writers killed since
            remove_leftover(path.with_name(path.stem[1:]))

    def __iter__(self) -> Iterator[Path]:
        return iter(sorted(self.folder.glob("part-*.parquet")))

    def write(self, table: pa.Table) -> None:
        """Write one batch as a file."""
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink)
        keys = [str(key) for key in table[self.key].to_pylist()]
        path = self.folder / f"part-{hash_values(keys)}.parquet"
        write_whole(path, sink.getvalue().to_pybytes(), wait=True)

    def schema(self) -> pa.Schema | None:
        """Columns of the files that are there; None if there is none."""
        return next((_read(parquet.read_schema, path) for path in self), None)

    def read_done(self) -> pd.DataFrame:
        """Key, stamps, reason and file of every row there; no features are read."""
        names = [self.key, *STAMPS, "reason"]
        tables = []
        for path in self:
            found = _read(parquet.read_table, path, columns=names).to_pandas()
            tables.append(found.assign(part=path.name))
        if not tables:
            return pd.DataFrame(columns=[*names, "part"])
        return pd.concat(tables, ignore_index=True)

    def drop(self, done: pd.DataFrame, stale: np.ndarray) -> None:
        """Remove the rows of `done` that are marked in `stale` from their files."""
        for name, rows in done[stale].groupby("part"):
            path = self.folder / str(name)
            table = parquet.read_table(path)
            keys = pd.Series(table[self.key].to_pylist(), dtype=object)
            left = table.filter(pa.array(~keys.isin(rows[self.key])))
            if len(left):
                # Under the name of what is left; then the old one may go.
                self.write(left)
            path.unlink(missing_ok=True)


class Merged:
    """Folders of one extraction as one table, read block by block in the order of keys.

    In memory are the keys and one block; `schema` is that of all files.

    Parameters
    ----------
    folders : sequence of paths
        Folders of one extraction.
    block : int, default=134217728
        Bytes of a block.

    Raises
    ------
    ValueError
        If a folder was not made by an extraction, if settings or types differ, or if
        two hold the same row.
    """

    def __init__(self, folders: Sequence[str | os.PathLike], block: int = 1 << 27):
        self.block = block
        self.schema, self._files, keys = None, [], []
        first, counts = None, []
        for folder in map(Path, folders):
            settings = _settings_of(folder)
            first = first or settings
            if settings != first:
                raise ValueError(
                    f"'{folder}' and '{folders[0]}' hold results of different settings "
                    f"({', '.join(differing(first, settings))}); they are not one "
                    "table."
                )
            for path in Parts(folder, first["key"]):
                self._check(path)
                found = _read(parquet.read_table, path, columns=[first["key"]])
                self._files.append(path)
                keys += found[first["key"]].chunks
                counts.append(len(found))
        if not self._files:
            raise ValueError(f"There is no finished part in '{folders[0]}'.")
        keys = pa.chunked_array(keys)
        self._order = compute.sort_indices(keys).to_numpy().astype(np.int64)
        self._ends = np.cumsum(counts)
        keys = keys.take(self._order)
        twice = compute.equal(keys[1:], keys[:-1])
        if compute.any(twice).as_py():
            key = keys[twice.index(True).as_py()].as_py()
            raise ValueError(
                f"The row {redact_text(repr(key))} is there twice. Leave out the "
                "folder that is older or, if it is in one, repeat the extraction."
            )

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[pa.Table]:
        sample = _read(parquet.read_table, self._files[0])
        size = max(1, self.block * len(sample) // max(1, sample.nbytes))
        for start in range(0, len(self), size):
            rows = self._order[start : start + size]
            files = np.searchsorted(self._ends, rows, side="right")
            tables = []
            for number in np.unique(files):
                table = _read(parquet.read_table, self._files[number])
                begin = self._ends[number] - len(table)
                tables.append(table.take(rows[files == number] - begin))
            # The tables follow each other by file; each row goes back to its place.
            places = np.argsort(np.argsort(files, kind="stable"), kind="stable")
            yield pa.concat_tables(tables).take(places)

    def _check(self, path):
        """ValueError unless a file has the columns and types of the first one."""
        schema = _read(parquet.read_schema, path)
        if self.schema is None:
            self.schema = schema
        if schema.equals(self.schema):
            return
        what = "the order of their columns"
        for name in dict.fromkeys([*self.schema.names, *schema.names]):
            one, other = (
                s.field(name).type if name in s.names else "absent"
                for s in (self.schema, schema)
            )
            if one != other:
                what = f"the type of {name!r}, {one} and {other}"
                break
        raise ValueError(
            f"'{self._files[0]}' and '{path}' are not of one table, as they differ in "
            f"{what}. Extract one of them again, of a table whose columns have the "
            "types of the other."
        )


def read_parts(folders: Sequence[str | os.PathLike]) -> pa.Table:
    """Read folders that `extract` wrote as one table, sorted by key.

    Parameters
    ----------
    folders : sequence of paths
        Folders of one extraction, for example of its shards.

    Returns
    -------
    pyarrow.Table
        Every row once, with its features, ``size``, ``modified``, ``inputs`` and
        ``reason``.

    Raises
    ------
    ValueError
        If a folder was not made by an extraction, if settings or types differ, or if
        two hold the same row.
    """
    return pa.concat_tables(Merged(folders))


def _settings_of(folder: Path) -> dict:
    path = folder / _SETTINGS
    if not path.is_file():
        raise ValueError(
            f"'{folder}' holds no {_SETTINGS}: it was not made by an extraction."
        )
    settings = read_json(path)
    if not isinstance(settings.get("key"), str):
        raise ValueError(f"'{path}' names no key; it is not that of an extraction.")
    return settings


def _read(reader, path: Path, **options):
    """What a reader of pyarrow reads; ValueError naming a file that is damaged."""
    try:
        return reader(path, **options)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"'{path}' is damaged or was not written by an extraction: {error} Delete "
            "it and repeat the extraction, which computes its rows again."
        ) from error


def differing(one: dict, other: dict) -> list[str]:
    """Names under which two settings differ."""
    return [n for n in sorted({*one, *other}) if one.get(n) != other.get(n)]


def stamps(sources: Sequence, cells: pd.DataFrame) -> pd.DataFrame:
    """What tells whether rows have changed: the columns `STAMPS`.

    Of local files size and time, null for all else; of the `cells` that their values
    depend on a hash, null where there is none.
    """
    found = np.full((len(STAMPS), len(sources)), -1, np.int64)
    for place, source in enumerate(sources):
        try:
            status = Path(expand_user(source)).stat()
            found[:2, place] = status.st_size, status.st_mtime_ns
        except (OSError, TypeError, ValueError):
            pass
    if len(cells.columns):
        for place, row in enumerate(cells.itertuples(index=False, name=None)):
            texts = sorted(
                (str(name), spelled(cell))
                for name, cell in zip(cells.columns, row, strict=True)
                if not is_missing(cell)
            )
            if texts:
                found[2, place] = int(hash_values(texts)[:15], 16)
    return pd.DataFrame(
        {
            name: pd.arrays.IntegerArray(row, row == -1)
            for name, row in zip(STAMPS, found)
        }
    )
