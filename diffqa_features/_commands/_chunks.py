"""Finished chunks of rows in, the same chunks out after a kill, in a folder."""

import hashlib
import json
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np

from diffqa_features._commands._outputs import note, whole_file

_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class Chunks:
    """The rows of one extraction, `size` at a time, kept in `folder` until it is done.

    A chunk is there as a whole or not at all. It is taken up again only for the same
    settings and the same files, unchanged since (by size and time).
    """

    def __init__(self, folder, settings, files, size):
        self.folder = Path(folder)
        self.files = files
        self.size = size
        self._settings = settings
        self._begin()

    def __len__(self):
        return -(-len(self.files) // self.size)

    def rows(self, number):
        """The files of a chunk."""
        return self.files.iloc[number * self.size : (number + 1) * self.size]

    def load(self, number):
        """(matrix, good, bad) of a finished chunk; None if there is none that fits."""
        try:
            with np.load(self._path(number), allow_pickle=False) as content:
                if str(content["key"]) != self._key(number):
                    return None
                bad = [tuple(pair) for pair in json.loads(str(content["bad"]))]
                return content["matrix"], content["good"], bad
        except _DAMAGE:
            return None  # absent or damaged: it is computed (again)

    def save(self, number, matrix, good, bad):
        """Keep a chunk."""
        with whole_file(self._path(number)) as path, path.open("wb") as file:
            key, bad = self._key(number), json.dumps(bad)
            np.savez(file, matrix=matrix, good=good, bad=bad, key=key)

    def remove(self):
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _begin(self):
        path = self.folder / "settings.json"
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if before == self._settings:
            return
        if before is not None:
            changed = [
                name
                for name in sorted({*before, *self._settings})
                if before.get(name) != self._settings.get(name)
            ]
            note(
                f"{self.folder} was begun with other settings ({', '.join(changed)}); "
                "starting anew"
            )
        self.remove()
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(self._settings), encoding="utf-8")

    def _path(self, number):
        return self.folder / f"{number:06d}.npz"

    def _key(self, number):
        digest = hashlib.blake2b(json.dumps(self._settings).encode(), digest_size=20)
        for row in self.rows(number).itertuples():
            digest.update(repr((tuple(row), _stamp(row.path))).encode())
        return digest.hexdigest()


def _stamp(path):
    try:
        stat = Path(path).stat()
    except (OSError, TypeError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns
