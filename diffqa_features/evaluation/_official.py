"""A dataset and its official split in, values with intervals from one fit out."""

import numpy as np
from sklearn.utils._param_validation import validate_params

from diffqa_features._utils.checks import InOrder
from diffqa_features.evaluation._extraction import Extraction, temporary_store
from diffqa_features.evaluation._held_out import RULES, say_intervals, summarise
from diffqa_features.evaluation._leakage import identities
from diffqa_features.evaluation._measures import METRICS, check_mapping, check_metrics
from diffqa_features.evaluation._protocol import (
    check_data,
    check_methods,
    check_split,
    count,
    describe,
    fit,
    predict,
    tabulate,
)


@validate_params(
    {**RULES, "train": [str, InOrder()], "test": [str, InOrder()]},
    prefer_skip_nested_validation=True,
)
def official_split(
    estimator,
    X,
    y,
    split,
    *,
    train="train",
    test="test",
    groups=None,
    metrics=METRICS,
    mapping="logistic4",
    confidence=0.95,
    n_resamples=1000,
    random_state=0,
):
    """Score estimators on the official split of a dataset.

    Parameters
    ----------
    estimator : estimator or dict of str to estimator
        Unfitted regressor on media, or several by name. Each row is extracted once,
        see :func:`repeated_splits`.
    X : list, array, Series or DataFrame of N media rows
        Pictures or videos.
    y : array-like of shape (N,)
        Scores, such as MOS.
    split : array-like of shape (N,), dtype str
        Name of the part that each row belongs to, as in the `split` of our datasets.
    train : str or sequence of str, default="train"
        Parts to train on, combined.
    test : str or sequence of str, default="test"
        Parts to test on, each separately.
    groups : array-like of shape (N,), default=None
        Source of each row: a source in both training and test parts is an error, and
        intervals are by group.
    metrics : str or sequence of str, default=("srcc", "plcc", "krcc", "rmse")
        Metrics to report.
    mapping : {"logistic4", "logistic5"} or None, default="logistic4"
        Curve fitted to each test set before ``plcc`` and ``rmse``.
    confidence : float, default=0.95
        Confidence level of the bootstrap intervals.
    n_resamples : int, default=1000
        Number of bootstrap resamples, see :func:`bootstrap_interval`.
    random_state : int, default=0
        Seed of the bootstrap. Estimators have their own seeds.

    Returns
    -------
    EvaluationTable
        Its `frame` has one row per method, test part and metric, with the columns
        ``method``, ``train``, ``test``, ``metric``, ``value``, ``low``, ``high``,
        ``n_test`` and ``n_groups``. Intervals reflect the choice of test pictures, not
        that of the training set.

    Raises
    ------
    ValueError
        If a part is empty, a group or a file is on both sides, or numbers are not
        finite.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from diffqa_features.evaluation import official_split
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> split = ["train"] * 40 + ["test"] * 20
    >>> table = official_split(Ridge(), X, X[:, 0], split, metrics="srcc")
    >>> table.frame[["train", "test", "metric", "n_test"]].values.tolist()
    [['train', 'test', 'srcc', 20]]
    """
    methods = check_methods(estimator)
    metrics = check_metrics(metrics)
    mapping = check_mapping(mapping, metrics)
    y, groups = check_data(X, y, groups)
    if split is None:
        raise ValueError(
            "split is None: the data set has no official split. Use repeated_splits."
        )
    split = np.asarray(split).astype(str)
    if split.shape != y.shape:
        raise ValueError(f"split has the shape {split.shape}, y has {y.shape}.")
    trains, tests = ([p] if isinstance(p, str) else list(p) for p in (train, test))
    if not tests:
        raise ValueError("The 'test' parameter names no part. Name at least one.")
    for part in (*trains, *tests):
        if part not in split:
            known = ", ".join(map(repr, np.unique(split).tolist()))
            raise ValueError(f"No row has split {part!r}; there are: {known}.")
    train_rows = np.flatnonzero(np.isin(split, trains))
    test_rows = {part: np.flatnonzero(split == part) for part in tests}
    label = "+".join(trains)
    media = identities(X)
    for part, rows in test_rows.items():
        check_split(train_rows, rows, groups, media, f"The split {label!r} to {part!r}")
    frames = []
    with temporary_store() as store:
        extraction = Extraction(X, store)
        for name, each in methods.items():
            model, data = extraction.take(each)
            fitted = fit(model, data, y, groups, train_rows)
            for part, rows in test_rows.items():
                where = f"trained on {label}, tested on {part}"
                predicted = predict(fitted, data, rows, method=name, where=where)
                labels = {"method": name, "train": label, "test": part, "split": 0}
                frames.append(
                    tabulate(y[rows], predicted, rows, groups, mapping, **labels)
                )
    facts = describe(
        methods,
        mapping,
        data=count(len(y), groups),
        splits=f"official: trained on {label} ({len(train_rows)} rows)",
        intervals=say_intervals(confidence, n_resamples, random_state),
    )
    sizes = {label: len(train_rows)}
    options = confidence, n_resamples, random_state
    return summarise(frames, metrics, facts, sizes, *options)
