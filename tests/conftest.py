"""Seeds for every test; small random backbones in diffusers layout for the session."""

import gc
import os
import random
import shutil
import subprocess
import tempfile

import numpy as np
import pytest
from hypothesis import settings
from random_models import KINDS, XL_KINDS, write_model

# How long an example takes says nothing of what is right.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What collecting imports stays: nobody searches it for garbage, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(autouse=True)
def _seeds():
    import torch  # here: xdist's first process reads this file and runs no test

    random.seed(0)
    np.random.seed(0)
    # As torch.manual_seed, which notes a whole stack for a GPU that may be used later.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    """Folders of random models by kind: ``sd1``, ``sd2``, ``odd``, ``deep``."""
    root = tmp_path_factory.mktemp("models")
    return {kind: write_model(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="session", params=sorted(XL_KINDS))
def xl_folder(request, tmp_path_factory):
    """Each small model of the Stable Diffusion XL kind, with two text encoders."""
    return write_model(tmp_path_factory.mktemp("xl") / request.param, request.param)


@pytest.fixture(scope="session", params=sorted(KINDS))
def model_folder(request, model_folders):
    """Each random model in turn."""
    return model_folders[request.param]


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """The cheapest model, for what is asked of any: two levels, one that attends."""
    return write_model(tmp_path_factory.mktemp("small") / "small", "small")


@pytest.fixture(scope="session")
def sd1_folder(model_folders):
    """A small model of the Stable Diffusion 1 kind (epsilon, slow tokenizer)."""
    return model_folders["sd1"]


@pytest.fixture(scope="session")
def sd2_folder(model_folders):
    """A small model of the Stable Diffusion 2 kind (v-prediction, heads per level)."""
    return model_folders["sd2"]


@pytest.fixture(scope="session")
def odd_folder(model_folders):
    """A model with odd widths, no attention in the middle, a factor of four."""
    return model_folders["odd"]


@pytest.fixture(scope="session")
def deep_folder(model_folders):
    """A model with two transformer layers per block and an AutoencoderTiny."""
    return model_folders["deep"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB; skips where this process may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files, empty at first."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
