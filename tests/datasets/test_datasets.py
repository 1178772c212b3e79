"""Photographs, distortions and the graded data set, with real files and decoders."""

import os
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage
from skimage import data as skimage_data
from sklearn.datasets import load_sample_image

from diffqa_features.datasets import (
    load_sample_photos,
    make_distorted_images,
    make_procedural_images,
)
from diffqa_features.datasets._distortions import BASIC, FAMILIES, distort

# They do nothing to gray pictures.
COLOR_ONLY = {"desaturate", "oversaturate", "color_diffusion"}


@pytest.fixture(scope="module")
def photos():
    return load_sample_photos()


@pytest.fixture(scope="module")
def everything():
    """All families over five photographs, two of them gray, with the references."""
    photos = load_sample_photos(image_size=96)
    images = make_distorted_images(photos.data[:5], image_size=96, n_levels=4)
    return images, photos.data[:5]


def _few_colors(image):
    blue, red = np.moveaxis(np.asarray(Image.fromarray(image).convert("YCbCr")), 2, 0)[
        1:
    ]
    return max(blue.std(), red.std()) < 6


def same(a, b):
    return len(a) == len(b) and all(map(np.array_equal, a, b))


class TestSamplePhotos:
    def test_form(self, photos):
        assert len(photos.data) == len(photos.names) == len(photos.filenames) == 16
        assert {image.shape for image in photos.data} == {(192, 192, 3)}
        assert {image.dtype for image in photos.data} == {np.dtype(np.uint8)}
        assert len({image.tobytes() for image in photos.data}) == 16
        for name in photos.names:
            assert f"- {name}: " in photos.DESCR

    def test_whole_photos_are_those_of_the_packages(self):
        photos = load_sample_photos(image_size=None)
        whole = dict(zip(photos.names, photos.data, strict=True))
        assert len(whole) == 18
        np.testing.assert_array_equal(whole["china"], load_sample_image("china.jpg"))
        # These lie in the wheel, so that scikit-image does not download either.
        np.testing.assert_array_equal(whole["coffee"], skimage_data.coffee())
        np.testing.assert_array_equal(whole["retina"], skimage_data.retina())
        np.testing.assert_array_equal(whole["coins"][..., 1], skimage_data.coins())

    def test_a_photo_with_a_colour_profile_is_brought_to_srgb(self):
        photos = load_sample_photos(image_size=None)
        at = photos.names.index("page")
        with Image.open(photos.filenames[at]) as image:
            stored, profile = np.asarray(image), image.info["icc_profile"]
        # A printer's curve ("Dot Gain 20%"), as a table of 16-bit numbers.
        curve = profile.rindex(b"curv") + 8
        count = int.from_bytes(profile[curve : curve + 4], "big")
        table = np.frombuffer(profile, ">u2", count, curve + 4) / 65535
        linear = np.interp(stored / 255, np.linspace(0, 1, count), table)
        curved = 1.055 * linear ** (1 / 2.4) - 0.055
        expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, curved)
        np.testing.assert_allclose(photos.data[at][..., 0], expected, atol=1.5)
        assert np.abs(expected - stored).max() > 15

    def test_central_square_is_reduced_without_aliasing(self):
        coffee = skimage_data.coffee()[:, 100:500]  # 400 x 600 at first
        photos = load_sample_photos(image_size=100)
        found = photos.data[photos.names.index("coffee")].astype(float)
        blocks = coffee.reshape(100, 4, 100, 4, 3).mean((1, 3))
        assert np.abs(found - blocks).mean() < 2.5
        assert np.abs(found - coffee[::4, ::4]).mean() > 3.5  # what aliasing gives

    def test_native_squares_are_not_resampled(self):
        photos = load_sample_photos(image_size=512)
        found = photos.data[photos.names.index("astronaut")]
        np.testing.assert_array_equal(found, skimage_data.astronaut())

    @pytest.mark.parametrize(("size", "count"), [(172, 18), (191, 17), (400, 14)])
    def test_nothing_is_enlarged(self, size, count):
        photos = load_sample_photos(image_size=size)
        assert len(photos.data) == count
        for filename in photos.filenames:
            with Image.open(filename) as image:
                assert min(image.size) >= size

    def test_too_large_a_size(self):
        with pytest.raises(ValueError, match="No sample photograph has 2000 pixels"):
            load_sample_photos(image_size=2000)
        with pytest.raises(ValueError, match="'image_size' parameter of load_sample"):
            load_sample_photos(image_size=0)


