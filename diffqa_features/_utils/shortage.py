"""Shortage of memory or threads -> an error that says how to use less."""

from contextlib import contextmanager

MORE_MEMORY = (
    "choose a smaller batch_size or image_size or fewer processes (n_jobs), or use a "
    "machine with more memory."
)
NO_THREAD = "can't start new thread"
MORE_THREADS = (
    "The system lets this process start no further thread. Use fewer processes "
    "(n_jobs), set OMP_NUM_THREADS=1, or raise the limit ('ulimit -u'; pids.max of a "
    "container)."
)


@contextmanager
def ways_out():
    """Add a remedy to errors of Python and NumPy about memory and threads."""
    try:
        yield
    except MemoryError as error:
        # Those of this library say what to do already.
        if type(error) is MemoryError and str(error):
            raise
        raise MemoryError(f"{error or 'Out of memory'}; {MORE_MEMORY}") from error
    except RuntimeError as error:
        if NO_THREAD not in str(error):
            raise
        raise RuntimeError(MORE_THREADS) from error
