"""`GenzIQARegressor` as its user meets it: any y, any search, and what it learns."""

import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from counting import counting
from hooks import hooks_on
from processor import needs_bfloat16_attention
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from diffqa_features import (
    TRUSTED_TYPES,
    DiffusionQAFeatures,
    FeatureStore,
    GenzIQARegressor,
    datasets,
)
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features.learned._presets import is_narrow
from diffqa_features.metrics import srcc_score

Y = np.array([1.0, 5.0, 2.0, 4.0, 3.0, 2.5])
CONTEXT = "context.vectors"


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8))


@pytest.fixture
def model(small_folder):
    """A small one, of a few seconds; nothing stays on the shared backbone."""
    backbone = load_backbone(str(small_folder), "cpu", "float32")
    before = {k: v.clone() for k, v in backbone.unet.state_dict().items()}
    yield make_model(small_folder)
    assert hooks_on(backbone.unet) == hooks_on(backbone._text_encoder) == 0
    for name, value in backbone.unet.state_dict().items():
        assert torch.equal(value, before[name])


def make_model(folder, **changes):
    settings = {
        "n_context": 3,
        "lora_rank": 2,
        "blocks": ["down0.*", "mid.0", "up1.1"],
        "n_timesteps": 2,
        "image_size": 64,
        "max_epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "device": "cpu",
    }
    return GenzIQARegressor(str(folder), **{**settings, **changes})


@pytest.fixture(scope="module")
def fitted(small_folder, images):
    return make_model(small_folder).fit(images, Y)


@pytest.fixture(scope="module")
def reseeded(small_folder, images):
    return make_model(small_folder, random_state=1).fit(images, Y)


def same_weights(first, second, exact=True):
    assert first.weights_.keys() == second.weights_.keys()
    for name, value in first.weights_.items():
        if exact:
            np.testing.assert_array_equal(value, second.weights_[name])
        else:
            np.testing.assert_allclose(value, second.weights_[name], atol=2e-5)


def rounding(fitted):
    """Of float32 in scores of about 40, in the units of y."""
    return 1e-4 * Y.std() + 1e-5 * abs(fitted.slope_) * 50


