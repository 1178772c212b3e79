"""DiffVQA: a resized view and crops, seen by a controlled diffusion model and Mamba.

In: videos and scores. Out: `DiffVQARegressor`. Open `regressor` first; `network` joins
the branches, `views` and `view_features` feed them, `batches` pads clips, `mamba` and
`selective_scan` model time.
"""

from diffqa_features.learned.diffvqa.regressor import DiffVQARegressor

__all__ = ["DiffVQARegressor"]
