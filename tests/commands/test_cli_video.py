"""`diffqa extract`, `fit` and `score` on videos, alone and among pictures."""

import numpy as np
import pandas as pd
import pytest
from command_line import close, picture, read
from video_files import encode, pan

from diffqa_features import NaturalSceneStatistics
from diffqa_features._commands._inputs import collect_files

pytest_plugins = ["command_line_fixtures"]


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A folder with two videos, a picture, and a video that was cut."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "clips"
    folder.mkdir()
    encode(folder / "a.mp4", pan(50))
    encode(folder / "b.MKV", pan(40, photograph=1), "mjpeg", "yuvj420p")
    picture(0).save(folder / "c.png")
    whole = (folder / "a.mp4").read_bytes()
    (folder / "d.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


def test_extract_takes_a_folder_with_videos(clips, run, features):
    out = clips.parent / "table.parquet"
    options = ["--frame-rate", "4", "--max-frames", "3"]
    options += ["--frame-pooling", "mean", "std", "--reader", "imageio"]
    code, _, stderr = run("extract", clips, "-o", out, *options)
    assert code == 3
    assert "d.mp4" in stderr
    paths, matrix, names = read(out)
    good = [str(clips / name) for name in ("a.mp4", "b.MKV", "c.png")]
    assert paths == good
    estimator = features(frame_rate=4, max_frames=3, frame_pooling=("mean", "std"))
    close(matrix, estimator.transform(good))
    assert names == estimator.get_feature_names_out().tolist()
    bad = pd.read_csv(clips.parent / "table.parquet.bad.csv")
    assert "frames decoded" in bad.iloc[0, 1] or "cannot be opened" in bad.iloc[0, 1]


def test_extract_takes_a_pattern_and_a_table(clips, run):
    run("extract", "clips/*.m[pk]*", "clips/*.MKV", "-o", "by_pattern.csv")
    assert read(clips.parent / "by_pattern.csv")[0][-1] == "clips/b.MKV"
    pd.DataFrame({"path": ["a.mp4", "c.png"]}).to_csv(clips / "list.csv")
    code, _, _ = run("extract", "clips/list.csv", "-o", "by_table.csv")
    assert code == 0
    assert read(clips.parent / "by_table.csv")[0] == ["a.mp4", "c.png"]


def test_headerless_videos_of_a_table(clips, run):
    facts = {"width": 64, "height": 48, "frame_rate": 2, "pixel_format": "yuv420p"}
    samples = np.random.default_rng(0).integers(16, 236, 64 * 72, np.uint8)
    (clips / "a.yuv").write_bytes(samples.tobytes())
    table = pd.DataFrame([{"path": "a.yuv", **facts}, {"path": "c.png"}])
    table.to_csv(clips / "list.csv", index=False)
    table[["path"]].iloc[1:].to_csv(clips / "other.csv", index=False)
    files = collect_files(["clips/other.csv", "clips/list.csv"])
    matrix = NaturalSceneStatistics().fit_transform(files)
    table["path"] = [str(clips / name) for name in table["path"]]
    close(matrix[1:], NaturalSceneStatistics().fit_transform(table))
    code, _, stderr = run("report", "clips/list.csv", "-o", "r.html")
    assert code == 0, stderr


def test_fit_and_score(clips, run):
    names = [f"clips/{number}.mp4" for number in range(4)]
    for number, name in enumerate(names):
        encode(name, pan(15, photograph=number % 2), options={"crf": f"{10 * number}"})
    table = pd.DataFrame({"path": names, "mos": [4.0, 3.0, 2.0, 1.0]})
    table.to_csv("scores.csv")
    options = ("--folds", 2, "--frame-rate", 2)
    code, _, stderr = run("fit", "scores.csv", "-o", "model.skops", *options)
    assert code == 0, stderr
    code, stdout, _ = run("score", "model.skops", *names, "--reader", "imageio")
    assert code == 0
    assert [line.split("\t")[0] for line in stdout.splitlines()] == names
    with_decord = run("score", "model.skops", *names, "--reader", "decord")
    assert with_decord[:2] == (0, stdout)


@pytest.mark.parametrize(
    "option",
    [
        ("--frame-rate", 0),
        ("--max-frames", 0),
        ("--frames", "all"),
        ("--burst-length", 0),
        ("--reader", "vlc"),
    ],
)
def test_bad_options(clips, run, option):
    code, _, stderr = run("extract", clips, "-o", "table.csv", *option)
    assert code == 2
    assert option[0].strip("-").replace("-", "_") in stderr
