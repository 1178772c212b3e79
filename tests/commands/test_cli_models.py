"""`diffqa fit` and `diffqa score`: models, printed scores, what is refused."""

import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import video_files
from command_line import picture
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from skops import io as skops_io

from diffqa_features import TRUSTED_TYPES, load_scorer, metrics

pytest_plugins = ["command_line_fixtures"]


@pytest.fixture
def rated(photos):
    """A table of sixteen pictures of four groups, with scores."""
    rows = []
    for seed in range(16):
        name = f"rated{seed}.png"
        picture(seed // 4).rotate(5 * (seed % 4)).save(photos / name)
        mos = round(50 + 10 * np.sin(seed), 3)
        rows.append({"file": name, "MOS": mos, "source": f"s{seed // 4}"})
    table = pd.DataFrame(rows)
    table.to_csv(photos / "scores.csv", index=False)
    return table.assign(path=[str(photos / name) for name in table["file"]])


COLUMNS = ("--path-column", "file", "--target-column", "MOS")


class TestFit:
    def expected(self, features, rated, t, c):
        """Scores of the folds, from features computed beforehand: by metric."""
        matrix = features(timesteps=t).transform(rated["path"].tolist())
        scoring = {
            "srcc": metrics.srcc_scorer,
            "plcc": metrics.plcc_scorer,
            "rmse": metrics.rmse_scorer,
        }
        found = cross_validate(
            make_pipeline(StandardScaler(), SVR(C=c)), matrix, rated["MOS"],
            groups=rated["source"], cv=GroupKFold(4), scoring=scoring,
        )  # fmt: skip
        signs = {"srcc": 1, "plcc": 1, "rmse": -1}
        return {name: sign * found[f"test_{name}"] for name, sign in signs.items()}

    def test_model_and_printed_scores(self, rated, run, features):
        code, stdout, stderr = run(
            "fit", "photos/scores.csv", "-o", "m.skops", *COLUMNS, "--quiet",
            "--group-column", "source", "--folds", 4, "--C", 3, "--timesteps", 20,
        )  # fmt: skip
        assert code == 0, stderr
        scores = self.expected(features, rated, 20, 3).values()
        (line,) = [x for x in stdout.splitlines() if x.startswith("*")]
        printed = [float(number) for number in re.findall(r"-?\d+\.\d{3}", line)]
        wanted = [number for s in scores for number in (s.mean(), s.std())]
        np.testing.assert_allclose(printed, wanted, atol=2e-3)

        model = skops_io.load("m.skops", trusted=list(TRUSTED_TYPES))
        assert [name for name, _ in model.steps] == ["features", "scale", "svr"]
        paths = rated["path"].tolist()
        reference = make_pipeline(features(timesteps=20), StandardScaler(), SVR(C=3))
        np.testing.assert_allclose(
            model.predict(paths),
            reference.fit(paths, rated["MOS"]).predict(paths),
            atol=1e-3,
        )
        machine = {"memory", "device", "batch_size", "n_jobs"}
        kept = model[0].get_params()
        assert {name: kept[name] for name in machine} == dict.fromkeys(machine)
        assert kept["on_error"] == "raise"

    def test_grid_keeps_the_best(self, rated, run, features):
        code, stdout, _ = run(
            "fit", "photos/scores.csv", "-o", "m.skops", *COLUMNS, "--group-column",
            "source", "--folds", 4, "--grid-timesteps", 5, 300, "--C", 0.1, 10,
        )  # fmt: skip
        assert code == 0
        settings = [(t, c) for t in (5, 300) for c in (0.1, 10)]
        wanted = [
            self.expected(features, rated, t, c)["srcc"].mean() for t, c in settings
        ]
        rows = [x for x in stdout.splitlines() if re.match(r"[* ] \d", x)]
        printed = [float(re.search(r"-?\d\.\d{3}", row)[0]) for row in rows]
        np.testing.assert_allclose(printed, wanted, atol=2e-3)
        best = int(np.argmax(wanted))
        assert [row.startswith("*") for row in rows].index(True) == best
        model = skops_io.load("m.skops", trusted=list(TRUSTED_TYPES))
        assert (*model[0].timesteps, model[-1].C) == settings[best]

    def test_bad_files_are_left_out_and_3(self, rated, run):
        Path(rated["path"][2]).write_bytes(b"no picture")
        code, stdout, stderr = run(
            "fit", "photos/scores.csv", "-o", "m.skops", *COLUMNS, "--folds", 3
        )
        assert code == 3
        assert "cross-validation: 15 rows, 3 folds" in stdout
        assert "no --group-column" in stderr
        listed = pd.read_csv("m.skops.bad.csv")
        assert listed["path"].tolist() == ["rated2.png"]

    def test_one_file_on_both_sides_of_a_fold_is_refused(self, rated, run):
        table = pd.read_csv("photos/scores.csv")
        first = table.iloc[[0]].assign(file="../photos/rated0.png", source="another")
        pd.concat([table, first]).to_csv("photos/twice.csv", index=False)
        words = ("fit", "photos/twice.csv", "-o", "m.skops", *COLUMNS, "--folds", 4)
        for more in ((), ("--group-column", "source")):
            code, stdout, stderr = run(*words, *more)
            assert (code, stdout) == (2, "")
            assert "row 0 and row 16 are the same file (../photos/rated0.png)" in stderr
            assert "into one group of a --group-column" in stderr

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["-o", "m.pkl"], "--out must end in .skops"),
            (["--target-column", "score"], "no column 'score', which --target-column"),
            (["--target-column", "file"], "row 0 ('rated0.png'): the column 'file'"),
            (["--group-column", "MOOS"], "no column 'MOOS', which --group-column"),
            (["--group-column", "constant"], "a single group"),
            (["--group-column", "alone"], "in 2 folds, one has a single row, of which"),
            (["--folds", "1"], "--folds must be at least 2"),
            (["--target-column", "day"], "'day' of 'photos/scores.parquet' must hold"),
            (["--folds", "9"], "16 rows are too few for 9 folds"),
            (["--grid-timesteps", "5", "5000"], "'timesteps' parameter"),
        ],
    )
    def test_mistakes_are_2(self, rated, run, words, sentence):
        day = pd.to_datetime(rated["MOS"])
        more = {"constant": "c", "alone": ["a"] + 15 * ["b"], "day": day}
        table = rated.drop(columns="path").assign(**more)
        table.to_csv("photos/scores.csv")
        table.to_parquet("photos/scores.parquet")
        suffix = "parquet" if "day" in words else "csv"
        code, _, stderr = run(
            "fit", f"photos/scores.{suffix}", "-o", "m.skops", *COLUMNS, *words
        )
        assert code == 2
        assert sentence in stderr
        assert "Traceback" not in stderr


