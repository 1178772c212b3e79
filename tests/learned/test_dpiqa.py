"""`DPIQARegressor` as its user meets it, and the authors' checkpoint."""

import ast
import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from counting import counting, counting_calls
from diffusers import AutoencoderKL, UNet2DConditionModel
from hooks import hooks_on
from PIL import Image
from plain_dpiqa import PlainDPIQA
from processor import needs_bfloat16_attention
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from test_dpiqa_parts import write_clip

from diffqa_features import TRUSTED_TYPES, DPIQARegressor, FeatureStore, datasets
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._media.views import cut_tiles, stitch_maps
from diffqa_features.learned._files import load, save
from diffqa_features.learned.dpiqa.network import TextAdapter
from diffqa_features.learned.dpiqa.presets import PRESETS, preset_of
from diffqa_features.metrics import srcc_score

Y = np.array([1.0, 5.0, 2.0, 4.0, 3.0, 2.5])


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8))


@pytest.fixture
def model(small_folder):
    """A small one, of a few seconds; nothing stays on the shared backbone."""
    backbone = load_backbone(str(small_folder), "cpu", "float32")
    before = {k: v.clone() for k, v in backbone.unet.state_dict().items()}
    yield make_model(small_folder)
    assert hooks_on(backbone.unet) == 0
    for name, value in backbone.unet.state_dict().items():
        assert torch.equal(value, before[name])
    for value in backbone.unet.parameters():
        assert value.grad is None
        assert not value.requires_grad


def make_model(folder, **changes):
    settings = {
        "scenes": ["photo"],
        "distortions": ["noise", "blur"],
        "image_size": 64,
        "max_epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "device": "cpu",
    }
    return DPIQARegressor(str(folder), **{**settings, **changes})


@pytest.fixture(scope="module")
def fitted(small_folder, images):
    return make_model(small_folder).fit(images, Y)


def same_weights(first, second, exact=True):
    assert first.weights_.keys() == second.weights_.keys()
    for name, value in first.weights_.items():
        if exact:
            np.testing.assert_array_equal(value, second.weights_[name])
        else:
            np.testing.assert_allclose(value, second.weights_[name], atol=1e-4)


# -- units ---------------------------------------------------------------------------


