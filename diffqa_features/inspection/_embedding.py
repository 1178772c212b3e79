"""Features in, a two-dimensional embedding coloured by score or label out."""

import numpy as np
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features.inspection._checks import features as checked_features
from diffqa_features.inspection._style import (
    COLORS,
    MARKERS,
    colorbar_of,
    legend_of,
    one_axes,
    tidy,
)


class EmbeddingDisplay:
    """Two-dimensional embedding of features, coloured by distortion or score.

    Parameters
    ----------
    points : ndarray of shape (n, 2)
        Position of each row.

    y : ndarray of shape (n,), default=None
        Scores, shown by colour.

    labels : ndarray of shape (n,), default=None
        Category of each row, for example its distortion; shown by marker, and by colour
        if there are no scores.

    axis_names : (str, str), default=("dimension 1", "dimension 2")
        Names of the axes.

    has_scale : bool, default=True
        Whether the axis values are meaningful; those of t-SNE are not.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure containing the axes.
    scatters_ : list of matplotlib PathCollection
        The points, one collection per label in sorted order.
    colorbar_ : matplotlib Colorbar
        Colour bar of the scores, or None.
    legend_ : matplotlib Legend
        Legend of the labels, or None.

    References
    ----------
    .. [1] L. van der Maaten and G. Hinton, "Visualizing data using t-SNE", Journal of
       Machine Learning Research 9, 2008.
    .. [2] S. Mitra, D. De, S. Rao and R. Soundararajan, "Image and Video Quality
       Assessment using Prompt-Guided Latent Diffusion Models for Cross-Dataset
       Generalization", arXiv 2406.04654, figure 5.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features.inspection import EmbeddingDisplay
    >>> features = np.random.default_rng(0).normal(size=(30, 5))
    >>> display = EmbeddingDisplay.from_features(
    ...     features, labels=["jpeg", "blur", "noise"] * 10, method="pca"
    ... )
    >>> display.ax_.get_xlabel()
    'component 1 (31 % of variance)'
    """

    def __init__(
        self,
        points,
        *,
        y=None,
        labels=None,
        axis_names=("dimension 1", "dimension 2"),
        has_scale=True,
    ):
        self.points = points
        self.y = y
        self.labels = labels
        self.axis_names = axis_names
        self.has_scale = has_scale

    def plot(self, ax=None, *, cmap="viridis", size=14, alpha=0.85, y_name="score"):
        """Draw the points.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            ``None`` creates a single-column figure, 3.5 inches wide.
        cmap : str or matplotlib Colormap, default="viridis"
            Colour map of the scores.
        size : float, default=14
            Area of a point, square points.
        alpha : float, default=0.85
            Opacity of the points, in [0, 1].
        y_name : str, default="score"
            Name of the scores.

        Returns
        -------
        EmbeddingDisplay
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        ax, text = one_axes(ax, 2.8)
        self.ax_, self.figure_ = ax, ax.figure
        labels = np.zeros(len(self.points)) if self.labels is None else self.labels
        self.scatters_ = []
        for i, name in enumerate(np.unique(labels)):
            chosen = labels == name
            paint = {"color": COLORS[i % len(COLORS)]}
            if self.y is not None:
                limits = {"vmin": self.y.min(), "vmax": self.y.max()}
                paint = {"c": self.y[chosen], "cmap": cmap, **limits}
            self.scatters_.append(
                ax.scatter(
                    *self.points[chosen].T,
                    s=size,
                    marker=MARKERS[i % len(MARKERS)],
                    alpha=alpha,
                    linewidths=0,
                    label=str(name),
                    **paint,
                )
            )
        self.colorbar_ = self.legend_ = None
        if self.y is not None:
            self.colorbar_ = colorbar_of(self.scatters_[0], ax, text, y_name, pad=0.02)
            self.colorbar_.solids.set_alpha(1)
        if self.labels is not None:
            self.legend_ = legend_of(ax, text, self._handles())
        ax.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])
        tidy(ax)
        # Distances are what is read, so both directions have one scale.
        ax.set_aspect("equal", adjustable="datalim")
        if not self.has_scale:
            ax.tick_params(length=0, labelbottom=False, labelleft=False)
        return self

    def _handles(self):
        """Markers as drawn; grey if colour shows the scores."""
        if self.y is None:
            return self.scatters_
        markers = zip(np.unique(self.labels), MARKERS * len(self.scatters_))
        options = {"color": "0.35", "s": 14, "linewidths": 0}
        return [
            self.ax_.scatter([], [], marker=marker, label=str(name), **options)
            for name, marker in markers
        ]

    @classmethod
    def from_estimator(cls, estimator, X, **more):
        """Compute features, embed them in two dimensions and draw.

        Parameters
        ----------
        estimator : transformer or Pipeline
            Its `transform` provides the features. For a fitted Pipeline that ends in a
            regressor, the steps before it do.
        X : list, array, Series or DataFrame of N media rows
            Input of the estimator.
        **more : dict
            Keyword arguments of :meth:`from_features`.

        Returns
        -------
        EmbeddingDisplay
            The display, already plotted.

        Raises
        ------
        TypeError
            If the estimator cannot provide features.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        # Before anything is extracted, which may take hours.
        check_consistent_length(X, more.get("y"), more.get("labels"))
        if isinstance(estimator, Pipeline) and not hasattr(estimator, "transform"):
            estimator = estimator[:-1]
        if not hasattr(estimator, "transform"):
            raise TypeError(
                "The estimator must have a method transform, or be a Pipeline with a "
                f"transformer in it. Got {type(estimator).__name__} instead."
            )
        return cls.from_features(estimator.transform(X), **more)

    @classmethod
    def from_features(
        cls,
        features,
        *,
        y=None,
        labels=None,
        method="tsne",
        random_state=0,
        ax=None,
        **style,
    ):
        """Embed existing features in two dimensions and draw.

        Parameters
        ----------
        features : array-like of shape (n, D)
            Each column is standardised first, so its units do not matter.
        y : array-like of shape (n,), default=None
            Scores, finite.
        labels : array-like of shape (n,), default=None
            Category of each row.
        method : {"tsne", "pca"} or transformer, default="tsne"
            Method; the `fit_transform` of a transformer must return two columns. t-SNE
            is initialised with the principal components, with a perplexity of 30, or a
            third of the rows if there are fewer than 91.
        random_state : int, default=0
            Seed of t-SNE.
        ax : matplotlib Axes, default=None
            See :meth:`plot`.
        **style : dict
            Further keyword arguments of :meth:`plot`.

        Returns
        -------
        EmbeddingDisplay
            The display, already plotted.

        Raises
        ------
        ValueError
            If numbers are not finite, lengths differ, or `method` is unknown.
        """
        check_matplotlib_support(f"{cls.__name__}.from_features")
        check_consistent_length(features, y, labels)
        features = checked_features(features)
        y = None if y is None else column_or_1d(y).astype(float)
        if y is not None and not np.isfinite(y).all():
            row = np.flatnonzero(~np.isfinite(y))[0]
            raise ValueError(f"The score of row {row} is {y[row]}; leave the row out.")
        labels = None if labels is None else column_or_1d(labels)
        scaled = StandardScaler().fit_transform(features)
        names, has_scale = ("dimension 1", "dimension 2"), True
        if isinstance(method, str) and method == "pca":
            pca = PCA(2, svd_solver="full").fit(scaled)
            points = pca.transform(scaled)
            names = tuple(
                f"component {i} ({share:.0%} of variance)".replace("%", " %")
                for i, share in enumerate(pca.explained_variance_ratio_, start=1)
            )
        elif isinstance(method, str) and method == "tsne":
            perplexity = min(30.0, (len(scaled) - 1) / 3)
            reducer = TSNE(init="pca", perplexity=perplexity, random_state=random_state)
            points = reducer.fit_transform(scaled)
            names, has_scale = ("t-SNE 1", "t-SNE 2"), False
        elif hasattr(method, "fit_transform"):
            points = np.asarray(clone(method).fit_transform(scaled), dtype=float)
            if points.shape != (len(scaled), 2):
                raise ValueError(
                    f"The method gives an array of shape {points.shape} in the place "
                    f"of {(len(scaled), 2)}. Set its number of components to 2."
                )
        else:
            raise ValueError(
                "The 'method' parameter must be 'tsne', 'pca' or a transformer. "
                f"Got {method!r} instead."
            )
        display = cls(points, y=y, labels=labels, axis_names=names, has_scale=has_scale)
        return display.plot(ax, **style)
