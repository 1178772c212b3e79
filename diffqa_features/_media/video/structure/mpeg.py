"""MPEG transport and program streams: packet sync and continuity counters.

ISO/IEC 13818-1.
"""

from __future__ import annotations

import numpy as np

from diffqa_features._media.video.containers import PREFIX, packet_length
from diffqa_features._media.video.structure.walk import Bytes, Fault, number

_NULL = 0x1FFF


def walk_transport(data: Bytes) -> dict[int, int]:
    """Counts nothing: a missing packet shows in its stream's counter."""
    step = packet_length(data.at(0, PREFIX))
    start = 4 if step == 192 else 0
    count, rest = divmod(data.size, step)
    heads = np.empty((count, 6), np.uint8)
    begins = np.zeros(count, bool)  # whether it begins a packet of pictures or sound
    at = 0
    for piece in data.pieces(0, count * step, step * 4096):
        rows = np.frombuffer(piece, np.uint8).reshape(-1, step)
        heads[at : at + len(rows)] = rows[:, start : start + 6]
        offset = start + 4 + np.where(heads[at : at + len(rows), 3] & 32, 1, 0)
        offset = offset + np.where(offset > start + 4, rows[:, start + 4], 0)
        offset = np.minimum(offset, step - 3)
        first = rows[np.arange(len(rows))[:, None], offset[:, None] + np.arange(3)]
        begins[at : at + len(rows)] = (first == (0, 0, 1)).all(1)
        at += len(rows)
    lost = np.flatnonzero(heads[:, 0] != 0x47)
    if len(lost):
        raise Fault(f"no packet begins at byte {lost[0] * step + start:,}")
    if rest:
        raise Fault(f"{step - rest} bytes of its last packet are missing")
    if (broken := np.flatnonzero(heads[:, 1] & 0x80)).size:
        raise Fault(f"the packet at byte {broken[0] * step:,} was received broken")
    stream = (heads[:, 1].astype(int) & 0x1F) << 8 | heads[:, 2]
    for name in np.unique(stream):
        if name != _NULL:
            mine = np.flatnonzero(stream == name)
            gap = _first_gap(heads[mine])
            if gap is not None:
                raise Fault(f"packets are missing before byte {mine[gap] * step:,}")
            starts = mine[(heads[mine, 1] & 0x40 != 0) & (heads[mine, 3] & 0x10 != 0)]
            if len(starts) and begins[starts].mean() > 0.5 and not begins[starts].all():
                raise Fault("a packet that should begin a picture does not")
    return {}


def _first_gap(heads: np.ndarray) -> int | None:
    """First discontinuity of a stream's counter that the stream does not signal."""
    counter, loaded = heads[:, 3] & 15, heads[:, 3] & 16 != 0
    restarts = (heads[:, 3] & 32 != 0) & (heads[:, 4] > 0) & (heads[:, 5] & 128 != 0)
    step = (counter[1:].astype(int) - counter[:-1]) % 16
    # It counts packets with a payload; each of those may be sent twice.
    fits = np.where(loaded[1:], step <= 1, step == 0)
    gaps = np.flatnonzero(~fits & ~restarts[1:])
    return int(gaps[0]) + 1 if len(gaps) else None


def walk_program(data: Bytes) -> dict[int, int]:
    """Counts nothing: the stream has no counters; its packets have lengths."""
    at = 0
    while at < data.size:
        head = data.at(at, 14)
        if head[:3] != b"\0\0\1" or len(head) < 4:
            raise Fault(f"no packet begins at byte {at:,}")
        code = head[3]
        if code == 0xB9:  # the end; another may follow
            at += 4
        elif code == 0xBA:
            second = head[4] >> 6 == 1
            at += 14 + (head[13] & 7) if second and len(head) == 14 else 12
        elif code >= 0xBB:
            at += 6 + number(head[4:6])
        else:
            raise Fault(f"no packet begins at byte {at:,}")
        data.ends_by(at)
    return {}
