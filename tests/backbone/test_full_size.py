"""Stable Diffusion's full shapes, random weights, through the public estimator."""

import json
import logging
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from full_size import write_full_size

logger = logging.getLogger(__name__)

SCRIPT = """
    import json, resource, sys
    import numpy as np
    from diffqa_features import DiffusionQAFeatures

    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    features = DiffusionQAFeatures(
        sys.argv[1],
        image_size=256,
        kinds=("alignment", "query", "attended", "hidden", "error"),
        device="cpu",
        dtype=sys.argv[2],
    )
    matrix = features.fit_transform([image])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = features.get_feature_names_out()
    print(
        json.dumps(
            {
                "shape": matrix.shape,
                "names": len(names),
                "finite": bool(np.isfinite(matrix).all()),
                "peak_gib": peak / 2**20,
            }
        )
    )
"""

TRAINING = """
    import json, os, resource, sys, time
    import numpy as np
    from diffqa_features import GenzIQARegressor
    from diffqa_features.learned import _training

    def clocks():
        times = os.times()
        return np.array([time.perf_counter(), times.user + times.system])

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def update(run, rows, original=_training._Run._update):
        before = peak()
        start = clocks()
        original(run, rows)
        took.append(clocks() - start)
        peaks.append((before, peak()))

    took, peaks = [], []
    _training._Run._update = update
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    model = GenzIQARegressor(
        sys.argv[1],
        image_size=256,
        timestep_range=(40, 41),
        n_timesteps=1,
        max_epochs=1,
        memory=sys.argv[1] + "-latents",
        device="cpu",
    )
    model.fit(list(images), [1.0, 2.0])
    start = clocks()
    predicted = model.predict(list(images))
    prediction = clocks() - start
    weights = model.weights_
    print(
        json.dumps(
            {
                "loss": [record["loss"] for record in model.history_],
                "trained": sum(value.size for value in weights.values()),
                "moved": all(v.any() for k, v in weights.items() if k.endswith("_up")),
                "predicted": predicted.tolist(),
                "peak_gib_before_and_after_step": peaks,
                "step_wall_and_cpu_s": np.round(took, 1).tolist(),
                "prediction_wall_and_cpu_s": np.round(prediction, 1).tolist(),
            }
        )
    )
"""


def run(script, version, folder, dtype="float32"):
    write_full_size(folder / version, version)
    path = str(folder / version)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), path, dtype],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.full_size
@pytest.mark.parametrize("version", ["sd15", "sd21-base"])
def test_full_shapes_run_inside_8_gib(version, tmp_path):
    result = run(SCRIPT, version, tmp_path)
    # GenzIQA's count: 16 blocks of 12,480 channels in all. Nine stages leave the UNet.
    stages = 320 + 640 + 1280 + 1280 + 1280 + 1280 + 1280 + 640 + 320
    width = 16 * 2 + 12_480 + 2 * 12_480 + stages + 2 * 4 + 1
    assert result["shape"] == [1, width]
    assert result["names"] == width
    assert result["finite"]
    assert result["peak_gib"] < 8


@pytest.mark.full_size
def test_sdxl_runs_inside_16_gib_in_bfloat16(tmp_path):
    result = run(SCRIPT, "sdxl", tmp_path, "bfloat16")
    # 70 layers: 4 + 20 down, 10 in the middle, 30 + 6 up; heads are 64 wide.
    layers = 24 + 10 + 36
    wide = 10 + 20 + 30
    channels = wide * 1280 + 10 * 640
    stages = 320 + 640 + 1280 + 1280 + 1280 + 640 + 320
    width = layers * 2 + channels + 2 * channels + stages + 2 * 4 + 1
    assert result["shape"] == [1, width]
    assert result["names"] == width
    assert result["finite"]
    assert result["peak_gib"] < 16


@pytest.mark.full_size
@pytest.mark.parametrize(
    ("version", "trained"),
    [("sd15", 397_824 + 12_288), ("sd21-base", 430_592 + 16_384)],
)
def test_full_shapes_train_inside_10_gib(version, trained, tmp_path):
    """One step on two pictures under two prompts, one pass of four rows."""
    result = run(TRAINING, version, tmp_path)
    logger.info("%s: %s", version, result)  # shown by --log-cli-level=INFO
    assert len(result["loss"]) == 1
    assert np.isfinite(result["loss"] + result["predicted"]).all()
    assert result["trained"] == trained
    assert result["moved"]
    ((_, peak),) = result["peak_gib_before_and_after_step"]
    assert peak < 10