class TestScore:
    @pytest.fixture
    def model(self, rated, features):
        pipeline = make_pipeline(
            features(timesteps=20, n_jobs=7), StandardScaler(), SVR(C=3)
        )
        pipeline[0].set_params(n_jobs=None)
        pipeline.fit(rated["path"].tolist(), rated["MOS"])
        pipeline[0].set_params(n_jobs=7, memory="nowhere", on_error="raise")
        skops_io.dump(pipeline, "m.skops")
        return pipeline.set_params(
            **{"diffusionqafeatures__n_jobs": None, "diffusionqafeatures__memory": None}
        )

    def test_lines(self, photos, model, run):
        code, stdout, _ = run(
            "score", "m.skops", "photos/rated*.png", "--chunk-size", 5
        )
        assert code == 0
        lines = [line.split("\t") for line in stdout.splitlines()]
        paths = sorted(str(p) for p in photos.glob("rated*.png"))
        assert [str(photos.parent / path) for path, _ in lines] == paths
        scores = [float(score) for _, score in lines]
        np.testing.assert_allclose(scores, model.predict(paths), rtol=1e-4)
        assert not (photos.parent / "nowhere").exists()

    @pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
    def test_table(self, photos, model, run, suffix):
        (photos / "bad.png").write_bytes(b"no picture")
        code, stdout, stderr = run("score", "m.skops", "photos", "-o", f"s.{suffix}")
        assert (code, stdout) == (3, "")
        assert "1 of 21 files" in stderr
        if suffix == "parquet":
            table = pd.read_parquet("s.parquet")
        else:
            table = pd.read_csv(f"s.{suffix}", sep="," if suffix == "csv" else "\t")
        assert table.columns.tolist() == ["path", "score"]
        expected = model.predict(table["path"].tolist())
        np.testing.assert_allclose(table["score"], expected, rtol=1e-4)
        assert pd.read_csv(f"s.{suffix}.bad.csv")["path"].tolist() == ["photos/bad.png"]

    def test_bad_files_alone(self, photos, model, run):
        (photos / "bad.png").write_bytes(b"no picture")
        assert run("score", "m.skops", "photos/bad.png")[0] == 1
        code, _, stderr = run("score", "m.skops", "photos", "--on-error", "raise")
        assert code == 1
        assert "diffqa: error: photos/bad.png: " in stderr

    def test_model_as_an_option(self, photos, model, run):
        first = run("score", "m.skops", "photos/rated3.png", "--quiet")
        words = ("score", "photos/rated3.png", "--model", "m.skops", "--quiet")
        assert run(*words) == first

    def test_a_model_alone(self, photos, model, run):
        code, _, stderr = run("score", "m.skops")
        assert code == 2
        assert "'m.skops' is a model; give INPUTs too" in stderr

    def test_a_model_of_other_weights(self, photos, model, run):
        model[0].frozen_identity_ = "0" * 64
        skops_io.dump(model, "other.skops")
        del model[0].frozen_identity_
        skops_io.dump(model, "old.skops")
        for name, sentence in {
            "other": "not the one that it was fitted with",
            "old": "does not say which weights its backbone had",
        }.items():
            code, stdout, stderr = run("score", f"{name}.skops", "photos/a.png")
            assert code == 2
            assert sentence in stderr
            assert not stdout

    def test_what_is_no_model_of_ours(self, photos, features, run):
        (photos / "m1.skops").write_bytes(pickle.dumps(Ridge()))
        skops_io.dump(Ridge(), "photos/m2.skops")
        skops_io.dump(Pipeline([("f", features()), ("r", Ridge())]), "photos/m3.skops")
        # A type that would be imported if the file were trusted.
        with zipfile.ZipFile("photos/m3.skops") as archive:
            tree = json.loads(archive.read("schema.json"))
        tree["content"]["content"]["steps"] = {
            "__class__": "system", "__module__": "os", "__loader__": "TypeNode",
            "__id__": 1, "content": {},
        }  # fmt: skip
        with zipfile.ZipFile("photos/m3.skops", "w") as archive:
            archive.writestr("schema.json", json.dumps(tree))
        tree["content"]["content"]["steps"] |= {
            "__class__": "DiffusionQAFeatures",
            "__module__": "diffqa_features._features",
        }
        with zipfile.ZipFile("photos/m4.skops", "w") as archive:
            archive.writestr("schema.json", json.dumps(tree))
        for name, sentence in {
            "m0": "There is no model 'photos/m0.skops'. Pass a file",
            "m1": "is not a model of 'diffqa fit'",
            "m2": "is not a Pipeline that begins with DiffusionQAFeatures",
            "m3": "types that are not trusted: os.system",
            "m4": "was saved by another version of diffqa_features, which had",
        }.items():
            code, _, stderr = run("score", f"photos/{name}.skops", "photos/a.png")
            assert code == 2
            assert sentence in stderr, stderr

    def test_a_model_of_fit(self, rated, run, features):
        words = ("fit", "photos/scores.csv", "-o", "m.skops", *COLUMNS, "--folds", 2)
        assert run(*words)[0] == 0
        _, stdout, _ = run("score", "m.skops", "photos/rated3.png")
        paths = rated["path"].tolist()
        model = make_pipeline(features(), StandardScaler(), SVR(C=10))
        expected = model.fit(paths, rated["MOS"]).predict(paths[3:4])
        path, score = stdout.rstrip("\n").split("\t")
        assert path == "photos/rated3.png"
        np.testing.assert_allclose(float(score), expected, rtol=1e-4)