@pytest.mark.parametrize(("slope", "intercept"), [(0.25, 0.0), (32.0, -64.0)])
def test_fits_and_predicts_in_the_units_of_y(model, fitted, images, slope, intercept):
    other = model.fit(images, intercept + slope * Y)
    expected = intercept + slope * fitted.predict(images)
    spread = slope * Y.std()
    np.testing.assert_allclose(other.predict(images), expected, atol=1e-4 * spread)
    losses = [[r["loss"] for r in m.history_] for m in (fitted, other)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_untrained_it_predicts_near_the_mean(model, images):
    """The network's first scores are around 0, which is the mean of y."""
    predicted = model.set_params(max_epochs=0).fit(images, Y).predict(images)
    assert np.abs(predicted - Y.mean()).max() < 0.5 * np.ptp(Y)
    assert model.history_ == []


# -- training ------------------------------------------------------------------------


def test_its_own_copy_of_the_unet_trains(fitted, small_folder):
    """All of it; the fixture of `model` looks at the shared one."""
    shared = load_backbone(str(small_folder), "cpu", "float32").unet.state_dict()
    own = {k[5:]: v for k, v in fitted.weights_.items() if k.startswith("unet.")}
    unused = {name.rsplit(".", 1)[0] for name in shared.keys() - own.keys()}
    assert unused == {"conv_norm_out", "conv_out"}
    same = [name for name in own if (own[name] == shared[name].numpy()).all()]
    # Biases of keys in a softmax over one place, and such, have no gradient.
    assert len(same) < 0.1 * len(own)


def test_without_train_unet_there_is_no_copy(model, images, monkeypatch):
    def watched(make):
        def copied(thing, *more):
            assert not isinstance(thing, torch.nn.Module), "the UNet was copied"
            return make(thing, *more)

        return copied

    for name in ("copy", "deepcopy"):
        monkeypatch.setattr(copy, name, watched(getattr(copy, name)))
    with pytest.raises(AssertionError, match="the UNet was copied"):
        clone(model).fit(images[:2], Y[:2])
    model.set_params(train_unet=False).fit(images, Y).predict(images)
    kinds = {name.split(".")[0] for name in model.weights_}
    assert kinds == {"tokens", "text", "adapter", "decoder"}


def test_every_switch_changes_the_prediction(model, images):
    images, y = images[:2], Y[:2]
    model.set_params(train_unet=False)
    plain = clone(model).fit(images, y).predict(images)
    for change in (
        {"qualities": ["bad", "good"]},
        {"distortions": ["noise", "jpeg"]},
        {"train_unet": True},
        {"decoder_width": 24},
        {"timestep": 500},
        {"normalization": "unit"},
        {"augmentation": "flips"},
        {"augmentation": "flips and crops"},
        {"ranking_weight": 1.0},
        {"ranking_weight": 1.0, "ranking_margin": 2.0},
        {"milestones": (1,), "lr_decay": 0.5},
        {"max_grad_norm": 1e-6},
    ):
        other = clone(model).set_params(**change).fit(images, y).predict(images)
        assert np.abs(other - plain).max() > 1e-6, change


@pytest.mark.parametrize("part", ["text", "image"])
def test_an_adapter_that_is_off_is_not_built(model, images, part, tmp_path):
    model.set_params(**{f"{part}_adapter": False}, train_unet=False).fit(images, Y)
    kinds = {name.split(".")[0] for name in model.weights_}
    off = {"text": "text", "image": "adapter"}[part]
    assert kinds == {"tokens", "text", "adapter", "decoder"} - {off}
    model.save_pretrained(tmp_path)
    loaded = DPIQARegressor.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))


def test_files_from_before_the_switches_are_read(fitted, images, tmp_path):
    fitted.save_pretrained(tmp_path)
    config, weights = load(tmp_path)
    for name in ("text_adapter", "image_adapter", "augmentation", "preset", "columns"):
        del config["parameters"][name]
    save(tmp_path, config, weights)
    loaded = DPIQARegressor.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.predict(images), fitted.predict(images))


def test_presets_stand_for_none(small_folder, fitted, tmp_path):
    """By the backbone or by name; files hold what they stood for."""
    model = DPIQARegressor(str(small_folder))
    assert model._value("learning_rate") == PRESETS["tiny"]["learning_rate"]
    assert model.set_params(preset="clive")._value("milestones") == (10,)
    assert model.set_params(milestones=(3,))._value("milestones") == (3,)
    wide = SimpleNamespace(blocks=[SimpleNamespace(channels=320)])
    assert preset_of(wide) == "koniq"
    assert fitted.normalization is None
    fitted.save_pretrained(tmp_path)
    loaded = DPIQARegressor.from_pretrained(tmp_path)
    assert loaded.normalization == PRESETS["tiny"]["normalization"]
    with pytest.raises(ValueError, match=r"'normalization' .* fitted with 'vae'"):
        DPIQARegressor.from_pretrained(tmp_path, normalization="unit")


def test_the_table_of_presets_is_the_code():
    rows = [line.split() for line in DPIQARegressor.__doc__.splitlines()]
    found = {}
    for row in rows:
        if row and row[-1] in ("unit", "vae"):
            *names, rate, epochs, milestones, pixels = row
            settings = {
                "learning_rate": float(rate),
                "max_epochs": int(epochs),
                "normalization": pixels,
                "milestones": ast.literal_eval(milestones),
            }
            found |= {name.strip(","): settings for name in names}
    assert found == PRESETS


def test_validation_keeps_the_best_epoch_and_stops(model, images):
    groups = np.array([0, 0, 1, 1, 2, 2])
    model.set_params(validation_fraction=0.3, max_epochs=5, patience=2)
    model.fit(images, Y, groups=groups)
    scores = [record["validation_srcc"] for record in model.history_]
    best = int(np.argmax(scores))
    assert len(scores) == min(5, best + 1 + 2)
    _, held = model._split(Y, groups)
    kept = srcc_score(Y[held], model.predict([images[i] for i in held]))
    assert kept == pytest.approx(max(scores))


