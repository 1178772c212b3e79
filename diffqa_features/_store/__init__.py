"""What was computed once, kept on disk by content.

In: a key of 40 hexadecimal digits and an array. Out: the same array, to any process.
Open `store` first; `sqlite` is the file underneath: WAL mode, checksums, several
writers.
"""

from diffqa_features._store.store import FeatureStore

__all__ = ["FeatureStore"]
