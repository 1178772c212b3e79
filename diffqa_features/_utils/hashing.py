"""Plain values in, hashes for storing and seeding out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

FORMAT = 2
"""Raised whenever any stored number changes its meaning; part of every store key."""


def make_key(*facts: object) -> str:
    """Store key: 40 hex digits of everything an entry depends on, and of `FORMAT`.

    Facts are str, int, float, bool, None and tuples of these. Anything else is a
    TypeError: an object's `repr` changes with names in the code, and would silently
    invalidate the cache.
    """
    digest = hashlib.blake2b(digest_size=20)
    for fact in (FORMAT, *facts):
        digest.update(_spell(fact))
    return digest.hexdigest()


def _spell(fact):
    """One fact as bytes in a prefix-free code, so neighbours cannot merge."""
    if fact is None or isinstance(fact, bool):
        return f"{fact};".encode()
    if isinstance(fact, int):
        return f"int {int(fact)};".encode()
    if isinstance(fact, float):
        return f"float {float(fact).hex()};".encode()
    if isinstance(fact, str):
        text = fact.encode("utf-8", "surrogatepass")
        return f"str {len(text)};".encode() + text
    if isinstance(fact, tuple):
        return f"tuple {len(fact)};".encode() + b"".join(map(_spell, fact))
    raise TypeError(
        "A store key is made of str, int, float, bool, None and tuples of these. "
        f"Got {fact!r} of type {type(fact).__name__} instead."
    )


def make_seed(words: str) -> int:
    """Seed in [0, 2^56), the same on every machine."""
    digest = hashlib.blake2b(words.encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def pack_keys(keys: Sequence[str]) -> np.ndarray:
    """Keys of equal length as a store entry: uint8 (n, bytes per key)."""
    return np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(len(keys), -1)


def unpack_keys(entry: Iterable[np.ndarray]) -> list[str]:
    """Inverse of `pack_keys`."""
    return [bytes(key).hex() for key in entry]
