"""Our estimator contract, over every public transformer and what is learned.

scikit-learn's `check_estimator` runs one check on estimators that do not take 2-D
arrays, so it is stated here again for media.
"""

import functools
import inspect
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import polars
import pytest
import skops.io
from sklearn import config_context
from sklearn.base import clone, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from diffqa_features import (
    DiffusionController,
    DiffusionQAFeatures,
    DiffVQARegressor,
    DistilledStudentRegressor,
    DPIQARegressor,
    FeatureStore,
    GenzIQARegressor,
    GenzVQARegressor,
    MotionFeatures,
    PromptAlignmentMaps,
)
from diffqa_features._utils.checks import InOrder

SMALL = {"image_size": 32, "device": "cpu", "dtype": "float32", "blocks": "mid*"}


def transformers(folder):
    return {
        "features": DiffusionQAFeatures(str(folder), **SMALL),
        "maps": PromptAlignmentMaps(str(folder), map_size=(2, 3), **SMALL),
        "motion": MotionFeatures(device="cpu", dtype="float32"),
    }


def regressors(folder):
    quick = {
        "n_context": 2,
        "lora_rank": 1,
        "error_bias": False,
        "n_timesteps": 1,
        "timestep_range": (50, 51),
        "max_epochs": 1,
        **SMALL,
    }
    return {
        "genziqa": GenzIQARegressor(str(folder), **quick),
        "genzvqa": GenzVQARegressor(str(folder), **quick),
        "dpiqa": DPIQARegressor(
            str(folder),
            scenes=["photo"],
            distortions=["noise"],
            train_unet=False,
            image_size=32,
            max_epochs=1,
            device="cpu",
            dtype="float32",
        ),
        "diffvqa": DiffVQARegressor(
            str(folder),
            control=False,
            image_size=64,
            width=4,
            mamba_size=16,
            mamba_width=4,
            mamba_layers=1,
            max_epochs=1,
            device="cpu",
            dtype="float32",
        ),
    }


def student():
    return DistilledStudentRegressor(
        network="tiny", image_size=64, max_epochs=1, device="cpu", dtype="float32"
    )


def controller(folder):
    settings = {"image_size": 32, "device": "cpu", "dtype": "float32"}
    return DiffusionController(str(folder), max_epochs=1, **settings)


def estimators(folder):
    learned = regressors(folder) | {"controller": controller(folder)}
    learned["student"] = student()
    return transformers(folder) | learned


TRANSFORMERS = ("features", "maps", "motion")
REGRESSORS = ("genziqa", "genzvqa", "dpiqa", "diffvqa")  # and transformers
# What is asked of a student too, which transforms nothing.
everyone = pytest.mark.parametrize(
    "name", [*TRANSFORMERS, *REGRESSORS, "controller", "student"]
)

# A parameter that changes what is computed, and settings to search over.
CHANGES = {"motion": {"pooling": "std"}}
GRIDS = {
    "controller": {"f__last_timestep": [0, 60]},
    "motion": {"f__pooling": ["mean", ("mean", "std")]},
    **{name: {"f__lora_rank": [0, 1]} for name in ("genziqa", "genzvqa")},
    "dpiqa": {"f__train_unet": [True, False]},
    "diffvqa": {"f__views": ["crop", ("resize", "crop")]},
}


def test_whatever_samples_frames_can_sample_bursts(small_folder):
    sampling = {"frame_rate", "max_frames", "frames", "burst_length"}
    for name, estimator in estimators(small_folder).items():
        known = sampling & estimator.get_params().keys()
        assert known in (set(), sampling), name


@pytest.fixture(params=(*TRANSFORMERS, *REGRESSORS, "controller"))
def name(request):
    return request.param


@pytest.fixture
def estimator(name, small_folder):
    return estimators(small_folder)[name]


@pytest.fixture
def ready(name, fitted):
    """The same, fitted where it needs to be; each test gets one of its own."""
    return pickle.loads(fitted[name])