# -- units ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slope", "intercept"), [(0.2, 0.0), (20.0, 5.0), (-20.0, 100.0), (1e4, -3e5)]
)
def test_fits_and_predicts_in_the_units_of_y(model, fitted, images, slope, intercept):
    """MOS in [0, 1] or [0, 100], DMOS: one and the same training."""
    other = model.fit(images, intercept + slope * Y)
    expected = intercept + slope * fitted.predict(images)
    spread = abs(slope) * Y.std()
    np.testing.assert_allclose(other.predict(images), expected, atol=0.01 * spread)
    losses = [[r["loss"] for r in m.history_] for m in (fitted, other)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_untrained_scores_are_brought_to_y_by_least_squares(model, images):
    model.set_params(max_epochs=0)
    for y in (Y, 100 - 20 * Y):
        predicted = model.fit(images, y).predict(images)
        q = (predicted - model.intercept_) / model.slope_
        expected = np.polyval(np.polyfit(q - q.mean(), y, 1), q - q.mean())
        np.testing.assert_allclose(predicted, expected, atol=1e-3 * y.std())
        assert np.corrcoef(predicted, y)[0, 1] > 0


def test_untrained_is_the_frozen_features(sd1_folder, images):
    """With nothing to train Q is what `DiffusionQAFeatures` gives, put together."""
    settings = {"lora_rank": 0, "n_context": 0, "normalization": "vae"}
    model = make_model(sd1_folder, blocks="all", n_timesteps=1, **settings)
    model.fit(images, Y)
    features = DiffusionQAFeatures(
        str(sd1_folder),
        prompts=("Good Photo.", "Bad Photo."),
        image_size=64,
        device="cpu",
    ).set_output(transform="pandas")
    table = features.transform(images)
    alignment = table.filter(like="__alignment__").mean(axis=1)
    numbers = 4 * 8 * 8  # of a latent
    bias = table["t50__error__prompt0-prompt1"] * numbers**0.5
    q = (alignment + bias).to_numpy(float)
    scores = (model.predict(images) - model.intercept_) / model.slope_
    np.testing.assert_allclose(scores, q, atol=2e-3)
    assert model.history_ == []
    assert model.weights_ == {}


# -- training ------------------------------------------------------------------------


def test_none_stands_for_settings_of_the_backbone(sd1_folder, images, tmp_path):
    """Files hold what it stood for."""
    model = GenzIQARegressor(str(sd1_folder), n_timesteps=1, device="cpu")
    assert model._value("learning_rate") == 3e-3
    assert model.set_params(learning_rate=1e-5)._value("learning_rate") == 1e-5
    model.fit(images[:2], Y[:2]).save_pretrained(tmp_path)
    assert len(model.history_) == 4
    assert GenzIQARegressor.from_pretrained(tmp_path).max_epochs == 4
    wide = SimpleNamespace(blocks=[SimpleNamespace(channels=320)])
    assert not is_narrow(wide)


def test_only_what_is_switched_on_is_trained(model, images):
    names = {"context": {"n_context": 0}, "lora": {"lora_rank": 0}}
    for left_out, change in names.items():
        trained = clone(model).set_params(**change).fit(images, Y)
        kinds = {name.split(".")[0] for name in trained.weights_}
        assert kinds == {"context", "lora"} - {left_out}


def test_every_switch_changes_the_prediction(model, fitted, images):
    images, y = images[:2], Y[:2]
    # Two epochs: the first step of Adam does not depend on the size of a gradient.
    model.set_params(batch_size=2, max_epochs=2, n_timesteps=1)
    plain = clone(model).fit(images, y).predict(images)
    for change in (
        {"context_position": "end"},
        {"head": "linear"},
        {"blocks": "down*"},
        {"error_bias": False},
        {"pooling_lambda": 1.0},
        {"timestep_range": (900, 1000)},
        {"normalization": "vae"},
        {"prompts": ("sharp.", "blurred.", "noisy.")},
        {"weight_decay": 0.5},
        {"max_grad_norm": 1e-3},
    ):
        other = clone(model).set_params(**change).fit(images, y).predict(images)
        assert np.abs(other - plain).max() > 1e-6, change
    plain = fitted.predict(images)
    fewer = pickle.loads(pickle.dumps(fitted)).set_params(n_timesteps=1)
    assert np.abs(fewer.predict(images) - plain).max() > 1e-4


def test_on_a_cpu_large_batches_are_taken_in_parts():
    """That parts change nothing is among what all learned estimators do."""
    backbone = load_backbone("tiny", "cpu", "float32")
    job = SimpleNamespace(backbone=backbone, info=backbone.info)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for size, batch, asked, parts in (
            (192, 16, 1, 4), (64, 16, 1, 1), (192, 1, 1, 1), (192, 16, 5, 5)
        ):  # fmt: skip
            model = GenzIQARegressor(
                image_size=size, batch_size=batch, gradient_accumulation_steps=asked
            )
            assert model._parts(job) == parts
    finally:
        torch.set_num_threads(threads)


def test_weights_of_the_head_are_trained_recorded_and_saved(model, images, tmp_path):
    model.set_params(head="linear").fit(images, Y)
    blocks = len(model._chosen(model._check_fitted()))
    for record in model.history_:
        assert np.shape(record["head"]) == (2, blocks)
        assert np.min(record["head"]) >= 0
        assert record["head_bias"] >= 0
    first, last = model.history_[0]["head"], model.history_[-1]["head"]
    assert np.abs(np.subtract(last, first)).max() > 1e-6
    scores = model.transform(images)[:, :blocks].astype(float)
    expected = model.intercept_ + model.slope_ * scores.mean(1)
    np.testing.assert_allclose(model.predict(images), expected, atol=1e-3)
    model.save_pretrained(tmp_path)
    loaded = GenzIQARegressor.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))
    assert loaded.history_ == model.history_
    with pytest.raises(ValueError, match=r"'head' .* fitted with 'linear'"):
        model.set_params(head="mean").predict(images)


def test_validation_keeps_the_best_epoch_and_stops(model, images):
    """Held-out groups; what is kept predicts them as well as its epoch's record."""
    groups = np.array([0, 0, 1, 1, 2, 2])
    model.set_params(validation_fraction=0.3, max_epochs=9, patience=2)
    model.fit(images, Y, groups=groups)
    scores = [record["validation_srcc"] for record in model.history_]
    best = int(np.argmax(scores))
    assert len(scores) == min(9, best + 1 + 2)
    train, held = model._split(Y, groups)
    assert set(groups[train]) & set(groups[held]) == set()
    kept = srcc_score(Y[held], model.predict([images[i] for i in held]))
    assert kept == pytest.approx(max(scores))
    with pytest.raises(ValueError, match="leaves 5 rows to train and 1"):
        model.set_params(validation_fraction=0.1).fit(images, Y)


