"""Finished chunks of rows, kept in a folder to resume from."""

import hashlib
import json
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from diffqa_features._commands._outputs import note
from diffqa_features._utils.files import whole_file, write_whole

_MARKER = "settings.json"
_OWN = re.compile(r"\d{6,}\.npz|\.(\d{6,}\.npz|settings\.json)\.diffqa-part")
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class Chunks:
    """Chunks of `size` rows of one extraction, kept in `folder` until it is done.

    Chunks are written atomically. They are reused only for the same settings and the
    same files, if unchanged (by size and time).
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
        """(matrix, good, bad) of a finished chunk; None if there is no valid one."""
        try:
            with np.load(self._path(number), allow_pickle=False) as content:
                if str(content["key"]) != self._key(number):
                    return None
                bad = [tuple(pair) for pair in json.loads(str(content["bad"]))]
                return content["matrix"], content["good"], bad
        except _DAMAGE:
            return None  # absent or damaged: it is computed (again)

    def save(self, number, matrix, good, bad):
        """Save a chunk."""
        with whole_file(self._path(number)) as path, path.open("wb") as file:
            key, bad = self._key(number), json.dumps(bad)
            np.savez(file, matrix=matrix, good=good, bad=bad, key=key)

    def remove(self):
        """Delete everything this class wrote, and the folder if it is then empty."""
        for path in self.folder.glob("*"):
            if _OWN.fullmatch(path.name):
                path.unlink(missing_ok=True)
        # Last: while anything of ours is there, this says whose it is.
        (self.folder / _MARKER).unlink(missing_ok=True)
        try:
            self.folder.rmdir()
        except OSError:
            if self.folder.is_dir():
                note(f"{self.folder} stays: it holds files of others")

    def _begin(self):
        path = self.folder / _MARKER
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if before == self._settings:
            return
        ours = isinstance(before, dict) and "diffqa_features" in before
        if not ours and self.folder.exists():
            # A kill while the marker was written leaves its temporary file alone.
            started = {f".{_MARKER}.diffqa-part"}
            if not self.folder.is_dir() or not started.issuperset(
                path.name for path in self.folder.iterdir()
            ):
                raise FileExistsError(
                    f"'{self.folder}' is in the way: unfinished work would be kept "
                    "there, and 'diffqa extract' did not make it. Move it away, or "
                    "choose another --out."
                )
            before = None
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
        write_whole(path, json.dumps(self._settings))

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
