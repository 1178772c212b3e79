"""Tiny files in: `diffqa extract`, killed and started again, and undisturbed, compared.

    python benchmarks/kills.py --files 100000 --kills 5

The command runs once to its end and once with `kill -9` at seeded moments, each time
followed by the same command. Both tables must be equal bit by bit. Its columns are the
cheapest ones, so the time is mostly what a file costs whatever is computed of it.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

CHEAP = ["--image-size", "32", "--blocks", "down0.0", "--kinds", "alignment"]
CHUNK = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="features", help="or a name in .parquet")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(Path(folder), arguments), indent=1))


def compare(folder, arguments):
    draw(folder / "pictures", arguments.files)
    whole, cut = (folder / name / arguments.out for name in ("whole", "cut"))
    begin = time.perf_counter()
    undisturbed = Command(folder / "pictures", whole)
    undisturbed.finish()
    seconds = time.perf_counter() - begin

    rng = np.random.default_rng(arguments.seed)
    chunks = -(-arguments.files // CHUNK)
    moments = np.sort(rng.integers(0, chunks, arguments.kills)).tolist()
    delays = rng.uniform(0, 0.5, arguments.kills).tolist()
    there, begin, rewritten = {}, time.perf_counter(), 0
    kept = []
    for moment, delay in zip(moments, delays):
        command = Command(folder / "pictures", cut)
        command.kill_after(moment, delay)
        now = finished(cut)
        rewritten += sum(now.get(name) != stamp for name, stamp in there.items())
        there = now
        kept.append(len(now))
    last = Command(folder / "pictures", cut)
    text = last.finish()
    if cut.is_dir():
        now = finished(cut)
        rewritten += sum(now.get(name) != stamp for name, stamp in there.items())
    pd.testing.assert_frame_equal(read(whole), read(cut), check_exact=True)
    return {
        "files": arguments.files,
        "kills": arguments.kills,
        "equal": True,
        "seconds undisturbed": round(seconds, 1),
        "seconds with kills": round(time.perf_counter() - begin, 1),
        "peak MiB": round(undisturbed.peak / 2**20),
        "peak MiB of the last": round(last.peak / 2**20),
        "files done at each kill": [CHUNK * count for count in kept],
        "files computed by the last": computed(text),
        "finished files computed again": CHUNK * rewritten,
    }


def draw(folder, count):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{number:07d}.png", compress_level=1)


class Command:
    """`diffqa extract` of a folder, running."""

    def __init__(self, pictures, out):
        self.out = out
        words = ["extract", pictures, "-o", out, "--chunk-size", CHUNK, *CHEAP]
        out.parent.mkdir(exist_ok=True)
        self.log = out.parent / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "diffqa_features.cli", *map(str, words)],
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            )

    def finish(self):
        """Wait for its end; returns what it said."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        text = self.log.read_text()
        if self.process.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(text)
        return text

    def kill_after(self, count, delay):
        """Kill it some time after so many chunks are there."""
        while sum(1 for _ in chunks_of(self.out)) < count:
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text())
            time.sleep(0.2)
        time.sleep(delay)
        self.process.kill()
        self.finish()


def finished(out):
    """The chunks that are written, each with what tells it from a later one."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in chunks_of(out)
    }


def chunks_of(out):
    yield from out.glob("part-*")
    yield from out.parent.glob(f"{out.name}.part/*.npz")


def computed(text):
    found = re.search(r"(\d+) computed now|\((\d+) of \d+ files computed", text)
    return int(found[1] or found[2])


def read(out):
    table = pd.read_parquet(out).sort_values("path", ignore_index=True)
    table["path"] = [Path(path).name for path in table["path"]]
    return table


if __name__ == "__main__":
    main()
