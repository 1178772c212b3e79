"""Plain values in, the hashes out under which they are stored and seeded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

FORMAT = 2
"""Raised whenever any stored number changes its meaning; part of every store key."""


def make_key(*facts: object) -> str:
    """Store key: 40 hex digits of all that an entry depends on, and of `FORMAT`.

    Facts are str, int, float, bool, None and tuples of these. Anything else is a
    TypeError: what an object's `repr` says changes with names in the code, and a cache
    that is empty for such a reason says nothing.
    """
    digest = hashlib.blake2b(digest_size=20)
    for fact in (FORMAT, *facts):
        digest.update(_spell(fact))
    return digest.hexdigest()


def _spell(fact):
    """One fact in bytes, of which none begins another: neighbours cannot merge."""
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
    """Keys of one length as an entry of a store: uint8 (n, bytes of a key)."""
    return np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(len(keys), -1)


def unpack_keys(entry: Iterable[np.ndarray]) -> list[str]:
    """The keys that `pack_keys` took."""
    return [bytes(key).hex() for key in entry]
