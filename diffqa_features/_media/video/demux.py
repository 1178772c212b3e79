"""A video file in; out what its packets say: when each frame is shown, where to enter.

Nothing here trusts a number in a header: frames are counted by reading the packets,
which costs no decoding, and the times are those of presentation. Only where packets
leave a question open (no or repeated time stamps, a start in the middle of a group of
pictures) is the file decoded once to answer it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from diffqa_features._media.budget import check_budget, most_pixels
from diffqa_features._media.video.structure import Structure, structure_of
from diffqa_features._media.video.units import Order, holds, length_width, misfit

_HELD = 17  # frames in a decoder: sixteen that others lean on, and the next one
_SHOWN = 12  # bytes per pixel of the one that is turned to RGB and handed on
# What these say is when to decode; what is derived from it for showing is unsound.
_ONE_CLOCK = ("avi", "asf", "mxf")
_STRICT = "crccheck+explode"
_LONGEST_TAIL = 600  # packets of a group of pictures that are decoded to its end
# Containers that keep no record of what should follow: there pictures are looked at.
_UNRECORDED = ("h264", "hevc", "mpegts", "mpeg", "mpegvideo", "flv")


class VideoError(ValueError):
    """What is wrong with a video, and the way out."""


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of a video stream before its frames are decoded."""

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


@dataclass(slots=True)
class _Packet:
    pts: int | None
    dts: int | None
    duration: int
    key: bool
    enters: bool  # nothing before it is needed to decode what follows it


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
        packets, first, damage = _packets(container, stream)
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
    entries, closed = _entries(packets) if clear else (np.zeros(0, np.int64), False)
    strict = packets[0].enters and (not clear or stamps[0] == min(stamps))
    clear = clear and strict and not reordered
    pts, last = np.sort(np.array(stamps, np.int64)) if clear else None, 0
    if clear:
        last = packets[stamps.index(pts[-1])].duration
        seconds = (pts - pts[0]) * float(base)
    else:
        where = (source, demuxer, number)
        seconds = _decoded_times(*where, strict, packets, base, rate)
        if stamps_known and (lost := _lost(packets, len(seconds))):
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


def opened(source: str | bytes, demuxer: str):
    """Open a container with PyAV, also one whose texts are no UTF-8.

    The demuxer and the protocol are said, or FFmpeg would find them in the name: a
    protocol in "a:b.mp4", the neighbours of "a%02d.png".
    """
    import av

    name = BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
    # From PyAV 19 on there is no such option: it replaces by itself.
    old = int(av.__version__.split(".")[0]) < 19
    options = {
        "format_whitelist": demuxer,
        "protocol_whitelist": "file",
        # For the frames that are decoded while it is opened.
        "max_pixels": _most_pixels(),
    }
    try:
        return av.open(
            name,
            format=demuxer or None,
            options=options,
            **({"metadata_errors": "replace"} if old else {}),
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"cannot be opened as a video ({cause_of(error)}): it is cut, damaged, or "
            "not a video; restore the file or drop the row."
        ) from error


def _most_pixels() -> str:
    """Pixels of the largest frame that the budget has room for, 8-bit 4:2:0."""
    limit = most_pixels(_HELD * 1.5 + _SHOWN)
    return str(min(limit or 2**31 - 1, 2**31 - 1))


