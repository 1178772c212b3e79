"""An estimator and datasets in, its correlation per timestep with bands out."""

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_consistent_length
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features.evaluation import bootstrap_interval, cross_dataset
from diffqa_features.evaluation._extraction import temporary_store, with_store
from diffqa_features.evaluation._measures import check_metric
from diffqa_features.inspection._checks import (
    distinct_timesteps,
    timesteps_parameter,
)
from diffqa_features.inspection._style import (
    COLORS,
    MARKERS,
    legend_of,
    one_axes,
    tidy,
)


class TimestepCurveDisplay:
    """Prediction performance per timestep, on several test sets.

    Parameters
    ----------
    timesteps : ndarray of shape (T,), dtype int
        DDPM training steps in [0, 999], increasing.

    values : dict of str to ndarray of shape (T,)
        The metric on each test set.

    bands : dict of str to ndarray of shape (2, T)
        Lower and upper ends of its intervals, by the same names.

    metric : {"srcc", "plcc", "krcc", "rmse"}, default="srcc"
        Metric that was computed.

    confidence : float, default=0.95
        Confidence level of the intervals.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure containing the axes.
    lines_ : list of matplotlib Line2D
        One per test set.
    bands_ : list of matplotlib PolyCollection
        One per test set.
    legend_ : matplotlib Legend
        Names of the test sets.

    See Also
    --------
    SearchHeatmapDisplay : Timesteps and blocks of a grid search.
    diffqa_features.evaluation.cross_dataset : The underlying computation.

    References
    ----------
    .. [1] S. Mitra, D. De, S. Rao and R. Soundararajan, "Image and Video Quality
       Assessment using Prompt-Guided Latent Diffusion Models for Cross-Dataset
       Generalization", arXiv 2406.04654, figure 4.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features.inspection import TimestepCurveDisplay
    >>> mos = np.arange(20.0)
    >>> noise = np.random.default_rng(0).normal(size=20)
    >>> predictions = [mos + 2 * noise, mos + 9 * noise]
    >>> display = TimestepCurveDisplay.from_predictions(
    ...     {"CLIVE": mos}, {"CLIVE": predictions}, timesteps=[50, 500]
    ... )
    >>> display.values["CLIVE"].round(3)
    array([0.953, 0.519])
    """

    def __init__(self, timesteps, values, bands, *, metric="srcc", confidence=0.95):
        self.timesteps = timesteps
        self.values = values
        self.bands = bands
        self.metric = metric
        self.confidence = confidence

    def plot(self, ax=None, *, band_alpha=0.18, linewidth=1.2):
        """Draw a line and a band per test set.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            ``None`` creates a single-column figure, 3.5 inches wide.
        band_alpha : float, default=0.18
            Opacity of the bands, in [0, 1]; 0 hides them.
        linewidth : float, default=1.2
            Width of the lines, points.

        Returns
        -------
        TimestepCurveDisplay
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        ax, text = one_axes(ax, 2.5)
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.bands_ = [], []
        for i, (name, values) in enumerate(self.values.items()):
            color = COLORS[i % len(COLORS)]
            low, high = self.bands[name]
            self.bands_.append(
                ax.fill_between(
                    self.timesteps, low, high, color=color, alpha=band_alpha, lw=0
                )
            )
            self.lines_ += ax.plot(
                self.timesteps,
                values,
                color=color,
                marker=MARKERS[i % len(MARKERS)],
                markersize=3.5,
                linewidth=linewidth,
                label=name,
            )
        tidy(ax)
        name = f"{self.metric.upper()} with {100 * self.confidence:.3g} % interval"
        ax.set(xlabel="timestep (DDPM training step)", ylabel=name)
        self.legend_ = legend_of(ax, text, self.lines_)
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator,
        train,
        test,
        *,
        timesteps,
        parameter=None,
        metric="srcc",
        confidence=0.95,
        n_resamples=1000,
        random_state=0,
        ax=None,
        **style,
    ):
        """Train at each timestep on one dataset, test on others, and draw.

        Parameters
        ----------
        estimator : estimator
            Unfitted regressor on media with a parameter for timesteps.
        train : Bunch
            Training dataset, as returned by the functions of
            :mod:`diffqa_features.datasets`.
        test : dict of str to Bunch
            Test datasets by name; see
            :func:`~diffqa_features.evaluation.cross_dataset`.
        timesteps : sequence of int
            DDPM training steps in [0, 999]; one fit each.
        parameter : str, default=None
            Parameter to set to each timestep, for example ``"features__timesteps"``.
            ``None`` finds the only parameter of that name.
        metric : {"srcc", "plcc", "krcc", "rmse"}, default="srcc"
            Metric to compute; ``plcc`` and ``rmse`` after the four-parameter logistic.
        confidence : float, default=0.95
            Confidence level of the intervals.
        n_resamples : int, default=1000
            Number of bootstrap resamples, by group if a dataset has groups.
        random_state : int, default=0
            Seed of the bootstrap.
        ax : matplotlib Axes, default=None
            See :meth:`plot`.
        **style : dict
            Further keyword arguments of :meth:`plot`.

        Returns
        -------
        TimestepCurveDisplay
            The display, already plotted. Bands reflect the choice of test pictures, not
            that of the training set.

        Raises
        ------
        ValueError
            If there is no such parameter, or the same medium is in training and test
            data.

        Notes
        -----
        The VAE runs once per picture, and the UNet once per picture, timestep and
        prompt.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        timesteps = np.sort(distinct_timesteps(timesteps))
        parameter = timesteps_parameter(estimator, parameter)
        check_metric(metric)
        with temporary_store() as store:
            base = with_store(estimator, store)  # latents serve all timesteps
            methods = {
                str(t): clone(base).set_params(**{parameter: (t,)})
                for t in timesteps.tolist()
            }
            table = cross_dataset(
                methods,
                {"the training set": train},
                test,
                metrics=metric,
                confidence=confidence,
                n_resamples=n_resamples,
                random_state=random_state,
            )
        found = table.frame.set_index(["test", "method"])[["value", "low", "high"]]
        order = list(map(str, timesteps.tolist()))
        curves = {name: found.loc[name].loc[order].to_numpy().T for name in test}
        display = cls(
            timesteps,
            {name: curve[0] for name, curve in curves.items()},
            {name: curve[1:] for name, curve in curves.items()},
            metric=metric,
            confidence=confidence,
        )
        return display.plot(ax, **style)

    @classmethod
    def from_predictions(
        cls,
        y_true,
        y_pred,
        *,
        timesteps,
        groups=None,
        metric="srcc",
        mapping="logistic4",
        confidence=0.95,
        n_resamples=1000,
        random_state=0,
        ax=None,
        **style,
    ):
        """Draw existing predictions.

        Parameters
        ----------
        y_true : dict of str to array-like of shape (n,)
            Scores of each test set.
        y_pred : dict of str to array-like of shape (T, n)
            Predictions by the same names, one row per timestep.
        timesteps : sequence of int of length T
            DDPM training steps in [0, 999].
        groups : dict of str to array-like of shape (n,), default=None
            Source of each row, for the bootstrap; test sets may be left out.
        metric : {"srcc", "plcc", "krcc", "rmse"}, default="srcc"
            Metric to compute.
        mapping : {"logistic4", "logistic5"} or None, default="logistic4"
            Curve fitted before ``plcc`` and ``rmse``.
        confidence : float, default=0.95
            Confidence level of the intervals.
        n_resamples : int, default=1000
            Number of bootstrap resamples.
        random_state : int, default=0
            Seed of the bootstrap.
        ax : matplotlib Axes, default=None
            See :meth:`plot`.
        **style : dict
            Further keyword arguments of :meth:`plot`.

        Returns
        -------
        TimestepCurveDisplay
            The display, already plotted.

        Raises
        ------
        ValueError
            If names or lengths differ.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        timesteps = distinct_timesteps(timesteps)
        if not y_true or y_true.keys() != y_pred.keys():
            raise ValueError(
                f"y_true has the test sets {list(y_true)}, y_pred has {list(y_pred)}."
            )
        values, bands = {}, {}
        order = np.argsort(timesteps)
        for name, scores in y_true.items():
            check_consistent_length(timesteps, y_pred[name])
            rows = np.array(
                [
                    bootstrap_interval(
                        scores,
                        y_pred[name][i],
                        metric=metric,
                        groups=(groups or {}).get(name),
                        mapping=mapping,
                        confidence=confidence,
                        n_resamples=n_resamples,
                        random_state=random_state,
                    )
                    for i in order
                ]
            ).T
            values[name], bands[name] = rows[0], rows[1:]
        display = cls(
            timesteps[order], values, bands, metric=metric, confidence=confidence
        )
        return display.plot(ax, **style)
