"""Media in, regressor inputs out: each picture is extracted once, not per split."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import get_tags

from diffqa_features._store.store import FeatureStore


class Extraction:
    """Rows of one dataset, shared by all methods and splits.

    A Pipeline that starts with stateless transformers (``requires_fit=False``: nothing
    is learned, so nothing can leak) is cut after them: they run once over all rows, and
    the rest is fitted on the matrix. Estimators that cannot be cut, such as a search
    over a Pipeline, read the rows themselves and cache them in ``store``.
    """

    def __init__(self, X, store: FeatureStore):
        self._X = X
        self._store = store
        self._done = []

    def take(self, estimator):
        """Unfitted estimator -> (the part fitted in each split, its input)."""
        stateless, rest = cut(estimator)
        if not stateless:
            return with_store(rest, self._store), self._X
        for known, data in self._done:
            if alike(known, stateless):
                return clone(rest), data
        data = self._X
        for step in stateless:
            data = clone(step).fit_transform(data)
        self._done.append((stateless, data))
        return clone(rest), data


def cut(estimator):
    """Split an estimator into its leading stateless steps and the rest."""
    if not isinstance(estimator, Pipeline):
        return [], estimator
    count = 0
    for _, step in estimator.steps[:-1]:
        if not (step is None or step == "passthrough" or _is_stateless(step)):
            break
        count += 1
    leading = [
        step
        for _, step in estimator.steps[:count]
        if step is not None and step != "passthrough"
    ]
    if not leading:
        return [], estimator
    rest = estimator[count:]
    return leading, rest.steps[0][1] if len(rest.steps) == 1 else rest


def with_store(estimator, store):
    """Clone with every unset ``memory`` that accepts a FeatureStore set to this one."""
    copy = clone(estimator)
    for name in memories(copy):
        if copy.get_params()[name] is None:
            copy.set_params(**{name: store})
    return copy


def memories(estimator) -> list[str]:
    """Names of the parameters of an estimator and its parts that accept a store."""
    params = estimator.get_params()
    owners = {
        name: params[name.rpartition("__")[0]] if "__" in name else estimator
        for name in params
        if name.rpartition("__")[2] == "memory"
    }
    return [
        name
        for name, owner in owners.items()
        if FeatureStore
        in getattr(owner, "_parameter_constraints", {}).get("memory", ())
    ]


@contextmanager
def temporary_store() -> Iterator[FeatureStore]:
    """A temporary store; it costs nothing unless something is stored."""
    with tempfile.TemporaryDirectory(prefix="diffqa-") as folder:
        with FeatureStore(folder) as store:
            yield store


def alike(a, b) -> bool:
    """Whether two steps, or two of their parameters, compute the same."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, BaseEstimator):
        return alike(a.get_params(deep=False), b.get_params(deep=False))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if hasattr(a, "__array__"):
        return np.array_equal(a, b)  # of unequal shapes too
    return bool(np.all(a == b))


def _is_stateless(step) -> bool:
    if isinstance(step, FeatureUnion):
        parts = [part for _, part in step.transformer_list]
        return all(isinstance(part, str) or _is_stateless(part) for part in parts)
    return hasattr(step, "transform") and not get_tags(step).requires_fit
