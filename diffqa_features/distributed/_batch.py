"""One batch of a table in, its rows with what an estimator says of them out."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.utils import _safe_indexing

from diffqa_features._backbone.hub import MIRRORS
from diffqa_features._engine.request import prompt_columns
from diffqa_features._media.rows import as_rows
from diffqa_features._media.tables import is_missing
from diffqa_features._media.video.raw import COLUMNS as RAW_COLUMNS
from diffqa_features._media.video.raw import is_raw_video
from diffqa_features._store.store import FeatureStore, as_store
from diffqa_features._utils.files import expand_user, local_path
from diffqa_features._utils.urls import is_url

_REASON = "reason"
_FOLDERS = ("memory", "checkpoint_dir")
_MODELS = ("backbone", "vae", "motion_network", "text_model")
_ALIASES = {"tiny", "slowfast_r50", *MIRRORS}  # before folders of these names


class BatchExtractor:
    """Compute the features of one batch of a table: the function that engines map.

    An instance is small and picklable: it holds the estimator and no weights. In each
    process the backbone is loaded at the first batch and stays.

    Parameters
    ----------
    features : transformer
        `DiffusionQAFeatures`, `MotionFeatures`, a union of them, or any transformer of
        media rows that names its columns.
    media : str, default="path"
        Column of the table with the media rows. Prompts such as ``"{caption}"`` take
        their text from the other columns.
    keep : sequence of str, default=None
        Columns to pass on; one of them should identify the rows, since engines may
        change their order. None passes on all but bytes, arrays and nested values.

    Raises
    ------
    TypeError
        If `features` lacks the method that is called.

    See Also
    --------
    BatchPredictor : The same with the predictions of a fitted model.
    extract : Maps it with a given engine.

    Examples
    --------
    >>> from diffqa_features import DiffusionQAFeatures
    >>> from diffqa_features.datasets import load_sample_photos
    >>> from diffqa_features.distributed import BatchExtractor
    >>> photos = load_sample_photos()
    >>> batch = {"path": [*photos.filenames[:2], "missing.jpg"], "id": [1, 2, 3]}
    >>> features = DiffusionQAFeatures(kinds="alignment", image_size=64)
    >>> done = BatchExtractor(features)(batch)
    >>> list(done)[:3], len(done)
    (['path', 'id', 't50__down0.0__alignment__prompt0'], 35)
    >>> print(*done["reason"], sep="|")  # doctest: +ELLIPSIS
    ||no such file; ...
    """

    _method = "transform"
    _dtype = np.float32

    def __init__(self, features, media: str = "path", keep=None):
        # A table has a transform() too, but no parameters.
        if not (hasattr(features, self._method) and hasattr(features, "get_params")):
            other = BatchPredictor if self._method == "transform" else BatchExtractor
            hint = ""
            if hasattr(features, other._method) and hasattr(features, "get_params"):
                hint = f" {other.__name__} calls its {other._method}()."
            raise TypeError(
                f"{type(self).__name__} needs a scikit-learn estimator with "
                f"{self._method}(). Got {features!r:.200} instead.{hint}"
            )
        self.features = features
        self.media = media
        self.keep = keep
        self._folder = None  # in which relative paths start, if not in our own

    def __getstate__(self) -> dict:
        """What is sent to a worker, whose working directory is another one."""
        there = precisions(self.features)
        for name, value in self.features.get_params().items():
            last = name.rpartition("__")[2]
            if isinstance(value, FeatureStore):
                there[name] = as_store(value)
            if not isinstance(value, (str, os.PathLike)):
                continue
            if last in _FOLDERS:
                path = local_path(value, f"The {name!r} parameter")
            elif last in _MODELS and os.fspath(value) not in _ALIASES:
                path = Path(expand_user(value))
                if not path.exists():  # it is the name of a model
                    continue
            else:
                continue
            there[name] = str(path.absolute())
        features = self.features
        if there:
            features = copy.deepcopy(features).set_params(**there)
        folder = self._folder or str(Path.cwd())
        return {**vars(self), "features": features, "_folder": folder}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.features!r}, media={self.media!r})"

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are added, except ``reason``."""
        return [str(name) for name in self.features.get_feature_names_out()]

    def __call__(self, batch):
        """Compute one batch.

        Parameters
        ----------
        batch : dict of columns, DataFrame or pyarrow.Table
            N rows.

        Returns
        -------
        dict of ndarray, DataFrame or pyarrow.Table
            As `batch`, with N rows in their order: the columns kept, the new ones in
            float32 (float64 for predictions), and ``reason``, which is empty for good
            rows. A row that cannot be read has NaN and the reason.

        Raises
        ------
        ValueError
            If the batch lacks a column, or a parameter of the estimator is invalid.
        """
        table, restore = _as_frame(batch)
        missing = {self.media, *(self.keep or ())} - set(table.columns)
        if missing:
            raise ValueError(
                f"The batch has no column {', '.join(map(repr, sorted(missing)))}: "
                f"it has {', '.join(map(repr, table.columns))}."
            )
        values, reasons = self._compute(self._rows(table))
        names = self.columns
        kept = table[kept_columns(table, self.keep)].reset_index(drop=True)
        twice = set(kept.columns) & {*names, _REASON}
        if twice:
            raise ValueError(
                f"The column {sorted(twice)[0]!r} of the table would be replaced; "
                "rename it, or leave it out of 'keep'."
            )
        made = pd.DataFrame(values, columns=names)
        reason = pd.Series(reasons, name=_REASON, dtype=object)
        return restore(pd.concat([kept, made, reason], axis=1))

    def _sources(self, table: pd.DataFrame) -> list:
        """The media rows of a batch, as this process can open them."""
        return [self._here(source) for source in table[self.media]]

    @property
    def _texts(self) -> set[str]:
        """The columns that prompts name."""
        prompts = [
            value
            for name, value in self.features.get_params().items()
            if name.rpartition("__")[2] == "prompts" and value is not None
        ]
        return {name for each in prompts for name in prompt_columns(each)}

    def _cells(self, table: pd.DataFrame) -> pd.DataFrame:
        """The other cells of a batch that values depend on; None where they do not."""
        names = self._texts & ({*table.columns} - {self.media, "path"})
        found = table[sorted(names)].reset_index(drop=True)
        raw = [isinstance(x, str) and is_raw_video(x) for x in table[self.media]]
        for name in RAW_COLUMNS if any(raw) else ():
            if name in table.columns and name not in names:
                found[name] = [x if y else None for x, y in zip(table[name], raw)]
        return found

    def _here(self, source):
        if self._folder is None or is_url(source):
            return source
        if isinstance(source, Mapping) and is_missing(source.get("bytes")):
            return {**source, "path": self._here(source.get("path"))}
        if isinstance(source, (str, os.PathLike)) and os.fspath(source):
            return str(Path(self._folder, expand_user(source)))
        return source

    def _rows(self, table):
        others = table.drop(columns=[self.media, *{"path"} & set(table.columns)])
        rows = others.reset_index(drop=True)
        rows.insert(0, "path", pd.Series(self._sources(table), dtype=object))
        return rows

    def _compute(self, rows):
        # A copy: settings of the estimator that was handed in are its owner's.
        model = copy.copy(self.features)
        width = len(self.columns)
        if "on_error" not in model.get_params(deep=False):
            strict = {
                name: "raise"
                for name, value in model.get_params().items()
                if name.endswith("__on_error") and value != "raise"
            }
            if strict:  # or a step would hand on NaN, and nobody say why
                model = copy.deepcopy(model).set_params(**strict)
            call = getattr(model, self._method)
            return _without_bad(call, rows, width, self._dtype)
        call = getattr(model, self._method)
        model.set_params(on_error="nan")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\d+ of \d+ rows could not be read")
            values = np.asarray(call(rows), self._dtype).reshape(len(rows), width)
        reasons = [""] * len(rows)
        labels = as_rows(rows)
        for index, message in model.failed_:
            reasons[index] = message.removeprefix(f"{labels[index].label}: ")
        return values, reasons


