"""MP4 and QuickTime: boxes within their lengths, ordered fragments, consistent tables.

ISO/IEC 14496-12.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from diffqa_features._media.video.structure.walk import Bytes, Fault, number

_MEDIA = (b"moov", b"moof", b"mdat")

_MOST = 10_000_000  # samples whose times are added up one by one; 46 hours at 60 fps

_TABLES = {
    *(b"stsd", b"stts", b"ctts", b"cslg", b"stsc", b"stsz", b"stz2", b"stco", b"co64"),
    *(b"stss", b"stps", b"stsh", b"stdp", b"sdtp", b"padb", b"subs", b"sbgp", b"sgpd"),
    *(b"saiz", b"saio", b"senc", b"free", b"skip", b"uuid"),
}


@dataclass(slots=True)
class _Track:
    kind: bytes = b""
    clock: int = 0  # ticks per second
    duration: int = 0  # ticks
    steps: np.ndarray | None = None  # (n, 2): samples, ticks of each
    offsets: np.ndarray | None = None  # (n, 2): samples, ticks from decoding to showing
    sizes: int = 0  # samples in the table of sizes
    empty: int = 0  # of those, how many have no bytes
    shown: int = 0  # ticks of the film that edits show


def walk_mp4(data: Bytes) -> dict[int, int]:
    """Counts nothing: edit lists legitimately hide frames."""
    tracks: dict[int, _Track] = {}
    orders, at, end, clock = [], 0, 0, 0
    while at + 8 <= data.size:
        kind, start, stop = _header(data, at)
        if not stop:  # to the end of the file, or no box
            break
        if kind in _MEDIA:  # others may be cut: an index of fragments is not missed
            end = stop
        if kind == b"moov":
            data.ends_by(stop)
            for name, first, last in _children(data, start, stop):
                if name == b"mvhd":
                    long = data.at(first, 1) == b"\1"
                    clock = number(data.at(first + (20 if long else 12), 4))
                elif name == b"trak":
                    _read_track(data, first, last, tracks)
        elif kind == b"moof":
            data.ends_by(stop)
            orders.append(_read_fragment(data, start, stop, tracks))
        at = stop
    data.ends_by(end)
    rest = data.at(at, 1 << 24)
    # Trash behind the last box is common and harmless, save where fragments follow one
    # another: there it was one, unless it is their index.
    lost = rest[4:8] != b"mfra" if orders else b"moov" in rest or b"moof" in rest
    if rest and lost and rest[:8] != b"\0\0\0\0mdat":
        raise Fault(f"no box begins at byte {at:,}")
    _check_orders(orders)
    for track in tracks.values():
        _check_track(track, clock)
    return {}


def _header(data: Bytes, at: int) -> tuple[bytes, int, int]:
    """Name of a box, start and end of its content; end 0 if it is not a box."""
    header = data.at(at, 16)
    length, kind, start = number(header[:4]), header[4:8], at + 8
    if length == 1:
        length, start = number(header[8:16]), at + 16
    printable = all(32 <= byte < 127 or byte == 0xA9 for byte in kind)
    known = printable and len(kind) == 4 and length >= start - at
    return kind, start, at + length if known else 0


def _children(data: Bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while at + 8 <= end:
        kind, start, stop = _header(data, at)
        if number(data.at(at, 4)) == 0:  # QuickTime ends user data with a zero
            return
        if not stop or stop > end:
            raise Fault(f"the box at byte {at:,} is broken")
        yield kind, start, stop
        at = stop


def _read_track(data: Bytes, at: int, end: int, tracks: dict) -> None:
    name, track = 0, _Track()
    inside = [(b"trak", at, end)]
    while inside:
        parent, *place = inside.pop()
        for kind, start, stop in _children(data, *place):
            if parent == b"stbl" and kind not in _TABLES:
                raise Fault(f"the box at byte {start - 8:,} is of no known kind")
            if kind in (b"mdia", b"minf", b"stbl", b"edts"):
                inside.append((kind, start, stop))
                continue
            long = data.at(start, 1) == b"\1"
            if kind == b"tkhd":
                name = number(data.at(start + (20 if long else 12), 4))
            elif kind == b"hdlr" and not track.kind:
                track.kind = data.at(start + 8, 4)
            elif kind == b"mdhd":
                where = start + (20 if long else 12)
                track.clock = number(data.at(where, 4))
                track.duration = number(data.at(where + 4, 8 if long else 4))
                if track.duration == (1 << (64 if long else 32)) - 1:
                    track.duration = 0  # not known
            elif kind == b"stts":
                table = _table(data, start + 8, stop, number(data.at(start + 4, 4)), 2)
                track.steps = table
            elif kind == b"ctts":
                table = _table(data, start + 8, stop, number(data.at(start + 4, 4)), 2)
                # Of version 0 they should have no sign, but some writers give them one.
                table[table[:, 1] >= 1 << 31, 1] -= 1 << 32
                track.offsets = table
            elif kind == b"stsz":
                track.sizes = number(data.at(start + 8, 4))
                if not number(data.at(start + 4, 4)):
                    table = _table(data, start + 12, stop, track.sizes, 1)
                    track.empty = int((table == 0).sum())
            elif kind == b"elst":
                track.shown = _shown(data, start, long)
    tracks[name] = track


def _table(data: Bytes, at: int, end: int, rows: int, columns: int) -> np.ndarray:
    if at + 4 * rows * columns > end:
        raise Fault(f"the table at byte {at:,} is shorter than it says")
    values = np.frombuffer(data.at(at, 4 * rows * columns), ">u4")
    return values.reshape(rows, columns).astype(np.int64)


def _shown(data: Bytes, start: int, long: bool) -> int:
    """Ticks of the media shown by an edit list, in media time."""
    half, total = (8 if long else 4), 0
    for row in range(min(number(data.at(start + 4, 4)), 1000)):
        entry = data.at(start + 8 + row * (2 * half + 4), 2 * half + 4)
        place = int.from_bytes(entry[half : 2 * half], "big", signed=True)
        if place >= 0 and entry[2 * half :] == b"\0\1\0\0":
            total = max(total, number(entry[:half]))
    return total


def _read_fragment(data: Bytes, at: int, end: int, tracks: dict) -> int | None:
    order = None
    for kind, start, stop in _children(data, at, end):
        if kind == b"mfhd":
            order = number(data.at(start + 4, 4))
        elif kind == b"traf":
            name, base = 0, at - 8
            for inner, first, last in _children(data, start, stop):
                if inner == b"tfhd":
                    name = number(data.at(first + 4, 4))
                    # Places are counted from the fragment unless it gives another.
                    given = data.at(first + 3, 1)[0] & 1
                    base = number(data.at(first + 8, 8)) if given else at - 8
                elif inner == b"trun":
                    _check_run(data, first, last, base)
            if name not in tracks:
                raise Fault(f"the fragment at byte {at - 8:,} is of no track")
    return order


def _check_run(data: Bytes, at: int, end: int, base: int) -> None:
    flags, count = number(data.at(at + 1, 3)), number(data.at(at + 4, 4))
    fields = [bool(flags & bit) for bit in (0x100, 0x200, 0x400, 0x800)]
    start = at + 8 + 4 * bool(flags & 1) + 4 * bool(flags & 4)
    table = _table(data, start, end, count, sum(fields)) if any(fields) else None
    if fields[1] and not table[:, int(fields[0])].all():
        raise Fault(f"the fragment at byte {at:,} has samples without bytes")
    if flags & 1:
        place = base + int.from_bytes(data.at(at + 8, 4), "big", signed=True)
        known = int(table[:, int(fields[0])].sum()) if fields[1] else 0
        if not 0 < place <= data.size - known:
            raise Fault(f"the fragment at byte {at:,} points to where no samples are")


def _check_orders(orders: list[int | None]) -> None:
    """Fragments are numbered one by one, or all by the same larger step."""
    steps = {b - a for a, b in pairwise(order or 0 for order in orders)}
    even = len(steps) == 1 and len(orders) > 3
    if None in orders or (steps and max(steps) > 1 and not even):
        raise Fault("fragments are missing: their numbers have a gap")


def _check_track(track: _Track, clock: int) -> None:
    if track.kind != b"vide" or track.steps is None or not track.sizes:
        return
    if track.steps[:, 0].sum() != track.sizes:
        raise Fault("the tables of its sizes and times differ in length")
    if track.empty:
        raise Fault(f"{track.empty} of its frames have no bytes")
    total = int((track.steps[:, 0] * track.steps[:, 1]).sum())
    slack = max(track.clock, track.duration // 20)
    if track.duration and abs(total - track.duration) > slack:
        # Frames that wait for others are shown after the last one is decoded.
        total = _last_shown(track, total)
    if track.duration and abs(total - track.duration) > slack:
        raise Fault("the times of its frames do not add up to its duration")
    if track.clock and clock:
        media, shown = total / track.clock, track.shown / clock
        if shown > media + max(0.2, 0.05 * media):
            raise Fault("it is to be shown for longer than its frames last")


def _last_shown(track: _Track, total: int) -> int:
    """Ticks from the first frame that is shown to the end of the last one."""
    offsets = track.offsets
    if offsets is None or offsets[:, 0].sum() != track.sizes or track.sizes > _MOST:
        return total
    steps = track.steps[:, 1].repeat(track.steps[:, 0])
    shown = steps.cumsum() - steps + offsets[:, 1].repeat(offsets[:, 0])
    last = int(shown.argmax())
    return int(shown[last] + steps[last] - shown.min())
