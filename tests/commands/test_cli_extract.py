"""`diffqa extract`: its tables, bad files, and how it goes on after a kill."""

import csv
import json
import re
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from child_processes import run_in_process
from command_line import close, die, names_in, picture, read, run_command
from processor import needs_bfloat16_attention

from diffqa_features import FeatureStore

pytest_plugins = ["command_line_fixtures"]


class TestExtract:
    @pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
    def test_table_is_what_the_estimator_gives(self, photos, run, features, suffix):
        out = photos.parent / f"table{suffix}"
        code, stdout, _ = run(
            "extract", photos, "-o", out, "--timesteps", 20, 50, "--chunk-size", 3
        )
        assert (code, stdout) == (0, "")
        paths, matrix, names = read(out)
        assert paths == [str(photos / n) for n in ("a.png", "b.JPG", "c.webp", "d.png")]
        estimator = features(timesteps=(20, 50))
        expected = estimator.transform(paths)
        assert names == estimator.get_feature_names_out().tolist()
        close(matrix, expected)
        assert names_in(photos.parent) == ["photos", out.name]

    def test_views_and_another_vae(self, photos, run, features, sd1_folder):
        out = photos.parent / "table.npz"
        options = ("--view", "stretch", "tiles", "--tiles", 2, "--tile-pooling", "max")
        code, _, _ = run(
            "extract", photos, "-o", out, *options, "--vae", sd1_folder / "vae"
        )
        assert code == 0
        paths, matrix, names = read(out)
        estimator = features(
            view=("stretch", "tiles"), n_tiles=2, tile_pooling="max",
            vae=str(sd1_folder / "vae"),
        )  # fmt: skip
        assert names == estimator.get_feature_names_out().tolist()
        close(matrix, estimator.transform(paths))

    def test_csv_loses_no_digit(self, photos, run):
        for suffix in ("csv", "npz"):
            run("extract", photos, "-o", photos.parent / f"table.{suffix}")
        close(
            read(photos.parent / "table.csv")[1], read(photos.parent / "table.npz")[1]
        )
        from_csv = read(photos.parent / "table.csv")[1]
        again = pd.read_csv(photos.parent / "table.csv", dtype=str)
        written = again.drop(columns="path").to_numpy().astype(np.float32)
        np.testing.assert_array_equal(from_csv, written)

    def test_settings_are_recorded(self, photos, run, small_folder):
        options = ("--blocks", "up*", "mid.0", "--seed", 3)
        for suffix in ("parquet", "npz"):
            run("extract", photos, "-o", photos.parent / f"t.{suffix}", *options)
        schema = pyarrow.parquet.read_schema(photos.parent / "t.parquet")
        settings = json.loads(schema.metadata[b"diffqa_features"])
        assert settings["blocks"] == ["up*", "mid.0"]
        assert settings["random_state"] == 3
        assert settings["dtype"] == "float32"  # on the CPU, where none is given
        assert settings["backbone"] == str(small_folder)
        assert len(settings["backbone_identity"]) == 64
        assert {"memory", "device", "n_jobs"}.isdisjoint(settings)
        with np.load(photos.parent / "t.npz") as content:
            assert json.loads(str(content["settings"])) == settings

    @needs_bfloat16_attention
    def test_every_option_reaches_the_estimator(self, photos, run, features):
        out = photos.parent / "table.npz"
        run(
            "extract", photos, "-o", out, "--timesteps", 5, "--blocks", "mid.0", "up*",
            "--prompts", "one", "two", "three", "--kinds", "query", "alignment",
            "--pooling", "std", "max", "--image-size", 128, "--view", "crop",
            "--dtype", "bfloat16", "--seed", 7, "--device", "cpu", "--batch-size", 2,
            "--jobs", 1, "--memory", photos.parent / "store", "--quiet",
        )  # fmt: skip
        paths, matrix, names = read(out)
        estimator = features(
            timesteps=(5,), blocks=["mid.0", "up*"], prompts=["one", "two", "three"],
            kinds=["query", "alignment"], pooling=["std", "max"], image_size=128,
            view="crop", dtype="bfloat16", random_state=7,
        )  # fmt: skip
        assert names == estimator.get_feature_names_out().tolist()
        np.testing.assert_allclose(
            matrix, estimator.transform(paths), rtol=0.05, atol=0.05
        )
        assert FeatureStore(photos.parent / "store").info().entries > 0


