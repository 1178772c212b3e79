"""A video in, its presentation times and selected frames out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence

import numpy as np

from diffqa_features._media.video.decoders import (
    DecordError,
    check_damage,
    objection,
    read_decord,
    read_imageio,
)
from diffqa_features._media.video.demux import absolute, index_video
from diffqa_features._media.video.opening import VideoError

VIDEO_BACKENDS = ("auto", "decord", "imageio")

log = logging.getLogger(__name__)


class Video:
    """The first video stream of a file; frames are decoded on demand.

    Pixels are the stored ones (non-square pixels are not resampled), rotated upright.
    Matrix (BT.601 or BT.709) and range follow the stream, BT.601 if unspecified; alpha
    is composited on white; 10 bits and more are rounded to 8.
    """

    def __init__(self, source: str | bytes, reader: str = "auto") -> None:
        self._index = index_video(source)
        self._reader = reader

    def times(self) -> np.ndarray:
        """Presentation times in seconds from the first frame: float64 (T,)."""
        return self._index.times

    @property
    def duration(self) -> float:
        """Seconds from the first frame's start to the last one's end."""
        return self._index.end

    @property
    def frame_rate(self) -> float:
        """Frames per second, on average."""
        return self._index.frame_rate

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield frames (H, W, 3) uint8 at increasing indices into `times`."""
        wanted = check_indices(indices, len(self._index.times))
        refused = "" if self._reader == "imageio" else _refusal(self._index)
        if refused and self._reader == "decord":
            raise _decord_refuses(refused)
        done = 0
        if self._reader != "imageio" and not refused:
            try:
                check_damage(self._index, wanted)
                for frame in read_decord(self._index, wanted):
                    yield frame
                    done += 1
                return
            except DecordError as error:
                if self._reader == "decord":
                    raise _decord_refuses(error) from error
                log.info("decord: %s; the imageio reader goes on.", error)
        yield from read_imageio(self._index, wanted[done:])


def open_video(source: str | os.PathLike | bytes, reader: str = "auto") -> Video:
    """Open the path or the content of a video file.

    ``"auto"`` uses decord if it gives the same frames as imageio's PyAV, and PyAV
    otherwise; see `diffqa_features._media.video.decoders.objection`.
    """
    if reader not in VIDEO_BACKENDS:
        raise ValueError(
            f"reader must be one of {VIDEO_BACKENDS}. Got {reader!r} instead."
        )
    return Video(source if isinstance(source, bytes) else absolute(source), reader)


def choose_frames(
    times: np.ndarray,
    duration: float,
    frame_rate: float,
    max_frames: int | None = None,
    burst_length: int = 1,
) -> np.ndarray:
    """Indices of the frames shown at 0.5 s + k / frame_rate, each of them once.

    k is any integer that falls into [0, duration); if there is none, the middle frame
    is used. `max_frames` and `burst_length` are those of `gather_bursts`.
    """
    # Container clocks round to their ticks: a frame due at 0.5 s may say 0.5000001.
    slack = 1e-6
    start, end = times - slack, np.append(times[1:], duration) - slack
    # The first moment that is not before the frame appears.
    due = 0.5 + np.ceil((np.maximum(start, -slack) - 0.5) * frame_rate) / frame_rate
    chosen = np.flatnonzero(due < end)
    if not len(chosen):
        chosen = [max(0, np.searchsorted(times, duration / 2, "right") - 1)]
    return gather_bursts(np.asarray(chosen), len(times), max_frames, burst_length)


def gather_bursts(
    moments: np.ndarray, count: int, max_frames: int | None, burst_length: int
) -> np.ndarray:
    """Indices of `burst_length` adjacent frames around each moment, each of them once.

    Moments are indices into `count` frames. `max_frames` is the number of frames in
    all: of the moments, `spread` keeps as many as there is room for bursts. At the ends
    of the medium, a burst begins later or earlier; a medium that is shorter than a
    burst is used whole.
    """
    length = min(burst_length, count, max_frames or count)
    bursts = None if max_frames is None else max_frames // length
    middles = moments[spread(len(moments), bursts)]
    starts = np.clip(middles - length // 2, 0, count - length)
    return np.unique(starts[:, None] + np.arange(length))


def spread(count: int, max_frames: int | None) -> np.ndarray:
    """Centres of `max_frames` equal segments of `count` frames; all if fewer."""
    if max_frames is None or count <= max_frames:
        return np.arange(count)
    return (2 * np.arange(max_frames) + 1) * count // (2 * max_frames)


def check_indices(indices: Sequence[int], count: int) -> list[int]:
    """The indices as ints; an error unless they increase within [0, count)."""
    wanted = [int(at) for at in indices]
    if any(b <= a for a, b in zip([-1, *wanted], [*wanted, count])):
        raise ValueError(f"indices must increase within [0, {count}). Got {wanted}.")
    return wanted


def _refusal(index) -> str:
    try:
        import decord  # noqa: F401
    except (ImportError, OSError) as error:  # no wheel, or a library that is not there
        return f"it cannot be imported ({error})"
    return objection(index)


def _decord_refuses(why) -> VideoError:
    return VideoError(
        f"cannot be read with decord ({why}); use reader='auto' or 'imageio'."
    )
