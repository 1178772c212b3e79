"""AVI, IVF, MXF and Y4M: chunks within their lengths, as many as declared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from diffqa_features._media.video.structure.walk import Bytes, Fault, number

_PICTURE_KINDS = (b"db", b"dc")
# Samples of chroma per sample of luma, down and across; how many planes of them.
_Y4M_CHROMA = {
    b"420": (2, 2, 2), b"422": (1, 2, 2), b"411": (1, 4, 2), b"440": (2, 1, 2),
    b"444alpha": (1, 1, 3), b"444": (1, 1, 2), b"mono": (1, 1, 0),
}  # fmt: skip
_LONGEST_LINE = 256  # bytes of a header of Y4M; FFmpeg reads no longer ones


def walk_avi(data: Bytes) -> dict[int, int]:
    """Number of non-empty chunks of each picture stream, by stream number."""
    counts, listed, empty = Counter(), Counter(), Counter()
    at, index = 0, False
    while at + 12 <= data.size and data.at(at, 4) == b"RIFF":
        length = number(data.at(at + 4, 4), "little")
        # A recorder that never closed the file leaves zero, or all ones.
        end = at + 8 + length if 0 < length < 2**32 - 1 else data.size
        data.ends_by(end)
        for name, start, stop in _chunks(data, at + 12, end):
            kind = data.at(start, 4)
            if name == b"LIST" and kind == b"hdrl":
                _check_rates(data, start + 4, stop)
            elif name == b"LIST" and kind == b"movi":
                _count(data, start + 4, stop, counts, empty)
            elif name == b"idx1":
                index = True
                table = data.at(start, stop - start)
                listed.update(table[k : k + 4] for k in range(0, len(table), 16))
        at = end + end % 2
    if index and at <= data.size:
        for name in {*listed, *counts, *empty}:
            # A second RIFF goes beyond what the old index can list.
            if name[2:] in _PICTURE_KINDS and listed[name] > counts[name] + empty[name]:
                raise Fault(
                    f"{listed[name]} frames are listed and "
                    f"{counts[name] + empty[name]} found"
                )
            if name[2:] in _PICTURE_KINDS and not listed[name]:
                raise Fault("its index lists no frame of a stream")
    return {
        int(name[:2]): count
        for name, count in counts.items()
        if name[2:] in _PICTURE_KINDS and name[:2].isdigit()
    }


def _check_rates(data: Bytes, at: int, end: int) -> None:
    """The header stores the frame duration twice; damage rarely changes both alike."""
    step = 0
    for name, start, stop in _chunks(data, at, end):
        if name == b"avih":
            step = number(data.at(start, 4), "little")
        elif name == b"LIST" and data.at(start, 4) == b"strl":
            for inner, first, _ in _chunks(data, start + 4, stop):
                if inner == b"strh" and data.at(first, 4) == b"vids" and step:
                    scale = number(data.at(first + 20, 4), "little")
                    rate = number(data.at(first + 24, 4), "little")
                    if not rate or not 0.5 < 1e6 * scale / rate / step < 2:
                        raise Fault("its header gives two different frame rates")
                    step = 0


def _chunks(data: Bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while at + 8 <= end:
        head = data.at(at, 8)
        stop = at + 8 + number(head[4:], "little")
        if not all(32 <= byte < 127 for byte in head[:4]) or stop > end:
            raise Fault(f"no chunk begins at byte {at:,}")
        yield head[:4], at + 8, stop
        at = stop + stop % 2
    if end - at > 1:
        raise Fault(f"no chunk begins at byte {at:,}")


def _count(data: Bytes, at: int, end: int, counts: Counter, empty: Counter) -> None:
    for name, start, stop in _chunks(data, at, end):
        if name == b"LIST":
            _count(data, start + 4, stop, counts, empty)
        elif name[:2].isdigit():
            (counts if stop > start else empty)[name] += 1
        elif name[:2] != b"ix" and name not in (b"JUNK", b"idx1"):
            raise Fault(f"no known chunk at byte {start - 8:,}")


def walk_ivf(data: Bytes) -> dict[int, int]:
    """Frames of the only stream."""
    head = data.at(0, 32)
    at, count = number(head[6:8], "little"), 0
    first = last = 0
    while at < data.size:
        frame = data.at(at, 12)
        length, last = number(frame[:4], "little"), number(frame[4:], "little")
        first = first if count else last
        if len(frame) < 12 or not length:
            raise Fault(f"no frame begins at byte {at:,}")
        data.ends_by(at + 12 + length)
        at, count = at + 12 + length, count + 1
    said = number(head[24:28], "little")
    # Older writers put the duration where the count belongs; some put nothing.
    if 0 < said < 2**31 and count < said and last - first + 1 < said:
        raise Fault(f"{said} frames are listed and {count} found")
    return {0: count}


def walk_mxf(data: Bytes) -> dict[int, int]:
    """Counts nothing: SMPTE 377 numbers no frames, but all has key and length."""
    at, footer = 0, 0
    while at < data.size:
        head = data.at(at, 25)
        if head[:4] != b"\x06\x0e\x2b\x34" or len(head) < 17:
            raise Fault(f"no key begins at byte {at:,}")
        octets = head[16] & 127 if head[16] & 128 else 0
        start = at + 17 + octets
        length = number(head[17 : 17 + octets]) if octets else head[16]
        if not at and head[13] == 2:  # the header says where the footer is
            footer = number(data.at(start + 24, 8))
        at = start + length
        data.ends_by(at)
    if footer >= data.size:
        raise Fault("its end is missing")
    return {}


def walk_y4m(data: Bytes) -> dict[int, int]:
    """Frames of the only stream, each behind a line and as long as its size says."""
    line = data.at(0, _LONGEST_LINE).partition(b"\n")[0]
    facts = {word[:1]: word[1:] for word in line.split(b" ")[1:]}
    coding = facts.get(b"C", b"420")
    chroma = next((c for c in _Y4M_CHROMA if coding.startswith(c)), None)
    if not (facts.get(b"W", b"").isdigit() and facts.get(b"H", b"").isdigit()):
        raise Fault("its header does not say its size")
    if chroma is None or (b"C" not in facts and b" XYSCSS=" in line):
        return {}  # left to FFmpeg
    width, height = int(facts[b"W"]), int(facts[b"H"])
    down, across, planes = _Y4M_CHROMA[chroma]
    length = width * height + planes * (-(-width // across) * -(-height // down))
    if re.search(rb"(p|mono)(9|1\d)$", coding):  # bits: two bytes for each sample
        length *= 2
    at, count = len(line) + 1, 0
    while at < data.size:
        head = data.at(at, _LONGEST_LINE).partition(b"\n")[0]
        if head != b"FRAME" and not head.startswith(b"FRAME "):
            raise Fault(f"no frame begins at byte {at:,}")
        at, count = at + len(head) + 1 + length, count + 1
        data.ends_by(at)
    return {0: count}
