"""`DistilledStudentRegressor` as its user meets it: any teacher, target and search."""

import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from counting import counting
from PIL import Image
from sklearn.base import BaseEstimator, RegressorMixin, clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from diffqa_features import (
    TRUSTED_TYPES,
    DiffusionQAFeatures,
    DistilledStudentRegressor,
    FeatureStore,
    datasets,
)
from diffqa_features._media.views import cut_tiles, stitch_maps
from diffqa_features.metrics import srcc_score

Y = np.array([1.0, 5.0, 2.0, 4.0, 3.0, 2.5])
SMALL = {
    "network": "tiny",
    "image_size": 64,
    "max_epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def more():
    return list(np.random.default_rng(1).integers(0, 256, (4, 80, 64, 3), np.uint8))


class Brightness(RegressorMixin, BaseEstimator):
    """Mean of the pixels, by a line that is fitted; it counts what it is asked."""

    asked = 0

    def __init__(self, shift=0.0):
        self.shift = shift

    def fit(self, X, y):
        means = np.array([np.mean(x) for x in X])
        self.line_ = np.polyfit(means, y, 1)
        return self

    def predict(self, X):
        type(self).asked += len(X)
        return np.polyval(self.line_, [np.mean(x) for x in X]) + self.shift


class Mapping(Brightness):
    """With maps: the picture itself on a grid of four by three."""

    mapped = 0

    def quality_maps(self, X):
        type(self).mapped += len(X)
        return np.stack([self.map(x) for x in X])

    @staticmethod
    def map(x):
        picture = np.asarray(Image.fromarray(x).resize((3, 4), Image.Resampling.BOX))
        return np.moveaxis(picture, 2, 0).astype(np.float32) / 255


class Told:
    """Reads its answer from the table."""

    def predict(self, X):
        return np.asarray(X["score"], float)


@pytest.fixture
def teacher(images):
    return Brightness().fit(images, Y)


@pytest.fixture
def mapping(images):
    return Mapping().fit(images, Y)


def make(teacher=None, **changes):
    return DistilledStudentRegressor(teacher, **{**SMALL, **changes})


def same(first, second):
    assert first.weights_.keys() == second.weights_.keys()
    for name, value in first.weights_.items():
        np.testing.assert_array_equal(value, second.weights_[name])


# -- the contract of an estimator ------------------------------------------------------


def test_it_is_a_regressor_and_no_transformer(teacher):
    assert is_regressor(make(teacher))
    assert not hasattr(make(teacher), "transform")
    assert not hasattr(make(teacher), "fit_transform")


def test_unfitted(images):
    for call in (lambda: make().predict(images), lambda: make().export_onnx("x.onnx")):
        with pytest.raises(NotFittedError):
            call()
    assert not hasattr(make(), "quality_maps")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": 3}, "'teacher'"),
        ({"teacher": Brightness}, r"'teacher' .* not its class: Brightness\(\)"),
        ({"network": "efficientnet_b9"}, "'network' parameter must be 'tiny', .*b7"),
        ({"network": 3}, "'network'"),
        ({"weights": "google/efficientnet-b0"}, "'weights' .* None for network='tiny'"),
        ({"image_size": 32}, "'image_size'"),
        ({"view": "fit"}, "'view'"),
        ({"normalization": "vae"}, "'normalization'"),
        ({"head": "mlp"}, "'head'"),
        ({"target": "student"}, "'target'"),
        ({"map_weight": -1}, "'map_weight'"),
        ({"flip": 2}, "'flip'"),
        ({"crop_size": 65}, "'crop_size' .* at most the image_size, 64"),
        ({"crop_size": 64, "head": "map"}, "crop_size needs a student without"),
        ({"milestones": (0,)}, "'milestones'"),
        ({"milestones": 3}, "'milestones'"),
        ({"lr_decay": 0.0}, "'lr_decay'"),
        ({"max_grad_norm": 0}, "'max_grad_norm'"),
        ({"random_state": None}, "'random_state'"),
        ({"memory": 3}, "'memory'"),
    ],
)
def test_bad_parameters(images, teacher, change, message):
    with pytest.raises(ValueError, match=message):
        make(**{"teacher": teacher, **change}).fit(images, Y)


