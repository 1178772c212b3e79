"""Shared by estimators that learn scores: targets, weights, validation split, lines."""

from __future__ import annotations

import math
import warnings
from decimal import Decimal
from numbers import Real

import numpy as np
from sklearn import get_config
from sklearn.base import RegressorMixin
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.utils import check_consistent_length, column_or_1d

from diffqa_features._utils.checks import refuse_misread
from diffqa_features._utils.groups import check_groups
from diffqa_features.learned._base import LearnedModel
from diffqa_features.metrics import srcc_score

_FEW = 100  # training rows below which `fit` warns


class LearnedRegressor(RegressorMixin, LearnedModel):
    """Base of estimators that learn scores; it has no constructor."""

    _FITTED = ("slope_", "intercept_", "target_range_", "history_")

    # What a method supplies beside:

    def _first_line(self, job):
        """Slope and intercept from scores to `y` before training.

        By default, scores are centred at 0 with standard deviation 1.
        """
        if job.warm:
            return self.slope_, self.intercept_
        return self._standard_line(job)

    def _scores(self, job, rows):
        """The network's current scores at these positions in the data."""
        raise NotImplementedError

    def _last_line(self, job, trained):
        """The line after training; by default unchanged."""
        return job.line

    # -- targets -------------------------------------------------------------------

    def _check_targets(self, job, y, groups, sample_weight):
        if y is None:
            raise ValueError("fit needs y: one score per row of X. Got None.")
        job.y = check_target(y, job.rows)
        self._check_rows(job, groups, sample_weight)

    def _check_rows(self, job, groups, sample_weight):
        if groups is not None:
            job.groups = check_groups(groups)
            check_consistent_length(job.rows, job.groups)
        if sample_weight is not None:
            job.weight = check_weights(sample_weight, job.rows)
        if self.validation_fraction is not None and groups is None:
            self._warn_of_groups()
        self._split(job.rows, job.groups, job.weight)

    @staticmethod
    def _warn_of_groups():
        if not get_config()["enable_metadata_routing"]:
            warnings.warn(
                "validation_fraction holds out rows at random, because fit got no "
                "groups: versions of one content may train and validate. Pass groups, "
                "or groups=range(len(X)) if no two rows share a content. "
                "cross_val_score and searches pass them on after "
                "sklearn.set_config(enable_metadata_routing=True).",
                UserWarning,
                stacklevel=6,
            )

    def _split(self, rows, groups, weight=None):
        """Positions of the training rows, and of the held-out ones (or None)."""
        fraction, held = self.validation_fraction, None
        train = np.arange(len(rows))
        if fraction is not None:
            if groups is not None and len(np.unique(groups)) < 2:
                raise ValueError(
                    "validation_fraction holds out whole groups, and all rows are of "
                    f"one: {np.asarray(groups).tolist()[0]!r}. Pass at least two "
                    "groups, or set it to None."
                )
            kind = ShuffleSplit if groups is None else GroupShuffleSplit
            split = kind(1, test_size=fraction, random_state=self.random_state)
            try:
                train, held = next(split.split(train, groups=groups))
            except ValueError:  # a side would be empty
                held = train[:0]
        if weight is not None:
            # A weight of 0 is a row that is not there.
            train = train[weight[train] > 0]
            held = None if held is None else held[weight[held] > 0]
        if held is not None and min(len(train), len(held)) < 2:
            raise ValueError(
                f"validation_fraction={fraction} leaves {len(train)} rows to train and "
                f"{len(held)} to validate on; at least two of each are needed. Change "
                "it, or set it to None."
            )
        return np.sort(train), None if held is None else np.sort(held)

    def _divide(self, job):
        job.train, job.held = self._split(job.y, job.groups, job.weight)
        if job.weight is not None:
            job.weight = job.weight / job.weight[job.train].mean()
        self._check_divided(job)

    @staticmethod
    def _check_divided(job):
        """Require two training rows; warn of few, and of nothing to learn."""
        if len(job.train) < 2:
            raise ValueError(
                f"fit needs at least two rows that can be read and have a weight above "
                f"0. Got {len(job.train)} sample."
            )
        if len(job.train) < _FEW:
            warnings.warn(
                f"Only {len(job.train)} rows train. A learned system needs hundreds at "
                "least to rank new media well. With few, a support vector regressor on "
                "the columns of DiffusionQAFeatures is usually better; compare both "
                "with cross_val_score.",
                UserWarning,
                stacklevel=5,
            )
        for rows, where, effect in (
            (job.train, "rows that train", "there is nothing to learn"),
            (job.held, "rows held out", "no epoch can be better than another"),
        ):
            if rows is not None and np.ptp(job.y[rows]) == 0:
                warnings.warn(
                    f"y is {job.y[rows[0]]:g} for all {len(rows)} {where}: {effect}. "
                    "Check that y is the column of scores.",
                    UserWarning,
                    stacklevel=5,
                )

    # -- scores and the units of y -------------------------------------------------

    def _begin(self, job):
        job.line = self._first_line(job)

    def _validation(self, job):
        if job.held is None:
            return None
        slope, intercept = job.line
        y, weight = job.y[job.held], take_weights(job.weight, job.held)

        def validate():
            scores = intercept + slope * self._scores(job, job.held)
            return weighted_srcc(y, scores, weight)

        return validate

    def _end(self, job, trained):
        line = job.line
        if job.warm and not trained:
            line = self.slope_, self.intercept_
        else:
            line = self._last_line(job, trained)
        rows = job.train if job.held is None else np.append(job.train, job.held)
        return {
            **super()._end(job, trained),
            "slope_": line[0],
            "intercept_": line[1],
            "target_range_": [float(job.y[rows].min()), float(job.y[rows].max())],
        }

    def _standard_line(self, job):
        y, weight = job.y[job.train], take_weights(job.weight, job.train)
        return spread(y, weight), float(np.average(y, weights=weight))

    def _least_squares(self, job, rows, trained):
        """The line that maps scores of these rows to `y`, or None.

        The direction of the training line is kept: if least squares would reverse it,
        nothing was learned.
        """
        y, weight = job.y[rows], take_weights(job.weight, rows)
        scores = self._scores(job, rows)
        means = (np.average(values, weights=weight) for values in (scores, y))
        middle, target = map(float, means)
        centred = scores - middle
        weighted = centred if weight is None else centred * weight
        agreement = float(weighted @ (y - target))
        if not agreement or (trained and agreement * job.line[0] < 0):
            return None
        slope = agreement / float(weighted @ centred)
        return slope, target - slope * middle

    def _predict(self, X):
        """Scores of rows in the units of `y`."""
        job = self._open_job(X)

        def read():
            return [self._in_units(self._scores(job, np.arange(len(job.data))))]

        return self._finite(*self._by_row(job, read, ()))

    def _finite(self, scores):
        """The predictions, if those of all readable rows are finite; else an error."""
        lost = [index for index, _ in self.failed_]
        bad = np.setdiff1d(np.flatnonzero(~np.isfinite(scores)), lost)
        if len(bad):
            raise ValueError(
                f"Row {bad[0]}: the predicted score is {scores[bad[0]]}, as are "
                f"{len(bad)} of {len(scores)}. The arithmetic overflows: choose "
                "dtype='float32' or 'bfloat16'; where it is that already, the training "
                "diverged: fit again with a smaller learning_rate."
            )
        return scores

    def _in_units(self, scores):
        return self.intercept_ + self.slope_ * scores.astype(np.float64)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def check_target(y, rows):
    """Scores as float64 of shape (N,): one finite number per row."""
    refuse_misread(y, "y")
    # Objects, since NumPy makes '1.0' of a number among str.
    values = y if hasattr(y, "dtype") else np.asarray(y, object)
    values = column_or_1d(np.asarray(values), warn=True)
    check_consistent_length(rows, values)
    for row, value in enumerate(values.tolist()):
        missing = type(value).__name__ in ("NoneType", "NAType", "NaTType")
        if missing or (isinstance(value, Real) and not _is_finite(value)):
            raise ValueError(
                f"Row {row}: y is {value!s:.40}. Drop rows without a finite score."
            )
        if not isinstance(value, (Real, Decimal)):
            raise ValueError(
                f"Row {row}: y is {value!r}, a {type(value).__name__}, and a score is "
                "a number. Convert the column first, for example with "
                "pandas.to_numeric, and drop rows without a score."
            )
    if len(values) < 2:
        raise ValueError("fit needs at least two rows. Got 1 sample.")
    return values.astype(np.float64)


