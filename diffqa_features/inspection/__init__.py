"""Computed results in, pictures of them out: Display classes as scikit-learn has them.

A display stores what it shows; `plot` draws it with matplotlib, which is imported only
there. The class methods ``from_...`` compute and draw in one go.
"""

from diffqa_features.inspection._alignment_map import AlignmentMapDisplay
from diffqa_features.inspection._prediction import PredictionDisplay
from diffqa_features.inspection._search_heatmap import SearchHeatmapDisplay

__all__ = ["AlignmentMapDisplay", "PredictionDisplay", "SearchHeatmapDisplay"]
