"""JOD targets: ColorVideoVDP itself measures, on real pictures and decoded clips.

Without `pip install 'diffqa-features[jod]'` most of these skip. Where torchvision has
no build for the torch at hand, ``DIFFQA_JOD`` names a folder with the metric and a
small stand-in for torchvision.
"""

import os
import sys

import numpy as np
import pytest
from scipy.stats import spearmanr

from diffqa_features.datasets import (
    load_sample_photos,
    make_distorted_images,
    make_distorted_videos,
)
from diffqa_features.datasets._jod import _metric


@pytest.fixture(scope="module")
def photos():
    return load_sample_photos(image_size=128).data[:2]


@pytest.fixture(scope="module")
def cvvdp():
    folder = os.environ.get("DIFFQA_JOD")
    if folder is None:
        return pytest.importorskip("pycvvdp", reason="ColorVideoVDP is not installed")
    sys.path.append(folder)
    try:
        import pycvvdp
    finally:  # diffusers and transformers would take the stand-in for the whole of it
        sys.path.remove(folder)
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    _metric.cache_clear()
    return pycvvdp


@pytest.mark.parametrize("asked", [{"target": "jod"}, {"full_reference": "jod"}])
def test_without_the_package(monkeypatch, photos, tmp_path, asked):
    monkeypatch.setitem(sys.modules, "pycvvdp", None)
    _metric.cache_clear()
    message = r"ColorVideoVDP.*pip install 'diffqa-features\[jod\]'"
    with pytest.raises(ImportError, match=message):
        make_distorted_images(
            photos, families="jpeg", n_levels=2, image_size=64, **asked
        )
    with pytest.raises(ImportError, match=message):
        make_distorted_videos(
            tmp_path,
            photos[:1],
            families="flicker",
            image_size=64,
            n_frames=16,
            **asked,
        )


def test_too_small(tmp_path):
    with pytest.raises(ValueError, match=r"'image_size' .* at least 32 for JOD"):
        make_distorted_images(image_size=24, target="jod")
    with pytest.raises(ValueError, match=r"'image_size' .* at least 32 for JOD"):
        make_distorted_videos(tmp_path, image_size=24, target="jod")


@pytest.fixture(scope="module")
def images(cvvdp, photos):
    families = ["gaussian_blur", "white_noise", "jpeg", "desaturate"]
    return make_distorted_images(
        photos, families=families, n_levels=4, image_size=128, target="jod",
        include_references=True,
    )  # fmt: skip


class TestPictures:
    def test_references_have_ten_and_others_less(self, images):
        reference = images.family == "reference"
        assert (images.target[reference] == 10).all()
        assert (images.target[~reference] < 10).all()
        assert "target: JOD" in images.DESCR

    def test_falls_with_the_level_in_each_family(self, images):
        for group in set(images.groups):
            for family in images.family_names:
                chosen = (images.groups == group) & (images.family == family)
                assert (np.diff(images.target[chosen]) < 0).all()

    def test_is_what_the_metric_says(self, cvvdp, images, photos):
        metric = cvvdp.cvvdp(display_name="standard_4k")
        at = images.family.tolist().index("jpeg") + 2
        expected, _ = metric.predict(images.data[at], images.data[0], dim_order="HWC")
        assert images.target[at] == pytest.approx(float(expected), abs=1e-4)

    def test_beside_the_level(self, images, photos, cvvdp):
        again = make_distorted_images(
            photos, families=images.family_names, n_levels=4, image_size=128,
            full_reference="jod", include_references=True,
        )  # fmt: skip
        np.testing.assert_array_equal(again.full_reference, images.target)
        np.testing.assert_array_equal(again.target, -again.level)
        assert (images.full_reference <= 1).all()  # SSIM

    def test_sees_color_that_ssim_does_not(self, images):
        gray = images.family == "desaturate"
        assert images.full_reference[gray].min() > 0.97
        assert images.target[gray].min() < 8

    def test_levels_are_a_poor_guess_across_families(self, cvvdp, photos):
        images = make_distorted_images(
            photos, n_levels=4, image_size=96, full_reference="jod"
        )
        assert spearmanr(images.target, images.full_reference)[0] < 0.9


@pytest.fixture(scope="module")
def videos(cvvdp, photos, tmp_path_factory):
    return make_distorted_videos(
        tmp_path_factory.mktemp("clips"), photos[:1], n_levels=3, n_frames=24,
        image_size=96, target="jod", include_references=True,
    )  # fmt: skip


class TestClips:
    def test_references_have_ten(self, videos):
        assert videos.target[videos.distortion == "reference"].tolist() == [10.0]
        assert (videos.target[videos.distortion != "reference"] < 10).all()
        np.testing.assert_array_equal(videos.target, videos.full_reference)

    def test_timing_counts(self, videos):
        for family in videos.distortion_names:
            jod = videos.target[videos.distortion == family]
            assert jod[-1] < jod[0]
            assert jod[-1] < 8.5

    def test_dropped_frames_are_held(self, cvvdp, photos, videos):
        """The clip with gaps, filled by hand, gets the same JOD."""
        import av

        def frames(path):
            with av.open(path) as container:
                return np.stack(
                    [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
                )

        at = videos.distortion.tolist().index("frame_drop") + 1
        reference, short = frames(videos.data[0]), frames(videos.data[at])
        assert len(short) < len(reference)
        # No two frames of this clip are equal, so each is found where it belongs.
        due = [
            int(np.argmin([np.abs(x.astype(int) - r).sum() for r in reference]))
            for x in short
        ]
        held, last = [], 0
        for t in range(len(reference)):
            last = due.index(t) if t in due else last
            held.append(short[last])
        metric = cvvdp.cvvdp(display_name="standard_4k", quiet=True)
        expected, _ = metric.predict(
            np.stack(held), reference, dim_order="FHWC", frames_per_second=30.0
        )
        assert videos.target[at] == pytest.approx(float(expected), abs=1e-3)

    def test_beside_the_level(self, cvvdp, photos, tmp_path):
        asked = {"families": "freeze", "n_levels": 2, "n_frames": 16, "image_size": 64}
        table = make_distorted_videos(
            tmp_path, photos[:1], full_reference="jod", as_frame=True, **asked
        )
        assert table.target.tolist() == [-1, -2]
        assert (table.frame["full_reference"] < 10).all()
