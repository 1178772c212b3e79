"""The first bytes of a file in; the demuxer that reads it out, if it is a video.

File names are ignored: wrong suffixes are common, and FFmpeg by default treats a name
like ``pic%02d.png`` as a pattern. Text formats that refer to other files (playlists,
manifests, scripts) are not supported.
"""

from __future__ import annotations

PREFIX = 400
"""Bytes of a file that `demuxer_of` needs."""

_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")
_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"wide", b"pnot", b"skip", b"free")
_STARTS = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"FLV\x01": "flv",
    b"OggS": "ogg",
    b"\x00\x00\x01\xba": "mpeg",  # program stream
    b"\x00\x00\x01\xb3": "mpegvideo",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"\x06\x0e\x2b\x34": "mxf",
    b"DKIF": "ivf",
    b"YUV4MPEG2": "yuv4mpegpipe",
    b".RMF": "rm",
    b"nut/multimedia container": "nut",
    b"ID3": "mp3",  # sound, with or without a cover: opened to be told so
    b"fLaC": "flac",
}
_RIFF = {b"AVI ": "avi", b"WAVE": "wav"}


def is_video(prefix: bytes) -> bool:
    """Whether a file with these first bytes is a container of video (or sound)."""
    return bool(demuxer_of(prefix))


def demuxer_of(prefix: bytes) -> str:
    """The only FFmpeg demuxer allowed for a file with these first bytes; or ``""``."""
    if prefix[4:8] == b"ftyp":
        return "" if prefix[8:12] in _STILL_BRANDS else "mov"
    if prefix[4:8] in _BOXES:
        return "mov"
    for start, name in _STARTS.items():
        if prefix.startswith(start):
            return name
    if prefix[:4] == b"RIFF":
        return _RIFF.get(prefix[8:12], "")
    if packet_length(prefix):
        return "mpegts"
    return _raw(prefix)


def packet_length(prefix: bytes) -> int:
    """Packet spacing of a transport stream in bytes; 0 if it is none."""
    # Blu-ray puts four bytes before each packet, broadcasts sixteen behind it.
    for start, step in ((0, 188), (4, 192), (0, 204)):
        if len(prefix) > start + step and all(
            byte == 0x47 for byte in prefix[start::step]
        ):
            return step
    return 0


def _raw(prefix: bytes) -> str:
    """H.264 or HEVC without a container, distinguished by the first unit's header."""
    at = 3 if prefix[:3] == b"\0\0\1" else 4 if prefix[:4] == b"\0\0\0\1" else 0
    if not at or len(prefix) < at + 2:
        return ""
    first, second = prefix[at : at + 2]
    # Parameter sets, delimiter and supplemental information, in layer 0.
    if second == 1 and first in (0x40, 0x42, 0x44, 0x46, 0x4E):
        return "hevc"
    kind, reference = first & 31, first >> 5
    if (kind in (1, 5, 7, 8) and 0 < reference < 4) or (
        kind in (6, 9) and not reference
    ):
        return "h264"
    return ""
