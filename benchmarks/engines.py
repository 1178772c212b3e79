"""One table, each engine: its overhead over plain batches; peak memory.

    python benchmarks/engines.py --rows 500 1500
    python benchmarks/engines.py --memory 1000 20000

Overhead is the time of `extract` with an engine that is already connected, over that of
the same batches in a loop, in one run and with one worker; the slope between the two
numbers of rows leaves out what each call starts. Memory is the peak of a process that
extracts so many rows itself and, with Dask, of client and worker.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from diffqa_features import DiffusionQAFeatures
from diffqa_features.distributed import BatchExtractor, extract

SIDE = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs=2, default=[500, 1500])
    parser.add_argument("--engines", nargs="+", default=["local", "dask", "ray"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+", metavar="ROWS")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return measure_memory(*arguments.child)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(
            Path(folder, "pictures"), max(arguments.memory or arguments.rows)
        )
        if arguments.memory:
            result = {
                f"{count} rows, MiB": {
                    engine: peaks_of(paths[:count], folder, engine)
                    for engine in ("local", "dask")
                }
                for count in arguments.memory
            }
        else:
            result = measure_time(paths, folder, arguments)
    print(json.dumps(result, indent=1))


def write_pictures(folder, count):
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        picture = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(picture).save(paths[-1])
    return paths


def features(side=SIDE, blocks="down*"):
    return DiffusionQAFeatures(
        image_size=side, blocks=blocks, kinds="alignment", device="cpu"
    )


def measure_time(paths, folder, arguments):
    extractor, size = BatchExtractor(features()), arguments.batch_size
    starts = {engine: connect(engine) for engine in arguments.engines}
    tables = [pd.DataFrame({"path": paths[:rows]}) for rows in arguments.rows]
    took = {
        engine: [] for engine in ["loop", *starts]
    }  # per repeat, those of each table
    for repeat in range(arguments.repeats + 1):  # the first one warms up
        for engine, times in took.items():
            clocks = [time.perf_counter()]
            for table in tables if repeat else [tables[0][:size]]:
                if engine == "loop":
                    for start in range(0, len(table), size):
                        extractor(table[start : start + size])
                else:
                    out = Path(folder, f"{engine}-{repeat}-{len(table)}")
                    extract(table, extractor, out, engine=engine, batch_size=size)
                clocks.append(time.perf_counter())
            if repeat:
                times.append(np.diff(clocks))
    for stop in starts.values():
        stop()
    each = {name: np.array(times) for name, times in took.items()}
    middle = {name: np.median(times, axis=0) for name, times in each.items()}
    slope = {name: times[1] - times[0] for name, times in middle.items()}
    return {
        "rows": arguments.rows,
        "seconds": {name: np.round(times, 1).tolist() for name, times in each.items()},
        "over the loop, all": {
            name: round(float(times[1] / middle["loop"][1]), 2)
            for name, times in middle.items()
        },
        "over the loop, per row": {
            name: round(float(each / slope["loop"]), 2) for name, each in slope.items()
        },
    }


def connect(engine):
    """Start an engine with one worker; return what stops it."""
    if engine == "dask":
        from dask.distributed import Client

        return Client(n_workers=1, threads_per_worker=1, dashboard_address=None).close
    if engine == "ray":
        import ray

        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
        return ray.shutdown
    return lambda: None


def peaks_of(paths, folder, engine):
    source = Path(folder, f"{len(paths)}.csv")
    pd.DataFrame({"path": paths}).to_csv(source, index=False)
    out = Path(folder, f"{engine}-{len(paths)}")
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(source), str(out), engine],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    return json.loads(done.stdout)


def measure_memory(source, out, engine):
    stop = connect(engine)
    extract(source, features(32, "down0.0"), out, engine=engine)
    peaks = {"process": peak()}
    if engine == "dask":
        from dask.distributed import get_client

        (worker,) = get_client().run(peak).values()
        peaks = {"client": peak(), "worker": worker}
    stop()
    print(json.dumps(peaks))


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
