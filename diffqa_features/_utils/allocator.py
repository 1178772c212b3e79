"""Settings of the C library's allocator: memory that is kept for the next pass."""

import ctypes
import os
import sys
from functools import cache

# Of glibc's mallopt: nothing is mapped by itself, nothing is given back, and threads
# take from the same memory, where what one has freed serves another.
_KEEP = {
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
    "M_ARENA_MAX": (-8, 1),
}
# What Dask starts every worker with is no choice of the user's, and costs a quarter of
# the processor time of small pictures.
_OF_DASK = {"MALLOC_TRIM_THRESHOLD_": "65536"}


@cache
def keep_memory() -> bool:
    """Let the C library keep freed memory, once per process; whether it does.

    By default glibc returns large blocks to the system and asks for them again, page by
    page: of Stable Diffusion in float32 on a CPU, this is a sixth of the processor
    time, and of decoding photographs a fifth. Freed memory then stays with the process;
    its peak is as before. ``DIFFQA_KEEP_MEMORY=0`` in the environment leaves the C
    library as it is, as do settings of its own (``MALLOC_TRIM_THRESHOLD_``, ..., other
    than the one that Dask's workers start with) and other systems.
    """
    library = _glibc()
    if library is None or os.environ.get("DIFFQA_KEEP_MEMORY", "1") == "0":
        return False
    own = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("MALLOC_TRIM", "MALLOC_MMAP"))
    }
    if own and own != _OF_DASK:
        return False
    done = [library.mallopt(*setting) for setting in _KEEP.values()]
    return all(done)


def release_memory() -> None:
    """Give kept memory back, so that the system's figures are of memory in use."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") else None  # musl has none
