"""Real processes for the tests of the store, and values that prove themselves."""

import inspect
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from numpy.random import default_rng  # now: later a thread could be at it in a fork

HERE = Path(__file__).parent
# What most tests import: once for all the processes of `run_in_process`.
_PRELOADED = [
    "diffqa_features",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "matplotlib.pyplot",
    "pytest",
    "sklearn.model_selection",
    "sklearn.svm",
    "transformers.models.clip.modeling_clip",
]
IMPORTS = """
import os, random, resource, signal, sys, threading, time, warnings
from pathlib import Path
import numpy as np
from child_processes import spawn, value_of, wait_until, wrong_in
from diffqa_features._store.store import FeatureStore
"""


def value_of(key):
    """What must lie under a key: dtype, shape and numbers follow from it alone."""
    rng = default_rng(list(key.encode()))
    dtype = ["f4", "f8", "i2", "u1"][rng.integers(4)]
    shape = tuple(int(n) for n in rng.integers(1, 20, rng.integers(0, 4)))
    return rng.integers(0, 200, shape).astype(dtype)


def wrong_in(found):
    """Keys whose value is not theirs."""
    expected = {key: value_of(key) for key in found}
    return [
        key
        for key, value in found.items()
        if (value.dtype, value.shape) != (expected[key].dtype, expected[key].shape)
        or not np.array_equal(value, expected[key])
    ]


def spawn(work, *arguments):
    """A forked child that works and ends with what it returns as exit code."""
    pid = os.fork()
    if pid:
        return pid
    try:
        code = work(*arguments) or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def wait_until(condition, seconds=20):
    """Look again and again; an error where it is still not so after a long time."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"not so after {seconds} seconds")
        time.sleep(0.002)


def start_process(function, *arguments):
    """Call a module's function in a process of its own, which is returned.

    The process is a fork of one that has done nothing but import: a new one would
    spend ten seconds on torch and diffusers alone.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    child = context.Process(target=function, args=arguments)
    child.start()
    return child


def run_in_process(function, *arguments):
    """The exit code of such a process."""
    child = start_process(function, *arguments)
    child.join()
    return child.exitcode


def run_script(script, *arguments, code=0):
    """Output of a script in a process of its own, which must end with `code`.

    The script forks its helpers itself: a process with torch's threads must not.
    """
    child = subprocess.run(
        [sys.executable, "-c", IMPORTS + inspect.cleandoc(script)]
        + [str(argument) for argument in arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    assert child.returncode == code
    return child.stdout
