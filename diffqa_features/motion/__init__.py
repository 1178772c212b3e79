"""How videos move: the two-pathway network and its transformer.

In: media. Out: `MotionFeatures`, a matrix with named columns pooled over clips of 32
frames. Open `_features` first; `_clips` reads frames, `_extract` runs rows through the
store or `_passes`, `_slowfast` is the network and `_weights` finds and checks its file.
"""

from diffqa_features.motion._features import MotionFeatures

__all__ = ["MotionFeatures"]
