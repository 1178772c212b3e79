"""A function over batches, retried in halves when memory runs out."""

from __future__ import annotations

import logging

import torch

from diffqa_features._utils.allocator import release_memory

log = logging.getLogger(__name__)


WAYS_OUT = "a smaller image_size, dtype='float16' or 'bfloat16', or another device"


def in_halves(run, items, size, ways_out=WAYS_OUT):
    """Run over chunks of ``size``; when out of memory, halve the size and continue.

    Returns the results in order and the size that worked.
    """
    results, start = [], 0
    while start < len(items):
        chunk = items[start : start + size]
        failed = False
        try:
            results.append(run(chunk))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(chunk) == 1:
                if "primitive" in str(error):
                    raise  # oneDNN does not say whether memory was the reason
                raise MemoryError(
                    f"Not even a batch of one fits into memory. Choose {ways_out}."
                ) from error
            failed = True
        # Outside the handler, where the failed attempt's tensors can be freed.
        if failed:
            size = max(1, len(chunk) // 2)
            log.warning("Out of memory: going on with batches of %d.", size)
            release_memory()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        else:
            start += len(chunk)
    return results, size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says so; torch and oneDNN have no class of their own for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    signs = "out of memory", "can't allocate memory", "could not create a primitive"
    return any(sign in text for sign in signs)
