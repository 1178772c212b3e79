"""The reader of all published datasets: a description and a folder in, a Bunch out."""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import Bunch
from sklearn.utils._param_validation import (
    StrOptions,
    validate_parameter_constraints,
)

from diffqa_features.datasets._description import Dataset, Score
from diffqa_features.datasets._folder import Folder, some

_STANDARD = ("path", "target", "group", "split")


def read(
    dataset: Dataset,
    root,
    subset: str,
    return_X_y: bool,
    as_frame: bool,
    on_missing: str,
    **options,
):
    """Load a local copy; `options` are `score` and the dataset's own parameters."""
    _check(dataset, root, subset, return_X_y, as_frame, on_missing, options)
    folder = Folder(root, dataset, subset)
    score = dataset.scores[options.get("score", next(iter(dataset.scores)))]
    table = dataset.table(folder, **options)
    _check_counts(dataset, folder, table)
    if subset != "all":
        if dataset.part_column not in table:
            raise ValueError(
                f"{dataset.title}: subset='{subset}' needs label files that are not in "
                f"'{folder.root}'. {' '.join(folder.notes)} {dataset.way_out}"
            )
        table = table[table[dataset.part_column] == subset].reset_index(drop=True)
        if table.empty:
            raise ValueError(
                f"{dataset.title}: no row of {_paths(folder)} belongs to '{subset}'."
            )
    table["target"] = _targets(dataset, folder, table, score)
    table, missing = _resolve(dataset, folder, table, on_missing)
    if dataset.finish is not None:
        table = dataset.finish(table)
    return bunch(
        table,
        columns=[name for name in dataset.columns if name in table],
        target_range=(score.low, score.high),
        higher_is_better=score.higher_is_better,
        missing=missing,
        describe=lambda: dataset.describe(_found(folder, table, score, missing)),
        return_X_y=return_X_y,
        as_frame=as_frame,
    )


def bunch(
    table: pd.DataFrame,
    *,
    columns: list[str],
    target_range: tuple[float, float],
    higher_is_better: bool,
    missing: list[str],
    describe,
    return_X_y: bool,
    as_frame: bool,
):
    """Put a table with the standard columns into scikit-learn's form."""
    order = [name for name in _STANDARD if name in table]
    order += [name for name in table if name not in order]
    frame = table[order]
    target = frame["target"]
    data = frame[["path", *columns]]
    if not as_frame:
        target = target.to_numpy()
        if "pixel_format" not in columns:  # raw video is nothing without the others
            data = frame["path"].tolist()
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_range=target_range,
        higher_is_better=higher_is_better,
        groups=_words(frame["group"]) if "group" in frame else None,
        split=_words(frame["split"]) if "split" in frame else None,
        frame=frame if as_frame else None,
        missing=missing,
        DESCR=describe(),
        **{name: frame[name].to_numpy() for name in columns},
    )


def _check(
    dataset: Dataset, root, subset, return_X_y, as_frame, on_missing, options
) -> None:
    constraints = {
        "root": [str, os.PathLike],
        "subset": [StrOptions({"all", *dataset.parts})],
        "return_X_y": ["boolean"],
        "as_frame": ["boolean"],
        "on_missing": [StrOptions({"raise", "drop"})],
    }
    values = {
        "root": root,
        "subset": subset,
        "return_X_y": return_X_y,
        "as_frame": as_frame,
        "on_missing": on_missing,
    }
    if "score" in options:
        constraints["score"] = [StrOptions(set(dataset.scores))]
    for name, option in dataset.options.items():
        constraints[name] = option.constraints
    validate_parameter_constraints(constraints, values | options, dataset.loader)


