"""The scorer: tiles, files, what it says about real pictures, as others use it."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone, is_regressor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from diffqa_features import (
    DistilledStudentRegressor,
    QualityScorer,
    load_scorer,
)
from diffqa_features.datasets import load_sample_photos, make_distorted_images
from diffqa_features.datasets._chains import FAULTS
from diffqa_features.learned import _files
from diffqa_features.learned.scorer import network, statistics
from diffqa_features.learned.scorer.perceptrons import Perceptrons
from diffqa_features.learned.scorer.tiles import cut_tiles, cut_windows
from diffqa_features.learned.scorer.videos import TIMING
from diffqa_features.metrics import srcc_score

SHIPPED = Path(network.__file__).with_name("tiny")
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def photos():
    return load_sample_photos().data[:3]


@pytest.fixture(scope="module")
def scorer():
    return load_scorer()


class TestTiles:
    @pytest.mark.parametrize(
        ("height", "width", "shape"),
        [
            (300, 517, (3 * 5, 128, 128, 3)),
            (129, 193, (2 * 2, 96, 97, 3)),
            (255, 160, (2 * 2, 128, 96, 3)),
        ],
    )
    def test_all_of_a_picture_is_covered(self, height, width, shape):
        at = np.mgrid[:height, :width].transpose(1, 2, 0)
        pixels = np.concatenate([at, at[..., :1]], 2)
        tiles = cut_tiles(pixels)
        assert tiles.shape == shape
        seen = np.zeros((height, width), bool)
        seen[tiles[..., 0].ravel(), tiles[..., 1].ravel()] = True
        assert seen.all()

    @pytest.mark.parametrize(
        ("side", "count", "tile"),
        [(128, 1, 128), (129, 2, 96), (192, 2, 96), (224, 2, 112), (257, 3, 128)],
    )
    def test_two_tiles_are_halves(self, side, count, tile):
        tiles = cut_tiles(np.zeros((side, 64, 3), np.uint8))
        assert tiles.shape == (count, tile, 64, 3)
        whole = cut_tiles(np.zeros((side, 64, 3), np.uint8), smaller=False)
        assert whole.shape == (count, min(side, 128), 64, 3)

    def test_small_pictures_are_one_tile(self):
        pixels = np.arange(40 * 100 * 3).reshape(40, 100, 3)
        np.testing.assert_array_equal(cut_tiles(pixels), pixels[None])

    def test_fewer_are_spread_evenly(self):
        height, width = 2000, 3000
        rows, columns = np.mgrid[:height, :width].astype(np.int16)
        tiles = cut_tiles(np.stack([rows, columns, rows], 2), 48)
        assert len(tiles) == 48
        corners = tiles[:, 0, 0, :2]
        for half in (corners[:, 0] < 936, corners[:, 1] < 1436):
            assert 0.35 < half.mean() < 0.65

    def test_windows_lie_row_by_row(self):
        at = np.mgrid[:128, :256].transpose(1, 2, 0)
        windows = cut_windows(np.concatenate([at, at[..., :1]], 2))
        assert windows.shape == (64, 64, 64, 3)
        assert windows[0, 0, 0].tolist() == [0, 0, 0]
        assert windows[7, 0, 0].tolist() == [0, 192, 0]
        assert windows[-1, -1, -1].tolist() == [127, 255, 127]


class TestStatistics:
    def test_local_mean_is_a_weighted_mean(self):
        planes = np.random.default_rng(0).random((2, 20, 30), np.float32)
        at = torch.arange(-3, 4)
        line = torch.exp(-0.5 * (at / (7 / 6)) ** 2)
        window = torch.outer(line, line) / line.sum() ** 2
        expected = torch.nn.functional.conv2d(
            torch.nn.functional.pad(
                torch.from_numpy(planes)[:, None], (3, 3, 3, 3), mode="replicate"
            ),
            window[None, None],
        )
        found = statistics._local_mean(statistics._padded(planes))[:, :20, :30]
        np.testing.assert_allclose(found, expected[:, 0], atol=1e-6)

    def test_local_variance(self):
        planes = np.random.default_rng(0).random((3, 2, 40, 50), np.float32)
        detail, variance = statistics._local(planes)
        means = [
            statistics._local_mean(statistics._padded(values))[:, :40, :50]
            for plane in planes
            for values in (plane, plane**2)
        ]
        mean, square = np.stack(means[::2]), np.stack(means[1::2])
        np.testing.assert_allclose(detail, planes - mean, atol=1e-6)
        np.testing.assert_allclose(variance, square - mean**2, atol=1e-6)

    def test_tails_of_known_distributions(self):
        """Of a normal distribution (E|x|)² / E[x²] is 2 / pi, of two values it is 1."""
        noise = np.random.default_rng(0).standard_normal((256, 256), np.float32)
        planes = np.stack([noise, np.sign(noise)])
        tails, _ = statistics._shape(planes, np.abs(planes))
        assert np.exp(tails).tolist() == pytest.approx([2 / np.pi, 1], abs=0.01)

    def test_edges_are_narrow_wide_or_overshoot(self):
        def widths_and_swings(line):
            plane = np.tile(np.float32(line), (1, 64, 1))
            width, swing = statistics._edges(plane, -1)
            return width[2].item(), swing[1].item()

        step = [0.0] * 24 + [1.0] * 24
        ramp = [0.0] * 22 + [0.2, 0.4, 0.6, 0.8] + [1.0] * 22
        halo = [0.0] * 22 + [-0.2, -0.2, 1.2, 1.2] + [1.0] * 22
        assert widths_and_swings(step) == pytest.approx([1, 1], abs=0.02)
        assert widths_and_swings(ramp)[0] == pytest.approx(1 / 3, abs=0.05)
        assert widths_and_swings(halo)[1] < 0.9

    def test_places_of_the_strongest(self):
        """Of equals the last; the twentieth of 100 are 5."""
        change = np.zeros((2, 10, 10), np.float32)
        change[0, 3, 7], change[0, 5, 5], change[1, 0, :6] = 0.5, -2.0, 1.0
        top, among = statistics._strongest(change)
        assert sorted(among[0].tolist()) == [37, 55, 97, 98, 99]
        assert sorted(among[1].tolist()) == [1, 2, 3, 4, 5]
        assert sorted(top[0].tolist()) == [-2.0, 0.0, 0.0, 0.0, 0.5]

    def test_gaps_are_seen(self, photos):
        coarse = (np.round(photos[0] / 255 * 20) / 20 * 255).astype(np.uint8)
        channels = np.stack([photos[0], coarse]).transpose(3, 0, 1, 2)
        gaps, *_ = statistics._gaps(statistics._counts(channels))
        assert gaps[0, 1] > gaps[0, 0] + 1

    def test_counts_and_spreads(self, photos):
        counts = statistics._counts(np.stack(photos).transpose(3, 0, 1, 2))
        expected = np.bincount(photos[2][..., 1].ravel(), minlength=256)
        np.testing.assert_allclose(counts[1, 2] * photos[2][..., 1].size, expected)
        planes = photos[0].transpose(2, 0, 1) / np.float32(255)
        mean, spread = statistics._mean_and_spread(planes)
        np.testing.assert_allclose(mean, planes.mean((1, 2)), rtol=1e-5)
        np.testing.assert_allclose(spread, planes.std((1, 2), ddof=1), rtol=1e-5)

    def test_colours_agree_as_their_pixels_do(self, photos):
        colours = photos[0].transpose(2, 0, 1)[:, None] / np.float32(255)
        colours -= colours.mean((2, 3), keepdims=True)
        luma = np.tensordot(statistics._LUMA, colours, 1).astype(np.float32)
        planes = np.stack([luma, colours[2] - luma, colours[0] - luma])
        _, of_colours = statistics._agreement(planes)
        size = np.sqrt((colours**2).mean((1, 2, 3))) + 0.3 / 255
        expected = [
            (colours[i] * colours[j]).mean() / (size[i] * size[j])
            for i, j in ((0, 1), (1, 2), (0, 2))
        ]
        np.testing.assert_allclose(of_colours[:, 0], expected, rtol=1e-4)

    def test_width(self, photos):
        rows = statistics.describe(np.stack(photos))
        assert rows.shape == (3, 197)
        assert rows.dtype == np.float32
        assert np.isfinite(rows).all()

    def test_tiles_beside_it_do_not_matter(self, photos):
        tiles = cut_tiles(np.concatenate(photos))
        together = statistics.describe(tiles)
        alone = np.concatenate([statistics.describe(tile[None]) for tile in tiles])
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)

    def test_sides_of_any_length(self, photos):
        """The statistics of a picture without its last line are nearly the same."""
        whole = statistics.describe(photos[0][None, :96, :96])
        odd = statistics.describe(photos[0][None, :95, :95])
        apart = np.abs(whole - odd) / _files.load(SHIPPED)[1]["scale"]
        assert np.quantile(apart, 0.9) < 0.15

    def test_they_are_those_of_the_training(self, photos):
        """Weights know each statistic by its place and unit."""
        expected = np.load(DATA / "scorer-statistics.npy")
        found = statistics.describe(photos[0][None, :96, :96])[0]
        apart = np.abs(found - expected) / _files.load(SHIPPED)[1]["scale"]
        assert apart.max() < 0.01

    def test_neighbours_do_not_matter(self, scorer, photos):
        together = scorer.predict(photos)
        alone = [scorer.predict([photo])[0] for photo in photos]
        np.testing.assert_allclose(together, alone, rtol=1e-5)


class TestNetwork:
    def test_members_are_averaged(self):
        torch.manual_seed(0)
        scorer = network.ScorerNetwork(5, (4, 3), n_faults=2, n_members=2).eval()
        for bias in scorer.biases:
            torch.nn.init.normal_(bias)
        rows = torch.randn(6, 5)
        answers = []
        for member in range(2):
            x = rows
            for place in range(3):
                if place:
                    x = torch.nn.functional.gelu(x)
                x = x @ scorer.weights[place][member] + scorer.biases[place][member]
            answers.append(x)
        expected = sum(answers) / 2
        with torch.no_grad():
            jod, std, faults = scorer.answer(rows)
        torch.testing.assert_close(jod, 10 - expected[:, 0])
        torch.testing.assert_close(std, expected[:, 1].clamp(-4, 2).exp())
        torch.testing.assert_close(faults, torch.sigmoid(expected[:, 2:]))

    def test_what_is_far_outside_is_drawn_in(self):
        scorer = network.ScorerNetwork(1, (2, 2), n_faults=1, n_members=1)
        scorer.mean.fill_(3.0)
        scorer.scale.fill_(2.0)
        scaled = scorer.scaled(torch.tensor([[3.0], [5.0], [1e6]]))
        expected = [0, 2.5 * np.tanh(1 / 2.5), 2.5]
        assert scaled[:, 0].tolist() == pytest.approx(expected)


class TestPerceptrons:
    def test_they_answer_as_the_network_does(self, photos):
        _, weights = _files.load(SHIPPED)
        rows = statistics.describe(np.stack(photos))
        found = Perceptrons(weights, len(FAULTS))(rows)
        trained = network.build(weights, torch.device("cpu"))
        for part, expected in zip(found, trained(torch.from_numpy(rows)), strict=True):
            np.testing.assert_allclose(part, expected, atol=1e-5)

    def test_on_a_device(self, scorer, photos):
        """Devices other than "cpu" are torch's, here the processor by another name."""
        found = QualityScorer(device="cpu:0").assess(photos)
        np.testing.assert_allclose(found, scorer.assess(photos), atol=1e-5)

    def test_a_score_needs_no_torch(self, photos, tmp_path):
        """In a process of its own: here others have loaded it."""
        path = tmp_path / "a.png"
        Image.fromarray(photos[0]).save(path)
        code = f"""
import sys
from diffqa_features.cli import main
sys.exit(main(["score", {str(path)!r}]) or "torch" in sys.modules)
"""
        subprocess.run([sys.executable, "-c", code], check=True)


