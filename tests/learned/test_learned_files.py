"""Saved models, the authors' files, and training that is killed and goes on."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from interruptions import counted_steps, train_and_die
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import load_file
from safetensors.numpy import save as save_safetensors
from safetensors.torch import save_file

from diffqa_features import (
    DistilledStudentRegressor,
    GenzIQARegressor,
    MotionFeatures,
)
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._backbone.settings import read_json
from diffqa_features.learned._files import load, save

Y = [1.0, 5.0, 2.0, 4.0]
SETTINGS = {
    "n_context": 3,
    "lora_rank": 2,
    "blocks": ["mid.0", "up1.1"],
    "n_timesteps": 2,
    "image_size": 64,
    "max_epochs": 3,
    "batch_size": 2,
    "device": "cpu",
}


def make_images():
    return list(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def images():
    return make_images()


@pytest.fixture(scope="module")
def fitted(small_folder, images):
    return GenzIQARegressor(str(small_folder), **SETTINGS).fit(images, Y)


# -- save_pretrained ------------------------------------------------------------------


def test_saved_and_loaded_it_predicts_the_same(fitted, images, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    files = {path.name: path for path in (tmp_path / "model").iterdir()}
    assert set(files) == {"config.json", "model.safetensors"}
    trained = sum(value.nbytes for value in fitted.weights_.values())
    assert files["model.safetensors"].stat().st_size < trained + 8_000
    weights = load_file(files["model.safetensors"])
    assert weights.keys() == fitted.weights_.keys()
    config = json.loads(files["config.json"].read_text())
    assert config["backbone"]["identity"] == fitted.backbone_identity_
    loaded = GenzIQARegressor.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(images), fitted.predict(images))
    assert loaded.history_ == fitted.history_
    assert loaded.device is None  # of the machine, not of the model
    fewer = GenzIQARegressor.from_pretrained(tmp_path / "model", n_timesteps=1)
    assert fewer.n_timesteps == 1
    # A model that was loaded saves and trains on as any other.
    loaded.save_pretrained(tmp_path / "again")
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == weights.keys()
    assert again
    loaded.set_params(warm_start=True, max_epochs=1, device="cpu").fit(images, Y)
    assert len(loaded.history_) == 4


def test_the_files_load_in_another_place(fitted, images, small_folder, tmp_path):
    """The backbone is known by its content, wherever it lies."""
    elsewhere = shutil.copytree(small_folder, tmp_path / "backbone")
    fitted.save_pretrained(tmp_path / "model")
    loaded = GenzIQARegressor.from_pretrained(tmp_path / "model", backbone=elsewhere)
    np.testing.assert_array_equal(loaded.predict(images), fitted.predict(images))


def test_files_from_before_the_head_are_read(fitted, images, tmp_path):
    fitted.save_pretrained(tmp_path)
    config, weights = load(tmp_path)
    del config["parameters"]["head"]
    save(tmp_path, config, weights)
    loaded = GenzIQARegressor.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.predict(images), fitted.predict(images))


def test_another_backbone_is_refused(fitted, sd2_folder, tmp_path):
    fitted.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not the one .* Set 'backbone' to a folder"):
        GenzIQARegressor.from_pretrained(tmp_path, backbone=str(sd2_folder))
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone"]["identity"] = "0" * 64
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="expected 000000000000"):
        GenzIQARegressor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'lora_rank' .* fitted with"):
        fitted.save_pretrained(tmp_path)
        GenzIQARegressor.from_pretrained(tmp_path, lora_rank=4)


@pytest.mark.parametrize("killed_after", [0, 1])
def test_a_crash_while_saving_leaves_a_whole_model(
    fitted, images, tmp_path, monkeypatch, killed_after
):
    """Before the first and between the two files: the old model, or the new one."""
    fitted.save_pretrained(tmp_path)
    newer = pickle.loads(pickle.dumps(fitted))
    newer.set_params(warm_start=True, learning_rate=1e-2).fit(images, Y)
    real, done = Path.replace, []

    def replace(self, target):
        if len(done) == killed_after:
            raise KeyboardInterrupt
        done.append(target)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            newer.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = GenzIQARegressor.from_pretrained(tmp_path)
    expected = (fitted, newer)[killed_after]
    np.testing.assert_array_equal(loaded.predict(images), expected.predict(images))
    assert len(loaded.history_) == len(expected.history_)


def test_bad_files_say_what_to_do(fitted, images, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        GenzIQARegressor.from_pretrained(tmp_path)
    fitted.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"\0" * 200):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged or was not written"):
            GenzIQARegressor.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    held = load_safetensors(whole)
    info = {"config": json.dumps(load(tmp_path)[0])}
    name = next(name for name, value in held.items() if value.dtype == np.float32)
    for kind in ("int8", "uint64", "bool", "complex64", "int64"):
        odd = {**held, name: held[name].astype(kind)}
        weights.write_bytes(save_safetensors(odd, metadata=info))
        with pytest.raises(ValueError, match=f"{name}' is of type {kind}"):
            GenzIQARegressor.from_pretrained(tmp_path).predict(images)
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"estimator": "DPIQARegressor"}, "holds a DPIQARegressor, not a GenzIQA"),
        ({"format": 99}, "has format 99"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            GenzIQARegressor.from_pretrained(tmp_path)


def test_the_home_of_nobody_is_a_folder_that_is_not_there(small_folder, tmp_path):
    name = "~nobody-is-called-so/model"
    for call in (
        lambda: GenzIQARegressor.from_pretrained(name),
        lambda: GenzIQARegressor.from_released(name, str(small_folder)),
        lambda: DistilledStudentRegressor.from_released(name),
        lambda: describe_backbone(name),
        lambda: MotionFeatures(motion_network=name).fit(),
    ):
        with pytest.raises((OSError, ValueError), match="~nobody-is-called-so"):
            call()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_configuration_that_is_no_file_is_not_read(fitted, images, tmp_path, kind):
    fitted.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    loaded = GenzIQARegressor.from_pretrained(tmp_path)  # the copy in the weights
    np.testing.assert_array_equal(loaded.predict(images), fitted.predict(images))
    with pytest.raises(ValueError, match=r"config\.json is no file, but"):
        read_json(path)


# -- the authors' layout --------------------------------------------------------------


@pytest.fixture
def released(sd1_folder, tmp_path):
    """The two files of the released training code, and what is in them."""
    generator = torch.Generator().manual_seed(0)
    context = 0.02 * torch.randn(5, 32, generator=generator)
    learner = {
        "ctx": context,
        "token_prefix": torch.zeros(2, 1, 32),
        "token_suffix": torch.zeros(2, 71, 32),
    }
    processors = {}
    for block in describe_backbone(sd1_folder).blocks:
        sizes = {"to_q": (block.channels,) * 2, "to_out": (block.channels,) * 2}
        sizes["to_k"] = sizes["to_v"] = (32, block.channels)
        for layer, (entering, leaving) in sizes.items():
            down = torch.randn(3, entering, generator=generator)
            up = torch.randn(leaving, 3, generator=generator)
            name = f"{block.module}.processor.{layer}_lora"
            processors[f"{name}.down.weight"] = down
            processors[f"{name}.up.weight"] = up
            name = name.replace("attn2", "attn1")
            processors[f"{name}.down.weight"] = torch.randn(3, block.channels)
            processors[f"{name}.up.weight"] = torch.zeros(block.channels, 3)
    (tmp_path / "coop").mkdir()
    (tmp_path / "unet").mkdir()
    torch.save(learner, tmp_path / "coop" / "coop_Model_state_dict.pth")
    torch.save(processors, tmp_path / "unet" / "pytorch_lora_weights.bin")
    return tmp_path, learner, processors


def load_released(folder, backbone):
    return GenzIQARegressor.from_released(
        folder, str(backbone), image_size=64, device="cpu", n_timesteps=2
    )


def test_released_files_load(released, sd1_folder, images):
    """Every number arrives where it belongs, and the score is the raw one."""
    folder, learner, processors = released
    model = load_released(folder, sd1_folder)
    assert (model.n_context, model.lora_rank) == (5, 3)
    np.testing.assert_array_equal(model.weights_["context.vectors"], learner["ctx"])
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.up"
    np.testing.assert_array_equal(
        model.weights_["lora.mid_0_to_out_up"], processors[f"{name}.weight"]
    )
    assert len(model.weights_) == 1 + 10 * 4 * 2
    table = model.transform(images)[:, :10].astype(np.float64)
    np.testing.assert_allclose(model.predict(images), table.mean(1), rtol=1e-6)
    # The same numbers under our own names, through our own door.
    model.save_pretrained(folder / "ours")
    ours = GenzIQARegressor.from_pretrained(folder / "ours", device="cpu")
    np.testing.assert_array_equal(ours.predict(images), model.predict(images))


def test_released_files_as_safetensors(released, sd1_folder, images):
    folder, _, processors = released
    expected = load_released(folder, sd1_folder).predict(images)
    (folder / "unet" / "pytorch_lora_weights.bin").unlink()
    save_file(processors, folder / "unet" / "pytorch_lora_weights.safetensors")
    np.testing.assert_array_equal(
        load_released(folder, sd1_folder).predict(images), expected
    )


def test_released_files_that_do_not_fit(released, sd1_folder, odd_folder):
    folder, learner, processors = released
    with pytest.raises(ValueError, match="no low-rank factor of a cross-attention"):
        load_released(folder, odd_folder)
    path = folder / "unet" / "pytorch_lora_weights.bin"
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up"
    torch.save({**processors, f"{name}.weight": torch.ones(48, 3)}, path)
    with pytest.raises(ValueError, match="changes self-attention"):
        load_released(folder, sd1_folder)
    fewer = dict(list(processors.items())[8:])
    torch.save(fewer, path)
    with pytest.raises(ValueError, match=r"lacks \d+ of the low-rank factors"):
        load_released(folder, sd1_folder)
    torch.save({k: v.to(torch.int8) for k, v in processors.items()}, path)
    with pytest.raises(ValueError, match=r"of type torch\.int8, and they must be fl"):
        load_released(folder, sd1_folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="pytorch_lora_weights"):
        load_released(folder, sd1_folder)
    torch.save(processors, path)
    coop = folder / "coop" / "coop_Model_state_dict.pth"
    torch.save({"token_prefix": learner["token_prefix"]}, coop)
    with pytest.raises(ValueError, match="one matrix of context vectors"):
        load_released(folder, sd1_folder)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_released_files_run_no_code(released, sd1_folder, monkeypatch):
    folder, _, _ = released
    monkeypatch.chdir(folder)
    torch.save({"ctx": Bomb()}, folder / "coop" / "coop_Model_state_dict.pth")
    with pytest.raises(ValueError, match="not a file of tensors only"):
        load_released(folder, sd1_folder)
    assert not (folder / "exploded").exists()


# -- checkpoints -----------------------------------------------------------------------


def fit_with_checkpoints(backbone, folder):
    model = GenzIQARegressor(str(backbone), checkpoint_dir=folder, **SETTINGS)
    model.fit(make_images(), Y)


def test_killed_and_resumed_ends_with_the_same_weights(
    fitted, images, small_folder, tmp_path
):
    """Killed in the second epoch of two steps; only what is left is trained."""
    train_and_die(fit_with_checkpoints, small_folder, tmp_path, step=3)
    assert len(list(tmp_path.glob("genziqaregressor-*.pt"))) == 1
    state = torch.load(next(tmp_path.glob("*.pt")), weights_only=True)
    assert (state["done_epochs"], state["done_batches"]) == (1, 1)
    model = GenzIQARegressor(str(small_folder), checkpoint_dir=tmp_path, **SETTINGS)
    with counted_steps() as taken:
        model.fit(images, Y)
        assert len(taken) == 3
        model.fit(images, Y)  # the finished training is found again
        assert len(taken) == 3
    for name, value in fitted.weights_.items():
        np.testing.assert_array_equal(model.weights_[name], value)
    assert model.history_ == fitted.history_


def test_a_checkpoint_belongs_to_one_training(fitted, images, small_folder, tmp_path):
    """Other data, seed or parameters never resume it; a search may share a folder."""
    settings = {**SETTINGS, "checkpoint_dir": tmp_path}
    plain = GenzIQARegressor(str(small_folder), **settings).fit(images, Y)
    for name, value in fitted.weights_.items():
        np.testing.assert_array_equal(plain.weights_[name], value)
    changes = ({"learning_rate": 2e-4}, {"random_state": 1}, {"max_epochs": 2})
    for change in changes:
        GenzIQARegressor(str(small_folder), **{**settings, **change}).fit(images, Y)
    GenzIQARegressor(str(small_folder), **settings).fit(images, Y[::-1])
    GenzIQARegressor(str(small_folder), **settings).fit(images[::-1], Y)
    assert len(list(tmp_path.iterdir())) == 1 + len(changes) + 2


def test_a_damaged_checkpoint_is_an_error(images, small_folder, tmp_path):
    model = GenzIQARegressor(str(small_folder), checkpoint_dir=tmp_path, **SETTINGS)
    model.fit(images, Y)
    (path,) = tmp_path.iterdir()
    state = torch.load(path, weights_only=True)
    for change in ({"done_epochs": "2"}, {"history": None}, {"best": 3}):
        torch.save({**state, **change}, path)
        with pytest.raises(OSError, match=rf"is damaged: .*{next(iter(change))}"):
            model.fit(images, Y)
    torch.save({k: v for k, v in state.items() if k != "losses"}, path)
    with pytest.raises(OSError, match=r"is damaged: KeyError\('losses'\). Delete it"):
        model.fit(images, Y)
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OSError, match=r"is damaged: .* Delete it"):
        model.fit(images, Y)
