"""Every formula against a closed form or numpy."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from diffqa_features._engine import pooling


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_alignment_of_zero_logits_is_the_logarithm_of_the_places():
    # GenzIQA at 512 px: ln(4096)/0.14 = 59.41 at the outermost level.
    value = pooling.alignment(torch.zeros(1, 4096, 64), random(1, 77, 64), heads=1)
    assert value.item() == pytest.approx(np.log(4096) / 0.14, rel=1e-6)


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("heads", [1, 2, 8])
def test_alignment_by_numpy(heads, size):
    # The larger logits are far beyond what the exponential of a float can hold.
    queries, keys = size * random(3, 50, 16), random(3, 7, 16)
    d = 16 // heads
    expected = []
    for q, k in zip(queries.numpy(), keys.numpy(), strict=True):
        per_head = [
            logsumexp(
                0.14 * q[:, h * d : (h + 1) * d] @ k[:, h * d : (h + 1) * d].T / d**0.5,
                axis=0,
            )
            / 0.14
            for h in range(heads)
        ]
        expected.append(np.mean(per_head))
    result = pooling.alignment(queries, keys, heads)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_alignment_in_half_precision_does_not_overflow():
    queries = torch.full((1, 64, 8), 200.0, dtype=torch.float16)
    keys = torch.full((1, 4, 8), 200.0, dtype=torch.float16)
    logit = 200.0 * 200 * 8 / 8**0.5
    expected = logit + np.log(64) / 0.14
    assert pooling.alignment(queries, keys, 1).item() == pytest.approx(expected)


def test_alignment_has_the_gradient_of_torchs_log_sum_exp():
    queries, keys = random(2, 30, 8).requires_grad_(), random(2, 5, 8)
    (gradient,) = torch.autograd.grad(
        pooling.alignment(queries, keys, 1).sum(), queries
    )
    logits = queries @ keys.transpose(1, 2) / 8**0.5
    pooled = torch.logsumexp(0.14 * logits, 1) / 0.14
    (expected,) = torch.autograd.grad(pooled.mean(1).sum(), queries)
    torch.testing.assert_close(gradient, expected)


def test_chunks_do_not_change_the_result():
    """Of more logits than are held at once: 20 million of 16."""
    queries, keys = random(32, 4096, 8), random(32, 77, 8)
    content = torch.rand(32, 77) > 0.4
    scores = pooling.alignment(queries, keys, 2)
    maps = pooling.attention_maps(queries, keys, 2, content, signed=True)
    for row in (0, 25, 26, 27, 31):
        one = slice(row, row + 1)
        alone = pooling.alignment(queries[one], keys[one], 2)
        torch.testing.assert_close(scores[one], alone)
        alone = pooling.attention_maps(
            queries[one], keys[one], 2, content[one], signed=True
        )
        torch.testing.assert_close(maps[one], alone)


@pytest.mark.parametrize("signed", [False, True])
def test_attention_maps_by_numpy(signed):
    queries, keys = random(2, 30, 8), random(2, 5, 8)
    content = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0]], dtype=torch.bool)
    result = pooling.attention_maps(queries, keys, 2, content, signed=signed)
    for row in range(2):
        maps = []
        for h in (slice(0, 4), slice(4, 8)):
            logits = (queries[row, :, h] @ keys[row, :, h].T).numpy() / 2
            table = logits - logits.mean(0) if signed else softmax(logits, axis=1)
            maps.append(table[:, content[row].numpy()].mean(1))
        np.testing.assert_allclose(result[row], np.mean(maps, 0), rtol=1e-4, atol=1e-6)


def test_a_prompt_without_words_attends_to_nothing():
    content = torch.zeros(1, 5, dtype=torch.bool)
    maps = pooling.attention_maps(
        random(1, 9, 4), random(1, 5, 4), 1, content, signed=False
    )
    assert (maps == 0).all()


def test_pool_space_by_numpy_on_both_layouts():
    x = random(2, 6, 4, 5)  # (B, C, h, w)
    flat = x.flatten(2).transpose(1, 2)
    expected = np.stack(
        [f(x.numpy(), axis=(2, 3)) for f in (np.max, np.mean, np.std)], 1
    )
    for layout in (x, flat):
        pooled = pooling.pool_space(layout, ("max", "mean", "std"))
        np.testing.assert_allclose(pooled, expected, rtol=1e-5)


def test_error_spectrum_of_a_known_error():
    noise = random(1, 3, 8, 8)
    offsets = torch.tensor([0.5, 2.0, 0.1]).view(1, 3, 1, 1)
    values = pooling.error_spectrum(noise + offsets, noise)[0]
    np.testing.assert_allclose(values[:3], np.log([0.5, 2.0, 0.1]), rtol=1e-5)
    assert values[3].item() == pytest.approx(np.sqrt((0.25 + 4 + 0.01) / 3), rel=1e-6)


def test_error_spectrum_of_a_perfect_prediction_is_finite():
    noise = random(1, 3, 8, 8)
    assert torch.isfinite(pooling.error_spectrum(noise, noise)).all()
