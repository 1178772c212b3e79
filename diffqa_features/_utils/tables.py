"""CSV files in, data frames whose columns match the header out."""

import csv
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

TABLES = (".csv", ".parquet", ".tsv")
"""Endings of the tables that `load_table` reads."""

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def load_table(path: Path, *, text: Collection[str] | None = None) -> pd.DataFrame:
    """Read a CSV, TSV or Parquet table, or a folder of Parquet files as one table.

    The cells of CSV and TSV files stay text, as a file may be called 007 and a caption
    be "NA"; with `text`, those of these columns do. ValueError for what is no table.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES and not path.is_dir():
        raise ValueError(f"{str(path)!r} is not a .csv, .tsv or .parquet table.")
    try:
        if suffix == ".parquet" or path.is_dir():
            return pd.read_parquet(path).reset_index(drop=True)
        return read_csv(
            path,
            sep="\t" if suffix == ".tsv" else ",",
            dtype=str if text is None else dict.fromkeys(text, str),
            keep_default_na=False,
            na_values=[""],
            skipinitialspace=True,
        )
    except ValueError as error:  # pandas and pyarrow derive theirs from it
        raise ValueError(f"{str(path)!r} cannot be read as a table: {error}") from error


def read_csv(
    source: Path | io.StringIO,
    *,
    sep: str = ",",
    encoding: str = "utf-8-sig",
    names: Sequence[str] | None = None,
    skipinitialspace: bool = False,
    **options,
) -> pd.DataFrame:
    """Read a CSV file or text; `names` are the columns if it has no header.

    If a row has more cells than the header, pandas makes the first column the index and
    shifts all others. Here, blank cells at the end of a row (lines that end in the
    separator) are dropped, and any other extra cell is an error that names its line.
    Missing cells at the end of a row are blank.
    """
    given = isinstance(source, io.StringIO)
    with source if given else Path(source).open(newline="", encoding=encoding) as file:
        reader = csv.reader(
            file, delimiter=sep, skipinitialspace=skipinitialspace, strict=True
        )
        try:
            rows = [(reader.line_num, row) for row in reader if row]
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}.") from error
        except UnicodeDecodeError as error:
            raise ValueError(
                f"it is not in {error.encoding.upper()} ({error.reason} behind line "
                f"{reader.line_num}). Save it as UTF-8, in Excel as 'CSV UTF-8'."
            ) from error
    if not rows:
        raise ValueError("it is empty.")
    if _CONTROL.search("".join(rows[0][1])):
        raise ValueError("it is no text: its first line holds control characters.")
    columns = rows[0][1] if names is None else names
    other = next((m for m in ",;\t" if m != sep and m in columns[0]), None)
    if len(columns) == 1 and other and names is None:
        raise ValueError(
            f"its first line holds no {sep!r} and is separated by {other!r}. Separate "
            f"cells by {sep!r}, or read it with pandas.read_csv(file, sep={other!r})."
        )
    twice = {name for name in columns if name.strip() and columns.count(name) > 1}
    if twice:
        raise ValueError(f"two columns are called {min(twice)!r}; rename one of them.")
    width = len(columns)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=sep)
    for line, row in rows:
        more = [cell for cell in row[width:] if cell.strip()]
        if more:
            raise ValueError(
                f"line {line} has {len(row)} cells, but there are {width} columns: "
                f"{more[0]!r} is one too many. Put text that holds {sep!r} in quotes."
            )
        writer.writerow(row[:width])
    text.seek(0)
    return pd.read_csv(
        text,
        sep=sep,
        index_col=False,
        names=names,
        header=0 if names is None else None,
        **options,
    )


def quote_formulas(cell):
    """Prefix a quote to text that a spreadsheet would run as a formula."""
    is_formula = isinstance(cell, str) and cell.startswith(_FORMULAS)
    return f"'{cell}" if is_formula else cell
