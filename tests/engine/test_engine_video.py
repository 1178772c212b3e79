"""Videos among the rows of X: passes counted, neighbours, bad rows, the store."""

import numpy as np
import pytest
from counting import counting
from joblib import parallel_config
from PIL import Image
from sklearn.base import clone
from test_engine import SIZE, assert_close, pictures
from video_files import encode, no_decoding, pan

from diffqa_features import DiffusionQAFeatures, PromptAlignmentMaps


@pytest.fixture
def features(small_folder):
    return DiffusionQAFeatures(
        str(small_folder),
        image_size=SIZE,
        device="cpu",
        dtype="float32",
        kinds="alignment",
        blocks="down0.0",
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Four seconds."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return encode(path, pan(100, photograph=1), options={"g": "10"})


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second and a half."""
    path = tmp_path_factory.mktemp("clips") / "other.mkv"
    return encode(path, pan(36), "libvpx-vp9", options={"deadline": "realtime"})


def frames_of(path, indices):
    import av

    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return np.stack([frames[at] for at in indices])


@pytest.mark.parametrize("reader", ["auto", "decord", "imageio"])
def test_a_video_is_its_chosen_frames(features, clip, reader):
    """Frame n is shown from n/25 s on."""
    features.set_params(reader=reader, frame_pooling=("mean", "std"))
    expected = features.transform([frames_of(clip, [12, 37, 62, 87])])
    assert_close(features.transform([clip]), expected)
    features.set_params(max_frames=2)
    assert_close(
        features.transform([clip]), features.transform([frames_of(clip, [37, 87])])
    )
    features.set_params(frames="bursts", burst_length=2, max_frames=4)
    expected = features.transform([frames_of(clip, [36, 37, 86, 87])])
    assert_close(features.transform([clip]), expected)


def test_everything_mixes_and_neighbours_do_not_matter(features, clip, other, tmp_path):
    pages = [Image.fromarray(frame) for frame in pan(8)]
    pages[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pages[1:], duration=400
    )
    pages[0].save(tmp_path / "a.png")
    rows = [clip, pan(5), tmp_path / "a.png", other, tmp_path / "a.gif"]
    rows += [pages[1], str(clip), *pictures(2)]
    alone = np.concatenate([features.transform([row]) for row in rows])
    assert_close(features.transform(rows), alone)
    order = np.random.default_rng(0).permutation(len(rows))
    features.set_params(batch_size=1)
    assert_close(features.transform([rows[i] for i in order]), alone[order])


def test_several_threads(features, clip, other, tmp_path):
    rows = [clip, other] * 18
    rows[33] = tmp_path / "gone.mp4"
    features.set_params(on_error="nan", frame_rate=0.5)
    with pytest.warns(RuntimeWarning, match="1 of 36 rows"):
        expected = features.transform(rows)
    features.set_params(n_jobs=2)
    with parallel_config("threading"), pytest.warns(RuntimeWarning):
        result = features.transform(rows)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    assert_close(np.delete(result, 33, 0), np.delete(expected, 33, 0))


def test_maps_of_a_video(small_folder, clip):
    maps = PromptAlignmentMaps(str(small_folder), map_size=(2, 2), image_size=SIZE)
    expected = maps.transform([frames_of(clip, [12, 37, 62, 87])])
    assert_close(maps.transform([clip]), expected)


# -- the store -------------------------------------------------------------------------


def test_a_higher_rate_computes_only_the_new_frames(
    features, small_folder, clip, tmp_path
):
    features.set_params(memory=tmp_path)
    for rate, new_frames in [(1, 4), (2, 4), (1, 0), (4, 8), (0.5, 0)]:
        with counting(small_folder) as count:
            stored = features.set_params(frame_rate=rate).transform([clip])
        assert count.vae_rows == new_frames
        assert count.unet_rows == 2 * new_frames  # two prompts
        plain = clone(features).set_params(memory=None)
        assert_close(stored, plain.transform([clip]))


def test_a_burst_computes_only_the_frames_beside_those_that_are_known(
    features, small_folder, clip, tmp_path
):
    """Frames are stored one by one, whichever way they were sampled."""
    features.set_params(memory=tmp_path).transform([clip])
    features.set_params(frames="bursts", burst_length=3)
    with counting(small_folder) as count:
        features.transform([clip])
    assert count.vae_rows == 2 * 4
    with counting(small_folder) as count, no_decoding():
        features.transform([clip])
        features.set_params(frames="spread").transform([clip])
    assert count.vae_rows == 0


def test_a_new_timestep_encodes_and_decodes_nothing(
    features, small_folder, clip, tmp_path
):
    features.set_params(memory=tmp_path).transform([clip])
    features.set_params(timesteps=(50, 60))
    with counting(small_folder) as count, no_decoding():
        stored = features.transform([clip])
    assert (count.vae_rows, count.unet_rows) == (0, 8)
    assert_close(stored, features.set_params(memory=None).transform([clip]))


def test_what_is_stored_is_not_decoded(features, small_folder, clip, tmp_path):
    features.set_params(memory=tmp_path / "store")
    first = features.transform([clip])
    renamed = tmp_path / "renamed.avi"
    renamed.write_bytes(clip.read_bytes())
    with no_decoding(), counting(small_folder) as count:
        np.testing.assert_array_equal(features.transform([clip]), first)
        # Another reader gives the same frames; another name does not matter.
        features.set_params(reader="imageio")
        np.testing.assert_array_equal(features.transform([renamed]), first)
    assert (count.vae_rows, count.unet_rows, count.text_rows) == (0, 0, [])


def test_a_changed_video_is_computed(features, small_folder, clip, tmp_path):
    features.set_params(memory=tmp_path / "store").transform([clip])
    path = encode(tmp_path / "clip.mp4", pan(100, photograph=1), options={"crf": "40"})
    with counting(small_folder) as count:
        features.transform([path])
    assert count.vae_rows == 4


def test_frames_that_repeat_are_computed_once(features, small_folder):
    frozen = np.concatenate([pan(3), np.repeat(pan(3)[2:], 5, axis=0)])
    with counting(small_folder) as count:
        matrix = features.transform([frozen])
    assert count.vae_rows == 3
    single = features.transform(list(pan(3)))
    assert_close(matrix, (single.sum(0, keepdims=True) + 5 * single[2:]) / 8)
