"""Order, batches, store, bad rows, processes: a row's numbers are its own."""

import ctypes
import logging
import os
import re
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from child_processes import run_in_process
from counting import counting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, FeatureStore
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._engine.latents import encode_rows
from diffqa_features._engine.passes import Passes, rows_per_pass
from diffqa_features._engine.request import FrameSpec
from diffqa_features._media.rows import as_rows

SIZE = 64
# Of glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX.
_AT_ONCE = {-1: 65536, -3: 65536, -8: 1}


def pictures(count, side=SIZE, seed=0):
    generator = np.random.default_rng(seed)
    return list(generator.integers(0, 256, (count, side, side, 3), np.uint8))


@pytest.fixture
def features(small_folder):
    return DiffusionQAFeatures(
        str(small_folder), image_size=SIZE, device="cpu", dtype="float32"
    )


@pytest.fixture(scope="module")
def six(small_folder):
    """Pictures, one of another shape, and their columns."""
    images = pictures(6)
    images[2] = np.full((80, 40, 3), 99, np.uint8)
    features = DiffusionQAFeatures(
        str(small_folder), image_size=SIZE, device="cpu", dtype="float32"
    )
    return images, features.transform(images)


def assert_close(result, expected):
    """Equal to 1e-5 of each column's size; logarithms may cross zero."""
    size = np.maximum(np.abs(expected).max(axis=0), 0.02)
    assert (np.abs(result - expected) / size).max() < 1e-5


# -- invariance ------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_batches_do_not_change_a_row(features, batch_size):
    images = pictures(5)
    expected = np.concatenate([features.transform([image]) for image in images])
    features.set_params(batch_size=batch_size)
    assert_close(features.transform(images), expected)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(order=st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_order_subset_and_repetition_do_not_change_a_row(features, six, order):
    images, everything = six
    chosen = features.transform([images[i] for i in order])
    assert_close(chosen, everything[order])


def test_pictures_of_many_shapes_keep_their_order(features):
    generator = np.random.default_rng(0)
    images = [
        generator.integers(0, 256, (h, w, 3), np.uint8)
        for h, w in [(64, 64), (64, 32), (32, 64), (64, 64), (40, 64), (64, 33)] * 2
    ]
    features.set_params(view="fit", batch_size=2)
    expected = np.concatenate([features.transform([image]) for image in images])
    assert_close(features.transform(images), expected)


def test_frames_are_pooled_within_their_row(features):
    clip = np.stack(pictures(5))
    features.set_params(frame_pooling=("mean", "max"))
    row = features.transform([clip])[0]
    features.set_params(frame_pooling=("mean",))
    single = features.transform(list(clip))
    expected = np.concatenate([single.mean(0), single.max(0)])
    np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)


def test_max_frames_takes_the_middles_of_equal_segments(features):
    clip = np.stack(pictures(6))
    features.set_params(max_frames=2)
    capped = features.transform([clip])
    features.set_params(max_frames=None)
    assert_close(capped, features.transform([clip[[1, 4]]]))


# -- only what is asked for, once ------------------------------------------------------


def test_one_encode_per_row_and_one_pass_per_timestep_and_prompt(
    features, small_folder
):
    features.set_params(timesteps=(5, 60), prompts=("a", "b", "c"))
    with counting(small_folder) as count:
        features.transform(pictures(4))
    assert count.vae_rows == 4
    assert count.unet_rows == 4 * 2 * 3


def test_rows_that_repeat_are_computed_once(features, small_folder, tmp_path):
    image = pictures(1)[0]
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(image).save(tmp_path / "b.png")
    rows = [image, Image.fromarray(image), *[tmp_path / n for n in ("a.png", "b.png")]]
    with counting(small_folder) as count:
        matrix = features.transform(rows * 3)
    # Pixels and files have keys of their own; each is computed once.
    assert count.vae_rows == 2
    assert_close(matrix, np.repeat(matrix[:1], 12, axis=0))


