"""References in (videos, arrays, stills, nothing), named clips of equal size out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diffqa_features._media.rows import open_media, pixel_key
from diffqa_features.datasets._camera_path import Scene, draw_motion
from diffqa_features.datasets._graded import check_size, named_rows
from diffqa_features.datasets._procedural import make_procedural_images
from diffqa_features.datasets._sample_photos import central_square

_FEWEST = 16
_SLOWEST, _FASTEST = 0.6, 3.0  # pixels of the clip per frame
_ROOM = 1.5  # sides of a frame per side of the picture under it


@dataclass(frozen=True)
class ClipSource:
    """One undistorted content."""

    name: str
    frames: list[np.ndarray]
    frame_rate: float
    key: str


def clip_sources(
    references, n_references, n_frames, frame_rate, image_size, seed
) -> Iterator[ClipSource]:
    """Yield clips with unique names."""
    if references is None:
        side = round(_ROOM * image_size)
        for index in range(n_references):
            (picture,) = make_procedural_images(
                1, image_size=side, random_state=(seed + index) % 2**32
            )
            frames = _pan(picture, n_frames, image_size, seed)
            yield _source(f"procedural{index:03d}", frames, frame_rate)
        return
    for name, row in named_rows(references):
        yield _read(row, name, n_frames, frame_rate, image_size, seed)


def _read(row, name, n_frames, frame_rate, image_size, seed) -> ClipSource:
    media = open_media(row)
    if media.is_still:
        (picture,) = media.read([0])
        check_size(row, picture, image_size)
        side = min(*picture.shape[:2], round(_ROOM * image_size))
        picture = central_square(picture, side)
        return _source(name, _pan(picture, n_frames, image_size, seed), frame_rate)
    frames = []
    for frame in _first_frames(media, n_frames):
        check_size(row, frame, image_size)
        frames.append(central_square(frame, image_size))
    if len(frames) < _FEWEST:
        raise row.error(
            f"a clip of {len(frames)} frames, but at least "
            f"{_FEWEST} are needed to distort timing; drop the row."
        )
    return _source(name, frames, media.frame_rate or frame_rate)


def _first_frames(media, n_frames):
    times = media.times()
    count = len(media.choose() if times is None else times)
    return media.read(range(min(count, n_frames)))


def _source(name, frames, frame_rate) -> ClipSource:
    return ClipSource(name, frames, frame_rate, pixel_key(np.concatenate(frames)))


def _pan(picture, n_frames, size, seed) -> list[np.ndarray]:
    """A camera moving over a picture; its path depends on picture and seed."""
    rng = np.random.default_rng([seed, int(pixel_key(picture), 16)])
    motion = draw_motion(rng, _SLOWEST, _FASTEST)
    side = len(picture)
    middle = np.array(motion.at(n_frames / 2)[:2])
    # Mirrored as far as the camera goes.
    margin = side * int(np.ceil(np.abs(middle).max() / side + 1))
    while margin > side:
        picture = np.pad(picture, ((side, side), (side, side), (0, 0)), "symmetric")
        margin -= side
        side = len(picture)
    scene = Scene(picture, motion, size, side / 2 - middle, margin=min(margin, side))
    return [np.asarray(scene.frame(t)) for t in range(n_frames)]
