"""`diffqa report`: files in, one HTML page out; or two tables of scores, compared."""

from diffqa_features._commands._inputs import collect_files
from diffqa_features._commands._models import (
    NO_PASSES,
    load_model,
    refuse,
    split_model,
)
from diffqa_features._commands._outputs import check_output, note, report_bad
from diffqa_features._commands._report.comparison import (
    compared_blocks,
    join_tables,
    summarise,
)
from diffqa_features._commands._report.judges import ModelJudge, ScorerJudge
from diffqa_features._commands._report.page import name_and_folder, write_page
from diffqa_features._commands._report.pictures import MAP_TOP
from diffqa_features._commands._report.rows import ReportRows
from diffqa_features._utils.files import whole_file

_PASSES = ("batch_size", "n_jobs", "memory")


def run(args):
    """Run the command."""
    tables = args.compare or []
    if bool(tables) == bool(args.inputs):
        raise ValueError("Give INPUTs, or --compare with two tables of 'diffqa score'.")
    out = check_output(args.out, (".html", ".htm"), [*args.inputs, *tables])
    # From here on another command is told that this file is being written.
    with whole_file(out) as path:
        code, what = _compare(args, path) if tables else _report(args, path)
        size = path.stat().st_size / 1e6
    note(f"wrote {out}: {what}, {size:.1f} MB")
    return code


def _report(args, path):
    """(exit code, what was written) of a report on files."""
    model, inputs = split_model(args)
    if model is None:
        refuse(args, _PASSES, NO_PASSES)
        judge = ScorerJudge(args.device, args.reader or "auto")
    else:
        judge = ModelJudge(load_model(model, args))
    files = collect_files(
        inputs,
        path_column=args.path_column,
        recursive=args.recursive,
        columns=judge.columns,
    )
    rows = ReportRows(
        files,
        judge,
        large_views=args.large_views,
        chunk_size=args.chunk_size,
        reader=args.reader or "auto",
        stop=args.on_error == "raise",
        quiet=args.quiet,
    )
    write_report(path, rows, inputs, model)
    return report_bad(rows.bad, len(files)), f"{rows.count} files"


def write_report(path, rows, inputs, model=None):
    """Write the page of `rows`, which is called after the first inputs."""
    names = [name_and_folder(name)["name"] for name in inputs]
    write_page(
        path,
        title=", ".join(names[:3]) + (" …" if len(names) > 3 else ""),
        settings={
            "compare": False,
            "unit": rows.judge.unit,
            "best": rows.judge.best,
            "map_top": MAP_TOP,
            "model": None if model is None else name_and_folder(model)["name"],
        },
        blocks=rows,
        bad=rows.bad,
    )


def _compare(args, path):
    """(exit code, what was written) of a comparison."""
    refuse(
        args,
        ("model", "recursive", "device", *_PASSES),
        "--compare takes scores as they are.",
    )
    before, after = args.compare
    names = [name_and_folder(name)["name"] for name in (before, after)]
    pairs, single = join_tables(before, after, args.path_column)
    blocks = compared_blocks(
        pairs,
        large_views=args.large_views,
        reader=args.reader or "auto",
        quiet=args.quiet,
    )
    write_page(
        path,
        title=" → ".join(names),
        settings={
            "compare": True,
            "unit": "",
            "best": None,
            "map_top": None,
            "figures": summarise(pairs),
        },
        blocks=blocks,
        bad=single,
    )
    return 0, f"{len(pairs)} pairs"
