"""Plain values in, the hashes out under which they are stored and seeded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np


def make_key(*words: object) -> str:
    """Store key: 40 hex digits of all that an entry depends on."""
    return hashlib.blake2b(repr(words).encode(), digest_size=20).hexdigest()


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
