"""Batches of generated pictures in, the mean of their predicted quality out."""

from __future__ import annotations

import numpy as np


class QualityMetric:
    """Follow the predicted quality of pictures that a generator or a codec makes.

    It has the methods of a torchmetrics ``Metric`` (``update``, ``compute``, ``reset``
    and a call), and needs no such package. Only sums are kept.

    Parameters
    ----------
    model : estimator
        Fitted, with ``predict``: a Pipeline, a learned model, or a scorer.

    See Also
    --------
    diffqa_features.load_scorer : A model that needs no opinion scores.

    Examples
    --------
    >>> import numpy as np
    >>> from diffqa_features import load_scorer
    >>> from diffqa_features.datasets import load_sample_photos
    >>> from diffqa_features.evaluation import QualityMetric
    >>> photos = np.stack(load_sample_photos(image_size=96).data[:4])
    >>> metric = QualityMetric(load_scorer())
    >>> metric.update(photos.transpose(0, 3, 1, 2) / 255)
    >>> 5 < metric.compute() < 10, metric.count
    (True, 4)
    """

    def __init__(self, model):
        if not hasattr(model, "predict"):
            raise TypeError(
                f"QualityMetric needs a model with predict(). Got {model!r}."
            )
        self.model = model
        self.reset()

    def reset(self) -> None:
        """Forget all pictures."""
        self.count = 0
        self._sum = 0.0

    def update(self, images) -> None:
        """Add a batch of pictures.

        Parameters
        ----------
        images : tensor or array of shape (N, 3, H, W)
            uint8, or floats in [0, 1], on any device and in any precision.

        Raises
        ------
        ValueError
            If the shape or a value does not fit.
        """
        self._add(self._predict(images))

    def compute(self) -> float:
        """Compute the mean prediction over all pictures since the last reset.

        Returns
        -------
        float
            In the units of the model; NaN if there was no picture.
        """
        return self._sum / self.count if self.count else float("nan")

    def __call__(self, images) -> float:
        """Add a batch, and return the mean over this batch alone."""
        predicted = self._predict(images)
        self._add(predicted)
        return float(predicted.mean())

    def _add(self, predicted):
        self.count += len(predicted)
        self._sum += float(predicted.sum())

    def _predict(self, images):
        if hasattr(images, "detach"):  # a tensor; bfloat16 is unknown to numpy
            images = images.detach().cpu()
            images = (images.float() if images.is_floating_point() else images).numpy()
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise ValueError(
                "images must be of shape (N, 3, H, W) with N above 0. Got "
                f"{images.shape} instead."
            )
        rows = list(images.transpose(0, 2, 3, 1))
        return np.asarray(self.model.predict(rows), np.float64).reshape(len(rows))