def test_latents_are_computed_once(model, fitted, images, tmp_path):
    """Not once per epoch; and with a store not even once per fit."""
    images, y = images[:3], Y[:3]
    with counting(model.backbone) as count:
        plain = model.fit(images, y).predict(images[:2])
    assert count.vae_rows == len(images) + 2
    with counting(model.backbone) as count:
        model.set_params(memory=FeatureStore(tmp_path)).fit(images, y)
        np.testing.assert_array_equal(model.predict(images[:2]), plain)
        model.set_params(max_epochs=1)
        model.set_params(random_state=1, pooling_lambda=0.5).fit(images, y)
        assert count.vae_rows == len(images)
        model.set_params(normalization="vae").fit(images, y)
    assert count.vae_rows == 2 * len(images)


def test_a_store_that_cannot_be_written_is_left_out(model, fitted, images, tmp_path):
    class Full(FeatureStore):
        """A store whose disk is full from the start."""

        def put(self, items):
            raise OSError(28, "No space left on device")

    with pytest.warns(RuntimeWarning, match="goes on without it"):
        model.set_params(memory=Full(tmp_path)).fit(images, Y)
    same_weights(model, fitted)


def test_nan_is_an_error_that_says_what_to_do(fitted, images):
    model = pickle.loads(pickle.dumps(fitted))
    model.set_params(learning_rate=1e30, max_epochs=50)
    with pytest.raises(
        FloatingPointError, match=r"became .* in step \d+ of epoch \d+ .*smaller"
    ):
        model.fit(images, Y)
    same_weights(model, fitted)
    assert model.history_ == fitted.history_


@needs_bfloat16_attention
def test_bfloat16_is_near(model, fitted, images):
    """Autocast as on CUDA: weights that train stay in float32."""
    half = model.set_params(dtype="bfloat16").fit(images, Y)
    assert all(value.dtype == np.float32 for value in half.weights_.values())
    rough = pickle.loads(pickle.dumps(fitted)).set_params(dtype="bfloat16")
    difference = np.abs(rough.predict(images) - fitted.predict(images)).max()
    assert 0 < difference < 0.2 * abs(fitted.slope_)  # of scores about 40


def test_progress_shows_loss_and_srcc(model, images, capsys):
    model.set_params(verbose=1, max_epochs=1).fit(images, Y)
    shown = capsys.readouterr().err
    assert "loss=" in shown
    assert "srcc=" in shown


# -- predictions ---------------------------------------------------------------------


def test_transform_gives_named_scores_and_queries(fitted, images):
    table = fitted.set_output(transform="pandas").transform(images)
    fitted.set_output(transform="default")
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == list(fitted.get_feature_names_out())
    assert list(table.columns[:3]) == [
        "down0.0__score",
        "mid.0__score",
        "up1.1__score",
    ]
    assert table.columns[3] == "down0.0__query__0000"
    assert table.shape[1] == 3 + 16 + 32 + 16
    q = table.filter(like="__score").to_numpy(float).mean(axis=1)
    expected = fitted.intercept_ + fitted.slope_ * q
    np.testing.assert_allclose(fitted.predict(images), expected, atol=rounding(fitted))


def test_tuned_queries_are_those_of_the_pass(fitted, images):
    """Untuned they are `DiffusionQAFeatures`' queries; tuned they are others."""
    folder = fitted.backbone
    frozen = make_model(folder, n_context=0, lora_rank=0, normalization="vae")
    frozen.set_params(blocks="all", n_timesteps=1).fit(images, Y)
    features = DiffusionQAFeatures(
        folder,
        kinds="query",
        prompts=("Good Photo.", "Bad Photo."),
        image_size=64,
        device="cpu",
    )
    expected = features.transform(images)
    queries = frozen.transform(images)[:, 4:]
    np.testing.assert_allclose(queries, expected, rtol=1e-3, atol=1e-4)
    tuned = clone(frozen).set_params(n_context=3, lora_rank=2, learning_rate=1e-2)
    tuned.fit(images, Y)
    assert np.abs(tuned.transform(images)[:, 4:] - expected).max() > 1e-2


