"""The blocks of the page on other tools, run as they stand, with the tools."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffqa_features.datasets import load_sample_photos

PAGE = (Path(__file__).parents[1] / "docs" / "plugging.rst").read_text("utf-8")


def run_block(name):
    found = re.search(
        rf"\.\. code-block:: python\n   :name: {name}\n\n((?:   .*\n|\n)+)", PAGE
    )
    scope = {"paths": list(map(str, load_sample_photos().filenames[:4]))}
    exec(textwrap.dedent(found[1]), scope)
    return scope


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_datasets():
    pytest.importorskip("datasets.arrow_dataset", exc_type=ImportError)
    scope = run_block("datasets")
    table = pd.read_parquet("features.parquet")
    names = list(scope["extractor"].columns)
    assert list(table) == ["path", *names, "reason"]
    assert np.isfinite(table[names]).all(axis=None)


def test_dataloader():
    scope = run_block("dataloader")
    assert scope["metric"].count == 12


def test_duckdb():
    pytest.importorskip("duckdb")
    pytest.importorskip("polars")
    scope = run_block("duckdb")
    scores = scope["table"].to_pandas().sort_values("score")
    assert len(scores) == 4
    assert scope["worst"]["path"].tolist() == scores["path"].tolist()[:3]


def test_mlflow():
    pytest.importorskip("mlflow.sklearn", exc_type=ImportError)
    scope = run_block("mlflow")
    expected = scope["model"].predict(scope["paths"])
    np.testing.assert_array_equal(scope["again"].predict(scope["paths"]), expected)


def test_viewer():
    scope = run_block("viewer")
    page = Path("scores.html").read_text()
    shown = re.findall(r'<img src="(file:///[^"]+)"', page)
    assert sorted(shown) == sorted(Path(path).as_uri() for path in scope["paths"])
    assert scope["scores"]["score"].is_monotonic_increasing
