"""Rows of a table on many processes or machines, with an engine that people have.

In: a table of paths (or other media rows) and an estimator; or one batch of it.
Out: a folder of Parquet files, one row per row of the table, bad ones with a reason.
Open first: `_extract.py`, then `_batch.py`, the one function that every engine maps.
The engines' libraries are extras and load inside their function.
"""

from diffqa_features.distributed._batch import BatchExtractor, BatchPredictor
from diffqa_features.distributed._extract import extract
from diffqa_features.distributed._parts import read_parts

__all__ = ["BatchExtractor", "BatchPredictor", "extract", "read_parts"]
