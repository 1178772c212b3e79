"""Two tables of `diffqa score` in, blocks of a page and a paired summary out."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

from diffqa_features._commands._inputs import read_table, table_files
from diffqa_features._commands._report.page import name_and_folder, shown
from diffqa_features._commands._report.pictures import LARGE, THUMB, encode, open_file
from diffqa_features._utils.files import local_path
from diffqa_features._utils.urls import redact_text
from diffqa_features.evaluation import paired_tests

_RESAMPLES = 2000


def join_tables(before, after, path_column):
    """What two tables have in common, lowest change first, and what only one has.

    Returns
    -------
    pairs : DataFrame
        Index: names. Columns: score, path and fault, each with ``_before`` and
        ``_after``; change.
    single : list of (str, str)
        Names, and why they are not compared.
    """
    tables = [_read(name, path_column) for name in (before, after)]
    for key in (_stem, _name, _place, _path):
        keyed = [table.set_axis(key(table.index)) for table in tables]
        if all(table.index.is_unique for table in keyed):
            break
    else:
        (twice, name), *_ = [
            (table.index[table.index.duplicated()][0], name)
            for name, table in zip((before, after), keyed)
            if not table.index.is_unique
        ]
        raise ValueError(
            f"{name!r} names {redact_text(repr(twice))} twice; keep one of these rows."
        )
    first, second = keyed
    pairs = first.merge(
        second, left_index=True, right_index=True, suffixes=("_before", "_after")
    )
    if pairs.empty:
        raise ValueError(
            f"No file of {before!r} has the name of one of {after!r}, endings and "
            "folders apart."
        )
    pairs["change"] = pairs["score_after"] - pairs["score_before"]
    single = [
        (shown(path), f"only {name} has a score of it")
        for one, other, name in ((first, second, before), (second, first, after))
        for path in one.loc[one.index.difference(other.index), "shown"]
    ]
    return pairs.sort_values("change", kind="stable"), single


def _read(name, path_column):
    table = read_table(name, path_column, ())
    if "score" not in table.columns:
        raise ValueError(
            f"{name!r} has no column 'score'; --compare takes two tables that 'diffqa "
            f"score' wrote. Columns: {', '.join(map(repr, table.columns))}."
        )
    score = pd.to_numeric(table["score"], errors="coerce").to_numpy(float)
    wrong = np.flatnonzero(~np.isfinite(score))
    if len(wrong):
        which = redact_text(repr(table[path_column][wrong[0]]))
        raise ValueError(
            f"{name!r}, row {wrong[0]} ({which}): the column 'score' must hold finite "
            f"numbers. Got {table['score'][wrong[0]]!r} instead."
        )
    blank = [row for row, path in enumerate(table[path_column]) if not _is_path(path)]
    if blank:
        raise ValueError(
            f"{name!r}, row {blank[0]}: the column {path_column!r} holds no path, but "
            f"{table[path_column][blank[0]]!r}. Drop the row, or name its file."
        )
    folder = local_path(name, "--compare").parent
    files = table_files(table, folder, path_column, ())
    fault = table["fault"].fillna("").to_list() if "fault" in table.columns else ""
    return files.assign(shown=files.index, score=score, fault=fault)


def _is_path(cell):
    return isinstance(cell, str) and cell.strip()


def _stem(names):
    return [Path(name).stem for name in names]


def _name(names):
    return [Path(name).name for name in names]


def _place(names):
    return [str(Path(path).with_suffix("")) for path in _path(names)]


def _path(names):
    """Paths from the folder that all have in common."""
    try:
        common = os.path.commonpath([Path(name).parent for name in names])
    except ValueError:  # of other disks, or some absolute
        return list(names)
    return [os.path.relpath(name, common or ".") for name in names]


def summarise(pairs):
    """Figures of the change: (what, value) in the order of reading."""
    change = pairs["change"].to_numpy()
    median = np.median(change)
    figures = [
        ("pairs", f"{len(change):,}"),
        ("better", f"{(change > 0).sum():,}"),
        ("worse", f"{(change < 0).sum():,}"),
        ("the same", f"{(change == 0).sum():,}"),
        ("median change", _signed(median)),
    ]
    if len(change) > 1 and np.ptp(change):
        interval = stats.bootstrap(
            (change,),
            np.median,
            n_resamples=_RESAMPLES,
            batch=max(1, 2_000_000 // len(change)),
            method="percentile",
            random_state=0,
        ).confidence_interval
        ends = f"{_signed(interval.low)} to {_signed(interval.high)}"
        figures.append(("95 % interval", ends))
        _, p_value = paired_tests(pairs["score_after"], pairs["score_before"])[
            "wilcoxon"
        ]
        figures.append(("Wilcoxon signed-rank p", f"{p_value:.2g}"))
    return figures


def _signed(value):
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def compared_blocks(pairs, *, large_views, reader, quiet):
    """Yield the blocks: rows with both scores, and both pictures where they open."""
    with tqdm(total=len(pairs), unit="pair", disable=quiet) as progress:
        for index, pair in enumerate(pairs.itertuples(index=False)):
            yield from _pair_blocks(index, pair, index < large_views, reader)
            progress.update()


def _pair_blocks(index, pair, large, reader):
    row = {
        **name_and_folder(pair.shown_after),
        "pictures": index,
        "before": round(pair.score_before, 4),
        "score": round(pair.score_after, 4),
        "change": round(pair.change, 4),
        "faults": [pair.fault_after] if pair.fault_after else [],
    }
    for prefix, path in (("before-", pair.path_before), ("", pair.path_after)):
        pixels = _middle_frame(path, reader)
        if pixels is None:
            continue
        row["size"] = [pixels.shape[1], pixels.shape[0]]
        yield f"{prefix}thumb-{index}", encode(pixels, THUMB)
        if large:
            yield f"{prefix}large-{index}", encode(pixels, LARGE)
    yield f"row-{index}", row


def _middle_frame(path, reader):
    """Pixels (H, W, 3) to know a file by; None if it is not there any more."""
    try:
        media = open_file(path, reader)
        (pixels,) = media.read(media.choose(max_frames=1))
    except (ValueError, OSError, TypeError):
        return None
    return pixels