def test_what_is_expensive_is_done_once(model, images, tmp_path):
    """Latents not once per epoch; the text not once per picture."""
    with counting(model.backbone) as count, counting_calls(TextAdapter) as adapted:
        model.fit(images, Y)
        steps = 2 * 2
        assert (count.vae_rows, len(adapted)) == (6, steps)
        plain = model.predict(images * 12)
        assert (count.vae_rows, len(adapted)) == (6 + 12, steps + 1)
        model.set_params(memory=FeatureStore(tmp_path)).fit(images, Y)
        np.testing.assert_array_equal(model.predict(images * 12), plain)
        assert count.vae_rows == 18 + 6
        model.set_params(normalization="unit", max_epochs=0).fit(images, Y)
        assert count.vae_rows == 18 + 12


def test_pictures_are_read_once(model, images):
    """Not once per epoch."""
    loaded = []

    def picture(pixels):
        image = Image.fromarray(pixels)
        load = image.load
        image.load = lambda: loaded.append(image) or load()
        return image

    pictures = [picture(pixels) for pixels in images]
    model.set_params(train_unet=False, max_epochs=0).fit(pictures, Y)
    untrained = len(loaded)
    assert untrained >= len(pictures)
    model.set_params(max_epochs=2).fit(pictures, Y)
    assert len(loaded) == 2 * untrained


@needs_bfloat16_attention
def test_bfloat16_is_near(model, fitted, images):
    half = model.set_params(dtype="bfloat16").fit(images, Y)
    assert all(value.dtype == np.float32 for value in half.weights_.values())
    rough = pickle.loads(pickle.dumps(fitted)).set_params(dtype="bfloat16")
    difference = np.abs(rough.predict(images) - fitted.predict(images)).max()
    assert 0 < difference < 0.1 * Y.std()


# -- predictions ---------------------------------------------------------------------


def test_maps_of_tiles_are_one_map_of_the_whole(fitted, images, tmp_path):
    large = np.concatenate(
        [np.concatenate(images[:3], 1), np.concatenate(images[3:], 1)]
    )
    (whole,) = fitted.quality_maps([large], tiles=True)
    assert whole.dtype == np.float32
    expected = stitch_maps(fitted.quality_maps(images), cut_tiles(large, 64)[1], (8, 8))
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-5)
    (tmp_path / "bad.png").write_bytes(b"none")
    model = copy.copy(fitted).set_params(on_error="nan")
    with pytest.warns(RuntimeWarning, match="1 of 2 rows"):
        maps = model.quality_maps([tmp_path / "bad.png", images[0]], tiles=True)
    assert np.isnan(maps[0]).all()
    np.testing.assert_allclose(maps[1], fitted.quality_maps(images[:1])[0], rtol=1e-4)
    assert [index for index, _ in model.failed_] == [0]
    with pytest.raises(ValueError, match="Scores are of the view"):
        fitted.quality_maps(images, return_scores=True, tiles=True)


