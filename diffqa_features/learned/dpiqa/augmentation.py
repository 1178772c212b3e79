"""Views and one generator per row in, randomly mirrored and cropped views out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

AUGMENTATIONS = ("flips", "flips and crops")


def larger_side(size: int, augmentation: str | None) -> int:
    """Side of the views that crops of `size` are taken from: an eighth more."""
    return size + size // 8 if augmentation == "flips and crops" else size


def vary_views(views: np.ndarray, size: int, generators: Sequence) -> np.ndarray:
    """Mirror each view (N, H, W, 3) with probability 1/2, and crop it to `size`.

    A view's change depends only on its generator (torch's), not on the rows beside it.
    """
    import torch  # not to load with the estimator's class

    varied = []
    for view, generator in zip(views, generators, strict=True):
        room = view.shape[0] - size, view.shape[1] - size
        mirrored, top, left = (
            int(torch.randint(0, most + 1, (1,), generator=generator))
            for most in (1, *room)
        )
        view = view[top : top + size, left : left + size]
        varied.append(view[:, ::-1] if mirrored else view)
    return np.stack(varied)
