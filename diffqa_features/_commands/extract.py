"""`diffqa extract`: files in, a table of features out; resumes after a kill."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet
from tqdm import tqdm

from diffqa_features import __version__
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._commands._chunks import Chunks
from diffqa_features._commands._estimator import (
    make_features,
    transform_files,
)
from diffqa_features._commands._folder import (
    extract_on_gpus,
    extract_to_folder,
    is_folder,
)
from diffqa_features._commands._inputs import collect_files
from diffqa_features._commands._outputs import check_output, note, report_bad
from diffqa_features._engine.request import prompt_columns
from diffqa_features._utils.files import whole_file
from diffqa_features._utils.parameters import MACHINE
from diffqa_features._utils.tables import quote_formulas


def run(args):
    """Run the command; argument errors are raised before any work."""
    if is_folder(args.out):
        if args.gpus is not None:
            return extract_on_gpus(args)
        features = make_features(args)
        return extract_to_folder(args, features, prompt_columns(features.prompts))
    if args.shard or args.prune or args.gpus:
        raise ValueError(
            "--shard, --prune and --gpus need a folder as --out, which several "
            f"processes can write. Got the file {args.out!r}; 'diffqa merge' makes one "
            "file of a folder."
        )
    out = check_output(args.out, tuple(_WRITERS), args.inputs)
    features = make_features(args)
    files = collect_files(
        args.inputs,
        path_column=args.path_column,
        recursive=args.recursive,
        columns=prompt_columns(features.prompts),
    )
    # From here on another command is told that this file is being written.
    with whole_file(out) as path:
        code, done = _extract(args, features, files, out, path)
    note(f"wrote {out}: {done}")
    return code


def _extract(args, features, files, out, path):
    """Write the table of `out` to `path`; returns (exit code, summary)."""
    settings = _settings(features)
    folder = out.with_name(out.name + ".part")
    chunks = Chunks(folder, settings, files, args.chunk_size)
    computed = _compute(chunks, features, args.quiet)

    finished = [chunks.load(number) for number in range(len(chunks))]
    if any(chunk is None for chunk in finished):
        raise RuntimeError(
            f"files or {chunks.folder} changed while they were worked on; run the same "
            "command again: what still fits is taken up."
        )
    matrices, goods, bad = zip(*finished)
    bad = [pair for pairs in bad for pair in pairs]
    if len(bad) == len(files):
        chunks.remove()  # nothing in it is worth going on from
    code = report_bad(bad, len(files), out, args.quote_formulas)
    names = files.index[np.concatenate(goods)].to_list()
    suffix = out.suffix.lower()
    if args.quote_formulas and suffix == ".csv":
        names = list(map(quote_formulas, names))
    matrix = np.concatenate(matrices)
    columns = features.get_feature_names_out().tolist()
    _WRITERS[suffix](path, names, matrix, columns, settings)
    chunks.remove()
    return code, (
        f"{matrix.shape[0]} rows x {matrix.shape[1]} features "
        f"({computed} of {len(files)} files computed now)"
    )


def _compute(chunks, features, quiet):
    """Compute the missing chunks; return the number of their files."""
    missing = [i for i in range(len(chunks)) if chunks.load(i) is None]
    total = len(chunks.files)
    todo = sum(len(chunks.rows(i)) for i in missing)
    if todo < total:
        note(f"going on in {chunks.folder}: {total - todo} of {total} files are done")
    with tqdm(
        total=total, initial=total - todo, unit="file", disable=quiet
    ) as progress:
        for number in missing:
            rows = chunks.rows(number)
            chunks.save(number, *transform_files(features, rows))
            progress.update(len(rows))
    return todo


def _settings(features):
    """Everything that determines the values, as JSON."""
    info = describe_backbone(features._backbone_name())
    parameters = {
        name: value
        for name, value in features.get_params().items()
        if name not in MACHINE
    }
    settings = {
        **parameters,
        "dtype": features._precision(),  # the default differs from machine to machine
        "backbone": info.name,
        "backbone_identity": info.identity,
        "backbone_commit": info.commit,
        "diffqa_features": __version__,
    }
    return json.loads(json.dumps(settings))


def _write_parquet(path, names, matrix, columns, settings):
    schema = pa.schema(
        [("path", pa.string()), *((name, pa.float32()) for name in columns)],
        metadata={"diffqa_features": json.dumps(settings)},
    )
    arrays = [pa.array(names, pa.string()), *(pa.array(column) for column in matrix.T)]
    parquet.write_table(pa.table(arrays, schema=schema), path)


def _write_csv(path, names, matrix, columns, settings):
    table = pd.DataFrame(matrix, columns=columns)
    table.insert(0, "path", names)
    table.to_csv(path, index=False)


def _write_npz(path, names, matrix, columns, settings):
    with path.open("wb") as file:
        np.savez(
            file,
            features=matrix,
            names=np.array(columns, dtype=str),
            paths=np.array(names, dtype=str),
            settings=json.dumps(settings),
        )


_WRITERS = {".parquet": _write_parquet, ".csv": _write_csv, ".npz": _write_npz}
