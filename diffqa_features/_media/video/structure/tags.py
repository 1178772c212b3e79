"""FLV and ASF (WMV): tags and packets within their lengths, as many as declared."""

from __future__ import annotations

import struct

from diffqa_features._media.video.structure.walk import Bytes, Fault, number

_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def walk_flv(data: Bytes) -> dict[int, int]:
    """Counts nothing: each tag is followed by its own length."""
    at, said = number(data.at(5, 4)) + 4, 0.0
    codec = coding = 0
    while at < data.size:
        head = data.at(at, 11)
        length = number(head[1:4])
        data.ends_by(at + 15 + length)
        if head[0] & 0x1F not in (8, 9, 18) or head[0] & 0xC0 or any(head[8:11]):
            raise Fault(f"no tag begins at byte {at:,}")
        if number(data.at(at + 11 + length, 4)) not in (length + 11, 0):
            raise Fault(f"the tag at byte {at:,} has another length")
        if head[0] == 18 and not said:
            text = data.at(at + 11, min(length, 1 << 16))
            name = text.find(b"\0\x08filesize\0")
            if 0 <= name < len(text) - 19:
                (said,) = struct.unpack(">d", text[name + 11 : name + 19])
        if head[0] & 0x1F == 9 and length:
            first = data.at(at + 11, 1)[0]
            # What kind of frame, and which coding: one for all, or a newer list.
            codec = first & 15 if first < 128 else 128
            coding = coding or codec
            if codec != coding or (first < 128 and not 1 <= first >> 4 <= 5):
                raise Fault(f"the tag at byte {at:,} is of no known kind")
        at += 15 + length
    if said < 2**60:  # zero where it was never closed
        data.ends_by(int(said))
    return {}


def walk_asf(data: Bytes) -> dict[int, int]:
    """Counts nothing: packets have a fixed length, and objects are numbered."""
    header = data.at(0, 30)
    at, end, size, count, live = 30, number(header[16:24], "little"), 0, 0, True
    data.ends_by(end)
    while at < end:
        name, length = _object(data, at, end)
        if name == _PROPERTIES:
            values = struct.unpack("<16xQQQQQQLLLL", data.at(at + 24, 80))
            said, count, flags, size, largest = (values[k] for k in (0, 2, 6, 7, 8))
            live = bool(flags & 1)
            if size != largest or not size:
                raise Fault("its packets have no common length")
            if not live:
                data.ends_by(said)
        at += length
    if data.at(at, 16) != _DATA or not size:
        raise Fault("its header is broken")
    listed = number(data.at(at + 40, 8), "little")
    count = max(count, listed) if not live else 0
    start = at + 50
    if count:
        data.ends_by(start + count * size)
    else:
        count = (data.size - start) // size
    _Objects(data, start, size).walk(count)
    return {}


def _object(data: Bytes, at: int, end: int) -> tuple[bytes, int]:
    head = data.at(at, 24)
    length = number(head[16:], "little")
    if length < 24 or at + length > end:
        raise Fault(f"the object at byte {at:,} is broken")
    return head[:16], length


class _Objects:
    """The payload of packets: numbered objects of streams, in order."""

    def __init__(self, data: Bytes, start: int, size: int) -> None:
        self._data, self._start, self._size = data, start, size
        self._open: dict[int, tuple[int, int, int]] = {}  # number, length, how much

    def walk(self, count: int) -> None:
        for packet in range(count):
            place = self._start + packet * self._size
            try:
                self._read(self._data.at(place, self._size))
            except (Fault, IndexError) as error:
                cause = str(error) if isinstance(error, Fault) else "it is too short"
                raise Fault(
                    f"the packet at byte {place:,} is broken: {cause}"
                ) from None
        for order, length, done in self._open.values():
            if done < length:
                raise Fault(f"object {order} is cut")

    def _read(self, packet: bytes) -> None:
        at = 0
        if packet[0] & 0x80:
            if packet[0] & 0x70:
                raise Fault("its error correction is of no known kind")
            at = 1 + (packet[0] & 15)
        flags, kinds = packet[at], packet[at + 1]
        at += 2
        sizes = []
        for shift in (5, 1, 3):  # packet, sequence, padding
            width = (0, 1, 2, 4)[flags >> shift & 3]
            sizes.append(number(packet[at : at + width], "little"))
            at += width
        end = (sizes[0] or len(packet)) - sizes[2]
        at += 6  # send time, duration
        if kinds & 0xC0 != 0x40 or end > len(packet):
            raise Fault("its flags are of no known kind")
        several, width = 1, 0
        if flags & 1:
            several, width = packet[at] & 63, (0, 1, 2, 4)[packet[at] >> 6]
            at += 1
        for _ in range(several):
            at = self._payload(packet, at, end, kinds, width if flags & 1 else 0)

    def _payload(self, packet, at: int, end: int, kinds: int, width: int) -> int:
        stream = packet[at] & 127
        at += 1
        values = []
        for shift in (4, 2, 0):  # object number, offset, replicated data
            octets = (0, 1, 2, 4)[kinds >> shift & 3]
            values.append(number(packet[at : at + octets], "little"))
            at += octets
        order, offset, extra = values
        if not stream:
            raise Fault("a payload is of no stream")
        whole = number(packet[at : at + 4], "little") if extra >= 8 else 0
        at += 1 if extra == 1 else extra
        length = number(packet[at : at + width], "little") if width else end - at
        at += width
        if length < 0 or at + length > end:
            raise Fault("a payload is longer than what it lies in")
        if extra >= 8:
            self._take(stream, order, offset, whole, length)
        return at + length

    def _take(self, stream, order: int, offset: int, whole: int, length: int) -> None:
        last, total, done = self._open.get(stream, (None, 0, 0))
        if offset:
            if last != order or offset != done or whole != total:
                raise Fault("a piece of an object is missing")
        else:
            if done < total:
                raise Fault("the end of an object is missing")
            if last is not None and order != (last + 1) % 256:
                raise Fault("an object is missing")
            done = 0
        if done + length > whole:
            raise Fault("a piece is longer than its object")
        self._open[stream] = (order, whole, done + length)
