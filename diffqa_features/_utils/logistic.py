"""VQEG logistic mappings: predictions in, values on the scale of the scores out."""

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from diffqa_features._utils.checks import refuse_misread

# Steepness, per standard deviation of the predictions: from a line to a step.
_SLOPES = np.geomspace(0.1, 100, 13)
_SLOPE_BOUNDS = (0.02, 1000)
_N_REFINED = 3
_N_COARSE = 2000


class LogisticMapping(BaseEstimator):
    """Monotonic logistic curve from predictions to opinion scores.

    Correlations and errors in the units of the scores are reported after fitting such a
    curve, because predictions need not be linear in opinion scores and every dataset
    has its own scale. The curve has few parameters and never changes the order.

    Parameters
    ----------
    n_parameters : {4, 5}, default=4
        Form of the curve, with the parameters b1 to b5 of :attr:`parameters_`:

        - 4: ``b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|))``, the VQEG's of 2000 [1]_:
          b1 and b2 are its limits on the right and the left, b3 its midpoint, b4 its
          width.
        - 5: ``b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5``, a logistic plus a
          line [2]_. Here b1, b2 and b4 are constrained to a common direction: the
          unconstrained curve can decrease where it should increase, which would reward
          a wrong order.

    direction : {"increasing", "decreasing", "auto"}, default="increasing"
        Direction of the curve. With ``"increasing"``, predictions that decrease with
        the scores get a flat curve and so earn no credit. ``"auto"`` follows the sign
        of the rank correlation, which flatters random predictions: their correlation
        after the curve is never negative.

    Attributes
    ----------
    parameters_ : ndarray of shape (n_parameters,), dtype float64
        b1, b2, ... of the curve, in the units of predictions and scores.
    direction_ : str
        ``"increasing"`` or ``"decreasing"``.

    See Also
    --------
    diffqa_features.metrics.plcc_score : Fits the curve first with `mapping`.
    sklearn.isotonic.IsotonicRegression : A non-parametric monotonic fit.

    Notes
    -----
    The fit is by least squares. Given its midpoint and steepness, a curve is linear in
    all other parameters, which are solved exactly under sign constraints. The search is
    therefore over two parameters only: for each of 13 steepnesses, the best of 15
    midpoints is a candidate, and a bounded search starts from the best three.
    Predictions and scores are standardised first. The fit is deterministic.

    It is customary to fit the curve on the scores used for evaluation. With four
    parameters and hundreds of scores this hardly matters; with twenty scores it does.

    References
    ----------
    .. [1] VQEG (2000). Final report from the Video Quality Experts Group on the
       validation of objective models of video quality assessment, phase I.
    .. [2] Sheikh, H. R., Sabir, M. F. and Bovik, A. C. (2006). A statistical
       evaluation of recent full reference image quality assessment algorithms. IEEE
       Transactions on Image Processing 15(11).

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features.metrics import LogisticMapping
    >>> predicted = np.linspace(-3, 3, 50)
    >>> mos = 1 + 4 / (1 + np.exp(-2 * (predicted - 0.5)))
    >>> LogisticMapping().fit(predicted, mos).parameters_.round(3)
    array([5. , 1. , 0.5, 0.5])
    """

    _parameter_constraints: dict = {
        "n_parameters": [Options(int, {4, 5})],
        "direction": [StrOptions({"increasing", "decreasing", "auto"})],
    }

    def __init__(self, n_parameters=4, *, direction="increasing"):
        self.n_parameters = n_parameters
        self.direction = direction

    def fit(self, X, y):
        """Fit the curve.

        Parameters
        ----------
        X : array-like of shape (n,)
            Predictions, finite. Constant predictions get a flat curve at the mean
            score.
        y : array-like of shape (n,)
            Scores, finite, at least as many as the curve has parameters.

        Returns
        -------
        LogisticMapping
            Itself.

        Raises
        ------
        ValueError
            If numbers are not finite, lengths differ, or there are too few.
        """
        self._validate_params()
        check_consistent_length(X, y)
        x, y = _numbers(X, "X"), _numbers(y, "y")
        if len(x) < self.n_parameters:
            raise ValueError(
                f"A logistic of {self.n_parameters} parameters needs at least "
                f"{self.n_parameters} scores. Got {len(x)} instead."
            )
        self.direction_ = self.direction
        if self.direction == "auto":
            constant = x.min() == x.max() or y.min() == y.max()
            falls = not constant and spearmanr(x, y).statistic < 0
            self.direction_ = "decreasing" if falls else "increasing"
        sign = -1.0 if self.direction_ == "decreasing" else 1.0
        (middle, width), (mean, height) = _centre_and_spread(x), _centre_and_spread(y)
        u, v = sign * (x - middle) / width, (y - mean) / height
        at, slope, (rise, tilt) = _search(u, v, tilted=self.n_parameters == 5)
        # v = level + rise s + tilt u, with s the logistic of slope (u - at)
        level = -(rise * expit(slope * (u - at)) + tilt * u).mean()
        rise, tilt = rise * height, tilt * height * sign / width
        b3 = middle + sign * at * width
        low = mean + level * height
        if self.n_parameters == 4:
            ends = (low + rise, low) if sign > 0 else (low, low + rise)
            self.parameters_ = np.array([*ends, b3, width / slope])
        else:
            b1, b2 = sign * rise, slope / width
            b5 = low + rise / 2 - tilt * middle
            self.parameters_ = np.array([b1, b2, b3, tilt, b5])
        return self

    def transform(self, X):
        """Map predictions to the scale of the scores.

        Parameters
        ----------
        X : array-like of shape (n,)
            Predictions, finite; need not be those passed to `fit`.

        Returns
        -------
        ndarray of shape (n,), dtype float64
            The curve's values, in the order of `X`, or in reverse order for a
            decreasing curve.
        """
        check_is_fitted(self)
        x = _numbers(X, "X")
        if len(self.parameters_) == 4:
            b1, b2, b3, b4 = self.parameters_
            return b2 + (b1 - b2) * expit((x - b3) / abs(b4))
        b1, b2, b3, b4, b5 = self.parameters_
        return b1 * (expit(b2 * (x - b3)) - 0.5) + b4 * x + b5


