"""`diffqa merge`: folders of Parquet parts in, one table out."""

import pyarrow as pa
from pyarrow import compute
from pyarrow import csv as arrow_csv
from pyarrow.parquet import ParquetWriter

from diffqa_features._commands._outputs import check_output, note
from diffqa_features._utils.files import local_path, whole_file
from diffqa_features.distributed._parts import STAMPS, Merged


def run(args):
    """Run the command."""
    out = check_output(args.out, (".parquet", ".csv"), args.inputs)
    folders = [local_path(name, "FOLDER") for name in args.inputs]
    if out.resolve().parent in [folder.resolve() for folder in folders]:
        raise ValueError(
            f"--out {args.out!r} would be read as a part of its folder; choose "
            "another one."
        )
    table = Merged(folders)
    names = [n for n in table.schema.names if n not in ("reason", *STAMPS)]
    schema = pa.schema([table.schema.field(n) for n in names], table.schema.metadata)
    make = arrow_csv.CSVWriter if out.suffix.lower() == ".csv" else ParquetWriter
    count = 0
    with whole_file(out) as path, make(path, schema) as writer:
        for block in table:
            good = block.filter(compute.equal(block["reason"], "")).select(names)
            writer.write_table(good.cast(schema))
            count += len(good)
    bad = len(table) - count
    note(
        f"wrote {out}: {count} rows"
        + (f"; unreadable and left out: {bad}" if bad else "")
    )
    return 3 if bad else 0
