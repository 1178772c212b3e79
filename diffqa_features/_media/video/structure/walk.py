"""A file being walked: bytes by position, and a way to end the walk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO


class Fault(Exception):
    """An inconsistency in a container; never leaves `structure_of`."""


class Bytes:
    """The bytes of a file by position."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size

    def at(self, place: int, count: int) -> bytes:
        """`count` bytes from this position; fewer at the end of the file."""
        if place >= self.size:  # some such places are beyond what can be asked for
            return b""
        self._file.seek(place)
        return self._file.read(count)

    def pieces(self, place: int, end: int, length: int = 1 << 20) -> Iterator[bytes]:
        """All bytes from `place` to `end`, in chunks."""
        while place < end and (piece := self.at(place, min(length, end - place))):
            yield piece
            place += len(piece)

    def ends_by(self, end: int) -> None:
        """Raise unless the file extends to this declared position."""
        if end > self.size:
            raise Fault(f"{end - self.size:,} of its bytes are missing")


def number(data: bytes, order: str = "big") -> int:
    """Parse an unsigned integer of any length."""
    return int.from_bytes(data, order)
