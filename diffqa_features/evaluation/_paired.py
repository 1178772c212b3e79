"""Scores of two methods on the same splits in, tests of their difference out."""

from numbers import Real

import numpy as np
from scipy import stats
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval, validate_params

from diffqa_features._utils.checks import refuse_misread


@validate_params(
    {"test_ratio": [Interval(Real, 0, None, closed="neither"), None]},
    prefer_skip_nested_validation=True,
)
def paired_tests(scores, scores_baseline, *, test_ratio=None):
    """Test the difference between two methods scored on the same splits.

    Parameters
    ----------
    scores : array-like of shape (n_splits,)
        Metric of a method on each split, at least two.
    scores_baseline : array-like of shape (n_splits,)
        The same for the baseline, on the same splits.
    test_ratio : float, default=None
        Number of test rows divided by training rows, for the corrected test.

    Returns
    -------
    dict of str to (statistic, p_value)
        Two-sided p-values of no difference under the keys

        - ``"paired t"``: Student's t test on the differences. It assumes independent
          splits, which repeated splits of one dataset are not: their training rows
          overlap, and the test finds differences too often.
        - ``"corrected t"``: with the variance of Nadeau and Bengio [1]_, which accounts
          for that overlap; only with `test_ratio`. Report this one for repeated splits.
        - ``"wilcoxon"``: the signed-rank test; it does not assume normality but, like
          the first, independence.

    Raises
    ------
    ValueError
        If lengths differ, numbers are not finite, or there are fewer than two.

    Notes
    -----
    If all differences are zero, the statistic is 0 and the p-value 1; if all are equal
    but not zero, t is infinite and the p-value 0.

    References
    ----------
    .. [1] Nadeau, C. and Bengio, Y. (2003). Inference for the generalization error.
       Machine Learning 52.

    Examples
    --------
    >>> from diffqa_features.evaluation import paired_tests
    >>> a, b = [0.81, 0.84, 0.80, 0.86, 0.83], [0.80, 0.80, 0.79, 0.83, 0.81]
    >>> for name, (_, p) in paired_tests(a, b, test_ratio=0.25).items():
    ...     print(f"{name}: p = {p:.3f}")
    paired t: p = 0.020
    corrected t: p = 0.066
    wilcoxon: p = 0.062
    """
    check_consistent_length(scores, scores_baseline)
    for s, name in ((scores, "scores"), (scores_baseline, "scores_baseline")):
        refuse_misread(s, name)
    a, b = (
        column_or_1d(check_array(s, ensure_2d=False, dtype=float, input_name=name))
        for s, name in ((scores, "scores"), (scores_baseline, "scores_baseline"))
    )
    n = len(a)
    if n < 2:
        raise ValueError(f"Paired tests need at least 2 splits. Got {n} instead.")
    difference = a - b
    found = {"paired t": _t_test(difference, 1 / n)}
    if test_ratio is not None:
        found["corrected t"] = _t_test(difference, 1 / n + test_ratio)
    if (difference == 0).all():
        found["wilcoxon"] = (0.0, 1.0)
    else:
        result = stats.wilcoxon(difference)
        found["wilcoxon"] = (float(result.statistic), float(result.pvalue))
    return found


def holm(p_values):
    """Adjust p-values for multiple comparisons (Holm).

    Parameters
    ----------
    p_values : array-like of shape (n,)
        In [0, 1].

    Returns
    -------
    ndarray of shape (n,), dtype float64
        Adjusted p-values, in the order given. Rejecting at 0.05 keeps the probability
        of any false rejection at 0.05 or less, whatever the dependence between tests.

    Raises
    ------
    ValueError
        If a number is not in [0, 1].

    References
    ----------
    .. [1] Holm, S. (1979). A simple sequentially rejective multiple test procedure.
       Scandinavian Journal of Statistics 6(2).

    Examples
    --------
    >>> from diffqa_features.evaluation import holm
    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    refuse_misread(p_values, "p_values")
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            "The 'p_values' parameter of holm must be a list of numbers in [0, 1]. "
            f"Got {p_values!r} instead."
        )
    order = np.argsort(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _t_test(difference: np.ndarray, scale: float) -> tuple[float, float]:
    mean, variance = difference.mean(), difference.var(ddof=1)
    if np.ptp(difference) == 0:
        return (0.0, 1.0) if mean == 0 else (float(np.copysign(np.inf, mean)), 0.0)
    t = mean / np.sqrt(scale * variance)
    return float(t), float(2 * stats.t.sf(abs(t), len(difference) - 1))
