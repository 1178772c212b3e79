"""Metric names in, values out: for one set of predictions or many resamples."""

import warnings

import numpy as np
from scipy import stats
from sklearn.exceptions import UndefinedMetricWarning

from diffqa_features import metrics as measured
from diffqa_features._utils.checks import InOrder
from diffqa_features._utils.logistic import LogisticMapping

METRICS = ("srcc", "plcc", "krcc", "rmse")
ALIGNED = ("plcc", "rmse")
MAPPINGS = {"logistic4": 4, "logistic5": 5}

_SCORES = {
    "srcc": measured.srcc_score,
    "plcc": measured.plcc_score,
    "krcc": measured.krcc_score,
    "rmse": measured.rmse,
}


def check_metrics(metrics) -> tuple[str, ...]:
    """Names as a tuple, or scikit-learn's error message."""
    several = [metrics] if isinstance(metrics, str) else metrics
    names = tuple(several) if InOrder().is_satisfied_by(several) else ()
    if not names or any(name not in METRICS for name in names):
        raise ValueError(
            f"The 'metrics' parameter must be one or a list of {set(METRICS)}. "
            f"Got {metrics!r} instead."
        )
    return tuple(dict.fromkeys(names))


def check_metric(metric) -> str:
    """One name, or scikit-learn's error message."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(
            f"The 'metric' parameter must be one of {set(METRICS)}. "
            f"Got {metric!r} instead."
        )
    return metric


def check_mapping(mapping, metrics=ALIGNED):
    """``None`` or a known name; ``None`` if no metric needs a curve."""
    known = mapping is None or (isinstance(mapping, str) and mapping in MAPPINGS)
    if not known:
        raise ValueError(
            f"The 'mapping' parameter must be None or one of {set(MAPPINGS)}. "
            f"Got {mapping!r} instead."
        )
    return mapping if set(metrics) & set(ALIGNED) else None


def align(y_true: np.ndarray, y_pred: np.ndarray, mapping) -> np.ndarray:
    """Map predictions to the scale of the scores by the increasing logistic."""
    if mapping is None:
        return y_pred
    if len(y_true) < MAPPINGS[mapping]:
        raise ValueError(
            f"A test set of {len(y_true)} rows is too small for mapping={mapping!r}, "
            f"which has {MAPPINGS[mapping]} parameters. Use larger test sets, or "
            "mapping=None."
        )
    return LogisticMapping(MAPPINGS[mapping]).fit(y_pred, y_true).transform(y_pred)


def score(metric: str, y_true, y_pred, y_aligned) -> float:
    """One number; 0.0 with a warning if a correlation is undefined."""
    return _SCORES[metric](y_true, y_aligned if metric in ALIGNED else y_pred)


def score_resamples(metric: str, y_true, y_pred) -> np.ndarray:
    """One number per row of (B, n) arrays; NaN if a correlation is undefined."""
    if metric == "rmse":
        return np.sqrt(np.square(y_true - y_pred).mean(1))
    if metric == "krcc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            rows = zip(y_true, y_pred, strict=True)
            return np.array([stats.kendalltau(*row).statistic for row in rows])
    if metric == "srcc":
        y_true, y_pred = stats.rankdata(y_true, axis=1), stats.rankdata(y_pred, axis=1)
    varied = (np.ptp(y_true, axis=1) > 0) & (np.ptp(y_pred, axis=1) > 0)
    a = y_true - y_true.mean(1, keepdims=True)
    b = y_pred - y_pred.mean(1, keepdims=True)
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    product = (a * b).sum(1)
    return np.divide(product, size, out=np.full(len(a), np.nan), where=varied)
