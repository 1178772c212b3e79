"""Displays: they store what they are given, draw what it says, and import late."""

import inspect
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from counting import counting
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor

from diffqa_features import (
    DiffusionQAFeatures,
    GenzIQARegressor,
    PromptAlignmentMaps,
    datasets,
    inspection,
)
from diffqa_features.inspection import (
    AlignmentMapDisplay,
    PredictionDisplay,
    SearchHeatmapDisplay,
    TrainingCurveDisplay,
)
from diffqa_features.metrics import LogisticMapping, srcc_scorer

mpl.use("agg")
import matplotlib.pyplot as plt  # after the choice of a backend


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def drawn(display):
    """Pixels of a display's figure, for the error that only drawing raises."""
    display.figure_.canvas.draw()
    return np.asarray(display.figure_.canvas.buffer_rgba())


@pytest.mark.parametrize("name", inspection.__all__)
def test_constructor_only_stores(name):
    cls = getattr(inspection, name)
    given = {name: object() for name in inspect.signature(cls).parameters}
    assert vars(cls(**given)) == given


class TestAlignmentMapDisplay:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    maps = np.random.default_rng(1).random((2, 4, 5))

    def test_panels(self):
        display = AlignmentMapDisplay(self.image, self.maps, prompts=["one", "two"])
        assert display.plot() is display
        assert [ax.get_title() for ax in display.axes_] == ["picture", "“one”", "“two”"]
        np.testing.assert_array_equal(
            display.axes_[0].images[0].get_array(), self.image
        )
        for ax, values in zip(display.axes_[1:], self.maps):
            photo, overlay = ax.images
            assert photo.get_extent() == overlay.get_extent() == [0, 60, 40, 0]
            np.testing.assert_array_equal(overlay.get_array(), values)
        gray = display.axes_[1].images[0].get_array()
        assert gray.shape == (40, 60)
        assert np.std(drawn(display)) > 0

    def test_difference_is_of_centred_maps_around_zero(self):
        display = AlignmentMapDisplay(self.image, self.maps, prompts=["a", "b"])
        display.plot(difference=True)
        overlay = display.axes_[3].images[1]
        expected = self.maps[0] - self.maps[1] - (self.maps[0] - self.maps[1]).mean()
        np.testing.assert_allclose(overlay.get_array(), expected)
        assert overlay.get_clim()[0] == -overlay.get_clim()[1]

    def test_given_axes_are_used(self):
        figure, axes = plt.subplots(1, 3)
        display = AlignmentMapDisplay(self.image, self.maps, prompts=["a", "b"])
        display.plot(axes)
        assert display.figure_ is figure
        assert display.axes_.tolist() == axes.tolist()
        with pytest.raises(ValueError, match="There are 4 panels"):
            display.plot(axes, difference=True)
        with pytest.raises(ValueError, match="two prompts"):
            AlignmentMapDisplay(self.image, self.maps[:1], prompts=["a"]).plot(
                difference=True
            )

    @pytest.mark.parametrize("view", ["stretch", "crop"])
    def test_from_estimator(self, sd1_folder, view):
        estimator = PromptAlignmentMaps(
            str(sd1_folder), prompts=["a", "b", "c"], map_size=(6, 6), view=view
        )
        wide = np.random.default_rng(2).integers(0, 256, (64, 96, 3), np.uint8)
        display = AlignmentMapDisplay.from_estimator(
            estimator, [self.image, wide], index=1
        )
        expected = estimator.maps([self.image, wide])[1]
        np.testing.assert_allclose(display.maps, expected, rtol=1e-4, atol=1e-5)
        assert list(display.prompts) == ["a", "b", "c"]
        shown = wide if view == "stretch" else wide[:, 16:80]
        np.testing.assert_array_equal(display.image, shown)

    def test_a_row_of_maps_per_block(self):
        estimator = PromptAlignmentMaps(image_size=64, prompts=("sharp", "blurred"))
        with counting("tiny") as count:
            display = AlignmentMapDisplay.from_estimator(
                estimator, [self.image], blocks=["mid.0", "up*"], difference=True
            )
        assert (count.vae_rows, count.unet_rows) == (1, 2)  # one per prompt
        assert display.axes_.shape == (2, 4)
        assert display.maps.shape == (2, 2, 16, 16)
        for at, blocks in enumerate(["mid.0", "up*"]):
            (alone,) = estimator.set_params(blocks=blocks).maps([self.image])
            np.testing.assert_allclose(display.maps[at], alone, rtol=1e-4, atol=1e-5)
            assert display.axes_[at, 1].get_ylabel() == blocks
            shown = [panel.images[1].get_array() for panel in display.axes_[at, 1:3]]
            np.testing.assert_array_equal(shown, display.maps[at])
        # Only the first row has the picture.
        assert [len(panel.images) for panel in display.axes_[:, 0]] == [1, 0]
        assert not display.axes_[1, 0].axison
        with pytest.raises(ValueError, match="There are 8 panels"):
            display.plot(plt.subplots(1, 4)[1], difference=True)

    def test_prompts_of_the_row(self, sd1_folder):
        import pandas as pd

        frames = np.stack([self.image, 255 - self.image, self.image])
        table = pd.DataFrame({"path": [self.image, frames], "what": ["cat", "dog"]})
        estimator = PromptAlignmentMaps(str(sd1_folder), prompts="A {what}.")
        display = AlignmentMapDisplay.from_estimator(estimator, table, index=1)
        assert list(display.prompts) == ["A dog."]
        np.testing.assert_array_equal(display.image, frames[1])