def _centre_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, the latter 1 if all are equal."""
    middle, reach = values.mean(), np.ptp(values)
    if reach == 0:
        return middle, 1.0
    # Squares of very small or large numbers are not finite, or 0.
    return middle, reach * (values / reach - middle / reach).std()


def _numbers(values, name: str) -> np.ndarray:
    refuse_misread(values, name)
    values = check_array(values, ensure_2d=False, dtype=np.float64, input_name=name)
    return column_or_1d(values)


def _search(u, v, tilted):
    """Midpoint, slope and (rise, tilt) of the best curve for standardised points."""
    coarse = np.argsort(u)[:: max(1, len(u) // _N_COARSE)]
    middles = np.unique(np.quantile(u, np.linspace(0.02, 0.98, 15)))

    def cost(curve):
        residual, _ = _residual(curve, u[coarse], v[coarse], tilted)
        return residual @ residual

    # One start per steepness: the best few of all would be neighbours.
    starts = [min(((at, slope) for at in middles), key=cost) for slope in _SLOPES]
    starts.sort(key=cost)
    reach = np.ptp(u) + 1e-6
    low = np.array([u.min() - reach, np.log(_SLOPE_BOUNDS[0])])
    high = np.array([u.max() + reach, np.log(_SLOPE_BOUNDS[1])])
    found = [
        least_squares(
            lambda p: _residual((p[0], np.exp(p[1])), u, v, tilted)[0],
            np.array([at, np.log(slope)]),
            bounds=(low, high),
            xtol=1e-10,
            ftol=1e-10,
            gtol=1e-10,
            max_nfev=40,
        )
        for at, slope in starts[:_N_REFINED]
    ]
    at, log_slope = min(found, key=lambda result: result.cost).x
    slope = np.exp(log_slope)
    return at, slope, _residual((at, slope), u, v, tilted)[1]


def _residual(curve, u, v, tilted):
    """Residual of the best non-negative rise and tilt, and these two."""
    at, slope = curve
    s = expit(slope * (u - at))
    s, u, v = s - s.mean(), u - u.mean(), v - v.mean()
    ss, sv = s @ s, s @ v
    rise = max(sv / ss, 0.0) if ss > 0 else 0.0
    best = v - rise * s, (rise, 0.0)
    if not tilted:
        return best
    # Least squares under two signs: the free solution if it has them, else the better
    # of the two edges.
    uu, uv, su = u @ u, u @ v, s @ u
    determinant = ss * uu - su * su
    if determinant > 1e-12 * ss * uu:
        rise = (sv * uu - uv * su) / determinant
        tilt = (uv * ss - sv * su) / determinant
        if rise >= 0 and tilt >= 0:
            return v - rise * s - tilt * u, (rise, tilt)
    tilt = max(uv / uu, 0.0) if uu > 0 else 0.0
    edge = v - tilt * u
    if edge @ edge < best[0] @ best[0]:
        best = edge, (0.0, tilt)
    return best
