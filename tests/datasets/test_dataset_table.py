"""A table of one's own, as CSV and as Parquet."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dataset_copies import media

from diffqa_features.datasets import from_table

NAMES = ["a/001.png", "a/002.png", "b/001.png"]


@pytest.fixture
def frame(tmp_path):
    media(tmp_path, NAMES)
    return pd.DataFrame(
        {
            "file": NAMES,
            "mos": [3.5, 1, 4.25],
            "scene": ["007", "007", "8"],
            "part": ["train", "train", "test"],
            "camera": ["x", "y", "z"],
        }
    )


@pytest.fixture(params=["csv", "parquet"])
def write(request, tmp_path):
    """Write a frame as a table of either kind; its path."""

    def write(frame):
        path = tmp_path / f"scores.{request.param}"
        if request.param == "csv":
            # With the mark that spreadsheets write.
            frame.to_csv(path, index=False, encoding="utf-8-sig")
        else:
            frame.to_parquet(path)
        return path

    return write


def test_rows(frame, write, tmp_path):
    found = from_table(write(frame), "file", "mos", "scene", split_column="part")
    assert found.data == [str(tmp_path / name) for name in NAMES]
    assert found.target.tolist() == [3.5, 1, 4.25]
    assert found.target.dtype == np.float64
    assert found.groups.tolist() == ["007", "007", "8"]
    assert found.split.tolist() == ["train", "train", "test"]
    assert found.target_range == (1, 4.25)
    assert found.higher_is_better is True
    assert found.frame is None
    assert "3 rows of" in found.DESCR


def test_defaults(frame, write):
    table = frame.rename(columns={"file": "path", "mos": "target"})
    found = from_table(str(write(table)))
    assert found.groups.tolist() == found.data
    assert found.split is None


def test_as_frame_and_X_y(frame, write, tmp_path):
    path = write(frame)
    found = from_table(path, "file", "mos", "scene", as_frame=True)
    assert list(found.frame) == ["path", "target", "group", "part", "camera"]
    assert list(found.data) == ["path"]
    X, y = from_table(path, "file", "mos", return_X_y=True)
    assert X == [str(tmp_path / name) for name in NAMES]
    assert y.tolist() == [3.5, 1, 4.25]


def test_other_columns_keep_zeros_at_the_start(frame, write):
    """As in `groups`: a caption 007 is not the number 7."""
    table = frame.assign(camera=["007", "8", None], year=[1998, 2007, 2010])
    found = from_table(write(table), "file", "mos", as_frame=True).frame
    assert found["camera"].tolist()[:2] == ["007", "8"]
    assert pd.isna(found["camera"][2])
    assert found["year"].tolist() == [1998, 2007, 2010]


def test_scale_and_direction(frame, write):
    path = write(frame)
    found = from_table(path, "file", "mos", target_range=(0, 5), higher_is_better=False)
    assert found.target_range == (0.0, 5.0)
    assert found.higher_is_better is False
    for ends in [(2, 5), (5, 0), (0,), ("0", "5"), (0, float("nan"))]:
        with pytest.raises(ValueError, match="'target_range' parameter of from_table"):
            from_table(path, "file", "mos", target_range=ends)


def test_absolute_paths_and_names_that_are_numbers(write, tmp_path):
    media(tmp_path, ["1.png"])
    (tmp_path / "1.png").rename(tmp_path / "0012")
    paths = [str(tmp_path / "0012")]
    assert from_table(write(pd.DataFrame({"path": paths, "target": [1]}))).data == paths
    paths = pd.DataFrame({"path": ["0012"], "target": [1]})
    assert from_table(write(paths)).data == [str(tmp_path / "0012")]


def test_one_column_may_have_two_roles(frame, write):
    found = from_table(write(frame), "file", "mos", "file", split_column="scene")
    assert found.groups.tolist() == NAMES
    found = from_table(write(frame), "file", "mos", "part", split_column="part")
    assert found.groups.tolist() == found.split.tolist() == ["train", "train", "test"]


@pytest.mark.parametrize("convert", [pd.to_datetime, pd.to_timedelta])
def test_times_are_no_scores(frame, tmp_path, convert):
    frame.assign(mos=convert([1, 2, 3])).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"column 'mos' of .* must hold .*these are t"):
        from_table(tmp_path / "t.parquet", "file", "mos")


def test_raw_video_keeps_its_facts(write, tmp_path):
    (tmp_path / "a.yuv").write_bytes(bytes(24))
    facts = {"width": 4, "height": 4, "frame_rate": 25.0, "pixel_format": "yuv420p"}
    table = pd.DataFrame([{"path": "a.yuv", "target": 1, **facts}])
    data = from_table(write(table)).data
    assert list(data) == ["path", *facts]
    data = from_table(write(table.assign(color_matrix="bt709"))).data
    assert list(data) == ["path", *facts, "color_matrix"]
    assert data["color_matrix"].tolist() == ["bt709"]


def test_a_folder_whose_name_is_not_utf8(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path / "odd") + b"\xff")
    media(Path(folder), ["1.png"])
    Path(folder, "t.csv").write_text("path,target\n1.png,1\n")
    assert from_table(f"{folder}/t.csv").data == [f"{folder}/1.png"]


def test_files_that_are_not_there(frame, write, tmp_path):
    too_long = frame.assign(file=[*NAMES[:2], "x" * 300])
    with pytest.raises(FileNotFoundError, match=r"1 of 3 files of .*/xxx"):
        from_table(write(too_long), "file", "mos")
    (tmp_path / NAMES[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 files of .*/a/002.png"):
        from_table(write(frame), "file", "mos")
    with pytest.raises(FileNotFoundError, match="There is no table"):
        from_table(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mos": ["3", "bad", "4"]},
            "must hold numbers. Got 'bad' in row 1",
        ),
        ({"mos": [1, None, 2]}, "'mos' of .* is blank in 1 rows: 1"),
        ({"scene": [None, "a", None]}, "'scene' of .* is blank in 2 rows: 0, 2"),
        ({"split": ["a", "b", "c"]}, "columns 'split' of .* name them in split_column"),
    ],
)
def test_bad_tables(frame, write, change, message):
    with pytest.raises(ValueError, match=message):
        from_table(write(frame.assign(**change)), "file", "mos", "scene")


def frame_of_numbers(tmp_path):
    path = tmp_path / "numbers.parquet"
    pd.DataFrame({"mos": [1, 1, 2], "mos2": [1.0, 2, 3]}).to_parquet(path)
    return path


def test_other_bad_input(frame, write, tmp_path):
    path = write(frame)
    message = "no column 'path', 'target', only 'file', 'mos', 'scene', 'part'"
    with pytest.raises(ValueError, match=message):
        from_table(path)
    with pytest.raises(ValueError, match="has no rows"):
        from_table(write(frame[:0]), "file", "mos")
    with pytest.raises(ValueError, match=r"must hold paths. Got .*1.* in row 0"):
        from_table(frame_of_numbers(tmp_path), "mos", "mos2")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        from_table(path, "file", "mos")
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(ValueError, match=r"'.json' is neither '.csv' nor '.parquet'"):
        from_table(tmp_path / "scores.json")
    with pytest.raises(ValueError, match="'table' parameter of from_table"):
        from_table(frame)


def test_urls_are_left_as_they_are_and_lead_away(write):
    table = pd.DataFrame({"path": ["s3://bucket/a.png"], "target": [1.0]})
    assert from_table(write(table)).data == ["s3://bucket/a.png"]
    for url, message in [
        ("file:///a.png", "write the path itself"),
        ("zip://a.png::b.zip", "a chain of URLs"),
        ("ftp://host/a.png", "URLs of 'ftp' are not read"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_table(write(table.assign(path=[url])))