class TestDistortions:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_mildest_changes_and_strongest_changes_more(self, family, photos):
        compared = 0
        for image in photos.data[::2]:
            if family in COLOR_ONLY and (image == image[..., :1]).all():
                continue
            if family == "color_diffusion" and _few_colors(image):
                continue  # nothing runs where everything has one tint
            difference = [
                np.abs(
                    image.astype(float)
                    - distort(image, family, severity, np.random.default_rng(0))
                ).mean()
                for severity in (0, 1)
            ]
            assert 0.1 < difference[0] < 0.7 * difference[1]
            compared += 1
        assert compared >= 3  # coloured ones, where gray ones are left out

    @pytest.mark.parametrize("family", FAMILIES)
    def test_input_is_left_alone(self, family, photos):
        image = photos.data[0].copy()
        found = distort(image, family, 0.5, np.random.default_rng(0))
        np.testing.assert_array_equal(image, photos.data[0])
        assert (found.shape, found.dtype) == (image.shape, image.dtype)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_oblong_pictures(self, family):
        image = make_procedural_images(1, image_size=64)[0][:40]
        found = distort(image, family, 1.0, np.random.default_rng(0))
        assert found.shape == (40, 64, 3)

    def test_noise_has_the_stated_strength(self):
        gray = np.full((256, 256, 3), 128, np.uint8)
        found = distort(gray, "white_noise", 0.5, np.random.default_rng(0))
        assert found.std() == pytest.approx(255 * np.sqrt(0.02 * 0.25), rel=0.02)
        found = distort(gray, "impulse_noise", 1.0, np.random.default_rng(0))
        assert (found != 128).any(-1).mean() == pytest.approx(0.15, rel=0.03)
        luma = distort(gray, "color_noise", 1.0, np.random.default_rng(0)) @ (
            np.array([0.299, 0.587, 0.114])
        )
        assert abs(luma.mean() - 128) < 2

    def test_blurs_keep_the_mean_and_spread_a_point(self):
        point = np.zeros((65, 65, 3), np.uint8)
        point[31:34, 31:34] = 255
        for family in ("gaussian_blur", "lens_blur", "motion_blur"):
            found = distort(point, family, 0.5, np.random.default_rng(0))
            total = found.sum() / point.sum()
            assert total == pytest.approx(1, abs=0.1)
            center = ndimage.center_of_mass(found[..., 0])
            assert center == pytest.approx((32, 32), abs=0.2)
            assert (found[..., 0] > 0).sum() > 9

    def test_quantise_leaves_the_stated_number_of_levels(self, photos):
        found = distort(photos.data[0], "quantise", 1.0, np.random.default_rng(0))
        assert np.unique(found).tolist() == [0, 128, 255]

    def test_unknown_family(self, photos):
        with pytest.raises(ValueError, match=r"family 'fog'\. Known: gaussian_blur, "):
            distort(photos.data[0], "fog", 0.5, np.random.default_rng(0))


