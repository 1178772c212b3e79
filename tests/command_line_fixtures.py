"""Fixtures for the tests of `diffqa`: pictures, a way to run it, what it should use."""

import pytest
from command_line import picture

from diffqa_features import DiffusionQAFeatures, FeatureStore
from diffqa_features.cli import main


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A working directory with five pictures, one in a folder within the folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b.JPG", "c.webp", "d.png", "more/e.png"]):
        picture(seed, (64 + 8 * seed, 64)).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture
def run(small_folder, capsys):
    """Run a command on a small random backbone: (exit code, stdout, stderr)."""

    def run(*words, backbone=True):
        words = [str(word) for word in words]
        if backbone and words[0] in ("extract", "fit", "demo"):
            words += ["--backbone", str(small_folder)]
        capsys.readouterr()
        code = main(words)
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def seen(tmp_path_factory):
    """A store of what was expected before: the pictures of all tests are the same."""
    return FeatureStore(tmp_path_factory.mktemp("seen"))


@pytest.fixture
def features(small_folder, seen):
    """Make the estimator that the commands should have used."""

    def make(**parameters):
        return DiffusionQAFeatures(str(small_folder), **{"memory": seen, **parameters})

    return make
