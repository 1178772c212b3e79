"""A grid of settings in, the effect of each of them out."""

from numbers import Real

import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from sklearn.utils._param_validation import StrOptions, validate_params

from diffqa_features.evaluation._extraction import (
    Extraction,
    alike,
    cut,
    memories,
    temporary_store,
    with_store,
)
from diffqa_features.evaluation._measures import check_mapping, check_metrics
from diffqa_features.evaluation._paired import holm, paired_tests
from diffqa_features.evaluation._protocol import (
    check_data,
    count,
    describe,
    name_of,
)
from diffqa_features.evaluation._repeated import (
    SPLIT_RULES,
    list_splits,
    run_splits,
    say_splits,
    summarise,
)
from diffqa_features.evaluation._table import EvaluationTable

BASELINE = "baseline"


@validate_params(
    {
        **SPLIT_RULES,
        "param_grid": [dict],
        "mode": [StrOptions({"one-at-a-time", "full"})],
    },
    prefer_skip_nested_validation=True,
)
def ablate(
    estimator,
    param_grid,
    X,
    y,
    *,
    groups=None,
    mode="one-at-a-time",
    cv=None,
    n_splits=10,
    test_size=0.2,
    metrics=("srcc", "plcc"),
    mapping="logistic4",
    random_state=0,
):
    """Measure the effect of settings: prompts, blocks, timesteps, pooling, kinds.

    Parameters
    ----------
    estimator : estimator
        Unfitted regressor on media, with the baseline settings.
    param_grid : dict of str to list
        Parameters and the values to try, as for
        :class:`~sklearn.model_selection.GridSearchCV`, for example
        ``{"features__prompts": [("",), ("Good photo.",)]}``.
    X : list, array, Series or DataFrame of N media rows
        Pictures or videos.
    y : array-like of shape (N,)
        Scores, such as MOS.
    groups : array-like of shape (N,), default=None
        Source of each row, see :func:`repeated_splits`.
    mode : {"one-at-a-time", "full"}, default="one-at-a-time"
        Change one parameter of the baseline at a time, or try every combination.
    cv : int, splitter or iterable of (train, test), default=None
        Your own splits instead of random ones.
    n_splits : int, default=10
        Number of random splits, the same for every setting.
    test_size : float or int, default=0.2
        Fraction or number of groups (of rows if there are no groups) in the test set.
    metrics : str or sequence of str, default=("srcc", "plcc")
        Metrics to report.
    mapping : {"logistic4", "logistic5"} or None, default="logistic4"
        Curve fitted to each test set before ``plcc`` and ``rmse``.
    random_state : int, default=0
        Seed of the splits.

    Returns
    -------
    EvaluationTable
        Its `frame` has one row per setting and metric, the baseline first:
        ``setting``, ``changed`` (names of the parameters that differ from the
        baseline), one column per parameter with its value, ``n_features`` (if known),
        ``metric``, ``median``, ``q1``, ``q3``, ``difference`` (mean over splits of
        setting minus baseline), ``p_value`` (the corrected t of
        :func:`paired_tests`) and ``p_holm`` (over the settings, for each metric).

    Raises
    ------
    ValueError
        If a parameter does not exist, a split leaks, or a number is not finite.

    Notes
    -----
    All settings share one store: the estimator's own `memory`, or a temporary one. The
    backbone therefore runs once per (row, timestep, prompt), regardless of the number
    of settings and splits, and computes all feature kinds that any setting needs in
    that pass.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import Pipeline
    >>> from diffqa_features import DiffusionQAFeatures, datasets, evaluation
    >>> photos = datasets.load_sample_photos(image_size=64).data[:4]
    >>> data = datasets.make_distorted_images(
    ...     photos, families="jpeg", n_levels=4, image_size=64
    ... )
    >>> features = DiffusionQAFeatures(image_size=64)
    >>> model = Pipeline([("features", features), ("ridge", Ridge())])
    >>> table = evaluation.ablate(
    ...     model,
    ...     {"features__kinds": ["error"], "features__blocks": ["mid*", "up*"]},
    ...     data.data,
    ...     data.target,
    ...     groups=data.groups,
    ...     n_splits=2,
    ...     test_size=2,
    ...     metrics="srcc",
    ... )
    >>> table.frame[["setting", "n_features"]].values.tolist()
    [['baseline', 97], ['kinds=error', 65], ['blocks=mid*', 67], ['blocks=up*', 83]]
    """
    name_of(estimator)  # an estimator, not a dict of them
    metrics = check_metrics(metrics)
    mapping = check_mapping(mapping, metrics)
    y, groups = check_data(X, y, groups)
    splits = list_splits(X, y, groups, cv, n_splits, test_size, random_state)
    settings = _settings(estimator, param_grid, mode)
    scores, predictions, widths = [], [], {}
    with temporary_store() as store:
        extraction = Extraction(X, store)
        base = with_store(estimator, store)
        models = [(name, clone(base).set_params(**change)) for name, change in settings]
        _fill(models, X)
        for name, model in models:
            model, data = extraction.take(model)
            widths[name] = data.shape[1] if getattr(data, "ndim", 0) == 2 else None
            run = run_splits(name, model, data, y, groups, splits, metrics, mapping)
            scores.append(run[0])
            predictions.append(run[1])
    scores = pd.concat(scores, ignore_index=True)
    facts = describe(
        {BASELINE: estimator},
        mapping,
        settings=f"{len(settings)}, {mode}",
        data=count(len(y), groups),
        splits=say_splits(cv, splits, groups, test_size, random_state),
        tests="corrected t against the baseline; Holm over the settings",
    )
    return EvaluationTable(
        _frame(estimator, param_grid, settings, widths, scores),
        facts,
        scores=scores,
        predictions=pd.concat(predictions, ignore_index=True),
    )


