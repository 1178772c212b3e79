"""The scorer on videos: bursts, how frames change, what it says of encoded files."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import video_files
from PIL import Image
from sklearn.datasets import load_sample_images

from diffqa_features import load_scorer
from diffqa_features._media.rows import as_rows, open_media
from diffqa_features.datasets._camera_path import Motion, Scene
from diffqa_features.learned import _files
from diffqa_features.learned.scorer import motion, videos
from diffqa_features.learned.scorer.tiles import cut_tiles

SHIPPED = Path(videos.__file__).with_name("tiny")
TIMING = list(videos.TIMING)


@functools.cache
def read_photographs():
    return load_sample_images().images


def film(motion, times, photograph=0, size=128):
    """Frames of a camera over a photograph at these times, in frames."""
    photo = read_photographs()[photograph]
    scene = Scene(photo, motion, size, (200.0, 220.0), scale=1.5)
    return np.stack([np.asarray(scene.frame(t)) for t in times])


PAN = Motion(1.2, 0.3, sway=0.2)
FAULTS = {
    "freeze": np.r_[:14, [14] * 14, 28:48],
    "low_rate": np.arange(48) // 5 * 5,
    "judder": np.sort(
        np.clip(np.arange(48) + np.random.default_rng(0).normal(0, 2.5, 48), 0, 47)
    ).round(),
}


@pytest.fixture(scope="module")
def scorer():
    return load_scorer()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Paths of encoded clips by name."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    still = film(Motion(0, 0), [0])[0]
    fine = film(PAN, range(48))
    light = np.exp(0.12 * rng.normal(size=(48, 1, 1, 1)))
    made = {
        "fine": fine,
        "flicker": np.clip(fine * light, 0, 255).astype(np.uint8),
        # A tripod: nothing but the sensor's noise moves.
        "still": np.clip(still + rng.normal(0, 1, (48, 128, 128, 3)), 0, 255),
        "slides": np.repeat(
            [film(Motion(0, 0), [0], photograph)[0] for photograph in (0, 1, 0)], 16, 0
        ),
        "cut": np.concatenate([fine[:24], film(PAN, range(24), 1)]),
        "noisy": np.clip(fine + rng.normal(0, 25, fine.shape), 0, 255),
        **{name: fine[times.astype(int)] for name, times in FAULTS.items()},
    }
    paths = {}
    for name, frames in made.items():
        paths[name] = folder / f"{name}.mp4"
        frames = np.asarray(frames).astype(np.uint8)
        video_files.encode(paths[name], frames, options={"crf": "12"}, rate=30)
    return paths


class TestStatistics:
    def describe(self, frames, times=None):
        luma = np.stack([motion.to_luma(cut_tiles(frame)) for frame in frames])
        times = np.arange(len(frames)) / 30 if times is None else np.array(times)
        return motion.describe_burst(luma, times)

    def test_repeats_are_counted(self):
        found = self.describe(film(PAN, [0, 1, 2, 2, 2, 5, 6, 7, 7, 9, 10, 11]))
        assert found["repeats_share"] == found["exact_share"] == pytest.approx(3 / 11)
        assert found["repeats_longest"] == pytest.approx(2 / 11)
        assert found["repeats_runs"] == pytest.approx(2 / 11)
        assert found["repeats_single"] == pytest.approx(1 / 11)
        assert found["jump"] > 0.2  # three steps at once

    def test_nothing_moves_nothing_repeats(self):
        rng = np.random.default_rng(0)
        still = film(Motion(0, 0), [0])[0]
        noise = np.clip(still + rng.normal(0, 1, (16, 128, 128, 3)), 0, 255)
        for frames in (noise.astype(np.uint8), np.repeat(still[None], 16, 0)):
            assert self.describe(frames)["repeats_share"] == 0

    def test_speed_is_the_cameras(self):
        even = self.describe(film(Motion(1.5, 0.4), range(16)))
        assert np.exp(even["speed_50"]) == pytest.approx(1.5, rel=0.3)
        uneven = self.describe(film(Motion(1.5, 0.4), FAULTS["judder"][:16]))
        assert uneven["speed_uneven"] > even["speed_uneven"] + 0.3

    def test_gaps_between_timestamps(self):
        frames = film(PAN, range(10))
        even = self.describe(frames)
        gap = self.describe(frames, np.r_[:5, 9:14] / 30)
        assert even["longest_gap"] == pytest.approx(0, abs=1e-6)
        assert gap["longest_gap"] == pytest.approx(np.log(5))
        assert gap["log_rate"] == pytest.approx(np.log(30))

    def test_flat_and_short_clips_are_finite(self):
        for value in (0, 255):
            found = self.describe(np.full((videos.FEWEST, 32, 40, 3), value, np.uint8))
            assert np.isfinite(list(found.values())).all()


class TestBursts:
    def read(self, frames, max_bursts=None):
        (row,) = as_rows([frames])
        media = open_media(row)
        times = videos.frame_times(media)
        return list(videos.read_bursts(media, times, max_bursts, None, len))

    def test_tiles_are_those_of_the_training(self):
        """Of pictures of this size, tiles are smaller."""
        (burst,) = self.read(np.zeros((8, 129, 192, 3), np.uint8))
        assert burst.luma.shape == (8, 2 * 2, 128, 128)
        assert burst.looked_at[0].shape == (2 * 2, 128, 128, 3)

    @pytest.mark.parametrize(
        ("count", "max_bursts", "middles"),
        [
            (20, None, [10]),
            (33, None, [16]),
            (64, None, [16, 48]),
            (96, 2, [24, 72]),
        ],
    )
    def test_where_they_lie(self, count, max_bursts, middles):
        frames = np.zeros((count, 32, 32, 3), np.uint8)
        frames[:] = np.arange(count)[:, None, None, None]
        bursts = self.read(frames, max_bursts)
        assert [burst.middle for burst in bursts] == middles
        seen = np.concatenate([burst.luma[:, 0, 0, 0] for burst in bursts])
        assert len(set(seen.tolist())) == len(seen) == len(bursts) * min(count, 32)
        for burst in bursts:
            assert burst.luma[len(burst.luma) // 2, 0, 0, 0] == burst.middle
            np.testing.assert_allclose(np.diff(burst.times), 1 / 30)
            assert [tiles[0, 0, 0, 0] for tiles in burst.looked_at] == [
                burst.luma[at, 0, 0, 0] for at in videos.looked_at(len(burst.luma))
            ]


class TestShipped:
    def test_faults_of_timing_cost_and_are_named(self, scorer, clips):
        names = ["fine", "freeze", "low_rate", "judder", "flicker"]
        table = scorer.assess([clips[name] for name in names]).set_axis(names)
        assert (table["jod"]["fine"] > table["jod"][names[1:]] + 0.5).all()
        assert (table.loc["fine", TIMING] < 0.5).all()
        for name in names[1:]:
            assert table.loc[name, TIMING].astype(float).idxmax() == name
        assert table.loc["freeze", "freeze"] > 0.5
        assert table.loc["low_rate", "low_rate"] > 0.5

    def test_content_is_no_fault(self, scorer, clips):
        """Tripods, slides and cuts."""
        names = ["still", "slides", "cut", "fine"]
        table = scorer.assess([clips[name] for name in names]).set_axis(names)
        assert (table[TIMING] < 0.5).all(axis=None)
        assert (table["jod"][["still", "slides"]] > 8.5).all()
        # No worse than the same without a cut.
        assert table["jod"]["cut"] > table["jod"]["fine"] - 0.2

    def test_noise_is_seen(self, scorer, clips):
        fine, noisy = scorer.assess([clips["fine"], clips["noisy"]]).to_dict("records")
        assert noisy["jod"] < fine["jod"] - 0.3
        assert noisy["noise"] > 0.5 > fine["noise"]  # from which it is named

    def test_bursts_make_the_score(self, scorer, clips):
        frames = np.concatenate([film(PAN, range(40)), film(PAN, FAULTS["low_rate"])])
        (found,) = scorer.frame_scores([frames])
        assert found.frame.tolist() == [22, 66]
        assert found.time is None
        assert found.score[0] > found.score[1] + 1
        score = scorer.predict([frames])[0]
        assert score == pytest.approx(found.score @ found.weight)
        (found,) = scorer.frame_scores([clips["fine"]])
        np.testing.assert_allclose(found.time, found.frame / 30)


class TestRows:
    def test_files_and_arrays_agree(self, scorer, clips):
        (row,) = as_rows([clips["fine"]])
        frames = np.stack(list(open_media(row).read(range(48))))
        mixed = scorer.predict([frames[0], clips["fine"], frames, clips["freeze"]])
        assert mixed[1] == pytest.approx(mixed[2], abs=1e-6)
        assert mixed[3] == scorer.predict([clips["freeze"]])[0]
        table = scorer.diagnose([frames[0], frames])
        assert table.columns.tolist()[-5:] == TIMING
        assert (table.loc[0, TIMING] == 0).all()
        assert (table.loc[1, TIMING] > 0).all()

    def test_one_frame_is_a_picture(self, scorer, tmp_path):
        path = video_files.encode(tmp_path / "one.mp4", film(PAN, [0]))
        (row,) = as_rows([path])
        (pixels,) = open_media(row).read([0])
        assert scorer.predict([path])[0] == scorer.predict([pixels])[0]
        np.testing.assert_array_equal(
            scorer.quality_maps([path]), scorer.quality_maps([pixels])
        )

    def test_pages_are_no_video(self, scorer, tmp_path):
        pages = [Image.fromarray(frame) for frame in film(PAN, range(9))]
        pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
        with pytest.raises(ValueError, match=r"a\.tiff.*9 pages without times"):
            scorer.predict([tmp_path / "a.tiff"])

    def test_refused(self, scorer, tmp_path):
        short = video_files.encode(tmp_path / "short.mp4", film(PAN, range(7)))
        with pytest.raises(ValueError, match=r"Row 0 .*clip of 7 frames.* at least 8"):
            scorer.predict([short])
        small = np.zeros((16, 30, 40, 3), np.uint8)
        with pytest.raises(ValueError, match=r"Row 0 .*40 x 30 pixels.*at least 32"):
            scorer.predict([small])
        with pytest.raises(ValueError, match=r"Row 0 .*clip of several frames"):
            scorer.quality_maps([film(PAN, range(8))])


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path):
        return shutil.copytree(SHIPPED, tmp_path / "copy")

    def test_without_a_part_for_videos(self, folder):
        shutil.rmtree(folder / "video")
        scorer = load_scorer(folder)
        frames = film(PAN, range(8))
        assert "freeze" not in scorer.diagnose([frames[0]])
        with pytest.raises(ValueError, match=r"Row 0 .*has no part for videos"):
            scorer.predict([frames])

    def test_it_was_fitted_to_this_picture_part(self):
        """If this fails: tools/train_video_scorer.py SHARDS --out FOLDER."""
        config = json.loads((SHIPPED / "video" / "config.json").read_text("utf-8"))
        picture = json.loads((SHIPPED / "config.json").read_text("utf-8"))
        trained = config["fitted"]["training"]
        assert trained["picture_part"] == picture["weights_sha256"]

    def test_with_another_picture_part(self, folder):
        config, weights = _files.load(folder)
        _files.save(folder, config, {**weights, "mean": weights["mean"] + 1})
        with pytest.raises(ValueError, match="on the scores of another part for pict"):
            load_scorer(folder)

    def test_damaged(self, folder):
        config, weights = _files.load(folder / "video")
        broken = {**weights, "bias": weights["bias"][:3]}
        _files.save(folder / "video", config, broken)
        with pytest.raises(ValueError, match="weights of another machine: 'bias'"):
            load_scorer(folder).predict([film(PAN, range(8))])
        fewer = {**weights, "answers": weights["answers"][:3]}
        _files.save(folder / "video", config, fewer)
        with pytest.raises(ValueError, match=r"'landmarks' are \d+, 'answers' 3"):
            load_scorer(folder)
        unknown = ["speed", *config["fitted"]["columns"][1:]]
        fitted = {**config["fitted"], "columns": unknown}
        _files.save(folder / "video", {**config, "fitted": fitted}, weights)
        with pytest.raises(ValueError, match="trained on the column 'speed'"):
            load_scorer(folder).predict([film(PAN, range(8))])
        _files.save(folder / "video", {**config, "estimator": "Other"}, weights)
        with pytest.raises(ValueError, match="holds a 'Other', not a VideoMachine"):
            load_scorer(folder)
