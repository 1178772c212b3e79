"""Features of frozen diffusion models for image and video quality assessment.

How data flows, room by room; imports point downwards only:

    X ── _media ──────> rows, frames (T, H, W, 3), content keys, views (T, h, w, 3)
         _backbone ───> latents, text states; the frozen UNet, observed at named blocks
         _engine ─────> the matrix (N, D), in order; _store keeps its parts
         features ────> scikit-learn transformers with named columns
         motion ──────> clips of frames, the two-pathway network, its transformer
         learned ─────> estimators that train beside the frozen model, or after one
         evaluation ──> splits, intervals, paired tests, ablations, efficiency
         inspection ──> displays
         _commands ───> the commands of `diffqa`, parsed in `cli`

    Beside it: `datasets` and `metrics`, which know nothing of torch, and `_utils`.

Letters for shapes: ``N`` media rows, ``T`` frames, ``H W`` pixels, ``h w`` UNet grid,
``C`` channels, ``L`` prompt tokens, ``K`` prompts, ``D`` features. An image is a clip
with T = 1.

Importing the package loads neither torch nor diffusers nor transformers; they load
when features are first computed.
"""

from importlib import import_module

__version__ = "0.1.0.dev0"

_HOMES = {
    "DPIQARegressor": "learned.dpiqa.regressor",
    "DiffusionController": "learned.control.controller",
    "DiffVQARegressor": "learned.diffvqa.regressor",
    "DiffusionQAFeatures": "features",
    "DistilledStudentRegressor": "learned.student.regressor",
    "FeatureStore": "_store.store",
    "MotionFeatures": "motion",
    "GenzIQARegressor": "learned.genziqa.regressor",
    "GenzVQARegressor": "learned.genzvqa.regressor",
    "PromptAlignmentMaps": "features",
    "TRUSTED_TYPES": "_utils.persistence",
}
_ROOMS = ("datasets", "evaluation", "inspection", "metrics")

__all__ = [
    "TRUSTED_TYPES",
    "DPIQARegressor",
    "DiffVQARegressor",
    "DiffusionController",
    "DiffusionQAFeatures",
    "DistilledStudentRegressor",
    "FeatureStore",
    "GenzIQARegressor",
    "GenzVQARegressor",
    "MotionFeatures",
    "PromptAlignmentMaps",
    "datasets",
    "evaluation",
    "inspection",
    "metrics",
]


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
