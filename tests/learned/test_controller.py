"""`DiffusionController` as its user meets it: trained, asked, kept."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from counting import counting
from hooks import hooks_on
from interruptions import train_and_die
from processor import needs_bfloat16_attention
from safetensors.numpy import load_file
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.svm import SVR
from sklearn.utils.estimator_checks import check_estimator

from diffqa_features import (
    TRUSTED_TYPES,
    DiffusionController,
    DiffusionQAFeatures,
    FeatureStore,
    GenzIQARegressor,
    datasets,
)
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features.datasets import make_procedural_images
from diffqa_features.learned import _training
from diffqa_features.learned.control.features import Chain, controlled_features
from diffqa_features.learned.control.network import make_control

SETTINGS = {
    "image_size": 64,
    "max_epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "device": "cpu",
}


def make_model(folder, **changes):
    return DiffusionController(str(folder), **{**SETTINGS, **changes})


def make_images():
    return list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def images():
    return make_images()


@pytest.fixture(scope="module")
def clip(images):
    return np.stack(images[:3])


@pytest.fixture
def model(small_folder):
    """A small one; nothing stays on the shared backbone."""
    backbone = load_backbone(str(small_folder), "cpu", "float32")
    before = {k: v.clone() for k, v in backbone.unet.state_dict().items()}
    yield make_model(small_folder)
    assert hooks_on(backbone.unet) == hooks_on(backbone._text_encoder) == 0
    for name, value in backbone.unet.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.fixture(scope="module")
def fitted(small_folder, images):
    return make_model(small_folder).fit(images)


@pytest.fixture
def copy(fitted):
    """The fitted one, to be changed."""
    return pickle.loads(pickle.dumps(fitted))


def same_weights(first, second):
    assert first.weights_.keys() == second.weights_.keys()
    for name, value in first.weights_.items():
        np.testing.assert_array_equal(value, second.weights_[name])


# -- training ------------------------------------------------------------------------


def test_the_loss_is_noise_prediction_on_the_frame_itself(model, images):
    """The first step's loss against the same words, from the frozen UNet alone."""
    model.set_params(max_epochs=1, batch_size=6).fit(images)
    backbone = load_backbone(model.backbone, "cpu", "float32")
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
    latents = backbone.encode_images(pixels)
    states = backbone.condition([""]).states
    total = 0.0
    for i, latent in enumerate(latents):
        seed = _training.seed_of(_training.seed_of(0, 0), 0, i)
        generator = torch.Generator().manual_seed(seed)
        t = torch.randint(0, 1000, (1,), generator=generator).item()
        noise = torch.randn(latent.shape, generator=generator)
        alpha = backbone.alphas_cumprod[t].float()
        noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
        with torch.no_grad():
            predicted = backbone.unet(
                noisy[None], t, encoder_hidden_states=states
            ).sample
        total += (predicted[0] - noise).square().mean().item()
    assert model.history_ == [{"epoch": 1, "loss": pytest.approx(total / 6, rel=1e-4)}]


def test_trained_it_tells_the_model_what_the_frame_is():
    """On `tiny`, frames that it was trained on, from half of the way into noise."""
    frames = datasets.make_procedural_images(2, image_size=32)
    noisy = [f + np.random.default_rng(0).normal(0, 40, f.shape) for f in frames]
    frames += [np.clip(f, 0, 255).astype(np.uint8) for f in noisy]
    model = DiffusionController(
        image_size=32, max_epochs=30, batch_size=4, learning_rate=8e-3, device="cpu"
    ).fit(frames)
    backbone = load_backbone(model.backbone, "cpu", "float32")
    network = make_control(backbone.unet, model.weights_)
    latents = np.concatenate([row.latents for row in encoded(model, frames)])
    chain = Chain((), last_timestep=500)

    def errors(network):
        found = controlled_features(backbone, network, latents, chain)["latent"]
        return np.square(found - latents).mean((1, 2, 3))

    assert (errors(network) < 0.8 * errors(None)).all()
    # Without control one and the same picture comes out of noise, for all frames.
    alone = np.concatenate(model.reconstruct(frames, n_steps=2, control=False))
    steered = np.concatenate(model.reconstruct(frames, n_steps=2))
    assert (alone == alone[:1]).all()
    assert (steered != alone).any(axis=(1, 2, 3)).all()


def test_scores_are_ignored(model, fitted, images):
    same_weights(model.fit(images, np.ones(6)), fitted)


