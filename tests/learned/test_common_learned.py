"""What every learned estimator does: fit again, go on, resume, weigh, skip bad rows."""

import functools
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import test_controller
import test_diffvqa
import test_dpiqa
import test_genziqa
import test_genzvqa
import test_student
import torch
from interruptions import Interrupted, interrupted_before_step
from sklearn.base import clone

from diffqa_features.learned._regression import weighted_srcc
from diffqa_features.metrics import srcc_score

Y = np.array([1.0, 5.0, 2.0, 4.0, 3.0, 2.5])


def make_student(folder, **changes):
    teacher = test_student.Mapping().fit(test_controller.make_images(), Y)
    return test_student.make(teacher, **changes)


MAKERS = {
    "genziqa": test_genziqa.make_model,
    "genzvqa": test_genzvqa.make_model,
    "dpiqa": test_dpiqa.make_model,
    "diffvqa": test_diffvqa.make_model,
    "controller": test_controller.make_model,
    "student": make_student,
}
# Smaller views, a part of each pass, and fewer timesteps to read for the lines.
LESS = {
    "blocks": ["down0.0", "mid.0"],
    "timestep_range": (48, 50),
    "image_size": 32,
}
CHEAPER = {
    "genziqa": LESS,
    "genzvqa": {**LESS, "error_bias": False, "n_timesteps": 1},
    "dpiqa": {"image_size": 32},
    "controller": {"image_size": 32},
}
REGRESSORS = sorted(MAKERS.keys() - {"controller"})
# A parameter that the weights belong to, another value, and that of `make`.
ARCHITECTURE = {
    "genziqa": ("lora_rank", 3, "fitted with 2"),
    "genzvqa": ("modulator", False, "fitted with True"),
    "dpiqa": ("train_unet", False, "fitted with True"),
    "diffvqa": ("width", 4, "fitted with 8"),
    "student": ("head", "pooled", "fitted with 'auto'"),
}
# Not in the architecture, and yet another training.
ANOTHER_RUN = {
    "genziqa": {"timestep_range": (0, 90)},
    "genzvqa": {"timestep_range": (0, 90)},
    "dpiqa": {"ranking_weight": 0.1},
    "diffvqa": {"loss": "l1"},
    "controller": {"learning_rate": 2e-3},
    "student": {"map_weight": 0.5},
}


@pytest.fixture(scope="module")
def images():
    return test_controller.make_images()


@pytest.fixture(scope="module")
def rows(images):
    clips = {"genzvqa": test_genzvqa.make_clips(), "diffvqa": test_diffvqa.make_clips()}
    return {name: clips.get(name, images) for name in MAKERS}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def make(small_folder, store):
    """Estimators by name, of two epochs of two steps; features are computed once."""

    def make(name, **changes):
        changes = {**CHEAPER.get(name, {}), **changes}
        return MAKERS[name](small_folder, memory=store, **changes)

    return make


@pytest.fixture(scope="module")
def kept(make, rows):
    found = {}

    def fitted(name):
        if name not in found:
            found[name] = pickle.dumps(make(name).fit(rows[name], Y))
        return pickle.loads(found[name])

    return fitted


@pytest.fixture(params=sorted(MAKERS))
def name(request):
    return request.param


@pytest.fixture
def fitted(name, kept):
    return kept(name)


@pytest.fixture(scope="module")
def begun(make, rows):
    """Not trained yet: only their line is drawn."""
    return functools.cache(lambda name: make(name, max_epochs=0).fit(rows[name], Y))


@pytest.fixture
def X(name, rows):
    return rows[name]


def output(model, X):
    return model.predict(X) if hasattr(model, "predict") else model.transform(X)


def line(model):
    return getattr(model, "slope_", None), getattr(model, "intercept_", None)


def same_weights(first, second, **tolerance):
    assert first.weights_.keys() == second.weights_.keys()
    for key, value in first.weights_.items():
        np.testing.assert_allclose(
            value, second.weights_[key], **(tolerance or {"rtol": 0})
        )


# -- fit -----------------------------------------------------------------------------


