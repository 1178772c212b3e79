"""Sequence parameters with a reproducible order; numbers that are numbers."""

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


def check_plain(values, name: str):
    """`values` as they are; ValueError if NumPy would make other numbers of them.

    It drops the mask of a masked array, so that masked values count, and counts the
    nanoseconds of dates; NaT is a number then.
    """
    dtype = getattr(values, "dtype", None)
    dtype = np.asarray(values).dtype if dtype is None else dtype
    if getattr(dtype, "kind", None) in ("m", "M"):
        raise ValueError(
            f"{name} must be numbers. Got dates or durations ({dtype}) instead; choose "
            "another column, or convert it to numbers."
        )
    masked = np.flatnonzero(np.ma.getmaskarray(values)) if np.ma.isMA(values) else ()
    if len(masked):
        raise ValueError(
            f"{name} is a masked array, in which {len(masked)} values are masked, the "
            f"first in row {masked[0]}. Drop these rows, or fill them: filled(value)."
        )
    return values
