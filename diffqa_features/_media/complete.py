"""The bytes of a picture in; whether it is complete out.

Pillow silently returns partial pictures where decoders tolerate missing data: libjpeg
fills in what is missing and only warns, zlib streams can end early, and a TIFF's table
can list fewer strips than the picture has. Formats without checksums (BMP, WebP, AVIF,
JPEG 2000, ...) reveal a truncated file, but not an overwritten one.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

TRUNCATED = "the file is truncated"
_PIECE = 1 << 20  # bytes inflated at once, to count them

# -- JPEG --

# Markers that can follow entropy-coded data: not stuffing, restarts, fill bytes, TEM.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_ZEROS = re.compile(rb"\0{64,}")
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}


@dataclass
class _Jpeg:
    """Contents of the segments of a JPEG, scan by scan."""

    kind: int = 0  # the low byte of the frame's marker
    size: tuple[int, int] = (0, 0)
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    interval: int = 0
    # Of each Huffman table of AC coefficients: the symbol whose code is all zeros.
    zero_symbols: dict[int, int] = field(default_factory=dict)
    # Of each component of a progressive file: bits missing of coefficients 0 to 63.
    missing: dict[int, list[int]] = field(default_factory=dict)


def check_jpeg(data: bytes) -> None:
    """Raise ValueError if a JPEG ends early or its coded data are corrupt.

    JPEG has no checksum: data that decode to a complete but different picture pass.
    """
    jpeg, at, scan = _Jpeg(), 2, None
    # What FFmpeg is given: no thumbnails, profiles and notes, which it may not know.
    parts = [b"\xff\xd8"]
    while match := _MARKER.search(data, at):
        kind, start, end = match[1][0], match.start(), match.end()
        if scan is not None:
            coded = data[scan[1] : start]
            _check_scan(jpeg, scan[0], coded)
            parts.append(coded)
            scan = None
        if kind == 0xD9:
            break
        # Segments are skipped, as thumbnails in them have ends of their own.
        at = end + int.from_bytes(data[end : end + 2], "big")
        body = data[end + 2 : at]
        if kind == 0xDA:
            scan = body, at
        elif kind in _FRAMES and len(body) >= 6:
            jpeg.kind = kind
            jpeg.size = (
                int.from_bytes(body[3:5], "big"),
                int.from_bytes(body[1:3], "big"),
            )
            for number, sides in zip(body[6::3], body[7::3]):
                jpeg.sampling[number] = sides >> 4, sides & 15
                jpeg.missing[number] = [255] * 64
        elif kind == 0xC4:
            while len(body) > 17:
                jpeg.zero_symbols[body[0]] = body[17]
                body = body[17 + sum(body[1:17]) :]
        elif kind == 0xDD:
            jpeg.interval = int.from_bytes(body[:2], "big")
        if not 0xE0 <= kind <= 0xEF and kind != 0xFE:
            parts.append(data[start:at])
    else:
        raise ValueError(TRUNCATED)
    if jpeg.kind == 0xC2 and any(map(any, jpeg.missing.values())):
        raise ValueError("its last scans are missing")
    # Coded data of the arithmetic kind may end anywhere: encoders leave out last zeros.
    if jpeg.kind in (0xC0, 0xC1, 0xC2) and not _decodes(b"".join(parts) + b"\xff\xd9"):
        raise ValueError("its coded data end early or are damaged")


def _check_scan(jpeg: _Jpeg, header: bytes, coded: bytes) -> None:
    """Look for errors in one scan that decoders ignore; record its contents."""
    count = header[0] if header else 0
    if len(header) < 4 + 2 * count or not count:
        raise ValueError("the header of a scan is damaged")
    numbers, tables = header[1 : 2 * count : 2], header[2 : 2 * count + 1 : 2]
    first, last, bits = header[-3], header[-2], header[-1]
    for number in numbers:
        for at in range(first, min(last, 63) + 1):
            if number in jpeg.missing:
                jpeg.missing[number][at] = bits & 15
    if jpeg.interval and jpeg.kind in (0xC0, 0xC1, 0xC2):
        found = [mark[0] & 7 for mark in _RESTART.findall(coded)]
        due = -(-_mcus(jpeg, numbers) // jpeg.interval) - 1
        # Some encoders write one more at the very end.
        if len(found) not in (due, due + 1) or any(
            mark != at % 8 for at, mark in enumerate(found)
        ):
            raise ValueError(
                f"its coded data are damaged: {len(found)} of {due} restart markers "
                "are in their places"
            )
    if jpeg.kind in (0xC0, 0xC1) and _ZEROS.search(coded):
        # 512 zero bits are flat blocks where the code for the end of a block is zeros.
        # Where it is a coefficient's, they are blocks full of -1, which no picture has.
        symbols = (jpeg.zero_symbols.get(0x10 + (table & 15), 0) for table in tables)
        if any(symbol & 15 for symbol in symbols):
            raise ValueError("a part of its coded data is zeroed")


def _mcus(jpeg: _Jpeg, numbers: bytes) -> int:
    """Minimum coded units of a scan of these components."""
    widest = max(h for h, _ in jpeg.sampling.values())
    tallest = max(v for _, v in jpeg.sampling.values())
    across, down = 8 * widest, 8 * tallest
    if len(numbers) == 1:  # then a unit is a single block
        h, v = jpeg.sampling.get(numbers[0], (1, 1))
        width, height = -(-jpeg.size[0] * h // widest), -(-jpeg.size[1] * v // tallest)
        return -(-width // 8) * -(-height // 8)
    return -(-jpeg.size[0] // across) * -(-jpeg.size[1] // down)


def _decodes(stream: bytes) -> bool:
    """Whether FFmpeg decodes a JPEG without error, or does not support its type.

    libjpeg counts such errors, but Pillow does not report them. At an eighth of the
    size this costs half as much as Pillow's own decoding.
    """
    import av

    for reduction in ("3", "0"):  # CMYK with subsampled inks: in full size only
        decoder = av.CodecContext.create("mjpeg", "r")
        decoder.options = {"err_detect": "explode", "lowres": reduction}
        decoder.thread_count = 1
        try:
            decoder.decode(av.Packet(stream))
        except av.error.InvalidDataError:
            return False
        except av.error.FFmpegError:
            continue
        break
    return True


# -- PNG --

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7: first column, first row, step across, step down
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip


def check_png(data: bytes, start: int = 0) -> None:
    """Raise ValueError if a PNG lacks its end, or a chunk or the picture is incomplete.

    Pillow checks only the checksums of the other chunks.
    """
    at, bits, interlaced, size = start + 8, 0, False, (0, 0)
    stream, missing = None, 0
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length
        if missing > 0 and kind in (b"fcTL", b"IEND"):
            raise ValueError("lines of the picture are missing")
        pixels = kind in (b"IDAT", b"fdAT")
        if pixels or kind in (b"IHDR", b"PLTE", b"IEND", b"fcTL"):
            checksum = int.from_bytes(data[at - 4 : at], "big")
            if at > len(data) or zlib.crc32(kind + body) != checksum:
                whole = at <= len(data)
                raise ValueError(
                    f"the checksum of a chunk {kind.decode()} is wrong"
                    if whole
                    else TRUNCATED
                )
        if kind == b"IEND":
            return
        if kind in (b"IHDR", b"fcTL"):
            first = 0 if kind == b"IHDR" else 4
            size = tuple(
                int.from_bytes(body[at : at + 4], "big") for at in (first, first + 4)
            )
            stream = None
        if kind == b"IHDR" and len(body) >= 13:
            bits = body[8] * _CHANNELS.get(body[9], 0)
            interlaced = bool(body[12])
        if pixels:
            if stream is None:
                stream = zlib.decompressobj()
                missing = _png_bytes(*size, bits, interlaced)
            missing -= _inflated(stream, body[4 * (kind == b"fdAT") :], missing)
    raise ValueError(TRUNCATED)


def _png_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of the lines of a PNG, including each line's filter byte."""
    total = 0
    for x, y, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _inflated(stream, packed: bytes, wanted: int) -> int:
    """Number of bytes a piece of a zlib stream inflates to, up to a limit."""
    found = 0
    while packed and found < wanted:
        piece = stream.decompress(packed, _PIECE)
        found += len(piece)
        packed = stream.unconsumed_tail
        if not piece:
            break
    return found


