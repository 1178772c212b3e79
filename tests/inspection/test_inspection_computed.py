"""Displays that compute: what they draw against numbers from elsewhere."""

import diffusers
import matplotlib as mpl
import numpy as np
import pytest
import torch
from counting import counting
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch
from video_files import encode, numbers_in, pan

from diffqa_features import DiffusionQAFeatures, datasets
from diffqa_features._backbone.backbone import Backbone, load_backbone
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._engine.passes import Passes
from diffqa_features._media.rows import as_rows, open_media
from diffqa_features.evaluation import bootstrap_interval
from diffqa_features.inspection import (
    EmbeddingDisplay,
    FrameScoresDisplay,
    NoiseRoundTripDisplay,
    TimestepCurveDisplay,
)
from diffqa_features.inspection._round_trip import round_trip

mpl.use("agg")
import matplotlib.pyplot as plt  # after the choice of a backend


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def photos():
    """Distorted photographs in three parts, none of which shares a photograph."""
    whole = datasets.load_sample_photos(image_size=64).data
    options = {"families": ["jpeg", "gaussian_blur"], "n_levels": 2, "image_size": 64}
    return [
        datasets.make_distorted_images(whole[at : at + 2], **options)
        for at in (0, 2, 4)
    ]


class TestTimestepCurveDisplay:
    def test_from_estimator(self, photos, small_folder):
        train, *tests = photos
        worse = Bunch(**tests[1])  # degradation in the place of quality
        worse.target, worse.higher_is_better = -worse.target, False
        features = DiffusionQAFeatures(str(small_folder), image_size=64)
        model = make_pipeline(features, StandardScaler(), Ridge(10))
        with counting(small_folder) as count:
            display = TimestepCurveDisplay.from_estimator(
                model, train, {"B": tests[0], "C": worse}, timesteps=[400, 50],
                n_resamples=200,
            )  # fmt: skip
        rows = sum(len(part.data) for part in photos)
        assert count.vae_rows == rows
        assert count.unet_rows == rows * 2 * 2
        assert display.timesteps.tolist() == [50, 400]
        predictions = []
        for t in (50, 400):
            model.set_params(diffusionqafeatures__timesteps=t)
            model.fit(train.data, train.target)
            predictions.append([model.predict(part.data) for part in tests])
        each = zip("BC", tests, display.lines_, zip(*predictions))
        for name, part, line, of_timesteps in each:
            expected = []
            for predicted in of_timesteps:
                expected.append(
                    bootstrap_interval(
                        part.target, predicted, groups=part.groups, n_resamples=200
                    )
                )
                srcc = stats.spearmanr(part.target, predicted).statistic
                assert expected[-1][0] == pytest.approx(srcc)
            value, low, high = np.transpose(expected)
            np.testing.assert_allclose(line.get_ydata(), value, rtol=1e-6)
            assert line.get_xdata().tolist() == [50, 400]
            np.testing.assert_allclose(display.bands[name], [low, high], rtol=1e-6)
        band = display.bands_[0].get_paths()[0].vertices
        for end in display.bands["B"].ravel():
            assert np.isclose(band[:, 1], end).any()
        texts = [text.get_text() for text in display.legend_.get_texts()]
        assert texts == ["B", "C"]

    def test_from_predictions(self):
        rng = np.random.default_rng(0)
        y = {"A": rng.normal(size=30), "B": rng.normal(size=20)}
        noisy = {n: v + rng.normal(size=(2, len(v))) for n, v in y.items()}
        groups = {"A": np.repeat(np.arange(10), 3)}
        display = TimestepCurveDisplay.from_predictions(
            y, noisy, timesteps=[100, 10], groups=groups, metric="plcc",
            mapping=None, confidence=0.9, n_resamples=100,
        )  # fmt: skip
        assert display.timesteps.tolist() == [10, 100]
        for name in "AB":
            expected = [np.corrcoef(y[name], p)[0, 1] for p in noisy[name][::-1]]
            np.testing.assert_allclose(display.values[name], expected)
        by_group = bootstrap_interval(
            y["A"], noisy["A"][1], metric="plcc", groups=groups["A"], confidence=0.9,
            n_resamples=100,
        )  # fmt: skip
        np.testing.assert_allclose(display.bands["A"][:, 0], by_group[1:])
        assert display.ax_.get_ylabel() == "PLCC with 90 % interval"

    def test_what_does_not_fit_is_refused(self, photos):
        train, test, _ = photos
        curve = TimestepCurveDisplay.from_estimator
        model = DiffusionQAFeatures(image_size=64)
        with pytest.raises(ValueError, match=r"range \[0, 999\]"):
            curve(model, train, {"B": test}, timesteps=[50, 1000])
        with pytest.raises(ValueError, match="distinct ints"):
            curve(model, train, {"B": test}, timesteps=[50, 50])
        with pytest.raises(ValueError, match="0 parameters called 'timesteps'"):
            curve(Ridge(), train, {"B": test}, timesteps=[50])
        with pytest.raises(ValueError, match="no parameter 'timestep', but"):
            curve(model, train, {"B": test}, timesteps=[50], parameter="timestep")
        with pytest.raises(ValueError, match="leaks"):
            model = make_pipeline(model, Ridge())
            curve(model, train, {"B": train}, timesteps=[50])
        with pytest.raises(ValueError, match="'metric' parameter must be one of"):
            curve(model, train, {"B": test}, timesteps=[50], metric=("srcc", "plcc"))
        with pytest.raises(ValueError, match=r"\['A'\], y_pred has \['B'\]"):
            TimestepCurveDisplay.from_predictions({"A": 1}, {"B": 1}, timesteps=[1])
        with pytest.raises(ValueError, match="inconsistent numbers"):
            TimestepCurveDisplay.from_predictions(
                {"A": [1, 2]}, {"A": [[1, 2]]}, timesteps=[1, 2]
            )


