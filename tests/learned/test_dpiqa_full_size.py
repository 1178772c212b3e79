"""DP-IQA on Stable Diffusion's full shapes with random weights."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from full_size import write_full_size

SCRIPT = """
    import json, resource, sys, time
    import numpy as np
    from diffqa_features import DPIQARegressor

    images = np.random.default_rng(0).integers(0, 256, (2, 300, 400, 3), np.uint8)
    model = DPIQARegressor(
        sys.argv[1],
        scenes=["photo"],
        image_size=256,
        train_unet=False,
        max_epochs=0,
        device="cpu",
        dtype="float32",
    )
    start = time.process_time()
    model.fit(list(images), [1.0, 2.0])
    fit = time.process_time() - start
    maps, scores = model.quality_maps(list(images), return_scores=True)
    told = {
        "maps": maps.shape,
        "scores": scores.tolist(),
        "width": model.transform(list(images[:1])).shape[1],
        "trained": sum(v.size for k, v in model.weights_.items() if k != "tokens"),
        "cpu_s": [fit, time.process_time() - start - fit],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(json.dumps(told))
"""


@pytest.mark.full_size
def test_maps_of_full_shapes_inside_8_gib(tmp_path):
    write_full_size(tmp_path / "sd15", "sd15")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "sd15")],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)  # noqa: T201 -- the figures, with pytest -s
    assert told["maps"] == [2, 8, 32, 32]
    assert told["width"] == 8 + 512
    assert all(0 < abs(score) < 100 for score in told["scores"])
    # The decoder's first hidden layer has a quarter of its 64 x 64 cells.
    smaller = (8 * 64 * 64 - 8 * 32 * 32) * 512
    assert told["trained"] == 121_485_929 - smaller
    assert told["peak_gib"] < 8
