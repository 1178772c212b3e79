"""A picture and its prompt maps in, panels with overlaid maps out."""

from textwrap import fill

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features._media.rows import as_rows, open_media, take_rows
from diffqa_features._media.views import view_frames
from diffqa_features.evaluation._extraction import temporary_store, with_store
from diffqa_features.inspection._style import (
    COLUMN,
    LUMINANCE,
    PAGE,
    TEXT,
    small,
    title,
)

_LETTER = 0.065  # inches that a letter of 8 points is wide


class AlignmentMapDisplay:
    """Overlay of attention maps per prompt, over all blocks or per block.

    One panel shows the picture; each further panel shows one map over the picture in
    grey. Prompts are arranged in columns, blocks in rows.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), dtype uint8
        The picture.

    maps : ndarray of shape (K, h, w), or (B, K, h, w) with `blocks`
        One map per prompt (and block), over the whole picture.

    prompts : sequence of str of length K
        Prompt of each map.

    blocks : sequence of str of length B, default=None
        Names of the blocks, if `maps` has several.

    map_name : str, default="attention"
        Name of the values.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        The panels: the picture, K maps, and the difference if requested. With `blocks`,
        of shape (B, panels), where only the first row has the picture.
    figure_ : matplotlib Figure
        Figure containing the axes.

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

    def __init__(self, image, maps, *, prompts, blocks=None, map_name="attention"):
        self.image = image
        self.maps = maps
        self.prompts = prompts
        self.blocks = blocks
        self.map_name = map_name

    def plot(self, ax=None, *, difference=False, cmap="viridis", alpha=0.65):
        """Draw the panels.

        Parameters
        ----------
        ax : array-like of matplotlib Axes, default=None
            One per panel; ``None`` creates a single-column figure, 3.5 inches wide, or
            a full-width one for more than four panels side by side.
        difference : bool, default=False
            Add a panel with the first map minus the second, each with its mean
            subtracted: it shows which of the two prompts a position is closer to.
        cmap : str or matplotlib Colormap, default="viridis"
            Colour map of the maps. Each map has its own scale, since prompts and blocks
            differ in their overall attention. With `blocks`, a single colour bar says
            so instead of one bar each.
        alpha : float, default=0.65
            Opacity of the maps over the picture, in [0, 1].

        Returns
        -------
        AlignmentMapDisplay
            The display itself.

        Raises
        ------
        ValueError
            If the number of axes does not match the panels, or `difference` is
            requested with fewer than two prompts.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        if difference and len(self.prompts) < 2:
            raise ValueError("difference=True needs the maps of two prompts at least.")
        rows = 1 if self.blocks is None else len(self.blocks)
        panels = 1 + len(self.prompts) + bool(difference)
        titles = ["picture", *(f"“{prompt}”" for prompt in self.prompts)]
        titles += ["first minus second"] * bool(difference)
        if ax is None:
            across = (COLUMN if panels <= 4 else PAGE) / panels  # inches
            titles = [fill(words, max(8, int(across / _LETTER))) for words in titles]
        lines = 1 + max(words.count("\n") for words in titles)
        axes, text = self._axes(ax, rows, panels, lines)
        self.figure_ = axes[0, 0].figure
        h, w = self.image.shape[:2]
        for panel in axes.ravel():
            panel.set(xticks=[], yticks=[], xlim=(0, w), ylim=(h, 0))
            panel.set_aspect("equal")
            panel.spines[:].set_linewidth(0.6)
        axes[0, 0].imshow(self.image, extent=(0, w, h, 0))
        for panel in axes[1:, 0]:
            panel.set_axis_off()
        for panel, words in zip(axes[0], titles):
            title(panel, words, text)
        shown = np.reshape(self.maps, (rows, *np.shape(self.maps)[-3:]))
        for at, (row, maps) in enumerate(zip(axes, shown)):
            overlays = [
                self._overlay(panel, values, cmap, alpha)
                for panel, values in zip(row[1:], maps)
            ]
            if difference:
                first, second = (values - values.mean() for values in maps[:2])
                values = first - second
                limit = np.abs(values).max() or 1.0
                # Orange and purple are told apart by everyone; the middle is white.
                overlays.append(self._overlay(row[-1], values, "PuOr_r", alpha))
                overlays[-1].set_clim(-limit, limit)
            if self.blocks is None:
                for overlay, panel in zip(overlays, row[1:]):
                    ends = _numbers(*overlay.get_clim())
                    self._bar(overlay, panel, text, self.map_name, ends)
                continue
            row[1].set_ylabel(self.blocks[at], fontsize=text, labelpad=2)
            if at == rows - 1:  # numbers differ from row to row; which end is which not
                ends = [("low", "high")] * len(maps) + [("second", "first")]
                label = f"{self.map_name}\n(each map)"
                for overlay, panel, words in zip(overlays, row[1:], ends):
                    self._bar(overlay, panel, text, label, words)
        self.axes_ = axes if self.blocks is not None else axes[0]
        return self

    def _axes(self, ax, rows, panels, lines):
        import matplotlib.pyplot as plt

        text = None
        if ax is None:
            text = TEXT
            h, w = self.image.shape[:2]
            width = COLUMN if panels <= 4 else PAGE
            height = rows * (0.93 * width / panels * h / w + 0.04)
            height += 0.14 * lines + (0.5 if self.blocks is None else 0.6)
            _, ax = plt.subplots(
                rows, panels, figsize=(width, height), layout="compressed"
            )
        axes = np.ravel(np.asarray(ax, dtype=object))
        if len(axes) != rows * panels:
            raise ValueError(
                f"There are {rows * panels} panels. Got {len(axes)} axes instead."
            )
        return axes.reshape(rows, panels), text

    def _overlay(self, panel, values, cmap, alpha):
        h, w = self.image.shape[:2]
        options = {"extent": (0, w, h, 0), "aspect": "equal"}
        gray = self.image @ np.array(LUMINANCE)
        panel.imshow(gray, cmap="gray", vmin=0, vmax=255, **options)
        return panel.imshow(
            values, cmap=cmap, alpha=alpha, interpolation="bilinear", **options
        )

    def _bar(self, overlay, panel, text, label, ends):
        """Colour bar inside the panel's own column, so all panels are of equal size."""
        h, w = self.image.shape[:2]
        place = panel.inset_axes((0.04, -0.1 * w / h, 0.92, 0.06 * w / h))
        bar = self.figure_.colorbar(overlay, cax=place, orientation="horizontal")
        bar.set_label(label, fontsize=small(text), labelpad=2)
        bar.outline.set_linewidth(0.6)
        # Ends only, inwards: at this size more numbers would run into each other.
        bar.set_ticks(overlay.get_clim(), labels=ends)
        bar.ax.tick_params(length=0, pad=3)
        for tick, side in zip(bar.ax.get_xticklabels(), ("left", "right")):
            tick.set(horizontalalignment=side, fontsize=small(text))

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        index=0,
        blocks=None,
        ax=None,
        **style,
    ):
        """Compute the maps of one row and draw them.

        Parameters
        ----------
        estimator : PromptAlignmentMaps
            Computes the maps.
        X : list, array, Series or DataFrame of N media rows
            See :meth:`diffqa_features.PromptAlignmentMaps.maps`.
        index : int, default=0
            Row to draw; the others are not opened. For a video, the middle frame is
            shown, with the mean of the maps over frames.
        blocks : sequence of str, default=None
            Names or patterns, for example ``["down1.0", "mid.0", "up*"]``: one row of
            maps each, from one pass per prompt. ``None`` draws one map per prompt, over
            the estimator's blocks.
        ax : array-like of matplotlib Axes, default=None
            See :meth:`plot`.
        **style : dict
            Further keyword arguments of :meth:`plot`.

        Returns
        -------
        AlignmentMapDisplay
            The display, already plotted.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        one = take_rows(X, [index])
        if blocks is None:
            (maps,) = estimator.maps(one)
        else:
            blocks = [blocks] if isinstance(blocks, str) else list(blocks)
            with temporary_store() as store:
                # A store keeps whole passes: every block is read from the first.
                each = with_store(estimator, store)
                maps = np.stack(
                    [each.set_params(blocks=name).maps(one)[0] for name in blocks]
                )
        (row,) = as_rows(one)
        request = estimator._request()
        spec = request.frames
        media = open_media(row, estimator.reader)
        chosen = spec.choose(media)
        (frame,) = media.read(chosen[[len(chosen) // 2]])
        if estimator.view == "crop":
            # The other views show the whole picture, so the maps lie over all of it.
            frame = view_frames(frame[None], "crop", spec.image_size, spec.multiple)[0]
        name = "attention logit" if estimator.signed else "attention"
        display = cls(
            frame, maps, prompts=request.texts(row), blocks=blocks, map_name=name
        )
        return display.plot(ax, **style)


def _numbers(low: float, high: float) -> tuple[str, str]:
    """Both ends of a scale, with as few digits as distinguish them."""
    for digits in range(2, 9):
        texts = tuple(
            f"{v:.{digits}g}".replace("-", "\N{MINUS SIGN}") for v in (low, high)
        )
        if texts[0] != texts[1]:
            break
    return texts
