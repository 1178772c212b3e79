"""On-disk cache of results, keyed by content.

In: a key of 40 hexadecimal digits and an array. Out: the same array, in any process.
Open `store` first; `sqlite` is the file underneath: WAL mode, checksums, several
writers.
"""

from diffqa_features._store.store import FeatureStore

__all__ = ["FeatureStore"]
