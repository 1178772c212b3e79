"""Tables of several methods in, tests of their differences out."""

from itertools import combinations
from numbers import Integral, Real

import pandas as pd
from sklearn.utils._param_validation import Interval, validate_params

from diffqa_features.evaluation._bootstrap import bootstrap_difference
from diffqa_features.evaluation._held_out import groups_of
from diffqa_features.evaluation._measures import ALIGNED, check_metric
from diffqa_features.evaluation._paired import holm, paired_tests
from diffqa_features.evaluation._table import EvaluationTable

_KEYS = ["train", "test", "split", "row"]


@validate_params(
    {
        "table": [EvaluationTable, list, tuple],
        "baseline": [str, None],
        "confidence": [Interval(Real, 0, 1, closed="neither")],
        "n_resamples": [Interval(Integral, 10, None, closed="left")],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def compare(
    table,
    *,
    metric="srcc",
    baseline=None,
    confidence=0.95,
    n_resamples=2000,
    random_state=0,
):
    """Test whether methods scored on the same rows differ.

    Parameters
    ----------
    table : EvaluationTable or list of EvaluationTable
        Result of :func:`repeated_splits`, :func:`official_split`, :func:`cross_dataset`
        or :func:`ablate`. Several tables are joined, for methods scored at different
        times; their test rows must be the same.
    metric : {"srcc", "plcc", "krcc", "rmse"}, default="srcc"
        Metric to compare; the tables must contain it.
    baseline : str, default=None
        Method to compare every other one with. ``None`` compares all pairs.
    confidence : float, default=0.95
        Confidence level of the bootstrap intervals.
    n_resamples : int, default=2000
        Number of bootstrap resamples.
    random_state : int, default=0
        Seed of the bootstrap.

    Returns
    -------
    EvaluationTable
        Its `frame` has one row per pair of methods, datasets and test: ``method``,
        ``baseline``, ``train``, ``test_set``, ``metric``, ``difference`` (method minus
        baseline; for RMSE, negative is better), ``low``, ``high``, ``test``,
        ``statistic``, ``p_value``, ``p_holm``.

        With several splits, ``test`` is ``"paired t"``, ``"corrected t"`` and
        ``"wilcoxon"`` of :func:`paired_tests`, without intervals. With one test set, it
        is ``"bootstrap"`` of :func:`bootstrap_difference`, by group if there are
        groups.

    Raises
    ------
    ValueError
        If there is only one method, the metric or baseline is missing, or methods were
        scored on different rows.

    Notes
    -----
    ``p_holm`` adjusts for all rows of the same ``test`` in this table, over methods and
    datasets. Choose the test before looking at the results.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.dummy import DummyRegressor
    >>> from sklearn.linear_model import Ridge
    >>> from diffqa_features.evaluation import compare, repeated_splits
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> y = X[:, 0] + X[:, 1] ** 2
    >>> table = repeated_splits({"line": Ridge(), "first": Ridge(1e9)}, X, y)
    >>> compare(table, baseline="line").frame["test"].tolist()
    ['paired t', 'corrected t', 'wilcoxon']
    """
    check_metric(metric)
    tables = [table] if isinstance(table, EvaluationTable) else list(table)
    scores, predictions = _joined(tables, metric)
    methods = list(dict.fromkeys(scores["method"]))
    if len(methods) < 2:
        raise ValueError(f"A comparison needs two methods. Got {methods} only.")
    if baseline is None:
        pairs = [(b, a) for a, b in combinations(methods, 2)]
    elif baseline in methods:
        pairs = [(method, baseline) for method in methods if method != baseline]
    else:
        raise ValueError(f"No method is called {baseline!r}; there are: {methods}.")
    rows = []
    for method, other in pairs:
        ours, theirs = (
            predictions[predictions["method"] == m] for m in (method, other)
        )
        _check_same_rows(ours, theirs, method, other)
        for (train, test), some in ours.groupby(["train", "test"], sort=False):
            labels = {
                "method": method,
                "baseline": other,
                "train": train,
                "test_set": test,
                "metric": metric,
            }
            here = (scores["train"] == train) & (scores["test"] == test)
            if some["split"].nunique() > 1:
                found = _over_splits(scores[here], method, other)
            else:
                rest = theirs[(theirs["train"] == train) & (theirs["test"] == test)]
                options = confidence, n_resamples, random_state
                found = _over_resamples(some, rest, metric, *options)
            rows += [{**labels, **result} for result in found]
    frame = pd.DataFrame(rows)
    frame["p_holm"] = frame.groupby("test")["p_value"].transform(holm)
    facts = {
        "compared": f"{metric}, method minus baseline",
        **{name: fact for each in tables for name, fact in each.facts.items()},
        "correction": "Holm, over all rows of the same test",
    }
    if (frame["test"] == "bootstrap").any():
        facts["bootstrap"] = (
            f"paired, {confidence:.0%} percentile, {n_resamples} resamples, by group "
            f"where there are groups, seed {random_state}"
        )
    return EvaluationTable(frame, facts)


def _joined(tables, metric):
    if not tables:
        raise ValueError("A comparison needs two methods. Got no table.")
    for table in tables:
        if table.scores is None or table.predictions is None:
            raise ValueError(
                "A table without scores and predictions cannot be compared: it was "
                "read from a file, or is the result of another comparison."
            )
        if metric not in set(table.scores["metric"]):
            held = sorted(set(table.scores["metric"]))
            raise ValueError(f"The table holds {held}, not {metric!r}.")
    scores = pd.concat([t.scores for t in tables], ignore_index=True)
    scores = scores[scores["metric"] == metric]
    keys = ["method", "train", "test", "split"]
    twice = scores[scores.duplicated(keys)]
    if len(twice):
        name = twice["method"].iloc[0]
        raise ValueError(f"Two tables hold the method {name!r}: name them apart.")
    return scores, pd.concat([t.predictions for t in tables], ignore_index=True)


def _check_same_rows(ours, theirs, method, other) -> None:
    columns = [*_KEYS, "y_true"]
    first, second = (
        frame[columns].sort_values(_KEYS).reset_index(drop=True)
        for frame in (ours, theirs)
    )
    if not first.equals(second):
        raise ValueError(
            f"{method} and {other} were scored on different rows, so that they cannot "
            "be paired. Use the same data, splits and seed."
        )


def _over_splits(scores, method, baseline):
    ours, theirs = (
        scores[scores["method"] == name].sort_values("split")
        for name in (method, baseline)
    )
    a, b = ours["value"].to_numpy(), theirs["value"].to_numpy()
    ratio = ours["n_test"].sum() / ours["n_train"].sum()
    for test, (statistic, p_value) in paired_tests(a, b, test_ratio=ratio).items():
        yield {
            "difference": (a - b).mean(),
            "low": float("nan"),
            "high": float("nan"),
            "test": test,
            "statistic": statistic,
            "p_value": p_value,
        }


def _over_resamples(ours, theirs, metric, confidence, n_resamples, random_state):
    column = "y_aligned" if metric in ALIGNED else "y_pred"
    ours, theirs = ours.sort_values("row"), theirs.sort_values("row")
    difference, low, high, p_value = bootstrap_difference(
        ours["y_true"],
        ours[column],
        theirs[column],
        metric=metric,
        groups=groups_of(ours),
        confidence=confidence,
        n_resamples=n_resamples,
        random_state=random_state,
    )
    yield {
        "difference": difference,
        "low": low,
        "high": high,
        "test": "bootstrap",
        "statistic": float("nan"),
        "p_value": p_value,
    }
