"""A fitted teacher and pictures in, its scores and quality maps out, once per picture.

With a store, a teacher's output is cached by the picture's content and the teacher's
fingerprint, so an interrupted call resumes where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature

import numpy as np
from tqdm.auto import tqdm

from diffqa_features._engine.parallel import put_or_disable
from diffqa_features._media.rows import take_rows
from diffqa_features._utils.fingerprint import fingerprint
from diffqa_features._utils.hashing import make_key
from diffqa_features.learned._pictures import scratch

_PICTURES = 64  # that a teacher gets in one call, and that are kept together


class TeacherCache:
    """A teacher's output for pictures: scores, quality maps, or both."""

    def __init__(self, teacher, *, scores: bool, maps: bool, store, verbose: int):
        self.teacher = teacher
        self.kinds = [k for k, on in (("score", scores), ("map", maps)) if on]
        self.store = store
        self.verbose = verbose
        self.identity = fingerprint(teacher) if store is not None else ""
        # One pass gives both where a teacher says so, as DPIQARegressor does.
        self.jointly = (
            maps and "return_scores" in signature(teacher.quality_maps).parameters
        )

    def ask(self, parts, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """``"score"``, float64 (N,), and ``"map"``, float32 on disk (N, C, h, w).

        `parts` are pairs of (X, its readable rows), `keys` those of the pictures of all
        parts. Identical pictures are predicted once.
        """
        whence = [
            (part, row.index, row.columns)
            for part, (_, rows) in enumerate(parts)
            for row in rows
        ]
        places: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            columns = sorted(whence[place][2].items())
            places.setdefault(repr((key, columns)), []).append(place)
        pictures, result = list(places), {}
        with tqdm(
            total=len(pictures), unit="row", desc="teach", disable=not self.verbose
        ) as bar:
            for start in range(0, len(pictures), _PICTURES):
                chunk = pictures[start : start + _PICTURES]
                known = self._recall(chunk)
                missing = [
                    p for p in chunk if any((k, p) not in known for k in self.kinds)
                ]
                for part, (X, _) in enumerate(parts):
                    here = [p for p in missing if whence[places[p][0]][0] == part]
                    if here:
                        some = [whence[places[p][0]][1] for p in here]
                        known.update(self._ask_teacher(take_rows(X, some), here))
                for (kind, picture), value in known.items():
                    if kind not in result:
                        shape = (len(keys), *value.shape)
                        make = scratch if value.ndim else np.empty
                        result[kind] = make(shape, value.dtype)
                    result[kind][places[picture]] = value
                bar.update(len(chunk))
        return result

    def _recall(self, pictures):
        if self.store is None:
            return {}
        names = {self._name(k, p): (k, p) for k in self.kinds for p in pictures}
        return {names[n]: v for n, v in self.store.get(list(names)).items()}

    def _ask_teacher(self, X, pictures):
        """Run the teacher and store its output."""
        said = {}
        if self.jointly and "score" in self.kinds:
            said["map"], said["score"] = self.teacher.quality_maps(
                X, return_scores=True
            )
        elif "map" in self.kinds:
            said["map"] = self.teacher.quality_maps(X)
        if "score" in self.kinds and "score" not in said:
            said["score"] = self.teacher.predict(X)
        new = {
            (kind, picture): value
            for kind, values in said.items()
            for picture, value in zip(
                pictures, self._checked(kind, values, len(pictures)), strict=True
            )
        }
        if self.store is not None:
            entries = {self._name(*about): np.asarray(v) for about, v in new.items()}
            self.store = put_or_disable(self.store, entries)
        return new

    def _checked(self, kind, values, count):
        method, axes, wanted, dtype = {
            "score": ("predict", 1, "one number", np.float64),
            "map": ("quality_maps", 4, "one map (C, h, w)", np.float32),
        }[kind]
        values = np.asarray(values)
        who = f"The teacher's {method}() ({type(self.teacher).__name__})"
        if values.ndim != axes or len(values) != count:
            raise ValueError(
                f"{who} must give {wanted} per picture. Got an array of shape "
                f"{values.shape} for {count} pictures."
            )
        values = values.astype(dtype)
        bad = ~np.isfinite(values.reshape(count, -1)).all(1)
        if bad.any():
            raise ValueError(
                f"{who} gives no finite value for {int(bad.sum())} of {count} "
                "pictures. Fit it again, or drop what it cannot judge."
            )
        return values

    def _name(self, kind, picture):
        return make_key("teacher", self.identity, kind, picture)
