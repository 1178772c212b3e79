"""`diffqa study` on miniature copies of the data sets: runs, resumes, says what is not.

The copies have their official layouts; a few pictures differ, so that there is an
order to predict.
"""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from command_line import picture
from dataset_copies import COPIES, koniq_scores, media, write
from interruptions import counted_steps, interrupted_before_step
from PIL import Image
from random_models import write_model
from sklearn.model_selection import GroupShuffleSplit

import diffqa_features
from diffqa_features import GenzIQARegressor, datasets, evaluation, metrics
from diffqa_features._commands._study.protocols import MARKS, STUDIES
from diffqa_features._commands._study.runs import Options, build
from diffqa_features._utils.files import one_writer
from diffqa_features.cli import main

OPTIONS = ("--image-size", "32", "-q")


def copy_sets(root, *names):
    for name in names:
        repaint(COPIES[f"load_{name}"](root / name).paths())
    return root


def repaint(paths):
    for seed, path in enumerate(paths):
        if not path.endswith((".mp4", ".webm", ".mkv")):
            picture(seed, (48, 48)).save(path)


def koniq(root):
    """Twelve pictures: enough that a fifth of them has an order."""
    names = [f"{number}.jpg" for number in range(12)]
    label = "koniq10k_scores_and_distributions.csv"
    write(root / "koniq10k" / label, koniq_scores(names))
    files = media(root / "koniq10k", [f"1024x768/{name}" for name in names])
    repaint([str(root / "koniq10k" / file) for file in files])
    return root


def words_of(name, root, out, memory, *words, quick=True):
    words = ["--data", root, "-o", out, "--memory", memory, *OPTIONS, *words]
    if quick:
        words.append("--quick")
    return [str(word) for word in ("study", name, *words)]


def cell(out, name):
    return json.loads((out / "cells" / f"{name}.json").read_text())


