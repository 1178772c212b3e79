"""INPUT arguments in, a table of files and URLs out, named as the user wrote them."""

import fnmatch
import glob
import os
from collections import Counter
from pathlib import Path

import pandas as pd

from diffqa_features._commands._outputs import note
from diffqa_features._media.remote import (
    TypedUrl,
    check_url,
    expand_url,
    is_url,
    redact_url,
)
from diffqa_features._media.video.raw import COLUMNS as RAW_COLUMNS
from diffqa_features._media.video.raw import is_raw_video
from diffqa_features._utils.files import exists, expand_user, local_path, walk
from diffqa_features._utils.tables import TABLES, load_table

SUFFIXES = frozenset(
    ".apng .avif .bmp .gif .heic .heif .j2k .jfif .jp2 .jpe .jpeg .jpg .pgm .png .pnm "
    ".ppm .tga .tif .tiff .webp "
    ".3g2 .3gp .asf .avi .f4v .flv .m2ts .m2v .m4v .mkv .mov .mp4 .mpe .mpeg .mpg .mts "
    ".ogv .ts .vob .webm .wmv".split()
)
"""What is taken from a folder; a file or pattern may have any name."""


def collect_files(inputs, *, path_column="path", recursive=False, columns=()):
    """Expand INPUT arguments.

    Returns a DataFrame for `transform`: a column ``path`` that can be opened, and the
    `columns` named in prompts; its index holds the paths and URLs as given.
    """
    tables = []
    loose = {}  # each file once, in order
    for text in inputs:
        if is_url(text):
            loose.update(dict.fromkeys(_at_url(text)))
            continue
        path = local_path(text, "INPUT")
        if path.suffix.lower() in TABLES:
            tables.append(_from_table(path, path_column, columns))
        elif exists(path):
            found = _in_folder(path, recursive) if path.is_dir() else [text]
            loose.update(dict.fromkeys(found))
        elif glob.has_magic(text):
            found = _matching(path)
            if not found:
                raise ValueError(f"No file matches {text!r}.")
            loose.update(dict.fromkeys(found))
        elif path.suffix.lower() in SUFFIXES:
            loose[text] = None  # reading it says that it is not there
        else:
            raise ValueError(f"There is no file or folder {text!r}.")
    if loose and columns:
        raise ValueError(
            f"The prompts name the column {columns[0]!r}, which only a table has. Pass "
            "a CSV or Parquet table with that column."
        )
    if loose:
        names = list(loose)
        openable = [TypedUrl(n) if is_url(n) else expand_user(n) for n in names]
        tables.append(_frame(openable, names))
    files = _joined(tables)
    if files.empty:
        raise ValueError(f"No rows in {', '.join(map(repr, inputs))}.")
    return files


def read_table(path, path_column, columns, **options):
    """Read a CSV, TSV or Parquet table and check that it has the columns needed.

    `columns` are those named in prompts; `options` are others, by the option that names
    them.
    """
    path = local_path(path, "TABLE")
    if path.suffix.lower() in TABLES and not path.is_file():
        raise ValueError(f"There is no table {str(path)!r}.")
    table = load_table(path)
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
    """The files that a table lists; relative paths can be relative to `folder`.

    With the `columns`, and those that describe its headerless videos.
    """
    names = [n if isinstance(n, str) else "" for n in table[path_column]]
    openable = [_resolve(name, folder) for name in table[path_column]]
    cells = {name: table[name].to_list() for name in columns}
    for name in RAW_COLUMNS if any(map(is_raw_video, names)) else ():
        if name in table.columns:
            cells[name] = list(map(_number, table[name]))
    return _frame(openable, names, cells)


def _number(cell):
    try:
        return float(cell)
    except (TypeError, ValueError):
        return cell


def _frame(openable, names, others=None):
    # Objects, because pandas' own text holds no names that are not UTF-8.
    index = pd.Index(names, dtype=object)
    return pd.DataFrame({"path": openable, **(others or {})}, index=index, dtype=object)


