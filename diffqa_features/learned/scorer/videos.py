"""A clip in; bursts of adjacent frames, their columns, and a machine's answers out.

The machine sees what the scorer says about a few frames of a burst and how its frames
change (`motion`). It knows nothing of how frames are scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diffqa_features._media.video.video import spread
from diffqa_features.learned.scorer.motion import LUMA, describe_burst, to_luma
from diffqa_features.learned.scorer.perceptrons import check_scale
from diffqa_features.learned.scorer.tiles import cut_tiles

BURST = 32
"""Frames of a burst, as many as the clips had from which the machine learned."""

FEWEST = 8
"""Frames below which nothing can be said about timing."""

TIMING = ("freeze", "drop", "judder", "low_rate", "flicker")
"""Kinds of fault that single frames cannot show."""

_LOOKED_AT = 3  # frames of a burst
_MOTION_TILES, _PICTURE_TILES = 24, 12  # of a frame
_FRAME_RATE = 30.0  # of arrays, which have none
_DRAWN_IN = 2.5  # spreads


@dataclass(frozen=True)
class Burst:
    """Adjacent frames: luminance of their tiles, when they are due, and some tiles."""

    luma: np.ndarray
    """uint8 of shape (T, n, h, w)."""
    times: np.ndarray
    """Seconds, (T,)."""
    looked_at: list[np.ndarray]
    """Tiles (m, h, w, 3) of the frames that are scored as pictures."""
    middle: int
    """Index of the frame in the middle."""


def frame_times(media) -> np.ndarray:
    """When each frame is due, seconds (T,); one of a picture."""
    if media.is_still:
        return np.zeros(1)
    times = media.times()
    if times is not None:
        return times
    count = len(media.choose())
    if count > 1 and not media.is_array:
        raise media.row.error(
            f"{count} pages without times are no video; pass the pages one by one, or "
            "drop the row."
        )
    return np.arange(count) / _FRAME_RATE


def read_bursts(media, times, max_bursts, max_tiles, check) -> Iterator[Burst]:
    """Yield the bursts of a clip one by one, evenly spread and never overlapping.

    `check` is called with each frame.
    """
    count = len(times)
    length = min(BURST, count)
    middles = spread(count, min(count // length, max_bursts or count))
    starts = middles - length // 2
    looked = set(looked_at(length))
    moving, seen = (
        min(most, max_tiles or most) for most in (_MOTION_TILES, _PICTURE_TILES)
    )
    frames = media.read((starts[:, None] + np.arange(length)).ravel())
    for start in starts:
        luma, tiles = [], []
        for place in range(length):
            frame = next(frames)
            check(frame)
            # Its statistics learned from whole tiles.
            luma.append(to_luma(cut_tiles(frame, moving, smaller=False)))
            if place in looked:
                tiles.append(cut_tiles(frame, seen, smaller=False))
        shown = times[start : start + length]
        yield Burst(np.stack(luma), shown, tiles, int(start) + length // 2)
    next(frames, None)  # it checks the file at its end


def looked_at(length: int) -> list[int]:
    """Places of the frames of a burst that are scored as pictures."""
    return spread(length, _LOOKED_AT).tolist()


def burst_columns(burst: Burst, verdicts) -> dict[str, float]:
    """Columns by name; `verdicts` are score, std and faults (F,) of the frames."""
    scores, spreads, faults = (np.array(part) for part in zip(*verdicts, strict=True))
    found = {
        "picture": scores.mean(),
        "picture_lowest": scores.min(),
        "picture_range": np.ptp(scores),
        "picture_std": spreads.mean(),
    }
    for place, chance in enumerate(faults.mean(0)):
        found[f"picture_fault{place}"] = chance
    found |= _describe_light(np.concatenate(burst.looked_at))
    return found | describe_burst(burst.luma, burst.times)


def _describe_light(tiles):
    """Light, contrast and colour of tiles (n, h, w, 3)."""
    pixels = tiles[:, ::2, ::2].reshape(-1, 3).astype(np.float32)
    luma = pixels @ LUMA
    saturation = np.ptp(pixels, axis=1)
    shares = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    found = {f"luma_{q}": value for q, value in zip(shares, np.quantile(luma, shares))}
    found |= {
        f"saturation_{q}": value
        for q, value in zip((0.25, 0.5, 0.75, 0.95), np.quantile(
            saturation, (0.25, 0.5, 0.75, 0.95)))
    }  # fmt: skip
    red, green, blue = pixels.mean(0)
    return found | {
        "contrast": luma.std(),
        "lowest_values": (pixels < 3).mean(),
        "highest_values": (pixels > 252).mean(),
        "values": len(np.unique(luma.astype(np.uint8))) / 256,
        "red": red - green,
        "blue": blue - green,
    }


def to_jod(root):
    """JOD of the root of what is lost, which is what is regressed."""
    return 10 - np.maximum(root, 0) ** 2


class VideoMachine:
    """Kernel regression on columns: JOD, its spread, and faults of timing.

    Parameters
    ----------
    weights : dict of str to ndarray
        ``mean``, ``scale`` (D,), ``sharpness`` (), ``landmarks`` (L, D), ``answers``
        (L, 2 + kinds) and ``bias`` (2 + kinds,). The first answer is the root of the
        loss, the second the logarithm of its error, the others are logits.
    columns : list of str
        Names of the D columns.
    """

    def __init__(self, weights, columns):
        self.columns = list(columns)
        for name, shape in {
            "mean": (len(columns),),
            "scale": (len(columns),),
            "sharpness": (),
            "landmarks": (None, len(columns)),
            "answers": (None, 2 + len(TIMING)),
            "bias": (2 + len(TIMING),),
        }.items():
            value = np.asarray(weights[name], np.float64)
            wanted = tuple(a if b is None else b for a, b in zip(value.shape, shape))
            if value.ndim != len(shape) or value.shape != wanted:
                raise ValueError(f"{name!r} has the shape {value.shape}.")
            setattr(self, name, value)
        if len(self.landmarks) != len(self.answers):
            raise ValueError(
                f"'landmarks' are {len(self.landmarks)}, 'answers' {len(self.answers)}."
            )
        check_scale(self.scale)

    def __call__(self, columns: dict[str, float]):
        """JOD, standard deviation, and probabilities (kinds,) of a burst."""
        unknown = [name for name in self.columns if name not in columns]
        if unknown:
            raise ValueError(
                f"the scorer was trained on the column {unknown[0]!r}, which is not "
                "measured here. Use the version of diffqa_features that trained it."
            )
        row = np.array([[columns[name] for name in self.columns]])
        score, spread, kinds = self.answer(row)
        return score[0], spread[0], kinds[0]

    def scaled(self, rows):
        """Columns (N, D) in units of their spread; what is far outside is drawn in."""
        rows = (rows - self.mean) / self.scale
        return _DRAWN_IN * np.tanh(rows / _DRAWN_IN)

    def likeness(self, rows):
        """How near scaled rows are to the landmarks, 1 for equal: (N, L)."""
        distance = (rows**2).sum(1)[:, None] - 2 * rows @ self.landmarks.T
        distance = distance + (self.landmarks**2).sum(1)
        return np.exp(-self.sharpness * np.maximum(distance, 0) / rows.shape[1])

    def answer(self, rows):
        """JOD (N,), standard deviations (N,), probabilities (N, kinds) of columns."""
        answers = self.bias + self.likeness(self.scaled(rows)) @ self.answers
        spread = np.exp(np.clip(answers[:, 1], -4, 2))
        return to_jod(answers[:, 0]), spread, 1 / (1 + np.exp(-answers[:, 2:]))
