"""Chains of distortions, and what single distortions claim, on real pictures."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from diffqa_features.datasets import load_sample_photos, make_distorted_images
from diffqa_features.datasets._chains import (
    FAULT_OF,
    FAULTS,
    apply_chain,
    draw_chain,
)
from diffqa_features.datasets._distortions import BASIC, FAMILIES, distort

ORDER = [
    "blur", "noise", "exposure", "color", "oversharpening", "low_resolution",
    "compression",
    "low_resolution", "color", "oversharpening", "banding", "damage", "compression",
]  # fmt: skip

HALVES = slice(0, 24), slice(-24, None)


@pytest.fixture(scope="module")
def photo():
    return load_sample_photos(image_size=128).data[0]


def rng(seed=0):
    return np.random.default_rng(seed)


class TestFaults:
    def test_every_family_is_of_one_kind(self):
        assert sorted(FAULT_OF) == sorted(FAMILIES)
        assert sum(map(len, FAULTS.values())) == len(FAMILIES)

    def test_the_sixteen_first_ones_stay(self):
        assert len(BASIC) == 16
        assert list(FAMILIES)[:16] == list(BASIC)


class TestDrawChain:
    def test_order_count_and_strengths(self):
        for seed in range(300):
            chain = draw_chain(rng(seed), 0.6)
            assert 2 <= len(chain) <= 4
            assert max(s for _, s in chain) == 0.6
            assert min(s for _, s in chain) >= -0.5
            places = iter(ORDER)
            assert all(FAULT_OF[family] in places for family, _ in chain)

    def test_only_families_that_may_be_in_it(self):
        allowed = ["jpeg", "gaussian_blur", "upscale"]
        seen = set()
        for seed in range(40):
            seen |= {family for family, _ in draw_chain(rng(seed), 0.5, allowed)}
        assert seen == set(allowed)

    def test_all_families_turn_up(self):
        chains = [draw_chain(rng(seed), 0.5) for seed in range(1500)]
        assert {family for chain in chains for family, _ in chain} == set(FAMILIES)

    def test_steps_are_applied_in_order(self, photo):
        chain = [("darken", 0.5), ("jpeg", 0.5)]
        expected = distort(distort(photo, "darken", 0.5, None), "jpeg", 0.5, None)
        np.testing.assert_array_equal(apply_chain(photo, chain, rng()), expected)

    def test_steps_below_zero_are_milder_than_the_mildest(self, photo):
        for family in FAMILIES:
            lowest = min(
                s
                for seed in range(400)
                for name, s in draw_chain(rng(seed), 0.0, [family, "jpeg"])
                if name == family
            )
            weak, mild = (
                np.abs(distort(photo, family, s, rng()).astype(float) - photo).mean()
                for s in (lowest, 0.0)
            )
            assert weak <= mild


class TestCodecs:
    @pytest.mark.parametrize(
        ("family", "format"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF")]
    )
    def test_what_the_encoder_leaves(self, photo, family, format):
        """Coded a second time in the same way, a picture changes less."""
        once = distort(photo, family, 0.3, rng())
        twice = distort(once, family, 0.3, rng())
        loss = [
            np.abs(a.astype(float) - b).mean()
            for a, b in ((photo, once), (once, twice))
        ]
        assert loss[1] < 0.6 * loss[0]
        assert format in Image.SAVE

    def test_jpeg_has_chroma_at_half_the_resolution(self, photo):
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, "JPEG", quality=55)
        assert Image.open(buffer).layer[0][1:3] == (2, 2)
        decoded = np.asarray(Image.open(buffer))
        np.testing.assert_array_equal(distort(photo, "jpeg", 0.0, None), decoded)

    def test_the_last_grid_of_double_jpeg_is_shifted(self):
        shade = np.linspace(40, 215, 128)[None, :, None]
        picture = np.broadcast_to(shade, (128, 128, 3)).round().astype(np.uint8)
        picture = distort(picture, "luma_noise", 0.2, rng(1))
        for seed in range(3):
            found = distort(picture, "double_jpeg", 0.5, rng(seed)).astype(float)
            steps = np.abs(np.diff(found.mean(2), axis=1)).mean(0)
            strengths = [steps[phase::8].mean() for phase in range(8)]
            _, across = rng(seed).integers(1, 8, 2)
            assert np.argmax(strengths) == 7 - across


class TestNoises:
    def test_poisson_grows_with_the_root_of_light(self):
        dark, light = (np.full((256, 256, 3), v, np.uint8) for v in (40, 160))
        spread = [distort(x, "poisson_noise", 0.4, rng()).std() for x in (dark, light)]
        assert spread[1] / spread[0] == pytest.approx(2, rel=0.03)

    def test_speckle_grows_with_light(self):
        dark, light = (np.full((256, 256, 3), v, np.uint8) for v in (40, 160))
        spread = [distort(x, "speckle_noise", 0.2, rng()).std() for x in (dark, light)]
        assert spread[1] / spread[0] == pytest.approx(4, rel=0.05)

    def test_luma_noise_has_no_color(self):
        found = distort(np.full((64, 64, 3), 128, np.uint8), "luma_noise", 0.5, rng())
        assert (found == found[..., :1]).all()
        assert found.std() > 5

    def test_grain_is_larger_than_a_pixel(self):
        gray = np.full((256, 256, 3), 128, np.uint8)

        def likeness(family):
            x = distort(gray, family, 0.5, rng())[..., 0].astype(float) - 128
            return (x[1:] * x[:-1]).mean() / x.var()

        assert abs(likeness("white_noise")) < 0.02
        assert likeness("grain") > 0.3


class TestOthers:
    def test_camera_shake_keeps_light_and_spreads_a_point(self):
        point = np.zeros((65, 65, 3), np.uint8)
        point[31:34, 31:34] = 255
        found = distort(point, "camera_shake", 0.5, rng())
        assert found.sum() / point.sum() == pytest.approx(1, abs=0.1)
        assert ndimage.center_of_mass(found[..., 0]) == pytest.approx((32, 32), abs=1)

    def test_uneven_blur_leaves_one_side_sharp(self, photo):
        found = distort(photo, "uneven_blur", 1.0, rng())
        same = (found == photo).all(-1)
        corners = [same[y, x] for y in HALVES for x in HALVES]
        assert max(corner.mean() for corner in corners) > 0.9
        assert min(corner.mean() for corner in corners) < 0.5

    def test_mean_shift_is_a_constant(self):
        gray = np.full((8, 8, 3), 128, np.uint8)
        found = distort(gray, "mean_shift", 0.0, rng())
        assert abs(int(found[0, 0, 0]) - 128) == round(0.06 * 255)

    def test_jitter_only_moves_pixels(self, photo):
        found = distort(photo, "jitter", 0.5, rng())
        assert set(map(tuple, found.reshape(-1, 3))) <= set(
            map(tuple, photo.reshape(-1, 3))
        )

    def test_color_diffusion_leaves_brightness(self, photo):
        gray = [
            np.asarray(Image.fromarray(x).convert("L"), float)
            for x in (photo, distort(photo, "color_diffusion", 0.5, rng()))
        ]
        assert np.abs(gray[0] - gray[1]).mean() < 2

    def test_color_quantise_counts(self, photo):
        found = distort(photo, "color_quantise", 1.0, rng())
        assert len(np.unique(found.reshape(-1, 3), axis=0)) == 4

    def test_ringing_leaves_nothing_above_its_limit(self):
        step = np.zeros((64, 64, 3), np.uint8)
        step[:, 32:] = 200
        found = distort(step, "ringing", 0.5, rng())[32, :, 0].astype(int)
        assert found.max() > 205  # overshoot

    def test_overexpose_never_darkens(self, photo):
        assert (distort(photo, "overexpose", 0.5, rng()) >= photo).all()


class TestMakeDistortedImages:
    def test_realistic(self, photo):
        asked = {"families": "realistic", "n_levels": 4, "image_size": 64}
        images = make_distorted_images([photo], include_references=True, **asked)
        assert images.family.tolist() == ["reference"] + 4 * ["realistic"]
        assert images.chain[0] == []
        for level, chain in enumerate(images.chain[1:]):
            assert len(chain) >= 2
            assert max(s for _, s in chain) == pytest.approx(level / 3)
        again = make_distorted_images([photo], **asked)
        assert all(map(np.array_equal, images.data[1:], again.data))

    def test_chain_of_single_families(self, photo):
        images = make_distorted_images(
            [photo], families=["jpeg", "webp"], n_levels=2, image_size=64
        )
        assert images.chain == [
            [("jpeg", 0.0)], [("jpeg", 1.0)], [("webp", 0.0)], [("webp", 1.0)],
        ]  # fmt: skip

    def test_all_families(self, photo):
        images = make_distorted_images(
            [photo], families="all", n_levels=2, image_size=64
        )
        assert images.family_names == list(FAMILIES)
        assert set(images.family) == set(FAMILIES)
