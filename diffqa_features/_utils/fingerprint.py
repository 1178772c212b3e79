"""An estimator in, a hash of everything that its results depend on out."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import joblib
from sklearn.base import BaseEstimator

from diffqa_features._utils.hashing import hash_values
from diffqa_features._utils.parameters import MACHINE

# Attributes that change no result, or that `_frozen_identity` already covers.
_FREE = MACHINE | {
    "failed_", "frozen_identity_", "history_", "cv_results_", "refit_time_",
    "_sklearn_output_config",
}  # fmt: skip


def fingerprint(estimator) -> str:
    """Hash of everything the results of an estimator depend on.

    Class, parameters, fitted attributes, and the file contents of frozen models, which
    estimators of this package name by ``_frozen_identity()``. Code is not hashed; this
    library's version is.
    """
    from diffqa_features import __version__

    try:
        return hash_values(__version__, estimator, spell=_spell)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ValueError(
            f"A {type(estimator).__name__} cannot be told from others, so its results "
            f"cannot be kept: {error}. Set memory=None if it has one, or make it one "
            "that pickles."
        ) from error


def _spell(value):
    """What an object's results depend on, in plain values."""
    if isinstance(value, Path):
        return os.fspath(value)
    if not isinstance(value, BaseEstimator):
        return joblib.hash(value)
    frozen = None
    if hasattr(value, "_frozen_identity"):
        frozen = value._frozen_identity()
    kind = type(value)
    facts = {name: fact for name, fact in vars(value).items() if name not in _FREE}
    if "dtype" in facts and hasattr(value, "_precision"):
        facts["dtype"] = value._precision()  # differs from machine to machine
    return f"{kind.__module__}.{kind.__qualname__}", frozen, facts
