"""Video files from real photographs: panned, zoomed, numbered, in any coding."""

from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

QUIET = {"x265-params": "log-level=error"}
BITS = 7


@lru_cache
def pan(count=30, height=96, width=128, photograph=0):
    """Frames (T, H, W, 3) of a camera that moves over a photograph and closes in.

    Each bears its number in black and white squares, so that it is known again.
    """
    photo = load_sample_images().images[photograph]
    side = min(height, width) // 8
    frames = []
    for index in range(count):
        scale = 2.5 - 0.02 * (index % 50)
        top, left = index % 50, 2 * (index % 50)
        part = photo[top : top + int(height * scale), left : left + int(width * scale)]
        frame = np.array(Image.fromarray(part).resize((width, height)))
        for bit in range(BITS):
            white = 255 * (index >> bit & 1)
            frame[:side, bit * side : (bit + 1) * side] = white
        frames.append(frame)
    return np.stack(frames)


def numbers_in(frames):
    """The numbers that frames of `pan` bear, in whatever coding they came."""
    found = []
    for frame in frames:
        side = min(frame.shape[:2]) // 8
        bits = [frame[side // 2, bit * side + side // 2].mean() for bit in range(BITS)]
        found.append(sum((value > 128) << bit for bit, value in enumerate(bits)))
    return found


def encode(
    path,
    frames,
    codec="libx264",
    pix_fmt="yuv420p",
    *,
    rate=25,
    pts=None,
    options=None,
    rotation=None,
    file_options=None,
    sound=False,
    **context,
):
    """Write frames (RGB or RGBA); `pts` are milliseconds; returns the path."""
    base = Fraction(1, rate) if pts is None else Fraction(1, 1000)
    with av.open(str(path), "w", options=file_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = base
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if sound:
            beep = container.add_stream("aac", rate=48000)
            container.mux(beep.encode(silence(1024)))
        kind = "rgba" if frames.shape[-1] == 4 else "rgb24"
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format=kind)
            frame = frame.reformat(format=pix_fmt)
            frame.pts = index if pts is None else int(pts[index])
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            container.mux(beep.encode(None))
    return path


def write_sound(path):
    """A file with a second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        container.mux(stream.encode(silence(48000)))
        container.mux(stream.encode(None))
    return path


def silence(samples):
    frame = av.AudioFrame.from_ndarray(
        np.zeros((1, samples), np.float32), format="flt", layout="mono"
    )
    frame.sample_rate = 48000
    frame.pts = 0
    return frame


def decode(path):
    """Every frame as PyAV converts it, straight from the first packet to the last."""
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


@contextmanager
def no_decoding(*readers):
    """A context in which these readers, or none of both, can be opened."""

    def refuse(*args, **kwargs):
        raise AssertionError("a video was opened")

    with pytest.MonkeyPatch.context() as patch:
        for reader in readers or ("av.open", "decord.VideoReader"):
            patch.setattr(reader, refuse)
        yield
