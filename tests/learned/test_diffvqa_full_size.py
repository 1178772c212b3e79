"""DiffVQA on Stable Diffusion's full shapes with random weights."""

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
    from diffqa_features import DiffusionController, DiffVQARegressor

    clips = np.random.default_rng(0).integers(0, 256, (2, 1, 300, 400, 3), np.uint8)
    settings = {"image_size": 256, "device": "cpu", "dtype": "float32"}
    controller = DiffusionController(sys.argv[1], max_epochs=0, **settings)
    model = DiffVQARegressor(
        sys.argv[1], controller=controller, max_epochs=1, memory=sys.argv[2], **settings
    )
    told = {}

    def note(name, start):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told[name] = time.process_time() - start, peak / 2**20

    start = time.process_time()
    model.fit(list(clips), [1.0, 2.0])
    note("fit", start)
    start = time.process_time()
    model.set_params(warm_start=True).fit(list(clips), [1.0, 2.0])
    note("step", start)
    predicted = model.predict(list(clips))
    network = sum(v.size for k, v in model.weights_.items() if k[:8] == "network.")
    control = sum(v.size for k, v in model.weights_.items() if k[:8] == "control.")
    told.update(predicted=predicted.tolist(), network=network, control=control)
    print(json.dumps(told))
"""


@pytest.mark.full_size
def test_both_views_and_a_training_step(tmp_path):
    """One forward pass of two views of two frames with the control, then a step."""
    write_full_size(tmp_path / "sd21-base", "sd21-base")
    folders = str(tmp_path / "sd21-base"), str(tmp_path / "store")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *folders],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)  # noqa: T201 -- the figures, with pytest -s
    assert all(abs(value) < 100 for value in told["predicted"])
    # The paper sheet's count of a control that copies encoder and middle.
    assert 350e6 < told["control"] < 375e6
    assert 3.5e6 < told["network"] < 3.7e6
    assert told["fit"][1] < 12  # GiB; 8.3 seen
