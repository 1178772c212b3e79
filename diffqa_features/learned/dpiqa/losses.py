"""Predictions and targets of a batch in, a loss with its graph out."""

from __future__ import annotations

import torch

from diffqa_features.learned._training import mean_of


def margin_ranking_loss(
    predicted: torch.Tensor,
    target: torch.Tensor,
    margin: float = 0.25,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over pairs i < j of max(0, m − sign(t_i − t_j)(p_i − p_j)).

    m is `margin` times the standard deviation (unbiased) of the targets. A pair of
    equal targets always contributes m. With fewer than two rows there are no pairs, and
    the loss is 0. A pair is weighted by the product of its weights, which are 1 on
    average over all rows.
    """
    count = len(target)
    if count < 2:
        return 0.0 * predicted.sum()
    first, second = torch.triu_indices(count, count, 1, device=target.device)
    order = torch.sign(target[first] - target[second])
    apart = order * (predicted[first] - predicted[second])
    lacking = torch.relu(margin * target.std() - apart)
    return mean_of(lacking, None if weight is None else weight[first] * weight[second])
