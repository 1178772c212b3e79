"""Ogg: page checksums and numbers, and a last page per stream (RFC 3533)."""

from __future__ import annotations

import zlib

from diffqa_features._media.video.structure.walk import Bytes, Fault, number

_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def walk_ogg(data: Bytes) -> dict[int, int]:
    """Counts nothing: a missing page shows in the numbering."""
    at, numbers, ended = 0, {}, set()
    while at < data.size:
        head = data.at(at, 27)
        if head[:5] != b"OggS\0" or len(head) < 27:
            raise Fault(f"no page begins at byte {at:,}")
        table = data.at(at + 27, head[26])
        length = 27 + len(table) + sum(table)
        data.ends_by(at + length)
        page = data.at(at, length)
        if number(page[22:26], "little") != _checksum(page[:22] + bytes(4) + page[26:]):
            raise Fault(f"the page at byte {at:,} has another checksum")
        serial, order = head[14:18], number(head[18:22], "little")
        if order != numbers.get(serial, order - 1) + 1:
            raise Fault(f"pages are missing before byte {at:,}")
        numbers[serial] = order
        if head[5] & 4:
            ended.add(serial)
        at += length
    if set(numbers) - ended:
        raise Fault("its last page is missing")
    return {}


def _checksum(page: bytes) -> int:
    """Ogg's CRC-32: zlib's on reversed bits, without the two inversions."""
    mirrored = zlib.crc32(page.translate(_MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
