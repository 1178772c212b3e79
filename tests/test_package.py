"""What is installed: light imports, true names, the shipped model, nothing unsafe."""

import importlib.metadata
import os
import pickle
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import diffqa_features

PACKAGE = Path(diffqa_features.__file__).parent
ROOT = PACKAGE.parent
HEAVY = ("torch", "diffusers", "transformers", "matplotlib")

# Runs each statement in a fork of its own, which starts with the libraries that all of
# them may use, then tells on stderr which heavy modules it left behind. One that fails
# is told of, too, and the next one is run.
REPORT_HEAVY = """
import os, sys
import pandas, PIL.Image, pyarrow, scipy.stats, sklearn.model_selection
assert not any(name in sys.modules for name in {heavy} + ("diffqa_features",))
for name, statement in {statements}.items():
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]:
            sys.stderr.write("loaded:" + name + ":failed" + chr(10))
            sys.stderr.flush()
        continue
    try:
        exec(statement, {{"sys": sys}})
    except SystemExit as stop:
        if stop.code:
            raise
    found = [name for name in {heavy} if name in sys.modules]
    sys.stderr.write("loaded:" + name + ":" + ",".join(found) + chr(10))
    sys.stderr.flush()
    os._exit(0)
"""

LIGHT = {
    "import": "import diffqa_features",
    "dir": "import diffqa_features; dir(diffqa_features)",
    "datasets": "from diffqa_features import datasets",
    "metrics": "from diffqa_features import metrics",
    "evaluation": "from diffqa_features import evaluation",
    "cli": "import diffqa_features.cli",
    "main --help": "from diffqa_features.cli import main; main(['--help'])",
    "python -m": (
        "import runpy; sys.argv = ['diffqa', '--help'];"
        "runpy.run_module('diffqa_features.cli', run_name='__main__')"
    ),
    "names of columns": (
        "from diffqa_features import DiffusionQAFeatures;"
        "assert len(DiffusionQAFeatures().get_feature_names_out()) == 97"
    ),
    "names of columns of motion": (
        "from diffqa_features import MotionFeatures;"
        "MotionFeatures().fit([0]).get_feature_names_out()"
    ),
    "photographs without network": """
import socket
def refuse(*args, **kwargs): raise OSError("network")
socket.socket.connect = socket.getaddrinfo = refuse
from diffqa_features import datasets, metrics
assert len(datasets.load_sample_photos().data) == 16
""",
    "displays before they are drawn": """
import numpy as np
from diffqa_features.inspection import *
AlignmentMapDisplay(np.zeros((8, 8, 3)), np.zeros((1, 2, 2)), prompts=["a"])
PredictionDisplay(np.zeros(2), np.zeros(2))
SearchHeatmapDisplay(np.zeros((1, 1)), [1], [2])
EmbeddingDisplay(np.zeros((1, 2)))
FrameScoresDisplay(np.zeros(2), np.arange(2))
TimestepCurveDisplay(np.arange(2), {}, {})
NoiseRoundTripDisplay(*[np.zeros(1)] * 7)
TrainingCurveDisplay(np.arange(2), np.zeros(2))
""",
}


