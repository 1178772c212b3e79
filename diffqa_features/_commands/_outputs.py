"""Results in, files out; lists bad files and writes messages to stderr."""

import csv
import io
import re
import sys
from pathlib import Path

from diffqa_features._media.remote import redact_url
from diffqa_features._utils.files import exists, expand_user, local_path, write_whole
from diffqa_features._utils.tables import quote_formulas

_SHOWN = 10
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HEADER = ("path", "reason")


def one_line(name):
    """A name of a file as a terminal and a reader of lines may see it.

    A line end or tab in it would make another line or column, other control characters
    are commands to a terminal. They are written as in Python.
    """
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], name)


def note(text):
    """Print a message to stderr; standard output is for results."""
    print(f"diffqa: {text}", file=sys.stderr)


def check_output(text, suffixes, inputs=()):
    """The path of an output file, which ends in one of `suffixes`.

    ValueError where writing it, or the list of bad files beside it, would replace one
    of the `inputs`; FileExistsError where that list would replace somebody's file.
    """
    path = local_path(text, "--out")
    if path.suffix.lower() not in suffixes:
        *first, last = suffixes
        allowed = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(f"--out must end in {allowed}. Got {text!r} instead.")
    if path.is_dir():
        raise ValueError(f"--out {text!r} is a folder; give the name of a file.")
    check_listing(path, inputs)
    return path


def check_listing(path, inputs):
    """Errors of `check_output` where `path`, or the list beside it, may not be."""
    listing = _listing(path)
    for name in inputs:
        source = Path(expand_user(name))
        if any(_same_file(source, target) for target in (path, listing)):
            raise ValueError(
                f"--out '{path}' would replace the input {name!r}; choose another one."
            )
    if listing.exists() and not _is_ours(listing):
        raise FileExistsError(
            f"'{listing}' is in the way: files that cannot be read would be listed "
            "there, and diffqa did not make it. Move it away, or choose another --out."
        )


def report_bad(bad, total, out=None, quote=False):
    """List bad files (path, reason) beside `out` and on stderr; return the exit code.

    `quote` escapes names that a spreadsheet would run as formulas; passwords and query
    strings of URLs are left out. RuntimeError if none of the `total` files was good.
    """
    bad = [(redact_url(name), reason) for name, reason in bad]
    listing = None if out is None else _listing(out)
    if not bad:
        if listing is not None:
            listing.unlink(missing_ok=True)  # of an earlier run
        return 0
    where = ""
    if listing is not None:
        where = f"; {listing} lists them"
        text = io.StringIO(newline="")
        for row in [_HEADER, *bad]:
            csv.writer(text).writerow(map(quote_formulas, row) if quote else row)
        # Names that are not UTF-8 are among the bad ones.
        # In turn: shards of one folder write one list.
        write_whole(
            listing, text.getvalue().encode(errors="backslashreplace"), wait=True
        )
    note(f"{len(bad)} of {total} files could not be read{where}:")
    for name, reason in bad[:_SHOWN]:
        print(f"  {one_line(name) or '(no path)'}: {reason}", file=sys.stderr)
    if len(bad) > _SHOWN:
        print(f"  and {len(bad) - _SHOWN} more", file=sys.stderr)
    if len(bad) == total:
        raise RuntimeError(f"none of the {total} files could be read{where}.")
    return 3


def _listing(out):
    """Where the bad files of an output are listed."""
    return out.with_name(out.name + ".bad.csv")


def _is_ours(listing):
    """Whether a file begins as the lists of bad files do."""
    if not listing.is_file():
        return False
    with listing.open("rb") as file:
        return file.readline(100).strip() == ",".join(_HEADER).encode()


def _same_file(one, other):
    return exists(one) and exists(other) and one.samefile(other)