def check_frame(width: int, height: int, pixel_format) -> None:
    """Hold the frames in a decoder, and one on its way to RGB, against the budget."""
    stored = 1.5
    if pixel_format is not None:
        sample = type(pixel_format)(pixel_format.name, 64, 64)
        parts = sample.components
        sizes = [-(-part.bits // 8) * part.width * part.height for part in parts]
        stored = sum(sizes) / 64**2
    check_budget(width, height, 1, _HELD * stored + _SHOWN)


def pick_stream(container):
    """The video stream that is no cover picture."""
    from av.stream import Disposition

    kinds = []
    for stream in container.streams:
        cover = bool(stream.disposition & Disposition.attached_pic)
        if stream.type == "video" and not cover:
            if stream.codec_context is None:
                raise VideoError(
                    "is coded in a way that is not known here; convert the file to "
                    "H.264, or drop the row."
                )
            return stream
        kinds.append("a cover picture" if cover else stream.type)
    raise VideoError(
        "holds no video stream"
        + f" (only {', '.join(sorted(set(kinds)))})" * bool(kinds)
        + "; drop the row."
    )


def codec_name(stream) -> str:
    """Name of the coding, whatever decoder reads it."""
    return stream.codec_context.codec.canonical_name


def decoder_of(stream, strict: bool, **options: str):
    """The decoder; FFmpeg's own save for VP8 and VP9 with alpha, which it drops."""
    import av

    context = stream.codec_context
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(codec_name(stream))
    if name and stream.metadata.get("alpha_mode") == "1":
        alpha = av.CodecContext.create(name, "r")
        alpha.extradata = context.extradata
        context = alpha
    # Rows are read in several threads; more in each would hold more frames.
    context.thread_count = 1
    options["max_pixels"] = _most_pixels()
    if strict:  # nothing is patched up in silence
        options["err_detect"] = _STRICT
    context.options = options
    return context


def decoded(container, stream, context, needed=None) -> Iterator:
    """Every frame from where the container stands, as PyAV gives it.

    What stands before the first key frame, or leans on what stood there, is not shown
    by players either. From there on a frame that is not whole is an error. With
    `needed`, a set of time stamps, frames that neither are needed nor serve to decode
    others are left out.
    """
    entered = whole = False
    for packet in container.demux(stream):
        entered = entered or packet.is_keyframe
        if not entered:
            continue
        if needed is not None:
            context.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
        for frame in context.decode(packet if packet.size else None):
            whole = whole or not frame.is_corrupt
            if frame.is_corrupt and whole:
                raise VideoError("a frame is incomplete")
            if whole:
                yield frame
        if not packet.size:
            return


def cause_of(error: Exception) -> str:
    """The error in FFmpeg's words, without its number and file name."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[0].lower() + text[1:].rstrip(".")


def decode_all(container, number: int, strict: bool) -> Iterator:
    """Every frame of a stream from the beginning of the file."""
    stream = container.streams[number]
    return decoded(container, stream, decoder_of(stream, strict))


def count_decodable(source, demuxer: str, number: int | None, strict: bool) -> int:
    """How many frames come out whole before the first that does not; decodes all."""
    count = 0
    try:
        with opened(source, demuxer) as container:
            if number is None:
                number = pick_stream(container).index
            for _ in decode_all(container, number, strict):
                count += 1
    except Exception:  # that it fails is known; what is asked is how far it comes
        pass
    return count


def damaged(
    source, demuxer: str, number: int | None, strict: bool, stated: int, cause: str
) -> str:
    """Say what is wrong and how far the file can be read."""
    count = count_decodable(source, demuxer, number, strict)
    return (
        f"is damaged or cut ({cause}): {count} of about {max(stated, count)} frames "
        "decoded with the imageio reader; restore the file or drop the row."
    )


def _expected(container, stream) -> float:
    """Frames that one who trusts the header, and time stamps, makes room for."""
    seconds = (container.duration or 0) / 1e6
    if stream.duration and stream.time_base:
        seconds = max(seconds, float(stream.duration * stream.time_base))
    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    rate = max(float(rate or 0) for rate in rates)
    return max(seconds * rate, stream.frames or 0)


def _packets(container, stream):
    """Packets that become frames, in the order of decoding; the first frame; damage.

    In place of the frame there may be the error that came of it, or None.
    """
    import av

    packets, codec = [], codec_name(stream)
    width = length_width(codec, stream.codec_context.extradata)
    recorded = container.format.name not in _UNRECORDED
    order = None if recorded or codec != "h264" else Order(width)
    head, tail, damage = _Head(stream), deque(maxlen=_LONGEST_TAIL), ""
    try:
        for packet in container.demux(stream):
            head.take(packet)
            if not packet.size:
                continue
            if packet.is_corrupt:
                return packets, head.frame, f"packet {len(packets)} is incomplete"
            data = bytes(packet)
            if fault := misfit(data, codec, width):
                return packets, head.frame, f"packet {len(packets)} has {fault}"
            if packet.is_discard or (codec == "vp8" and not data[0] & 16):
                continue  # before an edit list's start; never shown
            key = packet.is_keyframe
            if codec == "h264" and not (key or packets) and holds(data, width, 7):
                damage = "its first key frame is broken"  # it has parameters of one
                break
            enters = key and (codec != "h264" or holds(data, width, 5))
            packets.append(
                _Packet(packet.pts, packet.dts, packet.duration or 0, key, enters)
            )
            if order:
                order.take(data)
            if enters:
                tail.clear()
            if not recorded and (enters or tail):
                tail.append(packet)
        damage = damage or (order.end() if order else "")
        if not recorded and not damage and len(tail) < _LONGEST_TAIL:
            _decode_tail(stream, tail)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        damage = cause_of(error)
    return packets, head.frame, damage


def _decode_tail(stream, packets) -> None:
    """Decode the last group of pictures, which a cut would end in.

    A picture that is cut is still a packet, and may be none of those that are wanted.
    """
    import av

    context = av.CodecContext.create(stream.codec_context.name, "r")
    context.extradata = stream.codec_context.extradata
    context.thread_count = 1
    context.options = {"err_detect": _STRICT, "max_pixels": _most_pixels()}
    for packet in [*packets, None]:
        if any(frame.is_corrupt for frame in context.decode(packet)):
            raise VideoError("a frame is incomplete")


class _Head:
    """Decodes until the first frame is there, so that the file is read once."""

    def __init__(self, stream) -> None:
        self._context = decoder_of(stream, False)
        self._entered = False
        self.frame = None

    def take(self, packet) -> None:
        import av

        self._entered = self._entered or packet.is_keyframe
        if self.frame is not None or (not self._entered and packet.size):
            return
        try:
            frames = self._context.decode(packet if packet.size else None)
        except (av.error.FFmpegError, ValueError, OSError) as error:
            self.frame = error
            return
        for frame in frames:
            if not frame.is_corrupt:
                self.frame = frame
                return


def _entries(packets: list[_Packet]) -> tuple[np.ndarray, bool]:
    """Times of key frames to begin at, and whether none has pictures leaning across.

    Such pictures stand after a key frame in the file and before it on the screen. They
    are lost when decoding begins there; what follows it on the screen is not.
    """
    earliest = np.minimum.accumulate([packet.pts for packet in packets[::-1]])[::-1]
    closed = all(
        packet.enters and packet.pts == before
        for packet, before in zip(packets, earliest)
        if packet.key
    )
    return np.sort([np.int64(p.pts) for p in packets if p.enters]), closed


def _lost(packets: list[_Packet], count: int) -> int:
    """Packets from the first key frame on, shown no sooner than it, that give none."""
    keys = (at for at, packet in enumerate(packets) if packet.key)
    first = next(keys, len(packets))
    following = packets[first:]
    due = sum(packet.pts >= following[0].pts for packet in following)
    return max(0, due - count)


def _decoded_times(source, demuxer, number, strict, packets, base, rate) -> np.ndarray:
    """Times of frames whose packets do not tell them, by decoding all of them."""
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
    """How the display matrix turns the stored picture: transpose, then two flips."""
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
    """The path as decoders need it: they must not take it for a URL."""
    return str(Path(os.fsdecode(path)).absolute())
