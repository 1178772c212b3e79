"""Parameters that are sequences: those whose order is the same in every process."""

from collections.abc import Mapping

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
