"""
A first quality score
=====================

Photographs are distorted by known amounts; features of the frozen ``tiny`` backbone and
a support vector regressor predict these amounts on unseen photographs.
"""

# %%
# Data
# ----
# Four photographs that ship with scikit-learn and scikit-image, three distortions at
# three levels. The target is minus the level; nobody rated these pictures.

import matplotlib.pyplot as plt
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures
from diffqa_features.datasets import load_sample_photos, make_distorted_images
from diffqa_features.inspection import PredictionDisplay

photos = load_sample_photos(image_size=128).data[:4]
images = make_distorted_images(
    photos,
    families=["gaussian_blur", "white_noise", "jpeg"],
    n_levels=3,
    image_size=128,
)

fig, axes = plt.subplots(1, 4, figsize=(8, 2.4), layout="constrained")
for ax, row in zip(axes, [0, 2, 5, 8]):
    ax.imshow(images.data[row])
    ax.set_title(f"{images.family[row]} {images.level[row]}", fontsize="small")
    ax.set_axis_off()

# %%
# Model
# -----
# An ordinary pipeline. Whole photographs are held out (``groups``): a random split
# would let the model recognise the photograph.

features = DiffusionQAFeatures(image_size=128)
model = make_pipeline(features, StandardScaler(), SVR(C=10))
predicted = cross_val_predict(
    model, images.data, images.target, groups=images.groups, cv=GroupKFold(2)
)

# %%
# Result
# ------
# With so few pictures the correlation is only a rough estimate; ``diffqa demo`` uses
# more of them and adds a baseline.

display = PredictionDisplay.from_predictions(
    images.target, predicted, labels=images.family, spread=0.5
)
display.ax_.set_xlabel("target: minus the level of distortion")
plt.show()

# %%
# Columns have names, so you can look up any of them.

print(features.get_feature_names_out()[:4])
