"""Repeated random splits of one dataset: median and inter-quartile range."""

from collections.abc import Iterable, Set
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, check_cv
from sklearn.utils._param_validation import Interval, validate_params

from diffqa_features.evaluation._extraction import Extraction, temporary_store
from diffqa_features.evaluation._leakage import identities
from diffqa_features.evaluation._measures import METRICS, check_mapping, check_metrics
from diffqa_features.evaluation._protocol import (
    check_data,
    check_methods,
    check_split,
    count,
    describe,
    fit,
    measure,
    predict,
    tabulate,
)
from diffqa_features.evaluation._table import EvaluationTable

SPLIT_RULES = {
    "n_splits": [Interval(Integral, 1, None, closed="left")],
    "test_size": [
        Interval(Real, 0, 1, closed="neither"),
        Interval(Integral, 1, None, closed="left"),
    ],
    "random_state": [Interval(Integral, 0, None, closed="left")],
}


@validate_params(SPLIT_RULES, prefer_skip_nested_validation=True)
def repeated_splits(
    estimator,
    X,
    y,
    *,
    groups=None,
    cv=None,
    n_splits=10,
    test_size=0.2,
    metrics=METRICS,
    mapping="logistic4",
    random_state=0,
):
    """Score estimators on repeated random splits of one dataset.

    Parameters
    ----------
    estimator : estimator or dict of str to estimator
        Unfitted regressor on media, or several by name; all see the same splits. A
        Pipeline that starts with stateless transformers, such as
        :class:`DiffusionQAFeatures`, extracts each row once, regardless of the number
        of splits; any other estimator with an unset `memory` gets a temporary store.
    X : list, array, Series or DataFrame of N media rows
        Pictures or videos.
    y : array-like of shape (N,)
        Scores, such as MOS.
    groups : array-like of shape (N,), default=None
        Source of each row, as in the `groups` of our datasets. All versions of a source
        stay on the same side of a split. A search also gets the groups, for its own
        `cv`.
    cv : int, splitter or iterable of (train, test), default=None
        Your own splits instead of random ones, for example ``GroupKFold(5)``. They are
        checked: a row, a group or a file on both sides is an error.
    n_splits : int, default=10
        Number of random splits.
    test_size : float or int, default=0.2
        Fraction or number of groups (of rows if there are no groups) in the test set.
    metrics : str or sequence of str, default=("srcc", "plcc", "krcc", "rmse")
        Metrics to report.
    mapping : {"logistic4", "logistic5"} or None, default="logistic4"
        Curve fitted to each test set before ``plcc`` and ``rmse``, see
        :class:`~diffqa_features.metrics.LogisticMapping`.
    random_state : int, default=0
        Seed of the splits. Estimators have their own seeds.

    Returns
    -------
    EvaluationTable
        Its `frame` has one row per method and metric: ``method``, ``metric``,
        ``median``, ``q1``, ``q3``, ``mean``, ``std``, ``n_splits``. Its `scores` and
        `predictions` hold every split.

    Raises
    ------
    ValueError
        If a split leaks, a score or a prediction is not finite, or lengths differ.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from diffqa_features import DiffusionQAFeatures, datasets, evaluation
    >>> photos = datasets.load_sample_photos(image_size=64).data[:4]
    >>> data = datasets.make_distorted_images(
    ...     photos, families="jpeg", n_levels=4, image_size=64
    ... )
    >>> model = make_pipeline(DiffusionQAFeatures(image_size=64), Ridge())
    >>> table = evaluation.repeated_splits(
    ...     model, data.data, data.target, groups=data.groups, n_splits=3, test_size=2
    ... )
    >>> table.frame[["metric", "n_splits"]].values.tolist()
    [['srcc', 3], ['plcc', 3], ['krcc', 3], ['rmse', 3]]
    """
    methods = check_methods(estimator)
    metrics = check_metrics(metrics)
    mapping = check_mapping(mapping, metrics)
    y, groups = check_data(X, y, groups)
    splits = list_splits(X, y, groups, cv, n_splits, test_size, random_state)
    with temporary_store() as store:
        extraction = Extraction(X, store)
        runs = [
            run_splits(
                name, *extraction.take(each), y, groups, splits, metrics, mapping
            )
            for name, each in methods.items()
        ]
    scores = pd.concat([scores for scores, _ in runs], ignore_index=True)
    predictions = pd.concat([p for _, p in runs], ignore_index=True)
    facts = describe(
        methods,
        mapping,
        data=count(len(y), groups),
        splits=say_splits(cv, splits, groups, test_size, random_state),
    )
    return EvaluationTable(
        summarise(scores), facts, scores=scores, predictions=predictions
    )


