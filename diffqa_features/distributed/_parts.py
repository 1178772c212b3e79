"""Batches in, a folder of Parquet files out, from which work goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from diffqa_features._backbone.settings import read_json
from diffqa_features._utils.files import (
    expand_user,
    local_path,
    one_writer,
    write_whole,
)
from diffqa_features._utils.hashing import hash_values

_SETTINGS = "_settings.json"
STAMPS = ("size", "modified")
"""Columns that tell whether a file has changed: bytes, and nanoseconds."""


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


def read_parts(folders: Sequence[str | os.PathLike]) -> pa.Table:
    """Read folders that `extract` wrote as one table, sorted by key.

    Parameters
    ----------
    folders : sequence of paths
        Folders of one extraction, for example of its shards.

    Returns
    -------
    pyarrow.Table
        Every row once, with its features, ``size``, ``modified`` and ``reason``.

    Raises
    ------
    ValueError
        If a folder was not made by an extraction, if their settings differ, or if two
        hold the same row.
    """
    tables, first = [], None
    for folder in map(Path, folders):
        path = folder / _SETTINGS
        if not path.is_file():
            raise ValueError(
                f"'{folder}' holds no {_SETTINGS}: it was not made by an extraction."
            )
        settings = read_json(path)
        if not isinstance(settings.get("key"), str):
            raise ValueError(f"'{path}' names no key; it is not that of an extraction.")
        first = first or settings
        if settings != first:
            raise ValueError(
                f"'{folder}' and '{folders[0]}' hold results of different settings "
                f"({', '.join(differing(first, settings))}); they are not one table."
            )
        parts = Parts(folder, first["key"])
        tables += [_read(parquet.read_table, part) for part in parts]
    if not tables:
        raise ValueError(f"There is no finished part in '{folders[0]}'.")
    try:
        table = pa.concat_tables(tables).sort_by(first["key"])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"The folders are not of one table, as their columns differ: {error}"
        ) from error
    keys = table[first["key"]].to_pandas()
    if keys.duplicated().any():
        raise ValueError(
            f"The row {keys[keys.duplicated()].iloc[0]!r} is there twice. Leave out "
            "the folder that is older or, if it is in one, repeat the extraction."
        )
    return table


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


def stamps(sources: Collection) -> pd.DataFrame:
    """Size and time of change of local files; null for all else."""
    rows = []
    for source in sources:
        try:
            status = Path(expand_user(source)).stat()
            rows.append((status.st_size, status.st_mtime_ns))
        except (OSError, TypeError, ValueError):
            rows.append((pd.NA, pd.NA))
    return pd.DataFrame(rows, columns=list(STAMPS), dtype="Int64")