def _settings(estimator, param_grid, mode) -> list[tuple[str, dict]]:
    """Names and changes of the settings, without duplicates, baseline first."""
    combinations = list(ParameterGrid(param_grid))  # refuses what is no grid
    if mode == "one-at-a-time":
        combinations = [{p: v} for p, values in param_grid.items() for v in values]
    known = estimator.get_params()
    for parameter in param_grid:
        if parameter not in known:
            clone(estimator).set_params(**{parameter: None})  # scikit-learn's sentence
    changes = [{}]
    for combination in combinations:
        change = {p: v for p, v in combination.items() if not _same(v, known[p])}
        if not any(alike(change, other) for other in changes):
            changes.append(change)
    last = [parameter.rpartition("__")[2] for parameter in param_grid]
    names = {p: n if last.count(n) == 1 else p for p, n in zip(param_grid, last)}
    settings = {}
    for change in changes:
        label = ", ".join(f"{names[p]}={_text(v)}" for p, v in change.items())
        label = label or BASELINE
        while label in settings:  # long values are abbreviated alike
            label += " (another)"
        settings[label] = change
    return list(settings.items())


def _same(a, b) -> bool:
    if isinstance(a, Real) and isinstance(b, Real):
        return a == b  # C=1 is C=1.0
    return alike(a, b)


def _text(value) -> str:
    return value if isinstance(value, str) else " ".join(repr(value).split())


def _fill(models, X) -> None:
    """If kinds are varied, run each pass once with all of them."""
    readers = [steps[0] for _, model in models if (steps := cut(model)[0])]
    needed = {"kinds", "blocks", "pooling"}
    readers = [r for r in readers if memories(r) and needed <= r.get_params().keys()]
    asked = [
        (r.kinds,) if isinstance(r.kinds, str) else tuple(r.kinds) for r in readers
    ]
    kinds = tuple(dict.fromkeys(kind for each in asked for kind in each))
    if len(set(map(frozenset, asked))) < 2:
        return
    filled = []
    for reader in readers:
        # The store keeps whole passes: all blocks, whichever are asked for.
        reader = clone(reader).set_params(kinds=kinds, blocks="all", pooling="mean")
        if not any(alike(reader, other) for other in filled):
            reader.fit_transform(X)
            filled.append(reader)


def _frame(estimator, param_grid, settings, widths, scores):
    known = estimator.get_params()
    summary = summarise(scores).set_index(["method", "metric"])
    sizes = scores.drop_duplicates("split")
    ratio = sizes["n_test"].sum() / sizes["n_train"].sum()
    values = {
        key: s["value"].to_numpy() for key, s in scores.groupby(["method", "metric"])
    }
    rows = []
    for name, change in settings:
        for metric in dict.fromkeys(scores["metric"]):
            ours, base = values[name, metric], values[BASELINE, metric]
            row = {
                "setting": name,
                "changed": ", ".join(change),
                **{p: _text(change.get(p, known[p])) for p in param_grid},
                "n_features": widths[name],
                "metric": metric,
                **summary.loc[(name, metric), ["median", "q1", "q3"]].to_dict(),
                "difference": (ours - base).mean(),
                "p_value": float("nan"),
            }
            if change and len(ours) > 1:
                tests = paired_tests(ours, base, test_ratio=ratio)
                row["p_value"] = tests["corrected t"][1]
            rows.append(row)
    frame = pd.DataFrame(rows).astype({"n_features": "Int64"})
    tested = frame["p_value"].notna()
    adjusted = frame[tested].groupby("metric")["p_value"].transform(holm)
    return frame.assign(p_holm=adjusted)
