"""A dictionary of patches of normalised luminance: what the scorer's filters are."""

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from diffqa_features.learned.scorer import network

SIZE = 7
_STEP = 1 / 255


def learn_filters(pixels, count=64, per_picture=60, seed=0):
    """Filters (count, 1, 7, 7) of unit length from uint8 pictures (N, H, W, 3).

    Patches are whitened, clustered by direction, and the whitening is folded into the
    filters: each answers to one pattern, and is quiet for the others.
    """
    rng = np.random.default_rng(seed)
    patches = []
    for chunk in np.array_split(pixels, max(1, len(pixels) // 64)):
        planes = network._opponent(to_pixels(chunk))[:, :1]
        detail = planes - network._local_mean(planes)
        contrast = (network._local_mean(detail.square()) + 0.25 * _STEP**2).sqrt()
        normal = (detail / (contrast + 2 * _STEP)).numpy()[:, 0]
        for plane in normal:
            tops, lefts = rng.integers(0, plane.shape[0] - SIZE + 1, (2, per_picture))
            patches += [
                plane[y : y + SIZE, x : x + SIZE].ravel()
                for y, x in zip(tops, lefts, strict=True)
            ]
    patches = np.stack(patches).astype(np.float64)
    patches -= patches.mean(1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    whiten = vectors / np.sqrt(np.maximum(values, 0) + 0.05) @ vectors.T
    white = patches @ whiten
    white /= np.linalg.norm(white, axis=1, keepdims=True) + 1e-6
    clusters = MiniBatchKMeans(count, batch_size=4096, n_init=1, random_state=seed)
    centers = clusters.fit(white).cluster_centers_
    filters = centers @ whiten
    filters /= np.linalg.norm(filters, axis=1, keepdims=True)
    return torch.tensor(filters.reshape(count, 1, SIZE, SIZE), dtype=torch.float32)


def to_pixels(images):
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2) / 255
