"""How videos move: the two-pathway network and its transformer."""

from diffqa_features.motion._features import MotionFeatures

__all__ = ["MotionFeatures"]
