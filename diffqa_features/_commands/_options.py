"""Options that several commands share."""

import argparse
import math

VAE = "hub id or folder of an autoencoder in place of the backbone's own"
BACKBONE = "tiny, sd15, sd21-base, sdxl, a hub id or a folder (default: tiny)"
DEVICE = "cpu, cuda, cuda:1 or mps (default: the first accelerator, else the CPU)"
RELATIVE = (
    "Relative paths in a table are resolved against the working directory or, if not "
    "found there, the table's folder."
)


def add_inputs(command, nargs="+"):
    add = command.add_argument
    add("inputs", nargs=nargs, metavar="INPUT",
        help="a picture or video, its URL, a folder, a pattern in quotes "
        "('a/**/*.png', 's3://bucket/*.png'), or a CSV or Parquet table of paths and "
        f"URLs. {RELATIVE} Inputs come before the options")  # fmt: skip
    add("-r", "--recursive", action="store_true", help="include subfolders")
    add("--path-column", default="path", metavar="NAME",
        help="table column with the paths (default: path)")  # fmt: skip


def add_bad_files(command, listing):
    add_on_error(command, listing)
    command.add_argument(
        "--quote-formulas",
        action="store_true",
        help="in CSV and TSV files, put ' before text that starts with = + - or @, as "
        "file names can: spreadsheets would run it as a formula",
    )


def add_on_error(command, listing):
    command.add_argument(
        "--on-error",
        choices=("skip", "raise"),
        default="skip",
        help=f"files that cannot be read: skip them and list them in {listing} "
        "(default, exit code 3), or stop at the first one",
    )


def add_features(command):
    """Options passed to DiffusionQAFeatures; those not given keep its defaults."""
    features = command.add_argument_group(
        "features", "parameters of DiffusionQAFeatures; see its documentation"
    )
    add = features.add_argument
    add("--backbone", metavar="NAME", help=BACKBONE)
    add("--vae", metavar="NAME", help=VAE)
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
        help="auto (tiles of large pictures, stretch for small ones), stretch, fit, "
        "crop, tiles, or several of these four (default: auto)")  # fmt: skip
    add("--tiles", type=int, dest="n_tiles", metavar="N",
        help="maximum number of tiles of a picture or frame (default: 4)")  # fmt: skip
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
    add_machine(command)


def add_machine(command):
    machine = command.add_argument_group("machine", "affects speed, not results")
    add = machine.add_argument
    add("--device", metavar="NAME", help=DEVICE)
    add("--batch-size", type=int, metavar="N", help="UNet rows per pass")
    add("--jobs", type=int, dest="n_jobs", metavar="N", help="processes (default: 1)")
    add("--memory", metavar="FOLDER",
        help="cache every pass in this feature store, for later runs with other "
        "settings")  # fmt: skip
    add("--reader", metavar="NAME",
        help="video reader: auto, decord or imageio (default: auto)")  # fmt: skip
    add("-q", "--quiet", action="store_true", help="no progress bar")


def shard(text):
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(
            f"must be I/N with I from 0 to N - 1, not {text}"
        )
    return int(index), int(count)


def gpus(text):
    return text if text == "all" else positive(text)


def count(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text}")
    return int(text)


def above_zero(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return value


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text}")
    return int(text)
