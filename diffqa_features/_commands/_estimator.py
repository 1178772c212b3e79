"""Arguments in, a checked DiffusionQAFeatures out; files in, rows and bad files out."""

import re
import warnings

import numpy as np

from diffqa_features import DiffusionQAFeatures

_NAMES = (
    "backbone", "timesteps", "blocks", "prompts", "kinds", "pooling", "image_size",
    "view", "frame_rate", "max_frames", "frame_pooling", "dtype", "random_state",
    "device", "batch_size", "n_jobs", "memory", "reader",
)  # fmt: skip
MACHINE = (
    "device", "batch_size", "n_jobs", "memory", "reader", "on_error", "verbose",
)  # fmt: skip
"""Parameters that say how to compute and not what."""

_ROW = re.compile(r"Row (\d+) \(.*?\): (.*)", re.DOTALL | re.IGNORECASE)
_COLUMN = re.compile(r"\{([^{}]+)\}")


def make_features(args):
    """The estimator that the arguments describe, its parameters checked."""
    given = {name: getattr(args, name, None) for name in _NAMES}
    features = DiffusionQAFeatures(
        **{name: value for name, value in given.items() if value is not None},
        on_error="raise" if args.on_error == "raise" else "nan",
    )
    return features.fit()


def prompt_columns(features):
    """Columns of a table that the prompts name."""
    prompts = features.prompts
    texts = [prompts] if isinstance(prompts, str) else prompts
    return tuple(dict.fromkeys(c for text in texts for c in _COLUMN.findall(text)))


def transform_files(features, files):
    """Features of files: (matrix of the good ones, which are good, bad ones).

    Bad files come as (path, reason). With ``on_error="raise"`` the first is a
    RuntimeError: it is the file's fault and not that of the command line.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\d+ of \d+ rows could not be read")
            matrix = features.transform(files)
    except (ValueError, OSError) as error:
        found = _ROW.match(str(error))
        if found is None:
            raise
        name = files.index[int(found[1])] or "(no path)"
        raise RuntimeError(f"{name}: {found[2]}") from error
    good = np.ones(len(files), bool)
    bad = []
    for index, message in features.failed_:
        good[index] = False
        bad.append((files.index[index], row_reason(message)))
    return matrix[good], good, bad


def row_reason(error):
    """What is wrong with a file, without the row that it had in a call."""
    found = _ROW.match(str(error))
    return found[2] if found else str(error)