def test_bad_data(images, teacher):
    for change, args, message in (
        ({"teacher": None}, (images,), "needs y with teacher=None"),
        ({"teacher": Brightness()}, (images,), "needs y with a teacher that is not"),
        ({"target": "both"}, (images,), "needs y with target='both'"),
        ({"teacher": None}, (images, Y, None, images), "X_unlabelled needs a teacher"),
        ({}, (images, Y[:5]), "inconsistent"),
        ({}, ([*images[:5], np.zeros((3, 64, 64, 3), np.uint8)],), "Row 5.*clip"),
        ({}, ([*images[:5], "nowhere.png"],), "Row 5.*no such file"),
        ({}, (images[:1],), "two"),
        ({"max_epochs": 0, "dtype": "float8"}, (images,), "'dtype'"),
    ):
        model = make(teacher).set_params(**change)
        with pytest.raises((ValueError, OSError), match=message):
            model.fit(*args)
        assert not hasattr(model, "weights_")


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("predict", lambda X: np.zeros((len(X), 2)), r"predict\(\).* shape \(6, 2\)"),
        ("predict", lambda X: np.full(len(X), np.nan), "no finite value for 6 of 6"),
        ("quality_maps", lambda X: np.zeros((len(X), 8)), "one map"),
    ],
)
def test_a_teacher_that_says_nonsense(images, mapping, method, value, message):
    setattr(mapping, method, value)
    with pytest.raises(ValueError, match=message):
        make(mapping).fit(images)


# -- teachers ------------------------------------------------------------------------


def test_an_unfitted_teacher_is_fitted_first(images):
    unfitted = Brightness()
    model = make(unfitted).fit(images, Y)
    assert not hasattr(unfitted, "line_")
    np.testing.assert_array_equal(
        model.teacher_.line_, Brightness().fit(images, Y).line_
    )
    fitted = make(model.teacher_).fit(images)
    same(model, fitted)
    assert fitted.teacher_ is model.teacher_


def test_the_teacher_is_asked_once_per_picture(images, more, mapping, tmp_path):
    Mapping.asked = Mapping.mapped = 0
    model = make(mapping, max_epochs=3, memory=tmp_path)
    model.fit([*images, images[0]], X_unlabelled=[*more, images[1]])
    assert (Mapping.asked, Mapping.mapped) == (10, 10)
    again = clone(model).set_params(teacher=mapping, learning_rate=1e-2)
    again.fit([*images, images[0]], X_unlabelled=[*more, images[1]])
    assert (Mapping.asked, Mapping.mapped) == (10, 10)  # all from the store
    # Where neither a score nor a map is wanted, none is asked for.
    other = Mapping(shift=1).fit(images, Y)
    make(other, target="truth", memory=tmp_path).fit(images, Y)
    assert (Mapping.asked, Mapping.mapped) == (10, 16)
    make(other, map_weight=0, memory=tmp_path).fit(images, Y)
    assert (Mapping.asked, Mapping.mapped) == (16, 16)


def test_one_pass_gives_scores_and_maps_where_the_teacher_can(images, mapping):
    class Both(Mapping):
        def predict(self, X):
            raise RuntimeError("asked twice")

        def quality_maps(self, X, return_scores=False):
            maps = super().quality_maps(X)
            return (maps, np.arange(len(X)) + 0.5) if return_scores else maps

    model = make(Both().fit(images, Y), max_epochs=0).fit(images)
    assert model.intercept_ == pytest.approx(3.0)


def test_another_teacher_is_another_entry(images, tmp_path):
    """A parameter, what was fitted, the frozen model: each makes another teacher."""
    store = FeatureStore(tmp_path)
    teachers = [
        Brightness().fit(images, Y),
        Brightness().fit(images, Y[::-1]),
        Brightness(shift=1).fit(images, Y),
    ]
    for teacher in teachers:
        model = make(teacher, max_epochs=0, memory=store).fit(images)
        assert model.intercept_ == pytest.approx(teacher.predict(images).mean())
    assert store.info().entries == 18


