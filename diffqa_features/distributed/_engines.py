"""A table and a function in, what it returns for each batch out, by one engine each."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from importlib import import_module

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


ENGINES = {
    "local": _run_local, "ray": _run_ray, "dask": _run_dask, "spark": _run_spark
}  # fmt: skip