class TestShipped:
    def test_size(self):
        files = [path for path in SHIPPED.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 5 * 2**20
        assert "JOD" in (SHIPPED / "README.md").read_text(encoding="utf-8")

    def test_ranks_levels_of_what_it_knows(self, scorer, photos):
        families = ["gaussian_blur", "white_noise", "jpeg", "upscale"]
        images = make_distorted_images(photos, families=families, n_levels=4)
        scores = scorer.predict(images.data)
        for group in set(images.groups):
            for family in families:
                of = (images.groups == group) & (images.family == family)
                assert srcc_score(images.target[of], scores[of]) > 0.7

    def test_names_faults(self, scorer, photos):
        found = {}
        for family in ("gaussian_blur", "white_noise", "jpeg", "darken"):
            images = make_distorted_images(photos, families=family, n_levels=3)
            table = scorer.diagnose(images.data)
            assert list(table.columns) == [*FAULTS, *TIMING]
            assert ((table >= 0) & (table <= 1)).all(axis=None)
            found[family] = table[images.level >= 2].mean()
        assert found["white_noise"]["noise"] > 0.7
        assert found["jpeg"]["compression"] > 0.7
        assert found["gaussian_blur"]["blur"] > found["white_noise"]["blur"] + 0.3

    def test_maps_show_where(self, scorer, photos):
        photo = photos[0].copy()
        noise = np.random.default_rng(0).normal(0, 40, (192, 96, 3))
        photo[:, 96:] = np.clip(photo[:, 96:] + noise, 0, 255).astype(np.uint8)
        (maps,) = scorer.quality_maps([photo])
        assert maps.shape == (1, 8, 8)
        assert maps.dtype == np.float32
        assert maps[0, :, 6:].mean() > maps[0, :, :2].mean() + 1

    def test_uncertainty_is_positive(self, scorer, photos):
        assert (scorer.predict_std(photos) > 0).all()
        assert (scorer.predict(photos) <= 10).all()


class TestRows:
    def test_files_arrays_and_pictures_agree(self, scorer, photos, tmp_path):
        path = tmp_path / "a.png"
        Image.fromarray(photos[0]).save(path)
        rows = [photos[0], Image.fromarray(photos[0]), str(path), path]
        assert len(set(scorer.predict(rows))) == 1
        table = pd.DataFrame({"path": [str(path)]}, index=["x"])
        assert scorer.diagnose(table).index.tolist() == ["x"]

    def test_gray_and_odd_sizes(self, scorer, photos):
        gray = photos[0][..., 0]
        assert np.isfinite(scorer.predict([gray, photos[0][:33, :191]])).all()

    def test_flat_pictures_are_finite(self, scorer):
        flat = [np.full((64, 64, 3), value, np.uint8) for value in (0, 128, 255)]
        assert np.isfinite(scorer.predict(flat)).all()
        assert np.isfinite(scorer.predict_std(flat)).all()

    def test_refused(self, scorer, photos):
        with pytest.raises(ValueError, match=r"Row 1 .*31 x 192 pixels.*at least 32"):
            scorer.predict([photos[0], photos[0][:, :31]])
        with pytest.raises(FileNotFoundError, match="Row 0 "):
            scorer.predict(["nowhere.png"])


class TestFiles:
    def test_unknown_names(self, tmp_path):
        with pytest.raises(
            ValueError, match=r"'weights' .* must be 'tiny' or a folder"
        ):
            load_scorer("large")
        with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
            load_scorer(tmp_path)
        with pytest.raises(ValueError, match="'max_tiles' parameter of QualityScorer"):
            load_scorer(max_tiles=0)

    def test_a_folder(self, scorer, photos, tmp_path):
        shutil.copytree(SHIPPED, tmp_path / "copy")
        other = load_scorer(tmp_path / "copy")
        np.testing.assert_array_equal(other.predict(photos), scorer.predict(photos))

    def test_another_scorer_of_the_same_time_takes_its_place(self, photos, tmp_path):
        # As archives and rsync leave it: one folder, one size, one time of change.
        folder = tmp_path / "scorer"
        shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("video"))
        times = folder / "model.safetensors"
        stamp = times.stat().st_atime_ns, times.stat().st_mtime_ns
        before = load_scorer(folder).predict(photos[:1])
        config, weights = _files.load(folder)
        bias = max(name for name in weights if name.startswith("biases."))
        _files.save(folder, config, {**weights, bias: weights[bias] + 0.5})
        os.utime(times, ns=stamp)
        assert abs(load_scorer(folder).predict(photos[:1]) - before) > 0.01

    def test_other_models(self, photos, tmp_path):
        student = DistilledStudentRegressor(
            network="tiny", image_size=64, max_epochs=1, device="cpu"
        )
        student.fit(photos, [1.0, 2.0, 3.0]).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="holds a 'DistilledStudentRegressor'"):
            load_scorer(tmp_path)

    def test_weights_of_another_shape(self, tmp_path):
        config, weights = _files.load(SHIPPED)
        more = {"weights.3": weights["weights.2"]}
        for broken in ({"mean": weights["mean"][:7]}, {"biases.0": None}, more):
            changed = {k: v for k, v in {**weights, **broken}.items() if v is not None}
            _files.save(tmp_path, config, changed)
            with pytest.raises(ValueError, match="weights of another network"):
                load_scorer(tmp_path)

    def test_faults_that_are_no_names(self, tmp_path):
        config, weights = _files.load(SHIPPED)
        _files.save(tmp_path, {**config, "fitted": {"faults": 3}}, weights)
        with pytest.raises(ValueError, match="'faults'"):
            load_scorer(tmp_path)

    @pytest.mark.parametrize("twice", ["noise", "jod", "std", "freeze"])
    def test_names_of_faults_are_distinct(self, tmp_path, twice):
        config, weights = _files.load(SHIPPED)
        faults = [twice if name == "blur" else name for name in FAULTS]
        _files.save(tmp_path, {**config, "fitted": {"faults": faults}}, weights)
        with pytest.raises(ValueError, match=r"'faults' .* must be distinct"):
            load_scorer(tmp_path)

    def test_weights_that_give_no_numbers(self, photos, tmp_path):
        config, weights = _files.load(SHIPPED)
        scale = np.where(np.arange(len(weights["scale"])) == 5, 0, weights["scale"])
        _files.save(tmp_path, config, {**weights, "scale": scale.astype(np.float32)})
        with pytest.raises(ValueError, match=r"'scale' holds 0\.0 where spreads are"):
            load_scorer(tmp_path)
        huge = np.full_like(weights["biases.0"], 3e38)
        _files.save(tmp_path, config, {**weights, "biases.0": huge})
        with np.errstate(all="ignore"):
            for call in ("predict", "quality_maps"):
                with pytest.raises(ValueError, match="answers with NaN or infinity"):
                    getattr(load_scorer(tmp_path), call)(photos[:1])

    @pytest.mark.parametrize("text", [None, "null", "[" * 5000])
    def test_a_configuration_that_is_lost(self, scorer, photos, tmp_path, text):
        folder = shutil.copytree(SHIPPED, tmp_path / "scorer")
        (folder / "config.json").unlink()
        if text is not None:
            (folder / "config.json").write_text(text)
        found = load_scorer(folder).predict(photos[:1])  # from the copy in the weights
        np.testing.assert_array_equal(found, scorer.predict(photos[:1]))

    def test_config_is_plain(self):
        config = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))
        assert config["fitted"]["faults"] == list(FAULTS)


