"""Train on some datasets, test on others: a value with an interval per pair."""

from collections.abc import Mapping

import numpy as np
from sklearn.utils._param_validation import validate_params

from diffqa_features.evaluation._extraction import Extraction, temporary_store
from diffqa_features.evaluation._held_out import RULES, say_intervals, summarise
from diffqa_features.evaluation._leakage import identities, refuse_shared
from diffqa_features.evaluation._measures import METRICS, check_mapping, check_metrics
from diffqa_features.evaluation._protocol import (
    check_data,
    check_methods,
    count,
    describe,
    fit,
    predict,
    tabulate,
)


@validate_params(RULES, prefer_skip_nested_validation=True)
def cross_dataset(
    estimator,
    train,
    test,
    *,
    metrics=METRICS,
    mapping="logistic4",
    confidence=0.95,
    n_resamples=1000,
    random_state=0,
):
    """Train on some datasets, test on others.

    Parameters
    ----------
    estimator : estimator or dict of str to estimator
        Unfitted regressor on media, or several by name. Each row of each dataset is
        extracted once, see :func:`repeated_splits`.
    train : dict of str to Bunch
        Datasets by name, as returned by the functions of
        :mod:`diffqa_features.datasets`: `data` and `target`, optionally `groups` and
        `higher_is_better` (default true). Each is used for training on its own.
    test : dict of str to Bunch
        Datasets by name; each is used whole. A dataset that is also in `train` is not
        tested on itself.
    metrics : str or sequence of str, default=("srcc", "plcc", "krcc", "rmse")
        Metrics to report.
    mapping : {"logistic4", "logistic5"} or None, default="logistic4"
        Curve that maps predictions from the scale of the training scores to that of
        each test set before ``plcc`` and ``rmse``.
    confidence : float, default=0.95
        Confidence level of the bootstrap intervals, which resample by group if a
        dataset has groups.
    n_resamples : int, default=1000
        Number of bootstrap resamples, see :func:`bootstrap_interval`.
    random_state : int, default=0
        Seed of the bootstrap. Estimators have their own seeds.

    Returns
    -------
    EvaluationTable
        Its `frame` has one row per method, pair of datasets and metric, with the same
        columns as that of :func:`official_split`.

    Raises
    ------
    ValueError
        If the same medium is in both training and test data, or numbers are not finite.

    Notes
    -----
    If one dataset reports quality (MOS) and the other degradation (DMOS), predictions
    are sign-flipped according to the declared directions, never by the sign of a
    correlation. A correlation below zero is therefore a failure in every cell.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.utils import Bunch
    >>> from diffqa_features.evaluation import cross_dataset
    >>> X, Z = np.random.default_rng(0).normal(size=(2, 50, 3))
    >>> rated = Bunch(data=X, target=X[:, 0], higher_is_better=True)
    >>> degraded = Bunch(data=Z, target=-Z[:, 0], higher_is_better=False)
    >>> table = cross_dataset(
    ...     Ridge(), {"MOS": rated}, {"DMOS": degraded}, metrics="srcc"
    ... )
    >>> table.frame[["train", "test", "value"]].values.tolist()
    [['MOS', 'DMOS', 1.0]]
    """
    methods = check_methods(estimator)
    metrics = check_metrics(metrics)
    mapping = check_mapping(mapping, metrics)
    for side in (train, test):
        if not isinstance(side, Mapping):
            raise TypeError(
                "train and test are dicts of data sets by name. Got a "
                f"{type(side).__name__} instead."
            )
    parts = {}
    for name, bunch in (*train.items(), *test.items()):
        if not (hasattr(bunch, "data") and hasattr(bunch, "target")):
            raise TypeError(
                "train and test are dicts of data sets by name, each with data and "
                f"target. Got {type(bunch).__name__} under {name!r} instead."
            )
        rises = bunch.get("higher_is_better", True)
        if not isinstance(rises, (bool, np.bool_)):
            raise TypeError(
                f"higher_is_better of {name} must be True or False: it decides the "
                f"sign of the predictions. Got {rises!r} instead."
            )
        if parts.get(name, bunch) is not bunch:
            raise ValueError(f"Two data sets are called {name!r}.")
        parts[name] = bunch
    pairs = [(a, b) for a in train for b in test if a != b]
    if not pairs:
        raise ValueError("There is no test data set beside the training one.")
    scores = {
        name: check_data(b.data, b.target, b.get("groups"), f" of {name}")
        for name, b in parts.items()
    }
    _refuse_shared_media({name: parts[name].data for name in parts}, pairs)
    frames = []
    with temporary_store() as store:
        extractions = {name: Extraction(b.data, store) for name, b in parts.items()}
        for method, each in methods.items():
            taken = {name: e.take(each) for name, e in extractions.items()}
            for a in dict.fromkeys(a for a, _ in pairs):
                model, data = taken[a]
                y, groups = scores[a]
                fitted = fit(model, data, y, groups, np.arange(len(y)))
                for b in (b for first, b in pairs if first == a):
                    y, groups = scores[b]
                    rows = np.arange(len(y))
                    where = f"trained on {a}, tested on {b}"
                    predicted = predict(
                        fitted, taken[b][1], rows, method=method, where=where
                    )
                    if _rises(parts[a]) != _rises(parts[b]):
                        predicted = -predicted
                    labels = {"method": method, "train": a, "test": b, "split": 0}
                    frames.append(
                        tabulate(y, predicted, rows, groups, mapping, **labels)
                    )
    facts = describe(
        methods,
        mapping,
        data="; ".join(
            f"{name}: {count(len(y), groups)}, "
            f"{'higher' if _rises(parts[name]) else 'lower'} is better"
            for name, (y, groups) in scores.items()
        ),
        splits="cross-dataset: all of one to train, all of another to test",
        intervals=say_intervals(confidence, n_resamples, random_state),
    )
    sizes = {name: len(y) for name, (y, _) in scores.items()}
    options = confidence, n_resamples, random_state
    return summarise(frames, metrics, facts, sizes, *options)


def _rises(bunch) -> bool:
    return bool(bunch.get("higher_is_better", True))


def _refuse_shared_media(parts, pairs) -> None:
    """Raise if a file, or a picture in memory, is in both training and test data."""
    seen = {name: identities(data) for name, data in parts.items()}
    for a, b in pairs:
        refuse_shared(
            dict(enumerate(seen[a])),
            dict(enumerate(seen[b])),
            f"{a} to {b} leaks",
            (f"row {{}} of {a}", f"row {{}} of {b}"),
            "Leave them out of one.",
        )
