"""`diffqa merge`: folders of Parquet parts in, one table out."""

from pyarrow import compute, parquet
from pyarrow import csv as arrow_csv

from diffqa_features._commands._outputs import check_output, note
from diffqa_features._utils.files import local_path, whole_file
from diffqa_features.distributed import read_parts


def run(args):
    """Run the command."""
    out = check_output(args.out, (".parquet", ".csv"), args.inputs)
    folders = [local_path(name, "FOLDER") for name in args.inputs]
    if out.resolve().parent in [folder.resolve() for folder in folders]:
        raise ValueError(
            f"--out {args.out!r} would be read as a part of its folder; choose "
            "another one."
        )
    table = read_parts(folders)
    good = table.filter(compute.equal(table["reason"], ""))
    good = good.drop_columns(["reason", "size", "modified"])
    with whole_file(out) as path:
        if out.suffix.lower() == ".csv":
            arrow_csv.write_csv(good, path)
        else:
            parquet.write_table(good, path)
    bad = len(table) - len(good)
    note(
        f"wrote {out}: {len(good)} rows"
        + (f"; unreadable and left out: {bad}" if bad else "")
    )
    return 3 if bad else 0
