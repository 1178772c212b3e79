"""The first bytes of a file in, whether it is a video out; and whether it is whole."""

from __future__ import annotations

import io
import os
from pathlib import Path

PREFIX = 400
"""Bytes of a file that `is_video` needs."""

_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")
_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"wide", b"pnot", b"skip", b"free")
_STARTS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"OggS",
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG-1 and -2 video
    b"\x00\x00\x00\x01",  # H.264, HEVC
    b"\x00\x00\x01\x67",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
    b"\x06\x0e\x2b\x34",  # MXF
    b"DKIF",  # IVF
    b"YUV4MPEG2",
    b".RMF",
    b"nut/multimedia container",
    b"ID3",  # sound, with or without a cover: opened to be told so
    b"fLaC",
)


def is_video(prefix: bytes) -> bool:
    """Whether a file that begins so is a container of video (or sound).

    Names are not looked at: a wrong suffix is common. Text formats that name other
    files (playlists, scripts) are not among them.
    """
    if prefix[4:8] == b"ftyp":
        return prefix[8:12] not in _STILL_BRANDS
    if prefix[4:8] in _BOXES or prefix.startswith(_STARTS):
        return True
    if prefix[:4] == b"RIFF":
        return prefix[8:12] in (b"AVI ", b"WAVE")
    # Packets of a transport stream have 188 bytes, or four more on Blu-ray.
    return any(
        len(prefix) > start + 2 * step
        and all(prefix[start + k * step] == 0x47 for k in range(3))
        for start, step in ((0, 188), (4, 192))
    )


def missing_bytes(source: str | bytes) -> int:
    """Bytes that MP4, Matroska or AVI say they have beyond the end of the file.

    Readers stop at the end of a file that was cut without a word. Containers that do
    not state their size (MPEG streams, FLV, live recordings) cannot be checked so.
    """
    with _open(source) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        prefix = file.read(12)
        if prefix[4:8] in _BOXES:
            end = _boxes_end(file, size)
        elif prefix[:4] == b"RIFF":
            # Beyond 1 GB more such chunks follow, each with its own size.
            end = 8 + int.from_bytes(prefix[4:8], "little")
        elif prefix[:4] == _STARTS[0]:
            end = _segment_end(file)
        else:
            end = 0
    return max(0, end - size)


def _open(source: str | bytes):
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


def _boxes_end(file, size: int) -> int:
    """End of the last box of MP4 that media lies in."""
    at = end = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: to the end of the file
            break
        at += length
        if kind in (b"moov", b"mdat", b"moof"):  # others may be trash at the end
            end = at
    return end


def _segment_end(file) -> int:
    """End of Matroska's segment; 0 where it does not know."""
    at = 0
    for _ in range(8):
        file.seek(at)
        data = file.read(12)
        if not data or not data[0]:
            return 0
        width = 9 - data[0].bit_length()  # of the element's name
        if len(data) <= width or not data[width]:
            return 0
        octets = 9 - data[width].bit_length()  # of its length
        length = int.from_bytes(data[width : width + octets], "big")
        mask = (1 << 7 * octets) - 1
        length &= mask
        start = at + width + octets
        if data[:4] == b"\x18\x53\x80\x67":
            return 0 if length == mask else start + length
        at = start + length
    return 0
