"""A fitted estimator and media in, the cost of a prediction by stage out."""

import copy
import platform
import time
from contextlib import ExitStack
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import Interval, validate_params

from diffqa_features._media.rows import take_rows
from diffqa_features._utils.profiling import timed, watched
from diffqa_features.evaluation._extraction import cut, memories
from diffqa_features.evaluation._protocol import check_methods, describe
from diffqa_features.evaluation._table import EvaluationTable

# In the order in which data meets them.
_STAGES = ("decode", "vae", "text", "unet", "pool", "regress")
_PERCENTILES = (50, 90, 99)


@validate_params(
    {
        "n_repeats": [Interval(Integral, 1, None, closed="left")],
        "n_warmup": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def efficiency(estimator, X, *, n_repeats=20, n_warmup=2):
    """Measure the cost of a prediction: time, parameters, operations, memory.

    Parameters
    ----------
    estimator : estimator or dict of str to estimator
        Fitted regressor on media, or a transformer, or several by name. Any `memory` is
        ignored, so that computation is measured rather than cache look-ups.
    X : list, array, Series or DataFrame of N media rows
        Pictures or videos. Latency is measured row by row, cycling through them;
        throughput over all rows in one call.
    n_repeats : int, default=20
        Number of rows timed for the latency, and as many again for the stages.
    n_warmup : int, default=2
        Number of untimed rows before, which load weights and select kernels.

    Returns
    -------
    EvaluationTable
        Its `frame` has one row per method and stage, and one for the ``total``:

        - ``latency_p50_ms``, ``latency_p90_ms``, ``latency_p99_ms``: latency of one
          row;
        - ``share``: fraction of the mean time of a row, in [0, 1];
        - ``parameters``: parameters of the torch modules involved, each counted once;
        - ``gmac``: 1e9 multiply-accumulates of one row (the first), half of what
          torch's own counter reports as FLOPs;
        - ``peak_mib``: peak memory within the stage. On a CUDA device, the memory
          allocated by torch; else the resident memory of the process, Python and
          libraries included (Linux only);
        - ``images_per_second``: throughput of one call over all of X; for the total
          only.

        Stages: ``decode`` (read, decode, resize), ``vae``, ``text`` (prompts, once per
        call), ``unet``, ``pool``, ``regress`` (all Pipeline steps after the stateless
        ones) and ``other``. An estimator that reports no stages only has ``regress`` or
        ``other``.

    Raises
    ------
    ValueError
        If X is empty or a parameter is invalid.
    NotFittedError
        If the estimator is not fitted.

    Notes
    -----
    The total is timed without instrumentation. Stages are timed in separate runs that
    synchronise a CUDA device at every change of stage, so their sum is somewhat larger.
    Stages do not overlap: pooling inside the UNet's pass counts as ``pool``. Operations
    are counted in another run by
    :class:`torch.utils.flop_counter.FlopCounterMode` (matrix products, convolutions,
    attention; not element-wise work). scikit-learn's regressors are timed but have no
    ``parameters`` or ``gmac``.

    Work in other threads of the process would be counted too: run nothing else in it.

    Examples
    --------
    >>> from diffqa_features import DiffusionQAFeatures, datasets, evaluation
    >>> photos = datasets.load_sample_photos(image_size=64).data
    >>> features = DiffusionQAFeatures(image_size=64).fit()
    >>> table = evaluation.efficiency(features, photos[:2], n_repeats=2)
    >>> table.frame["stage"].tolist()
    ['decode', 'vae', 'text', 'unet', 'pool', 'other', 'total']
    >>> float(table.frame["gmac"].iloc[-1].round(2))
    0.43
    """
    methods = check_methods(estimator)
    if not len(X):
        raise ValueError("X holds no media rows: nothing to measure.")
    n_rows = min(len(X), max(n_repeats, n_warmup))
    rows = [take_rows(X, [i]) for i in range(n_rows)]
    tables = [
        _measure(_Call(each), X, rows, n_repeats, n_warmup).assign(method=name)
        for name, each in methods.items()
    ]
    frame = pd.concat(tables, ignore_index=True)
    frame = frame[["method", *(c for c in frame.columns if c != "method")]]
    facts = describe(
        methods,
        None,
        data=f"{len(X)} rows",
        timing=f"{n_repeats} calls of one row after {n_warmup} to warm up",
        **_machine(),
    )
    del facts["mapping"]
    return EvaluationTable(frame, facts)


class _Call:
    """The timed call: ``predict`` (or ``transform``) without memory, in two parts."""

    def __init__(self, estimator):
        estimator = _without_memory(estimator)
        self.readers, self.rest = cut(estimator)
        last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
        self.verb = "predict" if hasattr(last, "predict") else "transform"

    def __call__(self, X):
        for reader in self.readers:
            X = reader.transform(X)
        verb = getattr(self.rest, self.verb)
        if not self.readers:
            return verb(X)
        with timed("regress"):
            return verb(X)


def _without_memory(estimator):
    """Shallow copy that shares the fitted state, without any store in any part."""
    if type(estimator) in (list, tuple):
        return type(estimator)(map(_without_memory, estimator))
    if not isinstance(estimator, BaseEstimator):
        return estimator
    estimator = copy.copy(estimator)
    parts = {name: _without_memory(part) for name, part in vars(estimator).items()}
    vars(estimator).update(parts)
    if "memory" in memories(estimator):
        estimator.set_params(memory=None)
    return estimator


def _measure(call, X, rows, n_repeats, n_warmup) -> pd.DataFrame:
    # torch loads here.
    from diffqa_features.evaluation._meters import ClockMeter, CostMeter

    turns = [rows[i % len(rows)] for i in range(n_repeats)]
    for row in (rows * n_warmup)[:n_warmup]:
        call(row)
    whole = [_timed(call, row) for row in turns]
    throughput = len(X) / min(_timed(call, X) for _ in range(2))
    clocks = []
    for row in turns:
        with watched(ClockMeter()) as clock:
            seconds = _timed(call, row)
        clock.seconds["other"] = max(0.0, seconds - sum(clock.seconds.values()))
        clocks.append(clock.seconds)
    with ExitStack() as stack:
        costs = stack.enter_context(CostMeter())
        stack.enter_context(watched(costs))
        call(rows[0])
    seen = {name for seconds in clocks for name in seconds}
    order = [s for s in _STAGES if s in seen] + sorted(seen - {*_STAGES, "other"})
    times = {s: [c.get(s, 0.0) for c in clocks] for s in [*order, "other"]}
    mean = sum(np.mean(values) for values in times.values())
    lines = [
        {
            **_percentiles(name, values),
            "share": np.mean(values) / mean,
            **costs.of(name),
            "images_per_second": np.nan,
        }
        for name, values in times.items()
    ]
    total = {"share": 1.0, **costs.of(None), "images_per_second": throughput}
    return pd.DataFrame([*lines, {**_percentiles("total", whole), **total}])


def _timed(call, X) -> float:
    from diffqa_features.evaluation._meters import Peak

    Peak.wait()
    start = time.perf_counter()
    call(X)
    Peak.wait()
    return time.perf_counter() - start


def _percentiles(name, seconds) -> dict:
    values = np.percentile(seconds, _PERCENTILES) * 1000
    times = {f"latency_p{p}_ms": v for p, v in zip(_PERCENTILES, values)}
    return {"stage": name, **times}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _machine() -> dict[str, str]:
    import torch

    from diffqa_features.evaluation._meters import Peak

    on_cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_cuda else _processor()
    return {
        "device": f"{device}, {torch.get_num_threads()} CPU threads",
        "memory": Peak.kind(),
        "torch": torch.__version__,
    }