class TestScoreWithoutModel:
    def test_lines(self, photos, rated, run):
        code, stdout, _ = run("score", "photos/rated*.png")
        assert code == 0
        lines = [line.split("\t") for line in stdout.splitlines()]
        paths = sorted(str(p) for p in photos.glob("rated*.png"))
        expected = load_scorer().predict(paths)
        np.testing.assert_allclose([float(s) for _, s in lines], expected, rtol=1e-4)

    def test_table(self, photos, rated, run):
        (photos / "bad.png").write_bytes(b"no picture")
        code, stdout, stderr = run("score", "photos", "-o", "s.csv", "--chunk-size", 3)
        assert (code, stdout) == (3, "")
        assert "1 of 21 files" in stderr
        table = pd.read_csv("s.csv", keep_default_na=False)
        assert table.columns.tolist() == ["path", "score", "std", "fault"]
        assert len(table) == 20
        found = load_scorer().assess(table["path"].tolist())
        np.testing.assert_allclose(table["score"], found["jod"])
        np.testing.assert_allclose(table["std"], found["std"])
        faults = found.drop(columns=["jod", "std"]).to_numpy()
        names = found.columns[2:]
        for likely, shares in zip(table["fault"], faults, strict=True):
            assert likely == (names[shares.argmax()] if shares.max() >= 0.5 else "")
        assert pd.read_csv("s.csv.bad.csv")["path"].tolist() == ["photos/bad.png"]

    def test_pictures_and_videos_together(self, photos, run):
        clip = video_files.encode(photos / "clip.mp4", video_files.pan(9))
        words = ("score", "photos/clip.mp4", "photos/a.png", "-o", "s.csv")
        assert run(*words, "--reader", "imageio")[0] == 0
        table = pd.read_csv("s.csv", keep_default_na=False).set_index("path")
        found = load_scorer(reader="imageio").assess([clip]).iloc[0]
        assert len(table) == 2
        assert table.loc["photos/clip.mp4", "score"] == pytest.approx(found["jod"])

    def test_headerless_video_of_a_table(self, photos, run):
        samples = np.random.default_rng(0).integers(0, 256, 9 * 64 * 48 * 3 // 2)
        (photos / "a.yuv").write_bytes(samples.astype(np.uint8).tobytes())
        facts = {"width": 64, "height": 48, "frame_rate": 30, "pixel_format": "yuv420p"}
        table = pd.DataFrame([{"path": "photos/a.yuv", **facts}])
        table.to_csv("list.csv", index=False)
        assert run("score", "list.csv", "-o", "s.csv")[0] == 0
        found = load_scorer().predict(table)[0]
        assert pd.read_csv("s.csv")["score"].item() == pytest.approx(found)

    def test_bad_files(self, photos, rated, run):
        (photos / "bad.png").write_bytes(b"no picture")
        assert run("score", "photos/bad.png")[0] == 1
        code, _, stderr = run("score", "photos", "--on-error", "raise")
        assert code == 1
        assert "diffqa: error: photos/bad.png: " in stderr

    @pytest.mark.parametrize(
        "option",
        [("--memory", "m"), ("--jobs", 2), ("--batch-size", 8)],
    )
    def test_options_of_a_model_alone(self, photos, run, option):
        code, _, stderr = run("score", "photos", "-o", "s.csv", *option)
        assert code == 2
        assert f"{option[0]} would have no effect" in stderr
        assert not Path("s.csv").exists()
