"""The command line: light help, inputs of every form, mistakes told, `info`."""

import inspect
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from command_line import close, python

from diffqa_features import DiffusionQAFeatures, FeatureStore
from diffqa_features._commands._parser import make_parser
from diffqa_features.cli import main

pytest_plugins = ["command_line_fixtures"]

COMMANDS = ("demo", "info", "extract", "fit", "score", "study")
HEAVY = ("torch", "diffusers", "transformers", "sklearn", "pandas", "numpy")


class TestHelp:
    def test_imports_nothing_heavy(self):
        code = f"""
import sys
from diffqa_features.cli import main
for words in [["--help"], *([name, "--help"] for name in {COMMANDS})]:
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code == 0
sys.stderr.write(",".join(name for name in {HEAVY} if name in sys.modules))
"""
        child = python("-c", code)
        stdout, stderr = child.communicate()
        assert (child.returncode, stderr) == (0, "")
        assert stdout.count("examples:") == len(COMMANDS)

    def test_the_process_exits_with_the_code(self, tmp_path):
        words = ("extract", tmp_path / "none", "-o", tmp_path / "out.csv")
        child = python("-m", "diffqa_features.cli", *words)
        stdout, stderr = child.communicate()
        assert (child.returncode, stdout) == (2, "")
        assert stderr.startswith("diffqa: error: There is no file or folder")
        assert stderr.count("\n") == 1

    def test_a_closed_output_is_no_crash(self, tmp_path):
        FeatureStore(tmp_path).put({"a": np.zeros(3)})
        words = [sys.executable, "-m", "diffqa_features.cli"]
        words += ["info", "--memory", str(tmp_path)]  # needs no torch
        line = f"{shlex.join(words)} >&-"
        found = subprocess.run(["sh", "-c", line], capture_output=True, check=False)
        assert (found.returncode, found.stderr) == (0, b"")

    @pytest.mark.parametrize("command", COMMANDS)
    def test_examples_parse(self, command, capsys):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        examples = re.findall(r"^  \$ diffqa (.*)$", text, re.M)
        assert examples
        for line in examples:
            words = re.findall(r"'([^']*)'|(\S+)", line.partition(" | ")[0])
            args = make_parser().parse_args([quoted or bare for quoted, bare in words])
            assert args.command == command

    def test_defaults_are_those_of_the_estimator(self, capsys):
        with pytest.raises(SystemExit):
            main(["extract", "--help"])
        text = " ".join(capsys.readouterr().out.split())
        parameters = inspect.signature(DiffusionQAFeatures).parameters
        for name in "backbone timesteps blocks prompts kinds pooling view".split():
            default = parameters[name].default
            several = [default] if isinstance(default, str) else default
            words = [repr(w) if " " in str(w) else str(w) for w in several]
            option = re.escape("--" + name)
            assert re.search(
                rf"{option} .*?\(default: {re.escape(' '.join(words))}\)", text
            ), name

    @pytest.mark.parametrize("words", [[], ["nothing"], ["extract"], ["info", "--x"]])
    def test_wrong_usage_is_2(self, words):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2

    @pytest.mark.parametrize("value", ["nan", "0", "-1", "inf", "ten", "1,2"])
    def test_a_penalty_is_checked_before_anything_is_computed(self, value, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["fit", "t.csv", "-o", "m.skops", "--C", "1", value])
        assert stop.value.code == 2
        told = f"argument --C: must be a number above 0, not {value}"
        assert told in capsys.readouterr().err