def test_fit_again_gives_the_same_weights(name, make, fitted, X):
    """Another estimator, the same one once more, and in inference mode."""
    before = torch.random.get_rng_state()
    model = make(name).fit(X, Y)
    same_weights(model, fitted)
    assert torch.equal(torch.random.get_rng_state(), before)
    first = output(model, X)
    with torch.inference_mode():
        same_weights(model.fit(X, Y), fitted)
        np.testing.assert_array_equal(output(model, X), first)
    np.testing.assert_array_equal(output(model, X), first)
    other = model.set_params(random_state=1).fit(X, Y)
    assert np.abs(output(other, X) - first).max() > 1e-4


def test_accumulation_changes_nothing_but_memory(name, make, fitted, X):
    model = make(name)
    if name == "diffvqa":  # its loss compares all clips of a step
        assert "gradient_accumulation_steps" not in model.get_params()
        return
    batch = {"batch_size": 5} if name == "student" else {}  # and a last batch of one
    parts = make(name, **batch, gradient_accumulation_steps=5).fit(X, Y)
    if name == "student":  # the parts are normalised one by one
        whole = make(name, **batch).fit(X, Y)
        assert [r["epoch"] for r in parts.history_] == [1, 2]
        assert np.isfinite(parts.predict(X)).all()
        assert np.abs(parts.predict(X) - whole.predict(X)).max() > 0
        return
    # Adam divides by the size of a gradient: where that is near 0, its rounding counts.
    same_weights(parts, fitted, atol=2e-4 if name in ("dpiqa", "controller") else 2e-5)


def test_warm_start_goes_on(name, fitted, X):
    first = {key: value.copy() for key, value in fitted.weights_.items()}
    before = line(fitted)
    fitted.set_params(warm_start=True, max_epochs=0).fit(X, 3 * Y)  # nothing happens
    assert line(fitted) == before
    for key, value in fitted.weights_.items():
        np.testing.assert_array_equal(value, first[key])
    fitted.set_params(max_epochs=1).fit(X, Y)
    assert [record["epoch"] for record in fitted.history_] == [1, 2, 3]
    changed = [(fitted.weights_[key] != first[key]).any() for key in first]
    assert all(changed) if name == "controller" else any(changed)
    if name in ARCHITECTURE:
        parameter, value, message = ARCHITECTURE[name]
        with pytest.raises(ValueError, match=f"'{parameter}' .* {message}"):
            fitted.set_params(**{parameter: value}).fit(X, Y)


def test_an_error_leaves_it_as_it_was(name, fitted, kept, X):
    fitted.set_params(learning_rate=1e30, max_epochs=50)
    with pytest.raises(FloatingPointError, match=r"became .* in step \d+ of epoch \d+"):
        fitted.fit(X, Y)
    before = kept(name)
    same_weights(fitted, before)
    assert fitted.history_ == before.history_
    assert line(fitted) == line(before)


def test_a_stopped_training_goes_on(name, make, fitted, X, tmp_path):
    """In the second of two epochs of two steps; another training is another file."""
    model = make(name, checkpoint_dir=tmp_path)
    with interrupted_before_step(3), pytest.raises(Interrupted):
        model.fit(X, Y)
    assert not hasattr(model, "weights_")
    same_weights(model.fit(X, Y), fitted)
    assert model.history_ == fitted.history_
    assert len(list(tmp_path.iterdir())) == 1
    model.set_params(**ANOTHER_RUN[name]).fit(X, Y)
    assert len(list(tmp_path.iterdir())) == 2


def test_neighbours_and_order_do_not_matter(name, fitted, X):
    fitted.set_params(memory=None)  # computed anew
    X = [X[i] for i in (0, 2, 3, 5)]  # of clips, short and long ones and a picture
    together = output(fitted, X)
    np.testing.assert_array_equal(output(fitted, X), together)
    scale, near = 1.0, {"rtol": 0, "atol": 1e-4 * Y.std()}
    if name in ("genziqa", "genzvqa"):
        # Rounding of float32 in scores of about 40, in the units of y.
        near["atol"] += 1e-5 * abs(fitted.slope_) * 50
    elif name == "dpiqa":
        near["atol"] = 1e-5
    elif name == "student":
        near = {"rtol": 1e-5}
    elif name == "controller":
        scale = np.abs(together).max(0) + 1e-3  # 0 where a map has one place only
    backwards = output(fitted, X[::-1])[::-1]
    alone = np.concatenate([output(fitted, [row]) for row in X])
    np.testing.assert_allclose(backwards / scale, together / scale, **near)
    np.testing.assert_allclose(alone / scale, together / scale, **near)


