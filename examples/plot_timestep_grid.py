"""
Which timesteps and blocks?
===========================

A grid search over the features read from the diffusion model. With ``memory``, the UNet
runs once per picture, timestep and prompt, regardless of the number of folds and
settings.
"""

# %%
# Data
# ----

import tempfile

import matplotlib.pyplot as plt
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, FeatureStore
from diffqa_features.datasets import load_sample_photos, make_distorted_images
from diffqa_features.inspection import SearchHeatmapDisplay
from diffqa_features.metrics import srcc_scorer

photos = load_sample_photos(image_size=96).data[:4]
images = make_distorted_images(
    photos,
    families=["gaussian_blur", "white_noise", "jpeg"],
    n_levels=3,
    image_size=96,
)

# %%
# Search
# ------
# Three timesteps alone and together, three groups of blocks, two settings of the
# regressor: 24 candidates on two folds, but only three passes per picture and prompt.

store = FeatureStore(tempfile.mkdtemp())
model = Pipeline(
    [
        ("features", DiffusionQAFeatures(image_size=96, memory=store)),
        ("scale", StandardScaler()),
        ("svr", SVR()),
    ]
)
grid = {
    "features__timesteps": [(10,), (50,), (200,), (10, 50, 200)],
    "features__blocks": ["down*", "mid*", "up*"],
    "svr__C": [1, 10],
}
search = GridSearchCV(model, grid, scoring=srcc_scorer, cv=GroupKFold(2))
search.fit(images.data, images.target, groups=images.groups)
print(search.best_params_, f"SRCC {search.best_score_:.2f}")

# %%
# The store holds one latent per picture, and one entry per timestep, prompt and kind of
# features.

print(store.info())

# %%
# Result
# ------
# Each cell shows the better of the two regressor settings.

SearchHeatmapDisplay.from_estimator(
    search, rows="features__timesteps", columns="features__blocks"
)
plt.show()
