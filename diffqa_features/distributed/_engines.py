"""A table and an estimator in, a folder of features out, by one of four engines."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm.auto import tqdm

from diffqa_features import __version__
from diffqa_features._utils.hashing import make_seed
from diffqa_features._utils.tables import read_csv
from diffqa_features.distributed._batch import BatchExtractor, kept_columns
from diffqa_features.distributed._parts import STAMPS, Parts, stamps
from diffqa_features.learned.student.teacher import fingerprint


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
    verbose: int = 0,
) -> dict[str, int]:
    """Compute the features of a table into a folder of Parquet files.

    Existing rows are not computed again: repeat an interrupted call to resume it, and
    only the new rows of a table that has grown are computed. A local file whose size or
    modification time has changed counts as new, and so does a bad row that is no local
    file, such as a URL whose server gave no answer.

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
        of the type that it has in `out`, or a file there is damaged.
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
    (4, 36)
    """
    if engine not in _ENGINES:
        raise ValueError(f"engine must be one of {sorted(_ENGINES)}. Got {engine!r}.")
    if batch_size < 1 or n_workers < 1:
        raise ValueError(
            "batch_size and n_workers must be at least 1. Got "
            f"{batch_size} and {n_workers}."
        )
    extractor = features
    if not isinstance(features, BatchExtractor):
        extractor = BatchExtractor(features, media=media)
    media, key = extractor.media, key or extractor.media
    table = _read_source(source, media)
    _check_keys(table, key)
    extractor = copy.copy(extractor)  # what is kept is the same in all batches
    kept = kept_columns(table, extractor.keep)
    extractor.keep = list(dict.fromkeys([key, *kept]))
    schema = _schema(extractor, table)
    parts = Parts(out, key)
    settings = _settings(extractor, key)

    ours, now = _shard(table[key], shard), stamps(table[media])
    now = now.set_index(pd.Index(table[key]))
    with parts.alone():
        parts.begin(settings)
        schema = _agreed(parts.schema(), schema, table[extractor.keep])
        done = parts.read_done()
        known = done[key].isin(table[key]).to_numpy()
        # Two processes without shards can both have computed a row.
        twice = done[key].duplicated(keep=False).to_numpy()
        again = twice | _changed(done, now.reindex(done[key]))
        stale = np.where(known, again, prune) & _shard(done[key], shard)
        parts.drop(done, stale)
    there = table[key].isin(done[key][known & ~stale]).to_numpy()
    todo = table[ours & ~there].reset_index(drop=True)

    report = {
        "rows": int(ours.sum()), "found": int((ours & there).sum()), "computed": 0,
        "bad": 0, "removed": int((~known & stale).sum()),
    }  # fmt: skip
    schema = schema.with_metadata({"diffqa_features": json.dumps(settings)})
    write = BatchWriter(extractor, parts, schema)
    run = partial(_ENGINES[engine], n_workers=n_workers, gpus=gpus_per_worker)
    with tqdm(total=len(todo), unit="row", disable=not verbose) as progress:
        for computed, bad in run(todo, write, batch_size) if len(todo) else ():
            report["computed"] += computed
            report["bad"] += bad
            progress.update(computed)
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
        now = stamps(table[self.extractor.media])
        found = self.extractor(table).reset_index(drop=True)
        found[list(STAMPS)] = now
        self.parts.write(pa.Table.from_pandas(found, self.schema, preserve_index=False))
        bad = int((found["reason"] != "").sum())
        return pd.DataFrame({"computed": [len(found)], "bad": [bad]})


def _schema(extractor, table):
    """Columns of every file, with their types; ValueError if there can be none."""
    missing = set(extractor.keep) - set(table.columns)
    if missing:
        raise ValueError(f"The table has no column {min(missing)!r}, which keep names.")
    own = {*extractor.columns, *STAMPS, "reason"}
    for name in extractor.keep:
        if not isinstance(name, str) or name in own:
            raise ValueError(
                f"The column {name!r} of the table "
                f"{'would be replaced' if name in own else 'is not named by a str'}; "
                "rename it, or leave it out of the extractor's 'keep'."
            )
    kept = []
    for name in extractor.keep:
        with _fitting(name):
            kind = pa.array(table[name], from_pandas=True).type
        # Where nothing is known yet, most columns turn out to be text.
        kept.append((name, pa.string() if kind == pa.null() else kind))
    made = pa.from_numpy_dtype(extractor._dtype)
    added = [(name, made) for name in extractor.columns]
    added += [(name, pa.int64()) for name in STAMPS]
    return pa.schema([*kept, *added, ("reason", pa.string())])


def _agreed(before, schema, kept):
    """The types of what is there, if the columns `kept` of the table have them too."""
    if before is None:
        return schema
    for name in kept:
        if kept[name].isna().all():
            continue
        with _fitting(name):
            kinds = before.field(name).type, schema.field(name).type
            if len({_is_text(kind) for kind in kinds}) == 2:  # "7" would pass for 7
                raise pa.ArrowTypeError(f"{kinds[1]}, not {kinds[0]}")
            pa.array(kept[name], kinds[0], from_pandas=True)
    return before


def _is_text(kind):
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


@contextlib.contextmanager
def _fitting(name):
    try:
        yield
    except (pa.ArrowException, UnicodeError, KeyError) as error:
        raise ValueError(
            f"The column {name!r} of the table is not of one plain type, or of another "
            f"one than in 'out': {error}. Convert it, or leave it out by 'keep'."
        ) from error


# -- engines: a table and a BatchWriter in, counts of the batches out ------------------

Counts = Iterator[tuple[int, int]]
_BLOCKS = 8  # per worker that wait or are worked on


def _run_local(table, write, batch_size, n_workers, gpus) -> Counts:
    for start in range(0, len(table), batch_size):
        yield from _counts(write(table.iloc[start : start + batch_size]))


def _run_ray(table, write, batch_size, n_workers, gpus) -> Counts:
    ray = _load("ray.data", "ray")
    # A block is worked on by one worker, in batches.
    blocks = min(-(-len(table) // batch_size), _BLOCKS * n_workers)
    size = -(-len(table) // blocks)
    pieces = [table.iloc[start : start + size] for start in range(0, len(table), size)]
    counts = ray.from_pandas(pieces).map_batches(
        _Actor,
        fn_constructor_args=(write,),
        batch_size=batch_size,
        batch_format="pandas",
        concurrency=n_workers,
        num_gpus=gpus or None,
    )
    for batch in counts.iter_batches(batch_format="pandas"):
        yield from _counts(batch)


def _run_dask(table, write, batch_size, n_workers, gpus) -> Counts:
    distributed = _load("dask.distributed", "dask")
    with contextlib.ExitStack() as stack:
        try:
            client = distributed.get_client()
        except ValueError:  # there is none
            client = distributed.Client(n_workers=n_workers, threads_per_worker=1)
            stack.enter_context(client)
        starts = iter(range(0, len(table), batch_size))

        def submit(count):
            for start in itertools.islice(starts, count):
                piece = table.iloc[start : start + batch_size]
                yield client.submit(write, piece, pure=False)

        # Not all at once: a scheduler holds what waits.
        waiting = distributed.as_completed(
            submit(_BLOCKS * n_workers), with_results=True
        )
        for _, counts in waiting:
            yield from _counts(counts)
            for future in submit(1):
                waiting.add(future)


def _run_spark(table, write, batch_size, n_workers, gpus) -> Counts:
    sql = _load("pyspark.sql", "spark")
    session = sql.SparkSession.builder.getOrCreate()
    session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(batch_size))
    rows = session.createDataFrame(table).repartition(n_workers)
    counts = rows.mapInPandas(
        lambda batches: map(write, batches), "computed long, bad long"
    )
    for row in counts.toLocalIterator():
        yield row["computed"], row["bad"]


class _Actor:
    """A worker of Ray, made once per process."""

    def __init__(self, write):
        self._write = write

    def __call__(self, table):
        return self._write(table)


def _counts(table):
    yield from zip(table["computed"].tolist(), table["bad"].tolist(), strict=True)


def _load(module, extra):
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"engine={extra!r} needs {module.partition('.')[0]}: "
            f"pip install 'diffqa_features[{extra}]'."
        ) from error


_ENGINES = {
    "local": _run_local, "ray": _run_ray, "dask": _run_dask, "spark": _run_spark
}  # fmt: skip


# -- the table -----------------------------------------------------------------------


def _read_source(source, media):
    if isinstance(source, pd.DataFrame):
        table = source.reset_index(drop=True)
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        is_csv = path.suffix.lower() in (".csv", ".tsv")
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        if is_csv:  # a file may be called 007, and a caption be "NA"
            table = read_csv(
                path,
                sep=separator,
                dtype={media: str},
                keep_default_na=False,
                na_values=[""],
            )
        elif path.suffix.lower() == ".parquet" or path.is_dir():
            table = pd.read_parquet(path)
        else:
            raise ValueError(
                f"source must be a list of paths, or a .csv, .tsv or .parquet table. "
                f"Got {str(path)!r} instead."
            )
    elif hasattr(source, "__iter__"):
        # Objects, because pandas' own text holds no names that are not UTF-8.
        texts = [os.fspath(item) for item in source]
        table = pd.DataFrame({media: texts}, dtype=object)
    else:
        raise TypeError(
            "source must be a list of paths, a DataFrame, or the path of a table. Got "
            f"{source!r} instead."
        )
    if media not in table:
        raise ValueError(
            f"The table has no column {media!r}, only "
            f"{', '.join(map(repr, table.columns))}. Name it by media=."
        )
    if table[media].map(lambda value: isinstance(value, os.PathLike)).any():
        texts = [v if v is None else os.fspath(v) for v in table[media]]
        table = table.assign(**{media: texts})
    return table


def _check_keys(table, key):
    if key not in table:
        raise ValueError(
            f"The table has no column {key!r}, only "
            f"{', '.join(map(repr, table.columns))}."
        )
    for place, value in enumerate(table[key]):
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"Row {place}: {value!r} is not UTF-8 and cannot stand in a table. "
                "Rename the file, for example with convmv."
            ) from None
    try:
        twice = table[key].duplicated(keep=False) | table[key].isna()
    except TypeError:
        raise ValueError(
            f"The column {key!r} cannot tell rows apart: its values are not plain. "
            "Name another one by key=."
        ) from None
    if twice.any():
        places = np.flatnonzero(twice)[:2].tolist()
        raise ValueError(
            f"The column {key!r} must tell rows apart, and does not in rows "
            f"{' and '.join(map(str, places))} ({table[key].tolist()[places[0]]!r}). "
            "Drop what is there twice, or name another column by key=."
        )


def _changed(done, now):
    """Which rows were computed of another file: bool (N,).

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
        for name, value in features.get_params().items()
        if name.rpartition("__")[2] not in _MACHINE and not _holds_estimators(value)
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


# Parameters that say how to compute and not what.
_MACHINE = {
    "memory", "device", "n_jobs", "batch_size", "verbose", "on_error", "checkpoint_dir",
}  # fmt: skip