def test_columns_of_a_table_are_known(name, make, X):
    model = make(name, max_epochs=0).fit(pd.DataFrame({"path": X}), Y)
    assert model.feature_names_in_.tolist() == ["path"]
    assert not hasattr(model.fit(X, Y), "feature_names_in_")


# -- rows that cannot be read ----------------------------------------------------------


def test_bad_rows_are_left_out(name, make, fitted, X, tmp_path):
    """Of training and, as NaN, of what comes out; each is listed."""
    missing = str(tmp_path / "missing.png")
    rows, target = [*X, missing], np.append(Y, 4.0)
    with pytest.raises((ValueError, OSError), match=r"[Rr]ow 6 \('.*missing.png'\)"):
        make(name).fit(rows, target)
    with pytest.raises((ValueError, OSError), match=r"[Rr]ow 6 \('.*missing.png'\)"):
        output(fitted, rows)
    model = make(name, on_error="nan")
    with pytest.warns(RuntimeWarning, match="1 of 7 rows could not be read and were"):
        model.fit(rows, target)
    same_weights(model, fitted)
    assert [index for index, _ in model.failed_] == [6]
    expected = output(model, X)
    assert model.failed_ == []
    with pytest.warns(RuntimeWarning, match="1 of 7 rows .* and are NaN") as caught:
        found = output(model, [*X[:2], missing, *X[2:]])
    assert sum("could not be read" in str(w.message) for w in caught) == 1
    assert [index for index, _ in model.failed_] == [2]
    assert "missing.png" in model.failed_[0][1]
    assert np.isnan(found[2]).all()
    np.testing.assert_allclose(np.delete(found, 2, 0), expected, rtol=1e-4, atol=1e-4)
    with pytest.warns(RuntimeWarning, match="2 of 2 rows"):
        nothing = output(model, [missing, missing])
    assert nothing.shape == (2, *expected.shape[1:])
    assert nothing.dtype == expected.dtype
    assert np.isnan(nothing).all()
    with pytest.raises(ValueError, match="No row can be read"):
        model.fit([missing, missing], [1.0, 2.0])
    same_weights(model, fitted)


@pytest.mark.parametrize("name", ["genzvqa", "diffvqa"])
def test_frames_of_bad_rows_are_none(fitted, X, tmp_path):
    fitted.set_params(on_error="nan")
    with pytest.warns(RuntimeWarning):
        found = fitted.frame_scores([str(tmp_path / "missing.mp4"), X[1]])
    assert len(found[0]["score"]) == 0
    expected = fitted.frame_scores([X[1]])[0]["score"]
    np.testing.assert_allclose(found[1]["score"], expected, rtol=1e-5)


# -- what a row counts -----------------------------------------------------------------

weighted = pytest.mark.parametrize("name", REGRESSORS)


