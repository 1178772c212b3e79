"""Metrics: true and predicted scores in, one number out.

Opinion scores have no natural unit, so the field reports correlations. All functions
take ``(y_true, y_pred)``, as in scikit-learn. Pass the scorers as ``scoring=``; higher
is better::

    GridSearchCV(pipeline, grid, scoring=metrics.srcc_scorer)
    GridSearchCV(pipeline, grid, scoring=metrics.get_scorer("srcc"))  # the same

scikit-learn does not know their names: ``scoring="srcc"`` raises an error that lists
its own. Pass the scorer, as above.
"""

import warnings

import numpy as np
from scipy import stats
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import get_scorer as get_sklearn_scorer
from sklearn.metrics import get_scorer_names as get_sklearn_scorer_names
from sklearn.metrics import make_scorer
from sklearn.utils import check_array, check_consistent_length, column_or_1d

from diffqa_features._utils.checks import check_plain
from diffqa_features._utils.logistic import LogisticMapping

__all__ = [
    "LogisticMapping",
    "get_scorer",
    "get_scorer_names",
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
    """Spearman rank correlation coefficient: agreement of the order.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Scores, such as MOS; finite, at least two.
    y_pred : array-like of shape (n,)
        Predicted scores, on any scale.

    Returns
    -------
    float
        In [-1, 1], 1 is best. Ties get their mean rank.

    Raises
    ------
    ValueError
        If there are fewer than two scores, any is NaN or infinite, or the lengths
        differ.

    Notes
    -----
    A constant `y_true` or `y_pred` has no order, so the correlation is undefined. The
    score is then 0.0 (not NaN, which would invalidate the mean over the folds of a
    search) with an :class:`~sklearn.exceptions.UndefinedMetricWarning`. The same
    applies to
    :func:`plcc_score` and :func:`krcc_score`.

    Examples
    --------
    >>> from diffqa_features.metrics import srcc_score
    >>> round(srcc_score([1, 2, 3, 4], [10, 20, 40, 30]), 4)
    0.8
    """
    return _correlation(y_true, y_pred, stats.spearmanr, "SRCC")


def plcc_score(y_true, y_pred, *, mapping=None):
    """Pearson linear correlation coefficient: agreement up to a linear map.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Scores, such as MOS; finite, at least two.
    y_pred : array-like of shape (n,)
        Predicted scores, higher where `y_true` is higher.
    mapping : {"logistic4", "logistic5"}, default=None
        Curve to fit to the scores and apply to `y_pred` first, as most papers do: the
        increasing :class:`LogisticMapping` with 4 or 5 parameters. ``None`` uses
        `y_pred` unchanged.

    Returns
    -------
    float
        In [-1, 1], 1 is best; 0.0 with a warning if either is constant, see
        :func:`srcc_score`. Predictions that decrease with the scores get a constant
        curve: negate them, or see the `direction` of :class:`LogisticMapping`.

    Raises
    ------
    ValueError
        If there are fewer scores than two (or than the curve has parameters), any is
        NaN or infinite, the lengths differ, or `mapping` is unknown.

    Examples
    --------
    >>> from diffqa_features.metrics import plcc_score
    >>> round(plcc_score([1, 2, 3, 4], [10, 20, 40, 30]), 4)
    0.8
    """
    y_pred = _mapped(y_true, y_pred, mapping, "PLCC")
    return _correlation(y_true, y_pred, stats.pearsonr, "PLCC")


def krcc_score(y_true, y_pred):
    """Kendall rank correlation coefficient (tau-b): agreement of pairwise order.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Scores, such as MOS; finite, at least two.
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
        If there are fewer than two scores, any is NaN or infinite, or the lengths
        differ.

    Examples
    --------
    >>> from diffqa_features.metrics import krcc_score
    >>> round(krcc_score([1, 2, 3, 4], [10, 20, 40, 30]), 4)
    0.6667
    """
    return _correlation(y_true, y_pred, stats.kendalltau, "KRCC")


def rmse(y_true, y_pred, *, mapping=None):
    """Root mean squared error, in the units of the scores.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Scores, such as MOS; finite, at least one.
    y_pred : array-like of shape (n,)
        Predicted scores on the same scale, or on any scale with `mapping`.
    mapping : {"logistic4", "logistic5"}, default=None
        Curve that first maps `y_pred` to the scale of `y_true`, see
        :func:`plcc_score`.

    Returns
    -------
    float
        At least 0, and 0 is best.

    Raises
    ------
    ValueError
        If there is no score (or fewer than the curve has parameters), any is NaN or
        infinite, the lengths differ, or `mapping` is unknown.

    Examples
    --------
    >>> from diffqa_features.metrics import rmse
    >>> rmse([1, 2, 3, 4], [1, 2, 3, 6])
    1.0
    """
    y_pred = _mapped(y_true, y_pred, mapping, "RMSE")
    y_true, y_pred = _check_scores(y_true, y_pred, 1, "RMSE")
    return float(np.sqrt(np.mean((y_true - y_pred) ** 2)))


def get_scorer(name):
    """Get a scorer by name, for ``scoring=``.

    scikit-learn's list of names cannot be extended, so ``scoring="srcc"`` is an error
    there. This function knows both our names and scikit-learn's.

    Parameters
    ----------
    name : str
        One of :func:`get_scorer_names`, or one of scikit-learn's
        (:func:`sklearn.metrics.get_scorer_names`).

    Returns
    -------
    callable
        Scorer ``(estimator, X, y) -> float``; higher is better.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import GridSearchCV
    >>> from diffqa_features.metrics import get_scorer
    >>> scoring = {name: get_scorer(name) for name in ("srcc", "plcc_logistic4")}
    >>> grid = {"alpha": [1, 10]}
    >>> search = GridSearchCV(Ridge(), grid, scoring=scoring, refit="srcc")
    """
    if isinstance(name, str) and name in _SCORERS:
        return _SCORERS[name]
    if isinstance(name, str) and name in get_sklearn_scorer_names():
        return get_sklearn_scorer(name)
    raise ValueError(
        f"The 'name' parameter of get_scorer must be one of {get_scorer_names()} or a "
        f"name of scikit-learn's. Got {name!r} instead."
    )


def get_scorer_names():
    """List the names that :func:`get_scorer` adds to scikit-learn's.

    Returns
    -------
    list of str
        Correlations, and errors prefixed with ``neg_``.

    Examples
    --------
    >>> from diffqa_features.metrics import get_scorer_names
    >>> get_scorer_names()[:3]
    ['krcc', 'neg_rmse', 'neg_rmse_logistic4']
    """
    return sorted(_SCORERS)


srcc_scorer = make_scorer(srcc_score)
plcc_scorer = make_scorer(plcc_score)
krcc_scorer = make_scorer(krcc_score)
rmse_scorer = make_scorer(rmse, greater_is_better=False)
"""Minus the error, as scikit-learn's ``neg_root_mean_squared_error``."""

_MAPPINGS = {"logistic4": 4, "logistic5": 5}
_SCORERS = {
    "srcc": srcc_scorer,
    "plcc": plcc_scorer,
    "krcc": krcc_scorer,
    "neg_rmse": rmse_scorer,
    **{f"plcc_{name}": make_scorer(plcc_score, mapping=name) for name in _MAPPINGS},
    **{
        f"neg_rmse_{name}": make_scorer(rmse, greater_is_better=False, mapping=name)
        for name in _MAPPINGS
    },
}


def _mapped(y_true, y_pred, mapping, name: str):
    if mapping is None:
        return y_pred
    if not isinstance(mapping, str) or mapping not in _MAPPINGS:
        raise ValueError(
            f"The 'mapping' parameter must be None or one of {set(_MAPPINGS)}. "
            f"Got {mapping!r} instead."
        )
    n_parameters = _MAPPINGS[mapping]
    y_true, y_pred = _check_scores(y_true, y_pred, n_parameters, f"{name}, {mapping},")
    return LogisticMapping(n_parameters).fit(y_pred, y_true).transform(y_pred)


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
                check_plain(y, side),
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
