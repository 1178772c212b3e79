"""Results in, files out; lists bad files and writes messages to stderr."""

import csv
import io
import sys

from diffqa_features._utils.files import local_path, write_whole
from diffqa_features._utils.tables import quote_formulas

_SHOWN = 10


def note(text):
    """Print a message to stderr; standard output is for results."""
    print(f"diffqa: {text}", file=sys.stderr)


def check_output(text, suffixes):
    """The path of an output file; ValueError unless it ends in one of `suffixes`."""
    path = local_path(text, "--out")
    if path.suffix.lower() not in suffixes:
        *first, last = suffixes
        allowed = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(f"--out must end in {allowed}. Got {text!r} instead.")
    if path.is_dir():
        raise ValueError(f"--out {text!r} is a folder; give the name of a file.")
    return path


def report_bad(bad, total, out=None, quote=False):
    """List bad files (path, reason) beside `out` and on stderr; return the exit code.

    `quote` escapes names that a spreadsheet would run as formulas. RuntimeError if none
    of the `total` files was good.
    """
    listing = None if out is None else out.with_name(out.name + ".bad.csv")
    if not bad:
        if listing is not None:
            listing.unlink(missing_ok=True)  # of an earlier run
        return 0
    where = ""
    if listing is not None:
        where = f"; {listing} lists them"
        text = io.StringIO(newline="")
        for row in [("path", "reason"), *bad]:
            csv.writer(text).writerow(map(quote_formulas, row) if quote else row)
        # Names that are not UTF-8 are among the bad ones.
        write_whole(listing, text.getvalue().encode(errors="backslashreplace"))
    note(f"{len(bad)} of {total} files could not be read{where}:")
    for name, reason in bad[:_SHOWN]:
        print(f"  {name or '(no path)'}: {reason}", file=sys.stderr)
    if len(bad) > _SHOWN:
        print(f"  and {len(bad) - _SHOWN} more", file=sys.stderr)
    if len(bad) == total:
        raise RuntimeError(f"none of the {total} files could be read{where}.")
    return 3
