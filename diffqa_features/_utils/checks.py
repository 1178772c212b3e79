"""Sequence parameters with a reproducible order."""

from collections.abc import Mapping

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
