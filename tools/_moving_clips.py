"""Clips for the tiny motion network: moving pictures, faults, and the truth."""

import io
from dataclasses import dataclass, fields

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from diffqa_features.datasets._camera_path import Motion, Scene, draw_motion
from diffqa_features.datasets._procedural import make_procedural_images
from diffqa_features.datasets._timing_faults import FAMILIES, retime

SIZE, FRAMES = 96, 32
CLASSES = ("none", *FAMILIES)
PICTURE = 256


@dataclass
class Targets:
    """What is true of a clip, and of each of its frames."""

    kind: torch.Tensor
    amounts: torch.Tensor
    """Repeated, dropped, timing error, flicker, speed: each about 0 to 1."""
    direction: torch.Tensor
    directed: torch.Tensor
    repeated: torch.Tensor
    jump: torch.Tensor
    light: torch.Tensor

    @classmethod
    def stack(cls, targets):
        names = [field.name for field in fields(cls)]
        return cls(*(torch.stack([getattr(t, n) for t in targets]) for n in names))


def picture_pool(out, count, seed):
    """Draw the pictures once and keep them on disk."""
    path = out / f"pictures-{seed}-{count}.npy"
    if not path.exists():
        pictures = [
            make_procedural_images(1, image_size=PICTURE, random_state=s)[0]
            for s in tqdm(range(seed * 100_000, seed * 100_000 + count), "pictures")
        ]
        np.save(path, np.stack(pictures))
    return np.load(path, mmap_mode="r")


def draw_clip(pool, rng):
    """One clip, uint8 of shape (32, 96, 96, 3), and its `Targets`."""
    still = rng.random() < 0.08
    scene, velocity, speed = draw_scene(pool, rng, still)
    kind = "none" if rng.random() < 0.22 else str(rng.choice(list(FAMILIES)))
    if still and kind != "flicker":
        kind = "none"
    times, gains = draw_timing(kind, rng)
    frames = shoot(scene, times, gains, rng, still)
    return frames, truth(kind, times, gains, velocity, speed, frames)


def draw_scene(pool, rng, still=False):
    """A function of time, the mean velocity and the mean speed, pixels per frame."""
    # The camera's way is drawn in pixels of a frame.
    motion = Motion(0.0, 0.0) if still else draw_motion(rng, 0.08, 4.0)
    picture = np.asarray(pool[rng.integers(len(pool))])
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    if rng.random() < 0.3:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.3, 2.5))
        image = Image.fromarray(np.ascontiguousarray(picture))
        picture = np.asarray(image.filter(blur))
    start = rng.uniform(90, 166, 2)
    scale = rng.uniform(0.8, 1.5)
    back = Scene(picture, motion, SIZE, start, scale, margin=PICTURE)
    velocity, speed = np.array(motion.velocity), motion.speed
    if rng.random() < 0.6:
        return back.frame, velocity, speed
    # A second thing, with a motion of its own, in front.
    own = draw_motion(rng, 0.08, 4.0) if not still else Motion(0.0, 0.0)
    other = np.asarray(pool[rng.integers(len(pool))])
    mask = Image.new("L", (PICTURE, PICTURE))
    wide, high = rng.uniform(15, 45, 2)
    box = [128 - wide, 128 - high, 128 + wide, 128 + high]
    draw = ImageDraw.Draw(mask)
    (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(1))
    cut = np.dstack([other, np.asarray(mask)])
    # It is in the middle of its way in the middle of the clip.
    middle = np.array(own.at(FRAMES / 2)[:2])
    front = Scene(cut, own, SIZE, 128 - middle + rng.uniform(-30, 30, 2))
    share = np.pi * wide * high / SIZE**2
    share = min(share, 0.6)

    def frame(t):
        image = back.frame(t)
        layer = front.frame(t)
        image.paste(layer, (0, 0), layer.getchannel("A"))
        return image

    velocity = (1 - share) * velocity + share * np.array(own.velocity)
    return frame, velocity, (1 - share) * motion.speed + share * own.speed


def draw_timing(kind, rng):
    """Source times (32,) and gains (32,) of what is shown."""
    if kind == "none":
        return np.arange(FRAMES, dtype=float), np.ones(FRAMES)
    severity = rng.uniform(-0.1, 1.1)
    count = 3 * FRAMES
    indices, gains = retime(kind, count, severity, rng)
    events = np.flatnonzero(np.diff(indices) != 1)
    # A window in which something happens.
    last = len(indices) - FRAMES
    first = rng.integers(0, last + 1)
    if len(events):
        event = rng.choice(events)
        first = np.clip(event - rng.integers(1, FRAMES - 1), 0, last)
    times = indices[first : first + FRAMES].astype(float)
    gains = gains[first : first + FRAMES]
    if kind == "freeze" and rng.random() < 0.3:
        # A pause: it goes on where it stopped.
        steps = np.diff(times)
        times = np.concatenate([[0.0], np.cumsum(np.minimum(steps, 1))])
    return times - times[0], gains


def shoot(scene, times, gains, rng, still):
    """Draw the frames; a repeated frame repeats its sensor noise."""
    noise = 0.0 if rng.random() < 0.5 else rng.uniform(0.3, 6)
    quality = int(rng.integers(25, 95)) if rng.random() < 0.25 else None
    seen, frames = {}, []
    for t, gain in zip(times, gains, strict=True):
        key = (t, gain)
        if key not in seen or (still and noise):
            x = np.asarray(scene(t), np.float32) * np.float32(gain)
            if noise:
                x = x + rng.standard_normal((SIZE, SIZE, 1), np.float32) * noise
            x = np.clip(np.rint(x), 0, 255).astype(np.uint8)
            if quality:
                buffer = io.BytesIO()
                Image.fromarray(x).save(buffer, "JPEG", quality=quality)
                x = np.asarray(Image.open(buffer))
            seen[key] = x
        frames.append(seen[key])
    return np.stack(frames)


def truth(kind, times, gains, velocity, speed, frames):
    steps = np.diff(times)
    repeated = (frames[1:] == frames[:-1]).mean((1, 2, 3)) > 0.999
    if kind == "none" and repeated.all():
        kind = "freeze"  # a still: nobody can tell it from one
    elif kind != "flicker" and (steps == 1).all():
        kind = "none"
    line = np.polyfit(np.arange(FRAMES), times, 1)
    error = np.std(times - np.polyval(line, np.arange(FRAMES)))
    light = np.diff(np.log(gains))
    direction = velocity / max(np.hypot(*velocity), 1e-6)
    amounts = [
        repeated.mean(),
        np.maximum(steps - 1, 0).sum() / FRAMES,
        np.log1p(error) / 2,
        np.log1p(50 * gains.std()) / 3,
        np.log2(speed / 0.08 + 1) / 6,
    ]
    zero = np.zeros(1)

    def tensor(values):
        return torch.tensor(np.asarray(values), dtype=torch.float32)

    return Targets(
        kind=torch.tensor(CLASSES.index(kind)),
        amounts=tensor(amounts),
        direction=tensor(direction),
        directed=tensor(float(np.hypot(*velocity) > 0.1)),
        repeated=tensor(np.concatenate([zero, repeated])),
        jump=tensor(np.concatenate([zero, steps > 1])),
        light=tensor(np.concatenate([zero, 10 * light])),
    )
