"""Named stages of the work, reported to watchers; free without any."""

from contextlib import ContextDecorator, contextmanager

_watchers = []


class timed(ContextDecorator):
    """Mark a stage of the work: ``with timed("vae"):`` or as a decorator.

    Stages nest: a watcher counts the innermost one as active.
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
    """Call ``watcher.enter(name)`` and ``watcher.leave(name)`` from every thread."""
    _watchers.append(watcher)
    try:
        yield watcher
    finally:
        _watchers.remove(watcher)
