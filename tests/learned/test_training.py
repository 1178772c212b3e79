"""The one training loop on a network whose every step can be followed by hand."""

import warnings

import numpy as np
import pytest
import torch
from interruptions import (
    Interrupted,
    counted_steps,
    hours_pass,
    interrupted_before_step,
)
from torch import nn

from diffqa_features.learned._training import Schedule, seed_of, train
from diffqa_features.metrics import srcc_score

CPU = torch.device("cpu")
ROWS = torch.randn(11, 3, generator=torch.Generator().manual_seed(1))
TARGET = (ROWS @ torch.tensor([1.0, -2.0, 0.5]) + 3).double().numpy()


def make_network():
    network = nn.Linear(3, 1)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    return network


def make_step(network, target=TARGET, noise=0.1):
    wanted = torch.from_numpy(target).float()

    def step(chosen, generators):
        drawn = torch.stack([torch.randn(3, generator=g) for g in generators])
        predicted = network(ROWS[chosen] + noise * drawn)[:, 0]
        return (predicted - wanted[chosen]).square().mean(), predicted

    return step


def make_schedule(**changes):
    settings = {"max_epochs": 3, "batch_size": 4, "learning_rate": 0.1}
    return Schedule(**{**settings, **changes})


def fit(validate=None, network=None, step=None, **changes):
    network = network or make_network()
    step = step or make_step(network)
    schedule = make_schedule(**changes)
    return network, train(network, step, TARGET, schedule, CPU, validate)


def test_it_is_adamw_on_clipped_gradients():
    """Against the same updates written out: order, noise, clipping, decay, loss."""
    network, history = fit(max_grad_norm=0.5, weight_decay=0.3)
    weights = torch.zeros(4)  # and the bias last
    first, second, count = torch.zeros(4), torch.zeros(4), 0
    losses, seen = [], []
    for epoch in range(3):
        order = np.random.default_rng([0, epoch]).permutation(11)
        total, pairs = 0.0, []
        for rows in (order[:4], order[4:8], order[8:]):
            x = torch.ones(len(rows), 4)
            for i, row in enumerate(rows):
                generator = torch.Generator().manual_seed(seed_of(0, epoch, int(row)))
                x[i, :3] = ROWS[row] + 0.1 * torch.randn(3, generator=generator)
            error = x @ weights - torch.from_numpy(TARGET[rows]).float()
            pairs += zip(TARGET[rows], (x @ weights).tolist())
            total += error.square().sum().item()
            gradient = 2 * (error[:, None] * x).mean(0)
            gradient *= min(1.0, 0.5 / (gradient.norm().item() + 1e-6))
            count += 1
            weights = weights * (1 - 0.1 * 0.3)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            corrected = first / (1 - 0.9**count), second / (1 - 0.999**count)
            weights = weights - 0.1 * corrected[0] / (corrected[1].sqrt() + 1e-8)
        losses.append(total / 11)
        seen.append(srcc_score(*zip(*pairs)))
    found = torch.cat([network.weight.detach()[0], network.bias.detach()])
    torch.testing.assert_close(found, weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([r["loss"] for r in history], losses, rtol=1e-4)
    np.testing.assert_allclose([r["srcc"] for r in history], seen)


def test_a_last_batch_that_is_too_small_joins_the_one_before():
    def sizes(**changes):
        seen = []
        network = make_network()
        step = make_step(network)

        def count(chosen, generators):
            seen.append(len(chosen))
            return step(chosen, generators)

        fit(network=network, step=count, max_epochs=1, **changes)
        return seen

    assert sizes(batch_size=5) == [5, 5, 1]
    assert sizes(batch_size=5, smallest_batch=2) == [5, 6]
    assert sizes(batch_size=4, smallest_batch=2) == [4, 4, 3]
    assert sizes(batch_size=20, smallest_batch=12) == [11]


@pytest.mark.parametrize("resumed", [False, True])
def test_the_rate_falls_at_milestones(tmp_path, resumed):
    """In epoch 3 on, and 5 on; also where a run goes on from its checkpoint."""
    changes = {"batch_size": 11, "milestones": (2, 4), "lr_decay": 0.2}
    changes["checkpoint"] = tmp_path / "run.pt"
    with counted_steps() as rates:
        if resumed:
            with interrupted_before_step(3), pytest.raises(Interrupted):
                fit(max_epochs=6, **changes)
            assert len(rates) == 3
        fit(max_epochs=6, **changes)
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.004])


def test_without_clipping_a_gradient_stays_as_it_is():
    free, _ = fit(max_grad_norm=None)
    wide, _ = fit(max_grad_norm=1e9)
    assert torch.equal(free.weight, wide.weight)


def test_it_learns():
    network, history = fit(
        max_epochs=150, batch_size=11, learning_rate=0.05, max_grad_norm=100,
        weight_decay=0.0,
    )  # fmt: skip
    assert history[-1]["loss"] < 0.02 * history[0]["loss"]
    expected = torch.tensor([[1.0, -2.0, 0.5]])
    # Within what the noise on the rows shrinks.
    torch.testing.assert_close(network.weight.detach(), expected, atol=0.2, rtol=0)
    assert history[-1]["srcc"] > 0.95


