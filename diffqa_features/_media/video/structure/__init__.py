"""A container file in; out what its own lengths, counters and checksums say is missing.

FFmpeg is made to show what it can of a broken file: it looks for the next thing that it
knows and goes on. Here the same file is walked by the book, without decoding, and the
first thing that does not follow from what came before ends the walk. What each
container can show is listed in the documentation (docs/video.rst); some keep no record
of what should be there, and of those a part that is missing cannot be seen.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from diffqa_features._media.video.containers import PREFIX, demuxer_of
from diffqa_features._media.video.structure.chunks import walk_avi, walk_ivf, walk_mxf
from diffqa_features._media.video.structure.matroska import walk_matroska
from diffqa_features._media.video.structure.mp4 import walk_mp4
from diffqa_features._media.video.structure.mpeg import walk_program, walk_transport
from diffqa_features._media.video.structure.ogg import walk_ogg
from diffqa_features._media.video.structure.tags import walk_asf, walk_flv
from diffqa_features._media.video.structure.walk import Bytes, Fault

# Each raises `Fault`, or returns how many frames the container lists of each stream.
_WALKS: dict[str, Callable[[Bytes], dict[int, int]]] = {
    "mov": walk_mp4,
    "matroska": walk_matroska,
    "avi": walk_avi,
    "flv": walk_flv,
    "asf": walk_asf,
    "mpegts": walk_transport,
    "mpeg": walk_program,
    "ogg": walk_ogg,
    "ivf": walk_ivf,
    "mxf": walk_mxf,
}


@dataclass(slots=True, frozen=True)
class Structure:
    """How a file is to be opened, and whether it is whole as far as it can tell."""

    demuxer: str
    fault: str = ""
    counts: dict[int, int] = field(default_factory=dict)


def structure_of(source: str | bytes) -> Structure:
    """Walk the container once; its media is not decoded."""
    opened = (
        io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")
    )
    with opened as file:
        data = Bytes(file, file.seek(0, os.SEEK_END))
        demuxer = demuxer_of(data.at(0, PREFIX))
        walk = _WALKS.get(demuxer)
        try:
            return Structure(demuxer, counts=walk(data) if walk else {})
        except Fault as fault:
            return Structure(demuxer, str(fault))