@weighted
def test_equal_weights_change_nothing(name, make, fitted, X):
    model = make(name).fit(X, Y, sample_weight=np.full(6, 3.0))
    same_weights(model, fitted, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(model.predict(X), fitted.predict(X), rtol=1e-3)


@weighted
def test_a_weight_of_nothing_is_a_row_that_is_not_there(name, make, X):
    """All chance follows from the place of a row, so the last one is left out."""
    without = make(name).fit(X[:5], Y[:5])
    model = make(name).fit(X, Y, sample_weight=[1, 1, 1, 1, 1, 0])
    same_weights(model, without, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(line(model), line(without), rtol=1e-6)


@weighted
def test_a_weight_counts_like_equal_rows_in_the_line(name, make, begun, X):
    counts = np.array([1, 3, 1, 2, 1, 1])
    order = np.repeat(np.arange(6), counts)
    # Target and features are scaled by what counts in training, before any step.
    twice = make(name, max_epochs=0).fit([X[i] for i in order], Y[order])
    model = make(name, max_epochs=0).fit(X, Y, sample_weight=0.1 * counts)
    np.testing.assert_allclose(line(model), line(twice), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.predict(X), twice.predict(X), rtol=1e-3)
    assert np.abs(np.subtract(line(model), line(begun(name)))).max() > 1e-3


# Those whose step draws nothing; the others give each row noise of its own.
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dpiqa", {}),
        ("diffvqa", {"n_crops": 1}),
        ("diffvqa", {"n_crops": 1, "loss": "l1"}),
    ],
)
def test_a_weight_counts_like_equal_rows_in_the_loss(name, changes, make, X):
    counts = np.array([1, 3, 1, 2, 1, 1])
    order = np.repeat(np.arange(6), counts)
    changes = {**changes, "batch_size": 16, "max_epochs": 2, "learning_rate": 1e-3}
    twice = make(name, **changes).fit([X[i] for i in order], Y[order])
    model = make(name, **changes).fit(X, Y, sample_weight=counts)
    plain = make(name, **changes).fit(X, Y)
    found, expected = model.predict(X), twice.predict(X)
    assert np.abs(plain.predict(X) - expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    losses = [[r["loss"] for r in each.history_] for each in (model, twice)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_weights_reach_the_validation(make, rows):
    X, weight = rows["dpiqa"], np.array([1.0, 9.0, 2.0, 7.0, 3.0, 5.0])
    groups = [0, 0, 0, 1, 1, 1]
    model = make("dpiqa", validation_fraction=0.5, max_epochs=2, learning_rate=1e-2)
    model.fit(X, Y, groups=groups, sample_weight=weight)
    _, held = model._split(Y, groups)
    predicted = model.predict([X[i] for i in held])
    scores = [record["validation_srcc"] for record in model.history_]
    kept = weighted_srcc(Y[held], predicted, weight[held])
    assert kept == pytest.approx(max(scores))
    order = np.repeat(np.arange(len(held)), weight[held].astype(int))
    assert kept == pytest.approx(srcc_score(Y[held][order], predicted[order]))


@weighted
def test_weights_that_are_none(name, make, X):
    model = make(name)
    for weight, message in (
        ([1, 1, -1, 1, 1, 1], "Row 2: sample_weight is -1.0"),
        ([1, 1, 1, np.nan, 1, 1], "Row 3: sample_weight is nan"),
        ([1, 1], "inconsistent numbers"),
        ([0, 0, 0, 0, 0, 1], "at least two rows"),
        (np.full(6, 1e308), r"The sum .* the largest is 1e\+308"),
        (np.ma.array(np.ones(6), mask=np.arange(6) == 4), "first in row 4"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(X, Y, sample_weight=weight)
    assert not hasattr(model, "weights_")


@weighted
def test_scores_with_a_mask_and_dates_are_refused(name, make, X):
    for y, message in (
        (
            np.ma.array(Y, mask=np.arange(6) == 2),
            r"y has 1 masked values, the first in row 2",
        ),
        (pd.to_datetime(Y, unit="D"), "y must hold numbers, and these are times"),
        ([1, 2, 10**400, 3, 4, 5], "Row 2: y is 1000"),
    ):
        with pytest.raises(ValueError, match=message):
            make(name).fit(X, y)


@pytest.mark.parametrize("name", ["student"])
def test_scores_may_be_a_tensor(name, make, fitted, X):
    again = make(name).fit(X, torch.from_numpy(Y))
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))


@pytest.mark.parametrize("name", ["student"])
def test_a_seed_is_one_that_every_part_can_take(name, make, X):
    """Or the split failed, and the rows were said to be too few."""
    model = make(name, random_state=2**40, validation_fraction=0.5)
    with pytest.raises(ValueError, match=r"'random_state' .* 4294967295"):
        model.fit(X, Y, groups=range(6))


@pytest.mark.parametrize("name", ["student"])
def test_a_folder_of_checkpoints_is_tried_before_the_training(name, make, X, tmp_path):
    (tmp_path / "file").touch()
    model = make(name, checkpoint_dir=tmp_path / "file", max_epochs=0)
    with pytest.raises(OSError, match="cannot be written: File exists"):
        model.fit(X, Y)


def test_a_weighted_correlation_is_that_of_equal_rows():
    rng = np.random.default_rng(0)
    y, scores = rng.integers(0, 5, 30).astype(float), rng.normal(size=30)
    counts = rng.integers(1, 6, 30)
    order = np.repeat(np.arange(30), counts)
    expected = srcc_score(y[order], scores[order])
    assert weighted_srcc(y, scores, 0.37 * counts) == pytest.approx(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert weighted_srcc(np.ones(30), scores, counts) == 0


def test_clones_forget(name, fitted):
    assert not hasattr(clone(fitted), "weights_")
