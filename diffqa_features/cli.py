"""The command `diffqa`: arguments in, an exit code out; imports follow parsing."""

import os
import sys
import warnings
from importlib import import_module
from pathlib import Path

from diffqa_features._commands._parser import make_parser
from diffqa_features._utils.shortage import ways_out


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments without the program's name; ``None`` uses ``sys.argv[1:]``.

    Returns
    -------
    int
        0 success, 1 no output, 2 invalid arguments, 3 some files were unreadable.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    _open_closed_streams()
    args = make_parser().parse_args(argv)
    args.argv = argv
    # File names can contain characters that the terminal's encoding lacks.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        if not args.debug:
            warnings.showwarning = _show_warning
        try:
            return _run(args)
        except _REPORTED as error:
            if args.debug:
                raise
            print(f"diffqa: error: {_sentence(error)}", file=sys.stderr)
            return 2 if isinstance(error, (ValueError, TypeError)) else 1
        except KeyboardInterrupt:
            print("diffqa: interrupted", file=sys.stderr)
            return 130


def _open_closed_streams():
    """Point streams that are closed (``>&-``, services) to nowhere.

    Python has None for them, which cannot be written to; and the next file to be opened
    would take their number, and what C libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # workers need them, too
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))


_REPORTED = (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError)


def _run(args):
    try:
        command = import_module(f"diffqa_features._commands.{args.command}")
        with ways_out():
            code = command.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output (`| head`) has closed it. Python would complain again
        # when it closes stdout, so give it one that discards everything.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _sentence(error):
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.strerror}: {str(error.filename)!r}"
    return " ".join(str(error).split()) or type(error).__name__


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"diffqa: warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
