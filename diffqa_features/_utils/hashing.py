"""Plain values in, hashes for storing and seeding out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass

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


def hash_values(*values: object, spell: Callable[[object], object] = repr) -> str:
    """Hash, 32 hex digits, of values with all they contain.

    Arrays and tensors count by dtype, shape and content, dicts and dataclasses by their
    items, whatever the order, lists and tuples alike by theirs. `spell` turns anything
    that is neither of these nor a fact of `make_key` into one that is. Names of files
    and of checkpoints are made of it, but not store keys: `repr` changes with the code.
    """
    digest = hashlib.blake2b(digest_size=16)

    def add(value):
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        if is_dataclass(value) and not isinstance(value, type):
            value = {f.name: getattr(value, f.name) for f in fields(value)}
        if isinstance(value, np.ndarray) and value.dtype != object:
            digest.update(f"array {value.dtype.str} {value.shape};".encode())
            digest.update(np.ascontiguousarray(value))
        elif isinstance(value, Mapping):
            digest.update(f"dict {len(value)};".encode())
            for key in sorted(value, key=repr):
                add(key)
                add(value[key])
        elif isinstance(value, (tuple, list, np.ndarray)):
            digest.update(f"list {len(value)};".encode())
            for part in value:
                add(part)
        elif isinstance(value, np.generic) and type(value.item()) is not type(value):
            add(value.item())  # not a long double, which has no other type
        elif isinstance(value, (str, int, float, type(None))):
            digest.update(_spell(value))
        else:
            add(spell(value))

    add(values)
    return digest.hexdigest()


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
