"""Scores and predictions in, a scatter plot with correlations out."""

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features.inspection._checks import numbers
from diffqa_features.inspection._style import (
    COLORS,
    MARKERS,
    legend_of,
    one_axes,
    small,
    tidy,
    title,
)
from diffqa_features.metrics import LogisticMapping, plcc_score, rmse, srcc_score

_N_PARAMETERS = {"logistic4": 4, "logistic5": 5}
_HEIGHT, _LINE = 3.2, 0.15  # inches: of the figure, and of a line of its legend
_FAR = 3.0  # robust standard deviations
_MAD_TO_STD = 1.4826  # of a normal distribution
# Where the number of a ring may stand: inwards first, outwards last.
_AROUND = np.array([
    [1, 0], [0.7, 0.7], [0.7, -0.7], [0, 1], [0, -1], [-0.7, 0.7], [-0.7, -0.7], [-1, 0]
])  # fmt: skip


class PredictionDisplay:
    """Predicted against true quality, coloured by label, with logistic and outliers.

    Parameters
    ----------
    y_true : ndarray of shape (n,)
        Scores, for example MOS.

    y_pred : ndarray of shape (n,)
        Predictions for held-out rows.

    labels : ndarray of shape (n,), default=None
        Category of each row, for example its distortion; shown by colour and marker.

    mapping : fitted LogisticMapping, default=None
        Curve from predictions to scores. PLCC and RMSE are then computed after the
        curve, which is drawn instead of the diagonal.

    outliers : ndarray of shape (m,), dtype int, default=()
        Rows to circle and number, farthest first.

    names : ndarray of shape (n,), default=None
        Name of each row, for example its file; ``None`` uses its number.

    outlier_rule : str, default=None
        Definition of an outlier, for the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure containing the axes.
    line_ : matplotlib Line2D
        The curve, or the diagonal.
    scatters_ : list of matplotlib PathCollection
        The points, one collection per label in sorted order.
    rings_ : matplotlib PathCollection
        Circles around outliers, or None.
    legend_ : matplotlib Legend
        Labels, the curve, and the outliers by name; or None.

    See Also
    --------
    diffqa_features.metrics : The numbers in the title.
    diffqa_features.metrics.LogisticMapping : The curve.

    Examples
    --------
    >>> from diffqa_features.inspection import PredictionDisplay
    >>> display = PredictionDisplay.from_predictions([1, 2, 3], [1.2, 1.9, 2.5])
    >>> display.ax_.get_title()
    'SRCC 1.000   PLCC 0.999   RMSE 0.316'
    >>> display = PredictionDisplay.from_predictions(
    ...     [1, 2, 3, 4, 5, 2], [10, 20, 31, 39, 50, 48], mapping="logistic4"
    ... )
    >>> display.outliers
    array([5])
    """

    def __init__(
        self,
        y_true,
        y_pred,
        *,
        labels=None,
        mapping=None,
        outliers=(),
        names=None,
        outlier_rule=None,
    ):
        self.y_true = y_true
        self.y_pred = y_pred
        self.labels = labels
        self.mapping = mapping
        self.outliers = outliers
        self.names = names
        self.outlier_rule = outlier_rule

    def plot(self, ax=None, *, spread=0.0, alpha=0.75, size=14, n_named=8):
        """Draw the points, the curve or the diagonal, and the correlations.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            ``None`` creates a single-column figure, 3.5 inches wide.
        spread : float, default=0.0
            Width over which labels are placed side by side around their target, in
            units of the target. Use it for graded targets, whose points would overlap.
        alpha : float, default=0.75
            Opacity of the points, in [0, 1].
        size : float, default=14
            Area of a point, square points.
        n_named : int, default=8
            Number of outliers named in the legend, farthest first, and then how many
            more there are. All are circled and numbered in that order; `outliers` holds
            all their rows.

        Returns
        -------
        PredictionDisplay
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        ax, text = one_axes(ax, _HEIGHT)
        self.ax_, self.figure_ = ax, ax.figure
        self._draw_line()
        labels = np.zeros(len(self.y_true)) if self.labels is None else self.labels
        names = np.unique(labels)
        offsets = spread * ((np.arange(len(names)) + 0.5) / len(names) - 0.5)
        x = self.y_true + offsets[np.searchsorted(names, labels)]
        self.scatters_ = [
            ax.scatter(
                x[labels == name],
                self.y_pred[labels == name],
                s=size,
                color=COLORS[i % len(COLORS)],
                marker=MARKERS[i % len(MARKERS)],
                alpha=alpha,
                linewidths=0,
                label=str(name),
                zorder=2,
            )
            for i, name in enumerate(names)
        ]
        ax.set(xlabel="target", ylabel="prediction")
        y_aligned = self._aligned()
        words = (
            f"SRCC {srcc_score(self.y_true, self.y_pred):.3f}   "
            f"PLCC {plcc_score(self.y_true, y_aligned):.3f}   "
            f"RMSE {rmse(self.y_true, y_aligned):.3f}"
        )
        title(ax, words, text)
        tidy(ax)
        named = self._ring_outliers(x, size, small(text), n_named)
        handles = [] if self.labels is None else list(self.scatters_)
        handles += [] if self.mapping is None else [self.line_]
        if handles and named:  # a column for each
            lines = max(len(handles), len(named))
            blank = ax.scatter([], [], s=0, color="none", label=" ")
            handles += (lines - len(handles)) * [blank]
            named += (lines - len(named)) * [blank]
            if text is not None:
                ax.figure.set_figheight(_HEIGHT + _LINE * max(0, lines - 5))
        handles += named
        # Names of files are long: fewer of them stand side by side.
        self.legend_ = (
            legend_of(ax, text, handles, 2 if named else 3) if handles else None
        )
        return self

    def _aligned(self):
        return (
            self.y_pred if self.mapping is None else self.mapping.transform(self.y_pred)
        )

    def _draw_line(self):
        if self.mapping is None:
            both = np.concatenate([self.y_true, self.y_pred])
            x = y = np.array([both.min(), both.max()])
            label = "equal"
        else:
            y = np.linspace(self.y_pred.min(), self.y_pred.max(), 200)
            x = self.mapping.transform(y)
            label = f"logistic of {len(self.mapping.parameters_)} parameters"
        (self.line_,) = self.ax_.plot(
            x, y, color="0.4", linestyle="--", linewidth=1, zorder=1, label=label
        )

    def _ring_outliers(self, x, size, text, n_named):
        """Circle and number all, name the farthest; return their legend entries."""
        rows = np.asarray(self.outliers, dtype=int)
        self.rings_ = None
        if not len(rows):
            return []
        ring = {"s": 4 * size, "facecolors": "none", "edgecolors": "black"}
        self.rings_ = self.ax_.scatter(
            x[rows], self.y_pred[rows], linewidths=0.8, zorder=3, **ring
        )
        blank = {"s": 0, "color": "none"}
        handles = (
            []
            if self.outlier_rule is None
            else [self.ax_.scatter([], [], label=self.outlier_rule, **ring)]
        )
        points = np.c_[x[rows], self.y_pred[rows]]
        offsets = self._offsets(points, size**0.5, text)
        for number, (row, point, offset) in enumerate(zip(rows, points, offsets), 1):
            self.ax_.annotate(
                str(number),
                point,
                offset,
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=text,
            )
            if number <= n_named:
                name = f"row {row}" if self.names is None else str(self.names[row])
                entry = self.ax_.scatter([], [], label=f"{number}: {name}", **blank)
                handles.append(entry)
        if len(rows) > n_named:
            more = f"and {len(rows) - n_named} more"
            handles.append(self.ax_.scatter([], [], label=more, **blank))
        return handles

    def _offsets(self, points, radius, text):
        """Where each ring's number stands, in points from its middle.

        Beside it towards the middle of the axes, or else where no other number or ring
        is, or where these are farthest.
        """
        import matplotlib as mpl

        text = text or mpl.rcParams["font.size"]
        sides = np.where(points[:, :1] > np.mean(self.ax_.get_xlim()), -1, 1)
        scale = 72 / self.figure_.dpi
        points = scale * self.ax_.transData.transform(points)
        placed, offsets = points, []
        for i, (point, side) in enumerate(zip(points, sides)):
            options = (2 + radius + text / 2) * _AROUND * [side[0], 1]
            others = np.delete(placed, i, 0)
            apart = np.linalg.norm((point + options)[:, None] - others, axis=2)
            apart = apart.min(1, initial=np.inf)
            free = np.flatnonzero(apart > text + radius / 2)
            offsets.append(options[free[0] if len(free) else apart.argmax()])
            placed = np.vstack([placed, point + offsets[-1]])
        return offsets

    @classmethod
    def from_estimator(cls, estimator, X, y, **more):
        """Predict and draw.

        Parameters
        ----------
        estimator : estimator
            Fitted regressor or Pipeline that has not seen the rows of `X`.
        X : list, array, Series or DataFrame of N media rows
            Input of its `predict`.
        y : array-like of shape (n,)
            Scores.
        **more : dict
            Keyword arguments of :meth:`from_predictions`.

        Returns
        -------
        PredictionDisplay
            The display, already plotted.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        return cls.from_predictions(y, estimator.predict(X), **more)

    @classmethod
    def from_predictions(
        cls,
        y_true,
        y_pred,
        *,
        labels=None,
        mapping=None,
        y_error=None,
        names=None,
        ax=None,
        **style,
    ):
        """Draw existing predictions, such as those of `cross_val_predict`.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            Scores, finite.
        y_pred : array-like of shape (n,)
            Predictions, finite.
        labels : array-like of shape (n,), default=None
            Category of each row.
        mapping : {"logistic4", "logistic5"}, default=None
            Curve to fit from predictions to scores, see
            :class:`~diffqa_features.metrics.LogisticMapping`. ``None`` assumes that
            predictions are on the scale of the scores.
        y_error : array-like of shape (n,), default=None
            Standard error of each score. Rows whose prediction, after the curve, is off
            by more than twice this are outliers, as in the VQEG's outlier ratio. If
            ``None``, outliers are rows off by more than three robust standard
            deviations (1.4826 times the median of all absolute residuals).
        names : array-like of shape (n,), default=None
            Name of each row, for example its file.
        ax : matplotlib Axes, default=None
            See :meth:`plot`.
        **style : dict
            Further keyword arguments of :meth:`plot`.

        Returns
        -------
        PredictionDisplay
            The display, already plotted.

        Raises
        ------
        ValueError
            If the lengths differ, numbers are not finite, or `mapping` is unknown.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        check_consistent_length(y_true, y_pred, labels, y_error, names)
        y_true, y_pred = numbers(y_true, "y_true"), numbers(y_pred, "y_pred")
        labels, names = (
            None if texts is None else column_or_1d(texts) for texts in (labels, names)
        )
        if mapping is not None:
            if not isinstance(mapping, str) or mapping not in _N_PARAMETERS:
                raise ValueError(
                    "The 'mapping' parameter must be None or one of "
                    f"{set(_N_PARAMETERS)}. Got {mapping!r} instead."
                )
            mapping = LogisticMapping(_N_PARAMETERS[mapping]).fit(y_pred, y_true)
        display = cls(y_true, y_pred, labels=labels, mapping=mapping, names=names)
        off = np.abs(y_true - display._aligned())
        if y_error is None:
            limit = _FAR * _MAD_TO_STD * np.median(off)
            # Of exact predictions, rounding is no outlier.
            limit = np.maximum(limit, 1e-9 * np.ptp(y_true))
            display.outlier_rule = (
                f"off by more than {limit:.3g}\n({_FAR:g} robust standard deviations)"
            )
        else:
            limit = 2 * numbers(y_error, "y_error")
            display.outlier_rule = "off by more than\ntwo standard errors"
        farthest = np.argsort(-off, kind="stable")
        display.outliers = farthest[(off > limit)[farthest]]
        return display.plot(ax, **style)
