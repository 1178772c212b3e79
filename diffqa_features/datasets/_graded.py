"""Shared by both makers of graded sets: families, names, sizes, seeds, the Bunch."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from diffqa_features._media.rows import Row, as_rows


def check_families(
    families, sets: Mapping[str, Sequence[str]], owner: str
) -> list[str]:
    """Names of the families that were asked for; those in `sets` are all there are.

    A str has already been checked by the constraints of `owner`.
    """
    if isinstance(families, str):
        return list(sets.get(families, (families,)))
    names = [str(name) for name in families]
    known = list(dict.fromkeys(name for names in sets.values() for name in names))
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        got = f"the unknown {unknown[0]!r}" if unknown else repr(names)
        raise ValueError(
            f"The 'families' parameter of {owner} must be "
            f"{', '.join(map(repr, sets))} or one or more different names among "
            f"{', '.join(known)}. Got {got} instead."
        )
    return names


def named_rows(references) -> Iterator[tuple[str, Row]]:
    """Rows with unique names: file stems, or ``reference<row>``."""
    taken = set()
    for row in as_rows(references):
        is_file = isinstance(row.source, str | os.PathLike)
        stem = Path(row.source).stem if is_file else f"reference{row.index:03d}"
        name, count = stem, 1
        while name.casefold() in taken:  # some file systems ignore case
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.casefold())
        yield name, row


def check_size(row: Row, picture: np.ndarray, side: int) -> None:
    h, w = picture.shape[:2]
    if min(h, w) < side:
        raise row.error(
            f"{w} x {h} pixels, but {side} x {side} are needed, "
            "as references are not enlarged; drop the row or choose a smaller "
            "image_size."
        )


def grade_rng(seed: int, content: str, family: str, level: int) -> np.random.Generator:
    """Seeded by the result's identity, not by its position in the call."""
    word = int.from_bytes(family.encode(), "big")
    return np.random.default_rng([seed, int(content, 16), word, level])


def graded_set(
    data: list,
    columns: dict,
    description: str,
    *,
    target=None,
    return_X_y,
    as_frame,
    **facts,
):
    """What a maker returns; `columns` holds arrays, with "group" and "level" in it.

    Without a `target` it is minus the level.
    """
    if target is None:
        target = -columns["level"].astype(np.float64) + 0.0  # no negative zero
    frame = None
    if as_frame:
        import pandas as pd

        frame = pd.DataFrame({"path": data, **columns, "target": target})
        data, target = frame[["path"]], frame["target"]
    if return_X_y:
        return data, target
    groups = columns.pop("group")
    return Bunch(
        data=data,
        target=target,
        groups=groups,
        **columns,
        **facts,
        frame=frame,
        DESCR=description,
    )
