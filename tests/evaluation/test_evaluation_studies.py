"""Splits, official splits and cross-dataset tables on known data; leakage; media."""

import numpy as np
import pandas as pd
import pytest
from counting import counting
from scipy import stats
from sklearn import config_context
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit, KFold
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import Bunch

from diffqa_features import DiffusionQAFeatures, datasets, evaluation, metrics


@pytest.fixture
def problem():
    """60 rows of 3 numbers, 12 sources of five rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    return X, X[:, 0] + rng.normal(0, 0.5, 60), np.repeat(np.arange(12), 5)


class First(RegressorMixin, BaseEstimator):
    """Predicts the first column as it is."""

    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.asarray(X)[:, 0]


def test_repeated_splits_equal_a_loop_by_hand(problem):
    X, y, groups = problem
    table = evaluation.repeated_splits(
        Ridge(), X, y, groups=groups, n_splits=6, test_size=3, mapping=None
    )
    found = {"srcc": [], "plcc": [], "krcc": [], "rmse": []}
    splitter = GroupShuffleSplit(6, test_size=3, random_state=0)
    for train, test in splitter.split(X, y, groups):
        p = Ridge().fit(X[train], y[train]).predict(X[test])
        found["srcc"].append(stats.spearmanr(y[test], p).statistic)
        found["plcc"].append(stats.pearsonr(y[test], p).statistic)
        found["krcc"].append(stats.kendalltau(y[test], p).statistic)
        found["rmse"].append(np.sqrt(np.mean((y[test] - p) ** 2)))
    frame = table.frame.set_index("metric")
    for metric, values in found.items():
        q1, median, q3 = np.percentile(values, [25, 50, 75])
        np.testing.assert_allclose(
            frame.loc[metric, ["median", "q1", "q3", "mean", "std"]].tolist(),
            [median, q1, q3, np.mean(values), np.std(values, ddof=1)],
        )
    assert table.facts["data"] == "60 rows in 12 groups"
    assert table.facts["splits"] == "6 random splits by groups, test 3, seed 0"
    assert table.facts["method Ridge"] == "Ridge()"


def test_splits_are_reproducible_and_keep_groups_together(problem):
    X, y, groups = problem
    options = {"groups": groups, "n_splits": 5, "metrics": "srcc"}
    one, same, other = (
        evaluation.repeated_splits(Ridge(), X, y, random_state=seed, **options)
        for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(one.predictions, same.predictions)
    assert not one.frame.equals(other.frame)
    for _, split in one.predictions.groupby("split"):
        assert (split.groupby("group").size() == 5).all()


def test_methods_see_the_same_splits(problem):
    X, y, groups = problem
    table = evaluation.repeated_splits(
        {"a": Ridge(), "b": Ridge(1e3)}, X, y, groups=groups, n_splits=4
    )
    a, b = (
        part.reset_index(drop=True) for _, part in table.predictions.groupby("method")
    )
    pd.testing.assert_frame_equal(a[["split", "row"]], b[["split", "row"]])


def test_the_logistic_brings_predictions_to_the_scale_of_scores(problem):
    X, _, _ = problem
    mos = 50 + 50 * np.tanh(X[:, 0])
    table = evaluation.repeated_splits(First(), X, mos, n_splits=3, test_size=0.5)
    frame = table.frame.set_index("metric")["median"]
    assert frame["rmse"] < 0.1 and frame["plcc"] > 0.999  # tanh is a logistic
    raw = evaluation.repeated_splits(
        First(), X, mos, n_splits=3, test_size=0.5, mapping=None
    )
    assert raw.frame.set_index("metric")["median"]["rmse"] > 40


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        ([(np.arange(50), np.arange(50, 60))], None),
        (
            [(np.arange(48), np.arange(48, 60))],
            "1 groups .* example 9 .*row 45.*row 48",
        ),
        ([(np.arange(40), np.arange(39, 60))], "1 rows .* row 39"),
        ([(np.arange(60) < 50, np.arange(60) >= 50)], None),
        ([(np.arange(60) < 48, np.arange(60) >= 48)], "leaks"),
        ([(np.arange(60), [])], "60 training and 0 test rows"),
        (GroupKFold(4), None),
        (KFold(4), "leaks"),  # knows nothing of groups
        # -30 is row 30: it trains and tests.
        ([(np.arange(50), np.arange(-30, -10))], "Split 0: .* from 0 to 59"),
        ([(np.arange(50), np.arange(50, 61))], "Split 0: .* from 0 to 59"),
        ([([True] * 50, [False] * 50 + [True] * 10)], "a mask of 60 rows"),
        ([(np.arange(50.0), np.arange(50.0, 60))], "list of row numbers"),
        ([(set(range(50)), set(range(50, 60)))], "list of row numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:The groups parameter is ignored by KFold")
def test_leakage_is_an_error(problem, cv, message):
    X, y, groups = problem
    if isinstance(cv, KFold):
        groups = np.arange(60) // 4  # 15 groups of four against folds of fifteen

    def study():
        return evaluation.repeated_splits(Ridge(), X, y, groups=groups, cv=cv)

    groups = groups.astype(object) if message else groups  # as a Series of str has it
    if message is None:
        assert study().frame["n_splits"].iloc[0] in (1, 4)
    else:
        with pytest.raises(ValueError, match=message):
            study()


@pytest.mark.parametrize("routing", [False, True])
def test_a_search_gets_the_groups(problem, routing):
    X, y, groups = problem
    search = GridSearchCV(
        Ridge(), {"alpha": [1, 10]}, cv=GroupKFold(3), scoring=metrics.srcc_scorer
    )
    plain = make_pipeline(StandardScaler(), Ridge())  # takes none
    for model in (search, make_pipeline(StandardScaler(), search), plain):
        with config_context(enable_metadata_routing=routing):
            table = evaluation.repeated_splits(model, X, y, groups=groups, n_splits=2)
        assert table.frame["median"].iloc[0] > 0.5


class Label(First):
    """Reads its answer from the column of a table."""

    def predict(self, X):
        return np.asarray(X["label"], float)


def test_rows_of_a_dataset_of_hugging_face(tmp_path):
    hub = pytest.importorskip("datasets", "4.0", reason="needs datasets")
    labels = [3, 1, 2, 5, 4, 6]
    X = hub.Dataset.from_dict({"path": [f"{n}.png" for n in labels], "label": labels})
    table = evaluation.repeated_splits(
        Label(), X, labels, n_splits=2, test_size=3, metrics="rmse", mapping=None
    )
    assert (table.frame["median"] == 0).all()
    timed = evaluation.efficiency(Label(), X, n_repeats=7, n_warmup=1).frame
    assert timed["stage"].tolist() == ["other", "total"]


def columns(X, which):
    return X[:, which]


def test_parameters_of_other_lengths_are_no_error(problem):
    X, y, _ = problem
    methods = {
        f"{len(which)} columns": make_pipeline(
            FunctionTransformer(columns, kw_args={"which": which}), Ridge()
        )
        for which in (np.arange(1, 3), np.arange(3), np.ones(1, int))
    }
    frame = evaluation.repeated_splits(methods, X, y, n_splits=2).frame
    medians = frame[frame["metric"] == "srcc"].set_index("method")["median"]
    assert medians["3 columns"] > 0.5 > medians.drop("3 columns").max()


def test_official_split_equals_a_fit_by_hand(problem):
    X, y, groups = problem
    split = np.array(["training"] * 30 + ["validation"] * 10 + ["test"] * 20)
    table = evaluation.official_split(
        Ridge(), X, y, split, train=["training", "validation"], groups=groups
    )
    p = Ridge().fit(X[:40], y[:40]).predict(X[40:])
    row = table.frame.iloc[0]
    assert row["value"] == metrics.srcc_score(y[40:], p)
    expected = evaluation.bootstrap_interval(
        y[40:], p, groups=groups[40:], n_resamples=1000
    )
    assert (row["value"], row["low"], row["high"]) == expected
    assert row[["train", "test", "n_test", "n_groups"]].tolist() == [
        "training+validation", "test", 20, 4,
    ]  # fmt: skip
    rmse = table.frame.set_index("metric").loc["rmse", "value"]
    assert rmse == pytest.approx(metrics.rmse(y[40:], p, mapping="logistic4"))


def test_official_split_tests_several_parts(problem):
    X, y, _ = problem
    split = ["train"] * 30 + ["test"] * 15 + ["test_1080p"] * 15
    table = evaluation.official_split(
        Ridge(), X, y, split, test=["test", "test_1080p"], metrics="srcc"
    )
    assert table.frame["test"].tolist() == ["test", "test_1080p"]
    assert table.frame["n_groups"].isna().all()


def test_official_split_errors(problem):
    X, y, groups = problem
    split = ["train"] * 32 + ["test"] * 28
    with pytest.raises(ValueError, match="'train' to 'test' leaks: 1 groups"):
        evaluation.official_split(Ridge(), X, y, split, groups=groups)
    with pytest.raises(ValueError, match=r"No row has split 'val'; .* 'test', 'train'"):
        evaluation.official_split(Ridge(), X, y, split, test="val")


def bunch(seed, **more):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(50, 2))
    y = X[:, 0] + rng.normal(0, 0.3, 50)
    return Bunch(data=X, target=y, **more)


def test_cross_dataset_turns_by_direction_and_never_by_correlation():
    mos = bunch(0, higher_is_better=True, groups=np.arange(50) // 5)
    dmos = bunch(1, higher_is_better=False)
    dmos.target = 100 - 20 * dmos.target
    contrary = bunch(2)  # says nothing of its direction: higher is better
    contrary.target = -contrary.target
    sets = {"mos": mos, "dmos": dmos, "contrary": contrary}
    with pytest.warns(UndefinedMetricWarning):  # a curve against the scores is flat
        table = evaluation.cross_dataset(Ridge(), sets, sets)
    assert len(table.frame) == 6 * 4  # no data set is tested on itself
    value = table.frame.set_index(["train", "test", "metric"])["value"]
    fitted = Ridge().fit(mos.data, mos.target)
    expected = metrics.srcc_score(dmos.target, -fitted.predict(dmos.data))
    assert value["mos", "dmos", "srcc"] == expected > 0.9
    assert value["dmos", "mos", "srcc"] > 0.9
    # Wrongly labelled: a failure, and the logistic must not hide it.
    assert value["mos", "contrary", "srcc"] < -0.9
    assert value["mos", "contrary", "plcc"] == 0
    # Aligned: in the unit of the test scores, below their spread.
    assert value["mos", "dmos", "rmse"] < 0.5 * dmos.target.std()
    assert "dmos: 50 rows, no groups, lower is better" in table.facts["data"]


def test_cross_dataset_refuses_shared_media(tmp_path):
    pictures = list(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8))
    a = Bunch(data=pictures[:4], target=np.arange(4.0))
    b = Bunch(data=[pictures[5], pictures[2].copy()], target=np.arange(2.0))
    with pytest.raises(ValueError, match=r"a to b leaks: 1 media .* row 1 of b"):
        evaluation.cross_dataset(Ridge(), {"a": a}, {"b": b})
    a.data, b.data = ["x/1.png"] * 4, ["y.png", "x/../x/1.png"]
    with pytest.raises(ValueError, match="row 1 of b"):
        evaluation.cross_dataset(Ridge(), {"a": a}, {"b": b})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.full(60, np.nan)}, "score of row 0 is nan"),
        ({"y": np.zeros(59)}, "inconsistent"),
        ({"groups": [None] * 60}, "group of row 0 is missing"),
        ({"metrics": "srocc"}, "'metrics' parameter"),
        ({"metrics": {"srcc", "plcc"}}, "'metrics' parameter"),
        ({"mapping": "cubic"}, "'mapping' parameter"),
        ({"n_splits": 0}, "'n_splits' parameter"),
        ({"estimator": {}}, "empty"),
    ],
)
def test_bad_input_is_refused(problem, change, message):
    X, y, groups = problem
    given = {"estimator": Ridge(), "X": X, "y": y, "groups": groups, **change}
    with pytest.raises(ValueError, match=message):
        evaluation.repeated_splits(**given)


@pytest.mark.parametrize("side", ["train", "test"])
def test_parts_of_a_split_have_an_order(problem, side):
    X, y, _ = problem
    split = ["a", "b", "c", "d"] * 15
    parts = {"train": ["a", "b"], "test": ["c", "d"]}
    parts[side] = set(parts[side])
    with pytest.raises(ValueError, match=f"'{side}' parameter .* no set"):
        evaluation.official_split(Ridge(), X, y, split, **parts)


def test_nan_predictions_name_method_row_and_split(problem):
    X, y, _ = problem
    X = X.copy()
    X[7, 0] = np.nan
    with pytest.raises(ValueError, match=r"First predicts nan for row 7 .* split 0"):
        evaluation.repeated_splits(First(), X, y, cv=[(range(20, 60), range(20))])


def test_constant_predictions_count_as_zero(problem):
    X, y, _ = problem
    with pytest.warns(UndefinedMetricWarning):
        table = evaluation.repeated_splits(DummyRegressor(), X, y, n_splits=2)
    assert table.frame.set_index("metric")["median"][["srcc", "plcc"]].tolist() == [
        0,
        0,
    ]


SMALL = {"image_size": 64, "device": "cpu", "dtype": "float32", "blocks": "mid*"}


@pytest.fixture(scope="module")
def pictures():
    photos = datasets.load_sample_photos(image_size=64).data[:4]
    return datasets.make_distorted_images(
        photos, families="jpeg", n_levels=2, image_size=64
    )


def test_each_picture_is_extracted_once_not_per_split(small_folder, pictures):
    features = DiffusionQAFeatures(str(small_folder), **SMALL)
    union = make_union(features, DiffusionQAFeatures(str(small_folder), **SMALL))
    cases = {
        "cut": (make_pipeline(features, StandardScaler(), Ridge()), 1),
        "two regressors": ({
            "a": make_pipeline(features, Ridge()),
            "b": make_pipeline(clone(features), StandardScaler(), Ridge(5)),
        }, 1),
        "union": (make_pipeline(union, Ridge()), 2),
        "search": (GridSearchCV(
            Pipeline([("f", features), ("r", Ridge())]),
            {"r__alpha": [1, 10]},
            cv=GroupKFold(2),
        ), 1),
    }  # fmt: skip
    for name, (model, times) in cases.items():
        with counting(small_folder) as count:
            evaluation.repeated_splits(
                model,
                pictures.data,
                pictures.target,
                groups=pictures.groups,
                n_splits=3,
                test_size=2,
                metrics="srcc",
            )
        assert (name, count.unet_rows) == (name, 8 * 2 * times)
        assert (name, count.vae_rows) == (name, 8 * times)


def test_cross_dataset_extracts_each_picture_once(small_folder, pictures):
    model = make_pipeline(DiffusionQAFeatures(str(small_folder), **SMALL), Ridge())
    first = pictures.groups == pictures.groups[0]
    halves = {
        name: Bunch(
            data=[x for x, inside in zip(pictures.data, rows) if inside],
            target=pictures.target[rows],
        )
        for name, rows in {"one": first, "rest": ~first}.items()
    }
    with counting(small_folder) as count:
        table = evaluation.cross_dataset(
            {"a": model, "b": clone(model)},
            halves,
            halves,
            metrics="srcc",
            mapping=None,
        )
    assert (count.unet_rows, count.vae_rows, len(table.frame)) == (16, 8, 4)


def test_what_learns_is_never_fitted_on_all_rows(problem):
    """A scaler in front is inside the splits; only stateless steps are taken out."""
    X, y, _ = problem
    seen = []

    class Watching(StandardScaler):
        def fit(self, X, y=None, sample_weight=None):
            seen.append(len(X))
            return super().fit(X, y, sample_weight)

    doubled = FunctionTransformer(lambda X: 2 * np.asarray(X))
    model = make_pipeline(doubled, Watching(), Ridge())
    table = evaluation.repeated_splits(model, X, y, n_splits=3, mapping=None)
    assert seen == [48, 48, 48]
    plain = make_pipeline(StandardScaler(), Ridge())
    same = evaluation.repeated_splits(plain, X, y, n_splits=3, mapping=None)
    np.testing.assert_allclose(table.scores["value"], same.scores["value"])


def test_what_is_no_data_set_is_refused(problem):
    X, y, _ = problem
    one = Bunch(data=X, target=y)
    with pytest.raises(TypeError, match="Got ndarray under 'data'"):
        evaluation.cross_dataset(Ridge(), one, {"other": one})
    with pytest.raises(ValueError, match="no test data set"):
        evaluation.cross_dataset(Ridge(), {"one": one}, {"one": one})
    with pytest.raises(ValueError, match="'one'"):
        evaluation.cross_dataset(Ridge(), {"one": one}, {"one": Bunch(**one)})
    with pytest.raises(ValueError, match="has no official split"):
        evaluation.official_split(Ridge(), X, y, None)
    with pytest.raises(ValueError, match="3 rows is too small for mapping='logistic4'"):
        evaluation.repeated_splits(Ridge(), X, y, test_size=3)
    few = evaluation.repeated_splits(Ridge(), X, y, test_size=3, metrics="srcc")
    assert few.facts["mapping"].startswith("none")


def test_splits_and_methods_in_a_set_have_no_order(problem):
    X, y, _ = problem
    cv = {(tuple(range(30)), tuple(range(30, 60)))}
    with pytest.raises(TypeError, match=r"'cv' .* whose order differs between"):
        evaluation.repeated_splits(Ridge(), X, y, cv=cv)


def test_no_method_replaces_another_of_its_name(problem):
    X, y, _ = problem
    with pytest.raises(ValueError, match="Two estimators are called '1'"):
        evaluation.repeated_splits({1: Ridge(), "1": First()}, X, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: np.ma.masked_greater(y, 1), r"y has \d+ masked values"),
        (
            lambda y: (1e9 * y).astype("M8[ns]"),
            "y must hold numbers, and these are times",
        ),
    ],
)
def test_scores_that_are_no_numbers(problem, change, message):
    X, y, _ = problem
    with pytest.raises(ValueError, match=message):
        evaluation.repeated_splits(Ridge(), X, change(y), n_splits=1)
    if "masked" in message:
        with pytest.raises(ValueError, match=r"y_pred has \d+ masked values"):
            evaluation.bootstrap_interval(y, change(y))
        with pytest.raises(ValueError, match=r"scores_baseline has \d+ masked values"):
            evaluation.paired_tests(y, change(y))


@pytest.mark.parametrize("direction", [None, "lower", 0])
def test_a_direction_is_stated_or_left_out(problem, direction):
    """None would have turned the sign."""
    X, y, _ = problem
    rated = Bunch(data=X[:30], target=y[:30])
    other = Bunch(data=X[30:], target=y[30:], higher_is_better=direction)
    with pytest.raises(TypeError, match="higher_is_better of b must be True or False"):
        evaluation.cross_dataset(Ridge(), {"a": rated}, {"b": other})


def test_a_comparison_of_nothing(problem):
    X, y, _ = problem
    with pytest.raises(ValueError, match="two methods"):
        evaluation.compare([])
    with pytest.raises(TypeError, match="Got a list"):
        evaluation.cross_dataset(Ridge(), [Bunch(data=X, target=y)], {})
