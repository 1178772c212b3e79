"""The scorer: JOD, faults and places of pictures, without opinion scores.

In: pictures. Out: `QualityScorer`, which is shipped ready. `scorer` is the estimator,
`tiles` cuts pictures, `network` is what looks at a tile; `tools/label_pictures.py` and
`tools/train_scorer.py` made the files in `tiny`.
"""

from diffqa_features.learned.scorer.scorer import QualityScorer, load_scorer

__all__ = ["QualityScorer", "load_scorer"]