def test_untrained_it_adds_nothing(model, images):
    model.set_params(max_epochs=0).fit(images)
    assert model.history_ == []
    backbone = load_backbone(model.backbone, "cpu", "float32")
    latents = [row.latents[0] for row in encoded(model, images)]
    chain = model._chain(model._check_parameters())
    expected = controlled_features(backbone, None, latents, chain)
    columns = model.set_output(transform="pandas").transform(images)
    for name, maps in expected.items():
        found = columns.filter(regex=f"^{name}__mean").to_numpy()
        np.testing.assert_allclose(found, maps.mean((2, 3)), rtol=1e-3, atol=1e-4)
        found = columns.filter(regex=f"^{name}__std").to_numpy()
        np.testing.assert_allclose(found, maps.std((2, 3)), rtol=1e-3, atol=1e-4)


def encoded(model, images):
    from diffqa_features._media.rows import as_rows

    framing = model._framing(model._check_parameters(), **model._frames())
    return model._encode(as_rows(images), framing)


def test_frames_of_videos_train_as_pictures_do(small_folder, images, clip):
    still = make_model(small_folder, max_epochs=1).fit([*images[:3], images[4]])
    moving = make_model(small_folder, max_epochs=1).fit([clip, images[4]])
    same_weights(still, moving)
    fewer = make_model(small_folder, max_epochs=1, max_frames=1).fit([clip, images[4]])
    other = make_model(small_folder, max_epochs=1).fit([images[1], images[4]])
    same_weights(fewer, other)


def fit_with_checkpoints(folder, checkpoints):
    make_model(folder, checkpoint_dir=checkpoints).fit(make_images())


def test_a_killed_training_goes_on(model, fitted, images, small_folder, tmp_path):
    train_and_die(fit_with_checkpoints, small_folder, tmp_path, step=3)
    (path,) = tmp_path.glob("*.pt")
    state = torch.load(path, weights_only=True)
    assert (state["done_epochs"], state["done_batches"]) == (1, 1)
    model.set_params(checkpoint_dir=tmp_path).fit(images)
    same_weights(model, fitted)
    assert model.history_ == fitted.history_


def test_progress_shows_the_loss(model, images, capsys):
    model.set_params(verbose=1, max_epochs=1).fit(images)
    shown = capsys.readouterr().err
    assert "loss=" in shown
    assert "srcc" not in shown


@needs_bfloat16_attention
def test_bfloat16_is_near(copy, images):
    exact = copy.transform(images)
    rough = copy.set_params(dtype="bfloat16").transform(images)
    assert 0 < np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()
    copy.fit(images)
    assert all(value.dtype == np.float32 for value in copy.weights_.values())


# -- features and frames ---------------------------------------------------------------


def test_columns_are_named_and_pooled_maps(fitted, copy, images):
    plain = fitted.transform(images)
    assert plain.dtype == np.float32
    table = copy.set_output(transform="pandas").transform(images)
    assert isinstance(table, pd.DataFrame)
    np.testing.assert_array_equal(table.to_numpy(), plain)
    names = list(copy.get_feature_names_out())
    assert list(table.columns) == names
    assert len(set(names)) == len(names) == 2 * (16 + 32 + 32 + 16 + 4)
    backbone = load_backbone(fitted.backbone, "cpu", "float32")
    network = make_control(backbone.unet, fitted.weights_)
    stages = [
        s for s in backbone.info.stages if s.name in ("down0", "mid", "up0", "up1")
    ]
    assert len(stages) == 4
    latents = np.concatenate([row.latents for row in encoded(fitted, images)])
    maps = controlled_features(backbone, network, latents, Chain(tuple(stages)))
    for name, values in maps.items():
        for kind, pooled in (
            ("mean", values.mean((2, 3))),
            ("std", values.std((2, 3))),
        ):
            found = table.filter(regex=f"^{name}__{kind}__").to_numpy()
            np.testing.assert_allclose(found, pooled, rtol=1e-3, atol=1e-4)


def test_frames_are_pooled_over_time(copy, images, clip):
    copy.set_params(frame_pooling=("mean", "std"), pooling="mean")
    single = copy.transform(images[:3])
    width = single.shape[1] // 2
    found = copy.transform([clip])[0]
    np.testing.assert_allclose(found[:width], single[:, :width].mean(0), atol=1e-5)
    np.testing.assert_allclose(found[width:], single[:, :width].std(0), atol=1e-5)
    names = copy.get_feature_names_out()
    assert len(names) == 2 * width
    assert names[0] == "down0__mean__0000__frames-mean"
    assert names[-1] == "latent__mean__0003__frames-std"


