"""The command `diffqa`: arguments in, an exit code out; imports follow parsing."""

import argparse
import os
import sys
import warnings
from importlib import import_module

from diffqa_features import __version__
from diffqa_features._utils.shortage import ways_out

_EXIT_CODES = """
exit codes:
  0 success 1 no output: file or disk error, missing model or package 2 invalid command
  line or parameter 3 finished, but some files could not be read; they are listed
"""


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
    args = _parser().parse_args(argv)
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


def _parser():
    parser = argparse.ArgumentParser(
        prog="diffqa",
        description="Image and video quality features from a frozen diffusion model.",
        epilog=_EXIT_CODES + "\n'diffqa COMMAND --help' shows examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"diffqa-features {__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (
        _add_demo, _add_info, _add_extract, _add_merge, _add_fit, _add_score,
        _add_report, _add_study,
    ):  # fmt: skip
        add(commands)
    return parser


def _add_command(commands, name, summary, usage, examples):
    command = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary,
        usage=f"diffqa {name} {usage}",
        epilog="examples:\n" + "".join(f"  $ {line}\n" for line in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument(
        "--debug", action="store_true", help="show tracebacks and warnings in full"
    )
    return command


def _add_demo(commands):
    demo = _add_command(
        commands,
        "demo",
        "Predict the quality of distorted photographs, offline, in minutes.",
        "[-o FOLDER] [options]",
        ["diffqa demo", "diffqa demo --out /tmp/demo", "diffqa demo --photos 4"],
    )
    add = demo.add_argument
    add("-o", "--out", default="demo", metavar="FOLDER", help="default: demo")
    add("--photos", type=_positive, default=10, metavar="N",
        help="photographs, 2 to 16 (default: 10)")  # fmt: skip
    add("--size", type=_positive, default=None, metavar="PIXELS",
        help="side of the pictures (default: the backbone's native size)")  # fmt: skip
    add("--backbone", default="tiny", metavar="NAME", help=_BACKBONE)
    add("--device", metavar="NAME", help=_DEVICE)


def _add_info(commands):
    info = _add_command(
        commands,
        "info",
        "Show versions, devices, a backbone's blocks, or what a feature store holds.",
        "[BACKBONE] [--memory FOLDER]",
        ["diffqa info", "diffqa info sd15", "diffqa info --memory features"],
    )
    add = info.add_argument
    add("name", nargs="?", metavar="BACKBONE", help=_BACKBONE)
    add("--vae", metavar="NAME", help=_VAE)
    add("--backbone", metavar="NAME", help="same as the positional argument")
    add("--memory", metavar="FOLDER", help="describe this feature store instead")


def _add_extract(commands):
    extract = _add_command(
        commands,
        "extract",
        "Compute the features of pictures and videos and write them to a table.",
        "INPUT [INPUT ...] -o FILE_OR_FOLDER [options]",
        [
            "diffqa extract photos/ --out features.parquet",
            "diffqa extract photos/ --out features/ --shard 3/8",
            "diffqa extract 'photos/*.jpg' -o features.csv --timesteps 20 50",
            "diffqa extract scores.csv -o f.npz --path-column image --memory store",
            "diffqa extract photos/ -o up.parquet --blocks 'up*' mid.0 --kinds query",
            "diffqa extract clips/ -o clips.parquet --frame-rate 2 --frame-pooling "
            "mean std",
        ],
    )
    _add_inputs(extract)
    add = extract.add_argument
    add("-o", "--out", required=True, metavar="FILE",
        help=".parquet, .csv or .npz: the column path, then one per feature. Parquet "
        "and npz also hold the settings. An interrupted run leaves FILE.part behind "
        "and resumes from there when restarted. A folder gets Parquet files of "
        "--chunk-size rows; only new or changed files are computed")  # fmt: skip
    add("--shard", type=_shard, metavar="I/N",
        help="compute the I-th of N shares only (from 0), by a hash of the path: "
        "several processes or machines fill one folder")  # fmt: skip
    add(
        "--prune",
        action="store_true",
        help="remove rows of files that are no longer among INPUT from the folder",
    )
    add("--gpus", type=_gpus, metavar="N",
        help="start one process per GPU of this machine, N or 'all', each with its "
        "share; for a folder")  # fmt: skip
    _add_bad_files(extract, "FILE.bad.csv")
    add("--chunk-size", type=_positive, default=64, metavar="N",
        help="number of files after which results are saved to FILE.part "
        "(default: 64)")  # fmt: skip
    _add_features(extract)


def _add_merge(commands):
    merge = _add_command(
        commands,
        "merge",
        "Make one table of the folders that 'diffqa extract' filled.",
        "FOLDER [FOLDER ...] -o FILE",
        ["diffqa merge features/ -o features.parquet"],
    )
    add = merge.add_argument
    add("inputs", nargs="+", metavar="FOLDER", help="folders of one extraction")
    add("-o", "--out", required=True, metavar="FILE",
        help=".parquet or .csv: the good rows, sorted by path")  # fmt: skip


def _add_fit(commands):
    fit = _add_command(
        commands,
        "fit",
        "Fit a quality model (features, StandardScaler, SVR) to files with scores.",
        "TABLE -o MODEL.skops [options]",
        [
            "diffqa fit scores.csv --out model.skops",
            "diffqa fit koniq.csv -o model.skops --path-column image_name "
            "--target-column MOS",
            "diffqa fit kadid.csv -o model.skops --group-column reference "
            "--grid-timesteps 5 20 50 100 --C 1 10 100 --memory store",
        ],
    )
    add = fit.add_argument
    add("table", metavar="TABLE", help=f"CSV or Parquet. {_RELATIVE}")
    add("-o", "--out", required=True, metavar="MODEL.skops",
        help="the fitted pipeline; loading it runs no code from the file")  # fmt: skip
    add("--path-column", default="path", metavar="NAME", help="default: path")
    add("--target-column", default="mos", metavar="NAME",
        help="column with the scores, higher is better (default: mos)")  # fmt: skip
    add("--group-column", metavar="NAME",
        help="column with groups; rows of one group (versions of one photograph) stay "
        "on one side of every split")  # fmt: skip
    add("--folds", type=_positive, default=5, metavar="N",
        help="folds of the cross-validation (default: 5)")  # fmt: skip
    add("--grid-timesteps", type=int, nargs="+", metavar="T",
        help="timesteps to try; the one with the best SRCC is kept")  # fmt: skip
    add("--C", type=float, nargs="+", default=[10.0], metavar="C",
        help="of the SVR; several are tried like timesteps (default: 10)")  # fmt: skip
    _add_bad_files(fit, "MODEL.skops.bad.csv")
    _add_features(fit)


def _add_score(commands):
    score = _add_command(
        commands,
        "score",
        "Predict the quality of pictures, or by a model of 'diffqa fit' of videos too.",
        "INPUT [INPUT ...] [--model MODEL] [-o FILE] [options]",
        [
            "diffqa score photos/ -o scores.csv",
            "diffqa score new/*.jpg --model model.skops --out predicted.csv",
            "diffqa score photos/ | sort -k2 -g -r | head",
        ],
    )
    _add_inputs(score)
    add = score.add_argument
    add("--model", metavar="MODEL",
        help="what 'diffqa fit' wrote; without it the shipped scorer predicts visible "
        "loss in JOD (10: none); 'diffqa score MODEL.skops INPUT' "
        "works too")  # fmt: skip
    add("-o", "--out", metavar="FILE",
        help=".csv, .tsv or .parquet with the columns path and score, and without a "
        "model std and fault; without it, path and score go to the standard output, "
        "separated by a tab")  # fmt: skip
    _add_bad_files(score, "FILE.bad.csv (with -o)")
    add("--chunk-size", type=_positive, default=64, metavar="N",
        help="number of files scored together (default: 64)")  # fmt: skip
    _add_machine(score)


def _add_report(commands):
    report = _add_command(
        commands,
        "report",
        "Write one HTML page to look at: pictures by predicted quality, and why.",
        "INPUT [INPUT ...] -o FILE.html [options]",
        [
            "diffqa report photos/ -o report.html",
            "diffqa report photos/ -r -o report.html --large-views 1000",
            "diffqa report new/*.jpg --model model.skops -o report.html",
            "diffqa report --compare before.csv after.csv -o change.html",
        ],
    )
    _add_inputs(report, nargs="*")
    add = report.add_argument
    add("--model", metavar="MODEL",
        help="what 'diffqa fit' wrote; without it the shipped scorer predicts visible "
        "loss in JOD (10: none) and its kind and place")  # fmt: skip
    add("--compare", nargs=2, metavar=("BEFORE", "AFTER"),
        help="two tables of 'diffqa score' in place of INPUTs: what changed, file by "
        "file, joined by name")  # fmt: skip
    add("-o", "--out", required=True, metavar="FILE.html",
        help="the page; it holds all it shows, small pictures included, and asks no "
        "other computer for anything")  # fmt: skip
    add("--large-views", type=_count, default=300, metavar="N",
        help="pictures that can be seen large, those of the lowest scores; each adds "
        "some 100 kB, and every file 7 kB (default: 300)")  # fmt: skip
    _add_on_error(report, "the page")
    add("--chunk-size", type=_positive, default=64, metavar="N",
        help="files that a --model scores together (default: 64)")  # fmt: skip
    _add_machine(report)


def _add_study(commands):
    study = _add_command(
        commands,
        "study",
        "Repeat a table of a paper on the data sets that you have.",
        "[NAME --data ROOT -o FOLDER] [options]",
        [
            "diffqa study",
            "diffqa study dpiqa-splits --data /data --dry-run",
            "diffqa study dpiqa-splits --data /data -o dpiqa --backbone sd15 "
            "--memory store",
            "diffqa study genziqa --data /data -o trial --quick --only flive clive",
        ],
    )
    add = study.add_argument
    add("name", nargs="?", metavar="NAME",
        help="the study; without it all are listed, with their data sets")  # fmt: skip
    add("--list", action="store_true", help="list the studies")
    add("--data", metavar="ROOT",
        help="folder with one folder, or link, per data set, named as --list does "
        "(or as its own archive does)")  # fmt: skip
    add("-o", "--out", metavar="FOLDER",
        help="gets table.md, table.csv, figure.png, the log study.json, a file per "
        "finished cell and the trained weights. Run again to resume: finished cells "
        "are kept, failed ones are tried again, and data sets that have arrived "
        "since are added. Other settings need another folder")  # fmt: skip
    add("--dry-run", action="store_true",
        help="say what is there, what would run, and where missing data sets "
        "go")  # fmt: skip
    add("--only", nargs="+", metavar="SET",
        help="use these data sets alone, as if no other were there")  # fmt: skip
    add("--backbone", default="tiny", metavar="NAME",
        help=f"{_BACKBONE}. With tiny, which is not the papers' model, only the "
        "protocol is repeated, and the table says so")  # fmt: skip
    add("--image-size", type=_positive, metavar="PIXELS",
        help="input size of the backbone (default: its native size)")  # fmt: skip
    add("--seed", type=_count, default=0, metavar="N",
        help="of the splits, the weights and the intervals (default: 0)")  # fmt: skip
    add("--quick", action="store_true",
        help="try everything out: one epoch, two splits, at most 200 rows of each "
        "set; the table says so")  # fmt: skip
    add("--drop-missing", action="store_true",
        help="go on without the files that a copy of a data set lacks; study.json "
        "counts them")  # fmt: skip
    machine = study.add_argument_group("machine", "affects speed, not results")
    add = machine.add_argument
    add("--device", metavar="NAME", help=_DEVICE)
    add("--memory", metavar="FOLDER",
        help="keep latents in this feature store: splits share them")  # fmt: skip
    add("-q", "--quiet", action="store_true", help="no progress bars")


def _add_inputs(command, nargs="+"):
    add = command.add_argument
    add("inputs", nargs=nargs, metavar="INPUT",
        help="a picture or video, its URL, a folder, a pattern in quotes "
        "('a/**/*.png', 's3://bucket/*.png'), or a CSV or Parquet table of paths and "
        f"URLs. {_RELATIVE} Inputs come before the options")  # fmt: skip
    add("-r", "--recursive", action="store_true", help="include subfolders")
    add("--path-column", default="path", metavar="NAME",
        help="table column with the paths (default: path)")  # fmt: skip


def _add_bad_files(command, listing):
    _add_on_error(command, listing)
    command.add_argument(
        "--quote-formulas",
        action="store_true",
        help="in CSV and TSV files, put ' before text that starts with = + - or @, as "
        "file names can: spreadsheets would run it as a formula",
    )


def _add_on_error(command, listing):
    command.add_argument(
        "--on-error",
        choices=("skip", "raise"),
        default="skip",
        help=f"files that cannot be read: skip them and list them in {listing} "
        "(default, exit code 3), or stop at the first one",
    )


def _add_features(command):
    """Options passed to DiffusionQAFeatures; those not given keep its defaults."""
    features = command.add_argument_group(
        "features", "parameters of DiffusionQAFeatures; see its documentation"
    )
    add = features.add_argument
    add("--backbone", metavar="NAME", help=_BACKBONE)
    add("--vae", metavar="NAME", help=_VAE)
    add("--timesteps", type=int, nargs="+", metavar="T",
        help="training steps, 0 to 999 (default: 50)")  # fmt: skip
    add("--blocks", nargs="+", metavar="NAME",
        help="names or quoted patterns, see 'diffqa info' (default: all)")  # fmt: skip
    add("--prompts", nargs="+", metavar="TEXT",
        help="quoted texts; {name} is filled from that table column "
        "(default: 'Good photo.' 'Bad photo.')")  # fmt: skip
    add("--kinds", nargs="+", metavar="KIND",
        help="alignment, query, attended, hidden, error "
        "(default: alignment error)")  # fmt: skip
    add("--pooling", nargs="+", metavar="STATISTIC",
        help="mean, std, max (default: mean)")  # fmt: skip
    add("--image-size", type=int, metavar="PIXELS",
        help="input size of the backbone (default: its native size)")  # fmt: skip
    add("--view", nargs="+", metavar="VIEW",
        help="stretch, fit, crop, tiles, or several (default: stretch)")  # fmt: skip
    add("--tiles", type=int, dest="n_tiles", metavar="N",
        help="maximum number of tiles of a picture or frame (default: 9)")  # fmt: skip
    add("--tile-pooling", nargs="+", metavar="STATISTIC",
        help="statistics over tiles: mean, std, min, max (default: mean)")  # fmt: skip
    add("--frame-rate", type=float, metavar="R",
        help="frames sampled per second of video (default: 1)")  # fmt: skip
    add("--max-frames", type=int, metavar="N",
        help="maximum number of frames, evenly spaced (default: all)")  # fmt: skip
    add("--frames", metavar="HOW",
        help="spread, or bursts of adjacent frames (default: spread)")  # fmt: skip
    add("--burst-length", type=int, metavar="N",
        help="adjacent frames of a burst (default: 8)")  # fmt: skip
    add("--frame-pooling", nargs="+", metavar="STATISTIC",
        help="statistics over frames: mean, std, max, min (default: mean)")  # fmt: skip
    add("--dtype", metavar="DTYPE",
        help="auto, float32, float16 or bfloat16 (default: by device)")  # fmt: skip
    add("--seed", type=int, dest="random_state", metavar="N",
        help="seed of the noise (default: 0)")  # fmt: skip
    _add_machine(command)


def _add_machine(command):
    machine = command.add_argument_group("machine", "affects speed, not results")
    add = machine.add_argument
    add("--device", metavar="NAME", help=_DEVICE)
    add("--batch-size", type=int, metavar="N", help="UNet rows per pass")
    add("--jobs", type=int, dest="n_jobs", metavar="N", help="processes (default: 1)")
    add("--memory", metavar="FOLDER",
        help="cache every pass in this feature store, for later runs with other "
        "settings")  # fmt: skip
    add("--reader", metavar="NAME",
        help="video reader: auto, decord or imageio (default: auto)")  # fmt: skip
    add("-q", "--quiet", action="store_true", help="no progress bar")


def _shard(text):
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(
            f"must be I/N with I from 0 to N - 1, not {text}"
        )
    return int(index), int(count)


def _gpus(text):
    return text if text == "all" else _positive(text)


def _count(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text}")
    return int(text)


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text}")
    return int(text)


_VAE = "hub id or folder of an autoencoder in place of the backbone's own"
_BACKBONE = "tiny, sd15, sd21-base, sdxl, a hub id or a folder (default: tiny)"
_DEVICE = "cpu, cuda, cuda:1 or mps (default: the first accelerator, else the CPU)"
_RELATIVE = (
    "Relative paths in a table are resolved against the working directory or, if not "
    "found there, the table's folder."
)


if __name__ == "__main__":
    sys.exit(main())
