"""The folder of a local copy: where its label files and its media are."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from diffqa_features._utils.files import local_path, walk
from diffqa_features.datasets._description import Dataset


class Folder:
    """All files below a folder, looked up by name, ignoring case.

    Archives unpack with or without an enclosing folder, and names differ in case
    between label files and disk. Label files are therefore searched for everywhere
    below the root, and media below the folders around them.
    """

    def __init__(self, root, dataset: Dataset, subset: str = "all") -> None:
        self.dataset = dataset
        self.subset = subset  # may spare a label file
        self.root = local_path(root, "The 'root' parameter").absolute()
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "does not exist"
            raise FileNotFoundError(
                f"{dataset.title}: '{self.root}' {what}. {dataset.way_out}"
            )
        self.labels: list[Path] = []  # read so far
        self.notes: list[str] = []  # what a user should know of this copy
        self._files = {}  # folded path below the root -> [paths as they are]
        self._named = {}  # folded name -> [folded paths]
        for path in _walk(str(self.root)):
            key = path.casefold()
            self._files.setdefault(key, []).append(path)
            self._named.setdefault(key.rpartition("/")[2], []).append(key)

    def label(self, *patterns: str) -> Path:
        """The first existing label file whose path ends in one of these."""
        path = self.optional_label(*patterns)
        if path is None:
            names = " or ".join(f"'{pattern}'" for pattern in patterns)
            raise FileNotFoundError(
                f"{self.dataset.title}: there is no {names} in '{self.root}' or below, "
                f"where {self._contents()}. {self.dataset.way_out}"
            )
        return path

    def optional_label(self, *patterns: str) -> Path | None:
        """As `label`, or None."""
        for pattern in patterns:
            keys = self._ending(pattern)
            nearest = [k for k in keys if k.count("/") == keys[0].count("/")]
            if len(nearest) > 1:
                raise ValueError(
                    f"{self.dataset.title}: '{self.root}' has several files "
                    f"'{pattern}': {some(nearest)}. Pass as root the one folder that "
                    "is meant."
                )
            if nearest:
                path = self.root / self._files[nearest[0]][0]
                if path not in self.labels:
                    self.labels.append(path)
                return path
        return None

    def label_folder(self, *names: str, suffix: str) -> list[Path]:
        """The label files of this suffix in the first of these folders, sorted."""
        for name in names:
            inside = f"/{name.casefold()}/"
            keys = [
                key
                for key in self._files
                if key.endswith(suffix)
                and f"/{key.rpartition('/')[0]}/".endswith(inside)
            ]
            if keys:
                paths = [self.root / p for k in sorted(keys) for p in self._files[k]]
                self.labels += paths
                return paths
        raise FileNotFoundError(
            f"{self.dataset.title}: there is no folder {' or '.join(names)} with "
            f"*{suffix} files in '{self.root}' or below, where {self._contents()}. "
            f"{self.dataset.way_out}"
        )

    def suffixed(self, *suffixes: str) -> list[Path]:
        """All files with one of these suffixes, sorted."""
        keys = sorted(key for key in self._files if key.endswith(suffixes))
        return [self.root / path for key in keys for path in self._files[key]]

    def media(self, rows: list[dict]) -> tuple[list[str | None], list[str]]:
        """Path of each row's file (None if missing), and the expected names.

        One layout is used for all rows: the first with any of the files. Two layouts
        hold two versions of the same pictures, and a mixture of both would look like a
        complete dataset.
        """
        for layout in self.dataset.layouts:
            names = [[pattern.format_map(row) for pattern in layout] for row in rows]
            best, most = None, 0
            for base in self._bases() if not layout[0].startswith("**/") else [""]:
                found = [self._first(base, alternatives) for alternatives in names]
                count = sum(path is not None for path in found)
                if count > most:
                    best, most = found, count
                if count == len(rows):
                    break
            if best is not None:
                return best, [alternatives[0] for alternatives in names]
        return [None] * len(rows), [
            self.dataset.layouts[0][0].format_map(row) for row in rows
        ]

    def unlisted(self, used: Iterable[str]) -> list[str]:
        """Files of the same kinds, beside those in use, that no row names."""
        used = set(used)
        places = {_place(path) for path in used}
        paths = (str(self.root / p) for paths in self._files.values() for p in paths)
        return sorted(p for p in paths if p not in used and _place(p) in places)

    def _contents(self) -> str:
        if not self._files:
            return "there are no files at all"
        paths = [path for paths in self._files.values() for path in paths]
        return f"there are {len(paths):,} files: {some(paths)}"

    def _ending(self, pattern: str) -> list[str]:
        key = pattern.casefold()
        name = key.rpartition("/")[2]
        keys = [
            path
            for path in self._named.get(name, [])
            if path == key or path.endswith(f"/{key}")
        ]
        return sorted(keys, key=lambda path: (path.count("/"), path))

    def _bases(self) -> list[str]:
        """Folders to search for media, nearest to the label files first."""
        bases = []
        for label in self.labels:
            folder = label.parent
            while folder.is_relative_to(self.root):
                bases.append(folder.relative_to(self.root).as_posix())
                folder = folder.parent
        tops = {key.partition("/")[0] for key in self._files if "/" in key}
        bases += [".", *sorted(tops)]
        return list(dict.fromkeys(_folded(base) for base in bases))

    def _first(self, base: str, alternatives: list[str]) -> str | None:
        for name in alternatives:
            exact = name.removeprefix("**/")
            if name.startswith("**/"):
                keys = self._ending(exact)
            else:
                keys = [key] if (key := base + name.casefold()) in self._files else []
            paths = [path for key in keys for path in self._files[key]]
            if len(paths) > 1:  # the spelling decides between two cases
                paths = [p for p in paths if f"/{p}".endswith(f"/{exact}")] or paths
            if len(paths) > 1:
                raise ValueError(
                    f"{self.dataset.title}: '{self.root}' has several files "
                    f"'{exact}': {some(paths)}. Keep one of them."
                )
            if paths:
                return str(self.root / paths[0])
        return None


def _folded(base: str) -> str:
    return "" if base == "." else f"{base.casefold()}/"


def _place(path: str) -> tuple[Path, str]:
    return Path(path).parent, Path(path).suffix.lower()


def _walk(root: str) -> Iterator[str]:
    """Paths of all files below, with '/', following links to folders."""
    for folder, names in walk(root, skip=lambda name: name == "__MACOSX"):
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in names:
            if not name.startswith("."):  # as "._dmos.csv", what macOS leaves behind
                yield name if below == "." else f"{below}/{name}"


def some(names: Iterable[str], most: int = 5) -> str:
    names = iter(names)
    shown = list(islice(names, most))
    rest = sum(1 for _ in names)
    return ", ".join(shown) + (f" and {rest:,} more" if rest else "")
