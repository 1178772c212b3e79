"""The scorer: tiles, files, what it says about real pictures, as others use it."""

import json
import pickle
import shutil
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
from diffqa_features.learned.scorer import network
from diffqa_features.learned.scorer.tiles import cut_tiles, cut_windows
from diffqa_features.metrics import srcc_score

SHIPPED = Path(network.__file__).with_name("tiny")


@pytest.fixture(scope="module")
def photos():
    return load_sample_photos().data[:3]


@pytest.fixture(scope="module")
def scorer():
    return load_scorer()


class TestTiles:
    def test_all_of_a_picture_is_covered(self):
        height, width = 300, 517
        at = np.mgrid[:height, :width].transpose(1, 2, 0)
        pixels = np.concatenate([at, at[..., :1]], 2)
        tiles = cut_tiles(pixels)
        assert tiles.shape == (3 * 5, 128, 128, 3)
        seen = np.zeros((height, width), bool)
        seen[tiles[..., 0].ravel(), tiles[..., 1].ravel()] = True
        assert seen.all()

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


class TestFront:
    def test_shapes_of_light_and_detail(self):
        """Closed forms on pictures whose statistics are known."""
        generator = torch.Generator().manual_seed(0)
        noise = 0.5 + 0.05 * torch.randn(1, 1, 128, 128, generator=generator)
        gray = noise.expand(-1, 3, -1, -1)
        planes = network._opponent(gray)
        assert planes[:, 1:].abs().max() < 1e-6
        spread = network._strengths(planes[:, :1] - 0.5, tails=False)[0]
        assert spread.item() == pytest.approx(np.log(0.05), abs=0.02)
        shares = network._histogram(gray, 0, 1, 16).square()
        assert shares.sum().item() == pytest.approx(1, abs=1e-5)
        centre = (shares * torch.linspace(0, 1, 16)).sum()
        assert centre.item() == pytest.approx(0.5, abs=0.01)

    def test_local_mean_is_a_mean(self):
        plane = torch.rand(2, 1, 20, 30)
        expected = torch.nn.functional.avg_pool2d(
            torch.nn.functional.pad(plane, (3, 3, 3, 3), mode="replicate"), 7, stride=1
        )
        torch.testing.assert_close(network._local_mean(plane), expected)

    def test_a_grid_of_eight_is_seen(self, photos):
        photo = photos[0]
        coded = make_distorted_images([photo], families="jpeg", n_levels=2).data[1]

        def grid(image):
            pixels = torch.tensor(image).permute(2, 0, 1)[None] / 255
            return network._steps(network._opponent(pixels), 0)[1][0, 0].item()

        assert grid(coded) > grid(photo) + 0.3

    def test_neighbours_do_not_matter(self, scorer, photos):
        together = scorer.predict(photos)
        alone = [scorer.predict([photo])[0] for photo in photos]
        np.testing.assert_allclose(together, alone, rtol=1e-5)


class TestShipped:
    def test_size(self):
        assert sum(p.stat().st_size for p in SHIPPED.iterdir()) < 5 * 2**20
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
            assert list(table.columns) == list(FAULTS)
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
        with pytest.raises(ValueError, match=r"Row 0 .*clip of several frames"):
            scorer.predict([np.stack([photos[0], photos[0]])])
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

    def test_other_models(self, photos, tmp_path):
        student = DistilledStudentRegressor(
            network="tiny", image_size=64, max_epochs=1, device="cpu"
        )
        student.fit(photos, [1.0, 2.0, 3.0]).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="holds a 'DistilledStudentRegressor'"):
            load_scorer(tmp_path)

    def test_weights_of_another_shape(self, tmp_path):
        config, weights = _files.load(SHIPPED)
        for broken in ({"mean": weights["mean"][:7]}, {"bias": None}):
            changed = {k: v for k, v in {**weights, **broken}.items() if v is not None}
            _files.save(tmp_path, config, changed)
            with pytest.raises(ValueError, match="weights of another network"):
                load_scorer(tmp_path)

    def test_faults_that_are_no_names(self, tmp_path):
        config, weights = _files.load(SHIPPED)
        _files.save(tmp_path, {**config, "fitted": {"faults": 3}}, weights)
        with pytest.raises(ValueError, match="'faults'"):
            load_scorer(tmp_path)

    def test_config_is_plain(self):
        config = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))
        assert config["fitted"]["faults"] == list(FAULTS)


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
