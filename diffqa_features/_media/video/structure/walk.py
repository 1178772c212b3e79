"""A file that is walked through: pieces by their place, and an end to the walk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO


class Fault(Exception):
    """What does not fit in a container; never leaves the walk of `structure_of`."""


class Bytes:
    """The bytes of a file by their places."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size

    def at(self, place: int, count: int) -> bytes:
        """`count` bytes from there on; fewer at the end of the file."""
        if place >= self.size:  # some such places are beyond what can be asked for
            return b""
        self._file.seek(place)
        return self._file.read(count)

    def pieces(self, place: int, end: int, length: int = 1 << 20) -> Iterator[bytes]:
        """All bytes from `place` to `end`, a piece at a time."""
        while place < end and (piece := self.at(place, min(length, end - place))):
            yield piece
            place += len(piece)

    def ends_by(self, end: int) -> None:
        """Raise unless the file reaches as far as something in it says."""
        if end > self.size:
            raise Fault(f"{end - self.size:,} of its bytes are missing")


def number(data: bytes, order: str = "big") -> int:
    """An unsigned integer of any length."""
    return int.from_bytes(data, order)
