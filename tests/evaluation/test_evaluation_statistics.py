"""Bootstrap, paired tests and Holm against SciPy, closed forms and simulation."""

import warnings

import numpy as np
import pytest
from pytest import approx
from scipy import stats

from diffqa_features import metrics
from diffqa_features.evaluation import (
    bootstrap_difference,
    bootstrap_interval,
    holm,
    paired_tests,
)
from diffqa_features.evaluation._measures import score_resamples


@pytest.fixture
def scores():
    """24 scores with ties, good and poor predictions, six sources of four rows."""
    rng = np.random.default_rng(0)
    y = rng.integers(1, 6, 24).astype(float)
    return y, y + rng.normal(0, 0.7, 24), y + rng.normal(0, 3, 24), np.arange(24) // 4


@pytest.mark.parametrize("metric", ["srcc", "plcc", "krcc", "rmse"])
def test_resamples_are_scored_as_the_metric_does(metric, scores):
    y, p, _, _ = scores
    rows = np.random.default_rng(1).integers(24, size=(20, 24))
    measure = getattr(metrics, "rmse" if metric == "rmse" else f"{metric}_score")
    expected = [measure(y[r], p[r]) for r in rows]
    np.testing.assert_allclose(score_resamples(metric, y[rows], p[rows]), expected)


@pytest.mark.parametrize("metric", ["srcc", "plcc", "krcc"])
def test_an_undefined_resample_is_nan(metric):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_resamples(
            metric,
            np.array([[1.0, 1, 1], [1, 2, 3]]),
            np.array([[1.0, 2, 3], [1, 2, 3]]),
        )
    assert np.isnan(found[0]) and found[1] == approx(1)