def test_equal_prompts_are_passed_once(features, small_folder):
    with counting(small_folder) as count:
        matrix = features.set_params(prompts=("a", "a")).transform(pictures(2))
    assert count.unet_rows == 2
    assert (matrix[:, -1] == 0).all()


def test_attention_kinds_leave_the_pass_early(features, small_folder):
    features.set_params(kinds="alignment", blocks="down*")
    with counting(small_folder) as count:
        features.transform(pictures(2))
    assert count.unet_rows == 4
    assert count.last_stage == 0
    features.set_params(kinds=("alignment", "error"))
    with counting(small_folder) as count:
        features.transform(pictures(2))
    assert count.last_stage == count.unet_passes


# -- the store -------------------------------------------------------------------------


def test_grid_search_costs_one_pass_per_row_timestep_and_prompt(
    features, small_folder, tmp_path
):
    images, target = pictures(4), np.arange(4.0)
    features.set_params(
        memory=str(tmp_path), kinds=("alignment", "query", "hidden", "error")
    )
    grid = [
        {
            "f__timesteps": [(5,), (60,), (5, 200)],
            "f__blocks": ["down*", "all", ["mid.0", "up1.*"]],
            "f__pooling": [("mean",), ("std", "max")],
        },
        {"f__timesteps": [(60,)], "svr__C": [0.1, 10.0]},
    ]
    search = GridSearchCV(Pipeline([("f", features), ("svr", SVR())]), grid, cv=2)
    with counting(small_folder) as count:
        search.fit(images, target)
    assert count.vae_rows == 4
    assert count.unet_rows == 4 * 3 * 2  # rows x timesteps x prompts
    with counting(small_folder) as count:
        search.predict(images)
    assert count.unet_rows == count.vae_rows == 0


def test_stored_and_computed_numbers_are_equal(features, tmp_path):
    images = pictures(3)
    features.set_params(kinds=("alignment", "query", "attended", "hidden", "error"))
    plain = features.transform(images)
    features.set_params(memory=tmp_path)
    first = features.transform(images)
    second = features.transform(images)
    np.testing.assert_array_equal(first, second)
    assert_close(first, plain)


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({"blocks": "mid*"}, 0),
        ({"batch_size": 1}, 0),
        ({"timesteps": (50, 60)}, 4),
        ({"prompts": ("Good photo.", "Awful photo.")}, 2),
        ({"random_state": 1}, 4),
        ({"view": "crop"}, 4),
        ({"image_size": 128}, 4),
        ({"kinds": ("alignment", "query")}, 4),
    ],
)
def test_a_changed_setting_computes_what_it_changes(
    features, small_folder, tmp_path, change, rows
):
    images = pictures(2, side=70)
    features.set_params(memory=tmp_path).transform(images)
    features.set_params(**change)
    with counting(small_folder) as count:
        stored = features.transform(images)
    assert count.unet_rows == rows
    assert_close(stored, features.set_params(memory=None).transform(images))


def test_a_changed_pixel_is_computed_and_a_renamed_file_is_not(
    features, small_folder, tmp_path
):
    image = pictures(1)[0]
    Image.fromarray(image).save(tmp_path / "a.png")
    features.set_params(memory=tmp_path / "store")
    first = features.transform([tmp_path / "a.png"])
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    with counting(small_folder) as count:
        again = features.transform([str(tmp_path / "b.png")])
    assert count.unet_rows == 0
    np.testing.assert_array_equal(first, again)
    image[0, 0, 0] ^= 255
    Image.fromarray(image).save(tmp_path / "b.png")
    with counting(small_folder) as count:
        assert (features.transform([tmp_path / "b.png"]) != first).any()
    assert count.unet_rows == 2


