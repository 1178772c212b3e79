"""The bytes of an image file with several frames in; times and frames out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from diffqa_features._media.images import explained, identify, image_pixels, open_image

_CLOCKED = ("AVIF", "FLI", "GIF", "PNG", "WEBP")
_UNSAID = 0.1  # seconds that browsers show a frame whose duration is not given


class Animation:
    """Frames of a GIF, WebP, PNG, AVIF or FLI, or pages of a TIFF and the like."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        image = open_image(data)
        # The picture that programs without animation show is no part of it.
        self._skipped = int(bool(image.info.get("default_image")))
        self._count = image.n_frames - self._skipped
        self._clocked = image.format in _CLOCKED
        self._clock = None

    def __len__(self) -> int:
        return self._count

    def times(self) -> np.ndarray | None:
        """When each frame appears, float64 seconds (T,); None where pages have none."""
        if not self._clocked:
            return None
        if self._clock is None:
            durations = []
            for image in self._each(range(self._count)):
                with explained():
                    image.load()  # WebP tells only then
                durations.append((image.info.get("duration") or 0) / 1000 or _UNSAID)
            self._clock = np.cumsum([0.0, *durations])
        return self._clock[:-1]

    @property
    def duration(self) -> float | None:
        """Seconds that one round takes."""
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
                pixels = image_pixels(image, animated=True)
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

    def _each(self, indices):
        image = open_image(self._data)  # anew: not every format can be wound back
        for at in indices:
            with explained():
                image.seek(int(at) + self._skipped)
            yield image


def open_animation(data: bytes) -> Animation | None:
    """The animation or pages in the bytes of an image; None where it is a still."""
    image = identify(data)
    # What MPO holds beside its picture (previews, depth), PSD below it (layers) and an
    # icon of other sizes is part of the same still.
    if image.format in ("MPO", "PSD", "ICO", "ICNS"):
        return None
    with explained():
        count = getattr(image, "n_frames", 1)
    return Animation(data) if count > 1 else None