def test_a_changed_backbone_is_another_teacher(images, small_folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(small_folder, tmp_path / "backbone")
    features = DiffusionQAFeatures(
        str(folder), image_size=64, blocks="down0*", device="cpu"
    )
    teacher = make_pipeline(features, Ridge()).fit(images, Y)
    store = FeatureStore(tmp_path / "store")
    model = make(FrozenEstimator(teacher), max_epochs=0, memory=store)
    model.fit(images)
    with counting(folder) as count:
        model.fit(images)
    assert count.unet_rows == 0
    before = model.intercept_
    path = next((folder / "unet").glob("*.safetensors"))
    weights = load_file(path)
    save_file({k: v * 1.5 for k, v in weights.items()}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="not the one that it was fitted with"):
        model.fit(images)
    teacher[0].fit(images)
    changed = model.fit(images).intercept_
    assert changed != before
    assert changed == pytest.approx(teacher.predict(images).mean())


def test_a_teacher_that_only_predicts(images):
    class Duck:
        def predict(self, X):
            return np.array([x.mean() for x in X])

    model = make(Duck(), max_epochs=0).fit(images)
    assert model.intercept_ == pytest.approx(np.mean([x.mean() for x in images]))


def test_a_student_teaches(images, mapping):
    first = make(mapping).fit(images)
    second = make(first, max_epochs=0).fit(images)
    assert second.map_shape_ == [3, 4, 3]
    assert second.intercept_ == pytest.approx(first.predict(images).mean())


def test_a_table_with_columns_reaches_the_teacher(images, tmp_path):
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    table = pd.DataFrame(
        {"path": [str(tmp_path / f"{i}.png") for i in range(6)], "score": Y}
    )
    model = make(Told(), max_epochs=0, memory=tmp_path / "store").fit(table)
    assert model.intercept_ == pytest.approx(Y.mean())
    hub = pytest.importorskip("datasets", "4.0", reason="needs datasets")
    again = make(Told(), max_epochs=0).fit(hub.Dataset.from_pandas(table))
    assert again.intercept_ == pytest.approx(Y.mean())
    changed = table.assign(score=Y + 1)
    assert model.fit(changed).intercept_ == pytest.approx(Y.mean() + 1)


# -- targets and losses ----------------------------------------------------------------


@pytest.mark.parametrize("target", ["teacher", "truth", "both"])
def test_what_the_score_is_compared_with(images, more, target):
    teacher = Brightness(shift=2).fit(images, Y)
    model = make(teacher, target=target, max_epochs=0)
    model.fit(images, Y, X_unlabelled=more)
    taught = teacher.predict([*images, *more])
    expected = {
        "teacher": taught[:6],
        "truth": Y,
        "both": (taught[:6] + Y) / 2,
    }[target]
    expected = np.append(expected, taught[6:])
    assert model.intercept_ == pytest.approx(expected.mean())
    assert model.slope_ == pytest.approx(expected.std())


def test_the_first_loss_by_hand(images, mapping):
    """One batch of all pictures: MSE over variances, from the network's own outputs."""
    model = make(mapping, target="both", map_weight=3.0, batch_size=6, max_epochs=1)
    model.fit(images, Y)
    network = model._make_network({"kind": "tiny"}, "pooled", [3, 4, 3]).train()
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    scores, maps = (part.detach().numpy() for part in network(pixels))
    taught = mapping.predict(images)
    both = (taught + Y) / 2
    predicted = both.mean() + both.std() * scores
    wanted = np.stack([mapping.map(image) for image in images])
    loss = (((predicted - taught) ** 2 + (predicted - Y) ** 2) / 2).mean() / both.var()
    loss += 3.0 * np.square(maps - wanted / wanted.std()).mean()
    assert model.history_[0]["loss"] == pytest.approx(loss, rel=1e-4)


def test_flips_turn_pictures_and_maps(images, mapping):
    """Seen mirrored with its mirrored map, a picture is another; each epoch anew."""
    from diffqa_features.learned.student.loss import flip

    turned = torch.tensor([True, False])
    pixels = torch.from_numpy(np.stack(images[:2])).permute(0, 3, 1, 2) / 255
    seen = flip(pixels, turned).numpy()
    np.testing.assert_allclose(seen[0].transpose(1, 2, 0), images[0][:, ::-1] / 255)
    np.testing.assert_allclose(seen[1].transpose(1, 2, 0), images[1] / 255)
    plain, flipped = (make(mapping, flip=f).fit(images) for f in (False, True))
    assert np.abs(plain.predict(images) - flipped.predict(images)).max() > 1e-6
    same(flipped, make(mapping, flip=True).fit(images))
    # Of pictures that are their own mirror image nothing changes.
    even = [np.concatenate([x[:, :32], x[:, 31::-1]], 1) for x in images]
    models = [make(mapping, flip=f).fit(even).predict(even) for f in (False, True)]
    np.testing.assert_allclose(*models, rtol=1e-5)


def test_crops_are_squares_of_the_pictures(images, teacher):
    from diffqa_features.learned.student.loss import draw_crops

    pixels = np.stack(images)
    generators = [torch.Generator().manual_seed(i) for i in range(40)]
    rows = np.arange(40) % 6
    crops = draw_crops(pixels, rows, 61, generators)
    where = []
    for row, crop in zip(rows, crops, strict=True):
        every = np.lib.stride_tricks.sliding_window_view(pixels[row], (61, 61, 3))
        found = np.argwhere((every[:, :, 0] == crop).all((2, 3, 4)))
        assert len(found) == 1
        where += found.tolist()
    assert {top for top, _ in where} == {left for _, left in where} == {0, 1, 2, 3}
    whole, part = (make(teacher, crop_size=s).fit(images) for s in (64, 40))
    same(whole, make(teacher).fit(images))
    assert np.abs(part.predict(images) - whole.predict(images)).max() > 1e-4


# -- training ------------------------------------------------------------------------


def test_it_learns_what_its_teacher_says():
    """Noise of procedural pictures, and then of ones that it has not seen."""
    pictures = datasets.make_procedural_images(16, image_size=64)
    data = datasets.make_distorted_images(
        pictures, families="white_noise", image_size=64
    )
    test = np.isin(data.groups, np.unique(data.groups)[:6])
    known = {x.tobytes(): t for x, t in zip(data.data, 10 * data.target, strict=True)}

    class Levels:
        def predict(self, X):
            return np.array([known[x.tobytes()] for x in X])

    student = make(
        Levels(), max_epochs=16, batch_size=10, learning_rate=2e-3, milestones=(8, 12)
    )
    student.fit([data.data[i] for i in np.flatnonzero(~test)])
    predicted = student.predict([data.data[i] for i in np.flatnonzero(test)])
    wanted = 10 * data.target[test]
    assert srcc_score(wanted, predicted) > 0.75
    constant = np.abs(wanted - np.median(wanted)).mean()
    # 12 seeds: 0.36 to 0.73, and SRCC of 0.81 to 0.93.
    assert np.abs(predicted - wanted).mean() < 0.8 * constant


def test_prediction_is_the_network_as_it_was_trained(images, mapping):
    """Folded normalisation and channels-last change nothing but speed."""
    model = make(mapping).fit(images)
    network = model._make_network(
        model.architecture_, model.head_, model.map_shape_
    ).eval()
    model._load_weights(network)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    scores, maps = (part.detach().numpy() for part in network(pixels))
    expected = model.intercept_ + model.slope_ * scores
    np.testing.assert_allclose(model.predict(images), expected, rtol=1e-4)
    np.testing.assert_allclose(
        model.quality_maps(images), model.map_scale_ * maps, atol=1e-5
    )


def test_maps_of_tiles_are_one_map_of_the_whole(images, mapping):
    model = make(mapping).fit(images)
    large = np.concatenate(images[:2], 1)
    (whole,) = model.quality_maps([large], tiles=True)
    tiles, windows = cut_tiles(large, model.image_size_)
    maps = model.quality_maps(tiles)
    expected = stitch_maps(maps, windows, maps.shape[2:])
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-5)


