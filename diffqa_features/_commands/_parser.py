"""What can be asked on the command line: one function per command."""

import argparse

from diffqa_features import __version__
from diffqa_features._commands._options import (
    BACKBONE,
    DEVICE,
    RELATIVE,
    VAE,
    above_zero,
    add_bad_files,
    add_features,
    add_inputs,
    add_machine,
    add_on_error,
    count,
    gpus,
    positive,
    shard,
)

_EXIT_CODES = """
exit codes:
  0 success 1 no output: file or disk error, missing model or package 2 invalid command
  line or parameter 3 finished, but some files could not be read; they are listed
"""


def make_parser():
    """The parser of `diffqa`, with a subparser for every command."""
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
    add("--photos", type=positive, default=10, metavar="N",
        help="photographs, 2 to 16 (default: 10)")  # fmt: skip
    add("--size", type=positive, default=None, metavar="PIXELS",
        help="side of the pictures (default: the backbone's native size)")  # fmt: skip
    add("--backbone", default="tiny", metavar="NAME", help=BACKBONE)
    add("--device", metavar="NAME", help=DEVICE)


def _add_info(commands):
    info = _add_command(
        commands,
        "info",
        "Show versions, devices, a backbone's blocks, or what a feature store holds.",
        "[BACKBONE] [--memory FOLDER]",
        ["diffqa info", "diffqa info sd15", "diffqa info --memory features"],
    )
    add = info.add_argument
    add("name", nargs="?", metavar="BACKBONE", help=BACKBONE)
    add("--vae", metavar="NAME", help=VAE)
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
    add_inputs(extract)
    add = extract.add_argument
    add("-o", "--out", required=True, metavar="FILE",
        help=".parquet, .csv or .npz: the column path, then one per feature. Parquet "
        "and npz also hold the settings. An interrupted run leaves FILE.part behind "
        "and resumes from there when restarted. A folder gets Parquet files of "
        "--chunk-size rows; only new or changed files are computed")  # fmt: skip
    add("--shard", type=shard, metavar="I/N",
        help="compute the I-th of N shares only (from 0), by a hash of the path: "
        "several processes or machines fill one folder")  # fmt: skip
    add(
        "--prune",
        action="store_true",
        help="remove rows of files that are no longer among INPUT from the folder",
    )
    add("--gpus", type=gpus, metavar="N",
        help="start one process per GPU of this machine, N or 'all', each with its "
        "share; for a folder")  # fmt: skip
    add_bad_files(extract, "FILE.bad.csv")
    add("--chunk-size", type=positive, default=64, metavar="N",
        help="number of files after which results are saved to FILE.part "
        "(default: 64)")  # fmt: skip
    add_features(extract)


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
    add("table", metavar="TABLE", help=f"CSV or Parquet. {RELATIVE}")
    add("-o", "--out", required=True, metavar="MODEL.skops",
        help="the fitted pipeline; loading it runs no code from the file")  # fmt: skip
    add("--path-column", default="path", metavar="NAME", help="default: path")
    add("--target-column", default="mos", metavar="NAME",
        help="column with the scores, higher is better (default: mos)")  # fmt: skip
    add("--group-column", metavar="NAME",
        help="column with groups; rows of one group (versions of one photograph) stay "
        "on one side of every split")  # fmt: skip
    add("--folds", type=positive, default=5, metavar="N",
        help="folds of the cross-validation (default: 5)")  # fmt: skip
    add("--grid-timesteps", type=int, nargs="+", metavar="T",
        help="timesteps to try; the one with the best SRCC is kept")  # fmt: skip
    add("--C", type=above_zero, nargs="+", default=[10.0], metavar="C",
        help="of the SVR; several are tried like timesteps (default: 10)")  # fmt: skip
    add_bad_files(fit, "MODEL.skops.bad.csv")
    add_features(fit)


def _add_score(commands):
    score = _add_command(
        commands,
        "score",
        "Predict the quality of pictures and videos.",
        "INPUT [INPUT ...] [--model MODEL] [-o FILE] [options]",
        [
            "diffqa score photos/ clips/ -o scores.csv",
            "diffqa score new/*.jpg --model model.skops --out predicted.csv",
            "diffqa score photos/ | sort -k2 -g -r | head",
        ],
    )
    add_inputs(score)
    add = score.add_argument
    add("--model", metavar="MODEL",
        help="what 'diffqa fit' wrote; without it the shipped scorer predicts visible "
        "loss in JOD (10: none); 'diffqa score MODEL.skops INPUT' "
        "works too")  # fmt: skip
    add("-o", "--out", metavar="FILE",
        help=".csv, .tsv or .parquet with the columns path and score, and without a "
        "model std and fault; without it, path and score go to the standard output, "
        "separated by a tab")  # fmt: skip
    add_bad_files(score, "FILE.bad.csv (with -o)")
    add("--chunk-size", type=positive, default=64, metavar="N",
        help="number of files scored together (default: 64)")  # fmt: skip
    add_machine(score)


def _add_report(commands):
    report = _add_command(
        commands,
        "report",
        "Write one HTML page to look at: media by predicted quality, and why.",
        "INPUT [INPUT ...] -o FILE.html [options]",
        [
            "diffqa report photos/ -o report.html",
            "diffqa report photos/ -r -o report.html --large-views 1000",
            "diffqa report new/*.jpg --model model.skops -o report.html",
            "diffqa report --compare before.csv after.csv -o change.html",
        ],
    )
    add_inputs(report, nargs="*")
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
    add("--large-views", type=count, default=300, metavar="N",
        help="pictures that can be seen large, those of the lowest scores; each adds "
        "some 100 kB, and every file 7 kB (default: 300)")  # fmt: skip
    add_on_error(report, "the page")
    add("--chunk-size", type=positive, default=64, metavar="N",
        help="files that a --model scores together (default: 64)")  # fmt: skip
    add_machine(report)


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
        help=f"{BACKBONE}. With tiny, which is not the papers' model, only the "
        "protocol is repeated, and the table says so")  # fmt: skip
    add("--image-size", type=positive, metavar="PIXELS",
        help="input size of the backbone (default: its native size)")  # fmt: skip
    add("--seed", type=count, default=0, metavar="N",
        help="of the splits, the weights and the intervals (default: 0)")  # fmt: skip
    add("--quick", action="store_true",
        help="try everything out: one epoch, two splits, at most 200 rows of each "
        "set; the table says so")  # fmt: skip
    add("--drop-missing", action="store_true",
        help="go on without the files that a copy of a data set lacks; study.json "
        "counts them")  # fmt: skip
    machine = study.add_argument_group("machine", "affects speed, not results")
    add = machine.add_argument
    add("--device", metavar="NAME", help=DEVICE)
    add("--memory", metavar="FOLDER",
        help="keep latents in this feature store: splits share them")  # fmt: skip
    add("-q", "--quiet", action="store_true", help="no progress bars")