def test_latents_are_shared_with_what_is_trained_on_them(
    features, small_folder, tmp_path
):
    """One key for the latent of a frame, whoever asks for it first."""
    images = pictures(3)
    store = FeatureStore(tmp_path)
    features.set_params(memory=store).transform(images[:2])
    info = describe_backbone(str(small_folder))
    spec = FrameSpec(info.identity, "stretch", SIZE, info.multiple)
    passes = Passes(str(small_folder), "cpu", "float32", seed=0)
    with counting(small_folder) as count:
        encoded = encode_rows(as_rows(images), spec, passes, store=store)
        assert (count.vae_rows, count.unet_rows) == (1, 0)
        features.transform(images)
        assert (count.vae_rows, count.unet_rows) == (1, 2)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
    expected = load_backbone(str(small_folder), "cpu", "float32").encode_images(pixels)
    for row, latent in zip(encoded, expected, strict=True):
        np.testing.assert_allclose(row.latents[0], latent, rtol=1e-4, atol=1e-5)


def test_latents_are_those_of_the_row_alone(small_folder):
    """Whatever shares its pass, also where sizes differ and a picture comes twice."""
    clip = np.stack(pictures(3, seed=1))
    images = [*pictures(2), clip, *(x[:, :32] for x in pictures(2, seed=2))]
    images += [images[0], *pictures(25, seed=3)]
    info = describe_backbone(str(small_folder))
    spec = FrameSpec(info.identity, "fit", SIZE, info.multiple)
    passes = Passes(str(small_folder), "cpu", "float32", seed=0)
    with counting(small_folder) as count:
        together = encode_rows(as_rows(images), spec, passes)
    assert count.vae_rows == 2 + 3 + 2 + 25
    assert [row.index for row in together] == list(range(len(images)))
    for row in together[:8] + together[-3:]:
        (alone,) = encode_rows(as_rows([images[row.index]]), spec, passes)
        assert row.keys == alone.keys
        np.testing.assert_allclose(row.latents, alone.latents, rtol=1e-4, atol=1e-5)


def test_another_backbone_does_not_share_entries(
    features, small_folder, sd2_folder, tmp_path
):
    images = pictures(1)
    features.set_params(memory=tmp_path).transform(images)
    with counting(sd2_folder) as count:
        features.set_params(backbone=str(sd2_folder)).transform(images)
    assert count.unet_rows == 2


def test_a_store_that_cannot_be_written_costs_nothing_but_the_store(features, tmp_path):
    class Full(FeatureStore):
        """A store whose disk is full from the start."""

        def put(self, items):
            raise OSError(28, "No space left on device")

    images = pictures(3)
    expected = features.transform(images)
    features.set_params(memory=Full(tmp_path))
    with pytest.warns(RuntimeWarning, match="goes on without it"):
        assert_close(features.transform(images), expected)


def test_a_store_that_is_a_file_is_an_error_of_the_call(features, tmp_path):
    (tmp_path / "taken").write_text("not a folder")
    features.set_params(memory=tmp_path / "taken", on_error="nan")
    with pytest.raises(OSError, match="taken"):
        features.transform(pictures(2))


# -- prompts from columns --------------------------------------------------------------


def test_prompts_are_filled_per_row(features):
    images = pictures(2)
    table = pd.DataFrame({"path": images, "scene": ["a cat", "a dog"]})
    features.set_params(prompts=("{scene}", "Bad photo."))
    filled = features.transform(table)
    for index, scene in enumerate(table["scene"]):
        features.set_params(prompts=(scene, "Bad photo."))
        assert_close(filled[[index]], features.transform([images[index]]))


def test_a_missing_prompt_column_is_named_before_any_work(features):
    table = pd.DataFrame({"path": pictures(1), "scene": ["a cat"]})
    features.set_params(prompts=("{scen}",), on_error="nan")
    with pytest.raises(ValueError, match=r"'scen'.*'scene'"):
        features.transform(table)


def test_an_empty_prompt_cell_is_a_bad_row(features):
    table = pd.DataFrame({"path": pictures(2), "scene": ["a cat", None]})
    features.set_params(prompts=("{scene}",))
    with pytest.raises(ValueError, match=r"Row 1 .*'scene'"):
        features.transform(table)