class TestBadFiles:
    @pytest.fixture
    def broken(self, photos):
        (photos / "b1.png").write_bytes((photos / "a.png").read_bytes()[:200])
        (photos / "b2.jpg").write_bytes(b"")
        return photos

    def test_are_left_out_listed_and_3(self, broken, run, features):
        code, _, stderr = run("extract", "photos", "-o", "out.csv", "--chunk-size", 2)
        assert code == 3
        assert "2 of 6 files could not be read" in stderr
        with Path("out.csv.bad.csv").open(newline="") as file:
            listed = list(csv.DictReader(file))
        assert [row["path"] for row in listed] == ["photos/b1.png", "photos/b2.jpg"]
        assert "truncated" in listed[0]["reason"] or "damaged" in listed[0]["reason"]
        assert listed[1]["reason"].startswith("the file is empty")
        assert all(row["reason"] in stderr for row in listed)
        paths, matrix, _ = read(broken.parent / "out.csv")
        assert len(paths) == 4
        assert np.isfinite(matrix).all()
        close(matrix, features().transform(paths))

    def test_list_goes_with_its_cause(self, broken, run):
        assert run("extract", "photos", "-o", "out.csv")[0] == 3
        for name in ("b1.png", "b2.jpg"):
            picture(9).save(broken / name)
        assert run("extract", "photos", "-o", "out.csv")[0] == 0
        assert not (broken.parent / "out.csv.bad.csv").exists()
        assert len(read(broken.parent / "out.csv")[0]) == 6

    def test_raise_stops_and_keeps_the_older_result(self, broken, run):
        (broken.parent / "out.csv").write_text("older")
        code, _, stderr = run(
            "extract", "photos", "-o", "out.csv", "--on-error", "raise",
            "--chunk-size", 1,
        )  # fmt: skip
        assert code == 1
        assert "diffqa: error: photos/b1.png: " in stderr
        assert (broken.parent / "out.csv").read_text() == "older"

    def test_nothing_good_is_1(self, broken, run):
        code, _, stderr = run(
            "extract", "photos/b*.png", "photos/b2.jpg", "-o", "o.csv"
        )
        assert code == 1
        assert "diffqa: error: none of the 2 files could be read" in stderr
        assert names_in(broken.parent) == ["o.csv.bad.csv", "photos"]

    def test_missing_files_and_empty_cells_of_a_table(self, photos, run):
        pd.DataFrame({"path": ["photos/a.png", "photos/z.png", None]}).to_csv("l.csv")
        code, _, stderr = run("extract", "l.csv", "-o", "out.csv")
        assert code == 3
        assert "photos/z.png: no such file" in stderr
        assert "(no path): the media is missing" in stderr


class TestGoingOn:
    def interrupted(self, run, *options):
        """Leave finished chunks behind, as a run that a bad file ended does."""
        code, _, _ = run(
            "extract", "photos", "-o", "out.npz", "--chunk-size", 1,
            "--on-error", "raise", *options,
        )  # fmt: skip
        assert code == 1
        Path("photos/c2.png").unlink()

    @pytest.fixture
    def halfway(self, photos):
        (photos / "c2.png").write_bytes(b"no picture")
        return photos

    def finish(self, run, *options):
        code, _, stderr = run(
            "extract", "photos", "-o", "out.npz", "--chunk-size", 1, *options
        )
        assert code == 0
        computed = int(re.search(r"\((\d+) of 4 files computed now", stderr)[1])
        return computed, stderr

    def test_finished_chunks_are_taken_up(self, halfway, run, features):
        self.interrupted(run)
        assert names_in("out.npz.part") == [
            "000000.npz", "000001.npz", "000002.npz", "settings.json",
        ]  # fmt: skip
        computed, stderr = self.finish(run)
        assert computed == 1
        assert "3 of 4 files are done" in stderr
        paths, matrix, _ = read(halfway.parent / "out.npz")
        close(matrix, features().transform(paths))
        assert not (halfway.parent / "out.npz.part").exists()

    def test_other_settings_start_anew(self, halfway, run, features):
        self.interrupted(run)
        computed, stderr = self.finish(run, "--timesteps", 20)
        assert computed == 4
        assert "other settings (timesteps); starting anew" in stderr
        paths, matrix, _ = read(halfway.parent / "out.npz")
        close(matrix, features(timesteps=20).transform(paths))

    def test_what_changes_no_number_does_not(self, halfway, run):
        self.interrupted(run)
        assert self.finish(run, "--batch-size", 1, "--device", "cpu")[0] == 1

    def test_a_changed_file_is_computed_again(self, halfway, run, features):
        self.interrupted(run)
        picture(77).save(halfway / "a.png")
        assert self.finish(run)[0] == 2
        paths, matrix, _ = read(halfway.parent / "out.npz")
        close(matrix, features().transform(paths))

    @pytest.mark.parametrize("damage", [b"", b"PK", None])
    def test_a_damaged_chunk_is_computed_again(self, halfway, run, features, damage):
        self.interrupted(run)
        chunk = halfway.parent / "out.npz.part" / "000001.npz"
        content = chunk.read_bytes()
        place = content.index(b"\x93NUMPY") + 140  # in the numbers of the matrix
        flipped = bytes([content[place] ^ 1])
        chunk.write_bytes(
            content[:place] + flipped + content[place + 1 :]
            if damage is None
            else damage
        )
        assert self.finish(run)[0] == 2
        paths, matrix, _ = read(halfway.parent / "out.npz")
        close(matrix, features().transform(paths))

    def test_after_sigkill(self, tmp_path, small_folder, features):
        folder = tmp_path / "many"
        folder.mkdir()
        for seed in range(12):
            picture(seed).save(folder / f"{seed:03d}.png")
        out, part = tmp_path / "out.npz", tmp_path / "out.npz.part"
        words = [
            "extract", folder, "-o", out, "--backbone", small_folder,
            "--chunk-size", 1, "--quiet",
        ]  # fmt: skip
        log = tmp_path / "log"
        assert run_in_process(run_command, words, log, die, 6) == -signal.SIGKILL
        assert not out.exists()
        finished = len(list(part.glob("0*.npz")))
        assert 3 <= finished < 12

        assert run_in_process(run_command, words, log) == 0
        stderr = log.read_text()
        assert f"{finished} of 12 files are done" in stderr
        assert f"({12 - finished} of 12 files computed now)" in stderr
        paths, matrix, _ = read(out)
        assert paths == [str(path) for path in sorted(folder.iterdir())]
        close(matrix, features().transform(paths))
        assert names_in(tmp_path) == ["log", "many", "out.npz"]
