"""GenzIQA: learned prompts and low-rank cross-attention beside a frozen backbone.

In: pictures and scores. Out: `GenzIQARegressor`. Open `regressor` first; `network` is
what is trained, `block_scores` turns attention into scores, `context` and `low_rank`
are its two sets of weights.
"""

from diffqa_features.learned.genziqa.regressor import GenzIQARegressor

__all__ = ["GenzIQARegressor"]
