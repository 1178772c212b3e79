"""A picture and its prompt maps in, a row of panels with the maps over it out."""

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features._media import as_rows, open_media
from diffqa_features._views import view_frames

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


class AlignmentMapDisplay:
    """Where in a picture each prompt is attended to.

    One panel shows the picture; each further panel one map over the gray picture.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), dtype uint8
        The picture.

    maps : ndarray of shape (K, h, w)
        One map per prompt, over the whole picture.

    prompts : sequence of str of length K
        What the maps belong to.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        The panels: the picture, K maps, and the difference if it was asked for.
    figure_ : matplotlib Figure
        The figure that holds them.

    See Also
    --------
    diffqa_features.PromptAlignmentMaps : Computes the maps.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features.inspection import AlignmentMapDisplay
    >>> image = np.zeros((64, 64, 3), dtype=np.uint8)
    >>> maps = np.random.default_rng(0).random((2, 8, 8))
    >>> display = AlignmentMapDisplay(image, maps, prompts=["sharp", "blurred"])
    >>> display.plot(difference=True).axes_.shape
    (4,)
    """

    def __init__(self, image, maps, *, prompts):
        self.image = image
        self.maps = maps
        self.prompts = prompts

    def plot(self, ax=None, *, difference=False, cmap="viridis", alpha=0.65):
        """Draw the panels.

        Parameters
        ----------
        ax : array-like of matplotlib Axes, default=None
            One per panel; ``None`` makes a figure with the panels in a row.
        difference : bool, default=False
            Add a panel of the first map minus the second, each less its mean: it shows
            which of the two prompts a place is nearer to.
        cmap : str or matplotlib Colormap, default="viridis"
            Colours of the maps. Each map has a scale of its own, since prompts differ
            in how much attention they get at all.
        alpha : float, default=0.65
            Opacity of the maps over the picture, in [0, 1].

        Returns
        -------
        AlignmentMapDisplay
            Itself.

        Raises
        ------
        ValueError
            If the number of axes is not that of the panels, or `difference` is asked
            for with fewer than two prompts.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt

        if difference and len(self.maps) < 2:
            raise ValueError("difference=True needs the maps of two prompts at least.")
        panels = 1 + len(self.maps) + bool(difference)
        h, w = self.image.shape[:2]
        if ax is None:
            size = (2.7 * panels, 2.0 * h / w + 0.9)
            _, ax = plt.subplots(1, panels, figsize=size, layout="constrained")
        axes = np.ravel(np.asarray(ax, dtype=object))
        if len(axes) != panels:
            raise ValueError(
                f"There are {panels} panels. Got {len(axes)} axes instead."
            )
        self.axes_ = axes
        self.figure_ = axes[0].figure

        for panel in axes:
            panel.set(xticks=[], yticks=[], xlim=(0, w), ylim=(h, 0))
        axes[0].imshow(self.image, extent=(0, w, h, 0))
        axes[0].set_title("picture")
        for panel, values, prompt in zip(axes[1:], self.maps, self.prompts):
            self._draw(panel, values, cmap, alpha)
            panel.set_title(f"“{prompt}”")
        if difference:
            first, second = (values - values.mean() for values in self.maps[:2])
            values = first - second
            limit = np.abs(values).max() or 1.0
            # Orange and purple are told apart by everyone; the middle is white.
            self._draw(axes[-1], values, "PuOr_r", alpha, vmin=-limit, vmax=limit)
            axes[-1].set_title("first minus second")
        return self

    def _draw(self, panel, values, cmap, alpha, **limits):
        h, w = self.image.shape[:2]
        options = {"extent": (0, w, h, 0), "aspect": "equal"}
        gray = self.image @ np.array(_LUMINANCE)
        panel.imshow(gray, cmap="gray", vmin=0, vmax=255, **options)
        overlay = panel.imshow(
            values,
            cmap=cmap,
            alpha=alpha,
            interpolation="bilinear",
            **limits,
            **options,
        )
        bar = self.figure_.colorbar(
            overlay, ax=panel, location="bottom", shrink=0.9, aspect=30, pad=0.03
        )
        bar.ax.locator_params(nbins=4)
        bar.formatter.set_powerlimits((-2, 3))
        bar.ax.tick_params(labelsize="small")

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        index=0,
        ax=None,
        difference=False,
        cmap="viridis",
        alpha=0.65,
    ):
        """Compute the maps of one row and draw them.

        Parameters
        ----------
        estimator : PromptAlignmentMaps
            What computes the maps.
        X : list, array, Series or DataFrame of N media rows
            See :meth:`diffqa_features.PromptAlignmentMaps.maps`.
        index : int, default=0
            The row that is drawn; the others are not opened. Of a video the middle
            frame is shown, and its maps are the mean over frames.
        ax : array-like of matplotlib Axes, default=None
            See :meth:`plot`.
        difference : bool, default=False
            See :meth:`plot`.
        cmap : str or matplotlib Colormap, default="viridis"
            See :meth:`plot`.
        alpha : float, default=0.65
            See :meth:`plot`.

        Returns
        -------
        AlignmentMapDisplay
            What was drawn.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        one = _safe_indexing(X, [index])
        (maps,) = estimator.maps(one)
        (row,) = as_rows(one)
        request = estimator._request()
        media = open_media(row, estimator.reader)
        chosen = media.choose(estimator.frame_rate, estimator.max_frames)
        (frame,) = media.read(chosen[[len(chosen) // 2]])
        if estimator.view == "crop":
            # The other views show the whole picture, so the maps lie over all of it.
            frame = view_frames(
                frame[None], "crop", request.image_size, request.multiple
            )[0]
        display = cls(frame, maps, prompts=request.texts(row))
        return display.plot(ax, difference=difference, cmap=cmap, alpha=alpha)