def test_every_choice_changes_the_features(fitted, copy, images):
    plain = fitted.transform(images[:2])
    for change in (
        {"n_steps": 3},
        {"last_timestep": 300},
        {"random_state": 1},
        {"image_size": 128},
        {"view": "crop", "image_size": 128},
    ):
        other = clone(copy).set_params(**change)
        other.__dict__.update(fitted_of(copy))
        found = other.transform(images[:2])
        assert found.shape == plain.shape
        assert np.abs(found - plain).max() > 1e-3, change
    for change, width in (
        ({"stages": "up*"}, 2 * (32 + 16 + 4)),
        ({"pooling": ("max",)}, 16 + 32 + 32 + 16 + 4),
    ):
        found = pickle.loads(pickle.dumps(copy)).set_params(**change)
        assert found.transform(images[:2]).shape == (2, width)


def fitted_of(model):
    return {k: v for k, v in vars(model).items() if k.endswith("_")}


def test_the_store_spares_every_pass(copy, fitted, images, small_folder, tmp_path):
    copy.set_params(memory=FeatureStore(tmp_path))
    with counting(small_folder) as count:
        first = copy.transform(images)
        assert (count.unet_rows, count.vae_rows) == (6, 6)
        np.testing.assert_array_equal(copy.transform(images), first)
        copy.set_params(pooling=("std", "max"), frame_pooling="max").transform(images)
        copy.set_params(stages=["mid", "up0"]).transform(images)
        assert (count.unet_rows, count.vae_rows) == (6, 6)
    copy.set_params(**fitted.get_params()).set_params(memory=FeatureStore(tmp_path))
    with counting(small_folder) as count:
        copy.set_params(random_state=1).fit(images)  # other weights, latents at hand
        copy.set_params(random_state=0)
        rows = count.unet_rows
        other = copy.transform(images)
        assert (count.unet_rows - rows, count.vae_rows) == (6, 0)
    assert np.abs(other - first).max() > 1e-4
    np.testing.assert_allclose(fitted.transform(images), first, rtol=1e-5, atol=1e-6)


def test_reconstructions_are_frames_of_each_row(fitted, images, clip):
    still, moving = fitted.reconstruct([images[3], clip], n_steps=2)
    assert still.shape == (1, 64, 64, 3)
    assert moving.shape == (3, 64, 64, 3)
    assert still.dtype == np.uint8
    (alone,) = fitted.reconstruct([images[0]], n_steps=2)
    assert np.abs(alone[0].astype(int) - moving[0]).max() <= 1
    for wrong in (1, 1001, 2.5, True, None):
        with pytest.raises(ValueError, match=r"'n_steps' parameter of reconstruct"):
            fitted.reconstruct([images[0]], n_steps=wrong)
    for wrong in (0, 1000, 2.5, True):
        with pytest.raises(ValueError, match=r"'start' parameter of reconstruct"):
            fitted.reconstruct([images[0]], start=wrong)
    with pytest.raises(ValueError, match=r"'n_steps' .* in the range \[2, 6\]"):
        fitted.reconstruct([images[0]], start=5)


def test_the_less_noise_it_starts_from_the_closer_it_comes():
    (frame,) = make_procedural_images(1, image_size=64)
    model = DiffusionController(image_size=64, max_epochs=0).fit([frame])

    def error(start):
        ((rebuilt,),) = model.reconstruct([frame], n_steps=2, start=start)
        return np.abs(rebuilt.astype(int) - frame).mean()

    errors = [error(start) for start in (20, 200, 600, None)]
    assert errors == sorted(errors)
    assert errors[0] < errors[3] / 5


# -- scikit-learn --------------------------------------------------------------------


def test_it_is_a_transformer_that_needs_fitting(model, images):
    assert not is_regressor(model)
    for call in (model.transform, model.reconstruct):
        with pytest.raises(NotFittedError):
            call(images)
    assert len(model.get_feature_names_out()) == 200  # known before