def test_the_score_is_made_of_the_maps(fitted, images):
    """The last layers, written out on what `quality_maps` and `transform` return."""
    maps, scores = fitted.quality_maps(images, return_scores=True)
    assert maps.shape == (6, 8, 8, 8)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    np.testing.assert_array_equal(fitted.quality_maps(images), maps)
    np.testing.assert_array_equal(fitted.predict(images), scores)
    w = fitted.weights_
    hidden = maps.reshape(6, -1)
    for i in (0, 1):
        hidden = hidden @ w[f"decoder.hidden.{i}.weight"].T
        hidden = np.maximum(hidden + w[f"decoder.hidden.{i}.bias"], 0)
    score = hidden @ w["decoder.score.weight"][0] + w["decoder.score.bias"]
    np.testing.assert_allclose(
        fitted.intercept_ + fitted.slope_ * score, scores, rtol=1e-4, atol=1e-5
    )
    table = clone(fitted).set_output(transform="pandas")
    table.__dict__.update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
    table = table.transform(images)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == list(fitted.get_feature_names_out())
    assert list(table.columns[7:9]) == ["map7__mean", "hidden__0000"]
    np.testing.assert_allclose(table.iloc[:, :8], maps.mean((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(table.iloc[:, 8:], hidden, rtol=1e-3, atol=1e-5)


def test_columns_of_the_decoder_stages(small_folder, images):
    """What is read there, written out on the states of the shared UNet."""
    model = make_model(
        small_folder, columns="stages", train_unet=False, image_adapter=False,
        max_epochs=0,
    )  # fmt: skip
    table = model.set_output(transform="pandas").fit(images, Y).transform(images)
    levels = load_backbone(str(small_folder), "cpu", "float32").unet.up_blocks
    expected, states = {}, {}
    hooks = [
        level.register_forward_hook(lambda m, a, o, i=i: states.update({i: o}))
        for i, level in enumerate(levels)
    ]
    try:
        model.transform(images[:1])
    finally:
        for hook in hooks:
            hook.remove()
    for level in sorted(states, reverse=True):
        cells = states[level][0].flatten(1).double().numpy()
        for name, values in (
            ("mean", cells.mean(1)), ("logstd", np.log(cells.std(1) + 1e-3))
        ):  # fmt: skip
            for channel, value in enumerate(values):
                expected[f"up{level}__{name}__{channel:04d}"] = value
    assert list(table.columns) == list(expected)
    np.testing.assert_allclose(table.iloc[0], [*expected.values()], atol=1e-3)


def test_columns_may_be_chosen_after_the_training(fitted, images, tmp_path):
    model = pickle.loads(pickle.dumps(fitted))
    plain = model.transform(images[:2])
    table = model.set_params(columns="stages").transform(images[:2])
    names = model.get_feature_names_out()
    assert table.shape == (2, len(names))
    assert len(set(names)) == len(names) != plain.shape[1]
    model.save_pretrained(tmp_path)
    loaded = DPIQARegressor.from_pretrained(tmp_path)
    assert loaded.columns == "stages"
    np.testing.assert_array_equal(loaded.transform(images[:2]), table)
    np.testing.assert_array_equal(loaded.get_feature_names_out(), names)
    back = loaded.set_params(columns=fitted.columns).transform(images[:2])
    np.testing.assert_array_equal(back, plain)


# -- scikit-learn and files ------------------------------------------------------------


def test_it_is_a_regressor_that_needs_fitting(model, images):
    assert is_regressor(model)
    for call in (model.predict, model.transform, model.quality_maps):
        with pytest.raises(NotFittedError):
            call(images)
    with pytest.raises(NotFittedError):
        model.get_feature_names_out()


def test_in_a_pipeline_and_searches(model, images):
    groups = [0, 0, 1, 1, 2, 2]
    search = GridSearchCV(
        model.set_params(max_epochs=1),
        [
            {"train_unet": [True], "ranking_weight": [0.5]},
            {"train_unet": [False], "ranking_weight": [0.0]},
        ],
        cv=GroupKFold(2),
        error_score="raise",
        refit=False,
    )
    search.fit(images, Y, groups=groups)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    pipeline = make_pipeline(clone(model), Ridge())
    predicted = cross_val_predict(pipeline, images, Y, groups=groups, cv=GroupKFold(2))
    assert np.isfinite(predicted).all()


def test_what_was_trained_travels(fitted, images, tmp_path):
    """By pickle, by skops and by `save_pretrained`, without backbone or VAE."""
    expected = fitted.predict(images)
    trained = sum(value.nbytes for value in fitted.weights_.values())
    data = pickle.dumps(fitted)
    assert len(data) < trained + 200_000
    np.testing.assert_array_equal(pickle.loads(data).predict(images), expected)
    skops.io.dump(fitted, tmp_path / "model.skops")
    loaded = skops.io.load(tmp_path / "model.skops", trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(loaded.predict(images), expected)
    fitted.save_pretrained(tmp_path / "model")
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert size < trained + 200_000
    loaded = DPIQARegressor.from_pretrained(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.predict(images), expected)
    np.testing.assert_array_equal(
        loaded.quality_maps(images), fitted.quality_maps(images)
    )
    loaded.set_params(warm_start=True, max_epochs=1).fit(images, Y)
    assert len(loaded.history_) == 3
    np.testing.assert_array_equal(fitted.predict(images), expected)


def test_predictions_need_no_text_encoder(fitted, images):
    with counting(fitted.backbone) as count:
        pickle.loads(pickle.dumps(fitted)).predict(images[:1])
    assert count.text_rows == []


def test_another_backbone_or_design_is_refused(fitted, images, sd2_folder):
    model = pickle.loads(pickle.dumps(fitted)).set_params(backbone=str(sd2_folder))
    with pytest.raises(ValueError, match="not the one that this DPIQARegressor"):
        model.predict(images)
    model = pickle.loads(pickle.dumps(fitted)).set_params(timestep=2)
    with pytest.raises(ValueError, match=r"'timestep' .* is 2, but .* fitted with 1"):
        model.predict(images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qualities": []}, "'qualities' .* distinct str"),
        ({"scenes": "night"}, "'scenes'"),
        ({"distortions": ["blur", "blur"]}, "'distortions'"),
        ({"distortions": [1, 2]}, "'distortions'"),
        ({"text_model": 3}, "'text_model'"),
        ({"train_unet": "yes"}, "'train_unet'"),
        ({"text_adapter": None}, "'text_adapter'"),
        ({"image_adapter": 1.5}, "'image_adapter'"),
        ({"augmentation": "mirrors"}, "'augmentation'"),
        ({"preset": "flive"}, "'preset'"),
        ({"decoder_width": 4}, "'decoder_width'"),
        ({"timestep": 1000}, "'timestep'"),
        ({"normalization": "clip"}, "'normalization'"),
        ({"ranking_weight": -1.0}, "'ranking_weight'"),
        ({"milestones": (0,)}, "'milestones' .* positive ints"),
        ({"milestones": (2.5,)}, "'milestones'"),
        ({"lr_decay": 0.0}, "'lr_decay'"),
        ({"max_grad_norm": 0}, "'max_grad_norm'"),
        ({"image_size": 100}, "multiple of 16"),
    ],
)
def test_bad_parameters(model, images, change, message):
    with pytest.raises(ValueError, match=message):
        model.set_params(**change).fit(images, Y)
    assert not hasattr(model, "weights_")


def test_bad_data(model, images):
    with pytest.raises(ValueError, match=r"Row 1 .*several frames"):
        model.fit([images[0], np.stack(images[:2])], [1.0, 2.0])
    with pytest.raises(FileNotFoundError, match=r"Row 0 \('nowhere\.png'\)"):
        model.fit(["nowhere.png", images[0]], [1.0, 2.0])
    constant = model.fit(images[:3], np.full(3, 3.0)).predict(images)
    assert np.isfinite(constant).all()


def test_a_text_model_of_another_width_is_refused(model, images, tmp_path):
    wide = write_clip(tmp_path, projection=40)
    with pytest.raises(ValueError, match=r"'text_model' .* the 32 channels .* not 40"):
        model.set_params(text_model=wide).fit(images, Y)


# -- the authors' layout --------------------------------------------------------------


@pytest.fixture(scope="module")
def released(sd1_folder, tmp_path_factory):
    """A teacher written straight down with diffusers, and what loads its file."""
    clip = write_clip(tmp_path_factory.mktemp("clip"), projection=32)
    settings = {"scenes": ["photo"], "distortions": ["noise", "blur"], "device": "cpu"}
    settings["text_model"] = str(clip)
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_pretrained(sd1_folder / "unet")
    vae = AutoencoderKL.from_pretrained(sd1_folder / "vae")
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")
    tokens = DPIQARegressor(str(sd1_folder), **settings)._tokens(backbone)
    tokens = torch.from_numpy(tokens)
    teacher = PlainDPIQA(unet, vae, tokens, image_size=64, width=32).eval()
    with torch.no_grad():
        for name, value in teacher.named_parameters():
            if not name.startswith("vae."):
                value += 0.02 * torch.randn_like(value)

    def load(path, folder=sd1_folder):
        return DPIQARegressor.from_released(path, str(folder), **settings)

    return teacher, load


def test_a_released_teacher_loads(released, sd1_folder, images, tmp_path):
    """Its scores and maps, of pictures of the size that it was trained at."""
    teacher, load = released
    state = teacher.state_dict()
    assert any(name.startswith("vae.decoder.") for name in state)
    torch.save(state, tmp_path / "best.pth")
    model = load(tmp_path / "best.pth")
    assert (model.image_size, model.decoder_width) == (64, 32)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        scores, maps = teacher(pixels)
    found = model.quality_maps(images, return_scores=True)
    np.testing.assert_allclose(found[0], maps, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found[1], 100 * scores, rtol=1e-3, atol=1e-3)
    kinds = {name.split(".")[0] for name in model.weights_}
    assert kinds == {"tokens", "unet", "text", "adapter", "decoder"}
    (tmp_path / "best.pth").write_bytes(b"")  # nothing is left mapped
    model.save_pretrained(tmp_path / "ours")
    ours = DPIQARegressor.from_pretrained(tmp_path / "ours", device="cpu")
    np.testing.assert_array_equal(ours.predict(images), found[1])


def test_names_before_the_parts_do_not_matter(released, tmp_path):
    """Saved from several devices, or with the parts under other attributes."""
    teacher, load = released
    state = teacher.state_dict()
    torch.save(state, tmp_path / "plain.pth")
    renamed = {
        "module." + name.replace("qfd.", "QFD.net.").replace("adapter.", "t2i."): value
        for name, value in state.items()
    }
    torch.save(renamed, tmp_path / "renamed.pth", _use_new_zipfile_serialization=False)
    same_weights(load(tmp_path / "plain.pth"), load(tmp_path / "renamed.pth"))


def test_files_that_are_no_teacher_on_this_backbone(released, odd_folder, tmp_path):
    teacher, load = released
    state, path = teacher.state_dict(), tmp_path / "best.pth"
    with pytest.raises(FileNotFoundError, match="no file"):
        load(path)
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"does not hold the \w+ of a DP-IQA teacher"):
        load(path, odd_folder)
    for gone, message in (
        ("qfd.conv2.bias", r"the decoder .* 1 of its weights .* 'qfd\.conv2\.bias'"),
        ("gamma", "holds no 'gamma'"),
        ("qfd.fc1.weight", r"holds no 'fc1\.weight'"),
    ):
        torch.save({k: v for k, v in state.items() if k != gone}, path)
        with pytest.raises(ValueError, match=message):
            load(path)
    torch.save(teacher, path)  # the module itself: a pickle that could run code
    with pytest.raises(ValueError, match="not a file of tensors only"):
        load(path)


# -- what it is for ------------------------------------------------------------------


def test_it_learns_to_judge_photographs_never_seen():
    """Trained on procedural pictures for 24 steps, asked about real photographs."""
    settings = {
        "families": ("gaussian_blur", "white_noise"),
        "n_levels": 3,
        "image_size": 32,
    }
    seen = datasets.make_distorted_images(
        datasets.make_procedural_images(8, image_size=32, random_state=5), **settings
    )
    photos = datasets.load_sample_photos().data[:4]
    unseen = datasets.make_distorted_images(photos, **settings)
    model = DPIQARegressor(
        scenes=["photo"],
        distortions=["blur", "noise"],
        image_size=32,
        learning_rate=3e-4,
        batch_size=4,
        max_epochs=2,
        device="cpu",
    )
    predicted = model.fit(seen.data, seen.target).predict(unseen.data)
    assert srcc_score(unseen.target, predicted) > 0.7
