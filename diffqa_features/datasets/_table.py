"""Your own table in, the same Bunch out as for a published dataset."""

import os
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils._param_validation import validate_params

from diffqa_features._media.remote import check_url, is_url
from diffqa_features._media.video.raw import COLUMNS, REQUIRED
from diffqa_features._utils.checks import refuse_misread
from diffqa_features._utils.files import exists, expand_user, local_path
from diffqa_features._utils.tables import read_csv
from diffqa_features.datasets._folder import some
from diffqa_features.datasets._loader import bunch


@validate_params(
    {
        "table": [str, os.PathLike],
        "path_column": [str],
        "target_column": [str],
        "group_column": [str, None],
        "split_column": [str, None],
        "target_range": [tuple, list, None],
        "higher_is_better": ["boolean"],
        "return_X_y": ["boolean"],
        "as_frame": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def from_table(
    table,
    path_column="path",
    target_column="target",
    group_column=None,
    *,
    split_column=None,
    target_range=None,
    higher_is_better=True,
    return_X_y=False,
    as_frame=False,
):
    """Load your own pictures or videos, listed in a table.

    Parameters
    ----------
    table : str or path-like
        A .csv or .parquet file. Paths in it are relative to its folder.
    path_column : str, default="path"
        Column with the paths or URLs.
    target_column : str, default="target"
        Column with the scores.
    group_column : str or None, default=None
        Column with the groups that must not be on both sides of a split, such as the
        name of the undistorted picture. With ``None``, each row is its own group: its
        path.
    split_column : str or None, default=None
        Column with the parts of a fixed split.
    target_range : tuple of (float, float) or None, default=None
        Ends of the scale of the scores. ``None`` uses the smallest and the largest
        score in the table.
    higher_is_better : bool, default=True
        Direction of the scores.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Return `data` as a DataFrame with the column ``path``, `target` as a Series, and
        all columns of the table in `frame`.

    Returns
    -------
    rows : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes

        data : list of str, or DataFrame
            Absolute paths. With ``as_frame=True`` or if the table has the columns
            ``width``, ``height``, ``frame_rate`` and ``pixel_format`` of raw video, a
            DataFrame with these and, where there is one, ``color_matrix``.
        target : ndarray of shape (n,), dtype float64, or Series
            Scores as in the table.
        target_range : tuple of (float, float)
            Ends of their scale.
        higher_is_better : bool
            Their direction.
        groups : ndarray of shape (n,), dtype str
            Groups as in the table.
        split : ndarray of shape (n,), dtype str, or None
            Parts as in the table.
        frame : DataFrame or None
            With ``as_frame=True``: ``path``, ``target``, ``group``, ``split`` and the
            other columns of the table.
        missing : list of str
            Always empty: all files must exist.
        DESCR : str
            What was read.

    (data, target) : tuple
        If `return_X_y` is true.

    Raises
    ------
    FileNotFoundError
        If the table or a file that it lists is missing.
    ValueError
        If a column is missing, there are no rows, scores are not numbers, or a URL is
        not one that is read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from diffqa_features.datasets import from_table
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a_1", "a_2"):
    ...         Image.new("RGB", (8, 8)).save(Path(folder, f"{name}.png"))
    ...     lines = "file,mos,scene\\na_1.png,3.5,a\\na_2.png,1.5,a\\n"
    ...     _ = Path(folder, "scores.csv").write_text(lines)
    ...     rows = from_table(Path(folder, "scores.csv"), "file", "mos", "scene")
    >>> rows.target, rows.groups, rows.target_range
    (array([3.5, 1.5]), array(['a', 'a'], dtype='<U1'), (1.5, 3.5))
    """
    source = local_path(table, "The 'table' parameter").absolute()
    roles = {
        "path": path_column,
        "target": target_column,
        "group": group_column,
        "split": split_column,
    }
    frame = _renamed(_read(source, roles), roles, source)
    odd = [k for k, path in enumerate(frame["path"]) if not isinstance(path, str)]
    if odd:
        raise ValueError(
            f"The column '{path_column}' of '{source}' must hold paths. Got "
            f"{frame['path'].iloc[odd[0]]!r} in row {odd[0]}."
        )
    for k, path in enumerate(frame["path"]):
        try:
            if is_url(path):
                check_url(path, from_table=True)
        except ValueError as error:
            raise ValueError(
                f"The column '{path_column}' of '{source}', row {k}: {error}"
            ) from error
    paths = [
        path if is_url(path) else str(source.parent / expand_user(path))
        for path in frame["path"]
    ]
    absent = [
        path
        for path in paths
        if not is_url(path) and not (exists(path) and Path(path).is_file())
    ]
    if absent:
        raise FileNotFoundError(
            f"{len(absent):,} of {len(paths):,} files of '{source}' are not there: "
            f"{some(absent)}. Relative paths start in the folder of the table."
        )
    refuse_misread(frame["target"], f"The column '{target_column}' of '{source}'")
    target = pd.to_numeric(frame["target"], errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(target))
    if len(bad):
        cells = (f"{frame['target'].iloc[k]!r} in row {k}" for k in bad)
        raise ValueError(
            f"The column '{target_column}' of '{source}' must hold numbers. Got "
            f"{some(cells)}."
        )
    # Objects, because pandas' own text holds no names that are not UTF-8.
    paths = pd.Series(paths, frame.index, dtype=object)
    frame = frame.assign(path=paths, target=target)
    if group_column is None:
        frame["group"] = paths
    return bunch(
        frame,
        columns=[n for n in COLUMNS if n in frame] if {*REQUIRED} <= {*frame} else [],
        target_range=_range(target_range, target),
        higher_is_better=higher_is_better,
        missing=[],
        describe=lambda: (
            f"{len(frame):,} rows of '{source}', column '{target_column}' from "
            f"{target.min():g} to {target.max():g}, "
            f"{frame['group'].nunique():,} groups."
        ),
        return_X_y=return_X_y,
        as_frame=as_frame,
    )


def _read(source: Path, roles: dict[str, str | None]) -> pd.DataFrame:
    """The table; names that look like numbers stay text."""
    if not source.is_file():
        raise FileNotFoundError(f"There is no table '{source}'.")
    kind = source.suffix.lower()
    try:
        if kind == ".csv":
            frame = read_csv(source)
            # As they are written: a scene may be called 007, NA or null.
            as_written = read_csv(source, dtype=str, keep_default_na=False)
            for role in ("path", "group", "split"):
                if roles[role] in frame:
                    frame[roles[role]] = as_written[roles[role]]
            for name in frame.columns.difference([*roles.values()], sort=False):
                if as_written[name].str.fullmatch(r"0\d.*").any():
                    frame[name] = as_written[name].where(frame[name].notna())
        elif kind == ".parquet":
            frame = pd.read_parquet(source)
        else:
            raise ValueError(f"'{kind}' is neither '.csv' nor '.parquet'.")
    except (OSError, ValueError) as error:
        raise ValueError(f"The table '{source}' cannot be read: {error}") from error
    if frame.empty:
        raise ValueError(f"The table '{source}' has no rows.")
    return frame


def _renamed(
    frame: pd.DataFrame, roles: dict[str, str | None], source: Path
) -> pd.DataFrame:
    asked = {}
    for role, name in roles.items():
        if name is not None:
            asked.setdefault(name, role)
    absent = [name for name in asked if name not in frame]
    if absent:
        raise ValueError(
            f"The table '{source}' has no column {some(map(repr, absent))}, only "
            f"{some(map(repr, frame.columns), 20)}."
        )
    for name in asked:
        blank = np.flatnonzero(frame[name].isna() | _is_blank(frame[name]))
        if len(blank):
            raise ValueError(
                f"The column '{name}' of '{source}' is blank in {len(blank):,} rows: "
                f"{some(map(str, blank))}."
            )
    taken = [name for name in frame if name in roles and name not in asked]
    if taken:
        raise ValueError(
            f"The columns {some(map(repr, taken))} of '{source}' have names that the "
            f"result uses for others; rename them, or name them in "
            f"{some(f'{name}_column' for name in taken)}."
        )
    frame = frame.rename(columns=asked)
    for role, name in roles.items():
        if name is not None and asked[name] != role:  # one column may have two roles
            frame[role] = frame[asked[name]]
    return frame


def _is_blank(column: pd.Series) -> np.ndarray:
    return np.array([isinstance(cell, str) and not cell.strip() for cell in column])


def _range(given, target: np.ndarray) -> tuple[float, float]:
    if given is None:
        return float(target.min()), float(target.max())
    ends = tuple(given)
    if len(ends) != 2 or not all(isinstance(e, Real) for e in ends):
        raise ValueError(
            "The 'target_range' parameter of from_table must be two numbers or None. "
            f"Got {given!r} instead."
        )
    low, high = map(float, ends)
    if not low < high or target.min() < low or target.max() > high:
        raise ValueError(
            f"The 'target_range' parameter of from_table must hold all scores, which "
            f"are {target.min():g} to {target.max():g}. Got {given!r} instead."
        )
    return low, high
