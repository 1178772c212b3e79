"""Frame indices in, upright RGB pixels out, from either of two readers.

decord and PyAV (the library behind imageio's plugin) both wrap FFmpeg and give
identical pixels for all files that decord is used for. `objection` rules out the
others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from diffqa_features._media.images import array_pixels
from diffqa_features._media.video.demux import Index
from diffqa_features._media.video.opening import (
    VideoError,
    cause_of,
    damaged,
    decode_all,
    decoded,
    decoder_of,
    opened,
)

_CODECS = ("h264", "hevc", "mjpeg", "vp9")  # MPEG-4 differs by a level here and there
_CONTAINERS = ("mov", "matroska", "avi")
_WORTH_A_JUMP = 4  # frames: jumping costs a search and an emptied decoder
# It takes other names with a pattern in them for pictures beside the file.
_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".3gp")
_PATTERNS = frozenset("%*?[]{}")
_ROOM = 1_000_000  # frames beyond those there are that decord may make room for
_LONG = 600  # seconds; wrong frames were seen at 3600, none at 3000
_FORMATS = ("gray", "yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p")


def objection(index: Index) -> str:
    """Why decord would return wrong frames for this file; empty if it would not.

    Most rules reflect wrong pixels or failures of decord 0.6.0 in comparison with PyAV;
    the others leave untested cases to PyAV.
    """
    if isinstance(index.source, bytes):
        return "it reads files only"
    plain = index.source.lower().endswith(_SUFFIXES)
    if not plain and not _PATTERNS.isdisjoint(index.source):
        return "it may take the name for a pattern"
    if index.expected > 2 * len(index.times) + _ROOM:
        return "its header promises far more frames than it has"
    if len(index.times) > 1 and np.diff(index.times).max() > _LONG:
        return "it takes wrong frames where one is shown for very long"
    if not index.alone:
        return "it chooses by itself among several video streams"
    if index.codec not in _CODECS:
        return f"it does not know {index.codec}, or rounds it in another way"
    if index.demuxer not in _CONTAINERS:
        return f"it is not sure in {index.demuxer}"
    if index.pixel_format not in _FORMATS:
        return f"it rounds {index.pixel_format} in its own way or drops its alpha"
    if "420" in index.pixel_format and (index.size[0] % 2 or index.size[1] % 2):
        return "it shifts the colours of odd sizes"
    if any(index.turn):
        return "it turns pictures in some containers only"
    if index.pts is None:
        return "it needs a time stamp on each packet"
    if not index.closed:
        return "it takes wrong frames after key frames that others lean across"
    return ""


def read_decord(index: Index, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames at `wanted`, increasing, as uint8 (H, W, 3)."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    done = 0
    try:
        # One thread, as rows are read in several. With fault_tol it does not put the
        # previous frame where one cannot be decoded.
        reader = decord.VideoReader(
            index.source, decord.cpu(0), num_threads=1, fault_tol=1
        )
        stamps = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        if len(stamps) != len(index.times):
            raise DecordError(f"it counts {len(stamps)} frames")
        if np.abs(stamps - stamps[0] - index.times).max() > 0.002:
            raise DecordError("it has other times for the frames")
        for at in wanted:
            frame = reader[int(at)]
            # Not the bridge that decord is set to: a setting of the whole process.
            pixels = frame.asnumpy() if hasattr(frame, "asnumpy") else np.array(frame)
            if pixels.shape != (*index.size, 3):
                raise DecordError("it gives another size")
            yield array_pixels(pixels)[0]
            done += 1
    except (DecordError, MemoryError):
        raise
    except Exception as error:  # decord's own errors have no common base
        cause = str(error).strip().splitlines()[-1:]
        cause = cause[0].split("] ")[-1] if cause else type(error).__name__
        raise DecordError(f"it fails after {done} frames: {cause[:200]}") from error


class DecordError(VideoError):
    """decord cannot read the file, or not correctly."""


def check_damage(index: Index, wanted: Sequence[int]) -> None:
    """Raise if decoding the frames at `wanted` meets any damage.

    For decord, which conceals damage silently. This costs less than reading the frames:
    pictures are not post-processed or converted to RGB, and unreferenced ones are not
    decoded.
    """
    import av

    try:
        for _ in _jumping(index, wanted, skip_loop_filter="all"):
            pass
    except (av.error.FFmpegError, VideoError) as error:
        raise DecordError(f"it does not see damage: {cause_of(error)}") from error


def read_imageio(index: Index, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames at `wanted`, increasing, as uint8 (H, W, 3), by PyAV.

    imageio's own plugin provides neither timestamps nor seeking, so its library is used
    directly.
    """
    import av

    wanted = [int(at) for at in wanted]
    for find in (_jumping, _in_order) if index.pts is not None else (_counting,):
        done = 0
        try:
            for frame in find(index, wanted):
                yield _pixels(frame, index)
                done += 1
            return
        except (av.error.FFmpegError, VideoError) as error:
            # A container may lead to the wrong place: then from its beginning.
            if find is not _jumping:
                about, cause = len(index.times), cause_of(error)
                where = (index.source, index.demuxer, index.stream, index.strict)
                text = damaged(*where, about, cause)
                raise VideoError(text) from error
            wanted = wanted[done:]


