"""Predictions on fixed test sets in, a table of values with intervals out."""

from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.utils._param_validation import Interval

from diffqa_features.evaluation._bootstrap import bootstrap_interval
from diffqa_features.evaluation._measures import ALIGNED
from diffqa_features.evaluation._protocol import measure
from diffqa_features.evaluation._table import EvaluationTable

RULES = {
    "confidence": [Interval(Real, 0, 1, closed="neither")],
    "n_resamples": [Interval(Integral, 10, None, closed="left")],
    "random_state": [Interval(Integral, 0, None, closed="left")],
}


def summarise(
    frames, metrics, facts, train_sizes, confidence, n_resamples, random_state
) -> EvaluationTable:
    """One row per method, pair of training and test set, and metric."""
    rows, scores = [], []
    for frame in frames:
        labels = {c: frame[c].iloc[0] for c in ("method", "train", "test")}
        groups = groups_of(frame)
        n_groups = None if groups is None else len(np.unique(groups))
        for metric, value in measure(frame, metrics).items():
            _, low, high = bootstrap_interval(
                frame["y_true"],
                frame["y_aligned" if metric in ALIGNED else "y_pred"],
                metric=metric,
                groups=groups,
                confidence=confidence,
                n_resamples=n_resamples,
                random_state=random_state,
            )
            rows.append(
                {
                    **labels,
                    "metric": metric,
                    "value": value,
                    "low": low,
                    "high": high,
                    "n_test": len(frame),
                    "n_groups": n_groups,
                }
            )
            sizes = {"n_train": train_sizes[labels["train"]], "n_test": len(frame)}
            score = {"split": 0, "metric": metric, "value": value}
            scores.append({**labels, **score, **sizes})
    table = pd.DataFrame(rows).astype({"n_groups": "Int64"})
    return EvaluationTable(
        table,
        facts,
        scores=pd.DataFrame(scores),
        predictions=pd.concat(frames, ignore_index=True),
    )


def groups_of(predictions: pd.DataFrame):
    """Groups of tidy predictions, or ``None``."""
    groups = predictions["group"]
    return None if groups.isna().any() else groups.to_numpy()


def say_intervals(confidence, n_resamples, random_state) -> str:
    """State how intervals were computed."""
    return (
        f"{confidence:.0%} percentile bootstrap, {n_resamples} resamples, by group "
        f"where there are groups, seed {random_state}"
    )