class TestInputs:
    def extracted(self, run, *inputs):
        code, _, error = run("extract", *inputs, "-o", "out.npz", "--blocks", "mid.0")
        assert code == 0, error
        with np.load("out.npz") as content:
            return content["paths"].tolist(), content["features"]

    def test_folders_and_patterns(self, photos, run):
        assert len(self.extracted(run, "photos")[0]) == 4
        assert "photos/more/e.png" in self.extracted(run, "photos", "--recursive")[0]
        assert self.extracted(run, "photos/*.png")[0] == [
            "photos/a.png",
            "photos/d.png",
        ]
        paths, _ = self.extracted(run, "photos/**/*.png", "photos/a.png", "photos")
        assert len(paths) == len(set(paths)) == 5

    def test_a_table_keeps_its_rows_and_names(self, photos, run, features):
        pd.DataFrame({"image": ["d.png", "a.png", "d.png"], "x": 1}).to_csv(
            photos / "list.csv"
        )
        shutil.copy(photos / "a.png", "d.png")  # the working directory comes first
        paths, matrix = self.extracted(run, "photos/list.csv", "--path-column", "image")
        assert paths == ["d.png", "a.png", "d.png"]
        close(matrix, features(blocks="mid.0").transform([photos / "a.png"] * 3))

    def test_prompts_are_filled_from_columns(self, photos, run, features):
        captions = ["a red thing", "007", "NA"]
        table = pd.DataFrame(
            {"path": ["a.png", "b.JPG", "c.webp"], "caption": captions}
        )
        table.to_csv(photos / "list.csv", index=False)
        table.to_parquet(photos / "list.parquet")
        prompts = ("A photo of {caption}.", "Bad photo.")
        wanted = features(blocks="mid.0", prompts=prompts).transform(
            table.assign(path=[str(photos / name) for name in table["path"]])
        )
        for name in ("list.csv", "list.parquet"):
            _, matrix = self.extracted(run, photos / name, "--prompts", *prompts)
            close(matrix, wanted)

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["nowhere/"], "no file or folder 'nowhere/'"),
            (["photos/*.tif"], "No file matches 'photos/*.tif'"),
            (["photos/more/none.csv"], "no table 'photos/more/none.csv'"),
            (["empty"], "no picture or video in 'empty'"),
            (["list.csv"], "has no column 'path', which --path-column names"),
            (["photos", "--prompts", "{x}"], "name the column 'x'"),
            (["list.csv", "--path-column", "image", "--prompts", "{x}"], "column 'x'"),
            (["photos", "--view", "sideways"], "'view' parameter of DiffusionQAF"),
            (["photos", "--timesteps", "1000"], "'timesteps' parameter of Diffusion"),
            (["photos", "--blocks", "up9.*"], "Closest names"),
            (["photos", "--device", "abacus"], "'device' parameter must be"),
            (["photos", "--out", "table.xlsx"], "must end in .parquet, .csv or .npz"),
            (["photos", "--out", "folder.csv"], "is a folder"),
        ],
    )  # fmt: skip
    def test_mistakes_are_one_sentence_and_2(self, photos, run, words, sentence):
        (photos.parent / "empty").mkdir()
        (photos.parent / "folder.csv").mkdir()
        pd.DataFrame({"image": ["a.png"]}).to_csv("list.csv")
        code, stdout, stderr = run("extract", "-o", "out.csv", *words)
        assert code == 2
        assert stdout == ""
        (line,) = [x for x in stderr.splitlines() if x.startswith("diffqa: error: ")]
        assert sentence in line
        assert "Traceback" not in stderr
        assert not (photos.parent / "out.csv").exists()

    def test_debug_shows_the_traceback(self, photos, run):
        with pytest.raises(ValueError, match="no file or folder"):
            run("extract", "nowhere", "-o", "out.csv", "--debug")


class TestInfo:
    def test_backbone(self, run, sd1_folder):
        for words in (["info", sd1_folder], ["info", "--backbone", sd1_folder]):
            code, stdout, _ = run(*words)
            assert code == 0
            assert str(sd1_folder) in stdout
            assert re.search(r"^native size +64 x 64 pixels", stdout, re.M)
            assert (
                len(re.findall(r"^(?:down|mid|up)\S+ +\d+ +\d+$", stdout, re.M)) == 10
            )
            assert re.search(r"^down0\.0 +16 +2$", stdout, re.M)

    def test_tiny_is_the_default(self, run):
        code, stdout, _ = run("info")
        assert code == 0
        assert re.search(r"^backbone +tiny$", stdout, re.M)
        assert "no substitute for Stable Diffusion" in " ".join(stdout.split())

    def test_store(self, run, tmp_path):
        FeatureStore(tmp_path).put({"a": np.zeros(3), "b": np.zeros(2)})
        code, stdout, _ = run("info", "--memory", tmp_path)
        assert code == 0
        assert re.search(r"^entries +2$", stdout, re.M)
        assert run("info", "--memory", tmp_path / "none")[0] == 2

    def test_unknown_and_missing_backbones(self, run, monkeypatch, tmp_path):
        code, _, stderr = run("info", "tinny")
        assert (code, "Did you mean 'tiny'" in stderr) == (2, True)
        code, _, stderr = run("info", "./nowhere")
        assert (code, "no folder './nowhere'" in stderr) == (1, True)
        assert run("info", "tiny", "--backbone", "sd15")[0] == 2
