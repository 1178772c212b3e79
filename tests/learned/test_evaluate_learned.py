"""The table of all image systems, in small: rows, runs that go on, and comparisons."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import GroupKFold

from diffqa_features import DiffusionQAFeatures, datasets
from diffqa_features.metrics import srcc_score

SYSTEMS = ["frozen + SVR", "zero-shot column", "NSS + SVR", "GenzIQA"]
SETTINGS = {"max_epochs": 1, "blocks": "down0.*", "error_bias": False}


@pytest.fixture(scope="module")
def tool():
    tools = Path(__file__).parents[2] / "tools"
    if not tools.is_dir():
        pytest.skip("installed from a wheel: there are no tools")
    sys.path.insert(0, str(tools))
    try:
        import evaluate_learned

        yield evaluate_learned
    finally:
        sys.path.remove(str(tools))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two shards of four references in three versions; two are of one photograph."""
    folder = tmp_path_factory.mktemp("shards")
    names = ["one", "two", "three", "three"]
    for number in range(2):
        data = datasets.make_distorted_images(
            datasets.make_procedural_images(4, image_size=64, random_state=number),
            families="gaussian_blur",
            n_levels=3,
            image_size=64,
        )
        order = np.argsort(data.groups, kind="stable")
        np.savez(
            folder / f"shard{number:05}.npz",
            pixels=np.stack([data.data[i] for i in order]),
            jod=10 + data.target[order],
            name=np.repeat([f"{name}{number}" for name in names], 3),
            number=np.repeat(range(4), 3),
        )
    return folder


@pytest.fixture(scope="module")
def done(tool, shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def run(*more):
        arguments = ["x", str(shards), str(folder), "--references", "7"]
        arguments += ["--versions", "2", "--image-size", "32", "--runs", "0"]
        arguments += ["--set", json.dumps(SETTINGS), "--systems", *SYSTEMS, *more]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            patch.setattr(tool, "DRAWS", 20)  # of intervals, at which nobody looks here
            tool.main()
        return (folder / "runs.jsonl").read_text().splitlines()

    return run, run(), folder


def test_rows_are_the_first_versions_of_the_first_references(tool, shards):
    data = tool.read_rows(shards, 7, 2)
    assert data.references.tolist() == np.repeat(range(7), 2).tolist()
    assert data.groups[4:8].tolist() == ["three0"] * 4
    with np.load(shards / "shard00001.npz") as shard:
        np.testing.assert_array_equal(data.data[-1], shard["pixels"][7])
        assert data.target[-1] == shard["jod"][7]
    with pytest.raises(SystemExit, match="fewer than 9 references"):
        tool.read_rows(shards, 9, 2)


def test_every_row_is_asked_once_and_runs_go_on(tool, shards, done):
    run, lines, folder = done
    data = tool.read_rows(shards, 7, 2)
    assert len(lines) == 3 * len(SYSTEMS)
    (folder / "runs.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    again = run()
    assert again[:-1] == lines[:-1]
    predicted = [json.loads(line[-1])["predicted"] for line in (lines, again)]
    np.testing.assert_allclose(*predicted, rtol=1e-4)
    expected = GroupKFold(3).split(data.data, data.target, data.groups)
    rows = [json.loads(line)["rows"] for line in lines[:3]]
    assert rows == [held.tolist() for _, held in expected]


def test_the_table_compares_with_frozen_columns(tool, shards, done):
    run, lines, folder = done
    run("--table", str(folder / "table.csv"))
    table = pd.read_csv(folder / "table.csv", index_col="system")
    mean = f"mean of {SYSTEMS[0]} and GenzIQA"
    assert table.index.tolist() == [*SYSTEMS, mean]
    data = tool.read_rows(shards, 7, 2)
    found = {}
    for line in map(json.loads, lines):
        values = found.setdefault(line["system"], np.empty(len(data.target)))
        values[line["rows"]] = line["predicted"]
    found[mean] = (found[SYSTEMS[0]] + found["GenzIQA"]) / 2
    scores = {name: srcc_score(data.target, values) for name, values in found.items()}
    for name in found:
        assert table.srcc[name] == pytest.approx(scores[name], abs=1e-3)
    for name in [*SYSTEMS[1:], mean]:
        difference = scores[name] - scores[SYSTEMS[0]]
        assert table.more[name] == pytest.approx(difference, abs=2e-3)
    assert np.isnan(table.more[SYSTEMS[0]])


def test_blocks_of_the_trained_model(tool, shards, done):
    """All of them are the model; here, it has those of one level only."""
    run, lines, folder = done
    run("--blocks", str(folder / "blocks.csv"))
    table = pd.read_csv(folder / "blocks.csv", index_col="blocks").within
    data = tool.read_rows(shards, 7, 2)
    predicted = np.empty(len(data.target))
    for line in map(json.loads, lines):
        if line["system"] == "GenzIQA":
            predicted[line["rows"]] = line["predicted"]
    assert table.index.tolist() == ["all", "down"]
    assert table["all"] == pytest.approx(tool.within(predicted, data), abs=1e-3)
    assert table["down"] == table["all"]


def test_the_zero_shot_column_is_error_with_its_sign_turned(tool, shards, done):
    _, lines, _ = done
    data = tool.read_rows(shards, 7, 2)
    features = DiffusionQAFeatures(image_size=32, view="crop", device="cpu")
    frame = features.set_output(transform="pandas").transform(data.data)
    expected = -frame["t50__error__prompt0-prompt1"].to_numpy()
    for line in map(json.loads, lines):
        if line["system"] == "zero-shot column":
            found = line["predicted"]
            np.testing.assert_allclose(found, expected[line["rows"]], rtol=1e-4)


def test_other_pictures_are_asked_tile_by_tile(done, tmp_path):
    run, _, _ = done
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = rng.integers(0, 256, (128, 256, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.webp", lossless=True)
    run("--ask", str(tmp_path), "--out", str(tmp_path / "scores"))
    for name in SYSTEMS:
        table = pd.read_csv(tmp_path / "scores" / f"{name}.csv")
        assert table.path.tolist() == ["a.webp", "b.webp"]
        assert np.isfinite(table.score).all()