@pytest.fixture(scope="module")
def piped(fitted, few):
    """By name a pipeline of fitted parts, as bytes, and what it predicts."""

    @functools.cache
    def make(name):
        ready = pickle.loads(fitted[name])
        matrix = ready.transform(few)
        svr = SVR().fit(matrix, TARGET[: len(few)])
        pipeline = Pipeline([("f", ready), ("svr", svr)])
        return pickle.dumps(pipeline), pipeline.predict(few)

    return make


@pytest.fixture(params=TRANSFORMERS)
def transformer(request, small_folder):
    return transformers(small_folder)[request.param]


@pytest.fixture(params=(*REGRESSORS, "student"))
def regressor(request, small_folder):
    return estimators(small_folder)[request.param]


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def few(images):
    """For what is asked of any row."""
    return images[:3]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """For what is asked of fitting: features of the images are computed once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def fitted(small_folder, images, store):
    """By name, as bytes; they compute features anew."""
    found = {}
    for name, estimator in estimators(small_folder).items():
        estimator.set_params(memory=store).fit(images, TARGET)
        found[name] = pickle.dumps(estimator.set_params(memory=None))
    return found


TARGET = np.array([1.0, 5.0, 2.0, 4.0, 3.0, 2.5])


@everyone
def test_constructor_only_stores(estimator):
    """Every parameter is kept as the very object that came in."""
    signature = inspect.signature(type(estimator))
    given = {name: object() for name in signature.parameters}
    made = type(estimator)(**given)
    assert {name: vars(made)[name] for name in given} == given
    assert set(vars(made)) == set(given)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_clone_and_set_params(name, estimator, images):
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params()
    before = estimator.transform(images[:1])
    copy.set_params(**CHANGES.get(name, {"random_state": 7}))
    assert (copy.transform(images[:1]) != before).any()
    np.testing.assert_array_equal(estimator.transform(images[:1]), before)


@everyone
def test_clone_keeps_the_store(estimator, tmp_path):
    store = FeatureStore(tmp_path)
    copy = clone(estimator.set_params(memory=store))
    assert copy.memory == store


@everyone
def test_sklearns_own_check(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it skips the rest
        check_estimator(estimator)


def test_stateless(transformer, few):
    check_is_fitted(transformer)
    unfitted = transformer.transform(few)
    fitted = clone(transformer).fit(few, TARGET[:3])
    # It learns nothing but which model it was.
    assert set(vars(fitted)) == {*transformer.get_params(), "frozen_identity_"}
    np.testing.assert_array_equal(fitted.transform(few), unfitted)
    np.testing.assert_array_equal(fitted.fit_transform(few, TARGET[:3]), unfitted)


def test_a_regressor_is_fitted_by_fit_alone(regressor, images, store):
    """Again gives the same; a clone is not fitted, and another seed differs."""
    regressor.set_params(memory=store)
    assert is_regressor(regressor)
    for verb in ("predict", "transform"):
        if hasattr(regressor, verb):
            with pytest.raises(NotFittedError):
                getattr(regressor, verb)(images)
    parameters = regressor.get_params()
    assert regressor.fit(images, TARGET) is regressor
    check_is_fitted(regressor)
    assert regressor.get_params() == parameters
    learned = set(vars(regressor)) - set(parameters)
    assert learned
    assert all(name.endswith("_") for name in learned)
    first = regressor.predict(images)
    assert first.shape == TARGET.shape
    assert first.dtype == np.float64
    np.testing.assert_array_equal(regressor.fit(images, TARGET).predict(images), first)
    other = clone(regressor).set_params(random_state=7)
    with pytest.raises(NotFittedError):
        other.predict(images)
    assert (other.fit(images, TARGET).predict(images) != first).any()
    np.testing.assert_array_equal(regressor.predict(images), first)


def test_rows_are_independent(ready, few):
    together = ready.transform(few)
    turned = ready.transform([few[i] for i in (2, 0)])
    np.testing.assert_allclose(turned, together[[2, 0]], rtol=1e-4, atol=1e-4)


def test_transform_changes_no_parameter(name, ready, few):
    before = ready.get_params()
    attributes = set(vars(ready))
    ready.transform(few)
    assert ready.get_params() == before
    new = set(vars(ready)) - attributes
    assert new == ({"failed_"} if name in TRANSFORMERS else set())


def test_input_is_not_written_to(estimator, few):
    copies = [image.copy() for image in few]
    estimator.fit_transform(few, TARGET[:3])
    for image, copy in zip(few, copies, strict=True):
        np.testing.assert_array_equal(image, copy)


def test_output_is_float32_and_named(ready, few):
    matrix = ready.transform(few[:1])
    names = ready.get_feature_names_out()
    assert matrix.dtype == np.float32
    assert matrix.shape == (1, len(names))
    assert len(set(names)) == len(names)


def test_set_output(ready, few, store):
    plain = ready.set_params(memory=store).transform(few)
    for library, frame in (("pandas", pd.DataFrame), ("polars", polars.DataFrame)):
        table = ready.set_output(transform=library).transform(few)
        assert isinstance(table, frame)
        assert list(table.columns) == list(ready.get_feature_names_out())
        np.testing.assert_array_equal(table.to_numpy(), plain)


def test_maps_are_arrays_whatever_set_output_says(small_folder, images):
    maps = transformers(small_folder)["maps"].set_output(transform="pandas")
    assert maps.maps(images[:2]).shape == (2, 2, 2, 3)


@everyone
def test_html_repr_names_the_class(estimator):
    assert type(estimator).__name__ in estimator._repr_html_()


def test_a_pickle_holds_no_backbone(name, piped, few, tmp_path):
    data, expected = piped(name)
    pipeline = pickle.loads(data)
    learned = getattr(pipeline[0], "weights_", {}).values()
    # Some words about each of them.
    assert len(data) < 20_000 + sum(value.nbytes + 400 for value in learned)
    np.testing.assert_array_equal(pipeline.predict(few), expected)
    joblib.dump(pipeline, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(loaded.predict(few), expected)


def test_skops_loads_with_the_published_list(name, piped, few, tmp_path):
    from diffqa_features import TRUSTED_TYPES

    data, expected = piped(name)
    pipeline = pickle.loads(data)
    pipeline[0].set_params(memory=FeatureStore(tmp_path / "store"))
    path = tmp_path / "model.skops"
    skops.io.dump(pipeline, path)
    assert set(skops.io.get_untrusted_types(file=path)) <= set(TRUSTED_TYPES)
    loaded = skops.io.load(path, trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(loaded.predict(few), expected)


def test_in_a_union_and_a_column_transformer(small_folder, few):
    parts = transformers(small_folder)
    union = FeatureUnion(list(parts.items()))
    expected = np.hstack([part.transform(few) for part in parts.values()])
    np.testing.assert_array_equal(union.fit_transform(few), expected)
    assert len(union.get_feature_names_out()) == expected.shape[1]
    table = pd.DataFrame({"path": few, "exposure": TARGET[:3]})
    columns = ColumnTransformer(
        [("f", parts["features"], "path"), ("rest", "passthrough", ["exposure"])]
    )
    mixed = columns.fit_transform(table)
    np.testing.assert_array_equal(mixed[:, -1], TARGET[:3])
    np.testing.assert_allclose(mixed[:, :-1], parts["features"].transform(few))
    assert columns.get_feature_names_out()[0].startswith("f__t50__mid.0")


def test_in_a_grid_search_and_cross_validation(name, estimator, images, store):
    images, target = images[:4], TARGET[:4]
    estimator.set_params(memory=store)
    pipeline = Pipeline([("f", estimator), ("scale", StandardScaler()), ("svr", SVR())])
    groups = [0, 0, 1, 1]
    grid = GRIDS.get(name, {"f__timesteps": [(5,), (60,)]})
    search = GridSearchCV(
        pipeline, grid, cv=GroupKFold(2), error_score="raise", refit=False
    )
    search.fit(images, target, groups=groups)
    ((searched, values),) = grid.items()
    assert search.best_params_[searched] in values
    predicted = cross_val_predict(
        pipeline, images, target, groups=groups, cv=GroupKFold(2)
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
        ({"prompts": ["cut \ud83d"]}, "'prompts' parameter .* must be Unicode text"),
        ({"blocks": "up4*"}, "up4"),
        ({"blocks": []}, "No block is named"),
        ({"view": "letterbox"}, "'view'"),
        ({"image_size": 100}, "multiple of 16 .*96 or 112"),
        ({"image_size": -1}, "'image_size'"),
        ({"random_state": None}, "'random_state'"),
        ({"frame_rate": 0}, "'frame_rate'"),
        ({"frame_rate": float("inf")}, "'frame_rate'"),
        ({"frame_rate": float("nan")}, "'frame_rate'"),
        ({"max_frames": 0}, "'max_frames'"),
    ],
)
@pytest.mark.parametrize("name", ["features", "maps"])
def test_bad_parameters_of_a_backbone(small_folder, images, name, change, message):
    refuses(transformers(small_folder)[name].set_params(**change), images, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"motion_network": "slowfast_r101"}, "'motion_network' parameter must be"),
        ({"motion_network": 3}, "'motion_network'"),
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
    ],
)
def test_bad_parameters(ready, images, change, message):
    refuses(ready.set_params(**change), images, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"on_error": "ignore"}, "'on_error'"),
        ({"reader": "ffmpeg"}, "'reader'"),
        ({"n_jobs": 1.5}, "'n_jobs'"),
    ],
)
def test_bad_parameters_of_a_transformer(transformer, images, change, message):
    refuses(transformer.set_params(**change), images, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_epochs": -1}, "'max_epochs'"),
        ({"learning_rate": 0}, "'learning_rate'"),
        ({"random_state": None}, "'random_state'"),
    ],
)
@pytest.mark.parametrize("name", [*REGRESSORS, "controller"])
def test_bad_parameters_of_what_is_learned(ready, images, change, message):
    refuses(ready.set_params(**change), images, message)


@everyone
def test_sequences_have_an_order(estimator, images):
    """Sets and dicts have another order in each process, and columns with them."""
    several = {
        name
        for name, allowed in type(estimator)._parameter_constraints.items()
        if any(isinstance(one, InOrder) for one in allowed)
    }
    given = estimator.get_params(deep=False)
    assert several >= {n for n, value in given.items() if type(value) is tuple} - {
        "map_size"  # a tuple or list, nothing else
    }
    for name in several:
        words = given[name]
        words = ["a", "b"] if isinstance(words, (str, type(None))) else list(words)
        table = dict.fromkeys(words)
        for value in (set(words), frozenset(words), table, table.keys()):
            changed = clone(estimator).set_params(**{name: value})
            with pytest.raises(ValueError, match=f"'{name}' .* a sequence with an ord"):
                changed.fit(images, TARGET)


def refuses(estimator, images, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(images, TARGET)
    with pytest.raises(ValueError, match=message):
        estimator.transform(images)


def test_a_single_path_is_refused(ready):
    with pytest.raises((ValueError, TypeError), match="list"):
        ready.transform("photo.jpg")
    with pytest.raises((ValueError, TypeError), match="list"):
        ready.fit("photo.jpg", TARGET)


def test_no_rows_are_refused(ready):
    with pytest.raises(ValueError, match="0 sample"):
        ready.transform([])


def test_a_regressor_needs_a_finite_score_per_row(regressor, images):
    for target, message in (
        (None, "needs y"),
        (TARGET[:3], "inconsistent"),
        ([1, np.nan, 2, 3, 4, 5], "Row 1: y is nan"),
        ([1, 2, None, 3, 4, 5], "Row 2: y is None. Drop rows"),
        (pd.array([1, 2, 3, pd.NA, 4, 5], "Float64"), "Row 3: y is (nan|<NA>). Drop"),
        ([1, 2, "good", 3, 4, 5], "Row 2: y is 'good', a str.*to_numeric"),
        (list("123456"), "Row 0: y is '1', a str"),
    ):
        with pytest.raises(ValueError, match=message):
            regressor.fit(images, target)


# -- groups and what is held out -----------------------------------------------------


GROUPS = np.repeat(["a", "b", "c"], 2)


def test_one_group_cannot_be_held_out(regressor, images):
    regressor.set_params(validation_fraction=0.5)
    with pytest.raises(ValueError, match="all rows are of one: 'a'"):
        regressor.fit(images, TARGET, groups=["a"] * 6)
    for missing in (None, np.nan, pd.NA, ""):
        groups = ["a", "a", "b", "b", missing, "c"]
        with pytest.raises(ValueError, match="group of row 4 is missing"):
            regressor.fit(images, TARGET, groups=groups)
    regressor.set_params(validation_fraction=0.99)
    with pytest.raises(ValueError, match="leaves 6 rows to train and 0 to validate"):
        regressor.fit(images, TARGET, groups=GROUPS)


def test_a_constant_score_is_said(regressor, images, store):
    regressor.set_params(memory=store)
    with pytest.warns(UserWarning, match="y is 3 for all 6 rows that train: there is"):
        regressor.fit(images, np.full(6, 3.0))
    target = np.where(GROUPS == "a", 1.0, TARGET)
    regressor.set_params(validation_fraction=0.3, random_state=0)
    held = GROUPS[regressor._split(target, GROUPS)[1]]
    target = np.where(np.isin(GROUPS, held), 2.0, TARGET)
    with pytest.warns(UserWarning, match="y is 2 for all 2 rows held out: no epoch"):
        regressor.fit(images, target, groups=GROUPS)


def test_routing_brings_groups_to_fit(regressor, images, store):
    """In cross-validation and searches, also inside of a Pipeline."""
    arrived = []

    def fit(self, X, y, groups=None):
        arrived.append(groups)
        return super(recording, self).fit(X, y, groups=groups)

    recording = type("Recording", (type(regressor),), {"fit": fit})
    model = recording(**regressor.get_params(deep=False))
    # What arrives does not depend on what is made of it.
    model.set_params(validation_fraction=0.5, max_epochs=0, memory=store)
    rows, target = [*images, *images[:2]], [*TARGET, 1.5, 4.5]
    groups = np.repeat(["a", "b", "c", "d"], 2)
    cv = GroupKFold(2)
    with config_context(enable_metadata_routing=True), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", r"Only \d+ rows train")
        cross_val_score(model, rows, target, params={"groups": groups}, cv=cv)
        pipeline = Pipeline([("model", model)])
        search = GridSearchCV(pipeline, {"model__random_state": [0, 1]}, cv=cv)
        search.fit(rows, target, groups=groups)
    folds = [groups[train] for train, _ in cv.split(rows, target, groups)]
    expected = [*folds, *folds, *folds, groups]
    assert [each.tolist() for each in arrived] == [each.tolist() for each in expected]


def test_without_routing_a_warning_says_how(regressor, images, store):
    # What is said does not depend on how long it trains.
    regressor.set_params(validation_fraction=0.5, max_epochs=0, memory=store)
    with pytest.warns(UserWarning, match=r"set_config\(enable_metadata_routing=True\)"):
        cross_val_predict(regressor, images, TARGET, groups=GROUPS, cv=GroupKFold(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", r"Only \d+ rows train")
        regressor.fit(images, TARGET, groups=range(6))
        regressor.set_params(validation_fraction=None, max_epochs=1)
        regressor.fit(images, TARGET)
