"""Our estimator contract, over every public transformer.

scikit-learn's `check_estimator` runs one check on estimators that do not take 2-D
arrays, so it is stated here again for media.
"""

import inspect
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import polars
import pytest
import skops.io
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from diffqa_features import (
    DiffusionQAFeatures,
    FeatureStore,
    MotionFeatures,
    PromptAlignmentMaps,
)

SMALL = {"image_size": 64, "device": "cpu", "dtype": "float32", "blocks": "mid*"}


def transformers(folder):
    return {
        "features": DiffusionQAFeatures(str(folder), **SMALL),
        "maps": PromptAlignmentMaps(str(folder), map_size=(2, 3), **SMALL),
        "motion": MotionFeatures(device="cpu", dtype="float32"),
    }


# A parameter that changes what is computed, and settings to search over.
CHANGES = {"MotionFeatures": {"pooling": "std"}}
GRIDS = {"MotionFeatures": {"f__pooling": ["mean", ("mean", "std")]}}


def of(table, estimator, default):
    return table.get(type(estimator).__name__, default)


@pytest.fixture(params=["features", "maps", "motion"])
def estimator(request, sd1_folder):
    return transformers(sd1_folder)[request.param]


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8))


TARGET = np.array([1.0, 5.0, 2.0, 4.0, 3.0, 2.5])


def test_constructor_only_stores(estimator):
    """Every parameter is kept as the very object that came in."""
    signature = inspect.signature(type(estimator))
    given = {name: object() for name in signature.parameters}
    made = type(estimator)(**given)
    assert {name: vars(made)[name] for name in given} == given
    assert set(vars(made)) == set(given)


def test_clone_and_set_params(estimator, images):
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params()
    before = estimator.transform(images[:1])
    copy.set_params(**of(CHANGES, estimator, {"random_state": 7}))
    assert (copy.transform(images[:1]) != before).any()
    np.testing.assert_array_equal(estimator.transform(images[:1]), before)


def test_clone_keeps_the_store(estimator, tmp_path):
    store = FeatureStore(tmp_path)
    copy = clone(estimator.set_params(memory=store))
    assert copy.memory == store


def test_sklearns_own_check(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it skips the rest
        check_estimator(estimator)


def test_stateless(estimator, images):
    check_is_fitted(estimator)
    unfitted = estimator.transform(images)
    fitted = clone(estimator).fit(images, TARGET)
    assert set(vars(fitted)) == set(estimator.get_params())
    np.testing.assert_array_equal(fitted.transform(images), unfitted)
    np.testing.assert_array_equal(fitted.fit_transform(images, TARGET), unfitted)


def test_transform_changes_no_parameter(estimator, images):
    before = estimator.get_params()
    estimator.transform(images)
    assert estimator.get_params() == before
    assert set(vars(estimator)) - set(before) == {"failed_"}


def test_input_is_not_written_to(estimator, images):
    copies = [image.copy() for image in images]
    estimator.transform(images)
    for image, copy in zip(images, copies, strict=True):
        np.testing.assert_array_equal(image, copy)


def test_output_is_float32_and_named(estimator, images):
    matrix = estimator.transform(images)
    names = estimator.get_feature_names_out()
    assert matrix.dtype == np.float32
    assert matrix.shape == (len(images), len(names))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("library", "frame"), [("pandas", pd.DataFrame), ("polars", polars.DataFrame)]
)
def test_set_output(estimator, images, library, frame):
    plain = estimator.transform(images)
    table = clone(estimator).set_output(transform=library).fit_transform(images)
    assert isinstance(table, frame)
    assert list(table.columns) == list(estimator.get_feature_names_out())
    np.testing.assert_array_equal(table.to_numpy(), plain)


def test_maps_are_arrays_whatever_set_output_says(sd1_folder, images):
    maps = transformers(sd1_folder)["maps"].set_output(transform="pandas")
    assert maps.maps(images[:2]).shape == (2, 2, 2, 3)


def test_html_repr_names_the_class(estimator):
    assert type(estimator).__name__ in estimator._repr_html_()


