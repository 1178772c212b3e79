"""Training of shipped networks: what was stopped goes on as if it had not been."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def training_run(monkeypatch):
    if not TOOLS.is_dir():
        pytest.skip("installed from a wheel: there are no tools")
    monkeypatch.syspath_prepend(str(TOOLS))
    yield importlib.import_module("_training_run").TrainingRun
    sys.modules.pop("_training_run", None)


def train(training_run, folder, until):
    """Steps of a small network and its head, from the last checkpoint on."""
    torch.manual_seed(0)
    model, head = torch.nn.Linear(4, 3), torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()])
    run = training_run(
        model, optimizer, folder, clip=1.0, decay=0.9, lag=2, beside=head
    )
    with run.progress(until) as progress:
        while run.step < until:
            generator = torch.Generator().manual_seed(run.step)
            loss = head(model(torch.randn(5, 4, generator=generator))).square().mean()
            run.learn({"loss": loss}, 0.1, progress)
    run.save()
    return {**model.state_dict(), **head.state_dict(prefix="head."), **run.average}


def test_a_run_goes_on_with_its_head(training_run, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "whole").mkdir()
    train(training_run, tmp_path / "parts", 2)
    parts = train(training_run, tmp_path / "parts", 4)
    whole = train(training_run, tmp_path / "whole", 4)
    for name, value in whole.items():
        assert torch.equal(parts[name], value), name
    assert not list(tmp_path.rglob("*.tmp"))
