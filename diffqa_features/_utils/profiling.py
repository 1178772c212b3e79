"""Names for the parts of the work, heard by whoever watches; free while nobody does."""

from contextlib import ContextDecorator, contextmanager

_watchers = []


class timed(ContextDecorator):
    """Say that a part of the work goes on: ``with timed("vae"):`` or as a decorator.

    Stages nest: a watcher takes the innermost for the one at work.
    """

    def __init__(self, name: str):
        self.name = name

    def __enter__(self):
        for watcher in _watchers:
            watcher.enter(self.name)
        return self

    def __exit__(self, *exception):
        for watcher in _watchers:
            watcher.leave(self.name)


@contextmanager
def watched(watcher):
    """Tell ``watcher.enter(name)`` and ``watcher.leave(name)``, from every thread."""
    _watchers.append(watcher)
    try:
        yield watcher
    finally:
        _watchers.remove(watcher)
