"""A video file in; out what its packets say: when each frame is shown, where to enter.

Nothing here trusts a number in a header: frames are counted by reading the packets,
which costs no decoding, and the times are those of presentation. Only where packets
leave a question open (no or repeated time stamps, a start in the middle of a group of
pictures) is the file decoded once to answer it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from diffqa_features._media.video.containers import missing_bytes


class VideoError(ValueError):
    """What is wrong with a video, and the way out."""


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of a video stream before its frames are decoded."""

    source: str | bytes
    stream: int
    alone: bool  # whether no other stream is a picture of any kind
    strict: bool  # whether the first packet begins anew, so that no error is in order
    codec: str
    container: str
    pts: np.ndarray | None  # (T,) int64, increasing; None where frames must be counted
    times: np.ndarray  # (T,) float64, seconds since the first frame is shown
    end: float  # seconds, when the last frame is gone
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
    missing = missing_bytes(source)
    with opened(source) as container:
        stream = pick_stream(container)
        number, base, codec = stream.index, stream.time_base, codec_name(stream)
        names, rate = container.format.name, stream.guessed_rate or 25
        alone = len(container.streams.video) == 1
        stated = stream.frames or 0
        if not stated and container.duration:
            stated = int(container.duration / 1e6 * rate)
        # AVI has one clock, that of decoding, and what is derived from it is unsound.
        reordered = names == "avi" and stream.codec_context.has_b_frames
        packets, damage = _packets(container, stream)
    if missing or damage:
        cause = f"{missing} of its bytes are missing" if missing else damage
        about = max(stated, len(packets))
        raise VideoError(damaged(source, number, True, about, cause))
    if not packets:
        raise VideoError("has a video stream without a single frame; drop the row.")
    first = _first_frame(source, number)
    stamps = [packet.pts for packet in packets]
    clear = None not in stamps and len(set(stamps)) == len(stamps)
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
        seconds = _decoded_times(source, number, strict, packets, base, rate)
    steps = np.diff(seconds)
    last = last * float(base) or (np.median(steps) if len(steps) else float(1 / rate))
    return Index(
        source=source,
        stream=number,
        alone=alone,
        strict=strict,
        codec=codec,
        container=names,
        pts=pts,
        times=seconds,
        end=float(seconds[-1] + last),
        entries=entries,
        closed=closed,
        pixel_format=first.format.name,
        size=(first.height, first.width),
        turn=_turn(first),
    )


def opened(source: str | bytes):
    """Open a container with PyAV, also one whose texts are no UTF-8."""
    import av

    # The protocol is said, or FFmpeg would find one in a name like "a:b.mp4".
    name = BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
    # From PyAV 19 on there is no such option: it replaces by itself.
    old = int(av.__version__.split(".")[0]) < 19
    try:
        return av.open(name, **({"metadata_errors": "replace"} if old else {}))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"cannot be opened as a video ({cause_of(error)}): it is cut, damaged, or "
            "not a video; restore the file or drop the row."
        ) from error


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
    if strict:  # nothing is patched up in silence
        options["err_detect"] = "explode"
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


def count_decodable(source: str | bytes, number: int, strict: bool) -> int:
    """How many frames come out whole before the first that does not; decodes all."""
    count = 0
    try:
        with opened(source) as container:
            for _ in decode_all(container, number, strict):
                count += 1
    except Exception:  # that it fails is known; what is asked is how far it comes
        pass
    return count


def damaged(source, number: int, strict: bool, stated: int, cause: str) -> str:
    """Say what is wrong and how far the file can be read."""
    count = count_decodable(source, number, strict)
    return (
        f"is damaged or cut ({cause}): {count} of about {max(stated, count)} frames "
        "decoded with the imageio reader; restore the file or drop the row."
    )


def _packets(container, stream) -> tuple[list[_Packet], str]:
    """Packets that become frames, in the order of decoding; and what is broken."""
    import av

    packets, codec = [], codec_name(stream)
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.is_corrupt:
                return packets, f"packet {len(packets)} is incomplete"
            if packet.is_discard or (codec == "vp8" and not bytes(packet)[0] & 16):
                continue  # before an edit list's start; never shown
            key = packet.is_keyframe
            enters = key and (codec != "h264" or _holds_idr(bytes(packet), stream))
            packets.append(
                _Packet(packet.pts, packet.dts, packet.duration or 0, key, enters)
            )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return packets, cause_of(error)
    return packets, ""


def _holds_idr(data: bytes, stream) -> bool:
    """Whether H.264 begins anew here: key frames of other kinds only recover."""
    extra = stream.codec_context.extradata or b""
    if extra[:1] == b"\x01":  # units after their lengths, as in MP4 and Matroska
        width, at = (extra[4] & 3) + 1, 0
        while at + width < len(data):
            if data[at + width] & 31 == 5:
                return True
            at += width + int.from_bytes(data[at : at + width], "big")
        return False
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        if data[at + 3] & 31 == 5:
            return True
        at = data.find(b"\0\0\1", at + 3)
    return False


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


def _first_frame(source, number: int):
    import av

    try:
        with opened(source) as container:
            for frame in decode_all(container, number, False):
                return frame
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise VideoError(
            f"cannot be decoded ({cause_of(error)}): 0 frames decoded with the imageio "
            "reader; restore the file or drop the row."
        ) from error
    raise VideoError(
        "holds no frame that can be decoded: 0 frames decoded with the imageio reader; "
        "restore the file or drop the row."
    )


def _decoded_times(source, number, strict, packets, base, rate) -> np.ndarray:
    """Times of frames whose packets do not tell them, by decoding all of them."""
    import av

    stamps = []
    try:
        with opened(source) as container:
            for frame in decode_all(container, number, strict):
                stamps.append(frame.pts)
    except (av.error.FFmpegError, VideoError) as error:
        text = damaged(source, number, strict, len(packets), cause_of(error))
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
