"""`QualityMetric` over batches of tensors."""

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyRegressor

from diffqa_features import load_scorer
from diffqa_features.datasets import load_sample_photos
from diffqa_features.evaluation import QualityMetric


class MeanLight:
    """Predicts a picture's mean level, so that expected values are plain."""

    def predict(self, X):
        return [
            np.mean(row) if row.dtype == np.uint8 else 255 * row.mean() for row in X
        ]


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, 3, 8, 8), generator=generator, dtype=torch.uint8)


def test_the_mean_over_batches_is_that_over_pictures(batch):
    metric = QualityMetric(MeanLight())
    assert np.isnan(metric.compute())
    metric.update(batch[:1])
    assert metric(batch[1:]) == pytest.approx(batch[1:].float().mean().item())
    assert metric.compute() == pytest.approx(batch.float().mean().item())
    assert metric.count == 6
    metric.reset()
    assert metric.count == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_any_precision(batch, dtype):
    metric = QualityMetric(MeanLight())
    metric.update((batch.float() / 255).to(dtype).requires_grad_())
    assert metric.compute() == pytest.approx(batch.float().mean().item(), abs=0.3)


def test_it_tells_a_blurred_batch_from_a_sharp_one():
    photos = np.stack(load_sample_photos(image_size=96).data[:4])
    sharp = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255
    metric = QualityMetric(load_scorer())
    blurred = torch.nn.functional.avg_pool2d(sharp, 7, 1, 3, count_include_pad=False)
    assert metric(sharp) > metric(blurred) + 0.3


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 8, 3), (0, 3, 8, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be of shape \(N, 3, H, W\)"):
        QualityMetric(DummyRegressor()).update(np.zeros(shape))


def test_a_model_without_predict_is_refused():
    with pytest.raises(TypeError, match=r"needs a model with predict\(\)"):
        QualityMetric(3)
