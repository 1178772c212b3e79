"""The shipped backbone: its golden numbers, its topology, and that it sees quality."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, datasets
from diffqa_features._backbone.info import describe_backbone
from diffqa_features.metrics import srcc_score

GOLDEN = Path(__file__).parents[1] / "data" / "tiny.npz"
PARAMETERS = {
    "kinds": ("alignment", "query", "error"),
    "blocks": ["down0.1", "mid.0", "up3.*"],
    "timesteps": (20, 50),
    "device": "cpu",
    "dtype": "float32",
}


def golden_input():
    """A picture by formula: no generator or codec has a say in it."""
    y, x = np.mgrid[:192, :192]
    red = 127 + 100 * np.sin(x / 7) * np.cos(y / 11)
    green = (x * 3 + y) % 256
    blue = np.where((x // 16 + y // 16) % 2, 200, 40)
    return np.stack([red, green, blue], -1).astype(np.uint8)


def test_golden_vector():
    """Remade with ``python tests/backbone/test_tiny.py`` when the weights change."""
    golden = np.load(GOLDEN, allow_pickle=False)
    features = DiffusionQAFeatures(**PARAMETERS)
    assert list(features.get_feature_names_out()) == list(golden["names"])
    row = features.transform([golden_input()])[0]
    np.testing.assert_allclose(row, golden["values"], rtol=1e-3, atol=2e-4)


def test_it_has_stable_diffusions_topology():
    info = describe_backbone("tiny")
    names = [block.name for block in info.blocks]
    assert (
        names
        == (
            "down0.0 down0.1 down1.0 down1.1 down2.0 down2.1 mid.0 up1.0 up1.1 up1.2 "
            "up2.0 up2.1 up2.2 up3.0 up3.1 up3.2"
        ).split()
    )
    assert len(info.blocks) == 16


@pytest.fixture(scope="module")
def distorted():
    """Real photographs, none of which the backbone has seen in training."""
    photos = datasets.load_sample_photos().data[:6]
    return datasets.make_distorted_images(
        photos,
        families=("gaussian_blur", "white_noise", "jpeg"),
        n_levels=3,
        image_size=96,
    )


@pytest.fixture(scope="module")
def matrix(distorted):
    return DiffusionQAFeatures(image_size=96).transform(distorted.data)


def test_it_ranks_distorted_photographs(distorted, matrix):
    """Far below the model card's figure, far above what random weights reach."""
    model = make_pipeline(StandardScaler(), SVR(C=10))
    predicted = cross_val_predict(
        model, matrix, distorted.target, groups=distorted.groups, cv=GroupKFold(3)
    )
    assert srcc_score(distorted.target, predicted) > 0.7


def test_good_and_bad_mean_something(distorted, matrix):
    """Worse pictures are denoised better under `Bad photo.`, with nothing fitted."""
    names = list(DiffusionQAFeatures().get_feature_names_out())
    difference = matrix[:, names.index("t50__error__prompt0-prompt1")]
    assert srcc_score(-distorted.target, difference) > 0.3


if __name__ == "__main__":
    features = DiffusionQAFeatures(**PARAMETERS)
    np.savez_compressed(
        GOLDEN,
        names=features.get_feature_names_out().astype(str),
        values=features.transform([golden_input()])[0],
    )
