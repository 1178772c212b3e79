"""Helpers that are independent of media and models.

In: bytes, keys, functions over batches, file names. Out: hashes, atomically written
files, devices, batches that fit into memory, timings. Nothing here imports another
room. Open `hashing` first: everything stored or seeded uses it.
"""
