"""Evaluation protocol: splits without leakage, intervals, paired tests, tables.

In: any estimator, media, scores and groups. Out: an :class:`EvaluationTable`, a tidy
pandas frame with what was compared. Open `_protocol` first, which all studies share.
`repeated_splits`, `official_split` and `cross_dataset` score one or several estimators;
`compare` tests whether they differ; `ablate` measures the effect of each setting, and
`efficiency` its cost. `QualityMetric` follows a generator batch by batch.
"""

from diffqa_features.evaluation._ablation import ablate
from diffqa_features.evaluation._across import cross_dataset
from diffqa_features.evaluation._bootstrap import (
    bootstrap_difference,
    bootstrap_interval,
)
from diffqa_features.evaluation._compare import compare
from diffqa_features.evaluation._efficiency import efficiency
from diffqa_features.evaluation._monitor import QualityMetric
from diffqa_features.evaluation._official import official_split
from diffqa_features.evaluation._paired import holm, paired_tests
from diffqa_features.evaluation._repeated import repeated_splits
from diffqa_features.evaluation._table import EvaluationTable

__all__ = [
    "EvaluationTable",
    "QualityMetric",
    "ablate",
    "bootstrap_difference",
    "bootstrap_interval",
    "compare",
    "cross_dataset",
    "efficiency",
    "holm",
    "official_split",
    "paired_tests",
    "repeated_splits",
]