class TestPredictionDisplay:
    y_true = np.repeat([-1.0, -2.0, -3.0], 4)
    y_pred = y_true + np.random.default_rng(0).normal(0, 0.4, 12)
    labels = np.tile(["jpeg", "blur"], 6)

    def test_points_and_numbers(self):
        display = PredictionDisplay.from_predictions(
            self.y_true.tolist(), self.y_pred.tolist(), labels=self.labels.tolist()
        )
        assert [s.get_label() for s in display.scatters_] == ["blur", "jpeg"]
        for name, scatter in zip(["blur", "jpeg"], display.scatters_):
            chosen = self.labels == name
            expected = np.column_stack([self.y_true[chosen], self.y_pred[chosen]])
            np.testing.assert_allclose(scatter.get_offsets(), expected)
        srcc = stats.spearmanr(self.y_true, self.y_pred).statistic
        plcc = np.corrcoef(self.y_true, self.y_pred)[0, 1]
        error = np.sqrt(np.mean((self.y_true - self.y_pred) ** 2))
        title = f"SRCC {srcc:.3f}   PLCC {plcc:.3f}   RMSE {error:.3f}"
        assert display.ax_.get_title() == title
        np.testing.assert_array_equal(*display.line_.get_data())
        legend = [text.get_text() for text in display.legend_.get_texts()]
        assert legend == ["blur", "jpeg"]
        colors = {tuple(s.get_facecolor()[0]) for s in display.scatters_}
        assert len(colors) == 2
        assert np.std(drawn(display)) > 0

    def test_spread_keeps_to_its_width(self):
        display = PredictionDisplay(self.y_true, self.y_pred, labels=self.labels)
        display.plot(spread=0.6)
        for scatter, offset in zip(display.scatters_, (-0.15, 0.15)):
            x = scatter.get_offsets()[:, 0]
            np.testing.assert_allclose(np.unique(x), np.array([-3, -2, -1]) + offset)

    def test_logistic(self):
        rng = np.random.default_rng(0)
        y_true = rng.uniform(1, 5, 60)
        y_pred = 10 * np.tanh(y_true - 3) + rng.normal(0, 1, 60)
        display = PredictionDisplay.from_predictions(
            y_true, y_pred, mapping="logistic4"
        )
        curve = LogisticMapping(4).fit(y_pred, y_true)
        aligned = curve.transform(y_pred)
        x, y = display.line_.get_data()
        np.testing.assert_allclose(x, curve.transform(y))
        assert (y.min(), y.max()) == (y_pred.min(), y_pred.max())
        plcc = np.corrcoef(y_true, aligned)[0, 1]
        error = np.sqrt(np.mean((y_true - aligned) ** 2))
        assert f"PLCC {plcc:.3f}   RMSE {error:.3f}" in display.ax_.get_title()
        with pytest.raises(ValueError, match="'mapping' parameter must be None or"):
            PredictionDisplay.from_predictions(y_true, y_pred, mapping="logistic")

    def test_outliers_are_ringed_and_named(self):
        y_true = np.linspace(1, 5, 40)
        y_pred = y_true + np.tile([0.1, -0.1], 20)
        y_pred[[7, 30]] += [2.5, -1.5]
        names = [f"photo_{i}.png" for i in range(40)]
        display = PredictionDisplay.from_predictions(y_true, y_pred, names=names)
        assert display.outliers.tolist() == [7, 30]  # the farther first
        rings = display.rings_.get_offsets()
        np.testing.assert_allclose(rings, np.c_[y_true, y_pred][[7, 30]])
        texts = [text.get_text() for text in display.legend_.get_texts()]
        limit = 3 * 1.4826 * np.median(np.abs(y_true - y_pred))
        rule = f"off by more than {limit:.3g}\n(3 robust standard deviations)"
        assert texts == [rule, "1: photo_7.png", "2: photo_30.png"]
        assert [text.get_text() for text in display.ax_.texts] == ["1", "2"]
        display.plot(n_named=1)
        # What is ringed has a number; the legend names as many as it is asked for.
        assert [text.get_text() for text in display.ax_.texts] == ["1", "2"]
        texts = [text.get_text() for text in display.legend_.get_texts()]
        assert texts == [rule, "1: photo_7.png", "and 1 more"]
        assert len(display.rings_.get_offsets()) == 2
        # Twice the standard error, where it is known.
        y_error = np.full(40, 1.0)
        display = PredictionDisplay.from_predictions(y_true, y_pred, y_error=y_error)
        assert display.outliers.tolist() == [7]
        assert [t.get_text() for t in display.legend_.get_texts()] == [
            "off by more than\ntwo standard errors", "1: row 7",
        ]  # fmt: skip

    def test_numbers_of_neighbours_stand_apart(self):
        y_true = np.tile(np.arange(4.0), 20)
        y_pred = y_true.copy()
        y_pred[[3, 7, 11, 15, 19]] -= [2, 2.05, 2.1, 2.15, 2.2]
        y_pred[[0, 4]] += [1.5, 1.55]
        display = PredictionDisplay.from_predictions(y_true, y_pred)
        display.figure_.canvas.draw()
        boxes = [text.get_window_extent() for text in display.ax_.texts]
        assert len(boxes) == 7
        for i, box in enumerate(boxes):
            assert box.count_overlaps(boxes[:i]) == 0
            x0, y0, x1, y1 = display.figure_.bbox.extents  # nor beyond the figure
            assert x0 <= box.x0 and box.x1 <= x1 and y0 <= box.y0 and box.y1 <= y1

    def test_exact_predictions_have_no_outliers(self):
        y = np.linspace(0, 1, 20)
        display = PredictionDisplay.from_predictions(y, y + 1e-15)
        assert len(display.outliers) == 0
        assert display.rings_ is None

    def test_without_labels_on_given_axes(self):
        figure, ax = plt.subplots()
        display = PredictionDisplay(self.y_true, self.y_pred).plot(ax)
        assert (display.ax_, display.figure_) == (ax, figure)
        assert ax.get_legend() is None
        assert display.legend_ is None
        assert len(display.scatters_) == 1

    def test_from_estimator(self):
        X = np.column_stack([self.y_true, np.arange(12)])
        model = LinearRegression().fit(X, self.y_pred)
        display = PredictionDisplay.from_estimator(model, X, self.y_pred)
        np.testing.assert_allclose(display.y_pred, model.predict(X))
        np.testing.assert_array_equal(display.y_true, self.y_pred)

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            PredictionDisplay.from_predictions([1, 2], [1, 2, 3])
        with pytest.raises(ValueError, match="y_pred contains NaN"):
            PredictionDisplay.from_predictions([1, 2], [1, np.nan])


