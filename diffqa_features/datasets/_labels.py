"""Label files in their published formats in, columns by name out."""

import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import loadmat, whosmat

from diffqa_features._utils import tables


def read_csv(
    path: Path, columns: Iterable[str], *, text: Iterable[str] = (), **options
):
    """A table with at least these columns, in any case; those in `text` stay text."""
    with blame(path):
        header = tables.read_csv(path, nrows=0, **options)
        names = _spelling(path, header.columns, columns)
        kinds = {found: str for found, name in names.items() if name in set(text)}
        table = tables.read_csv(path, dtype=kinds, **options)
    return table.rename(columns=names)


def read_workbook(
    path: Path,
    columns: Iterable[str] | None,
    *,
    sheet: str | None = None,
    text: Iterable[str] = (),
) -> pd.DataFrame:
    """The table below the first row of a sheet that has all these column names.

    A sheet named `sheet` is tried first. Without `columns`, the first sheet unchanged.
    """
    sheets = _sheets(path)
    if columns is None:
        return next(iter(sheets.values()))
    columns = list(columns)
    order = sorted(sheets, key=lambda name: name != sheet)  # else as they stand
    for name in order:
        cells = sheets[name]
        for row in range(min(len(cells), 20)):
            header = [str(cell).strip() for cell in cells.iloc[row]]
            if not {c.casefold() for c in columns} <= {h.casefold() for h in header}:
                continue
            table = cells.iloc[row + 1 :].set_axis(header, axis=1)
            # Empty columns beside the table and lines below it have no name, no value.
            table = table.loc[:, [h not in ("", "nan") for h in header]]
            table = table.dropna(how="all").reset_index(drop=True)
            table = table.rename(columns=_spelling(path, table.columns, columns))
            for column in table:
                if column in text:
                    table[column] = [_plain(cell) for cell in table[column]]
                else:
                    table[column] = table[column].infer_objects()
            return table
    raise ValueError(
        f"The workbook '{path}' has no sheet with the columns {_listed(columns)}. Its "
        f"sheets: {_listed(sheets)}."
    )


def read_mat(path: Path, names: Iterable[str]) -> dict[str, object]:
    """Variables of a MATLAB file; structs come as dicts, cells as object arrays."""
    names = list(names)
    with blame(path):
        try:
            found = loadmat(path, simplify_cells=True, variable_names=names)
        except NotImplementedError as error:
            raise ValueError(
                "it is of MATLAB's version 7.3, which is HDF5; in MATLAB, "
                "`s = load(file); save(file, '-struct', 's', '-v7')` makes a file that "
                "can be read."
            ) from error
        absent = [name for name in names if name not in found]
        if absent:
            there = [name for name, *_ in whosmat(path)]
            raise ValueError(
                f"it has no variable {_listed(absent)}, only {_listed(there)}."
            )
    return {name: found[name] for name in names}


def columns_of(path: Path) -> list[str]:
    """Column or variable names in a .mat or .csv file."""
    with blame(path):
        if path.suffix.lower() == ".mat":
            return [name for name, *_ in whosmat(path)]
        return [str(name) for name in tables.read_csv(path, nrows=0).columns]


def texts(values: object) -> list[str]:
    """Strings of a cell array, of an array of characters, or a single one."""
    array = np.asarray(values, dtype=object)
    if array.ndim == 0:
        value = array.item()
        return texts(value) if isinstance(value, np.ndarray) else [str(value).strip()]
    return [text for value in array.ravel() for text in texts(value)]


def floats(values: object) -> np.ndarray:
    """Numbers of a row, a column or a cell array, as one axis."""
    return np.atleast_1d(np.asarray(values, dtype=np.float64).ravel())


def same_length(path: Path, **columns) -> pd.DataFrame:
    """A table of separate columns; an error if their lengths differ."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"'{name}' {n:,}" for name, n in lengths.items())
        raise ValueError(
            f"The entries of the label files beside '{path}' do not belong together: "
            f"{counts}."
        )
    return pd.DataFrame(columns)


@contextmanager
def blame(path: Path) -> Iterator[None]:
    """Add the label file's name to any error raised while it is read."""
    try:
        yield
    except (ImportError, MemoryError):
        raise  # says nothing about the file
    except Exception as error:  # parsers raise nearly every type on broken files
        raise ValueError(
            f"The label file '{path}' cannot be used: {error} If it is not whole, "
            "download it again."
        ) from error


def _sheets(path: Path) -> dict[str, pd.DataFrame]:
    try:
        import python_calamine  # noqa: F401  pandas would not name the extra
    except ImportError as error:
        raise ImportError(
            f"Reading the workbook '{path}' needs python-calamine; install it with "
            "pip install 'diffqa-features[excel]'."
        ) from error
    with blame(path):
        if path.suffix.lower() == ".xlsx" and not zipfile.is_zipfile(path):
            raise ValueError("it is no workbook.")
        with warnings.catch_warnings():
            # On cells with errors, which the sheets beside ours have.
            warnings.simplefilter("ignore", UserWarning)
            return pd.read_excel(
                path, sheet_name=None, header=None, dtype=object, engine="calamine"
            )


def _spelling(path: Path, found: Iterable, wanted: Iterable[str]) -> dict:
    """Map the file's spelling of each wanted column to ours."""
    there = {str(label).strip().casefold(): label for label in found}
    wanted = list(wanted)
    absent = [name for name in wanted if name.casefold() not in there]
    if absent:
        labels = [str(label) for label in found]
        raise ValueError(
            f"it has no column {_listed(absent)}, only {_listed(labels[:20])}."
        )
    return {there[name.casefold()]: name for name in wanted}


def _plain(cell: object) -> str:
    """Text of a cell; a workbook stores a picture called 1600 as a number."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _listed(names: Iterable) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"
