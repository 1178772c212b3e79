"""`GenzVQARegressor` as its user meets it: frames, motion, where training begins."""

import pickle
import shutil

import numpy as np
import pytest
import skops.io
import torch
from counting import counting, counting_calls
from hooks import hooks_on
from interruptions import train_and_die
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from torch import nn
from video_files import encode, pan

from diffqa_features import (
    TRUSTED_TYPES,
    FeatureStore,
    GenzIQARegressor,
    GenzVQARegressor,
    MotionFeatures,
)
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.info import describe_backbone
from diffqa_features.inspection import FrameScoresDisplay
from diffqa_features.metrics import srcc_score
from diffqa_features.motion._slowfast import SlowFast
from diffqa_features.motion._weights import TINY

Y = np.array([1.0, 5.0, 2.0, 4.0, 3.0, 2.5])
BLOCKS = ["down0.*", "mid.0"]
SHARED = {
    "n_context": 3,
    "lora_rank": 2,
    "blocks": BLOCKS,
    "error_bias": False,  # half a pass; the authors' layout below has it
    "n_timesteps": 2,
    "image_size": 64,
    "max_epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "device": "cpu",
}


def make_clips():
    """Six rows of different lengths, one of them a picture."""
    rng = np.random.default_rng(0)
    clips = []
    for frames in (3, 2, 3, 1, 2, 1):
        still = rng.integers(0, 256, (64, 64, 3), np.uint8)
        clips.append(np.stack([np.roll(still, 3 * t, axis=1) for t in range(frames)]))
    clips[3] = clips[3][0]
    return clips


@pytest.fixture(scope="module")
def clips():
    return make_clips()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Frames and motion of all tests, computed once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def model(small_folder, store):
    """A small one, of a few seconds; nothing stays on the shared backbone."""
    backbone = load_backbone(str(small_folder), "cpu", "float32")
    before = {k: v.clone() for k, v in backbone.unet.state_dict().items()}
    yield make_model(small_folder, memory=store)
    assert hooks_on(backbone.unet) == hooks_on(backbone._text_encoder) == 0
    for name, value in backbone.unet.state_dict().items():
        assert torch.equal(value, before[name])


def make_model(folder, **changes):
    return GenzVQARegressor(str(folder), **{**SHARED, **changes})


@pytest.fixture(scope="module")
def fitted(small_folder, store, clips):
    return make_model(small_folder, memory=store).fit(clips, Y)


@pytest.fixture(scope="module")
def pictures(small_folder, store, clips):
    """A GenzIQA of the same design, fitted on single frames."""
    frames = [clip if clip.ndim == 3 else clip[0] for clip in clips]
    return GenzIQARegressor(str(small_folder), memory=store, **SHARED).fit(frames, Y)


def same_weights(first, second, **tolerance):
    assert first.weights_.keys() == second.weights_.keys()
    for name, value in first.weights_.items():
        np.testing.assert_allclose(
            value, second.weights_[name], **(tolerance or {"rtol": 0})
        )


def rounding(fitted):
    """Of float32 in scores of about 40, in the units of y."""
    return 1e-4 * Y.std() + 1e-5 * abs(fitted.slope_) * 50


# -- the score -----------------------------------------------------------------------


def test_prediction_is_the_mean_of_factor_times_score(fitted, clips):
    table = fitted.set_output(transform="pandas").transform(clips)
    fitted.set_output(transform="default")
    assert list(table.columns) == list(fitted.get_feature_names_out())
    assert list(table.columns[1:3]) == ["mid.0__score", "down0.0__gamma"]
    assert table.shape == (6, 2 + 2 + 16 + 32)
    scores = table.filter(like="__score").to_numpy(float)
    gammas = table.filter(like="__gamma").to_numpy(float)
    assert np.ptp(gammas, axis=0).max() > 1e-4
    expected = fitted.intercept_ + fitted.slope_ * (scores * gammas).mean(1)
    np.testing.assert_allclose(fitted.predict(clips), expected, atol=rounding(fitted))


