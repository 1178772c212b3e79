"""Scores and predictions in, bootstrap intervals by row or by group out."""

from collections.abc import Iterator
from numbers import Integral, Real

import numpy as np
from sklearn.utils import (
    check_array,
    check_consistent_length,
    check_random_state,
    column_or_1d,
)
from sklearn.utils._param_validation import Interval, validate_params

from diffqa_features._utils.checks import check_plain
from diffqa_features._utils.groups import check_groups
from diffqa_features.evaluation._measures import (
    ALIGNED,
    align,
    check_mapping,
    check_metric,
    score,
    score_resamples,
)

_CELLS = 200_000  # numbers that are resampled at once

_RULES = {
    "confidence": [Interval(Real, 0, 1, closed="neither")],
    "n_resamples": [Interval(Integral, 10, None, closed="left")],
    "random_state": ["random_state"],
}


@validate_params(_RULES, prefer_skip_nested_validation=True)
def bootstrap_interval(
    y_true,
    y_pred,
    *,
    metric="srcc",
    groups=None,
    mapping=None,
    confidence=0.95,
    n_resamples=2000,
    random_state=0,
):
    """Confidence interval of a metric on one test set.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Scores, such as MOS.
    y_pred : array-like of shape (n,)
        Predictions, higher where `y_true` is higher.
    metric : {"srcc", "plcc", "krcc", "rmse"}, default="srcc"
        Metric to compute.
    groups : array-like of shape (n,), default=None
        Source of each row. Whole sources are resampled, since versions of one source
        are not independent; an interval by rows would be too narrow.
    mapping : {"logistic4", "logistic5"}, default=None
        Curve applied before ``plcc`` and ``rmse``. It is fitted once, to all rows, not
        in every resample.
    confidence : float, default=0.95
        Confidence level of the interval.
    n_resamples : int, default=2000
        Number of resamples.
    random_state : int, RandomState instance or None, default=0
        Seed of the resampling.

    Returns
    -------
    (value, low, high) : tuple of float
        The metric on all rows, and the percentile interval of the resamples.

    Raises
    ------
    ValueError
        If lengths differ, numbers are not finite, or there is only one group.

    Notes
    -----
    Resamples in which a correlation is undefined, because one side is constant, are
    left out. With fewer than about ten groups the interval is too narrow, as with any
    bootstrap.

    References
    ----------
    .. [1] Efron, B. and Tibshirani, R. J. (1993). An introduction to the bootstrap.
       Chapman and Hall.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features.evaluation import bootstrap_interval
    >>> mos = np.linspace(1, 5, 40)
    >>> noisy = mos + np.random.default_rng(0).normal(0, 0.8, 40)
    >>> np.round(bootstrap_interval(mos, noisy), 3)
    array([0.897, 0.796, 0.944])
    """
    check_metric(metric)
    y_true, (y_pred,), groups = _checked(y_true, [y_pred], groups)
    y_aligned = align(y_true, y_pred, check_mapping(mapping))
    value = score(metric, y_true, y_pred, y_aligned)
    taken = y_aligned if metric in ALIGNED else y_pred
    values = np.concatenate(
        [
            score_resamples(metric, y_true[rows], taken[rows])
            for rows in _resamples(len(y_true), groups, n_resamples, random_state)
        ]
    )
    return value, *_percentiles(values, confidence)


