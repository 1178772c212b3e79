"""DP-IQA: text and image adapters and a decoder around all levels of the UNet.

In: pictures and scores. Out: `DPIQARegressor`. Open `regressor` first; `network` holds
the adapters, `decoder` the quality head, `prompts` the grid of texts, `released` reads
the authors' checkpoints.
"""

from diffqa_features.learned.dpiqa.regressor import DPIQARegressor

__all__ = ["DPIQARegressor"]