def test_scores_and_queries_are_means_of_those_of_pictures(model, pictures, clips):
    """What GenzIQA says of each frame by itself, with its weights and no modulator."""
    model.set_params(init_from=pictures, max_epochs=0, modulator=False).fit(clips, Y)
    for clip, row in zip(clips, model.transform(clips), strict=True):
        frames = [clip] if clip.ndim == 3 else list(clip)
        expected = pictures.transform(frames).mean(0)
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-3)


def test_factors_are_attention_written_out(fitted, clips):
    """From the saved weights and `MotionFeatures`, clip by clip and head by head."""
    table = fitted.transform(clips)
    weights = {k: torch.from_numpy(v) for k, v in fitted.weights_.items()}
    blocks = {b.name: b for b in describe_backbone(fitted.backbone).blocks}
    names = ["down0.0", "mid.0"]
    motion = MotionFeatures(device="cpu").sequences(clips)
    at = 4
    for place, name in enumerate(names):
        block, inner = blocks[name], name.replace(".", "_")
        queries = torch.from_numpy(table[:, at : at + block.channels])
        at += block.channels
        for row, paths in enumerate(motion):
            seen = []
            for path, features in zip(("slow", "fast"), paths, strict=True):
                own = f"modulator.{path}.{inner}"
                norm = nn.functional.layer_norm(
                    torch.from_numpy(features),
                    features.shape[1:],
                    weights[f"{own}.norm_weight"],
                    weights[f"{own}.norm_bias"],
                )
                keys = norm
                for layer in ("down", "up"):
                    matrix, bias = (
                        weights[f"{own}.{layer}.{k}"] for k in ("weight", "bias")
                    )
                    keys = keys @ matrix.T + bias
                q = queries[row].view(block.heads, -1)
                k = keys.view(len(features), block.heads, -1)
                logits = torch.einsum("hd,nhd->nh", q, k) * q.shape[1] ** 0.5
                seen.append(logits.mean())
            w, c = (weights[f"modulator.gamma.{inner}.{k}"] for k in ("weight", "bias"))
            gamma = torch.relu(w[0] @ torch.stack(seen) + c[0])
            assert table[row, len(names) + place] == pytest.approx(
                gamma.item(), abs=1e-4
            )


@pytest.mark.parametrize(("slope", "intercept"), [(20.0, 5.0), (-0.2, 1.0)])
def test_fits_and_predicts_in_the_units_of_y(model, fitted, clips, slope, intercept):
    other = model.fit(clips, intercept + slope * Y)
    expected = intercept + slope * fitted.predict(clips)
    spread = abs(slope) * Y.std()
    np.testing.assert_allclose(other.predict(clips), expected, atol=0.01 * spread)


def test_a_still_is_a_video_of_one_frame(fitted, clips, tmp_path):
    picture = clips[3]
    Image.fromarray(picture).save(tmp_path / "still.png")
    rows = [picture, picture[None], str(tmp_path / "still.png")]
    alone = fitted.predict(rows[:1])[0]
    np.testing.assert_allclose(fitted.predict(rows), alone, atol=rounding(fitted))
    assert [row["frame"].tolist() for row in fitted.frame_scores(rows)] == [[0]] * 3


# -- frames --------------------------------------------------------------------------


def test_frames_of_files(fitted, tmp_path):
    """By rate, with a limit, or so many from the first to the last."""
    model = pickle.loads(pickle.dumps(fitted))
    path = str(encode(tmp_path / "pan.mp4", pan(30, 64, 64), rate=10))
    cases = {
        (1.0, None, None): [5, 15, 25],
        (2.0, 2, None): [5, 20],
        (1.0, None, 4): [0, 9, 19, 29],
        (1.0, None, 99): list(range(30)),
    }
    for (rate, most, count), expected in cases.items():
        model.set_params(frame_rate=rate, max_frames=most, n_frames=count)
        (found,) = model.frame_scores([path])
        assert found["frame"].tolist() == expected
        np.testing.assert_allclose(found["time"], np.array(expected) / 10)
        predicted = model.predict([path])[0]
        assert found["score"].mean() == pytest.approx(predicted, abs=rounding(model))
    array = pan(30, 64, 64)
    (found,) = model.set_params(n_frames=4).frame_scores([array])
    assert found["frame"].tolist() == [0, 9, 19, 29]
    assert found["time"] is None
    display = FrameScoresDisplay.from_estimator(model, [array, path], index=1)
    assert display.frames.tolist() == [0, 9, 19, 29]
    with pytest.raises(ValueError, match=r"'max_frames' .* None where n_frames"):
        model.set_params(max_frames=3).predict([path])


