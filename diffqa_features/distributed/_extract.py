"""A table and an estimator in, a folder of features out, by one of four engines."""

from __future__ import annotations

import copy
import json
import os
import re
from contextlib import closing

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm.auto import tqdm

from diffqa_features import __version__
from diffqa_features._media.rows import Row
from diffqa_features._utils.fingerprint import fingerprint
from diffqa_features._utils.hashing import make_seed
from diffqa_features._utils.parameters import MACHINE
from diffqa_features.distributed._batch import BatchExtractor, kept_columns, precisions
from diffqa_features.distributed._engines import ENGINES
from diffqa_features.distributed._parts import STAMPS, Parts, stamps
from diffqa_features.distributed._table import (
    agreed,
    check_keys,
    make_schema,
    read_source,
)


def extract(
    source,
    features,
    out: str | os.PathLike,
    *,
    engine: str = "local",
    media: str = "path",
    key: str | None = None,
    batch_size: int = 64,
    n_workers: int = 1,
    gpus_per_worker: float = 0,
    shard: tuple[int, int] = (0, 1),
    prune: bool = False,
    on_error: str = "nan",
    verbose: int = 0,
) -> dict[str, int]:
    """Compute the features of a table into a folder of Parquet files.

    Existing rows are not computed again: repeat an interrupted call to resume it, and
    only the new rows of a table that has grown are computed. A row counts as new if the
    size or modification time of its local file has changed, or the text that a prompt
    takes from its table. So does a bad row that is no local file, such as a URL whose
    server gave no answer.

    Parameters
    ----------
    source : list of str, DataFrame, or path of a CSV or Parquet table
        Media rows by path, or a table with the column `media`.
    features : transformer, BatchExtractor or BatchPredictor
        What to compute. Wrap a fitted model as ``BatchPredictor(model)``.
    out : path
        A folder that all workers see under this path. It reads as one table:
        ``pandas.read_parquet(out)``.
    engine : {"local", "ray", "dask", "spark"}, default="local"
        ``"local"`` runs here, in this process. The others use the cluster that this
        process is connected to, or start one on this machine.
    media : str, default="path"
        Column with the media rows.
    key : str, default=None
        Column that identifies the rows. None uses that of the media rows.
    batch_size : int, default=64
        Rows per call and per file.
    n_workers : int, default=1
        Processes that compute, with ``"ray"``; parts of the table that may run side by
        side, with ``"dask"`` and ``"spark"``.
    gpus_per_worker : float, default=0
        GPUs that Ray reserves for each worker.
    shard : tuple (i, n), default=(0, 1)
        Compute the i-th of n parts only, assigned by a hash of the key, so added rows
        do not move others. This is how independent processes share the work on one
        folder.
    prune : bool, default=False
        Also remove rows from the folder that are not in `source`.
    on_error : {"nan", "raise"}, default="nan"
        What to do about a row that cannot be read, whether it is met now or was before:
        keep it with NaN and its reason, or stop. What is finished stays in `out`.
    verbose : int, default=0
        Show progress if above 0.

    Returns
    -------
    dict
        Numbers of rows: ``rows`` in the table (in the shard), ``found`` already there,
        ``computed``, ``bad`` (unreadable) among these, and ``removed``.

    Raises
    ------
    ValueError
        If the table lacks a column, two of its rows have the same key, a column is not
        of the type that it has in `out`, or a file there is damaged. With
        ``on_error="raise"``, if a row cannot be read.
    FileExistsError
        If the folder holds results of other settings.
    ModuleNotFoundError
        If the engine is not installed; the message names the extra.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> from diffqa_features import DiffusionQAFeatures
    >>> from diffqa_features.datasets import load_sample_photos
    >>> from diffqa_features.distributed import extract
    >>> paths = load_sample_photos().filenames
    >>> features = DiffusionQAFeatures(kinds="alignment", image_size=64)
    >>> out = tempfile.mkdtemp()
    >>> extract(paths[:3], features, out)
    {'rows': 3, 'found': 0, 'computed': 3, 'bad': 0, 'removed': 0}
    >>> extract(paths[:4], features, out)
    {'rows': 4, 'found': 3, 'computed': 1, 'bad': 0, 'removed': 0}
    >>> pd.read_parquet(out).shape
    (4, 37)
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {sorted(ENGINES)}. Got {engine!r}.")
    if on_error not in ("nan", "raise"):
        raise ValueError(f"on_error must be 'nan' or 'raise'. Got {on_error!r}.")
    if batch_size < 1 or n_workers < 1:
        raise ValueError(
            "batch_size and n_workers must be at least 1. Got "
            f"{batch_size} and {n_workers}."
        )
    extractor = features
    if not isinstance(features, BatchExtractor):
        extractor = BatchExtractor(features, media=media)
    media, key = extractor.media, key or extractor.media
    table = read_source(source, media, [key, *extractor._texts])
    check_keys(table, key)
    extractor = copy.copy(extractor)  # what is kept is the same in all batches
    kept = kept_columns(table, extractor.keep)
    extractor.keep = list(dict.fromkeys([key, *kept]))
    schema = make_schema(extractor, table)
    parts = Parts(out, key)
    settings = _settings(extractor, key)

    ours = _shard(table[key], shard)
    now = stamps(table[media], extractor._cells(table)).set_index(pd.Index(table[key]))
    with parts.alone():
        parts.begin(settings)
        schema = agreed(parts.schema(), schema, table[extractor.keep])
        done = parts.read_done()
        known = done[key].isin(table[key]).to_numpy()
        # Two processes without shards can both have computed a row.
        twice = done[key].duplicated(keep=False).to_numpy()
        again = twice | _changed(done, now.reindex(done[key]))
        stale = np.where(known, again, prune) & _shard(done[key], shard)
        parts.drop(done, stale)
    done = done[known & ~stale]
    there = table[key].isin(done[key]).to_numpy()
    todo = table[ours & ~there].reset_index(drop=True)

    report = {
        "rows": int(ours.sum()), "found": int((ours & there).sum()), "computed": 0,
        "bad": 0, "removed": int((~known & stale).sum()),
    }  # fmt: skip
    if on_error == "raise":
        _raise_bad(table[ours], extractor, done, key)
    if todo.empty:
        return report
    schema = schema.with_metadata({"diffqa_features": json.dumps(settings)})
    write = BatchWriter(extractor, parts, schema)
    batches = ENGINES[engine](todo, write, batch_size, n_workers, gpus_per_worker)
    with (
        tqdm(total=len(todo), unit="row", disable=not verbose) as progress,
        closing(batches) as counts,
    ):
        for computed, bad in counts:
            report["computed"] += computed
            report["bad"] += bad
            progress.update(computed)
            if bad and on_error == "raise":
                break
    if report["bad"] and on_error == "raise":
        _raise_bad(todo, extractor, parts.read_done(), key)
    return report


class BatchWriter:
    """Compute one batch, write it as a file, and return its counts: what is mapped.

    Only two numbers go back through the engine; columns never do. `schema` is that of
    all files: what is empty in one batch has its type from the others.
    """

    def __init__(self, extractor: BatchExtractor, parts: Parts, schema: pa.Schema):
        self.extractor = extractor
        self.parts = parts
        self.schema = schema

    def __call__(self, table: pd.DataFrame) -> pd.DataFrame:
        # Before: a file that changes while it is read is computed again next time.
        extractor = self.extractor
        now = stamps(extractor._sources(table), extractor._cells(table))
        found = extractor(table).reset_index(drop=True)
        found[list(STAMPS)] = now
        self.parts.write(pa.Table.from_pandas(found, self.schema, preserve_index=False))
        bad = int((found["reason"] != "").sum())
        return pd.DataFrame({"computed": [len(found)], "bad": [bad]})


def _raise_bad(table, extractor, done, key):
    """ValueError of the first row of the table that has a reason in `done`."""
    reasons = dict(zip(done[key], done["reason"]))
    for place, name, source in zip(table.index, table[key], table[extractor.media]):
        if reasons.get(name):
            raise Row(place, source).error(reasons[name])


def _changed(done, now):
    """Which rows were computed of another file or other texts: bool (N,).

    Or of none that is here, as of a server that gave no answer, and are bad.
    """
    before, after = (t[list(STAMPS)].astype("Int64").fillna(-1) for t in (done, now))
    other = (before.to_numpy() != after.to_numpy()).any(axis=1)
    return other | ((done["reason"] != "") & done["size"].isna()).to_numpy()


def _shard(keys, shard):
    """Which rows are of the i-th of n shards, by their keys alone: bool (N,)."""
    index, count = shard if len(shard) == 2 else (0, 0)
    if not 0 <= index < count:
        raise ValueError(f"shard must be (i, n) with 0 <= i < n. Got {shard!r}.")
    return np.array([make_seed(str(key)) % count == index for key in keys], bool)


def _settings(extractor, key):
    """Everything that determines the values, as JSON."""
    features = extractor.features
    parameters = {
        # Without the addresses of functions, which no other process has.
        name: re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))
        for name, value in (features.get_params() | precisions(features)).items()
        if name.rpartition("__")[2] not in MACHINE and not _holds_estimators(value)
    }
    settings = {
        "estimator": type(features).__name__,
        **parameters,
        "fingerprint": fingerprint(features),
        "columns": extractor.columns,
        "media": extractor.media,
        "key": key,
        "keep": list(extractor.keep),
        "diffqa_features": __version__,
    }
    return json.loads(json.dumps(settings))


def _holds_estimators(value):
    """Whether it is one or, as the steps of a Pipeline, several: listed by themselves.

    Their text would show what belongs to a machine.
    """
    if isinstance(value, (list, tuple)):
        return any(map(_holds_estimators, value))
    return hasattr(value, "get_params")
