"""A folder of data sets in, the parts that a study needs out, or where to put them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from diffqa_features import datasets
from diffqa_features._commands._study.protocols import Part, Study
from diffqa_features._utils.hashing import hash_values

QUICK_ROWS = 200
"""The most rows of each part that a quick study uses."""


@dataclass(frozen=True)
class Place:
    """Where a data set is, or belongs."""

    name: str
    folder: Path
    found: bool

    @property
    def description(self):
        return getattr(datasets, f"load_{self.name}").description


@dataclass(frozen=True)
class Loaded:
    """Rows of a part, and what says that they are the same next time."""

    data: Bunch
    facts: dict


def find_sets(study: Study, root: Path, only) -> dict[str, Place]:
    """Where each data set of the study is; those not in `only` do not count."""
    unknown = [name for name in only or () if name not in study.names]
    if unknown:
        raise ValueError(
            f"--only {unknown[0]!r}: the study {study.name!r} has no data set of that "
            f"name. It has: {', '.join(study.names)}."
        )
    if not root.is_dir():
        raise ValueError(
            f"--data '{root}' is not a folder. It holds one folder or link per data "
            f"set, such as '{root / study.names[0]}'."
        )
    return {name: _place(root, name) for name in only or study.names}


def _place(root: Path, name: str) -> Place:
    own, official = root / name, root / _official(name)
    for folder in (own, official):
        if folder.is_dir():
            return Place(name, folder, True)
    return Place(name, own, False)


def _official(name: str) -> str:
    """The folder that the data set's own archive makes."""
    description = getattr(datasets, f"load_{name}").description
    return description.tree.split(maxsplit=1)[0].rstrip("/")


_SHORT = {"clive": "CLIVE", "live": "LIVE IQA"}  # whose titles are sentences


def title_of(part: Part) -> str:
    """Short name of a part: ``KonIQ-10k``, ``LSVQ train``."""
    title = getattr(datasets, f"load_{part.name}").description.title
    short = _SHORT.get(part.name, title.partition(" (")[0])
    return short if part.subset == "all" else f"{short} {part.subset}"


def load(part: Part, place: Place, *, drop_missing: bool, quick: bool, seed: int):
    """The rows of a part; the loader's errors say what is wrong with the copy."""
    options = {"on_missing": "drop"} if drop_missing else {}
    loader = getattr(datasets, f"load_{part.name}")
    bunch = loader(place.folder, subset=part.subset, **options)
    names = [os.path.relpath(path, place.folder) for path in bunch.data]
    facts = {
        "rows": len(names),
        "files_missing": len(bunch.missing),
        "digest": hash_values(names, bunch.target),
    }
    rows = np.arange(len(names))
    if quick and len(rows) > QUICK_ROWS:
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(len(rows), QUICK_ROWS, replace=False))
    data = Bunch(
        data=[bunch.data[row] for row in rows],
        names=[names[row] for row in rows],
        target=bunch.target[rows],
        groups=bunch.groups[rows],
        higher_is_better=bunch.higher_is_better,
    )
    return Loaded(data, facts)
