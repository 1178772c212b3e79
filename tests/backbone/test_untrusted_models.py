"""Models from strangers: what their files may ask for, and what they get."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import update_json, write_json, write_model
from safetensors.torch import load_file, save_file

from diffqa_features import (
    DiffusionQAFeatures,
    DistilledStudentRegressor,
    FeatureStore,
    MotionFeatures,
)
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._backbone.weights import (
    load_texts,
    load_unet,
    load_vae,
    read_schedule,
)
from diffqa_features.motion._weights import TINY

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"
CONFIGS = (
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    SCHEDULER,
    "tokenizer/tokenizer_config.json",
)
CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def folder(sd1_folder, tmp_path):
    return Path(shutil.copytree(sd1_folder, tmp_path / "model"))


def pictures(count=2):
    return list(np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8))


# -- configurations --------------------------------------------------------------------

HOSTILE = {
    "attn_implementation": "stranger/kernel",
    "_attn_implementation": "stranger/kernel",
    "_attn_implementation_internal": "stranger/kernel",
    "kernel_config": {"RMSNorm": "stranger/kernel:Layer"},
    "use_kernels": True,
    "fusion_config": {"patch_embeddings": True},
    "auto_map": {
        "AutoModel": "stranger/code--model.Model",
        "AutoTokenizer": ["stranger/code--model.Tokenizer", None],
    },
    "trust_remote_code": True,
    "transformers_weights": "../../outside.safetensors",
    "_name_or_path": "stranger/model",
    "name_or_path": "stranger/model",
    "subfolder": "../..",
    "torch_dtype": "float64",
    "dtype": "float64",
    "architectures": ["StrangerModel"],
    "gguf_file": "../../outside.gguf",
    "output_attentions": True,
    "tokenizer_class": "StrangerTokenizer",
    "tokenizer_file": "../../outside.json",
    "vocab_file": "../../outside.json",
    "fast_tokenizer_files": ["tokenizer.9.json"],
    "chat_template": "{{ cycler.__init__.__globals__ }}",
    "processor_class": "StrangerProcessor",
    "adapter_path": "../../outside",
    "_use_default_values": ["in_channels"],
}

WATCHED = """
import os, sys, tempfile

folder = sys.argv[1]
import torch, diffusers, transformers, safetensors.torch
import transformers.models.clip.modeling_clip
import transformers.models.clip.tokenization_clip
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

def logging_of_others():
    return [value() for library in (diffusers_logging, transformers_logging)
            for value in (library.get_verbosity, library.is_progress_bar_enabled)]

before = logging_of_others()
from diffqa_features._backbone.backbone import load_backbone

allowed = [folder, tempfile.gettempdir() + os.sep + "diffqa-", sys.prefix,
           sys.base_prefix, os.environ["PYTHONPATH"], "/proc/", "/sys/", "/dev/"]
allowed += [os.path.realpath(path) for path in allowed] + [p for p in sys.path if p]
seen = []

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen",
                 "os.system", "os.exec", "os.posix_spawn"):
        seen.append((event, str(args)))
    elif event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(args[0]))
        if not path.startswith(tuple(allowed)):
            seen.append((event, path))

