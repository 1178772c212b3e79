"""What counts as done, as bad and as one table; paths as their sender means them."""

import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffqa_features import DiffusionQAFeatures, NaturalSceneStatistics
from diffqa_features.distributed import BatchExtractor, extract, read_parts
from diffqa_features.distributed._parts import Merged, stamps


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """Six pictures by relative paths."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(6)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(name)
    return names


def test_a_changed_caption_counts_as_a_changed_row(paths):
    features = DiffusionQAFeatures(
        prompts="{caption}", kinds="alignment", blocks="mid*", image_size=64
    )
    table = pd.DataFrame({"path": paths[:3], "caption": ["fog", "a cat", None]})
    table["note"] = "a"
    extractor = BatchExtractor(features, keep=["path"])
    first = extract(table, extractor, "x")
    assert (first["computed"], first["bad"]) == (3, 1)
    # A text that no prompt names does not count.
    again = extract(table.assign(note="b"), extractor, "x")
    assert (again["found"], again["computed"]) == (3, 0)
    table["caption"] = ["fog", "a dog", "rain"]
    again = extract(table, extractor, "x")
    assert (again["found"], again["computed"], again["bad"]) == (1, 2, 0)
    found = pd.read_parquet("x").sort_values("path")
    (name,) = extractor.columns
    expected = features.fit_transform(table)[:, 0]
    np.testing.assert_allclose(found[name], expected, rtol=1e-4)


def test_texts_of_a_file_are_as_they_are_written(paths):
    """Captions and keys too, and not numbers."""
    features = DiffusionQAFeatures(
        prompts="{caption}", kinds="alignment", blocks="mid*", image_size=64
    )
    texts = {"id": ["01", "02"], "caption": ["007", "08"]}
    table = pd.DataFrame({"path": ["none.png"] * 2, **texts})
    table.to_csv("t.csv", index=False)
    extract("t.csv", features, "x", key="id")
    found = pd.read_parquet("x").sort_values("id")
    assert found[list(texts)].to_dict("list") == texts


def test_what_a_row_depends_on_is_its_own():
    """And not which columns other rows of the batch fill, or the type that makes."""
    alone = stamps(["a.png"], pd.DataFrame({"caption": ["fog"], "n": [30]}))
    beside = pd.DataFrame(
        {"n": [30.0, None], "caption": ["fog", "x"], "width": [None, 8]}
    )
    both = stamps(["a.png", "b.yuv"], beside)
    assert alone["inputs"][0] == both["inputs"][0] != both["inputs"][1]


def test_another_size_of_a_headerless_video_counts_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = {"width": 64, "height": 64, "frame_rate": 25.0, "pixel_format": "yuv420p"}
    table = pd.DataFrame([{"path": f"{name}.yuv", **facts} for name in "abc"])
    for number, path in enumerate(table["path"]):
        frame = bytes(range(number, 256)) + bytes(range(number))
        (tmp_path / path).write_bytes(frame * 24)  # one of 64 x 64
    extractor = BatchExtractor(NaturalSceneStatistics(), keep=["path"])
    assert extract(table, extractor, "x", batch_size=1)["computed"] == 3
    assert extract(table, extractor, "x")["computed"] == 0
    table.loc[1, ["width", "height"]] = 128, 32
    report = extract(table, extractor, "x")
    assert (report["computed"], report["bad"]) == (1, 0)


def test_what_belongs_to_a_machine_is_no_other_setting(paths):
    extract(paths[:2], NaturalSceneStatistics(on_error="raise"), "x")
    same = NaturalSceneStatistics(on_error="nan", verbose=1)
    assert extract(paths[:2], same, "x")["found"] == 2


def test_a_bad_row_stops_it_and_what_is_finished_stays(paths):
    os.truncate(paths[3], 60)
    features = NaturalSceneStatistics()
    options = {"batch_size": 2, "on_error": "raise"}
    for _ in range(2):  # met now, and found there
        with pytest.raises(ValueError, match=r"^Row 3 \('3.png'\): .*") as caught:
            extract(paths, features, "x", **options)
        assert caught.value.row_index == 3
        assert sorted(pd.read_parquet("x")["path"]) == paths[:4]
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(paths[3])
    report = extract(paths, features, "x", **options)
    assert (report["found"], report["computed"], report["bad"]) == (3, 3, 0)
    with pytest.raises(ValueError, match="on_error must be"):
        extract(paths, features, "x", on_error="skip")


def test_folders_are_merged_block_by_block(paths):
    features = NaturalSceneStatistics()
    mixed = [paths[i] for i in (3, 0, 5, 1, 4, 2)]
    for shard in range(2):
        extract(mixed, features, f"x{shard}", batch_size=2, shard=(shard, 2))
    whole = read_parts(["x0", "x1"])
    assert whole["path"].to_pylist() == paths
    blocks = list(Merged(["x0", "x1"], block=2 * whole.nbytes // 6))
    assert len(blocks) >= 3
    assert sum(map(len, blocks)) == 6
    parts = pd.concat([pd.read_parquet(x) for x in ("x0", "x1")]).sort_values("path")
    found = pd.concat([block.to_pandas() for block in blocks])
    for name in parts.columns:
        np.testing.assert_array_equal(found[name].to_numpy(), parts[name].to_numpy())


def test_parts_of_other_types_are_not_merged(paths):
    table = pd.DataFrame({"path": paths, "id": range(6)})
    extract(table[:3], NaturalSceneStatistics(), "x")
    extract(table[3:].astype({"id": float}), NaturalSceneStatistics(), "y")
    with pytest.raises(
        ValueError,
        match=r"/x/part-.*/y/part-.* type of 'id', int64 and double. Extract",
    ):
        read_parts(["x", "y"])


def test_relative_paths_are_those_of_the_sender(paths, sd1_folder, tmp_path):
    shutil.copytree(sd1_folder, "model")
    features = DiffusionQAFeatures(
        "model", kinds="alignment", blocks="mid*", image_size=64
    )
    extractor = BatchExtractor(features)
    batch = {"path": [paths[0], {"bytes": None, "path": paths[1]}, "none.png"]}
    expected, names = extractor(batch), extractor.columns
    sent = pickle.dumps(extractor)
    (tmp_path / "elsewhere").mkdir()
    os.chdir("elsewhere")  # the fixture goes back
    there = pickle.loads(sent)
    assert features.backbone == "model"
    found = pickle.loads(pickle.dumps(there))(batch)
    assert [bool(reason) for reason in found["reason"]] == [False, False, True]
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_password_is_in_no_message(paths):
    secret = "ftp://me:hush@host/a.png"  # which is not read
    for table, message in [
        ([secret, secret], "'ftp://host/a.png'"),
        (pd.DataFrame({"path": [secret, 3]}), "not of one plain type"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            extract(table, NaturalSceneStatistics(), "x")
        assert "hush" not in str(caught.value)
    for folder in ("x", "y"):
        extract([secret], NaturalSceneStatistics(), folder)
    with pytest.raises(ValueError, match="is there twice") as caught:
        read_parts(["x", "y"])
    assert "hush" not in str(caught.value)
    with pytest.raises(ValueError, match=r"ftp://host/a\.png") as caught:
        extract([secret], NaturalSceneStatistics(), "x", on_error="raise")
    assert "hush" not in str(caught.value)
    with pytest.raises(ValueError, match="is a URL") as caught:
        extract(paths, NaturalSceneStatistics(), secret)
    assert "hush" not in str(caught.value)
