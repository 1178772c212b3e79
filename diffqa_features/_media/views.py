"""Frames of any size in, frames of the backbone's input size out."""

from __future__ import annotations

import numpy as np
from PIL import Image

VIEWS = ("stretch", "fit", "crop")
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def view_frames(
    frames: np.ndarray,
    view: str,
    size: int,
    multiple: int,
    place: tuple[float, float] = (0.5, 0.5),
) -> np.ndarray:
    """Resize uint8 frames (T, H, W, 3) to uint8 frames (T, h, w, 3).

    ``stretch``: ``size`` x ``size``, ignoring the aspect ratio (as in the papers).
    ``fit``: the longer side becomes ``size``, the aspect ratio is kept up to rounding
    both sides to a ``multiple``; nothing is padded. ``crop``: ``size`` x ``size``
    unscaled pixels; only a picture whose shorter side is below ``size`` is upscaled
    first. ``place`` is the position, down and across, from 0 (first pixels) to 1
    (last).

    Resampling is Pillow's bicubic, which antialiases when downscaling.
    """
    height, width = frames.shape[1:3]
    if view == "stretch":
        return _resize(frames, size, size)
    if view == "fit":
        scale = size / max(height, width)
        h, w = (
            max(multiple, round(side * scale / multiple) * multiple)
            for side in (height, width)
        )
        return _resize(frames, h, w)
    short = min(height, width)
    if short < size:
        height = max(size, round(height * size / short))
        width = max(size, round(width * size / short))
        frames = _resize(frames, height, width)
    down, across = place
    top, left = int((height - size) * down), int((width - size) * across)
    return np.ascontiguousarray(frames[:, top : top + size, left : left + size])


def _resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    if frames.shape[1:3] == (height, width):
        return frames
    bicubic = Image.Resampling.BICUBIC
    return np.stack(
        [
            np.asarray(Image.fromarray(frame).resize((width, height), bicubic))
            for frame in frames
        ]
    )


def to_pixels(frames: np.ndarray, normalization: str = "vae"):
    """Turn uint8 frames (N, h, w, 3) into a float32 tensor (N, 3, h, w).

    ``vae``: the range [-1, 1] that autoencoders are trained on. ``clip``: CLIP's mean
    and standard deviation per channel, the VAE input of the released GenzIQA. ``unit``:
    the range [0, 1], that of the released DP-IQA.
    """
    import torch  # views are also made in decoding threads that never need it

    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if normalization == "vae":
        return pixels.float() / 127.5 - 1
    if normalization == "unit":
        return pixels.float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (_CLIP_MEAN, _CLIP_STD))
    return (pixels.float() / 255 - mean) / std