sys.addaudithook(watch)
backbone = load_backbone(folder, "cpu", "float32")
backbone.condition(["word " * 200])
print(seen, before == logging_of_others())
"""


@pytest.fixture(scope="module")
def hostile(sd1_folder, tmp_path_factory):
    """A model whose configuration asks for all of this."""
    folder = tmp_path_factory.mktemp("hostile") / "model"
    shutil.copytree(sd1_folder, folder)
    for name in CONFIGS:
        update_json(folder / name, **HOSTILE)
    write_json(
        folder / "text_encoder/adapter_config.json",
        {"base_model_name_or_path": "stranger/model", "peft_type": "LORA"},
    )
    write_json(folder / "text_encoder/generation_config.json", HOSTILE)
    (folder / "tokenizer/chat_template.jinja").write_text("{{ 1 }}")
    (folder / "text_encoder/pytorch_model.bin").write_bytes(b"\x80\x04")
    return folder


@pytest.fixture(scope="module")
def watched(hostile):
    """A process that has loaded it: what it printed, and what it reached."""
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCHED, str(hostile)],
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_nothing_is_printed_and_the_logging_of_others_is_left_alone(watched):
    assert watched.stdout.endswith(" True\n"), watched.stdout
    # The library's own warning about the long prompt, and nothing else.
    assert "only the first 77 are used" in watched.stderr
    assert len(watched.stderr.splitlines()) == 1, watched.stderr
    assert len(watched.stdout.splitlines()) == 1, watched.stdout


def test_a_hostile_configuration_reaches_nothing(sd1_folder, hostile, watched):
    """No file outside, no connection, no program; and the very same numbers."""
    assert watched.stdout.startswith("[] "), watched.stdout
    plain, changed = load_backbone(sd1_folder, "cpu"), load_backbone(hostile, "cpu")
    assert changed._text_encoder.config._attn_implementation == "sdpa"
    ours, theirs = (each.condition(["Good photo."]) for each in (plain, changed))
    assert torch.equal(ours.states, theirs.states)
    assert torch.equal(ours.content, theirs.content)
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(plain.encode_images(pixels), changed.encode_images(pixels))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_quantized_weights_are_refused(folder, part):
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    update_json(folder / part / "config.json", quantization_config=config)
    with pytest.raises(
        ValueError, match=rf"{part}.*asks for quantized weights.*dequantize"
    ):
        describe_backbone(folder)


def test_integers_in_place_of_floats_are_refused(folder):
    weights = {k: v.clone() for k, v in load_file(folder / TEXT).items()}
    name = next(k for k in weights if k.endswith("q_proj.weight"))
    weights[name] = (weights[name] * 100).to(torch.int8)
    save_file(weights, folder / TEXT, {"format": "pt"})
    with pytest.raises(OSError, match=r"of type I8\. Weights must be floats"):
        load_backbone(folder, "cpu")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "unet/config.json",
            {"norm_num_groups": 0},
            "'norm_num_groups' must be an int",
        ),
        ("unet/config.json", {"norm_num_groups": 7}, "describes no model that can be"),
        ("unet/config.json", {"block_out_channels": None}, "'block_out_channels' must"),
        ("unet/config.json", {"layers_per_block": 10**9}, "'layers_per_block' must"),
        ("unet/config.json", {"norm_eps": float("nan")}, "'norm_eps' must be a finite"),
        ("vae/config.json", {"norm_num_groups": 0}, "'norm_num_groups' must be"),
        ("vae/config.json", {"scaling_factor": None}, "'scaling_factor' must be"),
        (
            "text_encoder/config.json",
            {"hidden_act": "evil"},
            "'hidden_act' must be one",
        ),
        ("text_encoder/config.json", {"text_config": [1]}, "'text_config' must be an"),
        ("text_encoder/config.json", {"vocab_size": 10**12}, "'vocab_size' must be an"),
        (SCHEDULER, {"beta_start": float("nan")}, r"'beta_start' must be a number in"),
        (SCHEDULER, {"trained_betas": [0.1, float("inf")]}, "'trained_betas' must be"),
        (SCHEDULER, {"num_train_timesteps": 10**12}, "'num_train_timesteps' must be"),
        ("tokenizer/tokenizer_config.json", {"eos_token": [1]}, "'eos_token' must be"),
    ],
)
def test_a_setting_that_no_model_has_is_named_with_its_file(
    folder, file, change, message
):
    update_json(folder / file, **change)
    with pytest.raises(ValueError, match=message) as caught:
        load_backbone(folder, "cpu")
    assert str(folder / file) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet", {"addition_time_embed_dim": None}, "pooled text and 6 sizes make 24"),
        ("unet", {"addition_time_embed_dim": "8"}, "'addition_time_embed_dim' must be"),
        ("text_encoder_2", {"projection_dim": None}, "and 6 sizes make 48"),
        ("text_encoder_2", {"hidden_size": "40"}, "'hidden_size' must be an int"),
    ],
)
def test_widths_of_two_texts_that_are_no_numbers_are_named(
    folder_of_two_texts, file, change, message
):
    path = folder_of_two_texts / file / "config.json"
    before = path.read_text()
    update_json(path, **change)
    with pytest.raises(ValueError, match=message):
        describe_backbone(folder_of_two_texts)
    path.write_text(before)


@pytest.fixture(scope="module")
def folder_of_two_texts(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("xl") / "model", "sdxl")


def test_sizes_are_compared_with_the_weights_before_anything_is_allocated(folder):
    """A million tokens of a million channels would be four terabytes."""
    update_json(
        folder / "text_encoder/config.json", vocab_size=10**6, intermediate_size=10**6
    )
    with pytest.raises(OSError, match=r"do not fit its config.json: .* another shape"):
        load_backbone(folder, "cpu")
    update_json(folder / "vae/config.json", block_out_channels=[2**20] * 4)
    with pytest.raises(OSError, match="vae do not fit its config"):
        load_backbone(folder, "cpu")


@pytest.mark.parametrize("content", ["null", "[]", "3", "[" * 100_000, '{"a": ' * 500])
@pytest.mark.parametrize("file", CONFIGS)
def test_what_is_no_object_is_named(folder, file, content):
    (folder / file).write_text(content)
    with pytest.raises(
        ValueError, match=r"must hold a JSON object|is not valid JSON"
    ) as e:
        describe_backbone(folder)
    assert str(folder / file) in str(e.value)


# -- weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300])
def test_weights_that_are_not_finite_are_refused_and_nothing_is_stored(
    folder, tmp_path, file, value
):
    weights = {k: v.clone() for k, v in load_file(folder / file).items()}
    name = sorted(weights)[5]
    weights[name] = weights[name].double()
    weights[name].view(-1)[-1] = value
    save_file(weights, folder / file, {"format": "pt"})
    features = DiffusionQAFeatures(
        str(folder), image_size=64, memory=tmp_path / "store", on_error="nan", **CPU
    )
    with pytest.raises(OSError, match="holds NaN or infinity") as caught:
        features.transform(pictures())
    assert str(folder / file) in str(caught.value)
    assert name.split(".")[-1] in str(caught.value)
    assert FeatureStore(tmp_path / "store").info().entries == 0


def test_passes_that_overflow_float32_refuse_the_row_and_store_nothing(
    folder, tmp_path
):
    """Finite weights whose products are not: every row is refused with its reason."""
    weights = {k: v.clone() for k, v in load_file(folder / UNET).items()}
    weights["mid_block.resnets.0.conv1.weight"] *= 1e37
    weights["mid_block.resnets.0.norm2.weight"] *= 1e37
    weights["mid_block.resnets.0.conv2.weight"] *= 1e37
    save_file(weights, folder / UNET, {"format": "pt"})
    given = pictures()
    settings = {
        "image_size": 64,
        "kinds": "hidden",
        "memory": tmp_path / "store",
        **CPU,
    }
    features = DiffusionQAFeatures(str(folder), on_error="nan", **settings)
    with pytest.warns(RuntimeWarning, match="2 of 2|3 of 3"):
        table = features.transform([*given, given[0]])
    assert np.isnan(table).all()
    assert [index for index, _ in features.failed_] == [0, 1, 2]
    assert all(reason.startswith(f"Row {i} ") for i, reason in features.failed_)
    assert all(
        "not finite, also in float32" in reason for _, reason in features.failed_
    )
    # The latents are sound, and all that is kept.
    assert FeatureStore(tmp_path / "store").info().entries == 2
    with pytest.raises(ValueError, match=r"Row 0 .*not finite, also in float32"):
        DiffusionQAFeatures(str(folder), **settings).transform(given)


def test_motion_weights_that_are_not_finite_are_refused(tmp_path):
    weights = {k: v.clone() for k, v in load_file(TINY).items()}
    name = "blocks.0.multipathway_blocks.0.conv.weight"
    clip = np.random.default_rng(0).integers(0, 256, (32, 30, 40, 3), np.uint8)
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, tmp_path / "bad.safetensors")
    store = tmp_path / "store"
    with pytest.raises(OSError, match=rf"bad.safetensors: '{name}' holds NaN"):
        MotionFeatures(tmp_path / "bad.safetensors", memory=store, **CPU).transform(
            [clip]
        )
    weights = load_file(TINY)
    for key, value in weights.items():
        if value.ndim == 5:
            weights[key] = value.float() * 1e30
    save_file(weights, tmp_path / "large.safetensors")
    motion = MotionFeatures(
        tmp_path / "large.safetensors", memory=store, on_error="nan", **CPU
    )
    with pytest.warns(RuntimeWarning, match="2 of 2"):
        assert np.isnan(motion.transform([clip, clip])).all()
    assert [index for index, _ in motion.failed_] == [0, 1]
    assert all(reason.startswith(f"Row {i} ") for i, reason in motion.failed_)
    assert FeatureStore(store).info().entries == 0


def test_an_index_stays_in_its_folder(folder, tmp_path):
    """Weights in several files: what the index names lies beside it."""
    shutil.copy(folder / UNET, tmp_path / "outside.safetensors")
    weights = load_file(folder / UNET)
    names = sorted(weights)
    parts = {
        "diffusion_pytorch_model-00001-of-00002.safetensors": names[::2],
        "diffusion_pytorch_model-00002-of-00002.safetensors": names[1::2],
    }
    for file, held in parts.items():
        save_file({k: weights[k] for k in held}, folder / "unet" / file)
    (folder / UNET).unlink()
    index = folder / f"{UNET}.index.json"
    mapping = {name: file for file, held in parts.items() for name in held}
    write_json(index, {"metadata": {}, "weight_map": mapping})
    load_backbone(folder, "cpu")
    for away in ("../../outside.safetensors", str(tmp_path / "outside.safetensors")):
        write_json(index, {"weight_map": {**mapping, names[0]: away}})
        with pytest.raises(OSError, match="must name the files of the weights beside"):
            load_backbone(folder, "cpu")
    for broken in (None, [], {"a": 1}, {}):
        write_json(index, {"weight_map": broken})
        with pytest.raises(OSError, match="names no file"):
            load_backbone(folder, "cpu")


# -- a hundred files -----------------------------------------------------------------


def damage(rng, folder):
    """Change one file of a model at random, as accident or intent might; its part."""
    kind = rng.integers(3)
    if kind == 0:  # a setting of another kind
        path = folder / CONFIGS[rng.integers(len(CONFIGS))]
        content = json.loads(path.read_text())
        key = sorted(content)[rng.integers(len(content))]
        values = (
            None, [], {}, "", "x", -1, 0, 10**12, 1e300, float("nan"), True, [None],
            [[[]]], {"a": 1},
        )  # fmt: skip
        content[key] = values[rng.integers(len(values))]
        write_json(path, content)
        return path.parent.name
    path = folder / (UNET, VAE, TEXT)[rng.integers(3)]
    whole = bytearray(path.read_bytes())
    length = struct.unpack("<Q", whole[:8])[0]
    if kind == 1 and rng.integers(2):  # cut
        del whole[rng.integers(len(whole)) :]
    elif kind == 1:  # noise in the header
        for place in rng.integers(0, 8 + length, 3):
            whole[place] = rng.integers(256)
    else:  # a header that says something else
        header = json.loads(whole[8 : 8 + length])
        name = sorted(header.keys() - {"__metadata__"})[rng.integers(len(header) - 1)]
        changes = (
            {"shape": [10**12, 10**12]}, {"shape": []}, {"dtype": "I64"},
            {"dtype": "F99"}, {"data_offsets": [0, 10**15]}, {"data_offsets": [5, 3]},
            {"shape": None}, {"dtype": []},
        )  # fmt: skip
        header[name] |= changes[rng.integers(len(changes))]
        text = json.dumps(header).encode()
        whole[: 8 + length] = struct.pack("<Q", len(text)) + text
    path.write_bytes(whole)
    return path.parent.name


def test_a_hundred_damaged_models_load_or_say_which_file(sd1_folder, tmp_path):
    """One of two: the model, or a ValueError or OSError that names the folder."""
    rng = np.random.default_rng(11)
    cpu = torch.device("cpu")
    load_part = {
        "unet": lambda info: load_unet(info, cpu, torch.float32),
        "vae": load_vae,
        "text_encoder": lambda info: load_texts(info, cpu),
        "tokenizer": lambda info: load_texts(info, cpu),
        "scheduler": read_schedule,
    }
    loaded = 0
    for number in range(100):
        folder = Path(shutil.copytree(sd1_folder, tmp_path / str(number)))
        part = damage(rng, folder)
        try:
            load_part[part](describe_backbone(folder))
            loaded += 1
        except (ValueError, OSError) as error:
            assert str(folder) in str(error), error
        shutil.rmtree(folder)
    assert 0 < loaded < 40


# -- learned models -------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    model = DistilledStudentRegressor(
        network="tiny", image_size=64, max_epochs=1, batch_size=2, device="cpu"
    )
    model.fit(pictures(4), [1.0, 2.0, 3.0, 4.0])
    folder = tmp_path_factory.mktemp("student")
    model.save_pretrained(folder)
    return model, folder


def rewrite(folder, change, weights=None):
    """The files of a saved model as somebody else might write them."""
    import hashlib

    from safetensors.numpy import load_file as load_arrays
    from safetensors.numpy import save as to_bytes

    config = json.loads((folder / "config.json").read_text())
    config.pop("weights_sha256")
    change(config)
    arrays = load_arrays(folder / "model.safetensors") if weights is None else weights
    content = to_bytes(arrays, metadata={"config": json.dumps(config)})
    config["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def saved(student, tmp_path):
    return Path(shutil.copytree(student[1], tmp_path / "saved"))


def test_machine_settings_never_come_from_a_file(saved, tmp_path):
    away = {
        "memory": str(tmp_path / "memory"), "checkpoint_dir": str(tmp_path / "check"),
        "device": "cuda:7", "verbose": 3, "teacher": "x",
    }  # fmt: skip
    rewrite(saved, lambda config: config["parameters"].update(away))
    loaded = DistilledStudentRegressor.from_pretrained(saved)
    default = DistilledStudentRegressor().get_params()
    for name in away:
        assert getattr(loaded, name) == default[name]
    loaded.predict(pictures())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved"]
    given = DistilledStudentRegressor.from_pretrained(saved, device="cpu")
    assert given.device == "cpu"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["fitted"].update(predict=1), "unknown is 'predict'"),
        (lambda c: c["fitted"].pop("slope_"), "unknown is 'slope_'"),
        (lambda c: c["fitted"].update(slope_="1"), "'slope_' must be a finite number"),
        (
            lambda c: c["fitted"].update(slope_=float("nan")),
            "'slope_' must be a finite",
        ),
        (
            lambda c: c["fitted"].update(image_size_=10**9),
            "'image_size_' must be an int",
        ),
        (lambda c: c["fitted"].update(architecture_=[]), "'architecture_' must be"),
        (lambda c: c["fitted"].update(history_=None), "'history_' must be a list"),
        (
            lambda c: c["fitted"].update(
                architecture_={
                    "kind": "efficientnet",
                    "config": {"width_coefficient": 1e6},
                    "symmetric": False,
                }
            ),
            "'width_coefficient' must be a number up to 8",
        ),
        (lambda c: c["parameters"].update(evil=1), "names the parameter 'evil'"),
        (lambda c: c["parameters"].update(view=3), "'view' parameter"),
        (lambda c: c.update(parameters=None), "must have 'parameters'"),
        (lambda c: c.update(fitted=[1]), "must have 'fitted'"),
        (lambda c: c.update(estimator=None), "must have 'estimator'"),
    ],
)
def test_a_saved_model_that_says_something_else_is_refused(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(ValueError, match=message) as caught:
        DistilledStudentRegressor.from_pretrained(saved)
    assert str(saved) in str(caught.value) or "'view'" in message


def test_saved_weights_that_are_not_finite_or_do_not_fit_are_refused(student, saved):
    model, _ = student
    weights = {name: value.copy() for name, value in model.weights_.items()}
    name = next(n for n in weights if n.endswith("weight"))
    for value in (np.inf, 1e300):  # the latter in float32
        weights[name] = weights[name].astype(np.float64)
        weights[name].flat[0] = value
        rewrite(saved, lambda config: None, weights)
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            DistilledStudentRegressor.from_pretrained(saved)
    for dtype in (np.int8, np.uint64, np.bool_):
        weights[name] = np.ones_like(model.weights_[name]).astype(dtype)
        rewrite(saved, lambda config: None, weights)
        with pytest.raises(ValueError, match=f"'{name}' is of type .*Dequantize"):
            DistilledStudentRegressor.from_pretrained(saved)
    weights[name] = np.zeros((2, 2), np.float32)
    rewrite(saved, lambda config: None, weights)
    loaded = DistilledStudentRegressor.from_pretrained(saved)
    with pytest.raises(ValueError, match="do not fit its parameters"):
        loaded.predict(pictures())


@pytest.mark.parametrize("text", ["null", "[]", "[" * 100_000])
def test_a_configuration_that_is_no_object_is_passed_over_or_named(
    student, saved, text
):
    """The weights carry their own copy; where that is broken too, it is an error."""
    from safetensors.numpy import save as to_bytes

    model, _ = student
    (saved / "config.json").write_text(text)
    loaded = DistilledStudentRegressor.from_pretrained(saved, device="cpu")
    np.testing.assert_array_equal(loaded.predict(pictures()), model.predict(pictures()))
    content = to_bytes(model.weights_, metadata={"config": text})
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="damaged or was not written"):
        DistilledStudentRegressor.from_pretrained(saved)


def test_predictions_that_are_not_finite_are_refused(student):
    model, _ = student
    import copy

    changed = copy.deepcopy(model)
    changed.weights_ = {
        k: v * np.float32(1e30) if v.dtype == np.float32 else v
        for k, v in model.weights_.items()
    }
    with pytest.raises(ValueError, match=r"Row 0: the predicted score is (nan|-?inf)"):
        changed.predict(pictures())
