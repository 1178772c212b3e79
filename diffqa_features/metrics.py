"""True and predicted scores in, one number out: how well quality is predicted.

Opinion scores have no natural unit, so the field reports correlations. All functions
take ``(y_true, y_pred)`` as scikit-learn's do. The scorers go where scikit-learn takes
``scoring=``, and are up when good::

    GridSearchCV(pipeline, grid, scoring=metrics.srcc_scorer)
"""

import warnings

import numpy as np
from scipy import stats
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import make_scorer
from sklearn.utils import check_array, check_consistent_length, column_or_1d

__all__ = [
    "krcc_score",
    "krcc_scorer",
    "plcc_score",
    "plcc_scorer",
    "rmse",
    "rmse_scorer",
    "srcc_score",
    "srcc_scorer",
]


def srcc_score(y_true, y_pred):
    """Spearman rank correlation coefficient: how well the order agrees.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Scores, for example MOS; finite, at least two.
    y_pred : array-like of shape (n,)
        Predicted scores, on any scale.

    Returns
    -------
    float
        In [-1, 1], 1 is best. Ties get the mean of their ranks.

    Raises
    ------
    ValueError
        If there are fewer than two scores, NaN or infinity among them, or if the
        lengths differ.

    Notes
    -----
    A constant `y_true` or `y_pred` has no order, so the correlation is undefined. The
    score is then 0.0 (not NaN, which would spoil the mean over the folds of a search)
    with an :class:`~sklearn.exceptions.UndefinedMetricWarning`. The same holds for
    :func:`plcc_score` and :func:`krcc_score`.

    Examples
    --------
    >>> from diffqa_features.metrics import srcc_score
    >>> round(srcc_score([1, 2, 3, 4], [10, 20, 40, 30]), 4)
    0.8
    """
    return _correlation(y_true, y_pred, stats.spearmanr, "SRCC")


def plcc_score(y_true, y_pred):
    """Pearson linear correlation coefficient: agreement of values up to a line.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Scores, for example MOS; finite, at least two.
    y_pred : array-like of shape (n,)
        Predicted scores, on any linear scale. No logistic curve is fitted to them
        first, as some papers do.

    Returns
    -------
    float
        In [-1, 1], 1 is best; 0.0 with a warning if either is constant, see
        :func:`srcc_score`.

    Raises
    ------
    ValueError
        If there are fewer than two scores, NaN or infinity among them, or if the
        lengths differ.

    Examples
    --------
    >>> from diffqa_features.metrics import plcc_score
    >>> round(plcc_score([1, 2, 3, 4], [10, 20, 40, 30]), 4)
    0.8
    """
    return _correlation(y_true, y_pred, stats.pearsonr, "PLCC")


def krcc_score(y_true, y_pred):
    """Kendall rank correlation coefficient (tau-b): how many pairs agree in order.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Scores, for example MOS; finite, at least two.
    y_pred : array-like of shape (n,)
        Predicted scores, on any scale.

    Returns
    -------
    float
        In [-1, 1], 1 is best; 0.0 with a warning if either is constant, see
        :func:`srcc_score`.

    Raises
    ------
    ValueError
        If there are fewer than two scores, NaN or infinity among them, or if the
        lengths differ.

    Examples
    --------
    >>> from diffqa_features.metrics import krcc_score
    >>> round(krcc_score([1, 2, 3, 4], [10, 20, 40, 30]), 4)
    0.6667
    """
    return _correlation(y_true, y_pred, stats.kendalltau, "KRCC")


def rmse(y_true, y_pred):
    """Root mean squared error, in the unit of the scores.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Scores, for example MOS; finite, at least one.
    y_pred : array-like of shape (n,)
        Predicted scores on the same scale.

    Returns
    -------
    float
        At least 0, and 0 is best.

    Raises
    ------
    ValueError
        If there is no score, NaN or infinity among them, or if the lengths differ.

    Examples
    --------
    >>> from diffqa_features.metrics import rmse
    >>> rmse([1, 2, 3, 4], [1, 2, 3, 6])
    1.0
    """
    y_true, y_pred = _check_scores(y_true, y_pred, 1, "RMSE")
    return float(np.sqrt(np.mean((y_true - y_pred) ** 2)))


srcc_scorer = make_scorer(srcc_score)
plcc_scorer = make_scorer(plcc_score)
krcc_scorer = make_scorer(krcc_score)
rmse_scorer = make_scorer(rmse, greater_is_better=False)
"""Minus the error, as scikit-learn's ``neg_root_mean_squared_error``."""


def _correlation(y_true, y_pred, measure, name: str) -> float:
    y_true, y_pred = _check_scores(y_true, y_pred, 2, name)
    for side, y in (("y_true", y_true), ("y_pred", y_pred)):
        if y.min() == y.max():
            warnings.warn(
                f"{name} is undefined because {side} is constant; it is set to 0.0.",
                UndefinedMetricWarning,
                stacklevel=3,
            )
            return 0.0
    return float(measure(y_true, y_pred).statistic)


def _check_scores(y_true, y_pred, at_least: int, name: str):
    check_consistent_length(y_true, y_pred)
    scores = [
        column_or_1d(
            check_array(
                y,
                ensure_2d=False,
                ensure_min_samples=0,
                dtype=np.float64,
                input_name=side,
            )
        )
        for side, y in (("y_true", y_true), ("y_pred", y_pred))
    ]
    n = len(scores[0])
    if n < at_least:
        raise ValueError(f"{name} needs at least {at_least} scores. Got {n} instead.")
    return scores
