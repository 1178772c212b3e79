"""
Is a gain across datasets significant?
======================================

A method is trained on one dataset and tested on another, and outperforms its rival.
Would it do so on other pictures? One table shows intervals, a paired test, and an
adjustment for multiple tests.
"""

# %%
# Two datasets
# ------------
# Distorted photographs, and distorted procedural pictures. Their targets have opposite
# directions, like MOS and DMOS: quality for the first,
# degradation for the second. The datasets declare this (``higher_is_better``), and
# predictions are sign-flipped accordingly.

import tempfile

import matplotlib.pyplot as plt
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, FeatureStore, datasets, evaluation

SIZE = 64
options = {
    "families": ["gaussian_blur", "white_noise", "jpeg"],
    "n_levels": 3,
    "image_size": SIZE,
}
photos = datasets.load_sample_photos(image_size=SIZE).data[:10]
photos = datasets.make_distorted_images(photos, **options)
photos.higher_is_better = True

drawings = datasets.make_procedural_images(10, image_size=SIZE)
drawings = datasets.make_distorted_images(drawings, **options)
drawings.target = -drawings.target
drawings.higher_is_better = False

# %%
# Two methods
# -----------
# The same regressor on all columns, and without the denoising error. Both share a
# store, so the UNet runs once per picture and prompt.

store = FeatureStore(tempfile.mkdtemp())


def method(kinds):
    features = DiffusionQAFeatures(image_size=SIZE, kinds=kinds, memory=store)
    return make_pipeline(features, StandardScaler(), SVR(C=10))


methods = {
    "alignment + error": method(("alignment", "error")),
    "alignment": method("alignment"),
}

# %%
# Cross-dataset table
# -------------------
# Each dataset is used for training and the other for testing. Intervals are by
# photograph, because versions of one picture are not independent.

sets = {"photographs": photos, "drawings": drawings}
table = evaluation.cross_dataset(methods, sets, sets, metrics=("srcc", "plcc"))
print(table)

# %%
# The test
# --------
# Both methods are scored on the same resamples of the test pictures.

test = evaluation.compare(table, metric="srcc", baseline="alignment")
print(test.to_markdown(digits=3))

# %%
# A gain whose interval contains zero is not a gain, however many digits it has. The two
# p-values are adjusted for multiple tests (Holm).

fig, (left, right) = plt.subplots(
    1, 2, figsize=(8.6, 2.9), layout="constrained", width_ratios=(3, 2)
)
srcc = table.frame[table.frame["metric"] == "srcc"]
places = {pair: i for i, pair in enumerate(srcc.groupby(["train", "test"]).groups)}
styles = {
    "alignment + error": ("#0072B2", "o", -0.12),
    "alignment": ("#D55E00", "s", 0.12),
}
for name, (color, marker, offset) in styles.items():
    rows = srcc[srcc["method"] == name]
    y = [places[pair] + offset for pair in zip(rows["train"], rows["test"])]
    reach = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    left.errorbar(
        rows["value"], y, xerr=reach, fmt=marker, color=color, label=name, capsize=3
    )
left.set(
    yticks=list(places.values()),
    yticklabels=[f"{a}\nto {b}" for a, b in places],
    ylim=(len(places) - 0.5, -0.5),
    xlabel="SRCC on the test set, 95 % interval",
)
fig.legend(loc="outside upper left", ncols=2, frameon=False)

gain = test.frame
y = [places[pair] for pair in zip(gain["train"], gain["test_set"])]
reach = [gain["difference"] - gain["low"], gain["high"] - gain["difference"]]
right.errorbar(gain["difference"], y, xerr=reach, fmt="D", color="black", capsize=3)
for place, p_value, at in zip(y, gain["p_holm"], gain["difference"]):
    right.annotate(
        f"p = {p_value:.3f}",
        (at, place),
        (0, 8),
        textcoords="offset points",
        ha="center",
    )
right.axvline(0, color="0.5", linestyle="--", linewidth=1)
right.set(
    yticks=list(places.values()),
    yticklabels=[],
    ylim=left.get_ylim(),
    xlabel="gain in SRCC by the denoising error",
)
for ax in (left, right):
    ax.locator_params(axis="x", nbins=5)
    ax.grid(axis="x", alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
