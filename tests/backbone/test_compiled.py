"""DIFFQA_COMPILE=1: compiled passes give the values of others, or are not used."""

import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from hooks import hooks_on

from diffqa_features._backbone.backbone import Backbone
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
        backbone.run(noisy, 50, conditioning, taps, whole=False)
print(*(len(value) for value in seen))
"""


@pytest.fixture
def backbone(small_folder):
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


def run_part(backbone, rows, taps):
    noisy, conditioning = inputs(backbone, rows)
    return backbone.run(noisy, 50, conditioning, taps, whole=False)


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


def test_passes_with_gradients_are_not_compiled(small_folder, monkeypatch):
    monkeypatch.setenv("DIFFQA_COMPILE", "1")
    backbone = Backbone(describe_backbone(small_folder), CPU, torch.float32)
    noisy, conditioning = inputs(backbone, 1)
    assert backbone.run(noisy.requires_grad_(), 50, conditioning).requires_grad
    assert not backbone._compiled._known


@COMPILER
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_passes_give_the_same_values(
    backbone, small_folder, monkeypatch, tmp_path, caplog
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("DIFFQA_COMPILE", "1")
    fast = Backbone(describe_backbone(small_folder), CPU, torch.float32)
    modules = [f"{fast.info.blocks[0].module}.to_q", fast.info.stages[0].module]
    for rows in (4, 3, 4):  # three are filled up
        with torch.inference_mode():
            (_, expected), (_, found) = (
                observed(partial(run_part, each, rows), modules)
                for each in (backbone, fast)
            )
        check(found, expected)
    assert not [r for r in caplog.records if r.name.startswith("diffqa_features")]
    assert [rows for rows, _ in fast._compiled._known.values()] == [4]


@COMPILER
def test_without_a_compiler(small_folder, tmp_path):
    """Passes go on uncompiled, and one line says why."""
    env = {k: v for k, v in os.environ.items() if k not in ("CXX", "CC")}
    env |= {
        "PATH": "",
        "DIFFQA_COMPILE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    found = subprocess.run(
        [sys.executable, "-c", FAILING, str(small_folder)],
        env=env,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["1", "2"]
    assert found.stderr.count("Passes go on uncompiled") == 1
    assert "needs a C++ compiler" in found.stderr