def _check_counts(dataset: Dataset, folder: Folder, table: pd.DataFrame) -> None:
    if table.empty:
        raise ValueError(f"{dataset.title}: {_paths(folder)} holds no rows.")
    expected = dataset.n_rows
    if expected is not None and len(table) != expected:
        note = (
            f"{_paths(folder)} gives {len(table):,} rows where {expected:,} are "
            "documented."
        )
        folder.notes.append(note)
        warnings.warn(
            f"{dataset.title}: {note} If nothing was left out on purpose, download "
            "the label file again.",
            UserWarning,
            stacklevel=4,
        )


def _targets(
    dataset: Dataset, folder: Folder, table: pd.DataFrame, score: Score
) -> np.ndarray:
    """The scores as numbers; anything else is an error."""
    values = pd.to_numeric(table[score.column], errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        cells = [f"{table[score.column].iloc[k]!r} in row {k}" for k in bad]
        raise ValueError(
            f"{dataset.title}: column '{score.column}' of {_paths(folder)} must hold "
            f"numbers. Got {some(cells)}."
        )
    low, high = values.min(), values.max()
    if score.strict and (low < score.low or high > score.high):
        note = (
            f"column '{score.column}' holds {low:g} to {high:g}, beyond its documented "
            f"scale of {score.low:g} to {score.high:g}."
        )
        folder.notes.append(note)
        warnings.warn(
            f"{dataset.title}: {note} Is {_paths(folder)} the owners' own file?",
            UserWarning,
            stacklevel=4,
        )
    return values


def _resolve(
    dataset: Dataset, folder: Folder, table: pd.DataFrame, on_missing: str
) -> tuple[pd.DataFrame, list[str]]:
    """Add absolute paths; rows without a file raise an error or are dropped."""
    paths, names = folder.media(table.to_dict("records"))
    # Objects, because pandas' own text holds no names that are not UTF-8.
    paths = pd.Series(paths, table.index, dtype=object)
    twice = paths.dropna()
    twice = twice[twice.duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"{dataset.title}: {_paths(folder)} names {len(twice):,} files more than "
            f"once: {some(twice)}. Keep one row of each."
        )
    sizes = np.array([_size(path) for path in paths])
    there, empty = sizes > 0, (sizes == 0).sum()
    missing = [name for name, ok in zip(names, there, strict=True) if not ok]
    if missing:
        what = f"{len(missing):,} of {len(table):,} files are missing"
        if empty:
            what += f" ({empty:,} of them there, but empty)"
        what += f": {some(missing)}."
        if on_missing == "raise" or not there.any():
            way = (
                ""
                if not there.any()
                else (" If they cannot be had, on_missing='drop' goes on without them.")
            )
            raise FileNotFoundError(
                f"{dataset.title}: in '{folder.root}', {what} {dataset.way_out}{way}"
            )
        warnings.warn(
            f"{dataset.title}: {what} Their rows are dropped; see `missing`.",
            UserWarning,
            stacklevel=4,
        )
    table = table.assign(path=paths)[there].reset_index(drop=True)
    return table, missing


def _size(path: str | None) -> int:
    """Bytes of a file; -1 where there is none, as behind a dangling link."""
    try:
        return -1 if path is None else Path(path).stat().st_size
    except OSError:
        return -1


def _found(
    folder: Folder, table: pd.DataFrame, score: Score, missing: list[str]
) -> list[str]:
    unlisted = folder.unlisted(table["path"])
    lines = [
        f"label files: {_paths(folder)}",
        f"{len(table):,} rows with files, the first '{table['path'].iloc[0]}'",
        f"`{score.column}` from {table['target'].min():g} to "
        f"{table['target'].max():g}, in {table['group'].nunique():,} groups",
    ]
    if missing:
        lines.append(f"{len(missing):,} files are missing: {some(missing)}")
    if unlisted:
        names = (Path(path).name for path in unlisted)
        lines.append(
            f"{len(unlisted):,} files beside them have no score: {some(names)}"
        )
    return lines + folder.notes


def _paths(folder: Folder) -> str:
    return some(f"'{path}'" for path in folder.labels)


def _words(column: pd.Series) -> np.ndarray:
    return np.array(list(map(str, column)), dtype=str)