@validate_params(_RULES, prefer_skip_nested_validation=True)
def bootstrap_difference(
    y_true,
    y_pred,
    y_pred_baseline,
    *,
    metric="srcc",
    groups=None,
    mapping=None,
    confidence=0.95,
    n_resamples=2000,
    random_state=0,
):
    """Test whether two methods differ on one test set.

    Both are scored on the same resamples, so resamples that are easy or hard for both
    cancel out.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Scores, such as MOS.
    y_pred : array-like of shape (n,)
        Predictions of a method, higher where `y_true` is higher.
    y_pred_baseline : array-like of shape (n,)
        Predictions of the baseline on the same rows.
    metric : {"srcc", "plcc", "krcc", "rmse"}, default="srcc"
        Metric to compute.
    groups : array-like of shape (n,), default=None
        Source of each row; whole sources are resampled, see :func:`bootstrap_interval`.
    mapping : {"logistic4", "logistic5"}, default=None
        Curve applied before ``plcc`` and ``rmse``, one for each method.
    confidence : float, default=0.95
        Confidence level of the interval.
    n_resamples : int, default=2000
        Number of resamples.
    random_state : int, RandomState instance or None, default=0
        Seed of the resampling.

    Returns
    -------
    (difference, low, high, p_value) : tuple of float
        Metric of the method minus that of the baseline, its percentile interval, and
        the two-sided p-value of no difference: twice the fraction of resamples on the
        rarer side of zero, with one added to the count so that it is never 0.

    Raises
    ------
    ValueError
        If lengths differ, numbers are not finite, or there is only one group.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features.evaluation import bootstrap_difference
    >>> rng = np.random.default_rng(0)
    >>> mos = np.linspace(1, 5, 60)
    >>> good, poor = mos + rng.normal(0, 0.5, 60), mos + rng.normal(0, 2, 60)
    >>> difference, low, high, p_value = bootstrap_difference(mos, good, poor)
    >>> low > 0, p_value < 0.05
    (True, True)
    """
    check_metric(metric)
    y_true, predictions, groups = _checked(y_true, [y_pred, y_pred_baseline], groups)
    aligned = [align(y_true, y, check_mapping(mapping)) for y in predictions]
    pairs = zip(predictions, aligned, strict=True)
    first, second = (score(metric, y_true, *pair) for pair in pairs)
    a, b = aligned if metric in ALIGNED else predictions
    values = np.concatenate(
        [
            score_resamples(metric, y_true[rows], a[rows])
            - score_resamples(metric, y_true[rows], b[rows])
            for rows in _resamples(len(y_true), groups, n_resamples, random_state)
        ]
    )
    low, high = _percentiles(values, confidence)
    values = values[~np.isnan(values)]
    rarer = min((values <= 0).sum(), (values >= 0).sum())
    p_value = min(1.0, 2 * (rarer + 1) / (len(values) + 1))
    return first - second, low, high, float(p_value)


def _checked(y_true, predictions, groups):
    check_consistent_length(y_true, *predictions, groups)
    names = ("y_true", "y_pred", "y_pred_baseline")
    y_true, *predictions = (
        column_or_1d(
            check_array(
                check_plain(y, name), ensure_2d=False, dtype=float, input_name=name
            )
        )
        for y, name in zip([y_true, *predictions], names)
    )
    if groups is not None:
        groups = check_groups(groups)
        if len(np.unique(groups)) < 2:
            raise ValueError(
                "A bootstrap by groups needs at least 2 groups. Got 1 instead. Pass "
                "groups=None if the rows are independent."
            )
    return y_true, predictions, groups


def _resamples(n: int, groups, n_resamples: int, random_state) -> Iterator[np.ndarray]:
    """Yield row numbers (B, m), n_resamples in total."""
    rng = check_random_state(random_state)
    if groups is None:
        members = np.arange(n)[:, None]
    else:
        _, codes = np.unique(groups, return_inverse=True)
        order = np.argsort(codes, kind="stable")
        members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
        if len({len(rows) for rows in members}) == 1:
            members = np.array(members)
    even = isinstance(members, np.ndarray)
    at_once = max(1, _CELLS // n) if even else 1
    for start in range(0, n_resamples, at_once):
        count = min(at_once, n_resamples - start)
        drawn = rng.randint(len(members), size=(count, len(members)))
        if even:
            yield members[drawn].reshape(count, -1)
        else:
            yield np.concatenate([members[g] for g in drawn[0]])[None]


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    if np.isnan(values).all():
        return np.nan, np.nan
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
