"""Learned models to a hub on this machine and back, by huggingface_hub itself."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_server import serve_hub
from safetensors.numpy import load_file

from diffqa_features import GenzIQARegressor
from diffqa_features.learned._files import model_card

COMMIT = "c" * 40
SETTINGS = {
    "n_context": 2, "lora_rank": 2, "blocks": ["mid.0"], "n_timesteps": 1,
    "image_size": 64, "max_epochs": 1, "device": "cpu",
}  # fmt: skip
PUSH_AND_LOAD = """
    import json, sys
    from diffqa_features import GenzIQARegressor
    try:
        GenzIQARegressor.from_pretrained("owner/none")
    except OSError as error:
        message = str(error)
    model = GenzIQARegressor.from_pretrained(sys.argv[1])
    commit = model.push_to_hub(
        "judge", card="Trained on nothing worth naming.", licence="apache-2.0"
    )
    again = GenzIQARegressor.from_pretrained("owner/judge")
    weights = {name: value.tolist() for name, value in again.weights_.items()}
    print(json.dumps({"commit": commit, "weights": weights, "none": message}))
"""
LOAD = """
    import sys
    from diffqa_features import GenzIQARegressor
    try:
        GenzIQARegressor.from_pretrained(sys.argv[1])
    except OSError as error:
        print(error)
"""


def run_python(code, *words, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    inherited = {k: v for k, v in inherited.items() if "proxy" not in k.lower()}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *words],
        env={**inherited, "PYTHONPATH": root, "HF_HUB_DISABLE_XET": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def saved(small_folder, tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    model = GenzIQARegressor(str(small_folder), **SETTINGS).fit(list(images), [1, 2, 3])
    folder = tmp_path_factory.mktemp("models") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pushed(saved, tmp_path_factory):
    """Where it was published, what was downloaded, and what a child says of both."""
    folder = tmp_path_factory.mktemp("hub")
    published = folder / "published"
    published.mkdir()
    with serve_hub({"owner/judge": (published, COMMIT)}) as (address, downloaded):
        environment = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_of_nobody"}
        environment["HF_HUB_CACHE"] = str(folder / "cache")
        answer = json.loads(run_python(PUSH_AND_LOAD, str(saved), **environment))
    return published, downloaded, answer


def test_pushed_and_loaded_it_is_the_same(saved, pushed):
    published, downloaded, answer = pushed
    assert answer["commit"].endswith(COMMIT)
    assert sorted(set(downloaded)) == ["config.json", "model.safetensors"]
    weights = load_file(saved / "model.safetensors")
    assert answer["weights"].keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(answer["weights"][name], value)
    card = (published / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffqa_features\nlicense: apache-2.0\n")
    assert "Trained on nothing worth naming." in card
    low, high = json.loads((saved / "config.json").read_text())["fitted"][
        "target_range_"
    ]
    assert low < high
    assert f"scores that it was trained on, {low:g} to {high:g}, and" in card
    assert 'GenzIQARegressor.from_pretrained("owner/judge")' in card
    assert "\nlora_rank: 2\n" in card
    assert "device" not in card
    assert "backbone: " in card


def test_text_in_a_card_stays_text(saved):
    model = GenzIQARegressor.from_pretrained(saved)
    model.prompts = ["`<script>`\n```\n# Approved", "bad"]
    model.design_["prompts"] = model.prompts
    card = model_card(model, "owner/judge", "", "other\ntags: [safe]")
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "other\ntags: [safe]"
    assert "no-reference" in front["tags"]
    lines = card.splitlines()
    assert lines.count("```") == 2
    assert "# Approved" not in lines


def test_what_is_nowhere_is_named(pushed, tmp_path):
    *_, answer = pushed
    assert "the hub does not give 'owner/none'" in answer["none"]
    offline = run_python(
        LOAD, "owner/none", HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path)
    )
    assert "hf download owner/none" in offline
