"""
Score a folder
==============

The shipped scorer needs no opinion scores: it predicts how much was visibly lost, of
which kind, and where.
"""

# %%
# A folder of pictures
# --------------------
# Here photographs that ship with scikit-image are damaged on the spot; put the paths of
# your own pictures in their place.

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from diffqa_features import load_scorer
from diffqa_features.datasets import load_sample_photos, make_distorted_images

photos = load_sample_photos(image_size=256)
chosen = [photos.data[photos.names.index(name)] for name in ("coffee", "chelsea")]
damaged = make_distorted_images(
    chosen,
    families=["gaussian_blur", "white_noise", "jpeg"],
    n_levels=3,
    image_size=256,
)
pictures = [*chosen, *damaged.data]

# %%
# Scores, uncertainty and faults
# ------------------------------
# The unit is JOD: 10 is no visible loss, and of two pictures that are one JOD apart
# three of four people prefer the better. The lowest come first, as in
# ``diffqa report``.

scorer = load_scorer()
table = scorer.assess(pictures).sort_values("jod")
print(table.round(2).head())

faults = table.drop(columns=["jod", "std"])
fig, axes = plt.subplots(2, 4, figsize=(8, 4.6), layout="constrained")
for ax, at in zip(axes.flat, table.index):
    ax.imshow(pictures[at])
    jod, std = table.loc[at, ["jod", "std"]]
    ax.set_title(
        f"{jod:.1f} ± {std:.1f} JOD\n{faults.loc[at].idxmax()}", fontsize="small"
    )
    ax.set_axis_off()
plt.show()

# %%
# Where
# -----
# The right half of one photograph is out of focus.

photo = chosen[1].copy()
half = photo.shape[1] // 2
small = Image.fromarray(photo).resize((48, 48))
photo[:, half:] = np.asarray(small.resize(photo.shape[1::-1]))[:, half:]
(loss,) = scorer.quality_maps([photo])

fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
left.imshow(photo)
extent = (0, photo.shape[1], photo.shape[0], 0)
image = right.imshow(loss[0], cmap="magma", extent=extent, interpolation="bilinear")
fig.colorbar(image, label="predicted loss (JOD)")
for ax in (left, right):
    ax.set_axis_off()
plt.show()

# %%
# On the command line the same is ``diffqa score photos/ -o scores.csv``, and ``diffqa
# report photos/ -o report.html`` is a page to look at.
