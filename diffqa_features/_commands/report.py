"""`diffqa report`: files in, one HTML page out; or two tables of scores, compared."""

from pathlib import Path

from diffqa_features._commands._inputs import collect_files
from diffqa_features._commands._models import split_model
from diffqa_features._commands._outputs import check_output, note, report_bad
from diffqa_features._commands._report.comparison import (
    compared_blocks,
    join_tables,
    summarise,
)
from diffqa_features._commands._report.judges import ModelJudge, ScorerJudge
from diffqa_features._commands._report.page import shown, write_page
from diffqa_features._commands._report.rows import ReportRows
from diffqa_features._utils.files import whole_file


def run(args):
    """Run the command."""
    tables = args.compare or []
    if bool(tables) == bool(args.inputs):
        raise ValueError("Give INPUTs, or --compare with two tables of 'diffqa score'.")
    out = check_output(args.out, (".html", ".htm"), [*args.inputs, *tables])
    # From here on another command is told that this file is being written.
    with whole_file(out) as path:
        code, count = _compare(args, path) if tables else _report(args, path)
        size = path.stat().st_size / 1e6
    note(f"wrote {out}: {count}, {size:.1f} MB")
    return code


def _report(args, path):
    """(exit code, what was written) of a report on files."""
    model, inputs = split_model(args)
    judge = ScorerJudge(args) if model is None else ModelJudge(args, model)
    files = collect_files(
        inputs,
        path_column=args.path_column,
        recursive=args.recursive,
        columns=judge.columns,
    )
    rows = ReportRows(files, judge, args)
    write_page(
        path,
        title=", ".join(shown(Path(name).name or name) for name in inputs[:3])
        + (" …" if len(inputs) > 3 else ""),
        settings={
            "compare": False,
            "unit": judge.unit,
            "best": judge.best,
            "model": None if model is None else shown(Path(model).name),
        },
        blocks=rows,
        bad=rows.bad,
    )
    return report_bad(rows.bad, len(files)), f"{rows.count} files"


def _compare(args, path):
    """(exit code, what was written) of a comparison."""
    before, after = args.compare
    pairs, single = join_tables(before, after, args.path_column)
    write_page(
        path,
        title=f"{shown(Path(before).name)} → {shown(Path(after).name)}",
        settings={
            "compare": True,
            "unit": "",
            "best": None,
            "figures": summarise(pairs),
        },
        blocks=compared_blocks(pairs, args),
        bad=single,
    )
    return 0, f"{len(pairs)} pairs"
