"""INPUT arguments in, a table of files out, named as the user wrote them."""

import glob
from pathlib import Path

import pandas as pd

SUFFIXES = frozenset(
    ".avif .bmp .gif .j2k .jp2 .jpeg .jpg .pgm .png .ppm .tif .tiff .webp "
    ".avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()
)
"""What is taken from a folder; a file or pattern may have any name."""

_TABLES = (".csv", ".parquet", ".tsv")


def collect_files(inputs, *, path_column="path", recursive=False, columns=()):
    """Expand INPUT arguments.

    Returns a DataFrame for `transform`: a column ``path`` that can be opened, and the
    `columns` that prompts name; its index holds the paths as they were given.
    """
    tables = []
    loose = {}  # each file once, in order
    for text in inputs:
        path = Path(text).expanduser()
        if path.suffix.lower() in _TABLES:
            tables.append(_from_table(path, path_column, columns))
        elif path.is_dir():
            loose.update(dict.fromkeys(_in_folder(path, recursive)))
        elif path.exists():
            loose[text] = None
        elif glob.has_magic(text):
            # Path.glob takes relative patterns only.
            found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
            found = [name for name in found if Path(name).is_file()]
            if not found:
                raise ValueError(f"No file matches {text!r}.")
            loose.update(dict.fromkeys(found))
        else:
            raise ValueError(f"There is no file or folder {text!r}.")
    if loose and columns:
        raise ValueError(
            f"The prompts name the column {columns[0]!r}, which only a table has. Pass "
            "a CSV or Parquet table with that column."
        )
    if loose:
        names = list(loose)
        openable = [str(Path(name).expanduser()) for name in names]
        tables.append(pd.DataFrame({"path": openable}, index=names))
    files = pd.concat(tables)
    if files.empty:
        raise ValueError(f"No rows in {', '.join(map(repr, inputs))}.")
    return files


def read_table(path, path_column, columns, **options):
    """Read a CSV, TSV or Parquet table and check that it has the columns needed.

    `columns` are those that prompts name; `options` are others, by the option that
    names them.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in _TABLES:
        raise ValueError(f"{str(path)!r} is not a .csv, .tsv or .parquet table.")
    if not path.is_file():
        raise ValueError(f"There is no table {str(path)!r}.")
    try:
        if suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            # As text: a file may be called 007, a caption may be "NA".
            table = pd.read_csv(
                path,
                sep="\t" if suffix == ".tsv" else ",",
                dtype=str,
                keep_default_na=False,
                na_values=[""],
                skipinitialspace=True,
            )
    except ValueError as error:  # pandas and pyarrow derive theirs from it
        raise ValueError(f"{str(path)!r} cannot be read as a table: {error}") from error
    needed = {"path_column": path_column, **options}
    for option, name in [*needed.items(), *(("prompts", name) for name in columns)]:
        if name is not None and name not in table.columns:
            option = f"--{option.replace('_', '-')}"
            known = ", ".join(map(repr, table.columns))
            raise ValueError(
                f"{str(path)!r} has no column {name!r}, which {option} names. "
                f"Columns: {known}."
            )
    return table


def table_files(table, folder, path_column, columns):
    """The files that a table names; relative paths may start in `folder`."""
    names = table[path_column]
    openable = [_resolve(name, folder) for name in names]
    files = pd.DataFrame({"path": openable}, dtype=object)
    for name in columns:
        files[name] = table[name].to_list()
    files.index = [name if isinstance(name, str) else "" for name in names]
    return files


def _resolve(value, folder):
    if not isinstance(value, str):
        return None  # empty; reading it says so
    path = Path(value).expanduser()
    if not path.is_absolute() and not path.exists() and (folder / path).exists():
        path = folder / path
    return str(path)


def _from_table(path, path_column, columns):
    table = read_table(path, path_column, columns)
    return table_files(table, path.parent, path_column, columns)


def _in_folder(folder, recursive):
    found = folder.rglob("*") if recursive else folder.glob("*")
    files = [
        str(path)
        for path in sorted(found)
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not files:
        hint = "" if recursive else "; --recursive looks into the folders in it"
        raise ValueError(
            f"There is no picture or video in {str(folder)!r} (of "
            f"{' '.join(sorted(SUFFIXES))}){hint}."
        )
    return files