# -- scikit-learn --------------------------------------------------------------------


def test_it_is_a_regressor_that_needs_fitting(model, images):
    assert is_regressor(model)
    for call in (model.predict, model.transform):
        with pytest.raises(NotFittedError):
            call(images)


def test_constructor_only_stores():
    parameters = GenzIQARegressor().get_params()
    given = {name: object() for name in parameters}
    made = GenzIQARegressor(**given)
    assert vars(made) == given


def test_in_a_pipeline_and_searches(model, images):
    groups = [0, 0, 1, 1, 2, 2]
    search = GridSearchCV(
        model.set_params(max_epochs=1, n_timesteps=1),
        [{"lora_rank": [0], "n_context": [3]}, {"lora_rank": [2], "n_context": [0]}],
        cv=GroupKFold(2),
        error_score="raise",
        refit=False,
    )
    search.fit(images, Y, groups=groups)
    assert set(search.best_params_) == {"lora_rank", "n_context"}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    pipeline = make_pipeline(clone(model), Ridge())
    predicted = cross_val_predict(pipeline, images, Y, groups=groups, cv=GroupKFold(2))
    assert np.isfinite(predicted).all()


def test_a_pickle_holds_what_was_trained_only(fitted, images, tmp_path):
    data = pickle.dumps(fitted)
    trained = sum(value.nbytes for value in fitted.weights_.values())
    assert len(data) < trained + 10_000
    expected = fitted.predict(images)
    np.testing.assert_array_equal(pickle.loads(data).predict(images), expected)
    path = tmp_path / "model.skops"
    skops.io.dump(fitted, path)
    assert set(skops.io.get_untrusted_types(file=path)) <= set(TRUSTED_TYPES)
    loaded = skops.io.load(path, trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(loaded.predict(images), expected)


def test_two_fitted_models_share_the_backbone(fitted, reseeded, images):
    first, second = fitted.predict(images), reseeded.predict(images)
    for _ in range(2):
        np.testing.assert_array_equal(fitted.predict(images), first)
        np.testing.assert_array_equal(reseeded.predict(images), second)


def test_a_design_that_was_changed_is_refused(fitted, images):
    model = pickle.loads(pickle.dumps(fitted))
    model.set_params(blocks="all")
    with pytest.raises(ValueError, match=r"'blocks' .* is 'all', but .* fitted with"):
        model.predict(images)
    model.set_params(blocks=("down0.*", "mid.0", "up1.1"))  # as a tuple: the same
    model.predict(images)


def test_another_backbone_is_refused(fitted, images, sd2_folder):
    model = pickle.loads(pickle.dumps(fitted)).set_params(backbone=str(sd2_folder))
    with pytest.raises(ValueError, match="not the one that this GenzIQARegressor"):
        model.predict(images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_context": -1}, "'n_context'"),
        ({"n_context": 100}, "100 context vectors .* n_context of at most"),
        ({"context_position": "middle"}, "'context_position'"),
        ({"head": "max"}, "'head'"),
        ({"lora_rank": 1.5}, "'lora_rank'"),
        (
            {"prompts": ["Good photo."]},
            "'prompts' .* two with error_bias=True",
        ),
        ({"prompts": "Good photo."}, "'prompts' .* two with error_bias=True"),
        ({"blocks": "up9.*"}, r"up9\.\*"),
        ({"timestep_range": (50, 50)}, "'timestep_range'"),
        ({"timestep_range": (0, 1001)}, "'timestep_range'"),
        ({"timestep_range": (0.0, 10.0)}, "'timestep_range'"),
        ({"timestep_range": (0, 4), "n_timesteps": 5}, "'n_timesteps' .* at most 4"),
        ({"pooling_lambda": 0}, "'pooling_lambda'"),
        ({"view": "fit"}, "'view'"),
        ({"image_size": 100}, "multiple of 16"),
        ({"learning_rate": 0}, "'learning_rate'"),
        ({"validation_fraction": 1.0}, "'validation_fraction'"),
        ({"device": "abacus"}, "'device'"),
    ],
)
def test_bad_parameters(model, images, change, message):
    with pytest.raises(ValueError, match=message):
        model.set_params(**change).fit(images, Y)
    assert not hasattr(model, "weights_")