def test_frames_and_motion_are_computed_once(model, clips, tmp_path):
    def computed():
        return frames.vae_rows, sum(len(paths) for paths in watched)

    clips, y = clips[1:4], Y[1:4]  # of two, three and one frame
    with counting(model.backbone) as frames, counting_calls(SlowFast) as watched:
        plain = model.set_params(memory=None).fit(clips, y).predict(clips)
        assert computed() == (2 * 6, 2 * 3)
        model.set_params(memory=FeatureStore(tmp_path)).fit(clips, y)
        np.testing.assert_array_equal(model.predict(clips), plain)
        assert computed() == (3 * 6, 3 * 3)
        model.set_params(random_state=1, modulator_scale="divide", max_epochs=1)
        model.fit(clips, y)
        assert computed() == (3 * 6, 3 * 3)


# -- training ------------------------------------------------------------------------


def test_the_modulator_learns_what_single_frames_do_not_show(small_folder, store):
    """Clips that stand or move, of the same frame; other contents are asked."""
    rng = np.random.default_rng(0)
    clips, target = [], []
    for _ in range(12):
        still = rng.integers(0, 256, (64, 64, 3), np.uint8)
        for speed in (0, 2):
            clips.append(np.stack([np.roll(still, speed * t, 1) for t in range(32)]))
            target.append(-speed)
    target = np.array(target, float)
    seen, unseen = slice(0, 16), slice(16, 24)
    scores = {}
    for modulator in (False, True):
        model = make_model(
            small_folder,
            memory=store,
            n_frames=1,  # the first frame, which both have
            n_timesteps=1,
            modulator=modulator,
            max_epochs=6,
            learning_rate=3e-3,
            blocks="down0.*",
        ).fit(clips[seen], target[seen])
        scores[modulator] = srcc_score(target[unseen], model.predict(clips[unseen]))
    assert abs(scores[False]) < 0.3
    assert scores[True] > 0.8


def test_every_part_trains(model, fitted, clips):
    begun = model.set_params(max_epochs=0).fit(clips, Y)
    moved = {
        name.rpartition("_")[0] if "lora" in name else name
        for name, value in fitted.weights_.items()
        if (value != begun.weights_[name]).any()
    }
    assert {k for k in fitted.weights_ if k.startswith("modulator.")} <= moved
    assert "context.vectors" in moved
    assert {"lora.mid_0_to_q", "lora.down0_0_to_out"} <= moved


def test_without_a_modulator_motion_is_not_looked_at(model, clips, monkeypatch):
    monkeypatch.delattr(MotionFeatures, "_sequences")
    model.set_params(modulator=False, motion_network="nowhere.pth").fit(clips, Y)
    assert not [name for name in model.weights_ if name.startswith("modulator")]
    assert model.motion_identity_ is None
    names = model.get_feature_names_out()
    assert not [name for name in names if "gamma" in name]
    assert model.transform(clips).shape == (6, len(names))


def test_switches_change_the_prediction(model, clips):
    few, y = clips[1:4], Y[1:4]
    model.set_params(max_epochs=1)
    plain = clone(model).fit(few, y).predict(few)
    for change in ({"modulator": False}, {"modulator_scale": "divide"}):
        other = clone(model).set_params(**change).fit(few, y).predict(few)
        assert np.abs(other - plain).max() > 1e-6, change


def test_validation_on_groups(model, clips):
    groups = [0, 0, 1, 1, 2, 2]
    model.set_params(validation_fraction=0.3, max_epochs=1)
    model.fit(clips, Y, groups=groups)
    assert all("validation_srcc" in record for record in model.history_)


# -- on top of a fitted GenzIQA --------------------------------------------------------


