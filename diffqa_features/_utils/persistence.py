"""What a saved model may hold: the types that skops is told to trust."""

TRUSTED_TYPES = (
    "diffqa_features.features._alignment.PromptAlignmentMaps",
    "diffqa_features.features._diffusion.DiffusionQAFeatures",
    "diffqa_features._utils.logistic.LogisticMapping",
    "diffqa_features.features._scene_statistics.NaturalSceneStatistics",
    "diffqa_features._store.store.FeatureStore",
    "diffqa_features.motion._features.MotionFeatures",
    "diffqa_features.learned.control.controller.DiffusionController",
    "diffqa_features.learned.dpiqa.regressor.DPIQARegressor",
    "diffqa_features.learned.diffvqa.regressor.DiffVQARegressor",
    "diffqa_features.learned.genziqa.regressor.GenzIQARegressor",
    "diffqa_features.learned.genzvqa.regressor.GenzVQARegressor",
    "diffqa_features.learned.student.regressor.DistilledStudentRegressor",
    "diffqa_features.metrics.krcc_score",
    "diffqa_features.metrics.plcc_score",
    "diffqa_features.metrics.rmse",
    "diffqa_features.metrics.srcc_score",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "sklearn.metrics._scorer._Scorer",
    "sklearn.model_selection._split.GroupKFold",
)
"""Names for ``skops.io.load(file, trusted=TRUSTED_TYPES)``.

They are what skops does not trust by itself in this library's pipelines and in searches
over them. None runs code when it is loaded. A loaded model may still name a `memory`
folder and a `backbone`, which its `transform` would use.
"""
