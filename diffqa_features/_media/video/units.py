"""The units inside packets of H.264 and related codecs: validity and missing pictures.

ITU-T H.264 (7.3, 8.2.1) and H.265 (7.3). Compressed video never contains two zero bytes
followed by one below 3, except at the start of a unit, so zeroed regions and losses at
unit boundaries show without decoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

# Decoders of these find each unit by its start, so that it may not occur inside one.
STARTED = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4")
# These are coded too densely for a long run of zeros, and their decoders mind none. A
# picture of 8K in which nothing moves comes nearest to one.
_DENSE = (
    *("vp8", "vp9", "av1", "theora", "flv1", "h263", "h263p", "wmv1", "wmv2"),
    *("msmpeg4v1", "msmpeg4v2", "msmpeg4v3"),
)
_RUN = 128


def length_width(codec: str, extradata: bytes | None) -> int:
    """Size of the length field before each unit, as in MP4; 0 if there is none."""
    if extradata and extradata[0] == 1:
        if codec == "h264" and len(extradata) > 6:
            return (extradata[4] & 3) + 1
        if codec == "hevc" and len(extradata) > 22:
            return (extradata[21] & 3) + 1
    return 0


def misfit(data: bytes, codec: str, width: int) -> str:
    """What in a packet no encoder can have written; empty if nothing."""
    if codec in _DENSE:
        run = data.rstrip(b"\0").find(bytes(_RUN))
        return f"{_RUN} zero bytes in a row" if run >= 0 else ""
    if codec not in STARTED:
        return ""
    if not width:
        if re.search(rb"\0\0\0+[^\0\1]", data):
            return "zero bytes inside a unit"
        return ""
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + width], "big")
        end = at + width + length
        if not length or end > len(data):
            return "units that do not fit their packet"
        if re.search(rb"\0\0[\0-\2]", data[at + width : end].rstrip(b"\0")):
            return "zero bytes inside a unit"
        at = end
    return ""


def units(data: bytes, width: int) -> Iterator[bytes]:
    """The units of an H.264 or HEVC packet, each starting at its header."""
    if width:
        at = 0
        while at + width < len(data):
            length = int.from_bytes(data[at : at + width], "big")
            if not length:
                return
            yield data[at + width : at + width + length]
            at += width + length
        return
    at = data.find(b"\0\0\1")
    while at >= 0:
        following = data.find(b"\0\0\1", at + 3)
        yield data[at + 3 : following if following >= 0 else len(data)]
        at = following


def holds(data: bytes, width: int, kind: int) -> bool:
    """Whether an H.264 packet contains a unit of this type.

    5 is an IDR picture (other key frames only recover), 7 a parameter set.
    """
    return any(unit and unit[0] & 31 == kind for unit in units(data, width))


class Order:
    """Finds missing H.264 pictures by their numbers.

    Only for streams without a container that would reveal it: picture order counts step
    by two, and frame numbers of reference pictures by one.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._sets: dict[int, _Sequence] = {}
        self._sequence: _Sequence | None = None
        self._shown: list[int] = []  # order counts since decoding began anew
        self._last = self._high = 0
        self._number: int | None = None
        self._given_up = False
        self.fault = ""

    def take(self, data: bytes) -> None:
        """Process the next packet in file order."""
        if self._given_up or self.fault:
            return
        try:
            for unit in units(data, self._width):
                kind = unit[0] & 31 if unit else 0
                if kind == 7:
                    self._sequence = _Sequence(unit)
                elif kind in (1, 5):
                    self._picture(unit)
                    return  # what follows are slices of the same picture
        except (IndexError, ValueError):
            self._given_up = True

    def end(self) -> str:
        """Everything that is missing."""
        if not self._given_up:
            self._check()
        return self.fault

    def _picture(self, unit: bytes) -> None:
        sequence = self._sequence
        # Fields, several layers and the two other ways to count are left alone.
        if sequence is None or not sequence.simple:
            self._given_up = True
            return
        bits = _Bits(unit[:64])
        bits.skip(8)
        if bits.golomb():  # not the first slice: its beginning is lost
            self.fault = "the beginning of a picture is missing"
            return
        bits.golomb()
        bits.golomb()
        number = bits.take(sequence.number_bits)
        again = unit[0] & 31 == 5
        if again:
            bits.golomb()
            self._check()
            self._shown, self._last, self._high = [], 0, 0
        elif self._number is not None and not sequence.gaps_allowed:
            step = (number - self._number) % (1 << sequence.number_bits)
            if step > 1:
                self.fault = "a picture that others need is missing"
        # One that no other needs does not count.
        self._number = (
            number if unit[0] >> 5 else (number - 1) % (1 << sequence.number_bits)
        )
        low, size = bits.take(sequence.order_bits), 1 << sequence.order_bits
        high = self._high
        if low < self._last and self._last - low >= size // 2:
            high += size
        elif low > self._last and low - self._last > size // 2:
            high -= size
        if unit[0] >> 5:
            self._last, self._high = low, high
        self._shown.append(high + low)

    def _check(self) -> None:
        shown = sorted(self._shown)
        steps = [b - a for a, b in pairwise(shown)]
        # Encoders that leave out pictures on purpose do so more than once in a while.
        if len(steps) > 3 and min(steps) > 0:
            usual = sorted(steps)[len(steps) // 2]
            if (
                usual <= 2
                and steps.count(usual) >= 0.75 * len(steps)
                and max(steps) > usual
            ):
                self.fault = "pictures are missing between others"


class _Sequence:
    """The part of a sequence parameter set needed to read a slice's numbers."""

    def __init__(self, unit: bytes) -> None:
        bits = _Bits(unit)
        bits.skip(8)
        profile = bits.take(8)
        bits.skip(16)
        bits.golomb()
        planes = 0
        if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
            colour = bits.golomb()
            if colour == 3:
                planes = bits.take(1)
            bits.golomb()
            bits.golomb()
            bits.skip(1)
            if bits.take(1):
                for which in range(8 if colour != 3 else 12):
                    if bits.take(1):
                        bits.scaling_list(16 if which < 6 else 64)
        self.number_bits = bits.golomb() + 4
        kind = bits.golomb()
        self.order_bits = bits.golomb() + 4 if kind == 0 else 0
        simple = kind == 0 and not planes and self.order_bits <= 16
        if simple:
            bits.golomb()
            self.gaps_allowed = bits.take(1)
            bits.golomb()
            bits.golomb()
            simple = bool(bits.take(1))  # whole frames only
        self.simple = simple


class _Bits:
    """Bits of a unit in order, without emulation prevention bytes."""

    def __init__(self, unit: bytes) -> None:
        self._data = unit.replace(b"\0\0\3", b"\0\0")
        self._at = 0

    def take(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self._data[self._at >> 3] >> (7 - self._at & 7) & 1
            self._at += 1
        return value

    def skip(self, count: int) -> None:
        self._at += count

    def golomb(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 31:
                raise ValueError
        return (1 << zeros) - 1 + self.take(zeros)

    def scaling_list(self, length: int) -> None:
        last = following = 8
        for _ in range(length):
            if following:
                code = self.golomb()
                change = (code + 1) // 2 if code & 1 else -(code // 2)
                following = (last + change) % 256
            last = following or last
