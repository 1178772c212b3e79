"""`diffqa extract` into a folder, its shards, and `diffqa merge`."""

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from child_processes import start_process, wait_until
from command_line import die, run_command
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


def test_a_name_that_is_not_utf8_is_a_bad_file(photos, capsys):
    odd = os.fsdecode(b"photos/b\xff.png")
    Path(odd).write_bytes((photos / "0.png").read_bytes())
    assert main(["extract", odd, "none.png", "photos/0.png", "-o", "x", *FAST]) == 3
    assert "2 of 3 files could not be read" in capsys.readouterr().err
    bad = pd.read_csv("x.bad.csv")["path"].tolist()
    assert bad == [r"photos/b\udcff.png", "none.png"]


def test_a_shard_without_rows_is_done(photos, capsys):
    for index in range(3):
        words = ["photos/0.png", "-o", f"x{index}", "--shard", f"{index}/3"]
        assert main(["extract", *words, *FAST]) == 0
    assert capsys.readouterr().err.count(": 0 files, 0 computed now") == 2


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
    """Here each runs on the CPU; what is visible to it is its own.

    Columns are in the store before but for those of one picture: one process must load
    a model, which takes seconds.
    """
    words = ["--device", "cpu", "--memory", "store", *FAST]
    hidden = (photos / "3.png").rename("3.png")
    assert main(["extract", "-o", "stored", *words, "--", "photos"]) == 0
    hidden.rename(photos / "3.png")
    whole = ["extract", "-o", "whole", "--device", "cpu", *FAST, "--", "photos"]
    assert main(whole) == 0
    words += ["-o", "features", "--gpus", "2"]
    assert main(["extract", *words, "--", "photos"]) == 0
    found, expected = (
        pd.read_parquet(x).sort_values("path", ignore_index=True)
        for x in ("features", "whole")
    )
    assert found["path"].tolist() == [f"photos/{i}.png" for i in range(6)]
    # Batches of a process are its own.
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-5)


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


def test_the_list_of_bad_files_replaces_nothing(photos, capsys):
    mine = photos.parent / "features.bad.csv"
    mine.write_text("path\nphotos/0.png\n")
    assert main(["extract", str(mine), "-o", "features", *FAST]) == 2
    assert "would replace the input" in capsys.readouterr().err
    assert extract("-o", "features") != 0
    assert "is in the way" in capsys.readouterr().err
    assert mine.read_text() == "path\nphotos/0.png\n"


def test_two_texts_of_one_picture_are_not_one_row(photos, capsys):
    table = pd.DataFrame({"path": ["photos/0.png"] * 2, "caption": ["fog", "a cat"]})
    table.to_csv("table.csv", index=False)
    words = ["table.csv", "-o", "features", "--prompts", "{caption}"]
    assert main(["extract", *words, *FAST]) == 2
    assert "must tell rows apart" in capsys.readouterr().err


