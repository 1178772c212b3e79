"""DIFFQA_COMPILE=1: compiled passes give the values of others, or are not used."""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ROOT
from hooks import hooks_on
from random_models import update_json

from diffqa_features import DiffusionQAFeatures
from diffqa_features._backbone.backbone import Backbone, load_backbone
from diffqa_features._backbone.capture import Tap, run_unet
from diffqa_features._backbone.compiled import _Observed
from diffqa_features._backbone.info import describe_backbone

COMPILER = pytest.mark.compiler
CPU = torch.device("cpu")
FAILING = """
import sys, torch
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.capture import Tap
backbone = load_backbone(sys.argv[1], "cpu")
seen = []
taps = [Tap(backbone.info.blocks[0].module, seen.append)]
with torch.inference_mode():
    for rows in 1, 2:
        conditioning = backbone.condition(["photo"])
        noisy = torch.ones(rows, backbone.info.latent_channels, 8, 8)
        backbone.run(noisy, 50, conditioning, taps, whole=False, compiled_rows=4)
print(*(len(value) for value in seen))
"""


@pytest.fixture
def backbone(small_folder, monkeypatch):
    monkeypatch.delenv("DIFFQA_COMPILE", raising=False)
    return Backbone(describe_backbone(small_folder), CPU, torch.float32)


@pytest.fixture
def fast(backbone, small_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("DIFFQA_COMPILE", "1")
    return Backbone(describe_backbone(small_folder), CPU, torch.float32)


def inputs(backbone, rows):
    generator = torch.Generator().manual_seed(rows)
    shape = rows, backbone.info.latent_channels, 8, 8
    noisy = torch.randn(shape, generator=generator)
    return noisy, backbone.condition(["Good photo."]).expand(rows)


def observed(run, modules):
    """Output of a pass, and (module, value) in the order in which they were seen."""
    seen = []

    def tap(name):
        return Tap(name, lambda value: seen.append((name, value)))

    return run([tap(name) for name in modules]), seen


def check(found, expected):
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, value), (_, other) in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4)


@pytest.fixture
def selections(backbone):
    """Of as many modules; one is seen twice, and the last are the whole UNet."""
    block, stage = backbone.info.blocks[0].module, backbone.info.stages[0].module
    return [(f"{block}.to_q", f"{block}.to_q", stage), (stage, block, "")]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=COMPILER)])
def test_what_is_seen_is_what_taps_see(backbone, selections, compiled):
    """Compiled without a break, and none of the selections gets another's graph."""
    noisy, conditioning = inputs(backbone, 2)
    for modules in selections:
        network = _Observed(backbone.unet, modules, whole=False)
        if compiled:
            network = torch.compile(network, backend="eager", fullgraph=True)
        with torch.inference_mode():
            for t in (50, 700):
                timesteps = torch.tensor(t).expand(2)
                seen, output = network(noisy, timesteps, conditioning.arguments())
                _, expected = observed(
                    partial(run_unet, backbone.unet, noisy, t, conditioning), modules
                )
                check([(modules[i], value) for i, value in seen], expected)
                assert output is None
    assert hooks_on(backbone.unet) == 0


def compare(backbone, fast, modules, rows, t=50, whole=False):
    noisy, conditioning = inputs(backbone, rows)
    results = []
    for each, full in ((backbone, None), (fast, 4)):
        run = partial(each.run, noisy, t, conditioning, whole=whole, compiled_rows=full)
        with torch.inference_mode():
            results.append(observed(run, modules))
    (expected_output, expected), (output, found) = results
    check(found, expected)
    check([("", output)] if whole else [], [("", expected_output)] if whole else [])
    assert whole or output is None


def test_rows_are_filled_up_to_few_numbers(backbone, fast, selections):
    """As compiled passes do it, without waiting for the compiler."""
    with torch.compiler.set_stance("force_eager"):
        for rows in (4, 3, 1, 2, 5, 7):
            compare(backbone, fast, selections[0], rows)
        compare(backbone, fast, selections[0], 3, torch.tensor([1, 50, 700]))
        compare(backbone, fast, selections[1], 3, whole=True)
        compare(backbone, fast, [], 3, whole=True)
    # More than a full pass, as when a batch is the caller's, are left as they are.
    assert [key[2] for key in fast._compiled._networks] == [4, 1, 2, 5, 7, 4, 4]


def test_a_row_that_overflows_does_not_end_it(backbone, fast, selections):
    noisy, conditioning = inputs(backbone, 2)
    with torch.compiler.set_stance("force_eager"), torch.inference_mode():
        seen = []
        taps = [Tap(selections[0][0], seen.append)]
        fast.run(noisy * 1e38, 50, conditioning, taps, whole=False, compiled_rows=4)
        assert not seen[0].isfinite().all()
        compare(backbone, fast, selections[0][:1], 2)
    assert fast._compiled._checked


def test_a_pass_that_deviates_is_not_used(backbone, fast, selections, caplog):
    with torch.compiler.set_stance("force_eager"):
        compare(backbone, fast, selections[0], 2)
        (network,) = fast._compiled._networks.values()
        network.unet.conv_in = torch.nn.Identity()  # as if compiled wrongly
        network.unet.conv_in.forward = lambda x: 2 * backbone.unet.conv_in(x)
        fast._compiled._checked.clear()
        for _ in range(2):
            compare(backbone, fast, selections[0], 2)
    assert caplog.text.count("gives other values and is not used") == 1


def test_only_frozen_features_are_compiled(fast):
    noisy, conditioning = inputs(fast, 1)
    with torch.inference_mode():
        fast.run(noisy, 50, conditioning)
    assert fast.run(noisy.requires_grad_(), 50, conditioning).requires_grad
    assert not fast._compiled._networks


def test_frozen_features_are(small_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFQA_COMPILE", "1")
    folder = Path(shutil.copytree(small_folder, tmp_path / "model"))
    # Another model, or the one that is loaded already would be taken.
    update_json(folder / "scheduler/scheduler_config.json", beta_end=0.1)
    features = DiffusionQAFeatures(
        folder, kinds="alignment", image_size=64, device="cpu"
    )
    with torch.compiler.set_stance("force_eager"):
        features.transform([np.zeros((64, 64, 3), np.uint8)])
    assert load_backbone(folder, "cpu")._compiled._checked


@COMPILER
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_passes_give_the_same_values(backbone, fast, caplog):
    modules = [f"{fast.info.blocks[0].module}.to_q", fast.info.stages[0].module]
    for rows in (4, 3, 4):  # three are filled up
        compare(backbone, fast, modules, rows)
    assert not [r for r in caplog.records if r.name.startswith("diffqa_features")]
    assert [key[2] for key in fast._compiled._networks] == [4]


@COMPILER
def test_without_a_compiler(small_folder, tmp_path):
    """Passes go on uncompiled, and one line says why."""
    env = {k: v for k, v in os.environ.items() if k not in ("CXX", "CC")}
    env |= {
        "PATH": "",
        "PYTHONPATH": str(ROOT),
        "DIFFQA_COMPILE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    found = subprocess.run(
        [sys.executable, "-c", FAILING, str(small_folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["1", "2"]
    assert found.stderr.count("Passes go on uncompiled") == 1
    assert "InvalidCxxCompiler" in found.stderr
