"""Inputs of displays in, checked arrays or an error out."""

import numpy as np
from sklearn.utils import check_array, column_or_1d

from diffqa_features._utils.checks import refuse_misread


def numbers(values, name: str, length: int | None = None) -> np.ndarray:
    """Finite float64 (n,), of a given length."""
    refuse_misread(values, name)
    values = check_array(values, ensure_2d=False, dtype=float, input_name=name)
    values = column_or_1d(values)
    if length is not None and len(values) != length:
        raise ValueError(f"{name} has {len(values)} values in the place of {length}.")
    return values


def features(values) -> np.ndarray:
    """Finite float64 (n, D), with enough rows for a two-dimensional embedding."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or values.shape[0] < 4 or values.shape[1] < 2:
        raise ValueError(
            "features must be of shape (n, D) with four rows and two columns at least. "
            f"Got the shape {values.shape} instead."
        )
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise ValueError(
            f"The features of row {bad[0]} are not finite ({len(bad)} such rows). "
            "Leave these rows out."
        )
    return values


def distinct_timesteps(values) -> np.ndarray:
    """Ints (T,) in [0, 999], in the order given."""
    found = np.asarray(values)
    whole = found.ndim == 1 and len(found) and found.dtype.kind in "iu"
    if (
        not whole
        or found.min() < 0
        or found.max() > 999
        or len(set(found)) < len(found)
    ):
        raise ValueError(
            "The 'timesteps' parameter must be distinct ints in the range [0, 999], at "
            f"least one. Got {values!r} instead."
        )
    return found


def timesteps_parameter(estimator, name: str | None) -> str:
    """Name of the timesteps parameter of an estimator or one of its parts."""
    known = estimator.get_params()
    if name is None:
        named = [each for each in known if each.rpartition("__")[2] == "timesteps"]
        if len(named) == 1:
            return named[0]
        raise ValueError(
            f"The estimator has {len(named)} parameters called 'timesteps' ({named}). "
            "Say with parameter=... which one is meant."
        )
    if name not in known:
        raise ValueError(
            f"The estimator has no parameter {name!r}, but {sorted(known)}."
        )
    return name
