"""Computed results in, pictures of them out: Display classes as scikit-learn has them.

A display stores what it shows; `plot` draws it with matplotlib, which is imported only
there, as often and in as many styles as asked. The class methods ``from_...`` compute
and draw in one go. New figures fit a column of a paper (3.5 inches, text of 7 and 8
points, colours that everyone tells apart); axes that are given keep their own style.
"""

from diffqa_features.inspection._alignment_map import AlignmentMapDisplay
from diffqa_features.inspection._embedding import EmbeddingDisplay
from diffqa_features.inspection._frame_scores import FrameScoresDisplay
from diffqa_features.inspection._noise_round_trip import NoiseRoundTripDisplay
from diffqa_features.inspection._prediction import PredictionDisplay
from diffqa_features.inspection._search_heatmap import SearchHeatmapDisplay
from diffqa_features.inspection._timestep_curve import TimestepCurveDisplay

__all__ = [
    "AlignmentMapDisplay",
    "EmbeddingDisplay",
    "FrameScoresDisplay",
    "NoiseRoundTripDisplay",
    "PredictionDisplay",
    "SearchHeatmapDisplay",
    "TimestepCurveDisplay",
]