def test_gpus_are_those_that_are_left(photos, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert extract("-o", "features", "--gpus", "2") == 2
    assert "CUDA_VISIBLE_DEVICES=3 leaves only 1" in capsys.readouterr().err


def test_no_table_is_written_among_the_parts(photos, capsys):
    assert extract("-o", "features") == 0
    assert main(["merge", "features", "-o", "features/all.parquet"]) == 2
    assert "as a part of its folder" in capsys.readouterr().err


def test_raise_stops_at_the_file_and_keeps_what_is_finished(photos, capsys):
    (photos / "3.png").write_bytes(b"\x89PNG")
    words = ["-o", "features", "--chunk-size", "2", "--on-error", "raise"]
    for _ in range(2):  # computed now, and found there
        assert extract(*words) == 1
        assert "error: photos/3.png: " in capsys.readouterr().err
        found = sorted(pd.read_parquet("features")["path"])
        assert found == [f"photos/{i}.png" for i in range(4)]
    assert not Path("features.bad.csv").exists()


def test_a_changed_caption_is_computed_again(photos, capsys):
    table = pd.DataFrame({"path": ["photos/0.png", "photos/1.png"], "text": ["a", "b"]})
    for texts, count in (["a", "b"], 2), (["a", "c"], 1):
        table.assign(text=texts).to_csv("table.csv", index=False)
        words = ["table.csv", "-o", "features", "--prompts", "{text}"]
        assert main(["extract", *words, *FAST]) == 0
        assert f"2 files, {count} computed now" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_processes_of_the_gpus_end_with_their_parent(photos, tmp_path):
    words = ["extract", "photos", "-o", "features", "--device", "cpu", "--gpus", "2"]
    parent = start_process(run_command, words, tmp_path / "log")

    def children():
        listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
        return [int(number) for number in listed.split()]

    wait_until(lambda: len(children()) == 2)
    started = children()
    os.kill(parent.pid, signal.SIGTERM)
    parent.join()
    assert parent.exitcode == 128 + signal.SIGTERM
    assert not any(Path(f"/proc/{number}").exists() for number in started)


def test_many_files_killed_twice_are_as_undisturbed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (150, 16, 16, 3), np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(f"tiny/{number:03d}.png")
    cheap = ["--image-size", "32", "--blocks", "down0.0", "--kinds", "alignment"]
    # Passes of so many rows, whatever the number of threads: they are counted below.
    cheap += ["--batch-size", "4"]
    words = ["extract", "tiny", *cheap, "--quiet", "--chunk-size", "16", "-o"]
    done = 0
    for passes in (10, 20):
        child = start_process(
            run_command, [*words, "cut"], tmp_path / "log", die, passes
        )
        child.join()
        assert child.exitcode == -signal.SIGKILL
        before, done = done, len(pd.read_parquet("cut"))
        assert before < done < 150
    assert main([*words, "cut"]) == 0
    assert main([*words, "whole"]) == 0
    cut, whole = (pd.read_parquet(x).sort_values("path") for x in ("cut", "whole"))
    pd.testing.assert_frame_equal(
        cut.reset_index(drop=True), whole.reset_index(drop=True), check_exact=True
    )
    assert not list(Path("cut").glob(".*"))


def test_a_disk_that_fills_up(photos, small_disk, capsys):
    assert extract("-o", "whole", "--chunk-size", "1") == 0
    rest = small_disk / "rest"
    rest.write_bytes(bytes((2 << 20) - 40_000))
    words = ["-o", f"{small_disk}/features", "--chunk-size", "1"]
    for _ in range(2):
        assert extract(*words) == 1
        shown = capsys.readouterr().err
        assert "the disk is full, and nothing of this file was written; free" in shown
        assert f"{small_disk}/features" in shown
        found = pd.read_parquet(small_disk / "features")
        assert 0 < len(found) < 6
        assert not list(small_disk.glob("features/.*"))
    rest.unlink()
    assert extract(*words) == 0
    assert f"{len(found)} were there" in capsys.readouterr().err
    both = [pd.read_parquet(x).sort_values("path") for x in (words[1], "whole")]
    pd.testing.assert_frame_equal(
        *(table.reset_index(drop=True) for table in both), check_exact=True
    )


def test_a_store_on_a_full_disk_costs_only_the_store(photos, small_disk, capsys):
    assert extract("-o", "whole") == 0
    (small_disk / "rest").write_bytes(bytes((2 << 20) - 400_000))
    words = ["-o", "x", "--memory", f"{small_disk}/store", "--chunk-size", "1"]
    assert extract(*words) == 0
    assert "goes on without it" in capsys.readouterr().err
    found, expected = (pd.read_parquet(x).sort_values("path") for x in ("x", "whole"))
    names = [name for name in expected if "alignment" in name]
    np.testing.assert_allclose(found[names], expected[names], rtol=1e-4)
