"""The bytes of an image file with several frames in; times and frames out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from diffqa_features._media.budget import check_budget
from diffqa_features._media.complete import gif_frames
from diffqa_features._media.images import check_whole, explained, frame_pixels, identify

_CLOCKED = ("AVIF", "FLI", "GIF", "PNG", "WEBP")
_UNSAID = 0.1  # seconds that browsers show a frame whose duration is not given
# Pixels of all frames together, in Pillow's MAX_IMAGE_PIXELS: 9 billion by default,
# 70 minutes of full HD at one frame per second. Each frame builds upon the last one, so
# that all of them are decoded, however few are asked for.
_ROUND = 100


class Animation:
    """Frames of a GIF, WebP, PNG, AVIF or FLI, or pages of a TIFF and the like."""

    def __init__(self, image: Image.Image, data: bytes) -> None:
        self._data = data
        self._format, self._delay = image.format, image.info.get("duration")
        # The picture that programs without animation show is no part of it.
        self._skipped = int(bool(image.info.get("default_image")))
        self._count = image.n_frames - self._skipped
        self._clocked = image.format in _CLOCKED
        self._clock = None
        self._check_size(image)
        check_whole(image, data)

    def __len__(self) -> int:
        return self._count

    def times(self) -> np.ndarray | None:
        """Presentation times, float64 seconds (T,); None for pages."""
        if not self._clocked:
            return None
        if self._clock is None:
            durations = self._durations()
            seconds = [(each or 0) / 1000 or _UNSAID for each in durations]
            self._clock = np.cumsum([0.0, *seconds])
        return self._clock[:-1]

    @property
    def duration(self) -> float | None:
        """Seconds per loop."""
        return None if self.times() is None else float(self._clock[-1])

    @property
    def frame_rate(self) -> float | None:
        """Frames per second, on average."""
        return None if self.times() is None else self._count / self.duration

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 at increasing indices, one at a time."""
        done, size = 0, None
        try:
            for image in self._each(indices):
                pixels = frame_pixels(image)
                size = size or pixels.shape
                if pixels.shape != size:
                    raise ValueError(
                        "its frames or pages have different sizes; split the file and "
                        "pass each of them, or drop the row."
                    )
                yield pixels
                done += 1
        except ValueError as error:
            raise ValueError(
                f"{done} of {self._count} frames decoded with Pillow, then: {error}"
            ) from error

    def _durations(self) -> list[float]:
        """Milliseconds of each frame, without decoding if possible."""
        if self._format == "FLI":  # says it once, for all
            return [self._delay] * self._count
        read = _DURATIONS.get(self._format)
        if read is not None:
            durations = read(self._data)
            if len(durations) == self._count:
                return durations
        durations = []
        for image in self._each(range(self._count)):
            with explained():
                image.load()  # AVIF tells only then
            durations.append(image.info.get("duration"))
        return durations

    def _each(self, indices):
        image = identify(self._data)  # anew: not every format can be wound back
        for at in indices:
            with explained():
                image.seek(int(at) + self._skipped)
            if not self._clocked:
                check_whole(image, self._data)
            yield image

    def _check_size(self, image: Image.Image) -> None:
        """Reject what would take too much memory or time."""
        width, height = image.size
        if image.format == "GIF":  # its frames may be larger than its screen
            with explained():
                for _, right, bottom in gif_frames(self._data):
                    width, height = max(width, right), max(height, bottom)
        check_budget(width, height)
        limit = Image.MAX_IMAGE_PIXELS
        total = width * height * self._count
        if self._clocked and limit is not None and total > _ROUND * limit:
            raise ValueError(
                f"has {self._count} frames of {width} x {height} pixels, "
                f"{total / 1e9:.1f} billion in all; the limit is "
                f"{_ROUND * limit / 1e9:.1f} billion. Split or shrink it or, if you "
                "trust the file, set PIL.Image.MAX_IMAGE_PIXELS = None, or drop the "
                "row."
            )


def open_animation(data: bytes) -> Animation | None:
    """The animation or pages in the bytes of an image; None if it is a still."""
    image = identify(data)
    # What MPO holds beside its picture (previews, depth), PSD below it (layers) and an
    # icon of other sizes is part of the same still.
    if image.format in ("MPO", "PSD", "ICO", "ICNS"):
        return None
    with explained():
        count = getattr(image, "n_frames", 1)
    return Animation(image, data) if count > 1 else None


# -- durations as they are written in the file; Pillow would decode every frame --


def _gif_durations(data: bytes) -> list[float]:
    return [duration for duration, _, _ in gif_frames(data)]


def _png_durations(data: bytes) -> list[float]:
    found, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"fcTL":
            over, under = (
                int.from_bytes(data[place : place + 2], "big")
                for place in (at + 28, at + 30)
            )
            found.append(1000 * over / (under or 100))
        at += 12 + length
    return found


def _webp_durations(data: bytes) -> list[float]:
    found, at = [], 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"ANMF":
            found.append(int.from_bytes(data[at + 20 : at + 23], "little"))
        at += 8 + length + length % 2
    return found


_DURATIONS = {"GIF": _gif_durations, "PNG": _png_durations, "WEBP": _webp_durations}
