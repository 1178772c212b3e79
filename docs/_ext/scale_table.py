"""Measured costs per picture in, the table of what many of them cost out."""

import csv
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
FRAMES, SECONDS, BITRATE = 20, 20, 5e6  # of a clip; bits per second
SHOWN = 4  # tiles, by default, of a picture or frame as large as these
CORES, LINK = 64, 1e9 / 8  # of a machine; bytes per second of a network


def scale_table() -> str:
    """A table of workloads, and where their ceilings are, in reStructuredText."""
    stages = {row["stage"]: row for row in _read("scale.csv")}
    columns, file = stages["columns"], stages["file"]
    compute, decode = (float(stage["cpu_seconds"]) for stage in (columns, file))
    one, compute = compute, SHOWN * compute
    row, size = int(columns["bytes"]), int(file["bytes"])
    clip = _video("decode at 1 per second, key 1 s", "imageio") + FRAMES * compute
    clip_size = SECONDS * BITRATE / 8
    lines = [
        ".. list-table:: "
        f"{columns['of']}, from CPU seconds on shared cores of {columns['machine']}, "
        f"{columns['date']}",
        "   :header-rows: 1",
        "",
        "   * - What",
        "     - Core-hours",
        f"     - On {CORES} cores",
        "     - Bytes read",
        "     - At 1 Gbit/s",
        "     - Features written",
    ]
    for count, what, seconds, each in [
        (1e4, "pictures", compute + decode, size),
        (1e6, "pictures", compute + decode, size),
        (1e7, "pictures", compute + decode, size),
        (1e5, "videos", clip, clip_size),
    ]:
        lines += [
            f"   * - {count:,.0f} {what}",
            f"     - {_short(count * seconds / 3600)}",
            f"     - {_duration(count * seconds / CORES)}",
            f"     - {_bytes(count * each)}",
            f"     - {_duration(count * each / LINK)}",
            f"     - {_bytes(count * row)}",
        ]
    share = 100 * decode / (decode + compute)
    speed = size / (compute + decode)
    lines += [
        "",
        f"A picture is a {file['of']} ({_bytes(size)}): {1000 * decode:.0f} ms "
        "of one core to read, check, decode and scale, "
        f"{1000 * compute:.0f} ms for the "
        f'columns of its {SHOWN} tiles (``view="stretch"``: {1000 * one:.0f} ms). A '
        f"video is a clip of {SECONDS} s in 720p at {BITRATE / 1e6:.0f} "
        f"Mbit/s, of which {FRAMES} frames are sampled.",
        "",
        "Where the ceiling is:",
        "",
        f"- Decoding: {share:.0f} % of the time of such a picture with this backbone. "
        f"A GPU that computes *r* pictures per second keeps {decode:.3f} *r* cores "
        "busy with decoding.",
        f"- Network: a core reads {_bytes(speed)} per second, so a link of 1 Gbit/s "
        f"feeds {LINK / speed:.0f} cores with such files, and one of 10 Gbit/s ten "
        "times as many.",
    ]
    return "\n".join(lines) + "\n"


def _read(name):
    with (RESULTS / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _video(what, reader):
    return next(
        float(row["value"])
        for row in _read("video.csv")
        if (row["what"], row["reader"]) == (what, reader)
    )


def _bytes(count):
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{_short(count)} {unit}"
        count /= 1000
    return f"{_short(count)} TB"


def _duration(seconds):
    for unit, length in (("s", 1), ("min", 60), ("h", 3600)):
        if seconds < 100 * length:
            return f"{_short(seconds / length)} {unit}"
    return f"{_short(seconds / 86400)} days"


def _short(number):
    """Two or three digits that count."""
    return f"{float(f'{number:.2g}'):,.{1 if number < 10 else 0}f}"
