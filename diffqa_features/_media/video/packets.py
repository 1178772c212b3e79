"""The packets of a stream in; information on its frames and missing parts out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from diffqa_features._media.video.opening import (
    STRICT,
    VideoError,
    cause_of,
    codec_name,
    decoder_of,
    largest_frame,
)
from diffqa_features._media.video.units import Order, holds, length_width, misfit

_LONGEST_TAIL = 600  # packets of a group of pictures that are decoded to its end
# Containers that keep no record of what should follow: there pictures are looked at.
_UNRECORDED = ("h264", "hevc", "mpegts", "mpeg", "mpegvideo", "flv")


@dataclass(slots=True)
class Packet:
    pts: int | None
    dts: int | None
    duration: int
    key: bool
    enters: bool  # nothing before it is needed to decode what follows it


def read_packets(container, stream):
    """Packets that become frames, in the order of decoding; the first frame; damage.

    The frame can also be the error raised by decoding it, or None.
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
                Packet(packet.pts, packet.dts, packet.duration or 0, key, enters)
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
    """Decode the last group of pictures, where truncation would show.

    A truncated picture is still a packet, and may not be among the wanted ones.
    """
    import av

    context = av.CodecContext.create(stream.codec_context.name, "r")
    context.extradata = stream.codec_context.extradata
    context.thread_count = 1
    context.options = {"err_detect": STRICT, "max_pixels": largest_frame()}
    for packet in [*packets, None]:
        if any(frame.is_corrupt for frame in context.decode(packet)):
            raise VideoError("a frame is incomplete")


class _Head:
    """Decodes until the first frame is complete, so the file is read once."""

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


def find_entries(packets: list[Packet]) -> tuple[np.ndarray, bool]:
    """Times of key frames to start at, and whether all are closed-GOP.

    Leading pictures follow an open-GOP key frame in the file but precede it on screen.
    They are lost when decoding starts there; pictures shown after it are not.
    """
    earliest = np.minimum.accumulate([packet.pts for packet in packets[::-1]])[::-1]
    closed = all(
        packet.enters and packet.pts == before
        for packet, before in zip(packets, earliest)
        if packet.key
    )
    return np.sort([np.int64(p.pts) for p in packets if p.enters]), closed


def lost_frames(packets: list[Packet], count: int) -> int:
    """Packets from the first key frame on, not shown before it, without a frame."""
    keys = (at for at, packet in enumerate(packets) if packet.key)
    first = next(keys, len(packets))
    following = packets[first:]
    due = sum(packet.pts >= following[0].pts for packet in following)
    return max(0, due - count)
