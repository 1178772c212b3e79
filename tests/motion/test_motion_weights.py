"""Names of weights, files of weights, and files that are none."""

import importlib
import pickle
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_slowfast import recipe_weights

from diffqa_features import MotionFeatures
from diffqa_features.motion import _weights
from diffqa_features.motion._slowfast import R50, SlowFast
from diffqa_features.motion._weights import find_weights

CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file of the public checkpoint's form and size, with numbers of the recipe."""
    path = tmp_path_factory.mktemp("weights") / "SLOWFAST_8x8_R50.pyth"
    torch.save({"model_state": recipe_weights(SlowFast(R50))}, path)
    yield path
    _weights._load.cache_clear()  # 140 MB that no later test needs


@pytest.fixture
def clip():
    return np.random.default_rng(0).integers(0, 256, (32, 30, 40, 3), np.uint8)


class TestFullSize:
    def test_the_file_loads_as_it_is(self, checkpoint, clip):
        features = MotionFeatures(checkpoint, **CPU)
        row = features.transform([clip])
        assert row.shape == (1, 2304) == (1, len(features.get_feature_names_out()))
        assert np.isfinite(row).all()
        # Against the state dict itself, without this library's loader.
        network = SlowFast(R50).eval()
        network.load_state_dict(
            torch.load(checkpoint, weights_only=True)["model_state"]
        )
        frames = [
            np.asarray(Image.fromarray(f).resize((224, 224), Image.Resampling.BICUBIC))
            for f in clip
        ]
        pixels = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)[None] / 255
        with torch.inference_mode():
            slow, fast = network(pixels)
        expected = np.hstack([slow.numpy(), fast.numpy()])
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-2)

    def test_the_alias_takes_the_cache_of_torch_hub(
        self, checkpoint, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / checkpoint.name).symlink_to(checkpoint)
        info = find_weights("slowfast_r50")
        assert info.path == folder / checkpoint.name
        assert info.identity == find_weights(checkpoint).identity
        assert Path(torch.hub.get_dir()) == tmp_path / "hub"  # the very same folder


