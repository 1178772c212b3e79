"""Small tools that know nothing of media or models.

In: bytes, keys, functions over batches, file names. Out: hashes, whole files, devices,
batches that fit into memory, timings. Nothing here imports another room. Open `hashing`
first: everything stored or seeded goes through it.
"""