class TestEmbeddingDisplay:
    def test_pca_of_what_the_regressor_sees(self, photos, small_folder):
        part = photos[0]
        features = DiffusionQAFeatures(str(small_folder), image_size=64)
        model = make_pipeline(features, Ridge())
        model.fit(part.data, part.target)
        display = EmbeddingDisplay.from_estimator(
            model, part.data, y=part.target, labels=part.family, method="pca"
        )
        features = model[0].transform(part.data).astype(float)
        scaled = (features - features.mean(0)) / features.std(0)
        u, s, _ = np.linalg.svd(scaled, full_matrices=False)
        for column in range(2):
            found, expected = display.points[:, column], (u * s)[:, column]
            sign = np.sign(found @ expected)
            np.testing.assert_allclose(found, sign * expected, atol=1e-4)
        share = f"{100 * s[0] ** 2 / (s**2).sum():.0f}"
        assert display.ax_.get_xlabel() == f"component 1 ({share} % of variance)"
        for name, scatter in zip(["gaussian_blur", "jpeg"], display.scatters_):
            chosen = part.family == name
            np.testing.assert_array_equal(scatter.get_offsets(), display.points[chosen])
            np.testing.assert_array_equal(scatter.get_array(), part.target[chosen])
            assert scatter.get_clim() == (-2, -1)  # one scale for all markers

    def test_tsne(self):
        rng = np.random.default_rng(0)
        features = np.concatenate([rng.normal(c, 1, (15, 6)) for c in (0, 20)])
        labels = np.repeat(["near", "far"], 15)
        display = EmbeddingDisplay.from_features(features, labels=labels)
        expected = TSNE(init="pca", perplexity=29 / 3, random_state=0).fit_transform(
            StandardScaler().fit_transform(features)
        )
        np.testing.assert_array_equal(display.points, expected)
        _, nearest = NearestNeighbors(n_neighbors=2).fit(display.points).kneighbors()
        assert (labels[nearest] == labels[:, None]).all()
        assert len({tuple(s.get_facecolor()[0]) for s in display.scatters_}) == 2
        assert display.colorbar_ is None
        drawn = [tick.label1.get_visible() for tick in display.ax_.xaxis.majorTicks]
        assert not any(drawn)  # its numbers mean nothing

    def test_other_methods(self):
        from sklearn.decomposition import FastICA

        features = np.random.default_rng(0).uniform(size=(20, 4))
        method = FastICA(2, random_state=0, whiten="unit-variance")
        display = EmbeddingDisplay.from_features(features, method=method)
        assert display.points.shape == (20, 2)
        assert not hasattr(method, "components_")  # a clone was fitted
        with pytest.raises(ValueError, match=r"\(20, 4\) in the place of \(20, 2\)"):
            EmbeddingDisplay.from_features(features, method=StandardScaler())

    def test_what_does_not_fit_is_refused(self):
        features = np.ones((5, 3))
        with pytest.raises(ValueError, match="'method' parameter must be 'tsne'"):
            EmbeddingDisplay.from_features(features, method="umap")
        with pytest.raises(ValueError, match="inconsistent numbers"):
            EmbeddingDisplay.from_features(features, labels=["a"])
        with pytest.raises(ValueError, match="score of row 2 is nan"):
            EmbeddingDisplay.from_features(features, y=[1, 2, np.nan, 4, 5])
        features[3, 1] = np.nan
        with pytest.raises(ValueError, match="features of row 3 are not finite"):
            EmbeddingDisplay.from_features(features)
        with pytest.raises(ValueError, match="four rows and two columns"):
            EmbeddingDisplay.from_features(np.ones((3, 2)))
        with pytest.raises(TypeError, match="must have a method transform"):
            EmbeddingDisplay.from_estimator(Ridge(), features)


