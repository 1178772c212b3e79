"""Media in, clips of 32 frames of the network's size out, one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffqa_features._media.rows import Media
from diffqa_features._media.views import view_frames

LENGTH = 32
"""Frames of a clip."""

NO_CLOCK_RATE = 30.0
"""Frames per second that arrays are taken to have."""

RULE = 1
"""Raised whenever other frames would make up a clip; part of every store key."""


def choose_clips(times: np.ndarray) -> np.ndarray:
    """Choose the frames of each clip from presentation times.

    Parameters
    ----------
    times : ndarray of shape (T,), dtype float64
        Seconds, increasing.

    Returns
    -------
    ndarray of shape (n, 32), dtype int64
        Clip k starts at the first frame shown at or after second k, counted from the
        first frame, and consists of consecutive frames. There is one clip for every
        second of which at least half is shown, and at least one. A clip that would run
        past the end starts earlier instead: repeating the last frame would look like a
        freeze. A video shorter than one clip is played forwards and backwards, which
        has no jump; a still stays still.
    """
    count = len(times)
    if count < LENGTH:
        # 0 1 2 3 2 1 0 1 ...; a cycle has the ends once.
        cycle = np.abs(np.arange(LENGTH) % max(2 * count - 2, 1))
        return np.minimum(cycle, 2 * count - 2 - cycle)[None]
    # The last frame is shown as long as a mean frame.
    shown = (times[-1] - times[0]) * count / (count - 1)
    seconds = np.arange(max(1, np.ceil(shown - 0.5)))
    # A frame that is due at a second and comes a rounding error before it counts.
    starts = np.searchsorted(times - times[0], seconds - 1e-4)
    starts = np.minimum(starts, count - LENGTH)
    return np.unique(starts)[:, None] + np.arange(LENGTH)


def read_clips(media: Media, size: int) -> Iterator[np.ndarray]:
    """Yield uint8 clips (32, size, size, 3), with at most one clip in memory."""
    times = media.times()
    if times is None:
        times = np.arange(len(media.choose())) / NO_CLOCK_RATE
    clips = choose_clips(times)
    indices = np.unique(clips)
    wanted = zip(indices.tolist(), media.read(indices), strict=True)
    held: dict[int, np.ndarray] = {}
    for clip in clips:
        held = {index: frame for index, frame in held.items() if index >= clip.min()}
        while clip.max() not in held:
            index, frame = next(wanted)
            held[index] = view_frames(frame[None], "stretch", size, 1)[0]
        yield np.stack([held[index] for index in clip.tolist()])
    next(wanted, None)  # a reader may have something to say at its end