def test_the_text_of_a_number_is_that_of_its_row(features):
    """Though a blank cell makes numbers with a point of all others."""
    features.set_params(prompts=("From {year}.",))
    path, table = pictures(1), pd.DataFrame({"path": pictures(2), "year": [1983, None]})
    features.set_params(on_error="nan")
    with pytest.warns(RuntimeWarning, match="1 of 2 rows"):
        filled = features.transform(table)
    features.set_params(prompts=("From 1983.",))
    assert_close(filled[[0]], features.transform(path))


# -- bad rows --------------------------------------------------------------------------


def test_bad_rows_raise_with_row_and_file(features, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    with pytest.raises(ValueError, match=r"Row 2 .*broken\.jpg"):
        features.transform([*pictures(2), tmp_path / "broken.jpg"])


def test_bad_rows_become_nan_and_are_listed(features, tmp_path):
    images = pictures(3)
    expected = features.transform(images)
    rows = [images[0], tmp_path / "gone.png", *images[1:], np.full((64, 64, 3), np.nan)]
    features.set_params(on_error="nan", batch_size=2)
    with pytest.warns(RuntimeWarning, match="2 of 5 rows"):
        matrix = features.transform(rows)
    assert np.isnan(matrix[[1, 4]]).all()
    assert_close(matrix[[0, 2, 3]], expected)
    assert [index for index, _ in features.failed_] == [1, 4]
    assert "gone.png" in features.failed_[0][1]
    features.transform(images)
    assert features.failed_ == []


def test_nothing_but_bad_rows_is_all_nan(features, tmp_path):
    features.set_params(on_error="nan")
    with pytest.warns(RuntimeWarning):
        assert np.isnan(features.transform([tmp_path / "no.png"])).all()


# -- processes, memory, precision ------------------------------------------------------


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_processes_and_threads_give_the_same_rows(features, tmp_path, backend):
    images = pictures(40)
    images[35] = tmp_path / "gone.png"
    features.set_params(on_error="nan", kinds="alignment", blocks="down0.0")
    with pytest.warns(RuntimeWarning):
        expected = features.transform(images)
    features.set_params(n_jobs=2)
    with joblib.parallel_config(backend), pytest.warns(RuntimeWarning):
        result = features.transform(images)
    assert [index for index, _ in features.failed_] == [35], features.failed_
    good = np.arange(40) != 35
    assert_close(result[good], expected[good])
    assert np.isnan(result[35]).all()


def _load_in_worker(backbone, name):
    return os.getpid(), backbone.info.identity, load_backbone(name, "cpu") is backbone


def test_a_joblib_worker_loads_for_itself(deep_folder):
    backbone = load_backbone(deep_folder, "cpu")
    # By value, since the worker cannot import this test module.
    task = joblib.delayed(joblib.wrap_non_picklable_objects(_load_in_worker))
    parallel = joblib.Parallel(n_jobs=2, backend="loky")
    ((pid, identity, is_shared),) = parallel([task(backbone, str(deep_folder))])
    assert pid != os.getpid()
    assert identity == backbone.info.identity
    assert is_shared


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_several_processes_on_one_gpu_are_refused(features):
    features.set_params(n_jobs=2, device="cuda")
    with pytest.raises(ValueError, match="n_jobs asks for 2 processes"):
        features.transform(pictures(40))


def test_rows_that_repeat_are_computed_once_by_all_workers(small_folder, tmp_path):
    images = pictures(2)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    # More rows than a task holds, and the same files in every task's worth of them.
    rows = [tmp_path / f"{number % 2}.png" for number in range(70)]
    rows[40] = tmp_path / "missing.png"
    features = DiffusionQAFeatures(
        str(small_folder), image_size=SIZE, device="cpu", n_jobs=2, on_error="nan"
    )
    expected = features.set_params(n_jobs=1).transform(images)
    features.set_params(n_jobs=2)
    with counting(small_folder) as count, joblib.parallel_config("threading"):
        with pytest.warns(RuntimeWarning, match=r"missing\.png"):
            matrix = features.transform(rows)
    assert count.unet_rows == 2 * len(features.prompts)
    assert [index for index, _ in features.failed_] == [40]
    assert np.isnan(matrix[40]).all()
    kept = np.arange(70) != 40
    np.testing.assert_allclose(
        matrix[kept], expected[np.arange(70) % 2][kept], rtol=1e-4, atol=1e-5
    )


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_a_batch_that_does_not_fit_is_halved(small_folder, tmp_path):
    """The real allocator fails in a process of limited address space."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("a C library whose memory cannot be given back at once")
    log = tmp_path / "log"
    code = run_in_process(_transform_in_little_space, str(small_folder), log)
    assert code == 0, log.read_text()
    assert "Out of memory: going on with batches of" in log.read_text()


def _transform_in_little_space(folder, log):
    import resource  # not on Windows

    sys.stderr = log.open("w")
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    # What is freed goes back at once: a heap full of free places would fill the
    # address space, and oneDNN maps its kernels outside the heap.
    os.environ["DIFFQA_KEEP_MEMORY"] = "0"
    allocator = ctypes.CDLL(None)
    for option, value in _AT_ONCE.items():
        assert allocator.mallopt(option, value) == 1
    features = DiffusionQAFeatures(
        folder,
        prompts=["a", "b", "c", "d"],
        image_size=512,
        batch_size=2,
        device="cpu",
    )
    images = pictures(6)
    small = features.transform(images)
    # All that a batch of two has taken, and some: 24 would take some 130 MiB more.
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"^VmPeak:\s*(\d+) kB", status, re.M)[1])
    limit = peak * 1024 + 50 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    large = features.set_params(batch_size=24).transform(images)
    assert np.abs(large - small).max() < 1e-3, np.abs(large - small).max()


def test_what_overflows_in_half_precision_is_taken_in_float32(small_folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(small_folder, tmp_path / "loud")
    (path,) = (tmp_path / "loud" / "unet").glob("*.safetensors")
    weights = load_file(path)
    weights["conv_out.weight"] *= 1e6
    save_file(weights, path, metadata={"format": "pt"})
    features = DiffusionQAFeatures(
        str(tmp_path / "loud"), image_size=SIZE, device="cpu", dtype="float32"
    )
    images = pictures(2)
    expected = features.transform(images)
    half = features.set_params(dtype="float16").transform(images)
    assert np.isfinite(half).all()
    assert_close(half, expected)


def test_rows_beside_one_that_overflows_keep_their_numbers(small_folder):
    features = DiffusionQAFeatures(
        str(small_folder), kinds="error", image_size=SIZE, device="cpu", dtype="float32"
    )
    images = pictures(2)
    exact = features.transform(images)
    half = features.set_params(dtype="float16").transform(images)

    def overflow(module, args, output):
        if output.dtype == torch.float16:
            output[0] = float("inf")

    unet = load_backbone(str(small_folder), "cpu", "float16").unet
    handle = unet.conv_out.register_forward_hook(overflow)
    try:
        matrix = features.transform(images)
    finally:
        handle.remove()
    # Logarithms, which cross zero: 1e-5 of an error is 1e-5 in its logarithm.
    near = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(matrix[1], half[1], **near)
    names = features.get_feature_names_out()
    first = [name.startswith("t50__error__prompt0__") for name in names]
    np.testing.assert_allclose(matrix[0][first], exact[0][first], **near)
    assert np.abs(half - exact).max() > 1e-5


def test_progress_goes_to_stderr(features, capsys):
    features.set_params(verbose=1).transform(pictures(3))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3/3" in captured.err


def test_small_pictures_share_a_pass_of_a_small_model():
    backbone = load_backbone("tiny", "cpu", "float32")
    assert rows_per_pass(backbone, (32, 48, 48)) == rows_per_pass(backbone)
    assert rows_per_pass(backbone, (32, 96, 96)) == rows_per_pass(backbone)
    assert rows_per_pass(backbone, (32, 24, 24)) == 16
    assert rows_per_pass(backbone, (32, 12, 12)) == 32
