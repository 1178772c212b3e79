"""The folder of a study: which cells are finished, with what settings and software.

A cell is one line of the table, or one random split of it. Its JSON file is written
last and whole: where it is, the cell is finished.
"""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pandas as pd

import diffqa_features
from diffqa_features._utils.files import walk, write_whole

LOG = "study.json"
_PACKAGES = (
    "torch", "diffusers", "transformers", "numpy", "scipy", "scikit-learn", "pandas",
    "Pillow", "av",
)  # fmt: skip
_WAY_OUT = "Choose another --out, or repeat the settings that it was begun with."


class StudyFolder:
    """What is on disk of one study; one process writes at a time."""

    def __init__(self, path: Path, settings: dict) -> None:
        self.path = path
        self._log_path = path / LOG
        # As it will be read back: tuples are lists, numbers are JSON's.
        settings = json.loads(json.dumps(settings))
        if self._log_path.is_file():
            self.log = _read(self._log_path)
            _refuse_changes(self.path, self.log.get("settings"), settings)
        else:
            names = sorted(f.name for f in path.iterdir() if not f.name.startswith("."))
            if names:
                raise FileExistsError(
                    f"'{path}' holds other files ({names[0]}, ...) and no study; "
                    "choose another --out."
                )
            self.log = {"settings": settings, "data": {}}
        self.log["failed"] = {}

    def check_data(self, part: str, facts: dict) -> None:
        """Note what a part holds; ValueError where it held something else before."""
        before = self.log["data"].setdefault(part, facts)
        if before != facts:
            raise ValueError(
                f"the data set has changed since '{self.path}' was begun: then "
                f"{before['rows']:,} rows, now {facts['rows']:,}, or other files or "
                "scores. Restore it, or choose another --out."
            )

    def model(self, fit: str) -> Path:
        """Where the trained weights of a fit are kept."""
        return self.path / "models" / fit

    def checkpoints(self, fit: str) -> Path:
        """Where an unfinished fit is kept."""
        return self.path / "checkpoints" / fit

    def finished(self, cell: str) -> dict | None:
        """The record of a finished cell."""
        path = self._cell(cell, ".json")
        return _read(path) if path.is_file() else None

    def keep(self, cell: str, record: dict, predictions: pd.DataFrame) -> None:
        """Write a finished cell."""
        table = predictions.to_csv(index=False)
        write_whole(self._cell(cell, ".csv"), table.encode("utf-8", "backslashreplace"))
        _write(self._cell(cell, ".json"), {**record, "software": software()})

    def fail(self, cell: str, reason: str) -> None:
        """Note why a cell could not be computed; the next run tries again."""
        self.log["failed"][cell] = reason

    def write_log(self) -> None:
        """Settings, data, software, and the facts of every finished cell."""
        cells = sorted((self.path / "cells").glob("*.json"))
        self.log["software"] = software()
        self.log["cells"] = {path.stem: _read(path) for path in cells}
        _write(self._log_path, self.log)

    def _cell(self, cell, suffix):
        return self.path / "cells" / f"{cell}{suffix}"


@cache
def software() -> dict:
    """Versions, and a digest of this package's own source."""
    home = Path(diffqa_features.__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for folder, names in walk(home, skip=lambda name: name == "__pycache__"):
        for name in names:
            if name.endswith(".py"):
                digest.update(f"{(folder / name).relative_to(home)}\0".encode())
                digest.update((folder / name).read_bytes())
    return {
        "diffqa-features": diffqa_features.__version__,
        "source": digest.hexdigest(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _refuse_changes(path, before, now):
    if before == now:
        return
    before = before if isinstance(before, dict) else {}
    name = next(name for name in {**before, **now} if before.get(name) != now.get(name))
    raise ValueError(
        f"'{path}' holds a study with other settings: {name} was "
        f"{before.get(name)!r:.200}, and is {now.get(name)!r:.200} now. {_WAY_OUT}"
    )


def _read(path):
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"'{path}' is damaged: {error}. Restore it, or remove it to have it "
            "computed again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"'{path}' is not a file of 'diffqa study'. Remove it to have it computed "
            "again."
        )
    return content


def _write(path, content):
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
