"""Networks of students: weights from other places, files, and ONNX without torch."""

import copy
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torchvision_layout import EfficientNet, ReleasedStudent, randomised
from transformers import EfficientNetConfig, EfficientNetForImageClassification

from diffqa_features import DistilledStudentRegressor, DPIQARegressor, __version__
from diffqa_features.learned.student.efficientnet import (
    VARIANTS,
    EfficientNetBody,
    find_config,
    from_torchvision,
)
from diffqa_features.learned.student.network import StudentNetwork
from diffqa_features.learned.student.onnx import _metadata
from diffqa_features.learned.student.tiny_network import _local_mean

ROOT = Path(__file__).parents[2]
WIDTH, DEPTH = 0.25, 0.3


class Levels:
    """A teacher: the brightness, and where it is."""

    def predict(self, X):
        return np.array([np.mean(x) for x in X])

    def quality_maps(self, X):
        return np.stack([x[::8, ::8, :2].transpose(2, 0, 1) / 255 for x in X])


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A folder with a small classifier, as they lie on the hub."""
    return write_classifier(
        tmp_path_factory.mktemp("classifier"), depth_coefficient=DEPTH
    )


def write_classifier(folder, **settings):
    config = EfficientNetConfig(
        width_coefficient=WIDTH,
        hidden_dim=320,
        image_size=96,
        num_labels=3,
        **settings,
    )
    torch.manual_seed(0)
    model = randomised(EfficientNetForImageClassification(config))
    model.save_pretrained(folder)
    return folder


def make(**changes):
    settings = {"image_size": 64, "max_epochs": 1, "batch_size": 5, "device": "cpu"}
    return DistilledStudentRegressor(Levels(), **{**settings, **changes})


@pytest.fixture(scope="module")
def tiny(images):
    return make(network="tiny", learning_rate=1e-3).fit(images)


# -- EfficientNet ----------------------------------------------------------------------


def test_a_model_of_the_hub_brings_its_weights(images, classifier):
    model = make(network=str(classifier), max_epochs=0, image_size=None).fit(images)
    assert model.image_size_ == 96
    assert model.head_ == "map"
    assert model.map_shape_ == [2, 8, 8]
    published = EfficientNetForImageClassification.from_pretrained(classifier)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = published.eval().efficientnet(pixels).last_hidden_state
        grid, pooled = model._trained(torch.device("cpu")).body(pixels)
    torch.testing.assert_close(grid, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled, expected.mean((2, 3)), rtol=1e-4, atol=1e-4)
    given = make(network=str(classifier), weights=classifier, max_epochs=0)
    np.testing.assert_array_equal(
        given.fit(images).predict(images[:1]).round(3),
        make(network=str(classifier), max_epochs=0, random_state=0)
        .fit(images)
        .predict(images[:1])
        .round(3),
    )


def test_imagenet_normalisation_is_a_change_of_pixels(images, classifier):
    body = make(network=str(classifier), max_epochs=0).fit(images)
    other = make(network=str(classifier), max_epochs=0, normalization="imagenet")
    other.fit(images)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pixels = torch.rand(2, 3, 64, 64)
    device = torch.device("cpu")
    with torch.no_grad():
        expected = body._trained(device)((pixels - mean) / std)[0]
        found = other._trained(device)(pixels)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_weights_that_do_not_fit(images, classifier, tmp_path):
    with pytest.raises(ValueError, match=r"not those of this network: .* first"):
        make(network="efficientnet_b0", weights=str(classifier)).fit(images)
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        make(network=str(classifier), weights=str(tmp_path)).fit(images)
    with pytest.raises(OSError, match="neither in the hub's cache nor"):
        make(network="nobody/efficientnet").fit(images)
    config = json.loads((classifier / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    with pytest.raises(ValueError, match="describes a 'vit'"):
        make(network=tmp_path).fit(images)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        make(network=tmp_path).fit(images)


@pytest.mark.parametrize("head", ["map", "pooled"])
def test_a_saved_student_needs_neither_teacher_nor_hub(
    images, classifier, head, tmp_path
):
    model = make(network=str(classifier), head=head).fit(images)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json", "model.safetensors"
    }  # fmt: skip
    assert load_file(tmp_path / "model.safetensors").keys() == model.weights_.keys()
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ("network", "design"):
        config.get("parameters", {}).pop(change, None)
    loaded = DistilledStudentRegressor.from_pretrained(tmp_path)
    assert loaded.teacher is None
    assert not hasattr(loaded, "teacher_")
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))
    np.testing.assert_array_equal(
        loaded.quality_maps(images), model.quality_maps(images)
    )
    with pytest.raises(ValueError, match=r"'head' .* fitted with"):
        DistilledStudentRegressor.from_pretrained(tmp_path, head="auto")


# -- DP-IQA as the teacher -----------------------------------------------------------


def test_dpiqa_teaches_scores_and_maps(images, small_folder, tmp_path):
    """Both come from one pass per picture, and none once they are in the store."""
    teacher = DPIQARegressor(
        str(small_folder), scenes=["photo"], distortions=["noise", "blur"],
        image_size=64, max_epochs=0, device="cpu",
    ).fit(images, [1.0, 5.0, 2.0, 4.0, 3.0])  # fmt: skip
    student = DistilledStudentRegressor(
        FrozenEstimator(teacher), network="tiny", head="map", image_size=64,
        max_epochs=40, batch_size=5, learning_rate=1e-3, device="cpu", memory=tmp_path,
    )  # fmt: skip
    with seeing_passes() as passes:
        student.fit(images)
    assert sum(passes) == 5
    maps, scores = teacher.quality_maps(images, return_scores=True)
    assert student.map_shape_ == list(maps.shape[1:])
    assert student.map_scale_ == pytest.approx(maps.std(), rel=1e-4)
    assert student.intercept_ == pytest.approx(scores.mean())
    # Pictures that it was trained on: it has learned them.
    error = np.square(student.quality_maps(images) - maps).mean()
    assert error < 0.5 * maps.var()
    assert student.history_[-1]["loss"] < 0.2 * student.history_[0]["loss"]
    with seeing_passes() as passes:
        clone(student).set_params(max_epochs=1).fit(images)
    assert passes == []


@contextmanager
def seeing_passes():
    """Rows of each pass through any UNet."""
    rows = []

    def see(module, args):
        if type(module).__name__ == "UNet2DConditionModel":
            rows.append(len(args[0]))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(see)
    try:
        yield rows
    finally:
        handle.remove()


# -- the authors' checkpoint -----------------------------------------------------------


@pytest.fixture(scope="module")
def released():
    return randomised(ReleasedStudent(WIDTH, DEPTH))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_released_layout(images, classifier, released, tmp_path, suffix):
    """Against an independent forward pass under torchvision's names."""
    path = tmp_path / f"student{suffix}"
    state = released.state_dict()
    if suffix == ".pth":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    else:
        save_file(state, path)
    model = DistilledStudentRegressor.from_released(
        path, network=str(classifier), image_size=128, device="cpu"
    )
    large = [np.asarray(Image.fromarray(x).resize((128, 128))) for x in images[:2]]
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2) / 255
        scores, maps = released(pixels)
    np.testing.assert_allclose(model.predict(large), scores, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.quality_maps(large), maps, rtol=1e-3, atol=1e-4)
    model.save_pretrained(tmp_path / "saved")
    loaded = DistilledStudentRegressor.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(large), model.predict(large))


