"""The control module on Stable Diffusion's full shapes with random weights."""

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
    from diffqa_features import DiffusionController

    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    model = DiffusionController(
        sys.argv[1], image_size=256, max_epochs=1, batch_size=1, device="cpu"
    )
    told = {}

    def note(name, start):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told[name] = time.process_time() - start, peak / 2**20

    start = time.process_time()
    model.fit([image])
    note("fit", start)
    start = time.process_time()
    columns = model.transform([image])
    note("transform", start)
    told.update(
        loss=model.history_[0]["loss"],
        size=sum(v.size for v in model.weights_.values()),
        moved=all(v.any() for k, v in model.weights_.items() if "net_down" in k),
        finite=bool(np.isfinite(columns).all()),
        shape=columns.shape,
        names=len(model.get_feature_names_out()),
    )
    print(json.dumps(told))
"""


@pytest.mark.full_size
@pytest.mark.parametrize(
    ("version", "size"), [("sd15", 360_204_160), ("sd21-base", 363_153_280)]
)
def test_a_training_step_and_a_forward_pass(version, size, tmp_path):
    write_full_size(tmp_path / version, version)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / version)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)  # noqa: T201 -- the figures, with pytest -s
    assert told["size"] == size
    assert told["loss"] < 100
    assert told["moved"]
    assert told["finite"]
    # down0, mid, up0, up3 and the latent, mean and std of each.
    assert told["shape"] == [1, 2 * (320 + 1280 + 1280 + 320 + 4)]
    assert told["names"] == told["shape"][1]
    assert told["fit"][1] < 16
