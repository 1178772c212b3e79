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
         distributed ─> the same on many processes: batches in, Parquet files out
         _commands ───> the commands of `diffqa`, parsed in `cli`

    Beside it: `datasets` and `metrics`, which know nothing of torch, and `_utils`.

Letters for shapes: ``N`` media rows, ``T`` frames, ``H W`` pixels, ``h w`` UNet grid,
``C`` channels, ``L`` prompt tokens, ``K`` prompts, ``D`` features. An image is a clip
with T = 1.

Importing the package loads neither torch nor diffusers nor transformers; they load
when features are first computed.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

# Public name -> the module that it is fetched from at first use.
_HOMES = {
    "DPIQARegressor": "learned.dpiqa",
    "DiffVQARegressor": "learned.diffvqa",
    "DiffusionController": "learned.control",
    "DiffusionQAFeatures": "features",
    "DistilledStudentRegressor": "learned.student",
    "FeatureStore": "_store",
    "GenzIQARegressor": "learned.genziqa",
    "GenzVQARegressor": "learned.genzvqa",
    "MotionFeatures": "motion",
    "NaturalSceneStatistics": "features",
    "PromptAlignmentMaps": "features",
    "QualityScorer": "learned.scorer",
}
_FUNCTIONS = {"load_scorer": "learned.scorer"}
_ROOMS = ("datasets", "distributed", "evaluation", "inspection", "metrics")

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
    "NaturalSceneStatistics",
    "PromptAlignmentMaps",
    "QualityScorer",
    "datasets",
    "distributed",
    "evaluation",
    "inspection",
    "load_scorer",
    "metrics",
]

if TYPE_CHECKING:  # editors and type checkers read this; nothing is loaded
    from diffqa_features import (
        datasets,
        distributed,
        evaluation,
        inspection,
        metrics,
    )
    from diffqa_features._store import FeatureStore
    from diffqa_features.features import (
        DiffusionQAFeatures,
        NaturalSceneStatistics,
        PromptAlignmentMaps,
    )
    from diffqa_features.learned.control import DiffusionController
    from diffqa_features.learned.diffvqa import DiffVQARegressor
    from diffqa_features.learned.dpiqa import DPIQARegressor
    from diffqa_features.learned.genziqa import GenzIQARegressor
    from diffqa_features.learned.genzvqa import GenzVQARegressor
    from diffqa_features.learned.scorer import QualityScorer, load_scorer
    from diffqa_features.learned.student import DistilledStudentRegressor
    from diffqa_features.motion import MotionFeatures

    TRUSTED_TYPES: tuple[str, ...]
    """Names for ``skops.io.load(file, trusted=TRUSTED_TYPES)``.

    The types in this library's pipelines, and in searches over them, that skops does
    not trust by default. Loading them runs no code. A loaded model can still name a
    `memory` folder and a `backbone`, which its `transform` would use.
    """


def __getattr__(name):
    if home := _HOMES.get(name) or _FUNCTIONS.get(name):
        return getattr(import_module(f"{__name__}.{home}"), name)
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name == "TRUSTED_TYPES":
        return _name_trusted_types()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])


class _SavedElsewhere(MetaPathFinder):
    """Last import finder: says why a pickle of another version cannot be opened."""

    def find_spec(self, name, path=None, target=None):
        package, _, inside = name.partition(".")
        private = any(part.startswith("_") for part in inside.split("."))
        if package == __name__ and private:
            raise ModuleNotFoundError(
                f"This version of {__name__} has no module {name!r}. If a saved model "
                "asks for it, another version wrote the file: fit the model again.",
                name=name,
            )


sys.meta_path.append(_SavedElsewhere())


def _name_trusted_types():
    metrics = import_module(f"{__name__}.metrics")
    scores = metrics.krcc_score, metrics.plcc_score, metrics.rmse, metrics.srcc_score
    ours = [*map(__getattr__, _HOMES), metrics.LogisticMapping, *scores]
    return (
        *sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in ours),
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "sklearn.metrics._scorer._Scorer",
        "sklearn.model_selection._split.GroupKFold",
    )
