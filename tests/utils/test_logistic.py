"""The VQEG logistics against known curves, SciPy's free fit, and hard data."""

import pickle

import numpy as np
import pytest
from scipy.optimize import curve_fit
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, UndefinedMetricWarning

from diffqa_features import metrics
from diffqa_features.metrics import LogisticMapping


def logistic4(x, b1, b2, b3, b4):
    return b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4)))


def logistic5(x, b1, b2, b3, b4, b5):
    return b1 * (0.5 - 1 / (1 + np.exp(b2 * (x - b3)))) + b4 * x + b5


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(50, 12, 120)


@pytest.mark.parametrize("true", [(90, 10, 48, 6.0), (5, 1, 60, 2.0), (1, 0, 30, 20)])
def test_four_parameters_are_found(x, true):
    fitted = LogisticMapping(4).fit(x, logistic4(x, *true))
    np.testing.assert_allclose(fitted.parameters_, true, rtol=1e-3, atol=1e-9)
    assert fitted.direction_ == "increasing"


@pytest.mark.parametrize("true", [(60, 0.3, 48, 0.5, 3), (4, 0.2, 55, 0.01, -2)])
def test_five_parameters_are_found(x, true):
    y = logistic5(x, *true)
    fitted = LogisticMapping(5).fit(x, y)
    np.testing.assert_allclose(fitted.transform(x), y, atol=1e-6 * np.ptp(y))
    np.testing.assert_allclose(fitted.parameters_, true, rtol=1e-2)


@pytest.mark.parametrize("n_parameters", [4, 5])
def test_a_falling_curve_is_the_rising_one_mirrored(x, n_parameters):
    y = logistic4(x, 90, 10, 48, 6) + np.random.default_rng(1).normal(0, 5, len(x))
    rising = LogisticMapping(n_parameters, direction="auto").fit(x, y)
    falling = LogisticMapping(n_parameters, direction="auto").fit(-x, y)
    assert (rising.direction_, falling.direction_) == ("increasing", "decreasing")
    np.testing.assert_allclose(falling.transform(-x), rising.transform(x), rtol=1e-4)


