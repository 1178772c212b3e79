"""Groups of rows as users pass them in, a checked array out."""

import numpy as np
import pandas as pd


def check_groups(groups, where: str = "") -> np.ndarray:
    """Groups as an array; ValueError if a row has none.

    In a text array, NaN would become the group ``"nan"``, shared by all rows without a
    source.
    """
    if np.ma.isMaskedArray(groups):
        groups = np.where(np.ma.getmaskarray(groups), None, groups.data)
    cells = np.array(groups, dtype=object)
    if cells.ndim != 1:
        raise ValueError(f"Groups{where} must have one axis. Got shape {cells.shape}.")
    blank = [isinstance(cell, str) and not cell.strip() for cell in cells]
    missing = np.flatnonzero(pd.isna(cells) | np.array(blank, dtype=bool))
    if len(missing):
        raise ValueError(
            f"The group of row {missing[0]}{where} is missing ({len(missing)} such "
            "rows). Give every row its source; a row alone is its own group."
        )
    return np.asarray(groups)
