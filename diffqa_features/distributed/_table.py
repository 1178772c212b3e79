"""A table as the user has it in; one with keys and known types out, or an error."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from diffqa_features._media.remote import TypedUrl, is_url
from diffqa_features._utils.files import expand_user
from diffqa_features._utils.tables import TABLES, load_table
from diffqa_features._utils.urls import redact_text
from diffqa_features.distributed._parts import STAMPS


def read_source(source, media: str, text: Iterable[str] = ()) -> pd.DataFrame:
    """The table of a list of paths, a DataFrame or a file, with the column `media`.

    Of a CSV file, `media` and the columns `text` are as they are written.
    """
    if isinstance(source, pd.DataFrame):
        table = source.reset_index(drop=True)
    elif isinstance(source, (str, os.PathLike)):
        path = Path(expand_user(source))
        if path.suffix.lower() not in TABLES and not path.is_dir():
            raise ValueError(
                f"source must be a list of paths, or a .csv, .tsv or .parquet table. "
                f"Got {str(path)!r} instead."
            )
        table = load_table(path, text=[media, *text])
    elif hasattr(source, "__iter__"):
        # Objects, because pandas' own text holds no names that are not UTF-8.
        texts = [os.fspath(item) for item in source]
        texts = [TypedUrl(text) if is_url(text) else text for text in texts]
        table = pd.DataFrame({media: texts}, dtype=object)
    else:
        raise TypeError(
            "source must be a list of paths, a DataFrame, or the path of a table. Got "
            f"{source!r} instead."
        )
    if media not in table:
        raise ValueError(
            f"The table has no column {media!r}, only "
            f"{', '.join(map(repr, table.columns))}. Name it by media=."
        )
    if table[media].map(lambda value: isinstance(value, os.PathLike)).any():
        texts = [v if v is None else os.fspath(v) for v in table[media]]
        table = table.assign(**{media: texts})
    return table


def check_keys(table: pd.DataFrame, key: str) -> None:
    """ValueError unless the column tells rows apart, also in a file."""
    if key not in table:
        raise ValueError(
            f"The table has no column {key!r}, only "
            f"{', '.join(map(repr, table.columns))}."
        )
    for place, value in enumerate(table[key]):
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"Row {place}: {redact_text(repr(value))} is not UTF-8 and cannot "
                "stand in a table. Rename the file, for example with convmv."
            ) from None
    try:
        twice = table[key].duplicated(keep=False) | table[key].isna()
    except TypeError:
        raise ValueError(
            f"The column {key!r} cannot tell rows apart: its values are not plain. "
            "Name another one by key=."
        ) from None
    if twice.any():
        places = np.flatnonzero(twice)[:2].tolist()
        which = redact_text(repr(table[key].tolist()[places[0]]))
        raise ValueError(
            f"The column {key!r} must tell rows apart, and does not in rows "
            f"{' and '.join(map(str, places))} ({which}). "
            "Drop what is there twice, or name another column by key=."
        )


def make_schema(extractor, table: pd.DataFrame) -> pa.Schema:
    """Columns of every file, with their types; ValueError if there can be none."""
    missing = set(extractor.keep) - set(table.columns)
    if missing:
        raise ValueError(f"The table has no column {min(missing)!r}, which keep names.")
    own = {*extractor.columns, *STAMPS, "reason"}
    for name in extractor.keep:
        if not isinstance(name, str) or name in own:
            raise ValueError(
                f"The column {name!r} of the table "
                f"{'would be replaced' if name in own else 'is not named by a str'}; "
                "rename it, or leave it out of the extractor's 'keep'."
            )
    kept = []
    for name in extractor.keep:
        with _fitting(name):
            kind = pa.array(table[name], from_pandas=True).type
        # Where nothing is known yet, most columns turn out to be text.
        kept.append((name, pa.string() if kind == pa.null() else kind))
    made = pa.from_numpy_dtype(extractor._dtype)
    added = [(name, made) for name in extractor.columns]
    added += [(name, pa.int64()) for name in STAMPS]
    return pa.schema([*kept, *added, ("reason", pa.string())])


def agreed(before: pa.Schema | None, schema: pa.Schema, kept) -> pa.Schema:
    """The types of what is there, if the columns `kept` of the table have them too."""
    if before is None:
        return schema
    for name in kept:
        if kept[name].isna().all():
            continue
        with _fitting(name):
            kinds = before.field(name).type, schema.field(name).type
            if len({_is_text(kind) for kind in kinds}) == 2:  # "7" would pass for 7
                raise pa.ArrowTypeError(f"{kinds[1]}, not {kinds[0]}")
            pa.array(kept[name], kinds[0], from_pandas=True)
    return before


def _is_text(kind):
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


@contextlib.contextmanager
def _fitting(name):
    try:
        yield
    except (pa.ArrowException, UnicodeError, KeyError) as error:
        raise ValueError(
            f"The column {name!r} of the table is not of one plain type, or of another "
            f"one than in 'out': {redact_text(str(error))}. Convert it, or leave it "
            "out by 'keep'."
        ) from error