@pytest.mark.parametrize("formula", [logistic4, logistic5])
def test_transform_is_the_papers_formula(x, formula):
    n_parameters = 4 if formula is logistic4 else 5
    y = logistic4(x, 90, 10, 48, 6) + np.random.default_rng(1).normal(0, 5, len(x))
    fitted = LogisticMapping(n_parameters).fit(x, y)
    new = np.linspace(20, 80, 30)
    expected = formula(new, *fitted.parameters_)
    np.testing.assert_allclose(fitted.transform(new), expected, rtol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_no_worse_than_scipys_free_fit_from_the_truth(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=150)
    true = (5, 1, rng.normal(), 0.3 * np.exp(rng.normal()))
    with np.errstate(over="ignore"):
        y = logistic4(x, *true) + rng.normal(0, 0.3, len(x))
        best, _ = curve_fit(logistic4, x, y, p0=true, maxfev=50_000)
        theirs = np.square(logistic4(x, *best) - y).sum()
    ours = np.square(LogisticMapping(4).fit(x, y).transform(x) - y).sum()
    assert ours <= theirs * (1 + 1e-4)


@pytest.mark.parametrize("n_parameters", [4, 5])
@pytest.mark.parametrize("seed", range(8))
def test_never_falls_and_never_loses_to_the_mean(n_parameters, seed):
    """On noise, steps, outliers and few points, whatever the fit makes of them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_cauchy(12 + 20 * seed)
    y = np.round(np.sign(x) + rng.normal(0, seed / 2, len(x)))
    fitted = LogisticMapping(n_parameters).fit(x, y)
    line = np.linspace(x.min() - 1, x.max() + 1, 2000)
    assert (np.diff(fitted.transform(line)) >= -1e-9).all()
    error = np.square(fitted.transform(x) - y).sum()
    assert error <= np.square(y - y.mean()).sum() * (1 + 1e-9)


def test_units_do_not_matter(x):
    y = logistic4(x, 90, 10, 48, 6) + np.random.default_rng(1).normal(0, 5, len(x))
    fitted = LogisticMapping().fit(x, y).transform(x)
    scaled = LogisticMapping().fit(1e-6 * x + 7, 1e5 * y - 3).transform(1e-6 * x + 7)
    np.testing.assert_allclose(scaled, 1e5 * fitted - 3, rtol=1e-4)


def test_constant_predictions_are_mapped_to_the_mean_score():
    fitted = LogisticMapping().fit([2, 2, 2, 2, 2], [1, 2, 3, 4, 5])
    np.testing.assert_allclose(fitted.transform([2, 9]), [3, 3])


def test_plcc_after_five_parameters_is_at_least_plcc():
    rng = np.random.default_rng(0)
    for _ in range(5):
        y = rng.normal(size=30)
        p = y + rng.normal(size=30)
        plain = metrics.plcc_score(y, p)
        assert metrics.plcc_score(y, p, mapping="logistic5") >= plain - 1e-9


def test_mapping_undoes_a_rising_distortion():
    y = np.linspace(0.51, 5.49, 60)
    p = np.log((y - 0.5) / (5.5 - y))  # the inverse of a logistic from 0.5 to 5.5
    assert metrics.plcc_score(y, p) < 0.99
    assert metrics.plcc_score(y, p, mapping="logistic4") == pytest.approx(1)
    assert metrics.rmse(y, 100 + 7 * p, mapping="logistic4") < 1e-3


def test_predictions_against_the_scores_earn_nothing():
    y = np.arange(20.0)
    with pytest.warns(UndefinedMetricWarning, match="y_pred is constant"):
        assert metrics.plcc_score(y, -y, mapping="logistic4") == 0.0
    assert metrics.rmse(y, -y, mapping="logistic4") == pytest.approx(y.std())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LogisticMapping(3).fit([1], [1]), "'n_parameters' parameter"),
        (lambda: LogisticMapping(direction="up").fit([1], [1]), "'direction' param"),
        (lambda: LogisticMapping(5).fit([1, 2, 3, 4], [1, 2, 3, 4]), "at least 5"),
        (
            lambda: LogisticMapping().fit([1, 2, np.nan, 4], [1, 2, 3, 4]),
            "contains NaN",
        ),
        (lambda: LogisticMapping().fit([1, 2, 3], [1, 2, 3, 4]), "inconsistent"),
        (
            lambda: metrics.rmse([1] * 5, [2] * 5, mapping="cubic"),
            "'mapping' parameter",
        ),
        (lambda: metrics.plcc_score([1, 2], [1, 2], mapping="logistic4"), "at least 4"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_estimator_rules(x):
    mapping = LogisticMapping(5, direction="auto")
    assert clone(mapping).get_params() == {"n_parameters": 5, "direction": "auto"}
    with pytest.raises(NotFittedError):
        mapping.transform(x)
    mapping.fit(x, x)
    again = pickle.loads(pickle.dumps(mapping))
    np.testing.assert_array_equal(again.transform(x), mapping.transform(x))


@pytest.mark.parametrize("n_parameters", [4, 5])
@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_squares_of_predictions_need_not_be_numbers(n_parameters, factor):
    x = np.linspace(-3, 3, 30)
    y = 1 + 4 / (1 + np.exp(-2 * (x - 0.5)))
    curve = LogisticMapping(n_parameters)
    plain = curve.fit(x, y).transform(x)
    np.testing.assert_allclose(
        curve.fit(factor * x, y).transform(factor * x), plain, atol=1e-6
    )
    np.testing.assert_allclose(
        curve.fit(x, factor * y).transform(x) / factor, plain, atol=1e-6
    )