def test_released_files_that_are_something_else(classifier, released, tmp_path):
    state = released.state_dict()
    large = state["fc1.weight"]  # 67 MB; a file of one number that is repeated is none
    state["fc1.weight"] = torch.zeros(1).expand_as(large)
    bad = {
        "holds 'extra'": {**state, "extra": torch.zeros(1)},
        "is no name of torchvision": {
            **state, "base_model.features.9.0.block.0.0.weight": torch.zeros(1)
        },
        "does not fit": {k: v for k, v in state.items() if k != "fc1.bias"},
        "not a file of tensors": None,
    }  # fmt: skip
    for message, content in bad.items():
        if content is None:
            (tmp_path / "s.pth").write_bytes(b"nonsense")
        else:
            torch.save(content, tmp_path / "s.pth")
        with pytest.raises(ValueError, match=message):
            DistilledStudentRegressor.from_released(
                tmp_path / "s.pth", network=str(classifier)
            )
    with pytest.raises(FileNotFoundError, match="no file"):
        DistilledStudentRegressor.from_released(tmp_path / "none.pth")


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b7"])
def test_every_tensor_of_the_published_sizes_has_a_place(name):
    width, depth, _ = VARIANTS[name]
    config, size = find_config(name)
    with torch.device("meta"):
        theirs = EfficientNet(width, depth).state_dict()
        ours = EfficientNetBody(config, symmetric=True).model.state_dict()
    renamed = from_torchvision(theirs, config)
    assert renamed.keys() == ours.keys()
    assert all(renamed[key].shape == ours[key].shape for key in ours)
    assert size == {"efficientnet_b0": 224, "efficientnet_b7": 512}[name]
    numbers = sum(v.numel() for k, v in ours.items() if k.endswith(("weight", "bias")))
    assert (
        numbers == {"efficientnet_b0": 4_007_548, "efficientnet_b7": 63_786_960}[name]
    )


