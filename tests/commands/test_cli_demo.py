"""`diffqa demo`, small: its table computed again, its pictures, its second run."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, FeatureStore, load_scorer, metrics

pytest_plugins = ["command_line_fixtures"]


class TestDemo:
    def test_small(self, run, tmp_path, small_folder):
        out = tmp_path / "demo"
        words = ("demo", "--out", out, "--photos", 2, "--size", 32)
        words += ("--backbone", small_folder)
        code, stdout, stderr = run(*words, backbone=False)
        assert code == 0, stderr
        table = pd.read_csv(out / "results.csv", index_col="distortion")
        assert table["n"].tolist() == [48, *[8] * 6]
        # First of all a folder is scored: these and the two photographs themselves.
        scored = pd.read_csv(out / "scores.csv")
        assert len(scored) == 50
        expected = load_scorer().predict(scored["path"][:3].tolist())
        np.testing.assert_allclose(scored["score"][:3], expected)
        worst = scored[scored["path"].str.contains("white_noise_4")]["score"].mean()
        assert f"{worst:.1f}" in re.search(r"^white_noise .*", stdout, re.M)[0]
        report = (out / "report.html").read_text(encoding="utf-8")
        assert report.count('id="row-') == 50
        for name in ("alignment_maps", "prediction", "grid"):
            with Image.open(out / f"{name}.png") as drawn:
                assert min(drawn.size) > 300
                assert len(drawn.convert("L").getcolors()) > 50
        # The first line of the table, computed again without the command's parts.
        best = re.search(r"best are timestep (\d+) and blocks '(\S+)'", _flat(stdout))
        paths = sorted(str(path) for path in (out / "images").glob("*.png"))
        names = [path.rpartition("/")[2] for path in paths]
        groups, families, levels = zip(
            *(
                re.fullmatch(r"([a-z]+)_(\w+)_(\d)\.png", name).groups()
                for name in names
            )
        )
        target = -np.array(levels, float)
        model = make_pipeline(
            DiffusionQAFeatures(
                str(small_folder),
                image_size=32,
                timesteps=int(best[1]),
                blocks=best[2],
                memory=out / "s",
            ),
            StandardScaler(),
            SVR(C=10),
        )
        predicted = cross_val_predict(
            model, paths, target, groups=groups, cv=GroupKFold(2)
        )
        noisy = np.array(families) == "white_noise"
        for name, chosen in (("all", slice(None)), ("white_noise", noisy)):
            srcc = metrics.srcc_score(target[chosen], predicted[chosen])
            assert table.loc[name, "srcc_diffusion"] == pytest.approx(srcc, abs=0.02)
            assert f"{table.loc[name, 'srcc_baseline']:.3f}" in stdout

        before = (out / "results.csv").read_text()
        entries = FeatureStore(out / "store").info().entries
        # Of an earlier run with more photographs.
        Image.new("RGB", (32, 32)).save(out / "images" / "originals" / "zero.png")
        code, again, _ = run(*words, backbone=False)
        assert code == 0
        untouched = re.compile(r"the photographs as they are: [\d.]+")
        assert untouched.search(again)[0] == untouched.search(stdout)[0]
        assert (out / "results.csv").read_text() == before
        assert FeatureStore(out / "store").info().entries == entries

    def test_a_folder_of_somebody_is_left_as_it_is(self, run, tmp_path, small_folder):
        (tmp_path / "results.csv").write_text("mine")
        code, _, stderr = run(
            "demo", "--out", tmp_path, "--photos", 2, "--size", 32,
            "--backbone", small_folder, backbone=False,
        )  # fmt: skip
        assert code == 1
        assert "holds other files (results.csv, ...) and no demo" in stderr
        assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]
        assert (tmp_path / "results.csv").read_text() == "mine"

    def test_mistakes_are_2(self, run, tmp_path):
        for words in (["--photos", 1], ["--photos", 10, "--size", 512]):
            code, _, stderr = run("demo", "--out", tmp_path / "demo", *words)
            assert code == 2
            assert "diffqa: error: --photos" in stderr


def _flat(text):
    return " ".join(text.split())
