"""Arguments in, a checked DiffusionQAFeatures out; files in, rows and bad files out."""

import warnings

import numpy as np

from diffqa_features import DiffusionQAFeatures
from diffqa_features._media.remote import redact_url
from diffqa_features._media.rows import as_rows
from diffqa_features._media.tables import is_unicode

_NAMES = (
    "backbone", "vae", "timesteps", "blocks", "prompts", "kinds", "pooling",
    "image_size", "view", "n_tiles", "tile_pooling", "frame_rate", "max_frames",
    "frames", "burst_length", "frame_pooling",
    "dtype", "random_state", "device", "batch_size", "n_jobs", "memory", "reader",
)  # fmt: skip


def make_features(args):
    """The estimator described by the arguments, with checked parameters."""
    given = {name: getattr(args, name, None) for name in _NAMES}
    features = DiffusionQAFeatures(
        **{name: value for name, value in given.items() if value is not None},
        on_error="raise" if args.on_error == "raise" else "nan",
    )
    return features.fit()


def transform_files(features, files):
    """Features of files: (matrix of the good ones, mask of these, bad ones).

    Bad files come as (path, reason). With ``on_error="raise"`` the first one is a
    RuntimeError: the file is to blame, not the command line.
    """
    good = np.array([is_unicode(name) for name in files.index])
    bad = [(place, _NO_TEXT) for place in np.flatnonzero(~good)]
    if bad and features.on_error == "raise":
        raise RuntimeError(f"{redact_url(files.index[bad[0][0]])}: {_NO_TEXT}")
    places = np.flatnonzero(good)
    matrix = np.empty((0, len(features.get_feature_names_out())), np.float32)
    if len(places):
        chosen = files.iloc[places]
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"\d+ of \d+ rows could not be read")
                matrix = features.transform(chosen)
        except (ValueError, OSError) as error:
            if not hasattr(error, "row_index"):
                raise
            name = redact_url(chosen.index[error.row_index]) or "(no path)"
            raise RuntimeError(f"{name}: {error.cause}") from error
        rows = as_rows(chosen)
        for index, message in features.failed_:
            reason = message.removeprefix(f"{rows[index].label}: ")
            bad.append((places[index], reason))
            good[places[index]] = False
        matrix = matrix[good[places]]
    return matrix, good, [(files.index[place], reason) for place, reason in sorted(bad)]


_NO_TEXT = (
    "the file's name is not UTF-8 and cannot stand in a table; rename it, for example "
    "with convmv."
)


def check_name(name):
    """ValueError where the name of a file cannot stand in a table."""
    if not is_unicode(name):
        raise ValueError(_NO_TEXT)