@pytest.fixture(scope="module")
def search():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X[:, 0] + 0.1 * rng.normal(size=60)
    grid = {
        "max_depth": [1, 4],
        "max_features": [1, 3],
        "min_samples_leaf": [1, 2, 20],
    }
    model = DecisionTreeRegressor(random_state=0)
    return GridSearchCV(model, grid, cv=KFold(3), scoring="r2").fit(X, y)


class TestSearchHeatmapDisplay:
    def test_cells_hold_the_best_of_the_rest(self, search):
        display = SearchHeatmapDisplay.from_estimator(
            search, rows="max_depth", columns="min_samples_leaf"
        )
        assert display.scores.shape == (2, 3)
        results = search.cv_results_
        for i, depth in enumerate([1, 4]):
            for j, leaf in enumerate([1, 2, 20]):
                tried = [
                    score
                    for p, score in zip(results["params"], results["mean_test_score"])
                    if (p["max_depth"], p["min_samples_leaf"]) == (depth, leaf)
                ]
                assert len(tried) == 2
                assert display.scores[i, j] == max(tried)
                assert display.text_[i, j].get_text() == f"{max(tried):.3f}"
        (frame,) = display.ax_.patches
        row, column = np.unravel_index(display.scores.argmax(), (2, 3))
        assert frame.get_center() == pytest.approx((column, row))
        assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == (
            "min_samples_leaf",
            "max_depth",
        )
        assert [t.get_text() for t in display.ax_.get_xticklabels()] == ["1", "2", "20"]
        assert np.std(drawn(display)) > 0

    def test_values_that_are_sequences_and_gaps(self):
        class Fitted:
            cv_results_ = {
                "params": [
                    {"features__timesteps": (20,), "features__blocks": "up*"},
                    {"features__timesteps": (20, 50), "features__blocks": "up*"},
                    {"features__timesteps": (20,), "features__blocks": ["mid.0"]},
                ],
                "param_features__timesteps": None,
                "param_features__blocks": None,
                "mean_test_srcc": np.array([0.5, 0.7, 0.6]),
            }

        display = SearchHeatmapDisplay.from_estimator(
            Fitted(), rows="features__timesteps", columns="features__blocks",
            metric="srcc", values_format=".1f",
        )  # fmt: skip
        np.testing.assert_array_equal(display.scores, [[0.5, 0.6], [0.7, np.nan]])
        assert display.text_[1, 1] is None
        labels = [t.get_text() for t in display.ax_.get_yticklabels()]
        assert labels == ["20", "20, 50"]
        assert display.ax_.get_ylabel() == "timesteps"

    def test_unknown_names_are_refused(self, search):
        with pytest.raises(ValueError, match="no metric 'srcc', but \\['score'\\]"):
            SearchHeatmapDisplay.from_estimator(
                search, rows="max_depth", columns="max_features", metric="srcc"
            )
        with pytest.raises(
            ValueError, match="no parameter 'depth', but \\['max_depth'"
        ):
            SearchHeatmapDisplay.from_estimator(
                search, rows="depth", columns="max_features"
            )

    def test_what_has_no_scores_is_refused(self, search):
        with pytest.raises(NotFittedError, match="GridSearchCV has no cv_results_"):
            SearchHeatmapDisplay.from_estimator(clone(search), rows="a", columns="b")
        failing = GridSearchCV(
            DecisionTreeRegressor(),
            [{"max_depth": [1]}, {"max_features": [2]}],
            cv=KFold(2),
        ).fit(np.arange(8.0).reshape(4, 2), np.arange(4.0))
        with pytest.raises(ValueError, match="No candidate with both 'max_depth' and"):
            SearchHeatmapDisplay.from_estimator(
                failing, rows="max_depth", columns="max_features"
            )

    def test_timesteps_and_blocks_of_features(self, small_folder, tmp_path):
        images = datasets.make_procedural_images(3, image_size=64)
        images = datasets.make_distorted_images(
            images, families="jpeg", n_levels=3, image_size=64
        )
        features = DiffusionQAFeatures(
            str(small_folder), image_size=64, memory=tmp_path
        )
        model = make_pipeline(features, Ridge())
        names = "diffusionqafeatures__timesteps", "diffusionqafeatures__blocks"
        grid = {names[0]: [(50,), (20, 50)], names[1]: ["mid*", "up*"]}
        search = GridSearchCV(model, grid, cv=2, scoring=srcc_scorer, refit=False)
        search.fit(images.data, images.target)
        display = SearchHeatmapDisplay.from_estimator(
            search, rows=names[0], columns=names[1]
        )
        expected = [
            search.cv_results_["mean_test_score"][
                search.cv_results_["params"].index({names[0]: t, names[1]: b})
            ]
            for t in grid[names[0]]
            for b in grid[names[1]]
        ]
        np.testing.assert_array_equal(display.scores.ravel(), expected)
        np.testing.assert_array_equal(display.image_.get_array().ravel(), expected)
        display.plot(values_format="")
        assert not any(display.text_.ravel())

    def test_ink_is_readable(self):
        scores = np.linspace(0, 1, 12).reshape(3, 4)
        display = SearchHeatmapDisplay(scores, range(3), range(4)).plot()
        inks = [text.get_color() for text in display.text_.ravel()]
        assert inks[0] == "white"
        assert inks[-1] == "black"


