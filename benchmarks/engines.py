"""One table, each engine: its overhead over plain batches; peak memory of the client.

    python benchmarks/engines.py --rows 500
    python benchmarks/engines.py --memory 1000 20000

Overhead is the time of `extract` with an engine that is already connected, over the
same batches in a loop, in one run and with one worker. Memory is the peak of a process
that extracts so many rows here, features included.
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
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--engines", nargs="+", default=["local", "dask", "ray"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+", metavar="ROWS")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return measure_memory(*arguments.child)
    with tempfile.TemporaryDirectory() as folder:
        rows = max([arguments.rows, *(arguments.memory or [])])
        paths = write_pictures(Path(folder, "pictures"), rows)
        if arguments.memory:
            peaks = [peak_of(paths[:count], folder) for count in arguments.memory]
            result = dict(zip(map(str, arguments.memory), peaks))
        else:
            result = measure_time(paths[: arguments.rows], folder, arguments)
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


def features():
    return DiffusionQAFeatures(
        image_size=SIDE, blocks="down*", kinds="alignment", device="cpu"
    )


def measure_time(paths, folder, arguments):
    extractor, size = BatchExtractor(features()), arguments.batch_size
    starts = {engine: connect(engine) for engine in arguments.engines}
    table = pd.DataFrame({"path": paths})
    took = {engine: [] for engine in ["loop", *starts]}
    for repeat in range(arguments.repeats + 1):  # the first one warms up
        for engine, times in took.items():
            begin = time.perf_counter()
            if engine == "loop":
                for start in range(0, len(table), size):
                    extractor(table[start : start + size])
            else:
                out = Path(folder, f"{engine}-{repeat}")
                extract(table, extractor, out, engine=engine, batch_size=size)
            if repeat:
                times.append(time.perf_counter() - begin)
    for stop in starts.values():
        stop()
    plain = float(np.median(took["loop"]))
    return {
        "rows": len(paths),
        "seconds": {name: np.round(times, 2).tolist() for name, times in took.items()},
        "over the loop": {
            name: round(float(np.median(times)) / plain, 3)
            for name, times in took.items()
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


def peak_of(paths, folder):
    source = Path(folder, f"{len(paths)}.csv")
    pd.DataFrame({"path": paths}).to_csv(source, index=False)
    words = [str(source), str(Path(folder, f"out-{len(paths)}"))]
    done = subprocess.run(
        [sys.executable, __file__, "--child", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    return int(done.stdout)


def measure_memory(source, out):
    extract(source, features(), out)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
