"""Results as figures: Display classes in the style of scikit-learn.

In: fitted estimators and media, or computed results. Out: displays, which store their
data and draw it in `plot`, the only place that imports matplotlib. Open `_prediction`
first; `_style` has the common look, `_checks` the common errors. The class methods
``from_...`` compute and draw in one step. New figures fit one column of a paper (3.5
inches, 7 and 8 point text, colour-blind-safe colours); axes that you pass keep their
own style.
"""

from diffqa_features.inspection._alignment_map import AlignmentMapDisplay
from diffqa_features.inspection._embedding import EmbeddingDisplay
from diffqa_features.inspection._frame_scores import FrameScoresDisplay
from diffqa_features.inspection._noise_round_trip import NoiseRoundTripDisplay
from diffqa_features.inspection._prediction import PredictionDisplay
from diffqa_features.inspection._search_heatmap import SearchHeatmapDisplay
from diffqa_features.inspection._timestep_curve import TimestepCurveDisplay
from diffqa_features.inspection._training_curve import TrainingCurveDisplay

__all__ = [
    "AlignmentMapDisplay",
    "EmbeddingDisplay",
    "FrameScoresDisplay",
    "NoiseRoundTripDisplay",
    "PredictionDisplay",
    "SearchHeatmapDisplay",
    "TimestepCurveDisplay",
    "TrainingCurveDisplay",
]