class TestTrainingCurveDisplay:
    HISTORY = (
        {"epoch": 1, "loss": 0.9, "srcc": 0.1},
        {"epoch": 2, "loss": 0.5, "srcc": 0.6, "validation_srcc": 0.7},
        {"epoch": 3, "loss": 0.4, "srcc": 0.8, "validation_srcc": 0.5},
    )

    def fitted(self, history=HISTORY):
        model = GenzIQARegressor()
        model.history_ = list(history)
        return model

    def test_it_draws_the_history(self):
        display = TrainingCurveDisplay.from_estimator(self.fitted())
        assert sorted(display.lines_) == ["loss", "srcc", "validation_srcc"]
        for name, line in display.lines_.items():
            expected = [record.get(name, np.nan) for record in self.HISTORY]
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_array_equal(line.get_ydata(), expected)
        assert display.best_.get_xdata()[0] == 2
        drawn(display)

    def test_pipelines_and_searches_end_in_it(self):
        model = self.fitted()
        search = SimpleNamespace(best_estimator_=make_pipeline(model))
        for estimator in (make_pipeline(model), search):
            display = TrainingCurveDisplay.from_estimator(estimator)
            np.testing.assert_array_equal(display.loss, [0.9, 0.5, 0.4])

    def test_without_scores_there_is_one_curve(self):
        history = [{"epoch": 1, "loss": 0.3}, {"epoch": 2, "loss": 0.2}]
        display = TrainingCurveDisplay.from_estimator(self.fitted(history))
        assert list(display.lines_) == ["loss"]
        assert display.srcc_ax_ is display.best_ is None

    def test_it_draws_on_axes_of_the_caller(self):
        _, ax = plt.subplots()
        display = TrainingCurveDisplay.from_estimator(self.fitted(), ax=ax)
        assert display.ax_ is ax

    def test_without_a_history_it_says_why(self):
        with pytest.raises(NotFittedError, match="GenzIQARegressor has no history_"):
            TrainingCurveDisplay.from_estimator(GenzIQARegressor())
        with pytest.raises(NotFittedError, match="others train in no epochs"):
            TrainingCurveDisplay.from_estimator(SVR())
        with pytest.raises(ValueError, match="max_epochs=0"):
            TrainingCurveDisplay.from_estimator(self.fitted([]))
