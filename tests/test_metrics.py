"""Metrics against counted and closed-form correlations, and inside a search."""

import itertools
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GridSearchCV

from diffqa_features import metrics

CORRELATIONS = [metrics.srcc_score, metrics.plcc_score, metrics.krcc_score]
SCORERS = {
    metrics.srcc_scorer: metrics.srcc_score,
    metrics.plcc_scorer: metrics.plcc_score,
    metrics.krcc_scorer: metrics.krcc_score,
}


@pytest.fixture
def scores():
    """40 scores with many ties, and noisy predictions with some."""
    rng = np.random.default_rng(0)
    y_true = rng.integers(1, 6, 40).astype(float)
    return y_true, np.round(y_true + rng.normal(0, 1.5, 40), 1)


def ranks(y):
    """Mean rank of each value, counted."""
    y = np.asarray(y)
    return np.array([(y < v).sum() + ((y == v).sum() + 1) / 2 for v in y])


def pearson(x, y):
    x, y = x - np.mean(x), y - np.mean(y)
    return (x @ y) / np.sqrt((x @ x) * (y @ y))


def tau_b(x, y):
    pairs = list(itertools.combinations(range(len(x)), 2))
    dx = np.array([np.sign(x[i] - x[j]) for i, j in pairs])
    dy = np.array([np.sign(y[i] - y[j]) for i, j in pairs])
    return (dx @ dy) / np.sqrt((dx @ dx) * (dy @ dy))


def test_correlations_equal_counted_ones(scores):
    y_true, y_pred = scores
    assert np.isclose(metrics.plcc_score(*scores), pearson(y_true, y_pred))
    assert np.isclose(
        metrics.srcc_score(*scores), pearson(ranks(y_true), ranks(y_pred))
    )
    assert np.isclose(metrics.krcc_score(*scores), tau_b(y_true, y_pred))


def test_correlations_equal_scipy(scores):
    assert metrics.srcc_score(*scores) == stats.spearmanr(*scores).statistic
    assert metrics.plcc_score(*scores) == stats.pearsonr(*scores).statistic
    assert metrics.krcc_score(*scores) == stats.kendalltau(*scores).statistic


def test_rmse_equals_scikit_learn(scores):
    assert np.isclose(metrics.rmse(*scores), root_mean_squared_error(*scores))


def test_rank_correlations_see_only_the_order():
    y = np.array([0.1, 0.2, 0.5, 3.0, 4.0])
    assert metrics.srcc_score(y, np.exp(y)) == pytest.approx(1)
    assert metrics.krcc_score(y, np.exp(y)) == pytest.approx(1)
    assert metrics.plcc_score(y, np.exp(y)) < 0.95
    assert metrics.plcc_score(y, 7 - 2 * y) == pytest.approx(-1)


@pytest.mark.parametrize("score", [*CORRELATIONS, metrics.rmse])
def test_result_is_a_float_for_lists_columns_and_arrays(score):
    expected = score([1, 2, 4], [1.0, 3.0, 2.0])
    assert type(expected) is float
    assert score(np.array([[1], [2], [4]]), np.float32([1, 3, 2])) == expected


@pytest.mark.parametrize("score", CORRELATIONS)
@pytest.mark.parametrize("side", ["y_true", "y_pred"])
def test_constant_scores_give_zero_and_a_warning(score, side):
    y = {"y_true": [1, 2, 3], "y_pred": [1, 2, 3], side: [2, 2, 2]}
    with pytest.warns(UndefinedMetricWarning, match=f"undefined because {side}"):
        assert score(**y) == 0.0


