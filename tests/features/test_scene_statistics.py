"""Natural-scene statistics: estimators on samples of known shape, and the grammar."""

import pickle

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from scipy.special import gamma
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import FeatureStore, NaturalSceneStatistics
from diffqa_features.datasets import load_sample_photos
from diffqa_features.features._scene_statistics import (
    fit_asymmetric,
    fit_symmetric,
    neighbour_products,
    normalise,
)


@pytest.fixture(scope="module")
def photos():
    return load_sample_photos().data


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
def test_symmetric_fit_recovers_the_shape(shape):
    x = stats.gennorm(shape, scale=0.7).rvs(400_000, random_state=0)
    expected = [shape, 0.49 * gamma(3 / shape) / gamma(1 / shape)]
    np.testing.assert_allclose(fit_symmetric(x), expected, rtol=0.03)


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0])
@pytest.mark.parametrize(("left", "right"), [(1.0, 1.0), (0.3, 0.9), (2.0, 0.5)])
def test_asymmetric_fit_recovers_all_parameters(shape, left, right):
    # A side is met in proportion to its width, so that the density is continuous.
    rng = np.random.default_rng(1)
    size = np.abs(stats.gennorm(shape).rvs(600_000, random_state=rng))
    is_left = rng.random(size.size) < left / (left + right)
    x = np.where(is_left, -left * size, right * size)
    variance = gamma(3 / shape) / gamma(1 / shape)
    found = fit_asymmetric(x)
    assert found[0] == pytest.approx(shape, rel=0.03)
    assert found[1] == pytest.approx(x.mean(), abs=0.01 * size.mean())
    assert found[2:] == pytest.approx(
        [left**2 * variance, right**2 * variance], rel=0.03
    )


def test_one_sided_samples_have_a_fit():
    x = np.abs(stats.norm.rvs(size=100_000, random_state=2))
    shape, mean, left, right = fit_asymmetric(x)
    assert shape == pytest.approx(2, rel=0.03)
    assert mean == pytest.approx(x.mean(), rel=0.02)
    assert (left, right) == (0, pytest.approx(1, rel=0.02))


def test_normalise_equals_a_weighted_sum_at_one_pixel(photos):
    luma = photos[2] @ np.array([0.299, 0.587, 0.114])
    y, x = np.mgrid[-3:4, -3:4]
    weight = np.exp(-(x**2 + y**2) / (2 * (7 / 6) ** 2))
    weight /= weight.sum()
    for i, j in ((50, 60), (100, 31)):
        patch = luma[i - 3 : i + 4, j - 3 : j + 4]
        mean = (weight * patch).sum()
        deviation = np.sqrt((weight * (patch - mean) ** 2).sum())
        expected = (luma[i, j] - mean) / (deviation + 1)
        assert normalise(luma)[i, j] == pytest.approx(expected, rel=1e-9)


def test_neighbour_products_equal_a_loop():
    x = np.random.default_rng(3).normal(size=(4, 5))
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        expected = [
            x[i, j] * x[i + down, j + right]
            for i in range(4 - down)
            for j in range(5)
            if 0 <= j + right < 5
        ]
        np.testing.assert_array_equal(
            neighbour_products(x, down, right).ravel(), expected
        )


def test_values_follow_the_distortion(photos):
    table = NaturalSceneStatistics().set_output(transform="pandas")
    rng = np.random.default_rng(4)
    noisy = [np.clip(p + rng.normal(0, 25, p.shape), 0, 255) for p in photos]
    blurred = [
        np.asarray(Image.fromarray(p).resize((48, 48)).resize((192, 192)))
        for p in photos
    ]
    clean = table.fit_transform(photos)
    noisy = table.transform([p.astype(np.uint8) for p in noisy])
    blurred = table.transform(blurred)
    # Natural MSCN coefficients have heavy tails; noise leaves none, as its deviation
    # is the same everywhere and part of it is in the divisor.
    assert clean["scale1_mscn_shape"].median() < 2
    assert (noisy["scale1_mscn_shape"] > 2.5).all()
    assert (blurred["scale1_mscn_variance"] < clean["scale1_mscn_variance"]).all()
    assert (blurred["gradient_mean"] < clean["gradient_mean"]).all()
    assert (noisy["chroma_gradient_mean"] > clean["chroma_gradient_mean"]).all()


