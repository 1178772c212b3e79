"""Rows and a function in, results in the order of the rows out.

Common to all extractors: distribute rows over processes, prepare data in a thread,
report progress, store results.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.parallel import get_active_backend
from tqdm.auto import tqdm

from diffqa_features._media.budget import reader_threads
from diffqa_features._media.rows import Row
from diffqa_features._store.store import FeatureStore
from diffqa_features._utils.allocator import keep_memory
from diffqa_features._utils.shortage import ways_out

_ROWS_PER_TASK = 32
_AHEAD = 16  # rows that are read while others are worked on

Result = TypeVar("Result")
Processed = tuple[Result, list[tuple[int, str]]]


@ways_out()
def map_rows(
    rows: Sequence[Row],
    process: Callable[[Sequence[Row], Callable[[int], object]], Processed],
    *,
    device: str | None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> tuple[list[tuple[Sequence[int], Result]], list[tuple[int, str]]]:
    """Call `process`, in several processes if requested.

    ``process(rows, advance)`` returns the result for its rows, and the (index, reason)
    of those that could not be read; it calls ``advance(count)`` as rows are finished,
    and must be picklable. Returns the results of parts of the rows, each with the
    positions of its rows. Rows of the same file or object are in the same part, so no
    two processes compute the same.
    """
    jobs = min(effective_n_jobs(n_jobs), len(rows))
    with tqdm(total=len(rows), unit="row", disable=not verbose) as progress:
        if jobs == 1:
            result, failed = process(rows, progress.update)
            return [(range(len(rows)), result)], failed
        _refuse_shared_gpu(device, jobs)
        tasks = _split(rows)
        # joblib's Ray backend hands back all results at the end.
        streams = get_active_backend()[0].supports_return_generator
        parallel = Parallel(
            n_jobs=n_jobs,
            return_as="generator" if streams else "list",
            pre_dispatch="2*n_jobs",
        )
        results, failed = [], []
        parts = parallel(
            delayed(_process)([rows[place] for place in places], process)
            for places in tasks
        )
        for places, (result, bad) in zip(tasks, parts, strict=True):
            results.append((places, result))
            failed += bad
            progress.update(len(places))
    return results, sorted(failed)


@ways_out()
def _submit(pool: ThreadPoolExecutor, *work) -> Future:
    return pool.submit(*work)


def work_ahead(items: Iterator[Result], depth: int) -> Iterator[Result]:
    """Yield the items while a thread prepares the next `depth` of them."""
    end = object()
    upcoming: deque[Future] = deque()
    with ThreadPoolExecutor(1, "diffqa-ahead") as worker:
        try:
            while True:
                while len(upcoming) < depth:
                    upcoming.append(_submit(worker, next, items, end))
                item = upcoming.popleft().result()
                if item is end:
                    return
                yield item
        finally:
            worker.shutdown(cancel_futures=True)
            items.close()


def read_ahead(
    rows: Sequence[Row],
    read: Callable[[Row], Result],
    depth: int,
    size: Callable[[Result], int] = lambda result: 1,
) -> Iterator[tuple[Row, Future[Result]]]:
    """Yield rows in order with the result of `read`, computed in the background.

    At most `depth` rows are read ahead, and none is started while the waiting ones
    amount to twice that by `size`, so long rows do not pile up.
    """
    upcoming: deque[tuple[Row, Future]] = deque()
    iterator = iter(rows)
    keep_memory()  # before there are threads with memory of their own
    with ThreadPoolExecutor(reader_threads(), "diffqa-read") as readers:
        try:
            while True:
                while len(upcoming) < depth and _waiting(upcoming, size) < 2 * depth:
                    row = next(iterator, None)
                    if row is None:
                        break
                    upcoming.append((row, _submit(readers, read, row)))
                if not upcoming:
                    return
                yield upcoming.popleft()
        finally:
            for _, future in upcoming:
                future.cancel()


def read_each(
    rows: Sequence[Row],
    read: Callable[[Row], Result],
    what: str,
    verbose: int = 0,
    *,
    failed: list[tuple[int, str]] | None = None,
    depth: int = _AHEAD,
) -> Iterator[Result]:
    """Yield the result of `read` for each row, in order, with a progress bar.

    A bad row raises or, with a list `failed`, becomes an entry (index, reason) there.
    """
    with tqdm(total=len(rows), unit="row", desc=what, disable=not verbose) as bar:
        for row, future in read_ahead(rows, read, depth):
            bar.update(1)
            try:
                result = future.result()
            except (ValueError, OSError) as error:
                if failed is None:
                    raise
                failed.append((row.index, str(error)))
                continue
            yield result


def put_or_disable(store: FeatureStore | None, entries: dict) -> FeatureStore | None:
    """Put entries into the store; stop using a store that cannot be written."""
    if store is None or not entries:
        return store
    try:
        store.put(entries)
    except OSError as error:
        warnings.warn(
            f"The feature store cannot be written; this call goes on without it. "
            f"{error}",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    return store


def _waiting(upcoming, size):
    done = [future for _, future in upcoming if future.done()]
    return sum(size(f.result()) for f in done if f.exception() is None)


def _split(rows: Sequence[Row]) -> list[list[int]]:
    """Row positions of each task."""
    together: dict[object, list[int]] = {}
    for place, row in enumerate(rows):
        source = row.source
        named = isinstance(source, (str, os.PathLike))
        together.setdefault(os.fspath(source) if named else id(source), []).append(
            place
        )
    tasks: list[list[int]] = [[]]
    for places in together.values():
        if len(tasks[-1]) >= _ROWS_PER_TASK:
            tasks.append([])
        tasks[-1] += places
    return tasks


def _process(rows, process):
    with parallel_config(n_jobs=1):
        return process(rows, lambda count: None)


def _refuse_shared_gpu(device, jobs):
    from diffqa_features._utils.devices import pick_device

    kind = pick_device(device).type
    backend, _ = get_active_backend()
    if kind != "cpu" and not backend.supports_sharedmem:
        raise ValueError(
            f"n_jobs asks for {jobs} processes, and each would load the backbone on "
            f"the same {kind} device. Use n_jobs=1 there (passes are batched), raise "
            "batch_size instead, or set device='cpu'."
        )