def test_bad_data(model, images):
    with pytest.raises(ValueError, match="inconsistent numbers"):
        model.fit(images, Y[:3])
    with pytest.raises(ValueError, match="Row 1: y is nan"):
        model.fit(images, [1, np.nan, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="at least two rows"):
        model.fit(images[:1], [1.0])
    with pytest.raises(ValueError, match="needs y"):
        model.fit(images, None)
    with pytest.raises(ValueError, match=r"Row 1 .*several frames"):
        model.fit([images[0], np.stack(images[:2])], [1.0, 2.0])
    with pytest.raises(FileNotFoundError, match=r"Row 0 \('nowhere\.png'\)"):
        model.fit(["nowhere.png", images[0]], [1.0, 2.0])
    with pytest.warns(UserWarning, match="Only 6 rows train"):
        constant = model.fit(images, np.full(6, 3.0)).predict(images)
    assert np.isfinite(constant).all()


def test_one_prompt_without_bias(model, images):
    model.set_params(prompts="Good photo.", error_bias=False).fit(images, Y)
    assert model.transform(images).shape == (6, 3 + 64)


# -- what it is for ------------------------------------------------------------------


def test_learned_beats_zero_shot_on_photographs_never_seen():
    """Trained on procedural pictures for 18 steps, asked about real photographs."""
    settings = {
        "families": ("gaussian_blur", "white_noise"),
        "n_levels": 3,
        "image_size": 32,
    }
    seen = datasets.make_distorted_images(
        datasets.make_procedural_images(4, image_size=32, random_state=5), **settings
    )
    photos = datasets.load_sample_photos().data[:4]
    unseen = datasets.make_distorted_images(photos, **settings)
    model = GenzIQARegressor(
        image_size=32,
        blocks="down*",
        error_bias=False,
        n_timesteps=2,
        learning_rate=1e-2,
        batch_size=4,
        max_epochs=0,
        device="cpu",
    )
    # Of the line that brings untrained scores to y the ranks below do not depend.
    zero_shot = model.fit(seen.data[:6], seen.target[:6]).predict(unseen.data)
    model.set_params(max_epochs=3).fit(seen.data, seen.target)
    zero_shot, learned = (
        srcc_score(unseen.target, predicted)
        for predicted in (zero_shot, model.predict(unseen.data))
    )
    assert learned > 0.4
    assert learned > abs(zero_shot) + 0.2


def grade(image_size):
    """24 versions of photographs, and a model that is not trained on them."""
    photos = datasets.load_sample_photos().data[:4]
    data = datasets.make_distorted_images(
        photos,
        families=("gaussian_blur", "white_noise", "pixelate"),
        n_levels=2,
        image_size=image_size,
    )
    model = GenzIQARegressor(
        image_size=image_size,
        normalization="vae",
        n_timesteps=1,
        timestep_range=(50, 51),
        max_epochs=0,
        device="cpu",
    )
    return data, model


@pytest.fixture(scope="module")
def graded():
    return grade(64)


@pytest.fixture(scope="module")
def graded_small():
    return grade(32)


@pytest.fixture(scope="module")
def untrained(graded):
    """SRCC of the default, whose context is not trained yet."""
    data, model = graded
    return srcc_score(data.target, clone(model).fit(*third(data)).predict(data.data))


def third(data):
    """Enough for the line, of which ranks take the direction only."""
    return data.data[::3], data.target[::3]


def test_untrained_context_costs_nothing(graded, untrained):
    data, model = graded
    without = clone(model).set_params(n_context=0).fit(*third(data))
    assert untrained > srcc_score(data.target, without.predict(data.data)) - 0.01


@pytest.mark.parametrize("head", ["mean", "linear"])
def test_the_direction_is_right_with_any_seed(graded_small, untrained, head):
    """Of few pictures, and in both directions of y."""
    data, model = graded_small
    rng = np.random.default_rng(0)
    for seed, sign in ((0, 1), (1, -1), (2, 1)):
        rows = rng.permutation(len(data.data))[:8]
        X, y = [data.data[row] for row in rows], data.target[rows]
        model = clone(model).set_params(random_state=seed, head=head)
        predicted = model.fit(X, sign * y).predict(X)
        assert srcc_score(sign * y, predicted) > 0
        # The mean falls with quality, since the bias of the released code does.
        assert model.slope_ * sign * (-1 if head == "mean" else 1) > 0
    assert untrained > 0.5