@pytest.fixture(scope="module")
def loaded_after(tmp_path_factory):
    """What each statement leaves behind, by its name."""
    statements = {**LIGHT, "import torch": "import torch", "error": "1 / 0"}
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            REPORT_HEAVY.format(statements=statements, heavy=HEAVY),
        ],
        cwd=ROOT,
        # Nor does anything lie in the home folder.
        env={**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    found = dict(re.findall(r"^loaded:(.+):(.*)$", run.stderr, re.M))
    return {**found, "all that was told": run.stderr}


@pytest.mark.parametrize("name", LIGHT)
def test_heavy_libraries_are_not_imported(loaded_after, name):
    assert loaded_after[name] == "", loaded_after["all that was told"]


def test_the_report_of_heavy_libraries_works(loaded_after):
    assert loaded_after["import torch"] == "torch"
    assert loaded_after["error"] == "failed"


def test_the_installed_command_answers():
    command = Path(sysconfig.get_path("scripts")) / "diffqa"
    run = subprocess.run(
        [command, "--help"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    for verb in ("demo", "info", "extract", "fit", "score"):
        assert verb in run.stdout


def test_version_is_the_installed_one():
    assert diffqa_features.__version__ == importlib.metadata.version("diffqa-features")


def test_all_is_sorted_true_and_listed():
    names = diffqa_features.__all__
    # As ruff sorts them: constants, classes, then modules.
    order = sorted(set(names), key=lambda n: (not n.isupper(), n[0].islower(), n))
    assert list(names) == order
    assert set(names) <= set(dir(diffqa_features))
    for name in names:
        assert getattr(diffqa_features, name) is not None


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = diffqa_features.no_such_name


def test_a_pickle_of_an_older_version_is_refused_with_the_way_out():
    # Protocol 0: the class by the module that it lay in before the rooms.
    old = b"cdiffqa_features._features\nDiffusionQAFeatures\n."
    with pytest.raises(ModuleNotFoundError, match="another version wrote the file"):
        pickle.loads(old)
    learned = b"cdiffqa_features.learned._genziqa\nGenzIQARegressor\n."
    with pytest.raises(ModuleNotFoundError, match=r"no module '.*learned\._genziqa'"):
        pickle.loads(learned)
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        import_module("diffqa_features.nonsense")


def test_lazy_names_are_those_of_star_import():
    namespace = {}
    exec("from diffqa_features import *", namespace)
    assert set(diffqa_features.__all__) <= set(namespace)


def test_diagrams_lead_to_the_pages_that_were_built(tmp_path):
    shutil.copytree(
        PACKAGE,
        tmp_path / PACKAGE.name,
        ignore=shutil.ignore_patterns("tiny", "__pycache__"),
    )
    page = tmp_path / "docs/_build/html/generated/api"
    page /= "diffqa_features.NaturalSceneStatistics.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>")
    statement = (
        "from diffqa_features import MotionFeatures, NaturalSceneStatistics;"
        "print(NaturalSceneStatistics()._repr_html_());"
        "print(MotionFeatures()._get_doc_link() or 'none')"
    )
    run = subprocess.run(
        [sys.executable, "-c", statement],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert f'href="{page.as_uri()}"' in run.stdout
    assert run.stdout.splitlines()[-1] == "none"  # no page, no link


def test_weights_are_safetensors_only():
    # Formats that may run code when they are loaded, whatever their size.
    unsafe = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy"}
    assert [str(p) for p in PACKAGE.rglob("*") if p.suffix in unsafe] == []


def test_tiny_holds_weights_configs_and_card_only():
    files = [p for p in (PACKAGE / "tiny").rglob("*") if p.is_file()]
    assert {p.suffix for p in files} <= {".json", ".safetensors", ".md", ".txt"}
    assert sum(p.stat().st_size for p in files) <= 16 * 2**20


def test_tiny_motion_holds_weights_and_card_only():
    files = {p.name for p in (PACKAGE / "motion" / "tiny").rglob("*") if p.is_file()}
    assert files == {"README.md", "model.safetensors"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("installed from a wheel: there is no source tree to build from")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_wheel_holds_the_package_and_all_of_tiny(wheel):
    shipped = {name for name in wheel.namelist() if name.startswith("diffqa_features/")}
    on_disk = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == on_disk
    assert "diffqa_features/tiny/unet/diffusion_pytorch_model.safetensors" in shipped
    assert "diffqa_features/motion/tiny/model.safetensors" in shipped


def test_wheel_holds_no_other_top_level_package(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "diffqa_features"
    }


def test_wheel_metadata_names_licence_and_command(wheel):
    (info,) = {name for name in wheel.namelist() if name.endswith("/METADATA")}
    metadata = wheel.read(info).decode()
    assert "License-Expression: Apache-2.0" in metadata
    (points,) = {name for name in wheel.namelist() if name.endswith("entry_points.txt")}
    assert "diffqa = diffqa_features.cli:main" in wheel.read(points).decode()