def _is_finite(value) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False


def check_weights(sample_weight, rows):
    """Weights as float64 of shape (N,): finite and non-negative."""
    refuse_misread(sample_weight, "sample_weight")
    values = column_or_1d(np.asarray(sample_weight)).astype(np.float64)
    check_consistent_length(rows, values)
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise ValueError(
            f"Row {bad[0]}: sample_weight is {values[bad[0]]}. A weight is finite and "
            "not negative; 0 leaves the row out."
        )
    with np.errstate(over="ignore"):
        if not np.isfinite(values.sum()):
            raise ValueError(
                f"The sum of sample_weight is no finite number: the largest is "
                f"{values.max():g}. Only ratios count; divide them by it."
            )
    return values


def take_weights(weight, places):
    return None if weight is None else weight[places]


def spread(values, weight=None):
    """Standard deviation, float; 1 if all values are equal."""
    mean = np.average(values, weights=weight)
    if weight is None:
        return float(values.std()) or 1.0
    return float(np.sqrt(np.average((values - mean) ** 2, weights=weight))) or 1.0


def weighted_srcc(y, scores, weight=None):
    """Spearman's correlation; a row of weight 2 counts like two identical rows."""
    if weight is None:
        return srcc_score(y, scores)
    if np.ptp(y) == 0 or np.ptp(scores) == 0:
        return 0.0
    ranks = [_weighted_ranks(np.asarray(values), weight) for values in (y, scores)]
    centred = [each - np.average(each, weights=weight) for each in ranks]
    product = np.average(centred[0] * centred[1], weights=weight)
    return float(product / (spread(ranks[0], weight) * spread(ranks[1], weight)))


def _weighted_ranks(values, weight):
    """Mid-rank of each value with every row repeated `weight` times."""
    _, groups = np.unique(values, return_inverse=True)
    total = np.bincount(groups, weight)
    return (np.cumsum(total) - total / 2)[groups]