class BatchPredictor(BatchExtractor):
    """Predict the quality of one batch of a table with a fitted model.

    Parameters
    ----------
    features : estimator
        A fitted Pipeline, learned model or scorer with ``predict``.
    media : str, default="path"
        Column of the table with the media rows.
    keep : sequence of str, default=None
        Columns to pass on. None passes on all but bytes, arrays and nested values.

    See Also
    --------
    BatchExtractor : The same with the columns of a transformer.

    Examples
    --------
    >>> from diffqa_features import load_scorer
    >>> from diffqa_features.datasets import load_sample_photos
    >>> from diffqa_features.distributed import BatchPredictor
    >>> predictor = BatchPredictor(load_scorer(), media="file")
    >>> done = predictor({"file": load_sample_photos().filenames[:2]})
    >>> list(done), bool((done["score"] > 5).all())
    (['file', 'score', 'reason'], True)
    """

    _method = "predict"
    _dtype = np.float64

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are added, but for ``reason``."""
        return ["score"]


def _as_frame(batch) -> tuple[pd.DataFrame, Callable]:
    """A batch as a DataFrame, and what turns a DataFrame into a batch of its type."""
    if isinstance(batch, pd.DataFrame):
        return batch, lambda table: table.set_index(batch.index)
    if hasattr(batch, "to_pandas"):
        return batch.to_pandas(), partial(pa.Table.from_pandas, preserve_index=False)
    table = pd.DataFrame({name: pd.Series(list(v)) for name, v in batch.items()})
    return table, lambda t: {name: t[name].to_numpy() for name in t.columns}


def precisions(features) -> dict[str, str]:
    """What each unset `dtype` stands for here, by name, so that all workers agree."""
    parts = {"": features} | {f"{n}__": p for n, p in features.get_params().items()}
    return {
        f"{name}dtype": part._precision()
        for name, part in parts.items()
        if hasattr(part, "_precision") and getattr(part, "dtype", "") in (None, "auto")
    }


def kept_columns(table: pd.DataFrame, keep: Sequence[str] | None) -> list[str]:
    """Names of the columns of a table that are passed on."""
    if keep is not None:
        return list(keep)
    return [name for name in table.columns if _is_plain(table[name])]


def _is_plain(column: pd.Series) -> bool:
    nested = (bytes, bytearray, memoryview, dict, list, np.ndarray)
    return column.dtype != object or not any(isinstance(v, nested) for v in column)


def _without_bad(
    call: Callable, rows: Sequence, width: int, dtype: type
) -> tuple[np.ndarray, list[str]]:
    """Call an estimator that raises at the first bad row, without those rows.

    A Pipeline hands NaN on to steps that refuse it, so rows are left out before.
    """
    values = np.full((len(rows), width), np.nan, dtype)
    reasons, places = [""] * len(rows), list(range(len(rows)))
    while places:
        try:
            found = call(_safe_indexing(rows, places))
        except (ValueError, OSError) as error:
            if not hasattr(error, "row_index"):
                raise
            reasons[places.pop(error.row_index)] = str(error.cause)
            continue
        values[places] = np.asarray(found, dtype).reshape(len(places), width)
        break
    return values, reasons
