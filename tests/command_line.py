"""Fixtures for the tests of `diffqa`: pictures, a way to run it, what it should use."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import diffqa_features
from diffqa_features import DiffusionQAFeatures
from diffqa_features.cli import main

ROOT = Path(diffqa_features.__file__).parents[1]


def picture(seed, size=(64, 64)):
    """Smooth coloured noise, other for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


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
def run(sd1_folder, capsys):
    """Run a command on a small random backbone: (exit code, stdout, stderr)."""

    def run(*words, backbone=True):
        words = [str(word) for word in words]
        if backbone and words[0] in ("extract", "fit", "demo"):
            words += ["--backbone", str(sd1_folder)]
        capsys.readouterr()
        code = main(words)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def features(sd1_folder):
    """Make the estimator that the commands should have used."""

    def make(**parameters):
        return DiffusionQAFeatures(str(sd1_folder), **parameters)

    return make


def read(path):
    """(paths, matrix, names) of an extracted table of any format."""
    if path.suffix == ".npz":
        with np.load(path) as content:
            return (
                content["paths"].tolist(),
                content["features"],
                content["names"].tolist(),
            )
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    matrix = table.drop(columns="path").to_numpy(np.float32)
    return table["path"].tolist(), matrix, table.columns[1:].tolist()


def close(a, b):
    return np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def names_in(folder):
    """What lies in a folder, sorted."""
    return sorted(path.name for path in Path(folder).iterdir())


def python(*words):
    """Start Python with these arguments; it finds the package from any folder."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
