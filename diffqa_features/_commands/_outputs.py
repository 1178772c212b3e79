"""Results in, whole files out; bad files listed; what is said to the user on stderr."""

import csv
import os
import sys
from contextlib import contextmanager
from pathlib import Path

_SHOWN = 10


def note(text):
    """Tell the user; the standard output is for results."""
    print(f"diffqa: {text}", file=sys.stderr)


def check_output(text, suffixes):
    """The path of an output file; ValueError unless it ends in one of `suffixes`."""
    path = Path(text).expanduser()
    if path.suffix.lower() not in suffixes:
        *first, last = suffixes
        allowed = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(f"--out must end in {allowed}. Got {text!r} instead.")
    if path.is_dir():
        raise ValueError(f"--out {text!r} is a folder; give the name of a file.")
    return path


@contextmanager
def whole_file(path):
    """Give a temporary path in the same folder; it becomes `path` when all went well.

    So a file of that name is there as a whole or is what it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def report_bad(bad, total, out=None):
    """List bad files (path, reason) beside `out` and on stderr; return the exit code.

    RuntimeError if none of the `total` files was good.
    """
    listing = None if out is None else out.with_name(out.name + ".bad.csv")
    if not bad:
        if listing is not None:
            listing.unlink(missing_ok=True)  # of an earlier run
        return 0
    where = ""
    if listing is not None:
        where = f"; {listing} lists them"
        with (
            whole_file(listing) as path,
            path.open("w", newline="", encoding="utf-8") as f,
        ):
            csv.writer(f).writerows([("path", "reason"), *bad])
    note(f"{len(bad)} of {total} files could not be read{where}:")
    for name, reason in bad[:_SHOWN]:
        print(f"  {name or '(no path)'}: {reason}", file=sys.stderr)
    if len(bad) > _SHOWN:
        print(f"  and {len(bad) - _SHOWN} more", file=sys.stderr)
    if len(bad) == total:
        raise RuntimeError(f"none of the {total} files could be read{where}.")
    return 3
