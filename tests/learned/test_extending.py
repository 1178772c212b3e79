"""The learned method that the docs write out does all that the library's own do."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from interruptions import Interrupted, interrupted_before_step
from sklearn.base import clone, is_regressor
from sklearn.model_selection import GridSearchCV, GroupKFold

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))
from latent_regressor import LatentRegressor

Y = np.array([1.0, 5.0, 2.0, 4.0, 3.0, 2.5])


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8))


@pytest.fixture
def model(small_folder):
    return LatentRegressor(
        str(small_folder), width=4, image_size=64, batch_size=4, max_epochs=2
    )


def same(first, second):
    assert first.weights_.keys() == second.weights_.keys()
    for name, value in first.weights_.items():
        np.testing.assert_array_equal(value, second.weights_[name])


def test_the_file_is_as_short_as_the_docs_say():
    path = Path(__file__).parents[2] / "docs" / "latent_regressor.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 85


def test_it_learns(model, images):
    model.set_params(max_epochs=300, learning_rate=3e-2).fit(images, Y)
    losses = [record["loss"] for record in model.history_]
    assert losses[-1] < 0.2 * losses[0]
    assert np.corrcoef(model.predict(images), Y)[0, 1] > 0.9


def test_stopped_saved_and_gone_on_with(model, images, tmp_path):
    whole = clone(model).fit(images, Y)
    model.set_params(checkpoint_dir=tmp_path / "runs")
    with interrupted_before_step(3), pytest.raises(Interrupted):
        model.fit(images, Y)
    same(model.fit(images, Y), whole)
    expected = model.predict(images)
    model.save_pretrained(tmp_path / "model")
    loaded = LatentRegressor.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(images), expected)
    again = pickle.loads(pickle.dumps(model)).set_params(warm_start=True)
    again.fit(images, Y)
    assert [record["epoch"] for record in again.history_] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"'width' .* fitted with 4"):
        again.set_params(width=8).predict(images)


def test_groups_weights_and_bad_rows(model, images, tmp_path):
    assert is_regressor(model)
    missing = str(tmp_path / "missing.png")
    model.set_params(validation_fraction=0.4, on_error="nan")
    with pytest.warns(RuntimeWarning, match="1 of 7 rows"):
        model.fit(
            [*images, missing],
            [*Y, 3.0],
            groups=[0, 0, 1, 1, 2, 2, 2],
            sample_weight=np.arange(1, 8),
        )
    assert "validation_srcc" in model.history_[-1]
    with pytest.warns(RuntimeWarning, match="1 of 2 rows"):
        predicted = model.predict([images[0], missing])
    assert np.isnan(predicted).tolist() == [False, True]


def test_in_a_search(model, images):
    search = GridSearchCV(model, {"width": [2, 4]}, cv=GroupKFold(2))
    search.fit(images, Y, groups=[0, 0, 1, 1, 2, 2])
    assert search.best_params_["width"] in (2, 4)
