"""`diffqa score`: files in, predicted scores out; by the shipped scorer or a model."""

import sys

import pandas as pd
from sklearn.pipeline import Pipeline
from skops import io as skops_io
from tqdm import tqdm

from diffqa_features import TRUSTED_TYPES, DiffusionQAFeatures, load_scorer
from diffqa_features._commands._estimator import (
    check_name,
    prompt_columns,
    transform_files,
)
from diffqa_features._commands._inputs import collect_files
from diffqa_features._commands._outputs import check_output, note, report_bad
from diffqa_features._media.remote import redact_url
from diffqa_features._utils.files import local_path, whole_file
from diffqa_features._utils.tables import quote_formulas


def run(args):
    """Run the command."""
    out = None
    if args.out is not None:
        out = check_output(args.out, (".csv", ".tsv", ".parquet"), args.inputs)
    model, inputs = args.model, args.inputs
    if model is None and inputs[0].lower().endswith(".skops"):
        model, *inputs = inputs  # as it was written when there was no other way
        if not inputs:
            raise ValueError(f"{model!r} is a model; give INPUTs too.")
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
    note(f"wrote {out}: {len(table)} scores")
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
                    print(f"{name}\t{score:.6g}", flush=True)
    code = report_bad(bad, len(files), out, args.quote_formulas)
    return code, pd.concat(tables, ignore_index=True)


def _with_model(args, name):
    """What predicts a table of files, and the columns that it needs."""
    model = _load(name)
    features = model[0].set_params(
        reader=args.reader or "auto",
        device=args.device,
        batch_size=args.batch_size,
        n_jobs=args.n_jobs,
        memory=args.memory,
        on_error="raise" if args.on_error == "raise" else "nan",
        verbose=0,
    )
    features.fit()

    def predict(rows):
        matrix, good, failed = transform_files(features, rows)
        scores = model[1:].predict(matrix).tolist() if len(matrix) else []
        return pd.DataFrame({"path": rows.index[good], "score": scores}), failed

    return predict, prompt_columns(features)


def _with_scorer(args):
    """The same with the shipped scorer, which needs no columns."""
    scorer = load_scorer(device=args.device)

    def predict(rows):
        names, found, failed = [], [], []
        for name, path in rows["path"].items():
            try:
                check_name(name)
                # As a table, which is trusted less than a list.
                one = pd.DataFrame({"path": [path]}, dtype=object)
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


def _load(name):
    path = local_path(name, "MODEL")
    if not path.is_file():
        raise ValueError(f"There is no model {name!r}.")
    try:
        unknown = set(skops_io.get_untrusted_types(file=path)) - set(TRUSTED_TYPES)
    except Exception as error:  # skops raises many types on damage
        raise ValueError(f"{name!r} is not a model of 'diffqa fit'.") from error
    ours = sorted(kind for kind in unknown if kind.startswith("diffqa_features."))
    if ours:
        raise ValueError(
            f"{name!r} was saved by another version of diffqa_features, which had "
            f"{ours[0]}. Fit the model again with 'diffqa fit'."
        )
    if unknown:
        raise ValueError(
            f"{name!r} holds types that are not trusted: {', '.join(sorted(unknown))}. "
            "If you know where it comes from, load it in Python with skops.io.load."
        )
    model = skops_io.load(path, trusted=list(TRUSTED_TYPES))
    if not isinstance(model, Pipeline) or not isinstance(model[0], DiffusionQAFeatures):
        raise ValueError(
            f"{name!r} is not a Pipeline that begins with DiffusionQAFeatures, as "
            "'diffqa fit' writes it. Use its predict in Python."
        )
    return model
