"""`diffqa` with odd names, folders and tables, and with others at the same files."""

import csv
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from child_processes import run_in_process, start_process, wait_until
from command_line import (
    close,
    names_in,
    picture,
    python,
    read,
    run_command,
    wait_for_ever,
)

from diffqa_features import DiffusionQAFeatures
from diffqa_features._commands._inputs import collect_files
from diffqa_features._media.rows import as_rows, open_media

pytest_plugins = ["command_line_fixtures"]


def listed(name):
    with Path(name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_streams_that_are_closed(photos, tmp_path):
    """As of services, and after ``>&- 2>&-``; one process, which closes them twice."""
    program = (
        "import os, sys\n"
        "for out in (), ('-o', 'o.csv'):\n"
        "    os.closerange(0, 3)\n"
        "    sys.stdin = sys.stdout = sys.stderr = None\n"
        "    from diffqa_features.cli import main\n"
        "    code = main(['score', 'photos/a.png', *out])\n"
        "    descriptor = os.open(os.devnull, os.O_RDONLY)\n"
        "    open(f'code{len(out)}.txt', 'w').write(f'{code} {descriptor}')\n"
    )
    python("-c", program).wait()
    for file in ("code0.txt", "code2.txt"):
        code, descriptor = Path(file).read_text().split()
        assert code == "0" and int(descriptor) > 2
    assert pd.read_csv("o.csv")["path"].tolist() == ["photos/a.png"]


def test_a_name_is_one_line_whatever_is_in_it(photos, run):
    (photos / "a.png").rename(photos / "one\ttwo\nthree\x1b[2J\u2028é.png")
    (photos / "bad\n.png").write_bytes(b"no picture")
    code, stdout, stderr = run("score", "photos", "-q")
    assert code == 3
    assert len(stdout.splitlines()) == 4
    assert "photos/one\\ttwo\\nthree\\x1b[2J\\u2028é.png\t" in stdout
    assert "  photos/bad\\n.png: not an image" in stderr


@pytest.mark.parametrize(
    "words",
    [
        ("score", ""),
        ("extract", "", "-o", "o.csv"),
        ("extract", "photos", "-o", ""),
        ("report", "", "-o", "o.html"),
        ("merge", "", "-o", "o.csv"),
    ],
)
def test_nothing_is_not_the_working_directory(photos, run, words):
    """As of "$variable" in a script, where none is set."""
    before = names_in(".")
    code, stdout, stderr = run(*words)
    assert code == 2 and not stdout
    assert "is empty. Write '.' for the working directory" in stderr
    assert names_in(".") == before


class TestFolders:
    def test_what_is_taken_and_what_is_told(self, photos, run):
        for name in ("x.jfif", "x.jpe"):
            picture(7).save(photos / name, format="JPEG")
        picture(8).save(photos / "x.tga")
        picture(9).save(photos / ".hidden.png")
        (photos / "._a.png").write_bytes(b"\0\5\26\7")
        (photos / ".cache").mkdir()
        picture(9).save(photos / ".cache" / "y.png")
        code, _, stderr = run("extract", "photos", "-r", "-o", "o.npz")
        assert code == 0, stderr
        names = [Path(path).name for path in read(Path("o.npz"))[0]]
        assert names == sorted(["a.png", "b.JPG", "c.webp", "d.png", "e.png",
                                "x.jfif", "x.jpe", "x.tga"])  # fmt: skip
        assert "photos: 3 files left out (1 .txt, 2 hidden)" in stderr

    def test_a_pattern_over_a_loop_ends(self, photos, run):
        for name in ("loop", "again"):
            (photos / name).symlink_to(".", target_is_directory=True)
        code, _, stderr = run("extract", "photos/**/*.png", "-o", "o.npz")
        assert code == 0, stderr
        assert read(Path("o.npz"))[0] == [
            "photos/a.png", "photos/d.png", "photos/more/e.png",
        ]  # fmt: skip

    @pytest.mark.parametrize("words", [["photos", "-r"], ["photos/**/*.png"]])
    def test_a_folder_that_cannot_be_read_is_an_error(self, photos, run, words):
        """Here one with too long a path, which stops root too."""
        os.chdir(photos)
        for _ in range(20):
            Path("d" * 250).mkdir()
            os.chdir("d" * 250)
        os.chdir(photos.parent)
        code, _, stderr = run("extract", *words, "-o", "o.npz")
        assert code == 1
        assert "dddd' cannot be read (File name too long)" in stderr

    def test_home(self, photos, run, monkeypatch, features):
        monkeypatch.setenv("HOME", str(photos.parent))
        pd.DataFrame({"path": ["~/photos/a.png"]}).to_csv("t.csv", index=False)
        assert run("extract", "t.csv", "-o", "~/o.npz")[0] == 0
        paths, matrix, _ = read(Path("o.npz"))
        assert paths == ["~/photos/a.png"]
        close(matrix, features().transform(["~/photos/a.png"]))
        close(matrix, features().transform([photos / "a.png"]))


class TestNames:
    @pytest.mark.parametrize("suffix", ["parquet", "csv", "npz"])
    def test_one_that_is_not_utf8_is_a_bad_file(self, photos, run, suffix):
        odd = os.fsdecode(b"photos/b\xff.png")
        Path(odd).write_bytes((photos / "a.png").read_bytes())
        code, _, stderr = run("extract", "photos", "-o", f"o.{suffix}")
        assert code == 3, stderr
        (bad,) = listed(f"o.{suffix}.bad.csv")
        assert bad["path"] == r"photos/b\udcff.png"
        assert "not UTF-8" in bad["reason"]
        paths, matrix, _ = read(Path(f"o.{suffix}"))
        assert len(paths) == 4
        assert np.isfinite(matrix).all()
        assert run("extract", odd, "-o", f"o.{suffix}", "--on-error", "raise")[0] == 1

    def test_one_with_the_signs_of_an_error_is_whole(self, photos, run):
        name = "photos/x'): Row 7 ('y.png"
        Path(name).write_bytes(b"no picture")
        Path("t.csv").write_text(f'path\nphotos/a.png\n"{name}"\n')
        assert run("extract", "t.csv", "-o", "o.npz")[0] == 3
        (bad,) = listed("o.npz.bad.csv")
        assert bad["path"] == name
        assert "Row" not in bad["reason"]
        code, _, stderr = run("extract", "t.csv", "-o", "o.npz", "--on-error", "raise")
        assert code == 1
        assert f"diffqa: error: {name}: {bad['reason']}" in stderr

    def test_formulas_are_quoted_when_asked_for(self, photos, run):
        os.chdir(photos)
        picture(3).save("=1+1.png")
        Path("-bad.png").write_bytes(b"no picture")
        words = ("extract", ".", "-o", "../o.csv")
        assert run(*words)[0] == 3
        assert "=1+1.png" in read(Path("../o.csv"))[0]
        assert run(*words, "--quote-formulas")[0] == 3
        assert "'=1+1.png" in read(Path("../o.csv"))[0]
        assert [row["path"] for row in listed("../o.csv.bad.csv")] == ["'-bad.png"]

    def test_a_missing_file_is_skipped_and_listed(self, photos, run):
        code, _, stderr = run("extract", "photos/a.png", "none.png", "-o", "o.npz")
        assert code == 3
        assert "none.png: no such file" in stderr
        assert read(Path("o.npz"))[0] == ["photos/a.png"]
        assert [row["path"] for row in listed("o.npz.bad.csv")] == ["none.png"]


class TestTables:
    def test_lines_that_end_in_a_comma(self, photos, run, features):
        Path("t.csv").write_text("path,mos\nphotos/a.png,1,\nphotos/d.png,2,\n")
        assert run("extract", "t.csv", "-o", "o.npz")[0] == 0
        paths, matrix, _ = read(Path("o.npz"))
        assert paths == ["photos/a.png", "photos/d.png"]
        close(matrix, features().transform(paths))
        Path("t.csv").write_text("path,mos\nphotos/a, b.png,1\n")
        code, _, stderr = run("extract", "t.csv", "-o", "o.npz")
        assert (code, "line 2 has 3 cells" in stderr) == (2, True)

    def test_a_cell_that_no_path_can_be_is_a_bad_row(self, photos, run):
        name = "x" * 300
        Path("t.csv").write_text(f"path\nphotos/a.png\n{name}\n")
        code, _, stderr = run("extract", "t.csv", f"{name}.png", "-o", "o.npz")
        assert code == 3, stderr
        assert [row["path"] for row in listed("o.npz.bad.csv")] == [name, f"{name}.png"]
        code, _, stderr = run("extract", f"{name}/*.png", "-o", "o.npz")
        assert code == 2
        assert "No file matches" in stderr

    def test_fit_takes_the_column_that_was_named(self, photos, run):
        rows = [f"photos/{name},{k}," for k, name in enumerate(["a.png", "d.png"] * 2)]
        ends = [row + f"g{k % 2}," for k, row in enumerate(rows)]
        text = "path,mos,group\n" + "\n".join(ends)
        Path("t.csv").write_text(text)
        words = ("fit", "t.csv", "-o", "m.skops", "--group-column", "group")
        assert run(*words)[0] == 0
        Path("t.csv").write_text(text.replace("g1", " "))
        code, _, stderr = run(*words)
        assert code == 2
        assert "The group of row 1 of 't.csv' is missing" in stderr


class TestOutputs:
    def test_a_folder_of_others_is_left_alone(self, photos, run):
        part = Path("o.npz.part")
        part.mkdir()
        (part / "settings.json").write_text('{"theirs": 1}')
        (part / "000000.npz").write_text("theirs")
        code, _, stderr = run("extract", "photos", "-o", "o.npz")
        assert code == 1
        assert "'diffqa extract' did not make it" in stderr
        assert (part / "000000.npz").read_text() == "theirs"
        assert names_in(".") == ["o.npz.part", "photos"]

    def test_files_of_others_in_an_own_folder_stay(self, photos, run):
        (photos / "bad.png").write_bytes(b"no picture")
        words = ("extract", "photos", "-o", "o.npz", "--chunk-size", 1)
        assert run(*words, "--on-error", "raise")[0] == 1
        Path("o.npz.part/notes.txt").write_text("mine")
        assert run(*words)[0] == 3
        assert names_in("o.npz.part") == ["notes.txt"]

    def test_a_list_of_somebody_else_is_left_alone(self, photos, run):
        listing = Path("o.npz.bad.csv")
        listing.write_text("name,why\nmine,x\n")
        for _ in range(2):
            code, _, stderr = run("extract", "photos", "-o", "o.npz")
            assert code == 1
            assert "'o.npz.bad.csv' is in the way" in stderr
            assert listing.read_text() == "name,why\nmine,x\n"
            (photos / "bad.png").write_bytes(b"no picture")
        listing.write_text("path,reason\r\nan,earlier run\r\n")
        (photos / "bad.png").unlink()
        assert run("extract", "photos", "-o", "o.npz")[0] == 0
        assert names_in(".") == ["o.npz", "photos"]

    @pytest.mark.parametrize("out", ["t.csv", "./t.csv", "more.csv"])
    def test_an_input_is_not_replaced(self, photos, run, out):
        table = Path("more.csv.bad.csv" if out == "more.csv" else "t.csv")
        table.write_text("path,reason\nphotos/a.png,missing\n")
        before = table.read_bytes()
        code, _, stderr = run("extract", table, "-o", out)
        assert code == 2
        assert f"would replace the input '{table}'" in stderr
        assert names_in(".") == sorted(["photos", str(table)])
        assert table.read_bytes() == before

    @pytest.mark.parametrize("place", ["--out", "--memory"])
    def test_urls_are_refused(self, photos, run, place):
        code, _, stderr = run("extract", "photos", "-o", "o.csv", place, "s3://b/o.csv")
        assert code == 2
        assert "is a URL" in stderr
        assert names_in(".") == ["photos"]

    def test_two_at_once_and_a_kill(self, tmp_path, tmp_path_factory, small_folder):
        folder = tmp_path / "many"
        folder.mkdir()
        for seed in range(6):
            picture(seed).save(folder / f"{seed:03d}.png")
        words = [
            "extract", folder, "-o", tmp_path / "o.csv",
            "--backbone", small_folder, "--chunk-size", 1, "--quiet",
        ]  # fmt: skip
        logs = tmp_path_factory.mktemp("logs")
        first = start_process(run_command, words, logs / "1", wait_for_ever, 2)
        try:
            wait_until(lambda: list(tmp_path.glob("o.csv.part/0*.npz")), 300)
            assert run_in_process(run_command, words, logs / "2") == 1
            stderr = (logs / "2").read_text()
            assert "o.csv' is being written by another process" in stderr
        finally:
            first.kill()
            first.join()
        assert names_in(tmp_path) == [".o.csv.diffqa-part", "many", "o.csv.part"]
        for path in list(folder.iterdir())[3:]:
            path.unlink()
        code = run_in_process(run_command, words, logs / "3")
        assert code == 0, (logs / "3").read_text()
        assert names_in(tmp_path) == ["many", "o.csv"]


class TestRows:
    class Endless:
        """As a Dataset of torch: it has a length and never raises IndexError."""

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return f"{index}.png"

    def test_a_sequence_is_read_to_its_length(self):
        assert [row.source for row in as_rows(self.Endless())] == [
            "0.png", "1.png", "2.png",
        ]  # fmt: skip

    def test_arrow(self):
        pa = pytest.importorskip("pyarrow")
        table = pa.table({"path": ["a.png", None], "scene": ["x", "y"]})
        rows = as_rows(table)
        assert [row.source for row in rows] == ["a.png", None]
        assert rows[1].columns == {"scene": "y"}
        assert [row.source for row in as_rows(table["path"])] == ["a.png", None]
        assert as_rows(table.to_batches()[0])[0].columns == {"scene": "x"}
        with pytest.raises(ValueError, match=r"columns \['a', 'b'\]; rename"):
            as_rows(pa.table({"a": ["secret.png"], "b": [1]}))

    @pytest.mark.parametrize("empty", [pd.NA, None, np.nan, np.float32("nan"), pd.NaT])
    def test_an_empty_cell_of_a_prompt(self, photos, features, empty):
        table = pd.DataFrame({"path": [str(photos / "a.png")] * 2})
        table["scene"] = pd.Series(["a dog", empty], dtype=object)
        estimator = features(prompts="A photo of {scene}.")
        with pytest.raises(ValueError, match=r"^Row 1 .*'scene'.* is empty here"):
            estimator.transform(table)
        estimator.set_params(on_error="nan")
        with pytest.warns(RuntimeWarning, match="1 of 2 rows"):
            matrix = estimator.transform(table)
        assert np.isfinite(matrix).all(1).tolist() == [True, False]
        assert estimator.failed_[0][0] == 1

    def test_a_cell_of_a_prompt_that_is_no_text(self, photos, features):
        table = pd.DataFrame({"path": [str(photos / "a.png")] * 2})
        table["scene"] = pd.Series(["a dog", "half an emoji \ud83d"], dtype=object)
        estimator = features(prompts="A photo of {scene}.", on_error="nan")
        with pytest.warns(RuntimeWarning, match="1 of 2 rows"):
            matrix = estimator.transform(table)
        assert np.isfinite(matrix).all(1).tolist() == [True, False]
        assert "'scene' of the prompts holds" in estimator.failed_[0][1]

    def test_an_error_carries_its_row_through_processes(self, tmp_path):
        name = str(tmp_path / "x'): y")
        with pytest.raises(FileNotFoundError) as caught:
            open_media(as_rows(["a", name])[1])
        error = pickle.loads(pickle.dumps(caught.value))
        assert (error.row_index, str(error)) == (1, f"Row 1 ('{name}'): {error.cause}")
        assert error.cause.startswith("no such file")


CRAMPED = """
import resource, sys, threading
from PIL import Image
from diffqa_features._media.rows import as_rows, open_media
from diffqa_features._engine.parallel import read_each
Image.new("RGB", (6000, 6000)).save("large.png")
media = open_media(as_rows(["large.png"])[0])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
try:
    if sys.argv[2] == "memory":
        list(media.frames())
    else:
        threading.stack_size(2**28)
        list(read_each([1], print, "x"))
except (MemoryError, RuntimeError) as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("memory", "MemoryError Row 0 ('large.png'): "),
        ("threads", "RuntimeError The system lets this process start no further "),
    ],
)
def test_too_little_memory_or_threads_is_told_with_a_way_out(
    tmp_path, monkeypatch, what, words
):
    monkeypatch.chdir(tmp_path)
    stdout, stderr = python("-c", CRAMPED, 2**26, what).communicate()
    assert stdout.startswith(words), stdout + stderr
    assert "(n_jobs)" in stdout


def test_memory_of_another_machine(photos):
    with pytest.raises(ValueError, match="'memory' parameter must be a path of this"):
        DiffusionQAFeatures("tiny", memory="s3://bucket/store").fit()
    with pytest.raises(ValueError, match="'memory' parameter must be a path of this"):
        DiffusionQAFeatures("tiny", memory=Path("s3://bucket/store")).fit([picture(0)])
    assert names_in(".") == ["photos"]


def test_files_of_a_folder_come_in_the_order_of_their_paths(tmp_path):
    for name in ("a/b.png", "a.png", "a b.png", "a-/c.png", "a/a/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = collect_files([str(tmp_path)], recursive=True)
    assert found.index.tolist() == list(map(str, sorted(tmp_path.rglob("*.png"))))