def test_half_precision(images, mapping):
    exact = make(mapping).fit(images).predict(images)
    model = make(mapping, dtype="bfloat16").fit(images)
    assert all(v.dtype in (np.float32, np.int64) for v in model.weights_.values())
    assert np.abs(model.predict(images) - exact).max() < 0.2 * exact.std() + 0.2


def test_validation_holds_groups_out_and_keeps_the_best(images, more, teacher):
    groups = [0, 0, 1, 1, 2, 2]
    model = make(teacher, validation_fraction=0.3, max_epochs=4, patience=4)
    model.fit(images, groups=groups, X_unlabelled=more)
    scores = [record["validation_srcc"] for record in model.history_]
    _, held = model._split(np.zeros(6), groups)
    held = [images[i] for i in held]
    kept = srcc_score(teacher.predict(held), model.predict(held))
    assert kept == pytest.approx(max(scores))


def test_warm_start_keeps_the_maps(images, mapping, teacher):
    model = make(mapping, warm_start=True).fit(images)
    first = model.predict(images)
    facts = model.slope_, model.map_scale_
    model.set_params(max_epochs=0).fit(images[:4])
    np.testing.assert_array_equal(model.predict(images), first)
    assert (model.slope_, model.map_scale_) == facts
    model.set_params(max_epochs=1).fit(images)
    assert [record["epoch"] for record in model.history_] == [1, 2, 3]
    model.set_params(teacher=teacher).fit(images)  # the maps stay as they are
    assert model.map_shape_ == [3, 4, 3]
    plain = make(teacher, warm_start=True).fit(images)
    with pytest.raises(ValueError, match="warm_start=True goes on"):
        plain.set_params(teacher=mapping).fit(images)


