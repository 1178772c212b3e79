"""`diffqa score`: files in, predicted scores out; by the shipped scorer or a model."""

import sys

import pandas as pd
from tqdm import tqdm

from diffqa_features import load_scorer
from diffqa_features._commands._estimator import (
    check_name,
    transform_files,
)
from diffqa_features._commands._inputs import collect_files
from diffqa_features._commands._models import (
    NO_PASSES,
    load_model,
    refuse,
    split_model,
)
from diffqa_features._commands._outputs import (
    check_output,
    note,
    one_line,
    report_bad,
)
from diffqa_features._engine.request import prompt_columns
from diffqa_features._media.remote import redact_url
from diffqa_features._utils.allocator import keep_memory
from diffqa_features._utils.files import whole_file
from diffqa_features._utils.tables import quote_formulas


def run(args):
    """Run the command."""
    out = None
    if args.out is not None:
        out = check_output(args.out, (".csv", ".tsv", ".parquet"), args.inputs)
    model, inputs = split_model(args)
    predict, columns = _with_scorer(args) if model is None else _with_model(args, model)
    files = collect_files(
        inputs,
        path_column=args.path_column,
        recursive=args.recursive,
        columns=columns,
    )
    if out is None:
        return _score(args, predict, files)[0]
    # From here on another command is told that this file is being written.
    with whole_file(out) as path:
        code, table = _score(args, predict, files, out)
        if args.quote_formulas and out.suffix.lower() != ".parquet":
            table = table.map(quote_formulas)
        if out.suffix.lower() == ".parquet":
            table.to_parquet(path, index=False)
        else:
            separator = "\t" if out.suffix.lower() == ".tsv" else ","
            table.to_csv(path, sep=separator, index=False)
    note(f"wrote {out}: {len(table)} score{'s' * (len(table) != 1)}")
    return code


def _score(args, predict, files, out=None):
    """(exit code, table of paths and scores); printed if there is no `out`."""
    tables, bad = [], []
    # A bar would run through the lines on a terminal.
    quiet = args.quiet or (out is None and sys.stdout.isatty())
    with tqdm(total=len(files), unit="file", disable=quiet) as progress:
        for start in range(0, len(files), args.chunk_size):
            rows = files.iloc[start : start + args.chunk_size]
            found, failed = predict(rows)
            bad += failed
            progress.update(len(rows))
            if len(found):
                tables.append(found)
            if out is None:
                for name, score in zip(found["path"], found["score"]):
                    print(f"{one_line(name)}\t{score:.6g}", flush=True)
    code = report_bad(bad, len(files), out, args.quote_formulas)
    return code, pd.concat(tables, ignore_index=True)


def _with_model(args, name):
    """What predicts a table of files, and the columns that it needs."""
    model = load_model(name, args)
    features = model[0]

    def predict(rows):
        matrix, good, failed = transform_files(features, rows)
        scores = model[1:].predict(matrix).tolist() if len(matrix) else []
        return pd.DataFrame({"path": rows.index[good], "score": scores}), failed

    return predict, prompt_columns(features.prompts)


def _with_scorer(args):
    """The same with the shipped scorer, which needs no columns."""
    refuse(args, ("batch_size", "n_jobs", "memory"), NO_PASSES)
    keep_memory()
    scorer = load_scorer(device=args.device, reader=args.reader or "auto")

    def predict(rows):
        names, found, failed = [], [], []
        for place, name in enumerate(rows.index):
            try:
                check_name(name)
                # As a table, which is trusted less than a list.
                one = rows.iloc[[place]].reset_index(drop=True)
                found.append(scorer.assess(one))
                names.append(name)
            except (ValueError, OSError, TypeError) as error:
                reason = getattr(error, "cause", str(error))
                if args.on_error == "raise":
                    name = redact_url(name) or "(no path)"
                    raise RuntimeError(f"{name}: {reason}") from error
                failed.append((name, str(reason)))
        if not found:
            return pd.DataFrame({"path": [], "score": []}), failed
        table = pd.concat(found)
        faults = table.drop(columns=["jod", "std"])
        likely = faults.idxmax(axis=1).where(faults.max(axis=1) >= 0.5, "")
        columns = {"path": names, "score": table["jod"], "std": table["std"]}
        return pd.DataFrame({**columns, "fault": likely}), failed

    return predict, ()