def test_devices_do_not_share_a_network(scorer, photos):
    """The device "meta" has no numbers."""
    expected = scorer.predict(photos)
    with pytest.raises(NotImplementedError, match=r"(?i)meta"):
        QualityScorer(device="meta").predict(photos)
    np.testing.assert_array_equal(scorer.predict(photos), expected)


class TestAmongOthers:
    def test_contract(self, scorer, photos):
        assert is_regressor(scorer)
        again = clone(scorer)
        np.testing.assert_array_equal(again.predict(photos), scorer.predict(photos))
        content = pickle.dumps(scorer)
        assert len(content) < 1000
        revived = pickle.loads(content)
        np.testing.assert_array_equal(revived.predict(photos), scorer.predict(photos))

    def test_in_searches_and_pipelines(self, photos):
        search = GridSearchCV(
            Pipeline([("scorer", QualityScorer())]), {"scorer__max_tiles": [1, None]},
            cv=[([0], [1, 2])],
        )  # fmt: skip
        search.fit(photos, [3.0, 2.0, 1.0])
        assert search.predict(photos).shape == (3,)

    def test_as_a_teacher(self, scorer, photos):
        student = DistilledStudentRegressor(
            scorer, network="tiny", image_size=64, max_epochs=1, device="cpu"
        )
        student.fit(photos)
        assert student.predict(photos).shape == (3,)
        assert student.quality_maps(photos).shape == (3, 1, 8, 8)
