"""
Figures for a paper
===================

Displays compute once and can be drawn repeatedly: ``display.plot(...)`` accepts another
style or your own axes. New figures are one column wide (3.5 inches).
"""

# %%
# Data and a model
# ----------------
# Photographs with three distortions; the target is minus the level. The pictures are
# small, so this page builds in seconds.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, PromptAlignmentMaps, datasets
from diffqa_features.inspection import (
    AlignmentMapDisplay,
    EmbeddingDisplay,
    FrameScoresDisplay,
    NoiseRoundTripDisplay,
    PredictionDisplay,
    TimestepCurveDisplay,
)

SIZE = 64
photos = datasets.load_sample_photos(image_size=SIZE).data
options = {
    "families": ["gaussian_blur", "white_noise", "jpeg"],
    "n_levels": 4,
    "image_size": SIZE,
}
first, second, third = (
    datasets.make_distorted_images(photos[at : at + 4], **options) for at in (0, 4, 8)
)
features = DiffusionQAFeatures(image_size=SIZE)
model = make_pipeline(features, StandardScaler(), SVR(C=10))

# %%
# Attention to each prompt, block by block
# ----------------------------------------
# One row of maps per block, from one pass per prompt.

coffee = datasets.load_sample_photos(image_size=128)
coffee = coffee.data[coffee.names.index("coffee")]
maps = PromptAlignmentMaps(
    image_size=128, prompts=("a sharp photo.", "a blurred photo.")
)
AlignmentMapDisplay.from_estimator(
    maps, [coffee], blocks=["down1.0", "mid.0", "up*"], difference=True
)
plt.show()

# %%
# Noise round trip
# ----------------
# What remains of a picture at a timestep, and what the frozen UNet restores in one
# step. At t = 950 hardly any information is left. The VAE's decoder is loaded for this
# display only.

NoiseRoundTripDisplay.from_estimator(
    DiffusionQAFeatures(image_size=128), [coffee], timesteps=(95, 500, 950)
)
plt.show()

# %%
# Correlation against timestep
# ----------------------------
# Trained on four photographs, tested on two sets of four others. Bands are bootstrap
# intervals by photograph; with only four photographs they are too narrow, and still
# wide.

TimestepCurveDisplay.from_estimator(
    model,
    first,
    {"photographs B": second, "photographs C": third},
    timesteps=[20, 100, 400],
    n_resamples=200,
)
plt.show()

# %%
# Features in two dimensions
# --------------------------
# Markers show the distortion, colours its level.

columns = features.fit_transform(first.data)
EmbeddingDisplay.from_features(columns, y=first.target, labels=first.family)
EmbeddingDisplay.from_features(columns, labels=first.family, method="pca")
plt.show()

# %%
# Prediction, logistic and outliers
# ---------------------------------
# A standard error of half a level is made up here. For datasets that report one for
# each score, it determines the outliers.

predicted = cross_val_predict(
    make_pipeline(StandardScaler(), SVR(C=10)),
    columns,
    first.target,
    groups=first.groups,
    cv=GroupKFold(4),
)
names = [
    f"{group}, {family} {level}"
    for group, family, level in zip(first.groups, first.family, first.level)
]
PredictionDisplay.from_predictions(
    first.target,
    predicted,
    labels=first.family,
    names=names,
    mapping="logistic4",
    y_error=np.full(len(predicted), 0.5),
    spread=0.5,
    n_named=4,
)
plt.show()

# %%
# Scores of frames over time
# --------------------------
# Any estimator with ``frame_scores(X)`` works: it returns, for each video, a mapping
# with ``score`` and ``frame``, and optionally ``time`` and ``weight``. This one scores
# frames as pictures. The clip is out of focus in the middle.


class FrameByFrame(BaseEstimator):
    def __init__(self, model, frame_rate):
        self.model = model
        self.frame_rate = frame_rate

    def frame_scores(self, X):
        return [
            {
                "score": self.model.predict(list(clip)),
                "frame": np.arange(len(clip)),
                "time": np.arange(len(clip)) / self.frame_rate,
            }
            for clip in X
        ]


levels = datasets.make_distorted_images(
    photos[12:13], families="gaussian_blur", n_levels=6, image_size=SIZE
).data
clip = np.stack([photos[12], *levels, *levels[-2::-1], photos[12]])
model.fit(first.data, first.target)
display = FrameScoresDisplay.from_estimator(FrameByFrame(model, frame_rate=2), [clip])
plt.show()

# %%
# The same values in another style; nothing is recomputed.

display.plot(color="black", marker="s", score_name="predicted score")
plt.show()
