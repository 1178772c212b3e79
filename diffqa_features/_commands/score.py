"""`diffqa score`: a model and files in, predicted scores out."""

import sys

import pandas as pd
from sklearn.pipeline import Pipeline
from skops import io as skops_io
from tqdm import tqdm

from diffqa_features import TRUSTED_TYPES, DiffusionQAFeatures
from diffqa_features._commands._estimator import prompt_columns, transform_files
from diffqa_features._commands._inputs import collect_files
from diffqa_features._commands._outputs import check_output, note, report_bad
from diffqa_features._utils.files import local_path, whole_file
from diffqa_features._utils.tables import quote_formulas


def run(args):
    """Run the command."""
    out = None
    if args.out is not None:
        out = check_output(args.out, (".csv", ".tsv", ".parquet"), args.inputs)
    model = _load(args.model)
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
    files = collect_files(
        args.inputs,
        path_column=args.path_column,
        recursive=args.recursive,
        columns=prompt_columns(features),
    )
    if out is None:
        return _score(args, model, features, files)[0]
    # From here on another command is told that this file is being written.
    with whole_file(out) as path:
        code, table = _score(args, model, features, files, out)
        if args.quote_formulas and out.suffix.lower() != ".parquet":
            table = table.map(quote_formulas)
        if out.suffix.lower() == ".parquet":
            table.to_parquet(path, index=False)
        else:
            separator = "\t" if out.suffix.lower() == ".tsv" else ","
            table.to_csv(path, sep=separator, index=False)
    note(f"wrote {out}: {len(table)} scores")
    return code


def _score(args, model, features, files, out=None):
    """(exit code, table of paths and scores); printed where there is no `out`."""
    names, scores, bad = [], [], []
    # A bar would run through the lines on a terminal.
    quiet = args.quiet or (out is None and sys.stdout.isatty())
    with tqdm(total=len(files), unit="file", disable=quiet) as progress:
        for start in range(0, len(files), args.chunk_size):
            rows = files.iloc[start : start + args.chunk_size]
            matrix, good, failed = transform_files(features, rows)
            bad += failed
            progress.update(len(rows))
            if len(matrix) == 0:
                continue
            predicted = model[1:].predict(matrix).tolist()
            names += rows.index[good].to_list()
            scores += predicted
            if out is None:
                for name, score in zip(rows.index[good], predicted):
                    print(f"{name}\t{score:.6g}", flush=True)
    code = report_bad(bad, len(files), out, args.quote_formulas)
    return code, pd.DataFrame({"path": names, "score": scores})


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
