"""A headerless YUV file and its parameters in; RGB frames out.

Such a file consists of planes only: size, rate and pixel format must come from other
columns of its row of X.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np

from diffqa_features._media.budget import check_budget

# Pixel format -> how many times fewer chroma samples down and across, bits.
_FORMATS = {
    "yuv420p": (2, 2, 8),
    "yuv422p": (1, 2, 8),
    "yuv444p": (1, 1, 8),
    "yuv420p10le": (2, 2, 10),
    "yuv422p10le": (1, 2, 10),
    "yuv444p10le": (1, 1, 10),
}
# Weights of red and blue in the luma: ITU-R BT.601-7 and BT.709-6.
_MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
_STRIP = 64  # rows that are converted at once, a multiple of all factors above
REQUIRED = ("width", "height", "frame_rate", "pixel_format")
COLUMNS = (*REQUIRED, "color_matrix")
"""Columns of a table that describe such a file; all but the last must be there."""


@dataclass(frozen=True, slots=True)
class RawVideo:
    """A file of planar YUV frames, opened by each call of `read`.

    Samples are taken as limited range (luma 16 to 235 of 255), which is what cameras
    and encoders write. The matrix is BT.601 unless the row says otherwise: FFmpeg
    assumes it for untagged video, so a file and its conversion to .mp4, which keeps the
    samples and is also untagged, give the same colours. Chroma is repeated rather than
    interpolated, as FFmpeg does without resizing.
    """

    path: str
    width: int
    height: int
    frame_rate: float
    pixel_format: str
    color_matrix: str = "bt601"

    @classmethod
    def from_columns(cls, path, columns: Mapping[str, object]) -> "RawVideo":
        """Read the parameters from the other columns of the row, and check them."""
        given = {name: columns.get(name) for name in COLUMNS}
        given = {name: value for name, value in given.items() if not _absent(value)}
        absent = [name for name in REQUIRED if name not in given]
        if absent:
            raise ValueError(
                f"a .yuv file does not say its own size; X has no {_listed(absent)} "
                "for it. Pass a DataFrame with the columns 'path', "
                f"{_listed(REQUIRED)}."
            )
        for name in ("width", "height"):
            given[name] = _whole(name, given[name])
        check_budget(given["width"], given["height"])
        rate = given["frame_rate"]
        if not isinstance(rate, Real) or not 0 < rate < np.inf:
            raise ValueError(
                "the column 'frame_rate' must be a number above 0, in frames per "
                f"second. Got {rate!r}."
            )
        given["frame_rate"] = float(rate)
        matrix = given.setdefault("color_matrix", "bt601")
        for name, known in (("pixel_format", _FORMATS), ("color_matrix", _MATRICES)):
            if given[name] not in known:
                raise ValueError(
                    f"the column '{name}' must be one of {_listed(known)}. Got "
                    f"{given[name]!r}."
                )
        return cls(os.fsdecode(path), **{**given, "color_matrix": matrix})

    @property
    def frame_bytes(self) -> int:
        """Length of one frame in the file."""
        return sum(h * w for h, w in self._planes()) * self._sample.itemsize

    @property
    def facts(self) -> str:
        """All that determines how bytes become frames; part of the content key."""
        return (
            f"{self.width}x{self.height} {self.pixel_format} {self.color_matrix} "
            f"{self.frame_rate:g}"
        )

    def count(self) -> int:
        """Number of frames; an error if the last one is incomplete."""
        size = Path(self.path).stat().st_size
        count, rest = divmod(size, self.frame_bytes)
        if rest or not count:
            raise ValueError(
                f"{size:,} bytes are {count:,} whole frames of {self.width} x "
                f"{self.height} {self.pixel_format} ({self.frame_bytes:,} bytes each) "
                f"and {rest:,} bytes. Either the download stopped early, or the size "
                "or pixel format is another one."
            )
        return count

    def times(self) -> np.ndarray:
        """Presentation times in seconds from the first frame: float64 (T,)."""
        return np.arange(self.count()) / self.frame_rate

    @property
    def duration(self) -> float:
        """Seconds from the first frame's start to the last one's end."""
        return self.count() / self.frame_rate

    def read(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield the frames (H, W, 3) uint8 with these indices, from 0."""
        count = self.count()
        with Path(self.path).open("rb") as file:
            for index in map(int, indices):
                if not 0 <= index < count:
                    raise IndexError(f"frame {index} of a file of {count} frames.")
                file.seek(index * self.frame_bytes)
                data = file.read(self.frame_bytes)
                if len(data) < self.frame_bytes:
                    raise ValueError(f"the file ended inside frame {index}.")
                yield self._rgb(np.frombuffer(data, self._sample))

    @property
    def _sample(self) -> np.dtype:
        return np.dtype("u1" if _FORMATS[self.pixel_format][2] == 8 else "<u2")

    def _planes(self) -> list[tuple[int, int]]:
        down, across, _ = _FORMATS[self.pixel_format]
        # An odd last row or column has chroma of its own.
        chroma = (-(-self.height // down), -(-self.width // across))
        return [(self.height, self.width), chroma, chroma]

    def _rgb(self, samples: np.ndarray) -> np.ndarray:
        """One frame of the file -> uint8 (H, W, 3)."""
        down = _FORMATS[self.pixel_format][0]
        shapes = self._planes()
        ends = np.cumsum([h * w for h, w in shapes])[:-1]
        y, cb, cr = (
            plane.reshape(shape)
            for plane, shape in zip(np.split(samples, ends), shapes, strict=True)
        )
        frame = np.empty((self.height, self.width, 3), np.uint8)
        # In strips, as floats take ten times the memory of the frame.
        for top in range(0, self.height, _STRIP):
            rows = slice(top, top + _STRIP)
            half = slice(top // down, (top + _STRIP) // down)
            frame[rows] = self._convert(y[rows], cb[half], cr[half])
        return frame

    def _convert(self, *planes: np.ndarray) -> np.ndarray:
        """Rows of the three planes -> uint8 (h, W, 3)."""
        down, across, bits = _FORMATS[self.pixel_format]
        step = 2 ** (bits - 8)
        y, cb, cr = (plane.astype(np.float32) for plane in planes)
        y = (y - 16 * step) / (219 * step)
        cb, cr = ((c - 128 * step) / (224 * step) for c in (cb, cr))
        if (down, across) != (1, 1):
            cb, cr = (
                c.repeat(down, 0).repeat(across, 1)[: len(y), : self.width]
                for c in (cb, cr)
            )
        red, blue = _MATRICES[self.color_matrix]
        green = 1 - red - blue
        r = y + 2 * (1 - red) * cr
        b = y + 2 * (1 - blue) * cb
        g = (y - red * r - blue * b) / green
        rgb = np.stack([r, g, b], axis=-1)
        return np.clip(np.rint(rgb * 255), 0, 255).astype(np.uint8)


def is_raw_video(path) -> bool:
    """Whether the name is that of a headerless YUV file."""
    return Path(os.fsdecode(path)).suffix.lower() == ".yuv"


def _absent(value) -> bool:
    # A table of raw and other videos has blanks in these columns.
    return value is None or value != value or type(value).__name__ == "NAType"


def _whole(name: str, value) -> int:
    # A column of integers with blanks in it arrives as floats.
    if isinstance(value, Real) and value == value // 1 and 0 < value < 2**16:
        return int(value)
    raise ValueError(
        f"the column '{name}' must be a whole number of pixels. Got {value!r}."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
