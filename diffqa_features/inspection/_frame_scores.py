"""A video and its frame scores in, a curve over time with thumbnails out."""

from collections.abc import Mapping

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features._media.rows import as_rows, open_media, take_rows
from diffqa_features._media.video.video import check_indices, spread
from diffqa_features.inspection._checks import numbers
from diffqa_features.inspection._style import COLORS, one_axes, small, tidy

_LONGEST_SIDE = 160  # pixels of a thumbnail


class FrameScoresDisplay:
    """Scores of the frames of a video over time.

    Parameters
    ----------
    scores : ndarray of shape (T,)
        Score of each frame.

    frames : ndarray of shape (T,), dtype int
        Index of each frame in the video, from 0, increasing.

    times : ndarray of shape (T,), default=None
        Presentation time of each frame in seconds. ``None`` if there is no time base:
        the x axis then shows frame indices.

    weights : ndarray of shape (T,), default=None
        Weight of each frame in the score of the video, drawn as bars.

    thumbnails : dict of int to ndarray of shape (h, w, 3), default=None
        Thumbnails of some frames, by position in `scores`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curve.
    figure_ : matplotlib Figure
        Figure containing the axes.
    line_ : matplotlib Line2D
        The scores.
    thumbnail_axes_ : list of matplotlib Axes
        One per thumbnail.
    weight_ax_ : matplotlib Axes
        Axes with the weights, or None.

    Notes
    -----
    :meth:`from_estimator` accepts any estimator with a method ``frame_scores(X)`` that
    returns a list with one mapping per row of `X` (a dict, or a
    :class:`~sklearn.utils.Bunch`) with the keys

    - ``"score"``: array of shape (T,), higher is better;
    - ``"frame"``: array of ints of shape (T,), index of each scored frame in the stored
      medium, from 0, increasing;
    - ``"time"``: array of shape (T,), seconds from the first frame, or None if the
      medium has no time base; optional;
    - ``"weight"``: array of shape (T,), non-negative, or None; optional.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features.inspection import FrameScoresDisplay
    >>> clip = np.random.default_rng(0).integers(0, 256, (6, 32, 48, 3), np.uint8)
    >>> display = FrameScoresDisplay.from_scores(
    ...     clip, [3.1, 3.0, 2.2, 2.4, 3.3, 3.2], n_thumbnails=3
    ... )
    >>> list(display.thumbnails)
    [1, 3, 5]
    """

    def __init__(self, scores, frames, *, times=None, weights=None, thumbnails=None):
        self.scores = scores
        self.frames = frames
        self.times = times
        self.weights = weights
        self.thumbnails = thumbnails

    def plot(self, ax=None, *, color=COLORS[0], marker="o", score_name="score"):
        """Draw the curve, with thumbnails above that point to their frames.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            ``None`` creates a single-column figure, 3.5 inches wide. Thumbnails need
            room above axes that you pass.
        color : matplotlib color, default="#0072B2"
            Colour of the curve.
        marker : str, default="o"
            Marker of the frames.
        score_name : str, default="score"
            Name of the scores, with their unit.

        Returns
        -------
        FrameScoresDisplay
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        shown = self.thumbnails or {}
        ax, text = one_axes(ax, 2.5 if shown else 2.1)
        self.ax_, self.figure_ = ax, ax.figure
        clock = self.times is not None
        x = np.asarray(self.times if clock else self.frames, dtype=float)
        (self.line_,) = ax.plot(
            x,
            self.scores,
            color=color,
            marker=marker,
            markersize=3,
            linewidth=1.2,
            zorder=3,
        )
        ax.set(xlabel="time (s)" if clock else "frame", ylabel=score_name)
        tidy(ax)
        self.weight_ax_ = None
        if self.weights is not None:
            self._draw_weights(x, text)
        self.thumbnail_axes_ = [
            self._draw_thumbnail(place, len(shown), x[at], self.scores[at], picture)
            for place, (at, picture) in enumerate(shown.items())
        ]
        if text is not None and shown:
            # Room for thumbnails depends on the height of the axes, which depends on
            # that room: one layout alone is two pixels short.
            self.figure_.draw_without_rendering()
        return self

    def _draw_weights(self, x, text):
        self.weight_ax_ = ax = self.ax_.twinx()
        width = 0.8 * np.diff(x).min() if len(x) > 1 else 0.8
        ax.bar(x, self.weights, width=width, color="0.82")
        # The lower third: the curve stays free where it is not at its lowest.
        ax.set_ylim(0, 3 * max(self.weights.max(), 1e-12))
        ax.spines[["left", "bottom", "top"]].set_visible(False)
        ax.spines["right"].set(color="0.4", linewidth=0.6)
        ax.set_ylabel("weight of the frame", fontsize=text, color="0.4")
        ax.tick_params(colors="0.4", labelsize=small(text), width=0.6, length=2.5)
        ax.locator_params(axis="y", nbins=4)
        # Axes are drawn one after the other: the curve's have to come last.
        self.ax_.set_zorder(ax.get_zorder() + 1)
        self.ax_.patch.set_visible(False)

    def _draw_thumbnail(self, place, count, x, score, picture):
        from matplotlib.patches import ConnectionPatch

        width = 1 / count
        box = (place * width + 0.04 * width, 1.08, 0.92 * width, 0.34)
        ax = self.ax_.inset_axes(box)
        ax.imshow(picture, interpolation="lanczos")
        ax.set(xticks=[], yticks=[], anchor="S")
        ax.spines[:].set_linewidth(0.6)
        line = ConnectionPatch(
            (0.5, 0),
            (x, score),
            ax.transAxes,
            self.ax_.transData,
            color="0.55",
            linewidth=0.6,
            zorder=1,
        )
        line.set_in_layout(False)
        self.ax_.add_artist(line)
        return ax

    @classmethod
    def from_estimator(cls, estimator, X, *, index=0, **more):
        """Score the frames of one row and draw them.

        Parameters
        ----------
        estimator : estimator with a method ``frame_scores``
            Fitted; see the notes of :class:`FrameScoresDisplay`.
        X : list, array, Series or DataFrame of N media rows
            Videos.
        index : int, default=0
            Row to draw; the others are not opened.
        **more : dict
            ``n_thumbnails``, see :meth:`from_scores`, and keyword arguments of
            :meth:`plot`.

        Returns
        -------
        FrameScoresDisplay
            The display, already plotted.

        Raises
        ------
        TypeError
            If the estimator has no ``frame_scores``, or it returns something else.
        ValueError
            If lengths differ or numbers are not finite.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        name = type(estimator).__name__
        if not hasattr(estimator, "frame_scores"):
            raise TypeError(
                f"{name} has no method frame_scores(X). Give FrameScoresDisplay."
                "from_scores the scores of the frames in its place."
            )
        one = take_rows(X, [index])
        found = estimator.frame_scores(one)
        if len(found) != 1 or not isinstance(found[0], Mapping):
            raise TypeError(
                f"frame_scores of {name} must return a list with one mapping per row. "
                f"Got {type(found).__name__} of length {len(found)} for one row."
            )
        missing = {"score", "frame"} - found[0].keys()
        if missing:
            raise ValueError(
                f"frame_scores of {name} must give 'score' and 'frame'. Got "
                f"{sorted(found[0])} instead."
            )
        given = (found[0].get(key) for key in ("score", "frame", "time", "weight"))
        return cls._draw(one, getattr(estimator, "reader", "auto"), *given, **more)

    @classmethod
    def from_scores(
        cls,
        video,
        scores,
        *,
        frames=None,
        times=None,
        weights=None,
        n_thumbnails=5,
        ax=None,
        **style,
    ):
        """Draw existing scores.

        Parameters
        ----------
        video : str, path or ndarray of shape (T, H, W, 3)
            The scored video.
        scores : array-like of shape (T,)
            Score of each frame, finite.
        frames : array-like of shape (T,), dtype int, default=None
            Index of each frame in the video, from 0, increasing; ``None`` counts from
            0.
        times : array-like of shape (T,), default=None
            Presentation time of each frame in seconds; ``None`` reads it from the
            video, if that has a time base.
        weights : array-like of shape (T,), default=None
            Weight of each frame, non-negative.
        n_thumbnails : int, default=5
            Number of evenly spaced frames to show; 0 shows none.
        ax : matplotlib Axes, default=None
            See :meth:`plot`.
        **style : dict
            Further keyword arguments of :meth:`plot`.

        Returns
        -------
        FrameScoresDisplay
            The display, already plotted.

        Raises
        ------
        ValueError
            If lengths differ, numbers are not finite, or the video cannot be read.
        """
        check_matplotlib_support(f"{cls.__name__}.from_scores")
        if frames is None:
            frames = np.arange(len(scores))
        given = scores, frames, times, weights
        return cls._draw([video], "auto", *given, n_thumbnails, ax, **style)

    @classmethod
    def _draw(
        cls,
        one,
        reader,
        scores,
        frames,
        times,
        weights,
        n_thumbnails=5,
        ax=None,
        **style,
    ):
        (row,) = as_rows(one)
        media = open_media(row, reader)
        scores = numbers(scores, "score")
        frames = column_or_1d(frames)
        if frames.dtype.kind not in "iu" or len(frames) != len(scores):
            raise ValueError(
                f"There must be an int frame number for each of {len(scores)} scores. "
                f"Got {len(frames)} of {frames.dtype}."
            )
        clock = media.times()
        # What has no clock is chosen whole.
        check_indices(frames, len(media.choose() if clock is None else clock))
        if times is None and clock is not None:
            times = clock[frames]
        times = None if times is None else numbers(times, "time", len(scores))
        if weights is not None:
            weights = numbers(weights, "weight", len(scores))
            if weights.min() < 0:
                raise ValueError(f"Weights must not be negative. Got {weights.min()}.")
        chosen = spread(len(scores), n_thumbnails) if n_thumbnails else []
        pictures = media.read(frames[chosen]) if len(chosen) else []
        shown = {int(at): _reduced(p) for at, p in zip(chosen, pictures)}
        display = cls(scores, frames, times=times, weights=weights, thumbnails=shown)
        return display.plot(ax, **style)


def _reduced(frame):
    from PIL import Image

    picture = Image.fromarray(frame)
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return np.asarray(picture)
