"""Contents in motion, undistorted: what `label_videos.py` damages."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from diffqa_features.datasets._camera_path import Motion, Scene, draw_motion

SIZE = 96
PICTURE = 288
_SLOWEST, _FASTEST = 0.03, 5.0  # pixels per 1/30 s
RATES = (24.0, 25.0, 30.0, 50.0, 60.0)


class Content:
    """Frames at any time: a camera over photographs, as people film or edit.

    Handheld shake, pauses, cuts, slides, fades, sensor noise and the shutter's blur are
    content: none of them is a fault.

    Parameters
    ----------
    pictures : list of ndarray of shape (288, 288, 3), dtype uint8
        The first is what the camera moves over; the second comes after a cut.
    other : ndarray of shape (288, 288, 3), dtype uint8
        What something in front is cut out of.
    rng : numpy.random.Generator
        Decides on everything.
    """

    longest = 96
    """Frames that may be asked for."""

    def __init__(self, pictures, other, rng):
        self.frame_rate = float(rng.choice(RATES))
        step = 30 / self.frame_rate
        self.kind = str(
            rng.choice(
                ["moving", "still", "paused", "cut", "slides"],
                p=[0.62, 0.13, 0.08, 0.12, 0.05],
            )
        )
        self._cuts = _cuts(self.kind, rng)
        handheld = rng.random() < 0.45 and self.kind != "slides"
        still = self.kind in ("still", "slides")
        self._scenes = []
        for index in range(len(self._cuts) + 1):
            motion = Motion(0.0, 0.0)
            if not still:
                motion = draw_motion(rng, _SLOWEST * step, _FASTEST * step)
            if self.kind == "paused":
                motion = _Paused(motion, rng)
            if handheld and not (still and rng.random() < 0.7):
                motion = _Handheld(motion, step, rng)
            self._scenes.append(
                _scene(pictures[index % len(pictures)], motion, rng.uniform(0.8, 1.5))
            )
        self._front = None
        if rng.random() < (0.3 if self.kind != "slides" else 0):
            self._front = _front(other, rng, step)
        self._shutter = rng.uniform(0.2, 0.9) if rng.random() < 0.3 else 0.0
        clean = 0.4 if self.kind != "still" else 0.2
        self._noise = 0.0
        if rng.random() > clean and self.kind != "slides":
            self._noise = float(0.3 * (3 / 0.3) ** rng.random())
        self._fade = rng.normal(0, 0.004) * step if rng.random() < 0.08 else 0.0
        self._seed = int(rng.integers(2**31))

    def scene_at(self, t):
        """Number of the scene that is shown at time t, in frames."""
        return int(np.searchsorted(self._cuts, t, side="right"))

    def __call__(self, t, scene):
        """The view of a scene at time t; uint8 (96, 96, 3)."""
        times = [t]
        if self._shutter:
            times = t + self._shutter * np.arange(4) / 4
        x = np.mean([self._draw(at, scene) for at in times], 0, dtype=np.float32)
        if self._fade:
            x = x * np.float32(np.exp(self._fade * (t - 22)))
        if self._noise:
            rng = np.random.default_rng([self._seed, int(t)])
            x = x + self._noise * rng.standard_normal((SIZE, SIZE, 1), np.float32)
            x = x + 0.5 * self._noise * rng.standard_normal(x.shape, np.float32)
        return np.clip(np.rint(x), 0, 255).astype(np.uint8)

    def _draw(self, at, scene):
        image = self._scenes[scene].frame(at)
        if self._front is not None:
            layer = self._front.frame(at)
            image = image.copy()
            image.paste(layer, (0, 0), layer.getchannel("A"))
        return np.asarray(image, np.float32)


def _cuts(kind, rng):
    if kind == "cut":
        return np.sort(rng.integers(3, 42, rng.integers(1, 3)))
    if kind == "slides":
        return np.arange(rng.integers(1, 12), 100, rng.integers(9, 26))
    return np.zeros(0, int)


def _scene(picture, motion, scale):
    middle = np.array(motion.at(22.0)[:2])
    return Scene(
        picture, motion, SIZE, PICTURE / 2 - scale * middle, scale, margin=PICTURE
    )


class _Paused:
    """It moves, slows down, rests, and may go on."""

    def __init__(self, motion, rng):
        self._motion = motion
        start, length = rng.integers(4, 30), rng.integers(8, 60)
        speed = np.ones(200)
        ease = np.linspace(1, 0, 5)
        speed[start : start + 5] = ease
        speed[start + 5 : start + length] = 0
        speed[start + length : start + length + 5] = ease[::-1]
        self._at = np.concatenate([[0.0], np.cumsum(speed)])

    def at(self, t):
        return self._motion.at(np.interp(t, np.arange(len(self._at)), self._at))


class _Handheld:
    """A hand's shake: 1 to 9 Hz, and a little of every frame."""

    def __init__(self, motion, step, rng):
        self._motion = motion
        size = 0.2 * (3 / 0.2) ** rng.random()
        t = np.arange(200) * step / 30
        waves = np.zeros((2, 200))
        for _ in range(5):
            hertz = rng.uniform(1, 9)
            phase = rng.uniform(0, 2 * np.pi, (2, 1))
            waves += rng.normal(0, 1 / hertz, (2, 1)) * np.sin(
                2 * np.pi * hertz * t + phase
            )
        self._way = size * (waves + 0.06 * rng.normal(size=(2, 200)))

    def at(self, t):
        x, y, zoom, turn = self._motion.at(t)
        dx, dy = (np.interp(t, np.arange(200), way) for way in self._way)
        return x + dx, y + dy, zoom, turn


def _front(picture, rng, step):
    """Something else in front, on its own way."""
    motion = draw_motion(rng, _SLOWEST * step, _FASTEST * step)
    mask = Image.new("L", (PICTURE, PICTURE))
    wide, high = rng.uniform(8, 40, 2)
    middle = PICTURE / 2
    box = [middle - wide, middle - high, middle + wide, middle + high]
    draw = ImageDraw.Draw(mask)
    (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(1))
    cut = np.dstack([picture, np.asarray(mask)])
    start = middle - np.array(motion.at(22.0)[:2]) + rng.uniform(-30, 30, 2)
    return Scene(cut, motion, SIZE, start)
