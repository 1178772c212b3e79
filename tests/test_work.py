"""Ten typical calls and the exact work of each: a check of speed without a clock.

More work than in the table is a regression. Less is an improvement, and the table
follows it.
"""

import warnings
from functools import partial

import numpy as np
import pytest
from counting import CountingStore, counting, counting_calls, counting_decodes
from PIL import Image
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import SVR
from video_files import encode, pan

from diffqa_features import (
    DiffusionQAFeatures,
    DistilledStudentRegressor,
    GenzIQARegressor,
    MotionFeatures,
    PromptAlignmentMaps,
)
from diffqa_features.distributed import extract
from diffqa_features.learned.student.network import StudentNetwork
from diffqa_features.motion._slowfast import SlowFast

SIZE = 64
CPU = {"image_size": SIZE, "device": "cpu"}
Y = np.arange(6.0)


class Kit:
    """Six pictures, a video of 2.6 s, an empty store, and makers of estimators."""

    def __init__(self, backbone, folder):
        self.folder = folder
        self.store = CountingStore(folder / "store")
        drawn = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)
        self.files = [str(folder / f"{number}.png") for number in range(len(drawn))]
        for path, pixels in zip(self.files, drawn, strict=True):
            Image.fromarray(pixels).save(path)
        same = {"dtype": "float32", "batch_size": 8, **CPU}
        self.features = partial(DiffusionQAFeatures, backbone, **same)
        self.maps = partial(PromptAlignmentMaps, backbone, **same)
        self.genziqa = partial(GenzIQARegressor, backbone, **CPU)

    def search(self, name, values):
        model = make_pipeline(self.features(kinds="alignment", memory=self.store))
        model.steps.append(("svr", SVR()))
        grid = {f"diffusionqafeatures__{name}": values}
        return lambda: GridSearchCV(model, grid, cv=3).fit(self.files, Y)


def plain(kit):
    yield lambda: kit.features().transform(kit.files)


def with_memory(kit):
    for _ in range(2):
        yield lambda: kit.features(memory=kit.store).transform(kit.files)


def search_over_timesteps(kit):
    yield kit.search("timesteps", [20, 50, 200])


def search_over_blocks(kit):
    yield kit.search("blocks", ["down*", "mid*", "up*"])


def two_kinds(kit):
    yield lambda: kit.features(kinds=["hidden", "error"]).transform(kit.files)


def maps_beside_features(kit):
    yield lambda: kit.features(memory=kit.store).transform(kit.files)
    yield lambda: kit.maps(memory=kit.store).transform(kit.files)


def video_with_motion(kit):
    clip = encode(kit.folder / "clip.mp4", pan(64), options={"g": "10"})
    both = make_union(
        kit.features(memory=kit.store), MotionFeatures(device="cpu", memory=kit.store)
    )
    for _ in range(2):
        yield lambda: both.fit_transform([clip])


def learned(kit):
    model = kit.genziqa(
        n_context=2, lora_rank=2, n_timesteps=2, max_epochs=2, batch_size=4
    ).set_params(validation_fraction=None)
    yield lambda: model.fit(kit.files, Y)
    yield lambda: model.predict(kit.files)


def student(kit):
    teacher = make_pipeline(kit.features(), SVR()).fit(kit.files, Y)
    model = DistilledStudentRegressor(teacher, network="tiny", max_epochs=1, **CPU)
    yield lambda: model.fit(kit.files, Y)
    yield lambda: model.predict(kit.files)


def extracted(kit):
    for _ in range(2):
        yield lambda: extract(kit.files, kit.features(), kit.folder / "table")


# Rows of networks, passes of the UNet, pictures decoded, videos opened, keys asked of
# the store, values found there, values put. Two prompts unless said otherwise.
PASSES = {"unet": 12, "passes": 2, "vae": 6, "texts": 2, "pictures": 6}
WORK = {
    plain: [PASSES],
    # Six values per picture: whether it is stretched or which tiles are shown of it,
    # its latent, and a record per prompt and kind.
    with_memory: [
        {**PASSES, "asked": 36, "put": 36},
        {"asked": 30, "found": 30},
    ],
    # Three timesteps of every picture, whatever the folds are; the prompts once per
    # call of `transform` with something to compute.
    search_over_timesteps: [
        {
            "unet": 36, "passes": 6, "vae": 6, "texts": 12, "pictures": 6,
            "asked": 198, "found": 150, "put": 48,
        },
    ],
    # All blocks are recorded by the first.
    search_over_blocks: [
        {
            "unet": 12, "passes": 2, "vae": 6, "texts": 4, "pictures": 6,
            "asked": 186, "found": 162, "put": 24,
        },
    ],
    two_kinds: [PASSES],
    # The maps find the latents, and no file is decoded for them.
    maps_beside_features: [
        {**PASSES, "asked": 36, "put": 36},
        {"unet": 12, "passes": 2, "texts": 2, "asked": 18, "found": 6, "put": 12},
    ],
    # Three frames and three clips; then neither is decoded.
    video_with_motion: [
        {
            "unet": 6, "passes": 1, "vae": 3, "texts": 2, "clips": 3, "videos": 4,
            "asked": 20, "put": 23,
        },
        {"asked": 20, "found": 20},
    ],
    # Six pictures with two prompts: four draws for the first line, once in each of two
    # epochs, at two timesteps for the last line. The prompts once per pass of training
    # and of the draws.
    learned: [
        {"unet": 96, "passes": 14, "vae": 6, "texts": 26, "pictures": 6},
        {"unet": 24, "passes": 2, "vae": 6, "texts": 2, "pictures": 6},
    ],
    # The teacher once per picture, and never after.
    student: [
        {**PASSES, "student": 6, "pictures": 12},
        {"student": 6, "pictures": 6},
    ],
    extracted: [PASSES, {}],
}  # fmt: skip


@pytest.mark.parametrize("call", WORK, ids=lambda call: call.__name__)
def test_work(call, sd1_folder, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only 6 rows train", UserWarning)
        steps = call(Kit(str(sd1_folder), tmp_path))
        done = [measure(step, sd1_folder) for step in steps]
    assert done == WORK[call]


def measure(step, folder):
    """What a call does, without zeros."""
    CountingStore.work.clear()
    with (
        counting(folder) as count,
        counting_decodes() as decoded,
        counting_calls(SlowFast) as clips,
        counting_calls(StudentNetwork) as seen,
    ):
        step()
    work = {
        "unet": count.unet_rows,
        "passes": count.unet_passes,
        "vae": count.vae_rows,
        "texts": sum(count.text_rows),
        "clips": sum(map(len, clips)),
        "student": sum(map(len, seen)),
        "pictures": decoded["pixels"] / SIZE**2,
        "videos": decoded["videos"],
        **CountingStore.work,
    }
    return {name: number for name, number in work.items() if number}