def test_first_weights_pass_on_the_signal_and_its_gradient():
    config, _ = find_config("efficientnet_b0")
    torch.manual_seed(0)
    body = EfficientNetBody(config, symmetric=False)
    _, pooled = body(torch.rand(4, 3, 64, 64))
    assert pooled.std(0).mean() > 0.01
    pooled.square().mean().backward()
    first = body.model.embeddings.convolution.weight
    assert 1e-4 < first.grad.abs().mean() < 1e2


# -- ONNX ------------------------------------------------------------------------------


NEAR = {"rtol": 1e-4, "atol": 1e-4}  # float32, of scores with a spread of about 1


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "student.onnx"
    tiny.export_onnx(path)
    return path


def test_onnx_agrees_with_torch(tiny, exported, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert [path.name for path in exported.parent.iterdir()] == ["student.onnx"]
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["direction"] == "that of the scores of its training"
    assert facts["library"] == f"diffqa_features {__version__}"
    assert f"{tiny.image_size_} x {tiny.image_size_}" in facts["preprocessing"]
    low, high = tiny.target_range_
    assert facts["range"].endswith(f", {low:g} to {high:g}")
    for count in (1, 5, 2):
        (scores,) = session.run(["score"], {"pixels": np.stack(images[:count])})
        assert scores.shape == (count,)
        np.testing.assert_allclose(scores, tiny.predict(images[:count]), **NEAR)


def test_onnx_is_a_file_of_this_machine(tiny, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    for path, message in (
        (tmp_path, "is a folder; give the name of a file"),
        ("s3://bucket/x.onnx", "must be a path of this machine"),
        ("", "is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny.export_onnx(path)
    assert not list(tmp_path.iterdir())


def test_onnx_says_which_view_it_takes(tiny):
    cropped = copy.copy(tiny).set_params(view="crop")
    (stretched, middle) = (_metadata(m)["preprocessing"] for m in (tiny, cropped))
    assert "stretched to" in stretched
    assert "stretched to" not in middle
    assert "the middle" in middle


def test_onnx_of_an_efficientnet(images, tmp_path):
    """Of two stages, which have all kinds of layers: an export costs by the layer."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    stages = {
        "in_channels": [32, 16], "out_channels": [16, 24], "kernel_sizes": [3, 5],
        "strides": [1, 2], "expand_ratios": [1, 6], "num_block_repeats": [1, 2],
        "depth_coefficient": 1.0, "depthwise_padding": [],
    }  # fmt: skip
    network = write_classifier(tmp_path / "classifier", **stages)
    model = make(network=str(network), normalization="imagenet").fit(images)
    model.export_onnx(tmp_path / "b.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "b.onnx", providers=["CPUExecutionProvider"]
    )
    (scores,) = session.run(["score"], {"pixels": np.stack(images)})
    np.testing.assert_allclose(scores, model.predict(images), **NEAR)


def test_the_example_needs_only_three_packages(tiny, exported, tmp_path):
    """It scores files of any size as `predict` does, with torch out of reach."""
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(2)
    picture = tmp_path / "photo.jpg"
    Image.fromarray(rng.integers(0, 256, (90, 130, 3), np.uint8)).save(picture)
    script = ROOT / "examples" / "score_with_onnx.py"
    blocked = "import sys, runpy; sys.modules.update(dict.fromkeys({!r})); "
    code = blocked.format(["torch", "diffqa_features", "sklearn", "transformers"])
    code += f"sys.argv = {[str(script), str(exported), str(picture)]!r}; "
    code += f"runpy.run_path({str(script)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(
        tiny.predict([picture])[0], rel=1e-4, abs=1e-4
    )


def test_a_new_network_reseeds_no_global_generator(monkeypatch):
    reseeded = []  # generators of a GPU, which has them where there is one
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    before = torch.get_rng_state()
    weights = [
        StudentNetwork({"kind": "tiny"}, "pooled", None, False, seed).state_dict()
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert reseeded == []
    first, again, other = (w["body.scales.0.0.0.weight"] for w in weights)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_local_mean_is_that_of_a_window():
    plane = torch.rand(2, 1, 20, 31, dtype=torch.float64)
    padded = torch.nn.functional.pad(plane, (3, 3, 3, 3), mode="replicate")
    expected = torch.nn.functional.avg_pool2d(padded, 7, stride=1)
    torch.testing.assert_close(_local_mean(plane), expected)