def test_interval_agrees_with_scipys_bootstrap(scores):
    y, p, _, _ = scores
    value, low, high = bootstrap_interval(y, p, n_resamples=4000)
    theirs = stats.bootstrap(
        (y, p),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert value == metrics.srcc_score(y, p)
    np.testing.assert_allclose([low, high], theirs, atol=0.03)


@pytest.mark.parametrize("rho", [0.3, 0.85])
def test_intervals_cover_as_often_as_they_say(rho):
    rng = np.random.default_rng(0)
    truth = 6 / np.pi * np.arcsin(rho / 2)  # SRCC of a normal pair
    covered = 0
    for seed in range(150):
        x, z = rng.normal(size=(2, 80))
        y = rho * x + np.sqrt(1 - rho**2) * z
        _, low, high = bootstrap_interval(
            x, y, confidence=0.9, n_resamples=200, random_state=seed
        )
        covered += low <= truth <= high
    assert 0.82 <= covered / 150 <= 0.97


def test_only_intervals_by_group_cover_where_rows_belong_together():
    """RMSE with one error per source: rows of a source say the same thing twice."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 8)
    y = np.zeros(240)
    covered = {"rows": 0, "groups": 0}
    for seed in range(100):
        p = rng.normal(size=30)[groups]
        for kind in covered:
            _, low, high = bootstrap_interval(
                y,
                p,
                metric="rmse",
                groups=groups if kind == "groups" else None,
                confidence=0.9,
                n_resamples=200,
                random_state=seed,
            )
            covered[kind] += low <= 1 <= high
    assert covered["groups"] >= 78
    assert covered["rows"] <= 65


def test_groups_of_unequal_size_are_drawn_whole():
    """Resamples of groups {a: 1 row, b: 9 rows} have 2, 10 or 18 rows."""
    y = np.arange(10.0)
    groups = ["a", *"b" * 9]
    # Drawn with a twice, SRCC is undefined; else the order is perfect.
    assert bootstrap_interval(y, y, groups=groups, n_resamples=50) == approx((1, 1, 1))
    p = np.array([5.0, *[0.0] * 9])  # RMSE 5 of a alone, 0 of b alone, sqrt(25/10)
    _, low, high = bootstrap_interval(
        np.zeros(10), p, metric="rmse", groups=groups, n_resamples=400
    )
    assert (low, high) == (0, 5)


def test_the_seed_decides(scores):
    y, p, _, _ = scores
    one, same = (bootstrap_interval(y, p, random_state=3) for _ in range(2))
    assert one == same != bootstrap_interval(y, p, random_state=4)


def test_a_mapping_is_applied_before_plcc(scores):
    y, p, _, _ = scores
    value, low, high = bootstrap_interval(y, p, metric="plcc", mapping="logistic4")
    assert value == approx(metrics.plcc_score(y, p, mapping="logistic4"))
    assert low < value < high


def test_a_difference_is_paired(scores):
    """Two methods whose errors are equal but for a constant differ by exactly it."""
    y, good, poor, groups = scores
    difference, low, high, p_value = bootstrap_difference(y, good, poor, groups=groups)
    assert difference == metrics.srcc_score(y, good) - metrics.srcc_score(y, poor)
    assert 0 < low < difference < high and p_value < 0.05
    back = bootstrap_difference(y, poor, good, groups=groups)
    np.testing.assert_allclose(back, (-difference, -high, -low, p_value))
    assert bootstrap_difference(y, good, good) == (0, 0, 0, 1)


def test_p_values_of_equal_methods_are_uniform_enough():
    rng = np.random.default_rng(0)
    rejected = 0
    for seed in range(120):
        y = rng.normal(size=60)
        a, b = y + rng.normal(size=(2, 60))
        *_, p_value = bootstrap_difference(y, a, b, n_resamples=200, random_state=seed)
        rejected += p_value < 0.1
    assert 0.03 <= rejected / 120 <= 0.18


def test_paired_tests_equal_scipy():
    rng = np.random.default_rng(0)
    a = rng.normal(0.8, 0.05, 12)
    b = a - rng.normal(0.02, 0.03, 12)
    found = paired_tests(a, b, test_ratio=0.25)
    theirs = stats.ttest_rel(a, b)
    np.testing.assert_allclose(found["paired t"], (theirs.statistic, theirs.pvalue))
    theirs = stats.wilcoxon(a, b)
    np.testing.assert_allclose(found["wilcoxon"], (theirs.statistic, theirs.pvalue))
    d = a - b  # Nadeau and Bengio: the variance counts 1/k + test/train times
    t = d.mean() / np.sqrt((1 / 12 + 0.25) * d.var(ddof=1))
    np.testing.assert_allclose(found["corrected t"], (t, 2 * stats.t(11).cdf(-abs(t))))
    assert "corrected t" not in paired_tests(a, b)


def test_degenerate_differences_have_an_answer():
    same = paired_tests([0.5, 0.7], [0.5, 0.7], test_ratio=0.2)
    assert set(same.values()) == {(0.0, 1.0)}
    shifted = paired_tests([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])
    assert shifted["paired t"] == (np.inf, 0.0)


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, then not less.
    np.testing.assert_allclose(
        holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]
    )
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([1, 2], [1, 2, 3]), "inconsistent"),
        (lambda: bootstrap_interval([1, 2], [1, np.nan]), "y_pred contains NaN"),
        (lambda: bootstrap_interval([1, 2], [1, 2], metric="mae"), "'metric' param"),
        (lambda: bootstrap_interval([1, 2], [1, 2], groups=[0, 0]), "2 groups"),
        (lambda: bootstrap_interval([1, 2], [1, 2], confidence=95), "'confidence'"),
        (lambda: bootstrap_interval([1, 2], [1, 2], mapping="no"), "'mapping' param"),
        (lambda: paired_tests([1], [2]), "at least 2 splits"),
        (lambda: paired_tests([1, np.inf], [2, 3]), "scores contains inf"),
        (lambda: holm([0.1, 1.1]), r"in \[0, 1\]"),
        (lambda: holm([0.1, np.nan]), r"in \[0, 1\]"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
