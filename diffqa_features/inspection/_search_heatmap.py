"""A fitted grid search in, a heat map of its scores over two parameters out."""

from textwrap import fill

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features.evaluation._extraction import alike
from diffqa_features.inspection._style import (
    COLUMN,
    LUMINANCE,
    PAGE,
    colorbar_of,
    one_axes,
    small,
)

_MOST_IN_COLUMN = 6  # cells side by side whose numbers can be read at 3.5 inches
_LETTER = 0.06  # inches that a letter of 7 points is wide


class SearchHeatmapDisplay:
    """Heat map of grid search scores over two parameters.

    Parameters
    ----------
    scores : ndarray of shape (R, C)
        Mean test scores, higher is better; NaN for combinations that were not tried.

    row_values : sequence of length R
        Values of the row parameter.

    column_values : sequence of length C
        Values of the column parameter.

    row_name : str, default="rows"
        Name of the row parameter.

    column_name : str, default="columns"
        Name of the column parameter.

    score_name : str, default="score"
        Name of the scores.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure containing the axes.
    image_ : matplotlib AxesImage
        The heat map.
    text_ : ndarray of shape (R, C) of matplotlib Text
        The numbers; None for combinations that were not tried.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features.inspection import SearchHeatmapDisplay
    >>> scores = np.array([[0.61, 0.72], [0.58, 0.70]])
    >>> display = SearchHeatmapDisplay(scores, [20, 50], ["down*", "up*"]).plot()
    >>> [cell.get_text() for cell in display.text_[0]]
    ['0.610', '0.720']
    """

    def __init__(
        self,
        scores,
        row_values,
        column_values,
        *,
        row_name="rows",
        column_name="columns",
        score_name="score",
    ):
        self.scores = scores
        self.row_values = row_values
        self.column_values = column_values
        self.row_name = row_name
        self.column_name = column_name
        self.score_name = score_name

    def plot(self, ax=None, *, cmap="viridis", values_format=".3f"):
        """Draw the heat map; the best cell is framed.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            ``None`` creates a single-column figure, 3.5 inches wide, or a full-width
            one for more than six columns.
        cmap : str or matplotlib Colormap, default="viridis"
            Colour map of the scores.
        values_format : str, default=".3f"
            Format of the numbers in the cells; ``""`` omits them.

        Returns
        -------
        SearchHeatmapDisplay
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        from matplotlib.patches import Rectangle

        rows, columns = self.scores.shape
        wide = columns > _MOST_IN_COLUMN and values_format
        labels = list(map(_label, self.column_values))
        # Long names of blocks, or lists of timesteps, stand upright.
        room = (0.62 * (PAGE if wide else COLUMN)) / columns  # inches
        upright = ax is None and max(map(len, labels)) * _LETTER > room
        # So high that the longest word of the colour bar's label fits beside it.
        longest = max(map(len, self.score_name.split()), default=0)
        side = max(0.24 * rows, _LETTER * longest + 0.2)  # inches
        score_name = fill(self.score_name, int(side / _LETTER), break_long_words=False)
        height = side + 0.75 + upright * _LETTER * max(map(len, labels))
        ax, text = one_axes(ax, height, PAGE if wide else COLUMN)
        self.ax_ = ax
        self.figure_ = ax.figure
        self.image_ = ax.imshow(self.scores, cmap=cmap, aspect="auto")
        score_name = self.score_name if text is None else score_name
        colorbar_of(self.image_, ax, text, score_name, pad=0.02)
        self.text_ = np.full(self.scores.shape, None, dtype=object)
        for (row, column), score in np.ndenumerate(self.scores):
            if values_format and np.isfinite(score):
                self.text_[row, column] = ax.text(
                    column,
                    row,
                    format(score, values_format),
                    ha="center",
                    va="center",
                    fontsize=small(text),
                    color=self._ink(score),
                )
        row, column = np.unravel_index(np.nanargmax(self.scores), self.scores.shape)
        frame = (column - 0.47, row - 0.45), 0.94, 0.9
        ax.add_patch(Rectangle(*frame, fill=False, ec="#D55E00", lw=1.8))
        ax.set(
            xticks=range(columns),
            xlabel=self.column_name,
            yticks=range(rows),
            yticklabels=list(map(_label, self.row_values)),
            ylabel=self.row_name,
        )
        ax.set_xticklabels(labels, rotation=90 if upright else 0)
        return self

    def _ink(self, score):
        """Black on light cells, white on dark ones."""
        color = self.image_.cmap(self.image_.norm(score))
        return "black" if np.dot(color[:3], LUMINANCE) > 0.5 else "white"

    @classmethod
    def from_estimator(
        cls,
        search,
        *,
        rows,
        columns,
        metric="score",
        score_name=None,
        ax=None,
        **style,
    ):
        """Draw the scores of a fitted search.

        Parameters
        ----------
        search : GridSearchCV
            Fitted search; any with ``cv_results_``.
        rows : str
            Row parameter, for example ``"features__timesteps"``.
        columns : str
            Column parameter, for example ``"features__blocks"``.
        metric : str, default="score"
            Name of the metric, if the search has several.
        score_name : str, default=None
            Name of the scores; ``None`` uses ``"mean test <metric>"``.
        ax : matplotlib Axes, default=None
            See :meth:`plot`.
        **style : dict
            Further keyword arguments of :meth:`plot`.

        Returns
        -------
        SearchHeatmapDisplay
            The display, already plotted. If other parameters were searched too, a cell
            shows the best score over them. Candidates that lack one of the two
            parameters, as in a list of grids, are left out.

        Raises
        ------
        NotFittedError
            If the search is not fitted.
        ValueError
            If a parameter or metric does not exist, or there are no scores.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        if not hasattr(search, "cv_results_"):
            raise NotFittedError(
                f"This {type(search).__name__} has no cv_results_; fit it first."
            )
        results = search.cv_results_
        key = f"mean_test_{metric}"
        if key not in results:
            names = [
                name.removeprefix("mean_test_")
                for name in results
                if name.startswith("mean_test_")
            ]
            raise ValueError(f"The search has no metric {metric!r}, but {names}.")
        for name in (rows, columns):
            if f"param_{name}" not in results:
                known = sorted({name for p in results["params"] for name in p})
                raise ValueError(f"The search has no parameter {name!r}, but {known}.")
        settings = [
            (p[rows], p[columns], score)
            for p, score in zip(results["params"], results[key])
            if rows in p and columns in p
        ]
        if not np.isfinite([score for *_, score in settings]).any():
            raise ValueError(
                f"No candidate with both {rows!r} and {columns!r} has a finite score. "
                "If fits failed, error_score='raise' of the search says why."
            )
        row_values = _distinct(row for row, *_ in settings)
        column_values = _distinct(column for _, column, _ in settings)
        scores = np.full((len(row_values), len(column_values)), np.nan)
        for row, column, score in settings:
            cell = _place(row_values, row), _place(column_values, column)
            scores[cell] = np.fmax(scores[cell], score)
        display = cls(
            scores,
            row_values,
            column_values,
            row_name=rows.rpartition("__")[2],
            column_name=columns.rpartition("__")[2],
            score_name=score_name or f"mean test {metric}",
        )
        return display.plot(ax, **style)


def _distinct(values) -> list:
    """Distinct values in order; values may be lists."""
    found = []
    for value in values:
        if not any(alike(value, other) for other in found):
            found.append(value)
    return found


def _place(values: list, value) -> int:
    return next(i for i, other in enumerate(values) if alike(value, other))


def _label(value) -> str:
    several = isinstance(value, (list, tuple, np.ndarray))
    return ", ".join(map(str, value)) if several else str(value)
