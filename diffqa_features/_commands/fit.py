"""`diffqa fit`: a table of paths and scores in, a model that skops can load out."""

import tempfile
from contextlib import contextmanager

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from skops import io as skops_io

from diffqa_features import metrics
from diffqa_features._commands._estimator import (
    make_features,
    transform_files,
)
from diffqa_features._commands._inputs import read_table, table_files
from diffqa_features._commands._outputs import check_output, note, report_bad
from diffqa_features._engine.request import prompt_columns
from diffqa_features._media.remote import redact_url
from diffqa_features._utils.checks import refuse_misread
from diffqa_features._utils.files import local_path, whole_file
from diffqa_features._utils.groups import check_groups
from diffqa_features._utils.urls import redact_text
from diffqa_features.evaluation._leakage import identities

_SCORERS = {
    "srcc": metrics.srcc_scorer,
    "plcc": metrics.plcc_scorer,
    "rmse": metrics.rmse_scorer,
}


def run(args):
    """Run the command."""
    out = check_output(args.out, (".skops",), [args.table])
    features = make_features(args)
    timesteps = [(t,) for t in args.grid_timesteps or ()] or [features.timesteps]
    grid = {"features__timesteps": timesteps, "svr__C": args.C}
    # Features of all timesteps in one go: a picture is read and encoded once.
    every_t = dict.fromkeys(t for group in timesteps for t in np.atleast_1d(group))
    features.set_params(timesteps=tuple(map(int, every_t))).fit()
    files, y, groups = _read(args, prompt_columns(features.prompts))
    # From here on another command is told that this file is being written.
    with whole_file(out) as path:
        code = _fit(args, features, files, y, groups, grid, out, path)
    note(f"wrote {out}")
    return code


def _fit(args, features, files, y, groups, grid, out, path):
    """Write the model of `out` to `path`; the exit code."""
    with _store_folder(args.memory) as memory:
        features.set_params(memory=memory)
        _, good, bad = transform_files(
            clone(features).set_params(verbose=0 if args.quiet else 1), files
        )
        code = report_bad(bad, len(files), out, args.quote_formulas)
        files, y = files[good], y[good]
        groups = None if groups is None else groups[good]
        cv = _splitter(args, len(files), groups)
        model = Pipeline(
            [
                ("features", features.set_params(n_jobs=None)),
                ("scale", StandardScaler()),
                ("svr", SVR()),
            ]
        )
        search = GridSearchCV(model, grid, scoring=_SCORERS, refit="srcc", cv=cv)
        search.fit(files, y, groups=groups)
    _show(search, cv, len(files), args.group_column)
    # What belongs to this machine and this run stays here.
    best = search.best_estimator_.set_params(
        features__memory=None,
        features__device=None,
        features__batch_size=None,
        features__on_error="raise",
    )
    skops_io.dump(best, path)
    return code


def _read(args, columns):
    table = read_table(
        args.table,
        args.path_column,
        columns,
        target_column=args.target_column,
        group_column=args.group_column,
    )
    if table.empty:
        raise ValueError(f"{args.table!r} has no rows.")
    scores = table[args.target_column]
    refuse_misread(scores, f"{args.target_column!r} of {args.table!r}")
    y = pd.to_numeric(scores, errors="coerce").to_numpy(float)
    wrong = np.flatnonzero(~np.isfinite(y))
    if len(wrong):
        which = redact_text(repr(table[args.path_column][wrong[0]]))
        raise ValueError(
            f"{args.table!r}, row {wrong[0]} ({which}): the column "
            f"{args.target_column!r} must hold finite numbers. Got "
            f"{table[args.target_column][wrong[0]]!r} instead."
        )
    folder = local_path(args.table, "TABLE").parent
    files = table_files(table, folder, args.path_column, columns)
    groups = None
    if args.group_column:
        groups = check_groups(table[args.group_column], f" of {args.table!r}")
        groups = groups.astype(str).astype(object)
    _refuse_repeated(args, files, groups)
    return files, y, groups


@contextmanager
def _store_folder(memory):
    """The user's feature store, or a temporary one: all folds share every pass."""
    if memory is not None:
        yield memory
    else:
        with tempfile.TemporaryDirectory(prefix="diffqa-fit-") as folder:
            yield folder


def _splitter(args, n_rows, groups):
    if args.folds < 2:
        raise ValueError(f"--folds must be at least 2. Got {args.folds} instead.")
    if groups is not None:
        n_groups = len(set(groups))
        if n_groups < 2:
            raise ValueError(
                f"--group-column {args.group_column!r} holds a single group; nothing "
                "can be kept apart from it."
            )
        cv = GroupKFold(min(args.folds, n_groups))
        smallest = min(len(test) for _, test in cv.split(groups, groups=groups))
        if smallest < 2:
            raise ValueError(
                f"{n_rows} rows in {n_groups} groups: in {cv.get_n_splits()} folds, "
                "one has a single row, of which nothing can be ranked. Pass fewer "
                "--folds, or more rows."
            )
        return cv
    if n_rows < 2 * args.folds:
        raise ValueError(
            f"{n_rows} rows are too few for {args.folds} folds of at least two; pass "
            "more, or fewer --folds."
        )
    note(
        "no --group-column: versions of one photograph may stand on both sides of a "
        "split, and the scores below be too good"
    )
    return KFold(args.folds, shuffle=True, random_state=0)


def _refuse_repeated(args, files, groups):
    """Raise if a file could be on both sides of a fold: scores would be too good."""
    seen = {}
    for row, medium in enumerate(identities(files)):
        first = row if medium is None else seen.setdefault(medium, row)
        if first != row and (groups is None or groups[first] != groups[row]):
            which = redact_url(files.index[row])
            raise ValueError(
                f"{args.table!r}: row {first} and row {row} are the same file "
                f"({which}), and may stand on both sides of a fold. Keep one of them, "
                "or put all rows of a file into one group of a --group-column."
            )


def _show(search, cv, n_rows, group_column):
    by = f", by {group_column!r}" if group_column else ""
    print(f"cross-validation: {n_rows} rows, {cv.get_n_splits()} folds{by}")
    print("mean over folds ± their standard deviation\n")
    print(f"  {'timesteps':<12}{'C':>8}{'SRCC':>17}{'PLCC':>17}{'RMSE':>17}")
    results = search.cv_results_
    for row, parameters in enumerate(results["params"]):
        timesteps = np.atleast_1d(parameters["features__timesteps"])
        cells = [
            # The scorer of an error gives its negative.
            f"{sign * results[f'mean_test_{name}'][row]:.3f}"
            f" ± {results[f'std_test_{name}'][row]:.3f}"
            for name, sign in (("srcc", 1), ("plcc", 1), ("rmse", -1))
        ]
        mark = "*" if row == search.best_index_ else " "
        print(
            f"{mark} {' '.join(map(str, timesteps)):<12}{parameters['svr__C']:>8g}"
            + "".join(f"{cell:>17}" for cell in cells)
        )
    if len(results["params"]) > 1:
        print("\n* best SRCC, chosen on these very folds; fitted to all rows")
