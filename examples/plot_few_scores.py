"""
How few opinion scores are enough?
==================================

The shipped scorer needs no opinion scores, but it does not know yours. A regressor on
the columns of the frozen model learns yours, but from many. Together they need few: the
scorer says roughly how good a picture is, and the columns learn where you disagree.
"""

# %%
# Pictures, and two people who rate them
# --------------------------------------
# Sixteen photographs, twelve distortions, two levels. Nobody rated these pictures; two
# raters are simulated. One is bothered by every distortion alike. The other does not
# mind noise and faults of exposure, and hardly marks them down. Both add noise of 0.3
# points.

import tempfile
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.ensemble import StackingRegressor
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, datasets, load_scorer, metrics

forgiven = ["white_noise", "impulse_noise", "low_contrast", "darken", "brighten"]
disliked = [
    "gaussian_blur", "motion_blur", "jpeg", "jpeg2000", "pixelate", "oversharpen",
    "quantise",
]  # fmt: skip
photos = datasets.load_sample_photos(image_size=128).data[:16]
images = datasets.make_distorted_images(
    photos, families=[*forgiven, *disliked], n_levels=2, image_size=128
)
groups = images.groups

rng = np.random.default_rng(0)
noise = rng.normal(0, 0.3, len(groups))
bothered = np.where(np.isin(images.family, forgiven), 0.3, 1.0)
raters = {
    "minds everything alike": 5 - 1.5 * images.level + noise,
    "does not mind noise and exposure": 5 - 1.5 * images.level * bothered + noise,
}

# %%
# The recipe
# ----------
# scikit-learn's ``StackingRegressor`` takes the scorer beside a Pipeline, and media as
# they are. The inner folds must keep the versions of one photograph together: random
# folds would overrate the columns. Positive weights keep the scorer's direction.

columns = DiffusionQAFeatures(image_size=64, view="stretch", memory=tempfile.mkdtemp())


def stack(scorer, pipeline, groups):
    folds = GroupKFold(min(3, len(set(groups))))
    return StackingRegressor(
        [("scorer", scorer), ("columns", pipeline)],
        LinearRegression(positive=True),
        cv=list(folds.split(groups, groups=groups)),
    )


some = rng.choice(len(groups), 30, replace=False)
model = stack(
    load_scorer(), make_pipeline(columns, StandardScaler(), SVR()), groups[some]
)
model.fit([images.data[row] for row in some], raters["minds everything alike"][some])
print("predicted:", model.predict(images.data[:3]).round(2))

# %%
# A second recipe spends no scores on folds: a line from the scorer to your scale, and
# an SVR on the columns for what the line leaves. From few scores the SVR learns little,
# and the prediction falls back to the scorer's.


class Correction(RegressorMixin, BaseEstimator):
    """A line through the scorer's prediction, column 0, corrected by the others."""

    def __init__(self, regressor):
        self.regressor = regressor

    def fit(self, X, y):
        self.line_ = LinearRegression(positive=True).fit(X[:, :1], y)
        rest = y - self.line_.predict(X[:, :1])
        self.regressor_ = clone(self.regressor).fit(X[:, 1:], rest)
        return self

    def predict(self, X):
        return self.line_.predict(X[:, :1]) + self.regressor_.predict(X[:, 1:])


# %%
# Measured
# --------
# Everything frozen is computed once, the scorer's predictions as column 0. In each of
# ten repetitions three photographs are held out, and scores of n random pictures of the
# other thirteen are known. Where stacking gives both a weight of zero, predictions are
# constant and count as an SRCC of 0.

warnings.simplefilter("ignore", UndefinedMetricWarning)

table = np.column_stack(
    [load_scorer().predict(images.data), columns.transform(images.data)]
)


class Scorer(RegressorMixin, BaseEstimator):
    """The shipped scorer, whose predictions are column 0: there is nothing to fit."""

    def fit(self, X, y):
        return self

    def predict(self, X):
        return X[:, 0]


regressor = make_pipeline(StandardScaler(), SVR())
others = make_pipeline(FunctionTransformer(lambda X: X[:, 1:]), regressor)

rows = []
for repetition in range(10):
    rng = np.random.default_rng(repetition)
    held = np.isin(groups, rng.choice(np.unique(groups), 3, replace=False))
    order = rng.permutation(np.flatnonzero(~held))
    for rater, y in raters.items():
        for n in (10, 30, 100, 300):
            known = order[:n]
            methods = {
                "columns and SVR": others,
                "StackingRegressor": stack(Scorer(), others, groups[known]),
                "scorer, corrected": Correction(regressor),
            }
            srcc = {"scorer alone": metrics.srcc_score(y[held], table[held, 0])}
            for name, method in methods.items():
                predicted = (
                    clone(method).fit(table[known], y[known]).predict(table[held])
                )
                srcc[name] = metrics.srcc_score(y[held], predicted)
            rows.append({"rater": rater, "n": n, **srcc})
results = pd.DataFrame(rows)
names = results.columns[2:]
print(results.groupby(["rater", "n"], sort=False).median().round(2).to_string())

better = results[["scorer alone", "columns and SVR"]].max(axis=1)
for name in names[2:]:
    wins = (results[name] > better).groupby(
        [results["rater"], results["n"]], sort=False
    )
    print(f"\n{name}: repetitions of 10 in which it beats the better of the two alone")
    print(wins.sum().unstack().to_string())

# %%
# For the first rater, the corrected scorer beats both alone in 7 of 10 repetitions with
# ten scores and in 9 or 10 with more; stacking, which has to learn two weights on folds
# of a few pictures, in 4 with ten, 8 with thirty and a hundred, all with three hundred.
# For the second, whose taste the scorer does not share, ten scores are too few for
# either; correcting helps from thirty on (7 of 10). Bands are quartiles over
# repetitions, which share pictures: they are no test.

styles = {
    "scorer alone": ("black", "", "--"),
    "columns and SVR": ("#D55E00", "s", "-"),
    "StackingRegressor": ("#009E73", "^", "-"),
    "scorer, corrected": ("#0072B2", "o", "-"),
}
fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), sharey=True, layout="constrained")
for ax, rater in zip(axes, raters):
    by_n = results[results["rater"] == rater].groupby("n")
    for name, (color, marker, line) in styles.items():
        ax.plot(by_n[name].median(), color=color, marker=marker, ls=line, label=name)
        low, high = by_n[name].quantile(0.25), by_n[name].quantile(0.75)
        ax.fill_between(low.index, low, high, color=color, alpha=0.11, linewidth=0)
    ax.set_xscale("log")
    ax.set_xticks([10, 30, 100, 300], ["10", "30", "100", "300"])
    ax.minorticks_off()
    ax.set_title(f"A rater who {rater}", fontsize=10)
    ax.set_xlabel("opinion scores known")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("SRCC on unseen photographs")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4,
           frameon=False)  # fmt: skip
plt.show()
