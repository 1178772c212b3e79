"""`diffqa extract` into a folder, its shards, and `diffqa merge`."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffqa_features.cli import main

FAST = ["--image-size", "64", "--blocks", "mid*", "--kinds", "alignment", "--quiet"]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(picture).save(f"photos/{number}.png")
    return tmp_path / "photos"


def extract(*words):
    return main(["extract", "photos", *words, *FAST])


def test_a_folder_is_taken_up_again(photos, capsys):
    assert extract("-o", "table.parquet") == 0
    expected = pd.read_parquet("table.parquet")
    (photos / "bad.png").write_bytes(b"\x89PNG")
    assert extract("-o", "features", "--chunk-size", "4") == 3
    assert "7 files, 7 computed now, 0 were there" in capsys.readouterr().err
    listed = pd.read_csv("features.bad.csv")
    assert listed["path"].tolist() == ["photos/bad.png"]
    (photos / "bad.png").unlink()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("photos/9.png")
    assert extract("-o", "features/", "--prune") == 0
    shown = capsys.readouterr().err
    assert "7 files, 1 computed now, 6 were there, 1 removed" in shown
    assert main(["merge", "features", "-o", "all.parquet"]) == 0
    merged = pd.read_parquet("all.parquet")
    assert merged["path"].tolist() == [f"photos/{i}.png" for i in (*range(6), 9)]
    assert list(merged.columns) == list(expected.columns)
    values = merged.set_index("path").loc[expected["path"]]
    np.testing.assert_allclose(values, expected.set_index("path"), rtol=1e-4, atol=1e-5)
    assert extract("-o", "features", "--timesteps", "20") == 1
    assert "other settings" in capsys.readouterr().err


def test_shards_fill_one_folder(photos, capsys):
    for index in range(3):
        assert extract("-o", "features", "--shard", f"{index}/3") == 0
    assert len(pd.read_parquet("features")) == 6
    assert main(["merge", "features", "-o", "all.csv"]) == 0
    assert len(pd.read_csv("all.csv")) == 6
    with pytest.raises(SystemExit, match="2"):
        extract("-o", "features", "--shard", "3/3")
    assert "I from 0 to N - 1" in capsys.readouterr().err
    assert extract("-o", "table.parquet", "--shard", "0/3") == 2
    assert "need a folder as --out" in capsys.readouterr().err


def test_one_process_per_gpu(photos):
    """Here each runs on the CPU; what is visible to it is its own."""
    assert extract("-o", "features", "--gpus", "2", "--device", "cpu") == 0
    assert sorted(pd.read_parquet("features")["path"]) == [
        f"photos/{i}.png" for i in range(6)
    ]


def test_what_does_not_belong_together_is_not_merged(photos, capsys):
    assert extract("-o", "a") == 0
    assert extract("-o", "b", "--timesteps", "20") == 0
    assert main(["merge", "a", "b", "-o", "all.parquet"]) == 2
    assert "different settings (columns, fingerprint, timesteps)" in (
        capsys.readouterr().err
    )
    assert extract("-o", "c") == 0
    assert main(["merge", "a", "c", "-o", "all.parquet"]) == 2
    assert "'photos/0.png' is there twice" in capsys.readouterr().err
    assert main(["merge", "photos", "-o", "all.parquet"]) == 2
    assert "not made by an extraction" in capsys.readouterr().err