def _counting(index, wanted) -> Iterator:
    """Decode from the start and count."""
    with opened(index.source, index.demuxer) as container:
        frames = decode_all(container, index.stream, index.strict)
        count = -1
        for at in wanted:
            while count < at:
                frame, count = next(frames, None), count + 1
            if frame is None:
                raise VideoError(f"frame {at} is missing")
            yield frame


def _in_order(index, wanted) -> Iterator:
    """Decode from the start and match timestamps."""
    with opened(index.source, index.demuxer) as container:
        frames = decode_all(container, index.stream, True)
        for at in wanted:
            yield _until(frames, index.pts[at], at)


def _jumping(index, wanted, **options) -> Iterator:
    """Decode from the last entry point before each wanted frame."""
    needed = set(index.pts[list(wanted)].tolist())
    with opened(index.source, index.demuxer) as container:
        stream = container.streams[index.stream]
        context = decoder_of(stream, True, **options)
        frames = decoded(container, stream, context, needed)
        reached = index.pts[0]
        for at in wanted:
            target = index.pts[at]
            place = index.entries[np.searchsorted(index.entries, target, "right") - 1]
            skipped = np.subtract(*np.searchsorted(index.pts, [place, reached]))
            if skipped > _WORTH_A_JUMP:
                frames.close()
                context.flush_buffers()
                container.seek(int(place), stream=stream, backward=True)
                frames = decoded(container, stream, context, needed)
            yield _until(frames, target, at)
            reached = target


def _until(frames, target, at):
    last = None
    for frame in frames:
        if frame.pts is None or (last is not None and frame.pts <= last):
            raise VideoError(f"the frames before frame {at} are out of order")
        last = frame.pts
        if last == target:
            return frame
        if last > target:
            break
    raise VideoError(f"frame {at} is missing")


def _pixels(frame, index: Index) -> np.ndarray:
    if (frame.height, frame.width) != index.size:
        raise VideoError(
            f"changes its size from {index.size[1]} x {index.size[0]} to "
            f"{frame.width} x {frame.height} pixels on the way; convert it to one size."
        )
    alpha = any(component.is_alpha for component in frame.format.components)
    alpha = alpha or frame.format.name == "pal8"
    pixels = array_pixels(frame.to_ndarray(format="rgba" if alpha else "rgb24"))[0]
    transpose, upside, mirror = index.turn
    pixels = pixels.swapaxes(0, 1) if transpose else pixels
    pixels = pixels[::-1] if upside else pixels
    pixels = pixels[:, ::-1] if mirror else pixels
    return np.ascontiguousarray(pixels)
