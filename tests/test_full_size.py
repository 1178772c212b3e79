"""Stable Diffusion's full shapes, random weights, through the public estimator."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from full_size import write_full_size

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
        dtype="float32",
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


@pytest.mark.full_size
@pytest.mark.parametrize("version", ["sd15", "sd21-base"])
def test_full_shapes_run_inside_8_gib(version, tmp_path):
    write_full_size(tmp_path / version, version)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / version)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    # GenzIQA's count: 16 blocks of 12,480 channels in all. Nine stages leave the UNet.
    stages = 320 + 640 + 1280 + 1280 + 1280 + 1280 + 1280 + 640 + 320
    width = 16 * 2 + 12_480 + 2 * 12_480 + stages + 2 * 4 + 1
    assert result["shape"] == [1, width]
    assert result["names"] == width
    assert result["finite"]
    assert result["peak_gib"] < 8
