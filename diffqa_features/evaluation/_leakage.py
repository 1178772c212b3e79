"""Media of both sides of a split in, an error out if they overlap."""

import hashlib
import os
from collections.abc import Mapping

import numpy as np
from PIL import Image

from diffqa_features._media.remote import is_url
from diffqa_features._media.rows import Row, as_rows, open_media
from diffqa_features._media.tables import (
    Cell,
    is_content,
    is_missing,
    is_tensor,
)
from diffqa_features._utils.files import expand_user


def identities(X) -> np.ndarray:
    """Identity of each row, if it is cheap to find; else None.

    A file is the same under all its names, links included; pixels and the bytes of a
    file are identified by their content. Feature rows and other kinds are not checked.
    """
    try:
        rows = [] if _is_features(X) else as_rows(X)
    except (TypeError, ValueError):  # no media: what fits them says what they are
        rows = []
    found = np.full(len(rows) if rows else len(X), None, dtype=object)
    for row in rows:
        try:
            found[row.index] = _identity(row.source)
        except (OSError, ValueError):  # what reads it says so, or leaves it out
            continue
    return found


def refuse_shared(train: dict, test: dict, what: str, rows, way_out: str) -> None:
    """Raise if the two sides, of row number -> identity, share a medium.

    `rows` are the two templates that name a row by its number.
    """
    ours = {key: row for row, key in train.items() if key is not None}
    both = {key: row for row, key in test.items() if key in ours}
    if both:
        key, row = min(both.items(), key=lambda pair: pair[1])
        one, other = (
            text.replace("{}", str(n)) for text, n in zip(rows, (ours[key], row))
        )
        raise ValueError(
            f"{what}: {len(both)} media are in both, for example {one} is {other}. "
            f"{way_out}"
        )


def _is_features(X) -> bool:
    return isinstance(X, np.ndarray) and X.ndim < 3 and X.dtype.kind in "fiubc"


def _identity(source):
    if isinstance(source, Cell):
        return _identity(source.load())
    if isinstance(source, Mapping):
        data = source.get("bytes")
        return _identity(source.get("path") if is_missing(data) else data)
    if is_content(source):
        return hashlib.blake2b(source, digest_size=16).hexdigest()
    if is_url(source):
        local = source.removeprefix("file://")
        return source if local == source else _identity(local)
    if isinstance(source, str | os.PathLike):
        path = os.path.realpath(expand_user(os.fsdecode(source)))
        try:
            status = os.stat(path)  # noqa: PTH116  what realpath gives is text
        except (OSError, ValueError):
            return path
        return status.st_dev, status.st_ino
    if isinstance(source, Image.Image | np.ndarray) or is_tensor(source):
        return open_media(Row(0, source)).key
    return None