class TestMissing:
    def test_offline_names_every_way(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        features = MotionFeatures("slowfast_r50")
        for call in (features.fit, features.transform):
            with pytest.raises(OSError, match="HF_HUB_OFFLINE is set") as caught:
                call([np.zeros((8, 8, 3), np.uint8)])
            for way in (_weights.URL, str(tmp_path), "motion_network='tiny'", "curl"):
                assert way in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_download_that_fails_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
        with pytest.raises(OSError, match=r"could not be downloaded: .*refused"):
            find_weights("slowfast_r50")
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == []

    def test_a_download_lands_in_the_cache(self, tmp_path, monkeypatch, caplog):
        source = tmp_path / "published.pyth"
        torch.save({}, source)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

        class Mirror(urllib.request.BaseHandler):
            """Answers for the site of the weights."""

            handler_order = 0  # before the handlers that would go there

            def https_open(self, request):
                assert request.full_url == _weights.URL
                answer = urllib.request.urlopen(source.as_uri())
                answer.code, answer.msg = 200, "OK"  # which files do not have
                return answer

        urllib.request.install_opener(urllib.request.build_opener(Mirror))
        try:
            with caplog.at_level("INFO"):
                info = find_weights("slowfast_r50")
        finally:
            urllib.request.install_opener(None)
        assert info.path.read_bytes() == source.read_bytes()
        assert info.identity in caplog.text

    @pytest.mark.parametrize("name", ["slowfast", "", "r50"])
    def test_a_word_that_is_no_alias(self, name):
        with pytest.raises(ValueError, match="'motion_network' parameter must be"):
            find_weights(name)

    def test_a_path_that_is_not_there(self, tmp_path):
        path = tmp_path / "none.pyth"
        with pytest.raises(FileNotFoundError, match=r"was not found.*none"):
            find_weights(path)

    def test_a_file_of_another_kind(self, tmp_path):
        path = tmp_path / "weights.onnx"
        path.write_bytes(b"...")
        with pytest.raises(ValueError, match=r"ends in none of \.safetensors"):
            find_weights(path)


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestWrongFiles:
    def load(self, path):
        return MotionFeatures(path, **CPU).transform([np.zeros((8, 8, 3), np.uint8)])

    def test_code_is_never_run(self, tmp_path):
        path, fuse = tmp_path / "bad.pyth", tmp_path / "fuse"
        torch.save({"model_state": {}, "more": Bomb(fuse)}, path)
        with pytest.raises(OSError, match="as weights alone"):
            self.load(path)
        assert not fuse.exists()
        path.write_bytes(pickle.dumps(Bomb(fuse)))
        with pytest.raises(OSError, match="as weights alone"):
            self.load(path)
        assert not fuse.exists()

    def test_a_truncated_file(self, checkpoint, tmp_path):
        path = tmp_path / "half.pyth"
        with checkpoint.open("rb") as file:
            path.write_bytes(file.read(1_000_000))
        with pytest.raises(OSError, match=r"half\.pyth cannot be read"):
            self.load(path)

    def test_another_network(self, tmp_path):
        path = tmp_path / "other.pt"
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
        with pytest.raises(OSError, match="662 of 662 names are missing and 2 are"):
            self.load(path)

    def test_a_head_of_another_size(self, tmp_path):
        weights = load_file(_weights.TINY)
        weights["blocks.5.proj.weight"] = weights["blocks.5.proj.weight"][:3].clone()
        path = tmp_path / "tuned.safetensors"
        save_file(weights, path)
        with pytest.raises(OSError, match=r"'blocks\.5\.proj\.weight' has the shape"):
            self.load(path)

    def test_no_safetensors(self, tmp_path):
        path = tmp_path / "bad.safetensors"
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(OSError, match="is not a safetensors file"):
            find_weights(path)


class TestTiny:
    def test_a_copy_gives_the_same_columns(self, tmp_path, clip):
        path = tmp_path / "copy.safetensors"
        path.write_bytes(_weights.TINY.read_bytes())
        copied = MotionFeatures(path, **CPU)
        assert len(copied.get_feature_names_out()) == 96
        shipped = MotionFeatures(**CPU).transform([clip])
        np.testing.assert_array_equal(copied.transform([clip]), shipped)

    def test_other_weights_are_other_features(self, tmp_path, clip):
        """Also where a store knows the clip."""
        weights = load_file(_weights.TINY)
        name = "blocks.0.multipathway_blocks.1.conv.weight"
        weights[name] = weights[name] * 1.5
        path = tmp_path / "other.safetensors"
        save_file(weights, path)
        store = tmp_path / "store"
        first = MotionFeatures(memory=store, **CPU).transform([clip])
        second = MotionFeatures(path, memory=store, **CPU).transform([clip])
        assert np.abs(second - first).max() > 1e-3

    def test_weights_that_changed_since_the_fit_are_refused(self, tmp_path, clip):
        path = tmp_path / "network.safetensors"
        path.write_bytes(_weights.TINY.read_bytes())
        features = MotionFeatures(path, **CPU).fit()
        weights = load_file(path)
        name = "blocks.0.multipathway_blocks.1.conv.weight"
        save_file({**weights, name: weights[name] * 1.5}, path)
        with pytest.raises(ValueError, match="not the one that it was fitted with"):
            pickle.loads(pickle.dumps(features)).transform([clip])
        assert np.isfinite(features.fit_transform([clip])).all()

    def test_it_is_small(self):
        assert _weights.TINY.stat().st_size < 3 * 2**20


def test_training_resumes_and_exports(tmp_path, clip, monkeypatch, caplog):
    """A run in two parts ends where one in one part does, and what it writes loads."""
    tools = Path(__file__).parents[2] / "tools"
    if not tools.is_dir():
        pytest.skip("installed from a wheel: there are no tools")
    monkeypatch.syspath_prepend(tools)
    main = importlib.import_module("train_tiny_motion").main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        with caplog.at_level("INFO"):
            main()

    small = ("--pool", 3, "--clips", 2, "--steps", 2, "--checkpoint-every", 1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run("--out", whole, *small)
    run("--out", parts, *small, "--stop", 1)
    assert "resumed" not in caplog.text
    run("--out", parts, *small)
    assert "resumed at step 1" in caplog.text
    for folder in (whole, parts):
        run("--out", folder, "--export", folder / "exported")
    first, second = (
        load_file(folder / "exported" / "model.safetensors")
        for folder in (whole, parts)
    )
    assert first.keys() == load_file(_weights.TINY).keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-3)
    path = whole / "exported" / "model.safetensors"
    assert np.isfinite(MotionFeatures(path, **CPU).transform([clip])).all()
