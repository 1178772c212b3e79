"""Features of frozen diffusion models for image and video quality assessment.

The data path, room by room::

    X ── _media ──> rows, frames (T, H, W, 3) and content keys
         _views ──> what the backbone sees (T, h, w, 3)
      _backbone ──> latents; noise; the frozen UNet
       _capture ──> one pass, observed at named blocks
       _pooling ──> vectors per (frame, timestep, prompt)      _store keeps them
        _engine ──> the matrix (N, D), in order, in batches
      _features, _alignment ──> scikit-learn transformers with named columns
         motion ──> clips of frames, the two-pathway network, its transformer
       learned ──> estimators that train beside the frozen model

Letters for shapes: ``N`` media rows, ``T`` frames, ``H W`` pixels, ``h w`` UNet grid,
``C`` channels, ``L`` prompt tokens, ``K`` prompts, ``D`` features. An image is a clip
with T = 1.

Importing the package loads neither torch nor diffusers nor transformers; they load
when features are first computed.
"""

from importlib import import_module

__version__ = "0.1.0.dev0"

_HOMES = {
    "DPIQARegressor": "learned._dpiqa",
    "DiffVQARegressor": "learned._diffvqa",
    "DiffusionController": "learned._controller",
    "DiffusionQAFeatures": "_features",
    "FeatureStore": "_store",
    "MotionFeatures": "motion",
    "GenzIQARegressor": "learned._genziqa",
    "PromptAlignmentMaps": "_alignment",
    "TRUSTED_TYPES": "_persistence",
}
_ROOMS = ("datasets", "evaluation", "inspection", "metrics")

__all__ = [
    "TRUSTED_TYPES",
    "DPIQARegressor",
    "DiffVQARegressor",
    "DiffusionController",
    "DiffusionQAFeatures",
    "FeatureStore",
    "GenzIQARegressor",
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
