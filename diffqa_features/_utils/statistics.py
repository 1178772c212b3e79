"""Values of several frames or clips in, one row of statistics out."""

from collections.abc import Iterable, Sequence

import numpy as np

_POOL = {"mean": np.mean, "std": np.std, "max": np.max, "min": np.min}


def all_finite(arrays: Iterable[np.ndarray]) -> bool:
    """Whether no array holds NaN or infinity."""
    return all(np.isfinite(values).all() for values in arrays)


def pool_rows(table: np.ndarray, statistics: Sequence[str]) -> np.ndarray:
    """Statistics over the rows of (T, D), concatenated: (statistics * D,)."""
    return np.concatenate([_POOL[name](table, axis=0) for name in statistics])