def test_begins_with_a_fitted_genziqa(model, pictures, clips, tmp_path):
    pictures.save_pretrained(tmp_path)
    clips, y = clips[1:4], Y[1:4]
    for source in (pictures, FrozenEstimator(pictures), tmp_path):
        model.set_params(init_from=source, max_epochs=0).fit(clips, y)
        for name, value in pictures.weights_.items():
            np.testing.assert_array_equal(model.weights_[name], value)
        gammas = model.transform(clips)[:, 2:4]
        np.testing.assert_array_equal(gammas, np.ones_like(gammas))
    model.set_params(max_epochs=1).fit(clips, y)
    moved = [np.abs(model.weights_[k] - v).max() for k, v in pictures.weights_.items()]
    assert 0 < max(moved) < 0.02
    model.save_pretrained(tmp_path / "video")
    loaded = GenzVQARegressor.from_pretrained(tmp_path / "video")
    assert loaded.init_from is None
    np.testing.assert_array_equal(loaded.predict(clips), model.predict(clips))


def test_a_genziqa_that_does_not_fit_is_refused(model, pictures, clips, sd2_folder):
    model.set_params(init_from=pictures)
    with pytest.raises(ValueError, match=r"'lora_rank' .* is 3, but .* fitted with 2"):
        clone(model).set_params(init_from=pictures, lora_rank=3).fit(clips, Y)
    with pytest.raises(ValueError, match=r"is not fitted\. .*FrozenEstimator"):
        clone(model).fit(clips, Y)
    with pytest.raises(ValueError, match="fitted on another backbone"):
        model.set_params(backbone=str(sd2_folder)).fit(clips, Y)
    with pytest.raises(ValueError, match=r"'init_from' .* must be a GenzIQARegressor"):
        model.set_params(init_from=FrozenEstimator(Ridge())).fit(clips, Y)
    with pytest.raises(ValueError, match="'init_from'"):
        model.set_params(init_from=3).fit(clips, Y)
    with pytest.raises(FileNotFoundError, match="save_pretrained wrote"):
        model.set_params(init_from="nowhere").fit(clips, Y)


# -- scikit-learn --------------------------------------------------------------------


