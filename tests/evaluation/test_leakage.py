"""One file on both sides of a split, under whatever name, and rows without a group."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from diffqa_features.evaluation import (
    bootstrap_interval,
    cross_dataset,
    official_split,
    repeated_splits,
)
from diffqa_features.evaluation._leakage import identities


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Eight pictures; of the last, a link, a second name and a detour."""
    monkeypatch.chdir(tmp_path)
    names = [f"{n}.png" for n in range(8)]
    for n, name in enumerate(names):
        Image.new("RGB", (8, 8), (20 * n, 0, 0)).save(name)
    (tmp_path / "link.png").symlink_to("7.png")
    os.link("7.png", "second.png")
    return names


MODEL = make_pipeline(
    FunctionTransformer(lambda X: np.array([[len(str(x)), hash(x) % 7] for x in X])),
    Ridge(),
)


@pytest.mark.parametrize(
    "again", ["7.png", "link.png", "second.png", "./x/../7.png", "file://{}/7.png"]
)
def test_official_split(files, again, tmp_path):
    (tmp_path / "x").mkdir()
    X = [*files, again.format(tmp_path)]
    split = ["train"] * 8 + ["test"]
    message = r"'train' to 'test' leaks: 1 media .* training row 7 is test row 8"
    with pytest.raises(ValueError, match=message):
        official_split(MODEL, X, np.arange(9.0), split)


def test_repeated_splits(files):
    X, y = [*files, "link.png"], np.arange(9.0)
    with pytest.raises(ValueError, match=r"Split 0 leaks: .* is test row"):
        repeated_splits(MODEL, X, y, cv=[(np.arange(8), np.array([8]))])
    with pytest.raises(ValueError, match="leaks: 1 media are in both"):
        repeated_splits(MODEL, X, y, cv=KFold(9), metrics="rmse", mapping=None)
    # In one group they never part.
    groups = [*files[:7], "a", "a"]
    repeated_splits(
        MODEL,
        X,
        y,
        groups=groups,
        n_splits=3,
        test_size=3,
        metrics="rmse",
        mapping=None,
    )


def test_a_mask_of_training_rows_is_seen_by_the_check():
    X = np.arange(8.0)[:, None]
    with pytest.raises(ValueError, match="Split 0 leaks: 1 rows are in training and"):
        repeated_splits(Ridge(), X, X[:, 0], cv=[([True] * 8, [7])])


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        ([(range(8), [-1])], "Split 0: a side must be a list of row numbers from 0"),
        ([([0, 1], [8])], "Split 0: a side must be a list of row numbers from 0"),
        ([([0.0, 1.0], [2.0])], "Split 0: a side must be a list of row numbers from 0"),
        ([([True] * 7, [7])], "Split 0: a side must be a list of row numbers from 0"),
        (
            [([[0, 1]], [[2, 3]])],
            "Split 0: a side must be a list of row numbers from 0",
        ),
        ([([0], [1], [2])], "The 'cv' parameter must give pairs"),
        ([], "The 'cv' parameter must give pairs"),
        ([0, 1, 2], "The 'cv' parameter must give pairs"),
    ],
)
def test_splits_that_are_none(cv, message):
    X = np.arange(8.0)[:, None]
    with pytest.raises(ValueError, match=message):
        repeated_splits(Ridge(), X, X[:, 0], cv=cv)


def test_no_part_to_test_on():
    X = np.arange(8.0)[:, None]
    with pytest.raises(ValueError, match="'test' parameter names no part"):
        official_split(Ridge(), X, X[:, 0], ["train"] * 8, test=[])


def test_cross_dataset_tells_both_rows(files):
    from sklearn.utils import Bunch

    a = Bunch(data=files, target=np.arange(8.0))
    b = Bunch(data=["0.png", "link.png"], target=np.arange(2.0))
    with pytest.raises(
        ValueError, match=r"a to b leaks: 2 media .* row 0 of a is row 0"
    ):
        cross_dataset(MODEL, {"a": a}, {"b": b})
    with pytest.raises(TypeError, match=r"dicts of data sets by name\. Got a list"):
        cross_dataset(MODEL, {"a": a}, [b])


def test_pixels_and_features():
    picture = np.zeros((9, 9, 3), np.uint8)
    same, other = picture.copy(), picture + 1
    first, second, third = identities([picture, same, other])
    assert first == second != third
    assert identities(np.zeros((4, 3))).tolist() == [None] * 4
    assert identities([[1.0, 2.0], [1.0, 2.0]]).tolist() == [None] * 2


def test_pictures_are_known_by_their_pixels(files):
    class Opened(torch.utils.data.Dataset):
        def __len__(self):
            return 9

        def __getitem__(self, index):
            with Image.open([*files, "link.png"][index]) as picture:
                return picture.convert("RGB")

    found = identities(Opened())
    assert len(set(found)) == 8
    assert found[8] == found[7] == identities([np.asarray(Opened()[7])])[0]
    grey = Image.new("L", (8, 8), 7)
    assert identities([grey])[0] == identities([np.full((8, 8), 7, np.uint8)])[0]
    os.truncate(files[0], 50)
    with Image.open(files[0]) as cut:
        assert identities([cut, grey])[0] is None  # what reads it says so


@pytest.mark.parametrize("empty", [np.nan, None, "", " "])
def test_a_row_without_a_group(empty):
    X = np.arange(12.0)[:, None]
    groups = ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e", "f", empty]
    with pytest.raises(ValueError, match="The group of row 11 is missing"):
        repeated_splits(Ridge(), X, X[:, 0], groups=groups)
    hidden = np.ma.array(np.arange(12), mask=[0] * 11 + [1])
    with pytest.raises(ValueError, match="The group of row 11 is missing"):
        repeated_splits(Ridge(), X, X[:, 0], groups=hidden)
    with pytest.raises(ValueError, match="The group of row 11 is missing"):
        bootstrap_interval(X[:, 0], X[:, 0], groups=groups)


def test_content_is_known_whatever_holds_it(files):
    data = Path(files[0]).read_bytes()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    tensor = torch.from_numpy(pixels).movedim(-1, 0)
    X = [data, memoryview(data), {"bytes": data, "path": "x.png"}, pixels, tensor]
    one, two, three, four, five = identities(X)
    assert one == two == three
    assert four == five
    assert identities(pa.array([data])) == [one]
    (named, path) = identities([{"bytes": None, "path": files[0]}, files[0]])
    assert named == path
    url = "s3://bucket/a.png"
    assert identities([url]) == [url]
