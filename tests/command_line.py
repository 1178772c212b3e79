"""Helpers for the tests of `diffqa`: pictures, tables read back, processes."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

import diffqa_features

ROOT = Path(diffqa_features.__file__).parents[1]


def picture(seed, size=(64, 64)):
    """Smooth coloured noise, other for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def read(path):
    """(paths, matrix, names) of an extracted table of any format."""
    if path.suffix == ".npz":
        with np.load(path) as content:
            return (
                content["paths"].tolist(),
                content["features"],
                content["names"].tolist(),
            )
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    matrix = table.drop(columns="path").to_numpy(np.float32)
    return table["path"].tolist(), matrix, table.columns[1:].tolist()


def close(a, b):
    return np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def names_in(folder):
    """What lies in a folder, sorted."""
    return sorted(path.name for path in Path(folder).iterdir())


def python(*words):
    """Start Python with these arguments; it finds the package from any folder."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_command(words, log, act=None, passes=0):
    """A command in a process of its own, which writes its errors to `log`.

    Where `act` is given it is called when the UNet has been run so many times.
    """
    from diffusers import UNet2DConditionModel

    from diffqa_features.cli import main

    done = itertools.count()

    def look(module, args):
        if isinstance(module, UNet2DConditionModel) and next(done) == passes:
            act()

    if act is not None:
        register_module_forward_pre_hook(look)
    sys.stderr = log.open("w")
    sys.exit(main([str(word) for word in words]))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever():
    signal.pause()
