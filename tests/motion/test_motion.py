"""`MotionFeatures`: clips to columns, the store, bad rows, and what it can tell."""

import threading
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from video_files import no_decoding

from diffqa_features import FeatureStore, MotionFeatures
from diffqa_features.datasets import load_sample_photos
from diffqa_features.motion._weights import find_weights, load_network

GOLDEN = Path(__file__).parents[1] / "data" / "tiny_motion.npz"
CPU = {"device": "cpu", "dtype": "float32"}


def tiny_network():
    return load_network(find_weights("tiny"), torch.device("cpu"), torch.float32)


@contextmanager
def counting_clips():
    """Clips that the tiny network really sees, and in how many passes."""
    seen = []
    network = tiny_network()
    handle = network.register_forward_pre_hook(
        lambda _, args: seen.append(len(args[0]))
    )
    try:
        yield seen
    finally:
        handle.remove()


def pan(picture, speed, count=32, size=96):
    """Frames of a window that moves by whole pixels over a picture."""
    room = len(picture) - size
    places = [abs((round(speed * t) + room) % (2 * room) - room) for t in range(count)]
    return np.stack([picture[p : p + size, p : p + size] for p in places])


@pytest.fixture(scope="module")
def clips():
    """Arrays of 1, 20, 32, 70 and 100 frames, of several sizes."""
    rng = np.random.default_rng(0)
    shapes = [(1, 40, 60), (20, 96, 96), (32, 50, 50), (70, 96, 96), (100, 24, 32)]
    return [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]


COUNTS = [1, 1, 1, 2, 3]  # clips of these arrays: 70 frames are 2.33 s, 100 are 3.33 s


@pytest.fixture(scope="module")
def matrix(clips):
    return MotionFeatures(pooling=("mean", "std"), **CPU).transform(clips)


