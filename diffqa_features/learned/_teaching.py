"""A fitted teacher and pictures in, its scores and quality maps out, once per picture.

With a store, what a teacher said of a picture is kept under the picture's content and
the teacher's fingerprint, and a call that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import joblib
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import _safe_indexing
from tqdm.auto import tqdm

from diffqa_features._media import Row
from diffqa_features._resolve import describe_backbone
from diffqa_features._store import FeatureStore
from diffqa_features._transformer import BackboneTransformer
from diffqa_features.learned._pictures import scratch
from diffqa_features.motion._features import MotionFeatures
from diffqa_features.motion._weights import find_weights

_PICTURES = 64  # that a teacher gets in one call, and that are kept together
# Attributes that do not change what is predicted.
_FREE = {
    "memory", "verbose", "n_jobs", "batch_size", "device", "checkpoint_dir", "failed_",
    "history_", "_sklearn_output_config",
}  # fmt: skip


class Lessons:
    """What a teacher says of pictures; `maps` tells whether its maps are wanted."""

    def __init__(self, teacher, *, scores: bool, maps: bool, store, verbose: int):
        self.teacher = teacher
        self.store: FeatureStore | None = store
        self.verbose = verbose
        self.calls: dict[str, Callable] = {}
        if scores:
            self.calls["score"] = teacher.predict
        if maps:
            self.calls["map"] = teacher.quality_maps
        self.identity = fingerprint(teacher) if store is not None else ""

    def take(self, parts, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """What is wanted of ``"score"``, float64 (N,), and ``"map"``, float32 on disk
        (N, C, h, w), of all pictures of the parts, which are pairs of (X, rows).

        `keys` are those of the pictures; equal pictures are asked for once.
        """
        self.parts = [X for X, _ in parts]
        self.whence = [
            (number, place)
            for number, (_, rows) in enumerate(parts)
            for place in range(len(rows))
        ]
        rows = [row for _, some in parts for row in some]
        return {kind: self._take(kind, rows, keys) for kind in self.calls}

    def _take(self, kind, rows, keys):
        places: dict[str, list[int]] = {}
        for place, (row, key) in enumerate(zip(rows, keys, strict=True)):
            words = ("teacher 1", self.identity, kind, key, sorted(row.columns.items()))
            name = hashlib.blake2b(repr(words).encode(), digest_size=20).hexdigest()
            places.setdefault(name, []).append(place)
        names, result = list(places), None
        with tqdm(
            total=len(names), unit="row", desc=f"teacher's {kind}s",
            disable=not self.verbose,
        ) as bar:  # fmt: skip
            for start in range(0, len(names), _PICTURES):
                chunk = names[start : start + _PICTURES]
                found = {} if self.store is None else self.store.get(chunk)
                missing = [name for name in chunk if name not in found]
                if missing:
                    values = self._ask(kind, [places[name][0] for name in missing])
                    new = dict(zip(missing, values, strict=True))
                    self._keep(new)
                    found.update(new)
                for name in chunk:
                    value = found[name]
                    if result is None:
                        shape = (len(rows), *value.shape)
                        many = value.ndim > 0
                        result = (
                            scratch(shape, value.dtype)
                            if many
                            else np.empty(shape, value.dtype)
                        )
                    result[places[name]] = value
                bar.update(len(chunk))
        return result

    def _ask(self, kind, places):
        values = []
        for number, X in enumerate(self.parts):
            some = [self.whence[p][1] for p in places if self.whence[p][0] == number]
            if some:
                values.append(self._call(kind, _safe_indexing(X, some)))
        return np.concatenate(values)

    def _call(self, kind, X):
        values = np.asarray(self.calls[kind](X))
        method = self.calls[kind].__name__
        who = f"The teacher's {method}() ({type(self.teacher).__name__})"
        axes = {"score": 1, "map": 4}[kind]
        if values.ndim != axes or len(values) != len(X):
            wanted = {"score": "one number", "map": "one map (C, h, w)"}[kind]
            raise ValueError(
                f"{who} must give {wanted} per picture. Got an array of shape "
                f"{values.shape} for {len(X)} pictures."
            )
        values = values.astype({"score": np.float64, "map": np.float32}[kind])
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
        if bad.any():
            raise ValueError(
                f"{who} gives no finite value for {int(bad.sum())} of {len(X)} "
                "pictures. Fit it again, or drop what it cannot judge."
            )
        return values

    def _keep(self, entries):
        if self.store is None:
            return
        try:
            self.store.put({name: np.asarray(value) for name, value in entries.items()})
        except OSError as error:
            warnings.warn(
                f"The feature store cannot be written; this call goes on without it. "
                f"{error}",
                RuntimeWarning,
                stacklevel=2,
            )
            self.store = None


def fingerprint(teacher) -> str:
    """Hash of all that a teacher's predictions follow from.

    Class, parameters, what was fitted, and of frozen models the content of the files.
    Code is not looked at; of this library its version stands for it.
    """
    from diffqa_features import __version__

    digest = hashlib.blake2b(f"{__version__};".encode(), digest_size=20)
    try:
        _add(digest, teacher)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The teacher, a {type(teacher).__name__}, cannot be told from others in "
            f"the store: {error}. Set memory=None, or make it one that pickles."
        ) from error
    return digest.hexdigest()


def _add(digest, value):
    """Containers are walked here: joblib's hash is of a pickle, in which the identity
    of equal objects shows."""
    if isinstance(value, BaseEstimator):
        kind = type(value)
        digest.update(f"{kind.__module__}.{kind.__qualname__}".encode())
        if isinstance(value, BackboneTransformer):
            frozen = describe_backbone(value._backbone_name()).identity
            digest.update(frozen.encode())
        if isinstance(value, MotionFeatures):
            digest.update(find_weights(value.weights).identity.encode())
        facts = {k: v for k, v in vars(value).items() if k not in _FREE}
        _add(digest, facts)
    elif isinstance(value, dict):
        digest.update(f"{len(value)}{{".encode())
        for key in sorted(value, key=repr):
            _add(digest, key)
            _add(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)}(".encode())
        for item in value:
            _add(digest, item)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value))
    elif isinstance(value, np.ndarray):
        _add(digest, value.tolist())
    elif isinstance(value, (str, bytes, int, float, complex, type(None))):
        digest.update(f"{value!r};".encode())
    elif isinstance(value, Path):
        digest.update(f"{os.fspath(value)!r};".encode())
    else:
        digest.update(joblib.hash(value).encode())
