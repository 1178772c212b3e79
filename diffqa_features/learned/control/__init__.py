"""Stage 1 of DiffVQA: a control module that lets the frozen model rebuild frames.

In: media, no scores. Out: `DiffusionController`, a transformer. Open `controller`
first; `network` is the copy of the encoder that trains, `features` what the steered
model sees.
"""

from diffqa_features.learned.control.controller import DiffusionController

__all__ = ["DiffusionController"]
