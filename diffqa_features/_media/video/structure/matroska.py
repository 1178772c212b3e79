"""Matroska and WebM: elements within their lengths, and checksums if present.

RFC 8794 and RFC 9559.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from diffqa_features._media.video.structure.walk import Bytes, Fault, number

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_TRACKS, _ENTRY, _TRACK_NUMBER, _CHECKSUM = 0x1654AE6B, 0xAE, 0xD7, 0xBF
_TOP = {
    *(0x114D9B74, 0x1549A966, _TRACKS, _CLUSTER, 0x1C53BB6B),
    *(0x1941A469, 0x1043A770, 0x1254C367, 0xEC, _CHECKSUM),
}
_BLOCK_GROUP, _BLOCKS = 0xA0, (0xA1, 0xA3)
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, _BLOCK_GROUP, 0xAF, 0xEC, _CHECKSUM}
_IN_GROUP = {
    *(0xA1, 0xA2, 0x75A1, 0x9B, 0xFA, 0xFB, 0xFD, 0xA4, 0x75A2, 0x8E, 0xC8, 0xAF),
    *(0xEC, _CHECKSUM),
}
_UNKNOWN = -1


def walk_matroska(data: Bytes) -> dict[int, int]:
    """Counts nothing: each block is checked."""
    at, segments, tracks = 0, 0, set()
    while at < data.size:
        name, start, length = _element(data, at)
        if name == _SEGMENT:
            end = data.size if length == _UNKNOWN else start + length
            data.ends_by(end)
            at, segments = _walk_segment(data, start, end, tracks), segments + 1
        elif name in (_EBML, 0xEC):
            data.ends_by(start + max(length, 0))
            at = start + max(length, 0)
        elif segments:  # trash behind the end of what said how long it is
            break
        else:
            raise Fault(f"no known element at byte {at:,}")
    if not segments:
        raise Fault("it has no segment")
    return {}


def _walk_segment(data: Bytes, at: int, end: int, tracks: set[int]) -> int:
    """Check everything in a segment and return its end."""
    while at < end:
        name, start, length = _element(data, at)
        if name == _EBML:  # another file follows one that did not know its length
            return at
        if name not in _TOP:
            raise Fault(f"no known element at byte {at:,}")
        if length == _UNKNOWN and name != _CLUSTER:
            raise Fault(f"the element at byte {at:,} does not say its length")
        stop = end if length == _UNKNOWN else start + length
        data.ends_by(stop)
        if stop > end:
            raise Fault(f"the element at byte {at:,} is longer than what it lies in")
        if name == _CLUSTER:
            at = _walk_cluster(data, start, stop, tracks, length == _UNKNOWN)
            continue
        if name == _TRACKS:
            for inner, first, last in _children(data, start, stop):
                if inner == _ENTRY:
                    for field, *place in _children(data, first, last):
                        if field == _TRACK_NUMBER:
                            tracks.add(number(data.at(place[0], place[1] - place[0])))
        elif name != 0xEC:
            _check_sum(data, start, stop)
        at = stop
    return at


def _walk_cluster(data, at: int, end: int, tracks: set[int], open_ended: bool) -> int:
    if not open_ended:
        _check_sum(data, at, end)
    while at < end:
        name, start, length = _element(data, at)
        if open_ended and (name in _TOP - _IN_CLUSTER or name == _EBML):
            return at
        stop = start + length
        if name not in _IN_CLUSTER or length == _UNKNOWN:
            raise Fault(f"no known element at byte {at:,}")
        if stop > end:
            if open_ended:
                data.ends_by(stop)
            raise Fault(f"the element at byte {at:,} is longer than what it lies in")
        if name in _BLOCKS:
            _check_block(data, start, stop, tracks)
        elif name == _BLOCK_GROUP:
            for inner, first, last in _children(data, start, stop):
                if inner not in _IN_GROUP:
                    raise Fault(f"no known element in the group at byte {at:,}")
                if inner in _BLOCKS:
                    _check_block(data, first, last, tracks)
        at = stop
    return at


def _check_block(data: Bytes, start: int, stop: int, tracks: set[int]) -> None:
    head = data.at(start, 8)
    width = 9 - head[0].bit_length() if head and head[0] else 9
    track = number(head[:width]) & ((1 << 7 * width) - 1) if width < 9 else 0
    if track not in tracks or stop - start <= width + 3:
        raise Fault(f"the block at byte {start:,} is of no track")


def _check_sum(data: Bytes, start: int, stop: int) -> None:
    """Verify the checksum at the start of an element, if present."""
    if data.at(start, 2) != b"\xbf\x84":
        return
    said, found = number(data.at(start + 2, 4), "little"), 0
    for piece in data.pieces(start + 6, stop):
        found = zlib.crc32(piece, found)
    if said != found:
        raise Fault(f"the checksum at byte {start:,} is not that of what follows")


def _children(data: Bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    while at < end:
        name, start, length = _element(data, at)
        if length == _UNKNOWN or start + length > end:
            raise Fault(f"the element at byte {at:,} is longer than what it lies in")
        yield name, start, start + length
        at = start + length


def _element(data: Bytes, at: int) -> tuple[int, int, int]:
    """An element's name, start of its content, and length."""
    head = data.at(at, 12)
    width = 9 - head[0].bit_length() if head and head[0] else 9
    if width > 4 or len(head) <= width or not head[width]:
        raise Fault(f"no element begins at byte {at:,}")
    octets = 9 - head[width].bit_length()
    length = number(head[width : width + octets])
    mask = (1 << 7 * octets) - 1
    known = length & mask != mask
    start = at + width + octets
    return number(head[:width]), start, length & mask if known else _UNKNOWN
