"""The scorer: JOD, faults and places of pictures and videos, without opinion scores.

In: media. Out: `QualityScorer`, which is shipped ready. `scorer` is the estimator,
`tiles` cuts pictures, `statistics` describes a tile, `perceptrons` judge the
description (`network`: in torch, to train them); `videos` reads and judges bursts of
frames, `motion` describes how they change. `tools/label_pictures.py` and
`tools/train_scorer.py` made the files in `tiny`, `tools/label_videos.py` and
`tools/train_video_scorer.py` those in `tiny/video`.
"""

from diffqa_features.learned.scorer.scorer import QualityScorer, load_scorer

__all__ = ["QualityScorer", "load_scorer"]
