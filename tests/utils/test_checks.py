"""What NumPy takes for numbers without a word, at every door that takes scores."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from diffqa_features import GenzIQARegressor
from diffqa_features.evaluation import (
    bootstrap_interval,
    paired_tests,
    repeated_splits,
)
from diffqa_features.inspection import PredictionDisplay
from diffqa_features.metrics import LogisticMapping, rmse, srcc_score

PLAIN = np.random.default_rng(0).normal(size=8)
HIDDEN = np.ma.array(PLAIN, mask=[0, 1, 0, 0, 0, 0, 0, 0])
TIMES = PLAIN.astype("m8[ns]")
STAMPS = pd.Series(pd.to_datetime(np.arange(8), unit="D"))
PICTURES = [np.zeros((16, 16, 3), np.uint8)] * 8


def fit(y=PLAIN, weight=None):
    GenzIQARegressor(backbone="tiny").fit(PICTURES, y, sample_weight=weight)


@pytest.mark.parametrize(
    "door",
    [
        fit,
        lambda y: fit(weight=y),
        lambda y: repeated_splits(Ridge(), PLAIN[:, None], y),
        lambda y: srcc_score(y, PLAIN),
        lambda y: rmse(PLAIN, y, mapping="logistic4"),
        lambda y: bootstrap_interval(PLAIN, y),
        lambda y: paired_tests(PLAIN, y),
        lambda y: LogisticMapping().fit(y, PLAIN),
        lambda y: PredictionDisplay.from_predictions(y, PLAIN),
    ],
)
def test_masked_values_and_times_are_refused(door):
    with pytest.raises(ValueError, match=r"has 1 masked values.*Leave those rows"):
        door(HIDDEN)
    for times in (TIMES, STAMPS):
        with pytest.raises(ValueError, match="must hold numbers, and these are times"):
            door(times)


def test_times_of_polars_are_refused():
    polars = pytest.importorskip("polars")
    times = polars.Series(STAMPS.to_list())
    with pytest.raises(ValueError, match="must hold numbers, and these are times"):
        srcc_score(times, PLAIN)


def test_scores_of_several_lengths_are_told_by_their_row():
    with pytest.raises(ValueError, match="Row 1: y is"):
        fit([1, [2, 3], *PLAIN[2:]])


def test_a_mask_that_hides_nothing_is_no_matter():
    assert srcc_score(np.ma.array(PLAIN), PLAIN) == 1
