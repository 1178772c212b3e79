"""
What does a score cost?
=======================

Latency, throughput, parameters, multiply-accumulates and memory of a prediction by
stage, to see where optimisation pays off.
"""

# %%
# Three estimators
# ----------------
# Denoising errors need the UNet's whole pass. Alignment with the encoder's blocks does
# not: the pass stops after the last requested block.

import matplotlib.pyplot as plt
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, datasets, evaluation

SIZE = 64
photos = datasets.load_sample_photos(image_size=SIZE).data[:4]
images = datasets.make_distorted_images(
    photos, families=["gaussian_blur", "jpeg"], n_levels=2, image_size=SIZE
)
settings = {
    "whole pass, two prompts": {},
    "whole pass, no text": {"prompts": ("",)},
    "first blocks, two prompts": {"kinds": "alignment", "blocks": "down[01]*"},
}
methods = {
    name: make_pipeline(
        DiffusionQAFeatures(image_size=SIZE, **change), StandardScaler(), SVR()
    ).fit(images.data, images.target)
    for name, change in settings.items()
}

# %%
# Measurement
# -----------
# Measured on the device that computes the features. For a paper, use an idle machine,
# real photographs at their own size, and more repeats.

table = evaluation.efficiency(methods, images.data[:8], n_repeats=10)
print(table.to_markdown(digits=2))

# %%
# Result
# ------

colors = {
    "decode": "#E69F00",
    "vae": "#56B4E9",
    "text": "#CC79A7",
    "unet": "#0072B2",
    "pool": "#009E73",
    "regress": "#D55E00",
    "other": "0.75",
}
stages = table.frame[table.frame["stage"] != "total"]
total = table.frame[table.frame["stage"] == "total"].set_index("method")
fig, (left, right) = plt.subplots(
    1, 2, figsize=(9, 2.7), layout="constrained", sharey=True
)
columns = {
    "latency_p50_ms": "median time of one image, ms",
    "gmac": "GMAC of one image",
}
for ax, (column, label) in zip((left, right), columns.items()):
    wide = stages.pivot(index="method", columns="stage", values=column)
    wide = wide.reindex(index=methods, columns=colors).fillna(0)
    start = 0
    for stage, color in colors.items():
        ax.barh(wide.index, wide[stage], 0.6, left=start, color=color, label=stage)
        start = start + wide[stage]
    ax.set_xlabel(label)
    ax.grid(axis="x", alpha=0.25)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
for place, name in enumerate(methods):
    million, gmac = total.loc[name, "parameters"] / 1e6, total.loc[name, "gmac"]
    right.annotate(
        f" {million:.1f} M parameters", (gmac, place), va="center", fontsize="small"
    )
right.set_xlim(0, 1.4 * total["gmac"].max())
left.invert_yaxis()
handles, labels = left.get_legend_handles_labels()
fig.legend(handles, labels, loc="outside upper center", ncols=7, frameon=False)
plt.show()