class FrameByFrame(BaseEstimator):
    """Scores frames one by one with a fitted Pipeline, as pictures."""

    def __init__(self, model):
        self.model = model

    def frame_scores(self, X):
        found = []
        for row in as_rows(X):
            media = open_media(row)
            chosen = media.choose(frame_rate=2.0)
            scores = self.model.predict(list(media.read(chosen)))
            weight = np.arange(1, len(chosen) + 1.0)
            times = media.times()
            found.append(
                {
                    "score": scores,
                    "frame": chosen,
                    "time": None if times is None else times[chosen],
                    "weight": weight / weight.sum(),
                }
            )
        return found


@pytest.fixture(scope="module")
def scorer(photos, small_folder):
    features = DiffusionQAFeatures(str(small_folder), image_size=64)
    model = make_pipeline(features, StandardScaler(), Ridge(10))
    return FrameByFrame(model.fit(photos[0].data, photos[0].target))


class TestFrameScoresDisplay:
    def test_video_file(self, scorer, tmp_path):
        frames = pan(50)
        path = encode(tmp_path / "pan.mp4", frames, rate=10)
        display = FrameScoresDisplay.from_estimator(
            scorer, [frames, str(path)], index=1, n_thumbnails=3
        )
        (found,) = scorer.frame_scores([str(path)])
        # Twice per second from the first frame on: every fifth of ten per second.
        assert display.frames.tolist() == list(range(0, 50, 5))
        x, y = display.line_.get_data()
        np.testing.assert_allclose(x, np.arange(10) / 2)
        np.testing.assert_allclose(y, found["score"], rtol=1e-4)
        assert display.ax_.get_xlabel() == "time (s)"
        bars = [bar.get_height() for bar in display.weight_ax_.patches]
        np.testing.assert_allclose(bars, found["weight"])
        # Middles of three parts of ten scores; the pictures bear their numbers.
        assert list(display.thumbnails) == [1, 5, 8]
        shown = [ax.images[0].get_array() for ax in display.thumbnail_axes_]
        assert numbers_in(shown) == [5, 25, 40]
        lines = [a for a in display.ax_.patches if hasattr(a, "xy2")]
        assert [line.xy2 for line in lines] == [(x[i], y[i]) for i in (1, 5, 8)]

    def test_array_has_frame_numbers(self, scorer):
        clip = pan(4)
        display = FrameScoresDisplay.from_estimator(scorer, [clip], n_thumbnails=0)
        assert display.times is None
        assert display.ax_.get_xlabel() == "frame"
        np.testing.assert_array_equal(display.line_.get_xdata(), np.arange(4))
        assert display.thumbnail_axes_ == []

    def test_from_scores(self, tmp_path):
        path = encode(tmp_path / "pan.mp4", pan(20), rate=10)
        display = FrameScoresDisplay.from_scores(
            path, [3.0, 1.0, 2.0], frames=[2, 10, 19]
        )
        np.testing.assert_allclose(display.times, [0.2, 1.0, 1.9])
        assert numbers_in(display.thumbnails.values()) == [2, 10, 19]
        assert display.weight_ax_ is None
        big = np.zeros((2, 400, 800, 3), np.uint8)
        display = FrameScoresDisplay.from_scores(big, [1, 2])
        assert display.thumbnails[0].shape == (80, 160, 3)

    def test_what_does_not_fit_is_refused(self):
        clip = pan(4)

        class Wrong(BaseEstimator):
            def __init__(self, answer=None):
                self.answer = answer

            def frame_scores(self, X):
                return self.answer

        draw = FrameScoresDisplay.from_scores
        with pytest.raises(TypeError, match="Ridge has no method frame_scores"):
            FrameScoresDisplay.from_estimator(Ridge(), [clip])
        with pytest.raises(TypeError, match="list with one mapping per row"):
            FrameScoresDisplay.from_estimator(Wrong([1, 2]), [clip])
        with pytest.raises(ValueError, match="must give 'score' and 'frame'"):
            FrameScoresDisplay.from_estimator(Wrong([{"score": [1]}]), [clip])
        with pytest.raises(ValueError, match=r"increase within \[0, 4\)"):
            draw(clip, [1, 2], frames=[0, 4])
        with pytest.raises(ValueError, match=r"increase within \[0, 4\)"):
            draw(clip, [1, 2], frames=[1, 0])
        with pytest.raises(ValueError, match="int frame number for each of 2"):
            draw(clip, [1, 2], frames=[0])
        with pytest.raises(ValueError, match="weight has 1 values in the place of 2"):
            draw(clip, [1, 2], weights=[1])
        with pytest.raises(ValueError, match="must not be negative"):
            draw(clip, [1, 2], weights=[1, -1])
        with pytest.raises(ValueError, match="score contains NaN"):
            draw(clip, [1, np.nan])