def test_appearance_of_a_drawn_picture():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = (255, 0, 0)
    table = NaturalSceneStatistics().set_output(transform="pandas")
    row = table.fit_transform([image]).iloc[0]
    assert row["luminance_mean"] == pytest.approx(0.299 / 2)
    assert row["luminance_std"] == pytest.approx(0.299 / 2)
    assert row["luminance_skew"] == pytest.approx(0, abs=1e-4)
    assert row["luminance_range"] == pytest.approx(0.299)
    assert (row["dark_fraction"], row["bright_fraction"]) == (0.5, 0)
    assert (row["saturation_mean"], row["saturation_std"]) == (0.5, 0.5)
    assert (row["red_green_std"], row["yellow_blue_std"]) == (0.5, 0.25)
    # Hasler and Suesstrunk's formula by hand.
    expected = np.hypot(0.5, 0.25) + 0.3 * np.hypot(0.5, 0.25)
    assert row["colorfulness"] == pytest.approx(expected)
    # Central differences see the step in two of 32 columns, half of it in each.
    assert row["gradient_mean"] == pytest.approx(0.299 / 2 * 2 / 32)


def test_fifty_finite_numbers_also_for_flat_pictures(photos):
    flat = [np.full((64, 48, 3), value, np.uint8) for value in (0, 77, 200, 255)]
    found = NaturalSceneStatistics().fit_transform([*photos, *flat])
    assert found.shape == (len(photos) + 4, 50)
    assert np.isfinite(found).all()
    assert len(set(NaturalSceneStatistics().get_feature_names_out())) == 50
    # Rounding of the filters must not be described as a texture.
    np.testing.assert_allclose(found[-4:, :36] % 10, 0, atol=1e-9)


def test_rows_are_independent_of_each_other(photos):
    whole = NaturalSceneStatistics().transform(photos[:4])
    for i in (3, 1):
        single = NaturalSceneStatistics().transform([photos[i]])
        np.testing.assert_array_equal(single[0], whole[i])


def test_paths_pictures_and_arrays_are_the_same(photos, tmp_path):
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    forms = [tmp_path / "a.png", Image.fromarray(photos[0]), photos[0]]
    found = NaturalSceneStatistics().transform(forms)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_frames_are_averaged(photos):
    still = NaturalSceneStatistics().transform(photos[:3])
    clip = NaturalSceneStatistics().transform([np.stack(photos[:3])])
    assert still.dtype == np.float32
    # Averaged in float64, and rounded once: a difference of statistics may lie near 0.
    np.testing.assert_allclose(clip[0], still.mean(axis=0), rtol=1e-5, atol=1e-6)
    middle = NaturalSceneStatistics(max_frames=1).transform([np.stack(photos[:3])])
    np.testing.assert_array_equal(middle[0], still[1])


def test_grammar(photos):
    baseline = NaturalSceneStatistics(max_frames=4)
    assert clone(baseline).get_params()["max_frames"] == 4
    assert vars(clone(baseline).fit(photos[:1])) == vars(baseline)
    assert len(pickle.dumps(baseline)) < 1000
    model = make_pipeline(NaturalSceneStatistics(), StandardScaler(), SVR())
    y = np.arange(6.0)
    assert model.fit(photos[:6], y).predict(photos[6:9]).shape == (3,)


def test_a_store_gives_what_was_computed(photos, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(photos[0]).save(path)
    kept = NaturalSceneStatistics(memory=tmp_path / "store")
    first = kept.transform([path])
    np.testing.assert_array_equal(first, NaturalSceneStatistics().transform([path]))
    store = FeatureStore(tmp_path / "store")
    assert store.info().entries == 1
    np.testing.assert_array_equal(kept.transform([photos[0], path])[1], first[0])
    # The array has a key of its own; another number of frames too.
    assert store.info().entries == 2
    kept.set_params(max_frames=1).transform([path])
    assert store.info().entries == 3


def test_unreadable_rows_are_nan_and_listed(photos):
    baseline = NaturalSceneStatistics(on_error="nan")
    with pytest.warns(RuntimeWarning, match="1 of 3 rows could not be read"):
        found = baseline.transform([photos[0], "missing.png", photos[1]])
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()
    assert [index for index, _ in baseline.failed_] == [1]


def test_processes_share_rows(photos):
    rows = photos[:3]
    np.testing.assert_array_equal(
        NaturalSceneStatistics(n_jobs=2).transform(rows),
        NaturalSceneStatistics().transform(rows),
    )


@pytest.mark.parametrize("method", ["fit", "transform"])
def test_bad_parameter(method, photos):
    message = "The 'max_frames' parameter of NaturalSceneStatistics must be"
    with pytest.raises(ValueError, match=message):
        getattr(NaturalSceneStatistics(max_frames=0), method)(photos[:1])


def test_small_picture_is_named(photos):
    with pytest.raises(ValueError, match=r"Row 1 \(array\): 40 x 15 pixels"):
        NaturalSceneStatistics().transform([photos[0], photos[0][:15, :40]])