def test_training_holds_no_pictures_in_memory(tmp_path):
    """Views lie on disk: 120 files of 64 pixels to the side take no memory for long."""
    rng = np.random.default_rng(0)
    paths = []
    for index in range(120):
        image = rng.integers(0, 256, (64, 64, 3), np.uint8)
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(image).save(paths[-1])

    class Index:
        def predict(self, X):
            return np.arange(len(X), dtype=float)

    model = make(Index(), image_size=256, max_epochs=0)
    model.fit(paths[:2])  # what is loaded once
    tracemalloc.start()
    model.fit(paths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * 120 * 256 * 256 * 3


# -- among other estimators ------------------------------------------------------------


def test_in_a_pipeline_and_a_search(images, teacher):
    model = Pipeline([("same", FunctionTransformer()), ("student", make(teacher))])
    np.testing.assert_allclose(
        model.fit(images, Y).predict(images),
        make(Brightness()).fit(images, Y).predict(images),
    )
    Brightness.asked = 0
    search = GridSearchCV(
        make(FrozenEstimator(teacher)),
        {"learning_rate": [1e-3, 1e-2], "head": ["pooled"]},
        cv=GroupKFold(3),
        error_score="raise",
    )
    search.fit(images, Y, groups=[0, 0, 1, 1, 2, 2])
    line = search.best_estimator_.teacher_.estimator.line_
    np.testing.assert_array_equal(line, teacher.line_)  # clone kept what was fitted


def test_a_pickle_and_skops_keep_what_was_trained(images, small_folder, tmp_path):
    features = DiffusionQAFeatures(str(small_folder), image_size=64, blocks="down0*")
    model = make(make_pipeline(features, Ridge())).fit(images, Y)
    expected = model.predict(images)
    content = pickle.dumps(model)
    trained = sum(value.nbytes for value in model.weights_.values())
    assert trained < len(content) < trained + 60_000  # no network, no backbone
    np.testing.assert_array_equal(pickle.loads(content).predict(images), expected)
    skops.io.dump(model, tmp_path / "model.skops")
    unknown = skops.io.get_untrusted_types(file=tmp_path / "model.skops")
    assert set(unknown) <= set(TRUSTED_TYPES)
    loaded = skops.io.load(tmp_path / "model.skops", trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(loaded.predict(images), expected)
    teacher = loaded.teacher_.predict(images)
    np.testing.assert_allclose(teacher, model.teacher_.predict(images))


def test_refitted_it_predicts_with_the_new_weights(images, teacher):
    """The network that predicts is kept beside the estimator, and not too long."""
    model = make(teacher).fit(images)
    first = model.predict(images)
    second = model.set_params(max_epochs=1).fit(images).predict(images)
    assert np.abs(first - second).max() > 1e-4
    with pytest.raises(ValueError, match=r"'view' .* fitted with 'stretch'"):
        model.set_params(view="crop").predict(images)
