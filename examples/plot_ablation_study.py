"""
An ablation study, step by step
===============================

Which choices matter: the kinds of features, the timestep, the blocks, the prompts, the
noise? This example starts with a baseline, changes one thing at a time, tests whether
the differences are significant, and ends with a table for a paper.
"""

# %%
# Pictures with a known answer
# ----------------------------
# Six photographs, two distortions, three levels. The target is minus the level. All
# versions of a photograph form a group, and groups are never split: a model that has
# seen a photograph would recognise its other versions.

import tempfile

import matplotlib.pyplot as plt
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, FeatureStore, datasets, evaluation

SIZE = 64
photos = datasets.load_sample_photos(image_size=SIZE).data[:6]
images = datasets.make_distorted_images(
    photos,
    families=["gaussian_blur", "jpeg"],
    n_levels=3,
    image_size=SIZE,
)
print(f"{len(images.data)} pictures of {len(set(images.groups))} photographs")

# %%
# The baseline
# ------------
# Default features, a scaler, and a support vector regressor. With the store, the UNet
# runs once per picture, timestep, prompt and seed, no matter how many settings and
# studies follow.

store = FeatureStore(tempfile.mkdtemp())
model = Pipeline(
    [
        ("features", DiffusionQAFeatures(image_size=SIZE, memory=store)),
        ("scale", StandardScaler()),
        ("svr", SVR(C=10)),
    ]
)

# %%
# One change at a time
# --------------------
# Each entry lists the values to try for a parameter, besides that of the baseline. All
# settings use the same eight splits.

changes = {
    "features__kinds": ["alignment", "error"],
    "features__timesteps": [(10,), (200,), (10, 50, 200)],
    "features__blocks": ["down*", "up*"],
    "features__prompts": [("",), ("A cat.", "A dog.")],
    "features__random_state": [1, 2],
}
table = evaluation.ablate(
    model,
    changes,
    images.data,
    images.target,
    groups=images.groups,
    n_splits=8,
    test_size=2,
    metrics="srcc",
)

# %%
# The table
# ---------
# ``difference`` is the mean over splits of the setting minus the baseline. ``p_holm``
# is the p-value of a t test that accounts for overlapping training sets, adjusted for
# the number of settings: among a dozen of them, an unadjusted value below 0.05 easily
# occurs by chance.

columns = ["setting", "n_features", "median", "q1", "q3", "difference", "p_holm"]
table.frame[columns].round(3)

# %%
# The effect of a different noise seed is a yardstick: a setting that changes the score
# by no more than that has not been shown to matter.

shifts = table.frame.set_index("setting")["difference"].abs()
yardstick = shifts.filter(like="random_state").max()
print(f"largest shift by another seed: {yardstick:.3f}")
print("settings that shift it more:", *shifts.index[shifts > yardstick], sep="\n  ")

# %%
# The figure
# ----------
# Median and inter-quartile range over the splits, with the baseline as a band.

baseline, settings = table.frame.iloc[0], table.frame.iloc[::-1]
fig, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
ax.axvspan(baseline["q1"], baseline["q3"], color="#56B4E9", alpha=0.3, linewidth=0)
ax.axvline(baseline["median"], color="#0072B2", linewidth=1)
reach = [settings["median"] - settings["q1"], settings["q3"] - settings["median"]]
ax.errorbar(
    settings["median"],
    range(len(settings)),
    xerr=reach,
    fmt="o",
    color="black",
    capsize=3,
)
ax.set(
    yticks=range(len(settings)),
    yticklabels=settings["setting"],
    xlabel="SRCC on held-out photographs",
)
ax.grid(axis="x", alpha=0.25)
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# Two changes together
# --------------------
# One change at a time says nothing about combinations. ``mode="full"`` tries them all;
# everything it needs is already in the store.

both = evaluation.ablate(
    model,
    {"features__timesteps": [(10,), (200,)], "features__blocks": ["down*", "up*"]},
    images.data,
    images.target,
    groups=images.groups,
    mode="full",
    n_splits=8,
    test_size=2,
    metrics="srcc",
)
both.frame[["setting", "median", "difference", "p_holm"]].round(3)

# %%
# For a paper
# -----------
# LaTeX, with a record of what was compared as comments; ``to_markdown`` and ``to_csv``
# write other formats.

print(table.to_latex(digits=3))
