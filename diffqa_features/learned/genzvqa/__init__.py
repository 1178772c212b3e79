"""GenzVQA: GenzIQA on frames, with a factor per block for how the video moves.

In: videos and scores. Out: `GenzVQARegressor`. Open `regressor` first; `network` joins
frames and motion, `modulator` is the temporal quality modulator.
"""

from diffqa_features.learned.genzvqa.regressor import GenzVQARegressor

__all__ = ["GenzVQARegressor"]