@pytest.mark.parametrize("n_parts", [2, 3, 100])
def test_accumulation_gives_the_same_weights(n_parts):
    plain, history = fit()
    parts, again = fit(gradient_accumulation_steps=n_parts)
    torch.testing.assert_close(parts.weight, plain.weight)
    np.testing.assert_allclose(
        [r["loss"] for r in again], [r["loss"] for r in history], rtol=1e-5
    )


def test_a_loss_that_stands_still_is_told():
    with pytest.warns(UserWarning, match=r"less than 1%: learning_rate=1e-09 teaches"):
        network = make_network()
        step = make_step(network, noise=0.0)
        fit(network=network, step=step, learning_rate=1e-9, max_epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit()  # learns
        fit(learning_rate=1e-9, max_epochs=1)  # nothing to compare with


def test_a_frozen_parameter_stays():
    network = make_network()
    network.bias.requires_grad_(False)
    fit(network=network, step=make_step(network))
    assert network.bias.item() == 0
    assert network.weight.abs().sum() > 0
    network.weight.requires_grad_(False)
    assert fit(network=network, step=make_step(network))[1] == []


def test_the_best_epoch_is_kept():
    network, seen = make_network(), []
    scores = iter([0.1, 0.7, 0.3, 0.7, 0.2, 0.9])

    def validate():
        seen.append(network.weight.detach().clone())
        return next(scores)

    _, history = fit(validate, network, make_step(network), max_epochs=10, patience=3)
    assert [r["validation_srcc"] for r in history] == [0.1, 0.7, 0.3, 0.7, 0.2]
    torch.testing.assert_close(network.weight.detach(), seen[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_step(bad):
    network = make_network()
    real, calls = make_step(network), []

    def step(chosen, generators):
        loss, predicted = real(chosen, generators)
        calls.append(loss)
        return (loss * bad if len(calls) == 5 else loss), predicted

    with pytest.raises(FloatingPointError, match=r"in step 2 of epoch 2 .*0\.1, dtype"):
        fit(network=network, step=step)


def test_a_gradient_that_is_not_finite_names_the_step():
    network = make_network()

    def step(chosen, generators):
        # The value of |0|^0.5 is 0; its gradient is not.
        loss = network.weight.abs().sqrt().sum()
        return loss, network(ROWS[chosen])[:, 0]

    with pytest.raises(FloatingPointError, match="gradient became"):
        fit(network=network, step=step)


class Stop(Exception):
    pass


def interrupted(at, folder, validate=None, **changes):
    """Train until step `at` raises, as a kill would end it; the checkpoint stays."""
    network = make_network()
    real, calls = make_step(network), []

    def step(chosen, generators):
        calls.append(chosen)
        if len(calls) > at:
            raise Stop
        return real(chosen, generators)

    with pytest.raises(Stop):
        fit(validate and validate(network), network, step, **changes)


@pytest.mark.parametrize("at", [1, 3, 4, 7, 8])
@pytest.mark.parametrize("validated", [False, True])
def test_resumed_from_any_step(tmp_path, monkeypatch, at, validated):
    hours_pass(monkeypatch)  # so that it saves after every step

    def validate(network):
        return lambda: -network.weight[0, 0].item()

    def made(network):
        return validate(network) if validated else None

    changes = {"checkpoint": tmp_path / "run.pt", "patience": 9}
    interrupted(at, tmp_path, validate if validated else None, **changes)
    resumed = make_network()
    _, history = fit(made(resumed), resumed, make_step(resumed), **changes)
    plain = make_network()
    _, expected = fit(made(plain), plain, make_step(plain), patience=9)
    assert torch.equal(resumed.weight, plain.weight)
    assert torch.equal(resumed.bias, plain.bias)
    assert history == expected
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_one(
    tmp_path, monkeypatch
):
    path = tmp_path / "run.pt"
    fit(max_epochs=1, checkpoint=path)
    before = path.read_bytes()

    def fail(*arguments):
        arguments[1].write(b"half")
        raise Stop

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(Stop):
        fit(max_epochs=2, checkpoint=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_progress_is_shown_when_asked(capsys):
    fit()
    assert capsys.readouterr().err == ""
    fit(verbose=1)
    shown = capsys.readouterr().err
    assert "9/9" in shown
    assert "loss=" in shown
    assert "srcc=" in shown
    fit(validate=lambda: 0.25, verbose=1)
    assert "validation_srcc=0.250" in capsys.readouterr().err


def test_an_epoch_records_what_is_noted():
    network = make_network()
    step, schedule = make_step(network), make_schedule()
    notes = iter([{"a": 1}, {"a": 2}, {"a": 3}])
    history = train(network, step, TARGET, schedule, CPU, note=lambda: next(notes))
    assert [record["a"] for record in history] == [1, 2, 3]
