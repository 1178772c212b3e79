"""Frozen features as scikit-learn transformers.

In: media. Out: a matrix with named columns, (N, D) in float32. Open `_diffusion` first:
`DiffusionQAFeatures`; `_alignment` has the maps, `_scene_statistics` a baseline without
a model, `_base` what the transformers share.
"""

from diffqa_features.features._alignment import PromptAlignmentMaps
from diffqa_features.features._diffusion import DiffusionQAFeatures
from diffqa_features.features._scene_statistics import NaturalSceneStatistics

__all__ = ["DiffusionQAFeatures", "NaturalSceneStatistics", "PromptAlignmentMaps"]
