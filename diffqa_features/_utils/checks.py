"""Values that users pass, checked: sequences with an order, one group per row."""

from collections.abc import Mapping

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils._param_validation import HasMethods


class InOrder(HasMethods):
    """Parameter constraint: several values whose order is the same in every process.

    scikit-learn's ``"array-like"`` lets sets through. Their order follows from hashes,
    which are salted per process, so that columns would change places.
    """

    def __init__(self):
        super().__init__(["__len__", "__getitem__"])

    def is_satisfied_by(self, val):
        several = super().is_satisfied_by(val) and getattr(val, "ndim", 1) > 0
        return several and not isinstance(val, (str, bytes, Mapping))

    def __str__(self):
        return "a sequence with an order (a list, tuple or array; no set or dict)"


def check_groups(groups, rows):
    """Groups as an array of shape (N,): one for each row, and none missing."""
    # Objects, since NumPy makes 'nan' of a NaN among str.
    values = groups if hasattr(groups, "dtype") else np.asarray(groups, object)
    values = column_or_1d(np.asarray(values))
    check_consistent_length(rows, values)
    for row, value in enumerate(values.tolist()):
        missing = type(value).__name__ in ("NoneType", "NAType", "NaTType")
        if missing or value == "" or (isinstance(value, float) and value != value):
            raise ValueError(
                f"Row {row}: its group is missing ({value!r}). Give each row a group, "
                "one of its own where it belongs to none."
            )
    # Numbers and str among objects have no common order: all become str.
    return np.asarray(values.tolist()) if values.dtype == object else values
