"""The name of a model of `diffqa fit` in, the model out; nothing in it runs code."""

from sklearn.pipeline import Pipeline

from diffqa_features import TRUSTED_TYPES, DiffusionQAFeatures
from diffqa_features._store.store import as_store
from diffqa_features._utils.files import local_path


def split_model(args):
    """(model or None, inputs): a first input that is a model is taken for one."""
    model, inputs = args.model, args.inputs
    if model is None and inputs and inputs[0].lower().endswith(".skops"):
        model, *inputs = inputs  # as it was written when there was no other way
        if not inputs:
            raise ValueError(f"{model!r} is a model; give INPUTs too.")
    return model, inputs


def load_model(name, args):
    """The pipeline, its features set to compute as `args` says."""
    model = _load(name)
    features = model[0].set_params(
        reader=args.reader or "auto",
        device=args.device,
        batch_size=args.batch_size,
        n_jobs=args.n_jobs,
        memory=args.memory,
        on_error="raise" if args.on_error == "raise" else "nan",
        verbose=0,
    )
    if not hasattr(features, "frozen_identity_"):
        raise ValueError(
            f"{name!r} does not say which weights its backbone had, as models have "
            "done since 2026-11-27. Fit the model again with 'diffqa fit'."
        )
    as_store(args.memory)
    features.get_feature_names_out()  # refuses parameters, and other weights
    return model


def refuse(args, names, why):
    """ValueError where an option is given that would have no effect."""
    given = [name for name in names if getattr(args, name) not in (None, False)]
    if given:
        options = ", ".join(_SPELT.get(name, f"--{name}") for name in given)
        raise ValueError(f"{options} would have no effect: {why} Leave it out.")


_SPELT = {"batch_size": "--batch-size", "n_jobs": "--jobs"}

NO_PASSES = (
    "without a --model the shipped scorer looks at one file after the other, and "
    "there is nothing to batch, share or keep."
)
"""Why the shipped scorer takes none of the options that say how a UNet is run."""


def _load(name):
    from skops import io as skops_io  # seconds, which the shipped scorer does not need

    path = local_path(name, "MODEL")
    if not path.is_file():
        raise ValueError(
            f"There is no model {name!r}. Pass a file that 'diffqa fit' wrote, or no "
            "model to use the shipped scorer."
        )
    try:
        unknown = set(skops_io.get_untrusted_types(file=path)) - set(TRUSTED_TYPES)
    except Exception as error:  # skops raises many types on damage
        raise ValueError(f"{name!r} is not a model of 'diffqa fit'.") from error
    ours = sorted(kind for kind in unknown if kind.startswith("diffqa_features."))
    if ours:
        raise ValueError(
            f"{name!r} was saved by another version of diffqa_features, which had "
            f"{ours[0]}. Fit the model again with 'diffqa fit'."
        )
    if unknown:
        raise ValueError(
            f"{name!r} holds types that are not trusted: {', '.join(sorted(unknown))}. "
            "If you know where it comes from, load it in Python with skops.io.load."
        )
    model = skops_io.load(path, trusted=list(TRUSTED_TYPES))
    if not isinstance(model, Pipeline) or not isinstance(model[0], DiffusionQAFeatures):
        raise ValueError(
            f"{name!r} is not a Pipeline that begins with DiffusionQAFeatures, as "
            "'diffqa fit' writes it. Use its predict in Python."
        )
    return model