def list_splits(X, y, groups, cv, n_splits, test_size, random_state):
    """Pairs of row numbers, checked for leakage."""
    if cv is None:
        kind = ShuffleSplit if groups is None else GroupShuffleSplit
        cv = kind(n_splits, test_size=test_size, random_state=random_state)
    elif isinstance(cv, Set):
        raise TypeError(
            "The 'cv' parameter must be an int, a splitter or an iterable with an "
            f"order. Got a {type(cv).__name__}, whose order differs between processes."
        )
    # Row numbers stand in for X: splitters index nothing but its length.
    if hasattr(cv, "split") or not isinstance(cv, Iterable):
        pairs = check_cv(cv).split(np.arange(len(y)), y, groups)
    else:
        pairs = cv
    pairs = list(pairs)
    if not pairs or not all(hasattr(p, "__len__") and len(p) == 2 for p in pairs):
        raise ValueError(
            "The 'cv' parameter must give pairs of training and test rows, at least "
            f"one. Got {cv!r:.100} instead."
        )
    splits = [
        tuple(_row_numbers(rows, len(y), f"Split {number}") for rows in pair)
        for number, pair in enumerate(pairs)
    ]
    media = identities(X)
    for number, (train, test) in enumerate(splits):
        check_split(train, test, groups, media, f"Split {number}")
    return splits


def _row_numbers(rows, count: int, where: str) -> np.ndarray:
    """Rows of one side, each under one number: -1 would pass for another row."""
    found = np.asarray(rows)
    if found.shape == (count,) and found.dtype == bool:
        return np.flatnonzero(found)
    whole = found.ndim == 1 and (found.dtype.kind in "iu" or not found.size)
    if not whole or ((found < 0) | (found >= count)).any():
        raise ValueError(
            f"{where}: a side must be a list of row numbers from 0 to {count - 1}, or "
            f"a mask of {count} rows. Got {np.asarray(rows, object)!r:.60} instead."
        )
    return found.astype(np.intp)


def run_splits(name, model, data, y, groups, splits, metrics, mapping):
    """Tidy scores and predictions of one method on all splits."""
    scores, predictions = [], []
    for number, (train, test) in enumerate(splits):
        fitted = fit(model, data, y, groups, train)
        where = f"split {number}"
        predicted = predict(fitted, data, test, method=name, where=where)
        labels = {"method": name, "train": "", "test": "", "split": number}
        frame = tabulate(y[test], predicted, test, groups, mapping, **labels)
        predictions.append(frame)
        for metric, value in measure(frame, metrics).items():
            sizes = {"n_train": len(train), "n_test": len(test)}
            scores.append({**labels, "metric": metric, "value": value, **sizes})
    return pd.DataFrame(scores), pd.concat(predictions, ignore_index=True)


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Median, quartiles, mean and standard deviation over splits."""
    grouped = scores.groupby(["method", "metric"], sort=False)["value"]
    return pd.DataFrame(
        {
            "median": grouped.median(),
            "q1": grouped.quantile(0.25),
            "q3": grouped.quantile(0.75),
            "mean": grouped.mean(),
            "std": grouped.std(),
            "n_splits": grouped.size(),
        }
    ).reset_index()


def say_splits(cv, splits, groups, test_size, random_state) -> str:
    """State how rows were split."""
    if cv is not None:
        given = repr(cv) if hasattr(cv, "split") else "given"
        return f"{len(splits)} splits, {' '.join(given.split())}"
    by = "rows" if groups is None else "groups"
    return f"{len(splits)} random splits by {by}, test {test_size}, seed {random_state}"