class TestDistortedImages:
    def test_form(self, everything):
        images, _ = everything
        n = 5 * 16 * 4 - 2 * 2 * 4  # two gray photographs, two families of colour
        assert len(images.data) == n
        for name in ("target", "groups", "family", "level", "full_reference"):
            assert images[name].shape == (n,)
        assert images.target.dtype == np.float64
        np.testing.assert_array_equal(images.target, -images.level)
        assert set(images.level) == {1, 2, 3, 4}
        assert list(dict.fromkeys(images.family)) == images.family_names
        assert images.family_names == list(BASIC)
        assert list(dict.fromkeys(images.groups)) == [
            f"reference00{i}" for i in range(5)
        ]
        assert f"{n} pictures from 5 references" in images.DESCR

    def test_severities_are_even_steps(self, everything):
        images, references = everything
        for level, severity in ((1, 0), (2, 1 / 3), (3, 2 / 3), (4, 1)):
            found = np.flatnonzero(
                (images.groups == "reference002")
                & (images.family == "oversharpen")
                & (images.level == level)
            )
            expected = distort(references[2], "oversharpen", severity, None)
            np.testing.assert_array_equal(images.data[found[0]], expected)

    def test_full_reference_is_ssim(self, everything):
        images, references = everything
        luma = np.array([0.299, 0.587, 0.114])

        def blur(x):  # radius 5 as Wang et al.; borders are left out below
            return ndimage.gaussian_filter(x, 1.5, radius=5)

        for i in range(0, len(images.data), 23):
            x = references[int(images.groups[i][-1])] @ luma
            y = images.data[i] @ luma
            mx, my = blur(x), blur(y)
            vx, vy = blur(x * x) - mx**2, blur(y * y) - my**2
            cov = blur(x * y) - mx * my
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            ssim = (2 * mx * my + c1) * (2 * cov + c2)
            ssim /= (mx**2 + my**2 + c1) * (vx + vy + c2)
            expected = ssim[5:-5, 5:-5].mean()
            assert images.full_reference[i] == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("family", BASIC)
    def test_levels_get_worse(self, everything, family):
        images, references = everything
        similarity, difference = [], []
        for level in range(1, 5):
            at = np.flatnonzero((images.family == family) & (images.level == level))
            similarity.append(images.full_reference[at].mean())
            difference.append(
                np.mean(
                    [
                        np.abs(
                            images.data[i].astype(float)
                            - references[int(images.groups[i][-1])]
                        ).mean()
                        for i in at
                    ]
                )
            )
        assert (np.diff(difference) > 0).all()
        if family != "desaturate":  # keeps the luminance
            assert (np.diff(similarity) < 0).all()

    def test_a_picture_depends_on_nothing_else_in_the_call(self, everything, photos):
        images, references = everything
        some = ["motion_blur", "white_noise"]
        alone = make_distorted_images(
            references[3:1:-1], families=some[::-1], n_levels=4, image_size=96
        )
        assert list(alone.family[[0, -1]]) == some[::-1]
        for i, group in enumerate(("reference003", "reference002")):
            for family in some:
                whole = (images.groups == group) & (images.family == family)
                part = (alone.groups == f"reference00{i}") & (alone.family == family)
                assert same(
                    [images.data[k] for k in np.flatnonzero(whole)],
                    [alone.data[k] for k in np.flatnonzero(part)],
                )

    def test_seed(self, photos):
        def noise(seed, family="white_noise"):
            return make_distorted_images(
                photos.data[:1], families=family, n_levels=2, random_state=seed
            ).data

        assert same(noise(3), noise(3))
        assert same(noise(3), noise(np.random.RandomState(3)))
        assert not same(noise(3), noise(4))
        assert same(noise(3, "jpeg"), noise(4, "jpeg"))

    def test_levels_and_pictures_have_noise_of_their_own(self, photos):
        images = make_distorted_images(
            photos.data[:2], families="white_noise", n_levels=2
        )
        noise = [
            (image.astype(float) - photos.data[i // 2]).ravel()
            for i, image in enumerate(images.data)
        ]
        correlation = np.abs(np.corrcoef(noise) - np.eye(4))
        assert correlation.max() < 0.05

    def test_default_references_are_the_sample_photos(self, photos):
        images = make_distorted_images(
            families="jpeg", n_levels=2, include_references=True
        )
        assert list(dict.fromkeys(images.groups)) == photos.names
        assert len(images.data) == 16 * 3
        first = images.level == 0
        assert same([images.data[i] for i in np.flatnonzero(first)], photos.data)
        assert set(images.family[first]) == {"reference"}
        assert (images.full_reference[first] == 1).all()
        assert (images.target[first] == 0).all()
        assert not np.signbit(images.target[first]).any()

    def test_unchanged_pictures_are_left_out(self, photos):
        gray = photos.data[photos.names.index("brick")]
        flat = np.full((64, 64, 3), 128, np.uint8)
        images = make_distorted_images(
            [gray, flat],
            families=["desaturate", "gaussian_blur", "white_noise"],
            n_levels=2,
            image_size=64,
        )
        assert list(zip(images.groups, images.family, images.level, strict=True)) == [
            ("reference000", "gaussian_blur", 1),
            ("reference000", "gaussian_blur", 2),
            ("reference000", "white_noise", 1),
            ("reference000", "white_noise", 2),
            ("reference001", "white_noise", 1),
            ("reference001", "white_noise", 2),
        ]

    def test_return_X_y(self, photos):
        kwargs = {"families": "jpeg", "n_levels": 2}
        data, target = make_distorted_images(photos.data, return_X_y=True, **kwargs)
        images = make_distorted_images(photos.data, **kwargs)
        assert same(data, images.data)
        np.testing.assert_array_equal(target, images.target)
        assert images.frame is None


class TestReferences:
    def test_forms_agree_and_files_give_the_names(self, photos, tmp_path):
        array = photos.data[0]
        path = tmp_path / "my photo.png"
        Image.fromarray(array).save(path)
        images = make_distorted_images(
            [array, Image.fromarray(array), str(path), path],
            families="impulse_noise",
            n_levels=2,
        )
        assert list(images.groups[::2]) == [
            "reference000",
            "reference001",
            "my photo",
            "my photo-2",
        ]
        assert same(images.data[:2], images.data[2:4])
        assert same(images.data[:2], images.data[4:6])

    def test_orientation_of_files_is_applied(self, photos, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        path = tmp_path / "a.png"
        Image.fromarray(photos.data[0][::-1, ::-1]).save(path, exif=exif)
        images = make_distorted_images(
            [path], families="jpeg", n_levels=2, include_references=True
        )
        np.testing.assert_array_equal(images.data[0], photos.data[0])

    def test_sizes(self, photos):
        wide = np.concatenate([photos.data[0], photos.data[1]], axis=1)
        cut = make_distorted_images([wide], families="jpeg", n_levels=2)
        assert cut.data[0].shape == (192, 192, 3)
        whole = make_distorted_images(
            [wide], families="jpeg", n_levels=2, image_size=None
        )
        assert whole.data[0].shape == (192, 384, 3)

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            (np.zeros((100, 300, 3), np.uint8), r"Row 1 \(array\): 300 x 100 pixels"),
            (np.zeros((2, 200, 200, 3), np.uint8), r"Row 1 \(array\): a video"),
            ("missing.png", r"Row 1 \('missing.png'\): no such file"),
        ],
    )
    def test_bad_reference_is_named(self, photos, reference, message):
        with pytest.raises((ValueError, OSError), match=message):
            make_distorted_images([photos.data[0], reference], families="jpeg")

    def test_no_reference(self):
        with pytest.raises(ValueError, match=r"0 sample\(s\)"):
            make_distorted_images([])


class TestFolder:
    KWARGS = {"families": ["white_noise", "jpeg"], "n_levels": 2}

    def make(self, photos, folder, **kwargs):
        return make_distorted_images(
            photos.data[:2], folder=folder, **(self.KWARGS | kwargs)
        )

    def test_files_hold_the_pictures(self, photos, tmp_path):
        folder = tmp_path / "new" / "folder"
        images = self.make(photos, folder, include_references=True)
        in_memory = self.make(photos, None, include_references=True)
        assert [Path(path).name for path in images.data[:5]] == [
            "reference000_reference_0.png",
            "reference000_white_noise_1.png",
            "reference000_white_noise_2.png",
            "reference000_jpeg_1.png",
            "reference000_jpeg_2.png",
        ]
        assert all(type(path) is str for path in images.data)
        assert sorted(images.data) == sorted(map(str, folder.iterdir()))
        decoded = [np.asarray(Image.open(path)) for path in images.data]
        assert same(decoded, in_memory.data)
        np.testing.assert_array_equal(images.full_reference, in_memory.full_reference)

    def test_present_files_are_kept_and_others_replaced(self, photos, tmp_path):
        images = self.make(photos, tmp_path)
        paths = [Path(path) for path in images.data]
        for path in paths:
            os.utime(path, (1, 1))
        good = paths[1].read_bytes()
        paths[1].write_bytes(good[:-20])
        paths[2].unlink()
        self.make(photos, tmp_path)
        fresh = [path.stat().st_mtime != 1 for path in paths]
        assert [i for i, is_fresh in enumerate(fresh) if is_fresh] == [1, 2]
        assert paths[1].read_bytes() == good

    def test_files_obey_the_umask(self, photos, tmp_path):
        path = Path(self.make(photos, tmp_path).data[0])
        (tmp_path / "other").touch()
        assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
        assert stat.S_ISREG(path.stat().st_mode)

    def test_a_failed_write_leaves_nothing(self, photos, tmp_path):
        path = Path(self.make(photos, tmp_path).data[0])
        path.unlink()
        path.mkdir()  # a file cannot take this name
        (path / "inside").touch()
        with pytest.raises(OSError):
            self.make(photos, tmp_path)
        assert not [p for p in tmp_path.iterdir() if p.suffix != ".png"]

    def test_as_frame(self, photos, tmp_path):
        images = self.make(photos, tmp_path, as_frame=True)
        assert list(images.data.columns) == ["path"]
        assert isinstance(images.target, pd.Series)
        assert list(images.frame.columns) == [
            "path",
            "group",
            "family",
            "level",
            "full_reference",
            "target",
        ]
        pd.testing.assert_frame_equal(images.frame[["path"]], images.data)
        np.testing.assert_array_equal(images.frame["group"], images.groups)
        np.testing.assert_array_equal(images.frame["target"], -images.level)
        X, y = self.make(photos, tmp_path, as_frame=True, return_X_y=True)
        pd.testing.assert_frame_equal(X, images.data)
        pd.testing.assert_series_equal(y, images.target)

    def test_as_frame_needs_a_folder(self, photos):
        with pytest.raises(ValueError, match="as_frame=True needs folder"):
            self.make(photos, None, as_frame=True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_levels": 1}, "The 'n_levels' parameter of make_distorted_images must be"),
        ({"image_size": 8}, "The 'image_size' parameter of make_distorted_images"),
        ({"families": "fog"}, "The 'families' parameter of make_distorted_images"),
        ({"families": ["jpeg", "fog"]}, "Got the unknown 'fog' instead"),
        ({"families": ["jpeg", "jpeg"]}, "one or more different names"),
        ({"families": {"jpeg", "white_noise"}}, "a sequence with an order"),
        ({"families": []}, "one or more different names"),
        ({"references": "photo.png"}, "The 'references' parameter"),
        ({"random_state": "x"}, "The 'random_state' parameter"),
    ],
)
def test_bad_parameters(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_distorted_images(**kwargs)


class TestProceduralImages:
    def test_a_longer_run_begins_with_the_shorter(self):
        short = make_procedural_images(2, image_size=48, random_state=5)
        longer = make_procedural_images(4, image_size=48, random_state=5)
        assert same(short, longer[:2])
        assert len({image.tobytes() for image in longer}) == 4

    def test_seed_and_form(self):
        first, second = (
            make_procedural_images(1, image_size=40, random_state=seed)[0]
            for seed in (0, 1)
        )
        assert not np.array_equal(first, second)
        assert (first.shape, first.dtype) == ((40, 40, 3), np.uint8)

    def test_spectrum_is_natural(self):
        # Amplitude falls about as 1/f, as in photographs: slope -1 in log-log.
        slopes = []
        for image in make_procedural_images(12, image_size=128):
            luma = image.mean(-1) * np.outer(np.hanning(128), np.hanning(128))
            amplitude = np.abs(np.fft.fft2(luma - luma.mean()))
            f = np.hypot(*np.meshgrid(*[np.fft.fftfreq(128) * 128] * 2))
            bins = np.arange(4, 48)
            radial = [amplitude[(f >= b) & (f < b + 1)].mean() for b in bins]
            slopes.append(np.polyfit(np.log(bins), np.log(radial), 1)[0])
        assert -1.6 < np.median(slopes) < -0.7
