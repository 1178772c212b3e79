"""Sequences with a reproducible order, and values that NumPy misreads as numbers."""

from collections.abc import Mapping

import numpy as np
from sklearn.utils._param_validation import HasMethods


class InOrder(HasMethods):
    """Parameter constraint: a sequence with the same order in every process.

    scikit-learn's ``"array-like"`` accepts sets. Their order depends on hashes, which
    are salted per process, so columns would change order.
    """

    def __init__(self):
        super().__init__(["__len__", "__getitem__"])

    def is_satisfied_by(self, val):
        several = super().is_satisfied_by(val) and getattr(val, "ndim", 1) > 0
        return several and not isinstance(val, (str, bytes, Mapping))

    def __str__(self):
        return "a sequence with an order (a list, tuple or array; no set or dict)"


def refuse_misread(values, name: str) -> None:
    """Raise for masked values, and for times, which convert to numbers silently."""
    masked = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else np.array([])
    if masked.any():
        first = np.argwhere(masked)[0].tolist()
        raise ValueError(
            f"{name} has {masked.sum()} masked values, the first in row {first[0]}; "
            "nothing is known of them. Leave those rows out, or fill them with "
            "array.filled(value)."
        )
    dtype = getattr(values, "dtype", None)
    if dtype is None:
        try:
            dtype = np.asarray(values).dtype
        except ValueError:  # of several lengths; whoever reads them names the row
            return
    of_polars = getattr(dtype, "is_temporal", None)
    if getattr(dtype, "kind", None) in ("m", "M") or (of_polars and of_polars()):
        raise ValueError(f"{name} must hold numbers, and these are times ({dtype}).")
