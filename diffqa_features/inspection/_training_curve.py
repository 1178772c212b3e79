"""The history of a training in, curves of loss and SRCC over epochs out."""

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features.inspection._style import COLORS, dress, legend_of, one_axes, tidy


class TrainingCurveDisplay:
    """Loss and SRCC over the epochs of a training.

    Parameters
    ----------
    epochs : ndarray of shape (E,), dtype int
        Numbers of the epochs, from 1.

    loss : ndarray of shape (E,)
        Mean training loss of each epoch.

    srcc : ndarray of shape (E,), default=None
        SRCC of the training predictions; None if there are no scores.

    validation_srcc : ndarray of shape (E,), default=None
        SRCC on the rows held out; None if there are none. NaN for epochs without.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the loss.
    srcc_ax_ : matplotlib Axes
        Axes with the SRCC on the right side, or None.
    figure_ : matplotlib Figure
        Figure containing the axes.
    lines_ : dict of str to matplotlib Line2D
        By ``"loss"``, ``"srcc"`` and ``"validation_srcc"``, those drawn.
    best_ : matplotlib Line2D
        Mark of the best epoch on the rows held out, or None.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features.inspection import TrainingCurveDisplay
    >>> epochs, loss = np.arange(1, 4), np.array([0.9, 0.5, 0.4])
    >>> display = TrainingCurveDisplay(epochs, loss, srcc=np.array([0.2, 0.6, 0.7]))
    >>> sorted(display.plot().lines_)
    ['loss', 'srcc']
    """

    def __init__(self, epochs, loss, *, srcc=None, validation_srcc=None):
        self.epochs = epochs
        self.loss = loss
        self.srcc = srcc
        self.validation_srcc = validation_srcc

    def plot(self, ax=None):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            ``None`` creates a single-column figure, 3.5 inches wide.

        Returns
        -------
        TrainingCurveDisplay
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        from matplotlib.ticker import MaxNLocator

        ax, text = one_axes(ax, 2.2)
        self.ax_, self.figure_ = ax, ax.figure
        self.srcc_ax_ = self.best_ = None
        tidy(ax)
        (line,) = ax.plot(
            self.epochs, self.loss, color=COLORS[0], marker="o", ms=3, label="loss"
        )
        self.lines_ = {"loss": line}
        ax.set(xlabel="epoch", ylabel="training loss")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if self.srcc is not None or self.validation_srcc is not None:
            self._draw_srcc(text)
        legend_of(ax, text, list(self.lines_.values()))
        return self

    def _draw_srcc(self, text):
        other = self.srcc_ax_ = self.ax_.twinx()
        if text is not None:
            dress(other)
        other.spines[["top", "left"]].set_visible(False)
        other.set_ylabel("SRCC")
        styles = {
            "srcc": ("SRCC, training", COLORS[1], "s", "--"),
            "validation_srcc": ("SRCC, validation", COLORS[2], "^", "-"),
        }
        for name, (label, color, marker, style) in styles.items():
            values = getattr(self, name)
            if values is not None:
                (self.lines_[name],) = other.plot(
                    self.epochs, values, style, color=color, marker=marker, ms=3,
                    label=label,
                )  # fmt: skip
        values = self.validation_srcc
        if values is not None and np.isfinite(values).any():
            best = np.nanargmax(values)
            (self.best_,) = other.plot(
                self.epochs[best], values[best], "o", ms=8, mfc="none", color=COLORS[2]
            )

    @classmethod
    def from_estimator(cls, estimator, *, ax=None):
        """Draw the history of a fitted learned estimator.

        Parameters
        ----------
        estimator : object
            With an attribute ``history_``, such as :class:`GenzIQARegressor
            <diffqa_features.GenzIQARegressor>`, or a Pipeline or search that ends in
            one.
        ax : matplotlib Axes, default=None
            See :meth:`plot`.

        Returns
        -------
        TrainingCurveDisplay
            The display, already plotted. The circle is the epoch with the best SRCC on
            the rows held out; without a warm start, its weights are the fitted ones.

        Raises
        ------
        NotFittedError
            If the estimator has no history, since it is not fitted or trains in no
            epochs.
        ValueError
            If the history is empty.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        fitted = getattr(estimator, "best_estimator_", estimator)
        if isinstance(fitted, Pipeline):
            fitted = fitted[-1]
        name = type(fitted).__name__
        if not hasattr(fitted, "history_"):
            raise NotFittedError(
                f"This {name} has no history_. Fit it first, if it is a learned "
                "estimator; others train in no epochs."
            )
        if not fitted.history_:
            raise ValueError(
                f"The history of this {name} is empty: it was fitted with max_epochs=0 "
                "or nothing to train, or loaded from its authors' files."
            )

        def column(key):
            values = [record.get(key, np.nan) for record in fitted.history_]
            return None if np.isnan(values).all() else np.array(values)

        epochs = np.array([record["epoch"] for record in fitted.history_])
        display = cls(
            epochs,
            column("loss"),
            srcc=column("srcc"),
            validation_srcc=column("validation_srcc"),
        )
        return display.plot(ax)