@pytest.mark.parametrize("score", [*CORRELATIONS, metrics.rmse])
@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([1, 2], [1, 2, 3], "inconsistent numbers of samples"),
        ([], [], "needs at least [12] scores. Got 0"),
        ([1, np.nan], [1, 2], "y_true contains NaN"),
        ([1, 2], [1, np.inf], "y_pred contains infinity"),
        ([[1, 2], [3, 4]], [1, 2], "1d array"),
        (
            np.ma.array([1, 2, 9], mask=[0, 0, 1]),
            [1, 2, 3],
            "y_true has .*row 2",
        ),
        (
            [1, 2],
            np.array(["2026-01-01", "NaT"], "M8[ns]"),
            "y_pred .* these are times",
        ),
        (pd.Series([1, 2]), pd.to_timedelta([1, 2]), "y_pred .* these are times"),
    ],
)
def test_bad_scores_are_refused(score, y_true, y_pred, message):
    with pytest.raises(ValueError, match=message):
        score(y_true, y_pred)


@pytest.mark.parametrize("score", CORRELATIONS)
def test_one_score_has_no_correlation(score):
    with pytest.raises(ValueError, match=r"at least 2 scores\. Got 1"):
        score([1], [1])


def test_rmse_of_one_score():
    assert metrics.rmse([1], [4]) == 3.0


@pytest.fixture
def problem():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 5))
    return X, X @ rng.normal(size=5) + rng.normal(0, 0.3, 60)


@pytest.mark.parametrize("scorer", SCORERS)
def test_scorers_score_predictions(scorer, problem):
    X, y = problem
    model = Ridge().fit(X[:40], y[:40])
    expected = SCORERS[scorer](y[40:], model.predict(X[40:]))
    assert scorer(model, X[40:], y[40:]) == expected
    assert pickle.loads(pickle.dumps(scorer))(model, X[40:], y[40:]) == expected


def test_rmse_scorer_is_negative(problem):
    X, y = problem
    model = Ridge().fit(X, y)
    expected = -metrics.rmse(y, model.predict(X))
    assert metrics.rmse_scorer(model, X, y) == expected


@pytest.mark.parametrize("scorer", [*SCORERS, metrics.rmse_scorer])
def test_search_prefers_the_better_model(scorer, problem):
    search = GridSearchCV(Ridge(), {"alpha": [1.0, 1e4]}, scoring=scorer, cv=3)
    X, y = problem
    # Shrunk to almost nothing, predictions keep their order but lose their size.
    X = X * np.array([1, 1, 1, 1, 50])
    assert search.fit(X, y).best_params_ == {"alpha": 1.0}


def test_search_survives_a_constant_prediction(problem):
    search = GridSearchCV(
        DummyRegressor(), {"strategy": ["mean"]}, scoring=metrics.srcc_scorer, cv=3
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        search.fit(*problem)
    assert search.best_score_ == 0.0


def test_scorers_by_name(problem):
    X, y = problem
    model = Ridge().fit(X, y)
    predicted = model.predict(X)
    expected = {
        "srcc": metrics.srcc_score(y, predicted),
        "plcc": metrics.plcc_score(y, predicted),
        "krcc": metrics.krcc_score(y, predicted),
        "neg_rmse": -metrics.rmse(y, predicted),
    }
    for curve in ("logistic4", "logistic5"):
        plcc = metrics.plcc_score(y, predicted, mapping=curve)
        expected[f"plcc_{curve}"] = plcc
        expected[f"neg_rmse_{curve}"] = -metrics.rmse(y, predicted, mapping=curve)
    assert metrics.get_scorer_names() == sorted(expected)
    for name, value in expected.items():
        assert metrics.get_scorer(name)(model, X, y) == value
    assert metrics.get_scorer("r2")(model, X, y) == model.score(X, y)


def test_several_scorers_in_one_search(problem):
    scoring = {name: metrics.get_scorer(name) for name in ("srcc", "neg_rmse")}
    search = GridSearchCV(Ridge(), {"alpha": [1.0, 1e4]}, scoring=scoring, refit="srcc")
    search.fit(*problem)
    assert {"mean_test_srcc", "mean_test_neg_rmse"} <= set(search.cv_results_)


@pytest.mark.parametrize("name", ["pearson", None, 3, ["srcc"]])
def test_an_unknown_scorer_is_refused(name):
    with pytest.raises(ValueError, match=r"'name' parameter .* 'srcc'"):
        metrics.get_scorer(name)
