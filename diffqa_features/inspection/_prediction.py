"""Scores and predictions in, a scatter plot with the correlations out."""

import numpy as np
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features.metrics import plcc_score, rmse, srcc_score

# Okabe and Ito (2008), told apart by people with any colour vision; yellow left out,
# which is too light on white. Markers differ too.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


class PredictionDisplay:
    """Predicted against true quality, coloured by kind.

    Parameters
    ----------
    y_true : ndarray of shape (n,)
        Scores, for example MOS.

    y_pred : ndarray of shape (n,)
        Predictions, of held-out rows.

    labels : ndarray of shape (n,), default=None
        What each row is, for example its distortion; drawn in colours and markers.

    Attributes
    ----------
    ax_ : matplotlib Axes
        What was drawn on.
    figure_ : matplotlib Figure
        The figure that holds it.
    line_ : matplotlib Line2D
        Where prediction and score are equal.
    scatters_ : list of matplotlib PathCollection
        The points, one collection per label in sorted order.

    See Also
    --------
    diffqa_features.metrics : The numbers in the title.

    Examples
    --------
    >>> from diffqa_features.inspection import PredictionDisplay
    >>> display = PredictionDisplay.from_predictions([1, 2, 3], [1.2, 1.9, 2.5])
    >>> display.ax_.get_title()
    'SRCC 1.000   PLCC 0.999   RMSE 0.316'
    """

    def __init__(self, y_true, y_pred, *, labels=None):
        self.y_true = y_true
        self.y_pred = y_pred
        self.labels = labels

    def plot(self, ax=None, *, spread=0.0, alpha=0.75):
        """Draw the points, the diagonal and the correlations.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            ``None`` makes a figure.
        spread : float, default=0.0
            Width over which the labels are set side by side around their target, in
            units of the target. For graded targets, whose points would cover each
            other.
        alpha : float, default=0.75
            Opacity of the points, in [0, 1].

        Returns
        -------
        PredictionDisplay
            Itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt

        if ax is None:
            size = (5.2 if self.labels is None else 6.8, 5.0)
            _, ax = plt.subplots(figsize=size, layout="constrained")
        both = np.concatenate([self.y_true, self.y_pred])
        low, high = both.min(), both.max()
        (self.line_,) = ax.plot(
            [low, high], [low, high], color="0.5", linestyle="--", linewidth=1, zorder=1
        )
        labels = np.zeros(len(self.y_true)) if self.labels is None else self.labels
        names = np.unique(labels)
        offsets = (np.arange(len(names)) + 0.5) / len(names) - 0.5
        self.scatters_ = [
            ax.scatter(
                self.y_true[labels == name] + spread * offset,
                self.y_pred[labels == name],
                s=26,
                color=_COLORS[i % len(_COLORS)],
                marker=_MARKERS[i % len(_MARKERS)],
                alpha=alpha,
                linewidths=0,
                label=str(name),
                zorder=2,
            )
            for i, (name, offset) in enumerate(zip(names, offsets))
        ]
        if self.labels is not None:
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        ax.set(
            xlabel="target",
            ylabel="prediction",
            title=f"SRCC {srcc_score(self.y_true, self.y_pred):.3f}   "
            f"PLCC {plcc_score(self.y_true, self.y_pred):.3f}   "
            f"RMSE {rmse(self.y_true, self.y_pred):.3f}",
        )
        ax.grid(alpha=0.25)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self

    @classmethod
    def from_estimator(
        cls, estimator, X, y, *, labels=None, ax=None, spread=0.0, alpha=0.75
    ):
        """Predict and draw.

        Parameters
        ----------
        estimator : estimator
            Fitted regressor or Pipeline, on rows that are not among `X`.
        X : list, array, Series or DataFrame of N media rows
            What its `predict` takes.
        y : array-like of shape (n,)
            Scores.
        labels : array-like of shape (n,), default=None
            What each row is.
        ax : matplotlib Axes, default=None
            See :meth:`plot`.
        spread : float, default=0.0
            See :meth:`plot`.
        alpha : float, default=0.75
            See :meth:`plot`.

        Returns
        -------
        PredictionDisplay
            What was drawn.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        return cls.from_predictions(
            y, estimator.predict(X), labels=labels, ax=ax, spread=spread, alpha=alpha
        )

    @classmethod
    def from_predictions(
        cls, y_true, y_pred, *, labels=None, ax=None, spread=0.0, alpha=0.75
    ):
        """Draw predictions that are there already, as of `cross_val_predict`.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            Scores, finite.
        y_pred : array-like of shape (n,)
            Predictions, finite.
        labels : array-like of shape (n,), default=None
            What each row is.
        ax : matplotlib Axes, default=None
            See :meth:`plot`.
        spread : float, default=0.0
            See :meth:`plot`.
        alpha : float, default=0.75
            See :meth:`plot`.

        Returns
        -------
        PredictionDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If the lengths differ, or numbers are not finite.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        check_consistent_length(y_true, y_pred, labels)
        y_true, y_pred = (
            column_or_1d(check_array(y, ensure_2d=False, input_name=name))
            for y, name in ((y_true, "y_true"), (y_pred, "y_pred"))
        )
        if labels is not None:
            labels = column_or_1d(labels)
        display = cls(y_true, y_pred, labels=labels)
        return display.plot(ax, spread=spread, alpha=alpha)
