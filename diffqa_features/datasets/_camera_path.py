"""A picture in, frames of a camera moving over it out."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Motion:
    """A smooth camera path over a picture, with its unit in shown pixels per frame."""

    speed: float
    angle: float
    """Direction of the pan, radians, 0 is to the right and pi / 2 down."""
    sway: float = 0.0
    """Share of the speed that comes and goes."""
    period: float = 60.0
    """Frames from sway to sway."""
    zoom: float = 0.0
    """Natural logarithm of the change of scale per frame."""
    turn: float = 0.0
    """Radians per frame."""

    def at(self, t):
        """Place (x, y), scale and turn of the camera at time t, in frames."""
        wave = self.sway * self.period / (2 * np.pi)
        way = self.speed * (t + wave * np.sin(2 * np.pi * t / self.period))
        x, y = way * np.cos(self.angle), way * np.sin(self.angle)
        return x, y, np.exp(self.zoom * t), self.turn * t

    @property
    def velocity(self):
        """Mean shift of the camera, (x, y)."""
        return self.speed * np.cos(self.angle), self.speed * np.sin(self.angle)


def draw_motion(rng, slowest, fastest, *, lively=0.5):
    """Draw a motion: speeds are log-uniform, a share of them zoom, turn and sway."""
    speed = slowest * (fastest / slowest) ** rng.random()
    motion = {"speed": speed, "angle": rng.uniform(0, 2 * np.pi)}
    if rng.random() < lively:
        motion["sway"] = rng.uniform(0, 0.4)
        motion["period"] = rng.uniform(20, 90)
        motion["zoom"] = rng.normal(0, 0.0015)
        motion["turn"] = rng.normal(0, 0.0015)
    return Motion(**motion)


class Scene:
    """The view of a camera that moves over a picture with mirrored borders.

    Parameters
    ----------
    picture : ndarray of shape (h, w, 3) or (h, w, 4), dtype uint8
        With an alpha channel, frames have one too, and nothing is mirrored.
    motion : Motion
        How the camera moves.
    size : int
        Side of the frames, pixels.
    start : (float, float)
        Where the camera's centre is at time 0, in pixels of the picture.
    scale : float, default=1.0
        Pixels of the picture per pixel of a frame.
    margin : int, default=0
        Width in pixels of the mirrored border, at most the picture's size.
    """

    def __init__(self, picture, motion, size, start, scale=1.0, margin=0):
        if margin:
            edges = ((margin, margin), (margin, margin), (0, 0))
            picture = np.pad(picture, edges, mode="symmetric")
        self._picture = Image.fromarray(picture)
        self._motion = motion
        self._size = size
        self._start = start[0] + margin, start[1] + margin
        self._scale = scale

    def frame(self, t):
        """Draw the frame at time t (any real number): PIL image."""
        x, y, zoom, turn = self._motion.at(t)
        scale = self._scale * zoom
        cos, sin = scale * np.cos(turn), scale * np.sin(turn)
        cx, cy = self._start[0] + self._scale * x, self._start[1] + self._scale * y
        half = self._size / 2
        affine = (
            cos, -sin, cx - half * (cos - sin),
            sin, cos, cy - half * (sin + cos),
        )  # fmt: skip
        return self._picture.transform(
            (self._size, self._size),
            Image.Transform.AFFINE,
            affine,
            Image.Resampling.BILINEAR,
        )
