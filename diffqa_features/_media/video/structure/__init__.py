"""A container file in; missing parts according to its lengths, counters, checksums out.

FFmpeg shows as much as it can of a broken file: it resynchronises and continues. Here
the file is parsed strictly by its specification, without decoding, and the first
inconsistency ends the walk. docs/video.rst lists what can be detected in each
container; some do not record what they should contain, so missing parts cannot be seen.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from diffqa_features._media.video.containers import PREFIX, demuxer_of
from diffqa_features._media.video.structure.chunks import (
    walk_avi,
    walk_ivf,
    walk_mxf,
    walk_y4m,
)
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
    "yuv4mpegpipe": walk_y4m,
}


@dataclass(slots=True, frozen=True)
class Structure:
    """How to open a file, and whether it is complete as far as can be told."""

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