def test_sklearns_own_checks(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it skips the rest
        check_estimator(model)
    assert "DiffusionController" in model._repr_html_()


def test_beside_other_features(copy, images):
    frozen = DiffusionQAFeatures(copy.backbone, image_size=64, device="cpu")
    union = FeatureUnion([("frozen", frozen), ("control", FrozenEstimator(copy))])
    columns = union.fit_transform(images[:2])
    names = list(union.get_feature_names_out())
    assert columns.shape == (2, len(names))
    place = names.index("control__mid__mean__0000")
    expected = copy.transform(images[:2])[:, 2 * 16]
    np.testing.assert_array_equal(columns[:, place], expected)


def test_constructor_only_stores():
    parameters = DiffusionController().get_params()
    given = {name: object() for name in parameters}
    assert vars(DiffusionController(**given)) == given


def test_in_a_pipeline_and_a_search(model, images, tmp_path):
    model.set_params(max_epochs=1, memory=FeatureStore(tmp_path))
    pipeline = Pipeline([("control", model), ("svr", SVR())])
    grid = {"control__last_timestep": [0, 100]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise")
    search.fit(images[:4], [1.0, 5.0, 2.0, 4.0])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(images).shape == (6,)


def test_kept_is_what_was_trained_only(fitted, images, tmp_path):
    trained = sum(value.nbytes for value in fitted.weights_.values())
    expected = fitted.transform(images)
    data = pickle.dumps(fitted)
    assert len(data) < 1.1 * trained + 20_000
    np.testing.assert_array_equal(pickle.loads(data).transform(images), expected)
    skops.io.dump(fitted, tmp_path / "model.skops")
    path = tmp_path / "model.skops"
    assert set(skops.io.get_untrusted_types(file=path)) <= set(TRUSTED_TYPES)
    loaded = skops.io.load(path, trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(loaded.transform(images), expected)
    fitted.save_pretrained(tmp_path / "saved")
    files = {path.name: path for path in (tmp_path / "saved").iterdir()}
    assert set(files) == {"config.json", "model.safetensors"}
    assert load_file(files["model.safetensors"]).keys() == fitted.weights_.keys()
    loaded = DiffusionController.from_pretrained(tmp_path / "saved", batch_size=3)
    np.testing.assert_allclose(loaded.transform(images), expected, rtol=1e-4, atol=1e-4)
    assert loaded.history_ == fitted.history_
    with pytest.raises(ValueError, match="holds a DiffusionController, not a GenzIQA"):
        GenzIQARegressor.from_pretrained(tmp_path / "saved")


def test_another_backbone_is_refused(copy, images, sd2_folder):
    with pytest.raises(ValueError, match="not the one that this DiffusionController"):
        copy.set_params(backbone=str(sd2_folder)).transform(images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": "up9"}, "up9"),
        ({"stages": []}, "No block is named"),
        ({"stages": "mid.0"}, r"mid\.0"),
        ({"stages": 3}, "'stages'"),
        ({"pooling": "min"}, "'pooling'"),
        ({"pooling": ()}, "'pooling'"),
        ({"frame_pooling": "median"}, "'frame_pooling'"),
        ({"n_steps": 0}, "'n_steps'"),
        ({"n_steps": 2.0}, "'n_steps'"),
        ({"n_steps": 3, "last_timestep": 998}, "'n_steps' .* at most 2 with"),
        ({"last_timestep": 1000}, "'last_timestep'"),
        ({"last_timestep": -1}, "'last_timestep'"),
        ({"view": "fit"}, "'view'"),
        ({"image_size": 100}, "multiple of 16"),
        ({"frame_rate": 0}, "'frame_rate'"),
        ({"max_frames": 0}, "'max_frames'"),
        ({"learning_rate": 0}, "'learning_rate'"),
        ({"max_epochs": -1}, "'max_epochs'"),
        ({"memory": 3}, "'memory'"),
        ({"reader": "ffmpeg"}, "'reader'"),
    ],
)
def test_bad_parameters(model, copy, images, change, message):
    with pytest.raises(ValueError, match=message):
        model.set_params(**change).fit(images)
    assert not hasattr(model, "weights_")
    with pytest.raises(ValueError, match=message):
        copy.set_params(**change).transform(images)


def test_bad_data(model, copy, images):
    for call in (model.fit, copy.transform, copy.reconstruct):
        with pytest.raises(ValueError, match="0 sample"):
            call([])
        with pytest.raises((ValueError, TypeError), match="list"):
            call("photo.jpg")
        with pytest.raises(OSError, match=r"[Rr]ow 1 \('gone.png'\).*no such file"):
            call([images[0], "gone.png"])
    assert not hasattr(model, "weights_")


def test_a_unet_that_cannot_be_copied(odd_folder, images):
    with pytest.raises(ValueError, match="as many layers at each level"):
        make_model(odd_folder).fit(images)