class TestNoiseRoundTripDisplay:
    @staticmethod
    def by_diffusers(folder, view, timesteps, features):
        """The same with the library's own whole VAE and DDIM scheduler."""
        # Not of the loaded one: that may come from a copy which has changed since.
        info = describe_backbone(folder)
        folder, name = info.folder, info.vae_class
        vae = getattr(diffusers, name).from_pretrained(folder / "vae").eval()
        unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
        scheduler = diffusers.DDIMScheduler.from_pretrained(
            folder / "scheduler", clip_sample=False, thresholding=False
        )
        scheduler.set_timesteps(1000)
        passes = Passes(str(folder), "cpu", "float32", features.random_state)
        states = passes.backbone.condition([""]).states

        def decode(latents):
            pixels = vae.decode(latents / vae.config["scaling_factor"]).sample[0]
            return (pixels.clamp(-1, 1) / 2 + 0.5).permute(1, 2, 0).numpy() * 255

        with torch.no_grad():
            pixels = torch.from_numpy(view).permute(2, 0, 1)[None] / 127.5 - 1
            encoded = vae.encode(pixels)
            is_kl = hasattr(encoded, "latent_dist")
            clean = encoded.latent_dist.mode() if is_kl else encoded.latents
            clean = clean * vae.config["scaling_factor"]
            noised, restored = [], []
            for t in timesteps:
                noise = passes.noise(t, clean.shape[1:])[None]
                noisy = scheduler.add_noise(clean, noise, torch.tensor([t]))
                output = unet(noisy, t, states).sample
                step = scheduler.step(output, t, noisy)
                noised.append(decode(noisy))
                restored.append(decode(step.pred_original_sample))
            return decode(clean), noised, restored

    @pytest.mark.parametrize("kind", ["tiny", "sd1", "sd2"])
    def test_one_step_as_diffusers_does_it(self, kind, model_folders):
        from skimage.metrics import structural_similarity

        backbone = str(model_folders.get(kind, kind))
        features = DiffusionQAFeatures(backbone, image_size=64, random_state=3)
        (image,) = datasets.load_sample_photos(image_size=64).data[:1]
        display = NoiseRoundTripDisplay.from_estimator(
            features, [image], timesteps=(95, 700)
        )
        decoded, noised, restored = self.by_diffusers(
            backbone, image, (95, 700), features
        )
        # Rounded to 8 bits, after sums in another order.
        np.testing.assert_allclose(display.decoded, decoded, atol=0.6)
        np.testing.assert_allclose(display.noised, noised, atol=0.6)
        np.testing.assert_allclose(display.restored, restored, atol=0.6)
        np.testing.assert_array_equal(display.image, image)
        alphas = load_backbone(backbone).alphas_cumprod
        np.testing.assert_allclose(
            display.noise_levels, [(1 - alphas[t]) ** 0.5 for t in (95, 700)]
        )
        gray = [p @ [0.299, 0.587, 0.114] for p in (image, display.decoded)]
        ssim = structural_similarity(
            *gray, data_range=255, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )  # fmt: skip
        assert display.similarity[0] == pytest.approx(ssim)
        shown = [[panel.images[0].get_array() for panel in r] for r in display.axes_]
        np.testing.assert_array_equal(shown[0], [image, *display.noised])
        np.testing.assert_array_equal(shown[1], [display.decoded, *display.restored])
        assert [ax.get_title() for ax in display.axes_[0]] == [
            "picture", "t = 95", "t = 700",
        ]  # fmt: skip
        note = f"denoised\nSSIM {display.similarity[1]:.2f}"
        assert display.axes_[1, 1].get_xlabel() == note
        assert load_backbone(backbone)._vae.decoder is None  # it was let go

    def test_several_steps_by_hand(self):
        passes = Passes("tiny", "cpu", "float32", 0)
        (image,) = datasets.load_sample_photos(image_size=64).data[:1]
        *_, restored = round_trip(passes, image, (300,), "a photo.", n_steps=3)
        backbone = passes.backbone
        states = backbone.condition(["a photo."]).states
        alphas = backbone.alphas_cumprod
        z = torch.from_numpy(passes.latents([image]))
        z = alphas[300] ** 0.5 * z + (1 - alphas[300]) ** 0.5 * passes.noise(
            300, z.shape[1:]
        )
        for here, there in [(300, 200), (200, 100), (100, None)]:
            a = alphas[here]
            with torch.no_grad():
                noise = backbone.unet(z.float(), here, states).sample
            clean = (z - (1 - a) ** 0.5 * noise) / a**0.5
            if there is not None:
                b = alphas[there]
                z = b**0.5 * clean + (1 - b) ** 0.5 * noise
        vae = diffusers.AutoencoderTiny.from_pretrained(backbone.info.folder / "vae")
        with torch.no_grad():
            pixels = vae.decode(clean.float()).sample[0].clamp(-1, 1)
        expected = (pixels.permute(1, 2, 0).numpy() + 1) * 127.5
        np.testing.assert_allclose(restored[0], expected, atol=1)

    def test_denoising_brings_the_picture_nearer(self):
        photos = datasets.load_sample_photos(image_size=96).data[:3]
        for photo in photos:
            display = NoiseRoundTripDisplay.from_estimator(
                DiffusionQAFeatures(image_size=96), [photo], timesteps=(200,)
            )
            # In pixels, against what the decoder gives without any noise.
            near, far = (
                np.square(display.decoded - picture.astype(float)).mean()
                for picture in (display.restored[0], display.noised[0])
            )
            assert near < 0.8 * far

    @pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
    def test_estimate_and_noise_make_up_what_was_seen(self, kind, small_folder):
        class Model:
            alphas_cumprod = load_backbone(str(small_folder)).alphas_cumprod
            info = Bunch(prediction_type=kind)
            scales = load_backbone(str(small_folder)).scales

        noisy, output = torch.randn(2, 1, 4, 8, 8)
        for t in (10, 900):
            signal, sigma = Model.scales(t)
            clean = Backbone.to_clean(Model, output, noisy, t)
            noise = Backbone.to_noise(Model, output, noisy, t)
            torch.testing.assert_close(
                signal * clean + sigma * noise, noisy, rtol=1e-4, atol=1e-4
            )

    def test_view_index_and_video(self):
        wide = pan(5, height=64, width=96)
        features = DiffusionQAFeatures(image_size=64, view="crop")
        display = NoiseRoundTripDisplay.from_estimator(
            features, [np.zeros((8, 8, 3), np.uint8), wide], index=1, timesteps=[50]
        )
        np.testing.assert_array_equal(display.image, wide[2][:, 16:80])
        assert display.axes_.shape == (2, 2)
        with pytest.raises(ValueError, match=r"panels are \(2, 2\)"):
            display.plot(plt.subplots(2, 3)[1])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"timesteps": ()}, r"ints in the range \[0, 999\]"),
            ({"timesteps": (1000,)}, r"ints in the range \[0, 999\]"),
            ({"timesteps": (9.5,)}, r"ints in the range \[0, 999\]"),
            ({"n_steps": 0}, "'n_steps' parameter must be an int"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            NoiseRoundTripDisplay.from_estimator(
                DiffusionQAFeatures(image_size=64), [pan(1)[0]], **options
            )