def _joined(tables):
    # pandas.concat would make its own text of the index.
    cells = {
        name: [x for t in tables for x in t.get(name, [None] * len(t))]
        for name in dict.fromkeys(name for t in tables for name in t)
    }
    return _frame(cells.pop("path"), [n for t in tables for n in t.index], cells)


def _resolve(value, folder):
    if not isinstance(value, str):
        return None  # empty; reading it says so
    if is_url(value):
        return value
    path = Path(expand_user(value))
    if not path.is_absolute() and not exists(path) and exists(folder / path):
        path = folder / path
    return str(path)


def _at_url(url):
    """URLs of files; a table or folder must be on this machine."""
    check_url(url)
    if url.partition("?")[0].lower().endswith((*TABLES, "/")):
        raise ValueError(
            f"INPUT {redact_url(url)!r} is a table or a folder, and URLs are those of "
            "single files. Download the table, or pass a pattern: 's3://bucket/*.jpg'."
        )
    try:
        found = expand_url(url)
    except OSError as error:
        raise OSError(f"INPUT {redact_url(url)!r}: {error}") from error
    if not found:
        raise ValueError(f"No file matches {redact_url(url)!r}.")
    return found


def _from_table(path, path_column, columns):
    table = read_table(path, path_column, columns)
    return table_files(table, path.parent, path_column, columns)


def _in_folder(folder, recursive):
    """Pictures and videos of a folder; other files are reported in one line."""
    files, others, hidden = [], Counter(), 0
    for place, names in walk(folder, links=False, skip=_is_hidden):
        for path in map(place.joinpath, names):
            # As "._a.jpg", which macOS leaves beside each file on other disks.
            if _is_hidden(path.name):
                hidden += 1
            elif path.suffix.lower() in SUFFIXES and path.is_file():
                files.append(str(path))
            else:
                others[path.suffix.lower() or "no ending"] += 1
        if not recursive:
            break
    left_out = [f"{count} {suffix}" for suffix, count in others.most_common(5)]
    if len(others) > 5:
        rest = sum(others.values()) - sum(n for _, n in others.most_common(5))
        left_out.append(f"{rest} of other kinds")
    if hidden:
        left_out.append(f"{hidden} hidden")
    if left_out:
        total = sum(others.values()) + hidden
        files_word = "file" if total == 1 else "files"
        note(f"{folder}: {total} {files_word} left out ({', '.join(left_out)})")
    # In the order of paths, without a million of them.
    files.sort(key=lambda name: name.replace(os.sep, "\0"))
    if not files:
        hint = "" if recursive else "; --recursive looks into the folders in it"
        raise ValueError(
            f"There is no picture or video in {str(folder)!r} (of "
            f"{' '.join(sorted(SUFFIXES))}){hint}."
        )
    return files


def _is_hidden(name):
    return name.startswith(".") or name == "__MACOSX"


def _matching(pattern):
    """Files that match a pattern, sorted, spelt as in the pattern.

    Like `glob.glob`, but no folder is entered twice through links, so that ``**`` ends
    even if links form a cycle.
    """
    first, *parts = pattern.parts
    found = [Path(first)] if pattern.is_absolute() else _below(Path(), first)
    for part in parts:
        found = [path for folder in found for path in _below(folder, part)]
    if pattern.parts[-1] == "**":
        found = [path for folder in found for path in _below(folder, "*")]
    return sorted({str(path) for path in found if path.is_file()})


def _below(folder, part):
    """Matches of one part of a pattern in a folder; none in a file."""
    if not glob.has_magic(part):
        path = folder / part
        return [path] if exists(path) else []
    if not folder.is_dir():
        return []
    if part == "**":
        return [place for place, _ in walk(folder, skip=_is_hidden)]
    return [
        path
        for path in sorted(folder.iterdir())
        if fnmatch.fnmatch(path.name, part)
        and (part.startswith(".") or not path.name.startswith("."))
    ]
