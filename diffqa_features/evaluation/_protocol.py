"""Shared by all studies: input checks, leakage, fitting, and the record of a study."""

import inspect
from importlib.metadata import version

import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.metadata_routing import get_routing_for_object

from diffqa_features._media.rows import take_rows
from diffqa_features._utils.checks import refuse_misread
from diffqa_features._utils.groups import check_groups
from diffqa_features.evaluation._extraction import memories
from diffqa_features.evaluation._leakage import refuse_shared
from diffqa_features.evaluation._measures import align, score


def check_methods(estimator) -> dict:
    """One estimator or a dict of them -> a dict by name."""
    if not isinstance(estimator, dict):
        return {name_of(estimator): estimator}
    if not estimator:
        raise ValueError("The dict of estimators is empty: nothing to compare.")
    names = list(map(str, estimator))
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"Two estimators are called {twice[0]!r}; rename one of them.")
    return dict(zip(names, estimator.values()))


def name_of(estimator) -> str:
    """Class names, joined along a Pipeline."""
    if not isinstance(estimator, BaseEstimator):
        raise TypeError(
            "The estimator must be a scikit-learn estimator or a dict of them by name. "
            f"Got {type(estimator).__name__} instead."
        )
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if isinstance(step, BaseEstimator)]
        return "+".join(map(name_of, steps))
    return type(estimator).__name__


def check_data(X, y, groups, where: str = ""):
    """Scores as float64 and groups as an array or ``None``, both as long as X."""
    check_consistent_length(X, y, groups)
    refuse_misread(y, f"y{where}")
    y = column_or_1d(y).astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(y))
    if len(bad):
        raise ValueError(
            f"The score of row {bad[0]}{where} is {y[bad[0]]} ({len(bad)} such rows). "
            "Leave rows without a score out."
        )
    if groups is not None:
        groups = check_groups(groups, where)
    return y, groups


def check_split(train, test, groups, media, where: str) -> None:
    """Raise if a row, a group or a medium is on both sides.

    `media` are the rows' :func:`identities`.
    """
    if not len(train) or not len(test):
        raise ValueError(f"{where}: {len(train)} training and {len(test)} test rows.")
    both = np.intersect1d(train, test)
    if len(both):
        raise ValueError(
            f"{where} leaks: {len(both)} rows are in training and in test, for example "
            f"row {both[0]}."
        )
    if groups is not None:
        _refuse_shared_groups(train, test, groups, where)
    refuse_shared(
        dict(zip(train, media[train])),
        dict(zip(test, media[test])),
        f"{where} leaks",
        ("training row {}", "test row {}"),
        "Keep one row of each file, or put its rows into one group.",
    )


def _refuse_shared_groups(train, test, groups, where):
    shared = np.intersect1d(groups[train], groups[test])
    if len(shared):
        ours = train[groups[train] == shared[0]][0]
        theirs = test[groups[test] == shared[0]][0]
        raise ValueError(
            f"{where} leaks: {len(shared)} groups are in training and in test, for "
            f"example {shared.tolist()[0]!r} (training row {ours}, test row {theirs}). "
            "Versions of one source must stay on one side: split by groups, or pass "
            "groups=None if these are not sources."
        )


def fit(model, data, y, groups, rows):
    """Fit a clone on some rows; a search also gets the groups."""
    model = clone(model)
    return model.fit(take_rows(data, rows), y[rows], **_routed(model, groups, rows))


def predict(model, data, rows, *, method: str, where: str) -> np.ndarray:
    """Finite predictions for some rows."""
    predicted = np.asarray(model.predict(take_rows(data, rows)), np.float64)
    predicted = column_or_1d(predicted)
    bad = np.flatnonzero(~np.isfinite(predicted))
    if len(bad):
        raise ValueError(
            f"{method} predicts {predicted[bad[0]]} for row {rows[bad[0]]} "
            f"({len(bad)} of {len(rows)} rows), {where}. Look at the estimator's "
            "features of that row; no metric is defined on such predictions."
        )
    return predicted


def tabulate(y_true, y_pred, rows, groups, mapping, **labels) -> pd.DataFrame:
    """Predictions as a tidy frame, with their values after the logistic."""
    return pd.DataFrame(
        {
            **labels,
            "row": rows,
            "group": None if groups is None else groups[rows],
            "y_true": y_true,
            "y_pred": y_pred,
            "y_aligned": align(y_true, y_pred, mapping),
        }
    )


def measure(predictions: pd.DataFrame, metrics) -> dict[str, float]:
    """Metrics of one method on one test set."""
    columns = (predictions[c].to_numpy() for c in ("y_true", "y_pred", "y_aligned"))
    y_true, y_pred, y_aligned = columns
    return {metric: score(metric, y_true, y_pred, y_aligned) for metric in metrics}


def describe(methods: dict, mapping, **more) -> dict[str, str]:
    """Facts recorded in a table."""
    curve = {None: "none: predictions are taken as they are"}
    return {
        **{f"method {name}": _say(estimator) for name, estimator in methods.items()},
        **more,
        "mapping": curve.get(
            mapping, f"{mapping}, increasing, fitted on each test set; for plcc, rmse"
        ),
        "software": ", ".join(
            f"{name} {version(name)}"
            for name in ("diffqa-features", "scikit-learn", "scipy")
        ),
    }


def count(rows: int, groups) -> str:
    """State the amount of data."""
    if groups is None:
        return f"{rows} rows, no groups"
    return f"{rows} rows in {len(np.unique(groups))} groups"


def _say(estimator) -> str:
    # Where things were remembered is not part of what was compared.
    estimator = clone(estimator)
    estimator.set_params(**dict.fromkeys(memories(estimator)))
    return " ".join(repr(estimator).split())


def _routed(model, groups, rows) -> dict:
    """Groups for a search, or any other estimator that takes them in ``fit``."""
    if groups is None:
        return {}
    name = "groups"
    if get_config()["enable_metadata_routing"]:
        wanted = get_routing_for_object(model).consumes("fit", [name])
        return dict.fromkeys(wanted, groups[rows])
    while isinstance(model, Pipeline):
        step, model = model.steps[-1]
        name = f"{step}__{name}"
    searches = hasattr(model, "cv") and hasattr(model, "scoring")
    if searches or "groups" in inspect.signature(model.fit).parameters:
        return {name: groups[rows]}
    return {}