def test_in_searches_and_pipelines(model, pictures, clips):
    groups = [0, 0, 1, 1, 2, 2]
    model.set_params(max_epochs=1, n_timesteps=1, init_from=FrozenEstimator(pictures))
    pipeline = make_pipeline(model, Ridge())
    search = GridSearchCV(
        pipeline,
        {"genzvqaregressor__modulator": [False, True]},
        cv=GroupKFold(2),
        error_score="raise",
        refit=False,
    )
    search.fit(clips, Y, groups=groups)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_pickle_and_skops(fitted, clips, tmp_path):
    expected = fitted.predict(clips)
    data = pickle.dumps(fitted)
    trained = sum(value.nbytes for value in fitted.weights_.values())
    assert len(data) < trained + 20_000
    np.testing.assert_array_equal(pickle.loads(data).predict(clips), expected)
    path = tmp_path / "model.skops"
    skops.io.dump(fitted, path)
    assert set(skops.io.get_untrusted_types(file=path)) <= set(TRUSTED_TYPES)
    loaded = skops.io.load(path, trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(loaded.predict(clips), expected)


# -- files ---------------------------------------------------------------------------


def test_saved_and_loaded_it_predicts_the_same(fitted, clips, tmp_path):
    fitted.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == fitted.weights_.keys()
    loaded = GenzVQARegressor.from_pretrained(tmp_path, memory=fitted.memory)
    np.testing.assert_array_equal(loaded.predict(clips), fitted.predict(clips))
    with pytest.raises(ValueError, match="holds a GenzVQARegressor, not a GenzIQA"):
        GenzIQARegressor.from_pretrained(tmp_path)


def test_the_motion_network_is_known_by_its_content(fitted, clips, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    copy = shutil.copy(TINY, tmp_path / "elsewhere.safetensors")
    loaded = GenzVQARegressor.from_pretrained(
        tmp_path / "model", motion_network=copy, memory=fitted.memory
    )
    np.testing.assert_array_equal(loaded.predict(clips), fitted.predict(clips))
    other = {name: np.asarray(value + 1) for name, value in load_file(TINY).items()}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"not the one .* Set 'motion_network'"):
        loaded.set_params(motion_network=tmp_path / "other.safetensors").predict(clips)


def test_no_row_is_left_of_a_motion_network_that_overflows(model, clips, tmp_path):
    """They are read as frames, but not as clips."""
    loud = {
        name: w.astype(np.float32) * np.float32(1e30) if w.ndim == 5 else w
        for name, w in load_file(TINY).items()
    }
    save_file(loud, tmp_path / "loud.safetensors")
    model.set_params(
        motion_network=tmp_path / "loud.safetensors", on_error="nan", memory=None
    )
    with pytest.raises(ValueError, match=r"No row can be read\. Row 0 .*not finite"):
        model.fit(clips[3:], Y[3:])


def fit_with_checkpoints(backbone, folder):
    model = make_model(backbone, checkpoint_dir=folder, memory=f"{folder}-store")
    model.fit(make_clips(), Y)


def test_killed_and_resumed_ends_with_the_same_weights(
    fitted, clips, small_folder, tmp_path
):
    """Killed in the second of two epochs of two steps."""
    runs = tmp_path / "runs"
    train_and_die(fit_with_checkpoints, small_folder, runs, step=3)
    (path,) = runs.glob("genzvqaregressor-*.pt")
    state = torch.load(path, weights_only=True)
    assert (state["done_epochs"], state["done_batches"]) == (1, 1)
    model = make_model(small_folder, memory=f"{runs}-store")
    model.set_params(checkpoint_dir=runs).fit(clips, Y)
    same_weights(model, fitted)
    assert model.history_ == fitted.history_
    assert len(list(runs.iterdir())) == 1
    # Other motion is another training.
    model.fit([clip[::-1] if clip.ndim == 4 else clip for clip in clips], Y)
    assert len(list(runs.iterdir())) == 2


@pytest.fixture
def released(sd1_folder, tmp_path):
    """The five files of the released training code, and what is in three of them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return 0.1 * torch.randn(shape, generator=generator)

    files = {name: {} for name in ("slowAttn", "fastAttn", "linearBlocks")}
    lora = {}
    for block in describe_backbone(sd1_folder).blocks:
        c = block.channels
        for layer in ("to_q", "to_k", "to_v", "to_out"):
            name = f"{block.module}.processor.{layer}_lora"
            entering = 32 if layer in ("to_k", "to_v") else c
            lora[f"{name}.down.weight"] = draw(3, entering)
            lora[f"{name}.up.weight"] = draw(c, 3)
        # down_blocks.0.attentions.1.transformer_blocks.0.attn2
        parts = block.module.split(".")
        mid = parts[0] == "mid_block"
        name = (
            "mid_block_attn_0" if mid else f"{parts[0][:-1]}_{parts[1]}_attn_{parts[3]}"
        )
        for path, width in (("slowAttn", 64), ("fastAttn", 32)):
            sizes = {"norm": (width,), "k_down": (64, width), "k_up": (c, 64)}
            for layer, shape in sizes.items():
                files[path][f"{name}.{layer}.weight"] = draw(*shape)
                files[path][f"{name}.{layer}.bias"] = draw(shape[0])
        files["linearBlocks"][f"{name}.weight"] = draw(1, 2)
        files["linearBlocks"][f"{name}.bias"] = 1 + draw(1)
    assert "up_block_3_attn_1.weight" in files["linearBlocks"]
    torch.save({"ctx": draw(5, 32)}, tmp_path / "coop_Model_state_dict.pth")
    torch.save(lora, tmp_path / "pytorch_lora_weights.bin")
    for name, content in files.items():
        torch.save(content, tmp_path / f"{name}.pth")
    return tmp_path, files


def load_released(folder, backbone, **changes):
    settings = {"motion_network": "tiny", "image_size": 64, "device": "cpu", **changes}
    return GenzVQARegressor.from_released(folder, str(backbone), **settings)


def test_released_files_load(released, sd1_folder, store, clips):
    """Every number arrives where it belongs, and the score is the raw one."""
    folder, files = released
    clips = clips[1:4]
    model = load_released(folder, sd1_folder, memory=store)
    assert (model.n_context, model.lora_rank, model.n_timesteps) == (5, 3, 4)
    for ours, (file, theirs) in {
        "modulator.slow.mid_0.down.weight": (
            "slowAttn",
            "mid_block_attn_0.k_down.weight",
        ),
        "modulator.fast.down1_0.norm_bias": (
            "fastAttn",
            "down_block_1_attn_0.norm.bias",
        ),
        "modulator.slow.up3_1.up.bias": ("slowAttn", "up_block_3_attn_1.k_up.bias"),
        "modulator.gamma.up1_0.bias": ("linearBlocks", "up_block_1_attn_0.bias"),
    }.items():
        np.testing.assert_array_equal(model.weights_[ours], files[file][theirs])
    table = model.transform(clips).astype(np.float64)
    gammas = table[:, 10:20]
    assert np.ptp(gammas) > 0.01
    expected = (table[:, :10] * gammas).mean(1)
    np.testing.assert_allclose(model.predict(clips), expected, rtol=1e-6)
    model.save_pretrained(folder / "ours")
    ours = GenzVQARegressor.from_pretrained(folder / "ours", device="cpu", memory=store)
    np.testing.assert_array_equal(ours.predict(clips), model.predict(clips))


def test_released_files_that_do_not_fit(released, sd1_folder):
    folder, files = released
    slow = folder / "slowAttn.pth"
    with pytest.raises(ValueError, match=r"\(64,\), and \(2048,\) fits this"):
        motion = folder / "r50.pyth"
        torch.save({}, motion)
        load_released(folder, sd1_folder, motion_network=motion)
    fewer = dict(list(files["slowAttn"].items())[1:])
    torch.save(fewer, slow)
    with pytest.raises(ValueError, match=r"first that .* 'down_block_0_attn_0\.norm"):
        load_released(folder, sd1_folder)
    slow.unlink()
    with pytest.raises(FileNotFoundError, match=r"one slowAttn\.pth"):
        load_released(folder, sd1_folder)
    assert load_released(folder, sd1_folder, modulator=False).motion_identity_ is None


# -- errors --------------------------------------------------------------------------


def test_needs_fitting(model, clips):
    for call in (model.predict, model.transform, model.frame_scores):
        with pytest.raises(NotFittedError):
            call(clips)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_rate": 0}, "'frame_rate'"),
        ({"n_frames": 0}, "'n_frames'"),
        ({"reader": "ffmpeg"}, "'reader'"),
        ({"modulator": "yes"}, "'modulator'"),
        ({"modulator_scale": "sqrt"}, "'modulator_scale'"),
        ({"motion_network": "slowfast"}, "'motion_network' parameter must be 'tiny'"),
        ({"motion_network": 3}, "'motion_network'"),
    ],
)
def test_bad_parameters(model, clips, change, message):
    with pytest.raises(ValueError, match=message):
        model.set_params(**change).fit(clips, Y)
    assert not hasattr(model, "weights_")


def test_bad_data_and_exceptions_leave_it_as_it_was(model, fitted, clips, tmp_path):
    with pytest.raises(ValueError, match="inconsistent numbers"):
        model.fit(clips, Y[:3])
    with pytest.raises(FileNotFoundError, match=r"Row 1 \('nowhere\.mp4'\)"):
        model.fit([clips[0], "nowhere.mp4"], [1.0, 2.0])
    path = encode(tmp_path / "cut.mp4", pan(30, 64, 64))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"Row 1 \('.*cut\.mp4'\)"):
        model.fit([clips[0], str(path)], [1.0, 2.0])
    assert not hasattr(model, "weights_")
    copy = pickle.loads(pickle.dumps(fitted))
    copy.set_params(learning_rate=1e30, max_epochs=50)
    with pytest.raises(FloatingPointError, match="smaller"):
        copy.fit(clips, Y)
    same_weights(copy, fitted)
    constant = model.fit(clips, np.full(6, 3.0)).predict(clips)
    assert np.isfinite(constant).all()