def check_embedded_pngs(data: bytes) -> None:
    """Check each PNG inside an icon."""
    at = data.find(b"\x89PNG\r\n\x1a\n")
    while at >= 0:
        check_png(data, at)
        at = data.find(b"\x89PNG\r\n\x1a\n", at + 8)


# -- GIF --


def check_gif(data: bytes) -> None:
    """Raise ValueError if a GIF lacks its end: it may have had more frames."""
    for _ in gif_frames(data):
        pass


def gif_frames(data: bytes) -> Iterator[tuple[float, int, int]]:
    """Duration in milliseconds, right edge and bottom edge of each frame.

    Raises ValueError behind the last one if the file lacks its end.
    """
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    duration = 0
    while at < len(data):
        kind = data[at]
        if kind == 0x21:  # an extension; 0xF9 is about the frame that follows
            if data[at + 1 : at + 3] == b"\xf9\x04":
                duration = 10 * int.from_bytes(data[at + 4 : at + 6], "little")
            at += 2
        elif kind == 0x2C and at + 10 <= len(data):
            left, top, width, height = (
                int.from_bytes(data[place : place + 2], "little")
                for place in range(at + 1, at + 9, 2)
            )
            yield duration, left + width, top + height
            duration, flags = 0, data[at + 9]
            at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        elif kind == 0x3B:
            return
        else:
            at += 1  # as Pillow does
            continue
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    raise ValueError(TRUNCATED)


