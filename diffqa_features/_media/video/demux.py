"""A video file in; presentation times and entry points from its packets out.

Header values are never trusted: frames are counted by reading packets, which needs no
decoding, and times are presentation times. Only if packets are ambiguous (missing or
repeated timestamps, a start within a group of pictures) is the file decoded once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffqa_features._media.video.opening import (
    VideoError,
    cause_of,
    check_frame,
    codec_name,
    damaged,
    decode_all,
    opened,
    pick_stream,
)
from diffqa_features._media.video.packets import (
    find_entries,
    lost_frames,
    read_packets,
)
from diffqa_features._media.video.structure import Structure, structure_of

# What these say is when to decode; what is derived from it for showing is unsound.
_ONE_CLOCK = ("avi", "asf", "mxf")


@dataclass(frozen=True, eq=False)
class Index:
    """Description of a video stream before its frames are decoded."""

    source: str | bytes
    demuxer: str
    stream: int
    alone: bool  # whether no other stream is a picture of any kind
    strict: bool  # whether the first packet begins anew, so that no error is in order
    codec: str
    pts: np.ndarray | None  # (T,) int64, increasing; None where frames must be counted
    times: np.ndarray  # (T,) float64, seconds since the first frame is shown
    end: float  # seconds, when the last frame is gone
    expected: float  # frames that one who trusts the header makes room for
    entries: np.ndarray  # int64, pts of key frames that decoding may begin at
    closed: bool  # whether those are all key frames
    pixel_format: str
    size: tuple[int, int]  # height and width as stored
    turn: tuple[bool, bool, bool]  # transpose, then flip up-down, then left-right

    @property
    def frame_rate(self) -> float:
        """Frames per second, on average."""
        return len(self.times) / self.end


def index_video(source: str | bytes) -> Index:
    """Read every packet of the file's first video stream, and decode one frame."""
    structure = structure_of(source)
    try:
        return _index(source, structure)
    except VideoError as error:
        if not structure.fault:
            raise
        # What FFmpeg stumbles over is mostly the same, said with less knowledge.
        text = str(error)
        if not text.startswith("is damaged or cut"):
            text = damaged(source, structure.demuxer, None, True, 0, structure.fault)
        raise VideoError(text) from error


def _index(source: str | bytes, structure: Structure) -> Index:
    demuxer = structure.demuxer
    with opened(source, demuxer) as container:
        stream = pick_stream(container)
        number, base, codec = stream.index, stream.time_base, codec_name(stream)
        rate = stream.guessed_rate or 25
        alone = len(container.streams.video) == 1
        context = stream.codec_context
        check_frame(context.width, context.height, context.format)
        stated = stream.frames or 0
        if not stated and container.duration:
            stated = int(container.duration / 1e6 * rate)
        expected = _expected(container, stream)
        reordered = demuxer in _ONE_CLOCK and context.has_b_frames
        packets, first, damage = read_packets(container, stream)
    damage = structure.fault or damage
    listed = structure.counts.get(number, 0)
    if not damage and len(packets) < listed:
        damage = f"{listed} packets are there and {len(packets)} can be read"
    if damage:
        about = max(stated if stated < 100 * len(packets) else 0, len(packets))
        raise VideoError(damaged(source, demuxer, number, True, about, damage))
    if not packets:
        raise VideoError("has a video stream without a single frame; drop the row.")
    if first is None:
        raise VideoError(
            "holds no frame that can be decoded: 0 frames decoded with the imageio "
            "reader; restore the file or drop the row."
        )
    if isinstance(first, Exception):
        raise VideoError(
            f"cannot be decoded ({cause_of(first)}): 0 frames decoded with the imageio "
            "reader; restore the file or drop the row."
        ) from first
    check_frame(first.width, first.height, first.format)
    stamps = [packet.pts for packet in packets]
    stamps_known = clear = None not in stamps and len(set(stamps)) == len(stamps)
    # Where the file begins with what leans on an earlier part, only decoding tells
    # which frames come out.
    entries, closed = find_entries(packets) if clear else (np.zeros(0, np.int64), False)
    strict = packets[0].enters and (not clear or stamps[0] == min(stamps))
    clear = clear and strict and not reordered
    pts, last = np.sort(np.array(stamps, np.int64)) if clear else None, 0
    if clear:
        last = packets[stamps.index(pts[-1])].duration
        seconds = (pts - pts[0]) * float(base)
    else:
        where = (source, demuxer, number)
        seconds = _decoded_times(*where, strict, packets, base, rate)
        if stamps_known and (lost := lost_frames(packets, len(seconds))):
            about = max(stated, len(packets))
            cause = f"{lost} frames behind its first key frame cannot be decoded"
            raise VideoError(damaged(source, demuxer, number, strict, about, cause))
    steps = np.diff(seconds)
    last = last * float(base) or (np.median(steps) if len(steps) else float(1 / rate))
    return Index(
        source=source,
        demuxer=demuxer,
        stream=number,
        alone=alone,
        strict=strict,
        codec=codec,
        pts=pts,
        times=seconds,
        end=float(seconds[-1] + last),
        expected=expected,
        entries=entries,
        closed=closed,
        pixel_format=first.format.name,
        size=(first.height, first.width),
        turn=_turn(first),
    )


def _expected(container, stream) -> float:
    """Number of frames according to the header and the timestamps."""
    seconds = (container.duration or 0) / 1e6
    if stream.duration and stream.time_base:
        seconds = max(seconds, float(stream.duration * stream.time_base))
    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    rate = max(float(rate or 0) for rate in rates)
    return max(seconds * rate, stream.frames or 0)


def _decoded_times(source, demuxer, number, strict, packets, base, rate) -> np.ndarray:
    """Times of frames whose packets lack them, by decoding all of them."""
    import av

    stamps = []
    try:
        with opened(source, demuxer) as container:
            for frame in decode_all(container, number, strict):
                stamps.append(frame.pts)
    except (av.error.FFmpegError, VideoError) as error:
        about = len(packets)
        where = (source, demuxer, number, strict)
        text = damaged(*where, about, cause_of(error))
        raise VideoError(text) from error
    if not stamps:
        raise VideoError("holds no frame that can be decoded; drop the row.")
    clocks = [stamps, sorted(p.dts for p in packets if p.dts is not None)]
    for clock in clocks:
        rising = None not in clock and np.all(np.diff(np.array(clock, np.int64)) > 0)
        if len(clock) == len(stamps) and rising:
            clock = np.array(clock, np.int64)
            return (clock - clock[0]) * float(base)
    return np.arange(len(stamps)) / float(rate)


def _turn(frame) -> tuple[bool, bool, bool]:
    """Rotation by the display matrix, as a transpose and two flips."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    # Screen x = a x + c y, screen y = b x + d y.
    if b == c == 0 and a and d:
        return False, bool(d < 0), bool(a < 0)
    if a == d == 0 and b and c:
        return True, bool(b < 0), bool(c < 0)
    raise VideoError(
        "is to be shown turned by an angle that is no multiple of 90 degrees; convert "
        "the file so that its pixels stand upright, or drop the row."
    )


def absolute(path: str | os.PathLike) -> str:
    """An absolute path, which decoders cannot mistake for a URL."""
    return str(Path(os.fsdecode(path)).absolute())
