"""Trainings that end in the middle, by hooks of torch and a clock that runs ahead."""

import itertools
import os
import signal
import time
from contextlib import contextmanager

import torch
from child_processes import run_in_process
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)


class Interrupted(Exception):
    """What ends a training in the tests."""


@contextmanager
def interrupted_before_step(number, action=None):
    """Do `action` when a step of any optimizer would be the `number`-th (from 0).

    The default raises `Interrupted`.
    """
    taken = itertools.count()

    def look(optimizer, args, kwargs):
        if next(taken) == number:
            if action is None:
                raise Interrupted
            action()

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def counted_steps():
    """The learning rates of all steps of any optimizer."""
    taken = []

    def look(optimizer, args, kwargs):
        taken.append(optimizer.param_groups[0]["lr"])

    handle = register_optimizer_step_post_hook(look)
    try:
        yield taken
    finally:
        handle.remove()


def hours_pass(monkeypatch):
    """From now on each look at the clock is an hour after the last one.

    So whatever is done every few minutes is done after every step.
    """
    monkeypatch.setattr(time, "monotonic", itertools.count(0.0, 3600.0).__next__)


def train_and_die(fit, *arguments, step):
    """Run ``fit(*arguments)`` in a process that is killed before a step (from 0).

    Until then it writes a checkpoint after every step.
    """
    # Results follow the number of threads, so it is the one that we have.
    threads = torch.get_num_threads()
    code = run_in_process(_fit_until_killed, threads, step, fit, arguments)
    assert code == -signal.SIGKILL


def _fit_until_killed(threads, step, fit, arguments):
    torch.set_num_threads(threads)
    time.monotonic = itertools.count(0.0, 3600.0).__next__
    with interrupted_before_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        fit(*arguments)