# -- TIFF --


def check_tiff(image: Image.Image, data: bytes) -> None:
    """Raise ValueError if a page's table lists too few strips or tiles.

    Strips compressed by zlib end in a checksum, which libtiff does not check, and those
    that are JPEGs come without the warnings of libjpeg.
    """
    tags = image.tag_v2
    tiled = 324 in tags
    offsets = _numbers(tags, 324 if tiled else 273)
    if not offsets:
        return  # left to Pillow: pixels of the oldest JPEG kind lie elsewhere
    counts = _numbers(tags, 325 if tiled else 279)
    width, height = _numbers(tags, 256)[0], _numbers(tags, 257)[0]
    if tiled:
        across, down = _numbers(tags, 322)[0], _numbers(tags, 323)[0]
    else:
        across, down = width, min((_numbers(tags, 278) or [height])[0], height)
    if min(across, down) < 1:
        raise ValueError("its strips or tiles have no size")
    needed = -(-width // across) * -(-height // down)
    if tags.get(284) == 2:
        needed *= (_numbers(tags, 277) or [1])[0]
    name = "tiles" if tiled else "strips"
    # A table of offsets may hold more than is needed, and the other one be left out.
    if len(offsets) < needed or 0 in offsets[:needed] or 0 in counts[:needed]:
        present = sum(map(bool, offsets[:needed]))
        if counts and present == needed:
            present = sum(map(bool, counts[:needed]))
        raise ValueError(f"only {present} of its {needed} {name} are there")
    if tags.get(259) == 7 and len(counts) >= needed:
        # Each is a JPEG, less the tables that they share.
        shared = bytes(tags.get(347, b"\xff\xd8\xff\xd9")).rstrip(b"\0")
        if not shared.endswith(b"\xff\xd9"):
            return  # left to libtiff
        begin = shared[:-2]
        for offset, count in zip(offsets[:needed], counts):
            try:
                check_jpeg(begin + data[offset : offset + count][2:])
            except ValueError as error:
                raise ValueError(f"one of its {name}: {error}") from error
    if tags.get(259) in (8, 32946) and len(counts) >= needed:
        for offset, count in zip(offsets[:needed], counts):
            stream = zlib.decompressobj()
            try:
                # No pixel has more than 64 bytes: a bomb does not come to its end.
                _inflated(stream, data[offset : offset + count], 64 * across * down)
            except zlib.error as error:
                raise ValueError(f"one of its {name} is damaged ({error})") from error
            if not stream.eof:
                raise ValueError(f"one of its {name} ends early")


def _numbers(tags, tag: int) -> list[int]:
    value = tags.get(tag, ())
    return [int(x) for x in (value if isinstance(value, tuple) else (value,))]
