"""Stage 1 of DiffVQA: a control module that lets the frozen model reconstruct frames.

In: media, no scores. Out: `DiffusionController`, a transformer. Open `controller`
first; `network` is the trainable copy of the encoder, `features` extracts the
controlled model's features.
"""

from diffqa_features.learned.control.controller import DiffusionController

__all__ = ["DiffusionController"]