def table(out):
    frame = evaluation.EvaluationTable.from_csv(out / "table.csv").frame
    return frame.set_index(["train", "test", "metric"])


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """A store that all runs share: what they encode is the same."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def study(memory, capsys):
    """Run a study: (exit code, stdout, stderr)."""

    def study(name, root, out, *words, **options):
        capsys.readouterr()
        code = main(words_of(name, root, out, memory, *words, **options))
        return code, *capsys.readouterr()

    return study


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Words for the cheapest model with room for a context: for what asks of any."""
    folder = tmp_path_factory.mktemp("small") / "model"
    write_model(folder, "small", tokenizer={"length": 40})
    return "--backbone", str(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three data sets, of which one holds a file that is no picture."""
    root = copy_sets(tmp_path_factory.mktemp("sets"), "flive", "clive", "spaq")
    (root / "spaq/TestImage/00002.jpg").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def run(root, memory, tmp_path_factory):
    """The folder of a study of GenzIQA on them."""
    out = tmp_path_factory.mktemp("results") / "genziqa"
    assert main(words_of("genziqa", root, out, memory)) == 3
    return out


class TestProtocols:
    @pytest.mark.parametrize("protocol", STUDIES.values(), ids=STUDIES)
    def test_data_sets_and_marks_exist(self, protocol):
        for part in protocol.parts:
            known = getattr(datasets, f"load_{part.name}").description.parts
            assert part.subset in {"all", *known}
        for line in protocol.lines:
            assert line.mark in MARKS
            if line.published is not None:
                assert line.published.mark in MARKS
                assert 0 < line.published.srcc < 1
                assert 0 < line.published.plcc < 1
        assert len({line.key for line in protocol.lines}) == len(protocol.lines)

    @pytest.mark.parametrize("backbone", ["tiny", "sd15"])
    @pytest.mark.parametrize("quick", [False, True])
    @pytest.mark.parametrize("protocol", STUDIES.values(), ids=STUDIES)
    def test_settings_are_parameters(self, protocol, backbone, quick):
        options = Options(backbone, None, 0, quick)
        for line in protocol.lines:
            model = build(protocol, line.train, options, seed=3)
            assert type(model) is getattr(diffqa_features, protocol.estimator)
            model._validate_params()
            assert (model.backbone, model.random_state) == (backbone, 3)
            model.set_params(**line.settings)

    def test_only_published_figures_are_published(self):
        # No table of GenzIQA or GenzVQA, and none of DP-IQA across data sets, could be
        # obtained.
        published = {
            name: sum(line.published is not None for line in protocol.lines)
            for name, protocol in STUDIES.items()
        }
        assert published == {
            "genziqa": 0, "genzvqa": 0, "dpiqa-splits": 4, "dpiqa-cross": 0,
            "diffvqa": 8,
        }  # fmt: skip


class TestAcross:
    @pytest.fixture
    def copy(self, run, tmp_path):
        return shutil.copytree(run, tmp_path / "copy")

    def test_figures_are_those_of_the_estimator(self, root, run):
        train = datasets.load_flive(root / "flive", subset="train")
        test = datasets.load_clive(root / "clive")
        model = GenzIQARegressor(
            image_size=32, context_position="end", max_epochs=1, n_timesteps=2
        )
        predicted = model.fit(train.data, train.target).predict(test.data)
        found = cell(run, "flive-train--clive")
        for name, score in (("srcc", metrics.srcc_score), ("plcc", metrics.plcc_score)):
            wanted = evaluation.bootstrap_interval(
                test.target, predicted, metric=name, n_resamples=1000
            )
            assert wanted[0] == score(test.target, predicted)
            given = found["metrics"][name]
            np.testing.assert_allclose(
                [given["value"], given["low"], given["high"]], wanted, atol=1e-3
            )
        kept = pd.read_csv(run / "cells/flive-train--clive.csv")
        np.testing.assert_allclose(kept["y_pred"], predicted, rtol=1e-4)
        assert kept["file"].tolist() == [
            "Images/3.bmp", "Images/4.jpg", "Images/100.bmp"
        ]  # fmt: skip

    def test_what_is_missing_or_damaged_is_said(self, run):
        states = table(run)["state"].xs("srcc", level="metric").fillna("")
        assert states["FLIVE train", "CLIVE"] == states["CLIVE", "FLIVE"] == ""
        assert states["FLIVE train", "KonIQ-10k"] == "missing: koniq10k"
        failed = states["FLIVE train", "SPAQ"]
        assert failed.startswith("failed: in the test: ")
        assert "00002.jpg" in failed

    def test_the_table_says_what_it_is_not(self, run):
        text = (run / "table.md").read_text()
        assert "NOT THE MODEL OF THE PAPER (the paper uses sd21-base)" in text
        assert "QUICK RUN" in text
        assert table(run)["published"].isna().all()

    def test_the_log(self, run):
        log = json.loads((run / "study.json").read_text())
        assert log["settings"]["backbone"] == "tiny"
        assert log["settings"]["parameters"]["clive"]["context_position"] == "end"
        assert log["data"]["flive-train"]["rows"] == 2
        assert set(log["cells"]) == {"flive-train--clive", "clive--flive"}
        assert set(log["failed"]) == {"flive-train--spaq"}
        record = log["cells"]["flive-train--clive"]
        config = json.loads((run / "models/flive-train/config.json").read_text())
        assert record["fit"]["weights_sha256"] == config["weights_sha256"]
        assert record["fit"]["seed"] == 0
        assert len(record["fit"]["history"]) == 1
        assert {"torch", "source", "diffqa-features"} <= record["software"].keys()

    def test_the_figure_is_a_picture(self, run):
        with Image.open(run / "figure.png") as figure:
            figure.load()
            assert figure.width > 1000

    def test_resumes(self, root, copy, tmp_path, study):
        """Repaired and new data sets are added; nothing is trained or tested again."""
        more = koniq(shutil.copytree(root, tmp_path / "more"))
        picture(1, (48, 48)).save(more / "spaq/TestImage/00002.jpg")
        before = {p.name: p.stat().st_mtime_ns for p in copy.glob("cells/*")}
        with counted_steps() as steps:
            code, stdout, stderr = study("genziqa", more, copy)
        assert (code, steps) == (0, [])
        assert "the kept weights are used" in stderr
        after = {p.name: p.stat().st_mtime_ns for p in copy.glob("cells/*.json")}
        added = {"flive-train--spaq", "flive-train--koniq10k", "clive--koniq10k"}
        assert after.keys() - before.keys() == {f"{name}.json" for name in added}
        assert before.items() >= {k: after[k] for k in before.keys() & after}.items()
        states = table(copy)["state"].xs("srcc", level="metric").fillna("")
        assert states["FLIVE train", "SPAQ"] == ""
        assert "KonIQ-10k" in stdout

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--seed", "1"], "other settings: seed was 0, and is 1 now. Choose"),
            (["--image-size", "64"], "other settings: image_size was 32"),
        ],
    )
    def test_other_settings_are_refused(self, root, run, study, words, sentence):
        code, _, stderr = study("genziqa", root, run, *words)
        assert code == 2
        assert sentence in stderr

    def test_another_study_is_refused(self, root, run, study):
        code, _, stderr = study("dpiqa-cross", root, run)
        assert code == 2
        assert "study was 'genziqa', and is 'dpiqa-cross' now" in stderr

    def test_a_data_set_that_changed_is_refused(self, root, copy, tmp_path, study):
        more = shutil.copytree(root, tmp_path / "more")
        labels = more / "flive/labels_image.csv"
        labels.write_text(labels.read_text().replace("73.5", "74.5"))
        shutil.copy(labels, more / "flive/database/labels_image.csv")
        (copy / "cells/clive--flive.json").unlink()
        code, _, stderr = study("genziqa", more, copy)
        assert code == 3
        assert "the data set has changed since" in stderr
        assert not (copy / "cells/clive--flive.json").exists()
        assert (copy / "cells/flive-train--clive.json").exists()

    def test_a_failed_training_does_not_stop_the_others(self, tmp_path, study, small):
        root, out = copy_sets(tmp_path / "sets", "flive", "clive"), tmp_path / "out"
        spoilt = "voc_emotic_ava/AVA__100.jpg"
        (root / "flive/database" / spoilt).write_bytes(b"no picture")
        code, _, stderr = study("genziqa", root, out, *small)
        assert code == 1
        assert "no line of the table could be computed; the reasons are" in stderr
        states = table(out)["state"].xs("srcc", level="metric")
        failed = states["FLIVE train", "CLIVE"]
        assert failed.startswith("failed: in training: ")
        assert "AVA__100.jpg" in failed
        # CLIVE was trained on nevertheless; FLIVE is among its tests.
        assert states["CLIVE", "FLIVE"].startswith("failed: in the test: ")
        assert [path.name for path in (out / "models").iterdir()] == ["clive"]

    def test_one_process_at_a_time(self, root, run, study):
        with one_writer(run / "study.json"):
            code, _, stderr = study("genziqa", root, run)
        assert code == 1
        assert "is being written by another process" in stderr

    def test_a_damaged_cell_is_told(self, root, copy, study):
        (copy / "cells/clive--flive.json").write_text('{"n_test": 4')
        code, _, stderr = study("genziqa", root, copy)
        assert code == 2
        assert "clive--flive.json' is damaged" in stderr
        assert "remove it to have it computed again" in stderr

    def test_an_interruption_keeps_what_is_finished(self, root, tmp_path, study, small):
        def interrupt():
            raise KeyboardInterrupt

        out = tmp_path / "out"
        words = ("--only", "flive", "clive", *small)
        # Five epochs of one step on FLIVE, and as many on CLIVE.
        with interrupted_before_step(7, interrupt):
            code, _, stderr = study("genziqa", root, out, *words, quick=False)
        assert (code, "interrupted" in stderr) == (130, True)
        assert [p.name for p in out.glob("cells/*.json")] == ["flive-train--clive.json"]
        states = table(out)["state"].xs("srcc", level="metric").fillna("")
        assert states["CLIVE", "FLIVE"] == "not computed yet"
        assert states["FLIVE train", "SPAQ"] == "left out by --only"
        with counted_steps() as steps:
            assert study("genziqa", root, out, *words, quick=False)[0] == 0
        assert len(steps) == 3
        assert list((out / "checkpoints").iterdir()) == []
        assert "QUICK" not in (out / "table.md").read_text()


class TestSplits:
    def test_median_and_quartiles_beside_the_published(self, tmp_path, study):
        root, out = koniq(tmp_path / "sets"), tmp_path / "out"
        code, _, stderr = study("dpiqa-splits", root, out)
        assert code == 0, stderr
        assert "CLIVE) is missing; it belongs in " in stderr
        everything = datasets.load_koniq10k(root / "koniq10k")
        splitter = GroupShuffleSplit(10, test_size=0.2, random_state=0)
        splits = splitter.split(everything.data, groups=everything.groups)
        values = []
        for number, (_, held) in zip(range(2), splits):
            found = cell(out, f"koniq10k--split-{number}")
            kept = pd.read_csv(out / f"cells/koniq10k--split-{number}.csv")
            assert kept["row"].tolist() == held.tolist()
            assert (found["n_test"], found["fit"]["n_train"]) == (3, 9)
            assert found["fit"]["seed"] == number
            values.append(metrics.plcc_score(kept["y_true"], kept["y_pred"]))
        row = table(out).loc["KonIQ-10k", "20 % held out", "plcc"]
        np.testing.assert_allclose(
            row[["low", "ours", "high"]].astype(float),
            np.quantile(values, [0.25, 0.5, 0.75]),
        )
        assert (row["published"], row["published_mark"]) == (0.951, "quoted")
        assert row["n_fits"] == 2
        text = (out / "table.md").read_text()
        assert "| SRCC ours | SRCC published |" in text
        assert "2 of 10 splits" in text
        # Nothing is tested on them again.
        assert list((out / "models").iterdir()) == []

    def test_official_folder_names_and_files_left_out(self, tmp_path, study, small):
        root, out = koniq(tmp_path / "sets"), tmp_path / "out"
        copy_sets(root, "clive")
        (root / "clive").rename(root / "ChallengeDB_release")
        (root / "koniq10k/1024x768/3.jpg").unlink()
        code, _, stderr = study("genziqa", root, out, *small)
        assert code == 1
        assert "KonIQ-10k cannot be used: " in stderr
        assert "1 of 12 files are missing" in stderr
        assert study("genziqa", root, out, *small, "--drop-missing")[0] == 0
        log = json.loads((out / "study.json").read_text())
        assert log["data"]["koniq10k"]["rows"] == 11
        assert log["data"]["koniq10k"]["files_missing"] == 1
        assert cell(out, "clive--koniq10k")["n_test"] == 11


class TestVideos:
    @pytest.mark.parametrize(
        ("name", "sets", "cells"),
        [
            ("genzvqa", ["lsvq", "konvid1k"], {"lsvq-train--konvid1k"}),
            ("diffvqa", ["live_vqc", "konvid1k"], {"live_vqc--konvid1k"}),
        ],
    )
    def test_runs(self, name, sets, cells, tmp_path, study):
        root, out = copy_sets(tmp_path / "sets", *sets), tmp_path / "out"
        study(name, root, out)
        assert {path.stem for path in out.glob("cells/*.json")} == cells
        published = table(out)["published"].dropna()
        assert len(published) == 2 * 8 * (name == "diffvqa")
        if name == "diffvqa":
            assert published["LIVE-VQC", "KoNViD-1k", "srcc"] == 0.861


class TestAnswers:
    def test_lists(self, capsys):
        assert main(["study"]) == 0
        stdout, _ = capsys.readouterr()
        assert all(f"{name}\n" in stdout for name in STUDIES)
        assert "KonIQ-10k -> its held-out rows (code); published SRCC 0.942" in stdout
        assert main(["study", "--list"]) == 0
        assert capsys.readouterr().out == stdout

    def test_a_dry_run_says_where_data_sets_go(self, tmp_path, capsys):
        root = copy_sets(tmp_path, "flive")
        words = ["study", "dpiqa-cross", "--data", str(root), "--dry-run"]
        assert main(words) == 0
        stdout, _ = capsys.readouterr()
        assert f"put it, or a link to it, in {root / 'clive'}" in stdout
        assert "AllMOS_release.mat" in stdout
        assert "KonIQ-10k ->" not in stdout
        assert "nothing: no training set is there" in stdout
        assert [path.name for path in root.iterdir()] == ["flive"]

    @pytest.mark.parametrize(
        ("words", "code", "sentence"),
        [
            (["genzqa"], 2, "There is no study 'genzqa'. Did you mean 'genzvqa'?"),
            (["genziqa"], 2, "--data is missing: the folder that holds flive, clive"),
            (["genziqa", "--data", "."], 2, "--out is missing"),
            (["genziqa", "--data", "none"], 2, "--data 'none' is not a folder"),
            (["genziqa", "--data", ".", "--only", "lsvq"], 2, "no data set of that"),
            (["genziqa", "--data", ".", "-o", "file"], 2, "'file' is a file"),
            (["genziqa", "--data", ".", "-o", "full"], 1, "holds other files (a.txt"),
            (["genziqa", "--data", ".", "-o", "out"], 1, "no line of the table has"),
        ],
    )
    def test_mistakes(self, words, code, sentence, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").write_text("a file")
        (tmp_path / "full").mkdir()
        (tmp_path / "full/a.txt").write_text("not a study")
        assert main(["study", *words]) == code
        assert sentence in capsys.readouterr().err
        assert (tmp_path / "full/a.txt").read_text() == "not a study"