class TestColumns:
    def test_counts_and_names(self):
        names = MotionFeatures(pooling=("std", "mean")).get_feature_names_out()
        assert len(names) == 2 * (64 + 32)
        assert names[0] == "slow__std__0000"
        assert names[64] == "fast__std__0000"
        assert names[-1] == "fast__mean__0031"

    def test_full_size_names_need_no_weights(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        names = MotionFeatures("slowfast_r50").get_feature_names_out()
        assert len(names) == 2048 + 256
        assert (names[2047], names[-1]) == ("slow__mean__2047", "fast__mean__0255")

    def test_they_are_what_the_network_makes_of_the_clips(self, clips, matrix):
        """Clips cut by hand from the array whose frames need no resizing."""
        frames = torch.from_numpy(clips[3]).permute(3, 0, 1, 2).float() / 255
        with torch.inference_mode():
            made = [
                torch.cat(tiny_network()(frames[None, :, start : start + 32]), 1)[0]
                for start in (0, 30)
            ]
        expected = np.stack([values.numpy() for values in made])
        mean, std = np.split(matrix[3], 2)
        np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(std, expected.std(0), rtol=1e-3, atol=1e-5)

    def test_sequences_have_a_row_per_clip(self, clips, matrix):
        sequences = MotionFeatures(**CPU).sequences(clips)
        assert [len(slow) for slow, _ in sequences] == COUNTS
        for (slow, fast), row in zip(sequences, matrix, strict=True):
            assert (slow.shape[1], fast.shape[1]) == (64, 32)
            mean = np.concatenate([slow.mean(0), fast.mean(0)])
            np.testing.assert_allclose(mean, row[:96], rtol=1e-4, atol=1e-5)

    def test_one_clip_has_no_spread(self, matrix):
        assert (matrix[:3, 96:] == 0).all()
        assert (matrix[3:, 96:] > 0).any(axis=1).all()

    def test_an_image_is_a_clip_in_which_nothing_moves(self, clips, matrix):
        still = clips[0][0]
        row = MotionFeatures(**CPU).transform([still])[0]
        np.testing.assert_allclose(row, matrix[0, :96], atol=1e-6)
        frozen = MotionFeatures(**CPU).transform([np.repeat(clips[0], 50, axis=0)])[0]
        np.testing.assert_allclose(row, frozen, atol=1e-5)


class TestIndependence:
    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_of_the_batch(self, clips, matrix, batch_size):
        features = MotionFeatures(pooling=("mean", "std"), batch_size=batch_size, **CPU)
        scale = np.abs(matrix).max()
        again = features.transform(clips)
        np.testing.assert_allclose(again, matrix, atol=1e-5 * scale)

    def test_of_the_order_and_the_neighbours(self, clips, matrix):
        features = MotionFeatures(pooling=("mean", "std"), **CPU)
        scale = np.abs(matrix).max()
        turned = features.transform(clips[::-1])
        np.testing.assert_allclose(turned[::-1], matrix, atol=1e-5 * scale)

    def test_of_the_number_of_processes(self, clips, matrix):
        features = MotionFeatures(pooling=("mean", "std"), n_jobs=2, **CPU)
        rows = [*clips[:3], *[clips[2]] * 30]  # more than one task
        scale = np.abs(matrix).max()
        shared = features.transform(rows)
        np.testing.assert_allclose(shared[:3], matrix[:3], atol=1e-5 * scale)
        np.testing.assert_allclose(shared[-1], matrix[2], atol=1e-5 * scale)

    def test_the_same_call_gives_the_same_bits(self, clips, matrix):
        features = MotionFeatures(pooling=("mean", "std"), **CPU)
        np.testing.assert_array_equal(features.transform(clips), matrix)


class TestRepetition:
    """Without a store."""

    def test_rows_of_equal_content_are_computed_once(self, clips, matrix):
        features = MotionFeatures(pooling=("mean", "std"), **CPU)
        rows = [clips[3], clips[0], clips[3].copy(), clips[3]]
        with counting_clips() as seen:
            given = features.transform(rows)
            sequences = features.set_params(batch_size=1).sequences(rows)
        assert sum(seen) == 2 * (2 + 1)
        np.testing.assert_array_equal(given[2:], given[[0, 0]])
        np.testing.assert_allclose(given[:2], matrix[[3, 0]], atol=1e-4)
        np.testing.assert_array_equal(sequences[2][0], sequences[0][0])
        sequences[0][0][:] = 0  # each row has features of its own
        assert sequences[2][0].any()

    def test_clips_of_a_batch_are_computed_once(self, clips):
        features = MotionFeatures(batch_size=8, **CPU)
        changed = clips[3].copy()
        changed[50, 0, 0, 0] ^= 128  # in the second clip only
        still = np.repeat(clips[0], 100, axis=0)
        with counting_clips() as seen:
            given = features.sequences([clips[3], changed, still])
        assert seen == [2 + 1 + 1]
        for slow, _ in (given[1], given[2]):
            assert len(slow) > 1
        np.testing.assert_array_equal(given[1][0][0], given[0][0][0])
        assert (given[1][0][1] != given[0][0][1]).any()
        assert (given[2][0] == given[2][0][0]).all()

    def test_files_are_decoded_once(self, video, expected, tmp_path, monkeypatch):
        decord = pytest.importorskip("decord")
        decoded, real = [], decord.VideoReader

        def watch(file, *args, **kwargs):
            decoded.append(file)
            return real(file, *args, **kwargs)

        monkeypatch.setattr(decord, "VideoReader", watch)
        renamed = tmp_path / "other.mp4"
        renamed.write_bytes(video.read_bytes())
        features = MotionFeatures(reader="decord", **CPU)
        for slow, fast in features.sequences([video, renamed]):
            given = np.hstack([slow, fast])
            scale = np.abs(expected).max()
            np.testing.assert_allclose(given, expected, atol=0.02 * scale)
        assert len(decoded) == 1

    def test_a_bad_row_is_told_each_time(self, clips):
        features = MotionFeatures(on_error="nan", **CPU)
        bad = np.zeros((0, 8, 8, 3), np.uint8)
        with pytest.warns(RuntimeWarning, match="2 of 4 rows"):
            given = features.transform([bad, clips[0], bad, clips[0]])
        assert [index for index, _ in features.failed_] == [0, 2]
        assert np.isnan(given[[0, 2]]).all()
        np.testing.assert_array_equal(given[3], given[1])


class TestStore:
    def test_every_clip_is_computed_once(self, clips, matrix, tmp_path):
        features = MotionFeatures(memory=tmp_path, pooling=("mean", "std"), **CPU)
        with counting_clips() as seen:
            first = features.transform(clips)
            assert sum(seen) == sum(COUNTS)
            second = features.transform(clips)
            other = features.set_params(pooling="mean").transform(clips[::-1])
            features.sequences(clips)
            assert sum(seen) == sum(COUNTS)
        np.testing.assert_allclose(first, matrix, atol=1e-5 * np.abs(matrix).max())
        np.testing.assert_array_equal(second, first)
        np.testing.assert_array_equal(other[::-1], first[:, :96])

    def test_clips_are_known_by_their_frames(self, clips, tmp_path):
        features = MotionFeatures(memory=tmp_path, **CPU)
        features.transform([clips[3]])
        with counting_clips() as seen:
            features.transform([clips[3][:32]])  # its first clip, alone
            assert seen == []
            changed = clips[3].copy()
            changed[50, 0, 0, 0] ^= 128
            features.transform([changed])  # the first clip is the same
            assert sum(seen) == 1

    def test_what_is_stored_lasts_over_a_bad_row(self, clips, tmp_path):
        features = MotionFeatures(memory=tmp_path, batch_size=1, **CPU)
        with pytest.raises(OSError, match="Row 2"):
            features.transform([clips[1], clips[2], "missing.mp4"])
        with counting_clips() as seen:
            features.transform([clips[1], clips[2]])
        assert seen == []

    def test_a_store_that_cannot_be_written_is_given_up(
        self, clips, matrix, tmp_path, monkeypatch
    ):
        def refuse(self, items):
            raise OSError("no space left")

        monkeypatch.setattr(FeatureStore, "put", refuse)
        features = MotionFeatures(memory=tmp_path, **CPU)
        with pytest.warns(RuntimeWarning, match="no space left"):
            given = features.transform(clips)
        np.testing.assert_allclose(given, matrix[:, :96], atol=1e-4)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A file of 75 frames at 25 per second: three clips."""
    path = tmp_path_factory.mktemp("videos") / "pan.mp4"
    photo = load_sample_photos(image_size=192).data[0]
    frames = pan(photo, 0.7, count=75, size=128)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20"})
        stream.pix_fmt, stream.width, stream.height = "yuv420p", 128, 128
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def expected(video):
    """Decoded, cut and resized here: clips start at frames 0, 25 and 43."""
    with av.open(str(video)) as container:
        frames = [f.to_image() for f in container.decode(video=0)]
    small = [np.asarray(f.resize((96, 96), Image.Resampling.BICUBIC)) for f in frames]
    pixels = torch.from_numpy(np.stack(small)).permute(3, 0, 1, 2).float() / 255
    with torch.inference_mode():
        made = [
            torch.cat(tiny_network()(pixels[None, :, start : start + 32]), 1)[0]
            for start in (0, 25, 43)
        ]
    return np.stack([values.numpy() for values in made])


class TestVideoFiles:
    @pytest.mark.parametrize("reader", ["auto", "decord", "imageio"])
    def test_clips_of_a_file(self, video, expected, reader):
        ((slow, fast),) = MotionFeatures(reader=reader, **CPU).sequences([video])
        given = np.hstack([slow, fast])
        scale = np.abs(expected).max()
        # Readers turn YUV into RGB a little differently.
        np.testing.assert_allclose(given, expected, atol=0.02 * scale)

    def test_what_is_stored_is_not_decoded(self, video, tmp_path):
        pytest.importorskip("decord")  # PyAV lists the frames of a file
        features = MotionFeatures(memory=tmp_path / "store", reader="decord", **CPU)
        first = features.transform([video])
        renamed = tmp_path / "other.mp4"
        renamed.write_bytes(video.read_bytes())
        with no_decoding("decord.VideoReader"):
            np.testing.assert_array_equal(features.transform([renamed]), first)
            with pytest.raises(ValueError, match="a video was opened"):
                features.set_params(memory=None).transform([video])

    def test_files_arrays_and_images_mix(self, video, clips, matrix):
        features = MotionFeatures(**CPU)
        rows = [clips[2], video, clips[0][0]]
        given = features.transform(rows)
        np.testing.assert_allclose(given[0], matrix[2, :96], atol=1e-4)
        np.testing.assert_allclose(given[1], features.transform([video])[0], atol=1e-4)
        np.testing.assert_allclose(given[2], matrix[0, :96], atol=1e-4)

    def test_a_cut_file_is_a_bad_row(self, video, tmp_path):
        path = tmp_path / "cut.mp4"
        path.write_bytes(video.read_bytes()[:3000])
        features = MotionFeatures(on_error="nan", **CPU)
        with pytest.warns(RuntimeWarning, match=r"1 of 2 rows.*cut\.mp4"):
            given = features.transform([path, video])
        assert np.isnan(given[0]).all()
        assert np.isfinite(given[1]).all()


class TestBadRows:
    def test_raise_names_the_row(self, clips, tmp_path):
        path = tmp_path / "broken.png"
        path.write_bytes(b"\x89PNG no picture")
        with pytest.raises(ValueError, match=r"Row 1.*broken\.png"):
            MotionFeatures(**CPU).transform([clips[0], path])

    def test_nan_keeps_the_place(self, clips, matrix):
        features = MotionFeatures(on_error="nan", pooling=("mean", "std"), **CPU)
        rows = [clips[0], "missing.mp4", clips[3], None]
        with pytest.warns(RuntimeWarning, match="2 of 4 rows"):
            given = features.transform(rows)
        assert [index for index, _ in features.failed_] == [1, 3]
        assert np.isnan(given[[1, 3]]).all()
        np.testing.assert_allclose(given[[0, 2]], matrix[[0, 3]], atol=1e-4)
        with pytest.warns(RuntimeWarning, match="2 of 4 rows"):
            sequences = features.sequences(rows)
        assert np.isnan(sequences[1][0]).all()
        assert sequences[1][1].shape == (1, 32)

    def test_no_thread_is_left_behind(self, clips):
        before = threading.active_count()
        with pytest.raises(OSError, match="Row 1"):
            MotionFeatures(**CPU).transform([clips[0], "missing.mp4", *clips])
        assert threading.active_count() <= before

    def test_memory_that_runs_out_halves_the_batch(self, clips, matrix, caplog):
        limit = 2

        def refuse(module, args):
            if len(args[0]) > limit:
                raise torch.OutOfMemoryError("out of memory")

        handle = tiny_network().register_forward_pre_hook(refuse)
        try:
            features = MotionFeatures(batch_size=8, **CPU)
            given = features.transform(clips)
        finally:
            handle.remove()
        assert "batches of" in caplog.text
        np.testing.assert_allclose(given, matrix[:, :96], atol=1e-4)


@pytest.fixture(scope="module")
def photos():
    return load_sample_photos(image_size=256).data[:8]


class TestWhatItTells:
    """On real photographs, which the network has never seen."""

    def columns(self, rows):
        return MotionFeatures(**CPU).transform(rows)

    def accuracy(self, rows, labels, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
        told = cross_val_predict(
            model, self.columns(rows), labels, groups=groups, cv=GroupKFold(4)
        )
        return (told == labels).mean()

    def test_frozen_from_moving(self, photos):
        rows, labels, groups = [], [], []
        for group, photo in enumerate(photos):
            for speed in (0.5, 1.5):
                moving = pan(photo, speed)
                frozen = moving.copy()
                frozen[8:24] = frozen[8]
                rows += [moving, frozen]
                labels += [0, 1]
                groups += [group, group]
        assert self.accuracy(rows, np.array(labels), groups) >= 0.9

    def test_flicker_from_steady_light(self, photos):
        rng = np.random.default_rng(0)
        rows, labels, groups = [], [], []
        for group, photo in enumerate(photos):
            steady = pan(photo, 1.0)
            gains = np.exp(0.08 * rng.normal(size=32))[:, None, None, None]
            flicker = np.clip(steady * gains, 0, 255).astype(np.uint8)
            rows += [steady, flicker]
            labels += [0, 1]
            groups += [group, group]
        assert self.accuracy(rows, np.array(labels), groups) >= 0.9


def golden_input():
    """A moving picture by formula, 40 frames: no generator or codec has a say in it."""
    t, y, x = np.mgrid[:40, :96, :96]
    red = 127 + 100 * np.sin((x + t) / 7) * np.cos(y / 11)
    green = ((x - t) * 3 + y) % 256
    blue = np.where(((x + t) // 16 + y // 16) % 2, 200, 40)
    return np.stack([red, green, blue], -1).astype(np.uint8)


def test_golden_vector_of_tiny():
    """Remade with ``python tests/motion/test_motion.py`` when the weights change."""
    expected = np.load(GOLDEN, allow_pickle=False)["row"]
    row = MotionFeatures(**CPU).transform([golden_input()])[0]
    np.testing.assert_allclose(row, expected, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    np.savez(GOLDEN, row=MotionFeatures(**CPU).transform([golden_input()])[0])