def test_a_pickle_holds_no_weights(estimator, images, tmp_path):
    pipeline = Pipeline([("f", estimator), ("svr", SVR())]).fit(images, TARGET)
    data = pickle.dumps(pipeline)
    assert len(data) < 20_000
    expected = pipeline.predict(images)
    np.testing.assert_array_equal(pickle.loads(data).predict(images), expected)
    joblib.dump(pipeline, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(loaded.predict(images), expected)


def test_skops_loads_with_the_published_list(estimator, images, tmp_path):
    from diffqa_features import TRUSTED_TYPES

    estimator.set_params(memory=FeatureStore(tmp_path / "store"))
    pipeline = Pipeline([("f", estimator), ("svr", SVR())]).fit(images, TARGET)
    path = tmp_path / "model.skops"
    skops.io.dump(pipeline, path)
    assert set(skops.io.get_untrusted_types(file=path)) <= set(TRUSTED_TYPES)
    loaded = skops.io.load(path, trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(loaded.predict(images), pipeline.predict(images))


def test_in_a_union_and_a_column_transformer(sd1_folder, images):
    parts = transformers(sd1_folder)
    union = FeatureUnion(list(parts.items()))
    expected = np.hstack([part.transform(images) for part in parts.values()])
    np.testing.assert_array_equal(union.fit_transform(images), expected)
    assert len(union.get_feature_names_out()) == expected.shape[1]
    table = pd.DataFrame({"path": images, "exposure": TARGET})
    columns = ColumnTransformer(
        [("f", parts["features"], "path"), ("rest", "passthrough", ["exposure"])]
    )
    mixed = columns.fit_transform(table)
    np.testing.assert_array_equal(mixed[:, -1], TARGET)
    np.testing.assert_allclose(mixed[:, :-1], parts["features"].transform(images))
    assert columns.get_feature_names_out()[0].startswith("f__t50__mid.0")


def test_in_a_grid_search_and_cross_validation(estimator, images):
    pipeline = Pipeline([("f", estimator), ("scale", StandardScaler()), ("svr", SVR())])
    groups = [0, 0, 1, 1, 2, 2]
    grid = of(GRIDS, estimator, {"f__timesteps": [(5,), (60,)]})
    search = GridSearchCV(pipeline, grid, cv=GroupKFold(3), error_score="raise")
    search.fit(images, TARGET, groups=groups)
    ((name, values),) = grid.items()
    assert search.best_params_[name] in values
    predicted = cross_val_predict(
        pipeline, images, TARGET, groups=groups, cv=GroupKFold(3)
    )
    assert np.isfinite(predicted).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": (1000,)}, "'timesteps' parameter of .* Got \\(1000,\\)"),
        ({"timesteps": ()}, "'timesteps'"),
        ({"timesteps": (5, 5)}, "'timesteps'"),
        ({"timesteps": (0.5,)}, "'timesteps'"),
        ({"timesteps": True}, "'timesteps'"),
        ({"prompts": []}, "'prompts'"),
        ({"prompts": [3]}, "'prompts'"),
        ({"blocks": "up4*"}, "up4"),
        ({"blocks": []}, "No block is named"),
        ({"view": "letterbox"}, "'view'"),
        ({"image_size": 100}, "multiple of 64 .*64 or 128"),
        ({"image_size": -1}, "'image_size'"),
        ({"random_state": None}, "'random_state'"),
        ({"frame_rate": 0}, "'frame_rate'"),
        ({"frame_rate": float("inf")}, "'frame_rate'"),
        ({"frame_rate": float("nan")}, "'frame_rate'"),
        ({"max_frames": 0}, "'max_frames'"),
    ],
)
@pytest.mark.parametrize("name", ["features", "maps"])
def test_bad_parameters_of_a_backbone(sd1_folder, images, name, change, message):
    refuses(transformers(sd1_folder)[name].set_params(**change), images, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "slowfast_r101"}, "'weights' parameter must be 'tiny'"),
        ({"weights": 3}, "'weights'"),
        ({"pooling": "max"}, "'pooling'"),
        ({"pooling": ()}, "'pooling'"),
        ({"pooling": ("std", "std")}, "'pooling'"),
    ],
)
def test_bad_parameters_of_motion(images, change, message):
    refuses(MotionFeatures().set_params(**change), images, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": 3}, "'memory'"),
        ({"dtype": "float8"}, "'dtype'"),
        ({"batch_size": 0}, "'batch_size'"),
        ({"on_error": "ignore"}, "'on_error'"),
        ({"reader": "ffmpeg"}, "'reader'"),
        ({"n_jobs": 1.5}, "'n_jobs'"),
    ],
)
def test_bad_parameters(estimator, images, change, message):
    refuses(estimator.set_params(**change), images, message)


def refuses(estimator, images, message):
    for call in (estimator.fit, estimator.transform):
        with pytest.raises(ValueError, match=message):
            call(images)


def test_a_single_path_is_refused(estimator):
    with pytest.raises((ValueError, TypeError), match="list"):
        estimator.transform("photo.jpg")


def test_no_rows_are_refused(estimator):
    with pytest.raises(ValueError, match="0 sample"):
        estimator.transform([])
