"""Comparison and ablation tables, and their exports, which parse back."""

import re

import numpy as np
import pandas as pd
import pytest
from counting import counting
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import Bunch

from diffqa_features import DiffusionQAFeatures, FeatureStore, datasets, evaluation
from diffqa_features.evaluation import EvaluationTable


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 6))
    return X, X[:, 0] + rng.normal(0, 0.5, 80), np.repeat(np.arange(16), 5)


METHODS = {"good": Ridge(), "shrunk": Ridge(3000), "twin": Ridge()}


@pytest.fixture(scope="module")
def repeated(problem):
    X, y, groups = problem
    return evaluation.repeated_splits(METHODS, X, y, groups=groups, n_splits=6)


def test_compare_splits(repeated):
    frame = evaluation.compare(repeated, baseline="good").frame
    values = repeated.scores[repeated.scores["metric"] == "srcc"]
    values = {name: part["value"].to_numpy() for name, part in values.groupby("method")}
    # 16 groups, a fifth for the test: 4 of them against 12.
    for name in ("shrunk", "twin"):
        expected = evaluation.paired_tests(
            values[name], values["good"], test_ratio=1 / 3
        )
        found = frame[frame["method"] == name].set_index("test")
        for test, pair in expected.items():
            np.testing.assert_allclose(
                found.loc[test, ["statistic", "p_value"]].tolist(), pair
            )
        mean = (values[name] - values["good"]).mean()
        assert (found["difference"] == mean).all()
    for _, part in frame.groupby("test"):
        np.testing.assert_allclose(part["p_holm"], evaluation.holm(part["p_value"]))


def test_compare_without_baseline_takes_all_pairs(repeated):
    frame = evaluation.compare(repeated, metric="rmse").frame
    pairs = set(zip(frame["method"], frame["baseline"]))
    assert pairs == {("shrunk", "good"), ("twin", "good"), ("twin", "shrunk")}


def test_compare_test_sets(problem):
    X, y, groups = problem
    one = Bunch(data=X[:40], target=y[:40], groups=groups[:40])
    two = Bunch(data=X[40:], target=y[40:], groups=groups[40:])
    bad = {"good": Ridge(), "bad": Ridge(3000)}
    sets = {"one": one, "two": two}
    table = evaluation.cross_dataset(bad, sets, sets, metrics=("srcc", "plcc"))
    for metric in ("srcc", "plcc"):
        test = evaluation.compare(table, metric=metric, baseline="good")
        assert test.frame[["train", "test_set", "test"]].values.tolist() == [
            ["one", "two", "bootstrap"],
            ["two", "one", "bootstrap"],
        ]
        row = test.frame.iloc[0]
        expected = evaluation.bootstrap_difference(
            two.target,
            Ridge(3000).fit(one.data, one.target).predict(two.data),
            Ridge().fit(one.data, one.target).predict(two.data),
            metric=metric,
            groups=two.groups,
            mapping="logistic4",
        )
        found = row[["difference", "low", "high", "p_value"]].tolist()
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert "bootstrap" in test.facts and "correction" in test.facts


def test_compare_joins_tables_of_the_same_splits(problem, repeated):
    X, y, groups = problem
    parts = [
        evaluation.repeated_splits({name: model}, X, y, groups=groups, n_splits=6)
        for name, model in METHODS.items()
    ]
    joined = evaluation.compare(parts, baseline="good").frame
    pd.testing.assert_frame_equal(
        joined, evaluation.compare(repeated, baseline="good").frame
    )
    with pytest.raises(ValueError, match="'good': name them apart"):
        evaluation.compare([parts[0], repeated])
    other = evaluation.repeated_splits(
        {"other": Ridge()}, X, y, groups=groups, n_splits=6, random_state=1
    )
    with pytest.raises(ValueError, match="scored on different rows"):
        evaluation.compare([parts[0], other])


def test_compare_errors(problem, repeated):
    X, y, _ = problem
    with pytest.raises(ValueError, match="needs two methods"):
        evaluation.compare(evaluation.repeated_splits(Ridge(), X, y, n_splits=2))
    with pytest.raises(ValueError, match="No method is called 'best'"):
        evaluation.compare(repeated, baseline="best")
    few = evaluation.repeated_splits(METHODS, X, y, n_splits=2, metrics="srcc")
    with pytest.raises(ValueError, match=r"holds \['srcc'\], not 'plcc'"):
        evaluation.compare(few, metric="plcc")
    with pytest.raises(ValueError, match="cannot be compared"):
        evaluation.compare(evaluation.compare(repeated))


def test_ablation_one_at_a_time(problem):
    X, y, groups = problem
    model = Pipeline([("scale", StandardScaler()), ("ridge", Ridge(1.0))])
    grid = {"ridge__alpha": [1, 1e4], "scale__with_std": [False]}
    table = evaluation.ablate(
        model, grid, X, y, groups=groups, n_splits=5, metrics="srcc"
    )
    frame = table.frame.set_index("setting")
    # alpha=1 is the baseline itself and not tested against it.
    assert frame.index.tolist() == ["baseline", "alpha=10000.0", "with_std=False"]
    assert frame["changed"].tolist() == ["", "ridge__alpha", "scale__with_std"]
    assert frame["ridge__alpha"].tolist() == ["1.0", "10000.0", "1.0"]
    methods = {"baseline": model, "shrunk": Pipeline(
        [("scale", StandardScaler()), ("ridge", Ridge(1e4))]
    )}  # fmt: skip
    by_hand = evaluation.repeated_splits(methods, X, y, groups=groups, n_splits=5)
    medians = by_hand.frame[by_hand.frame["metric"] == "srcc"]["median"].tolist()
    assert frame["median"].tolist()[:2] == medians
    test = evaluation.compare(by_hand, baseline="baseline").frame.set_index("test")
    for column in ("difference", "p_value"):
        assert frame.loc["alpha=10000.0", column] == pytest.approx(
            test.loc["corrected t", column]
        )
    tested = frame["p_value"].iloc[1:]
    np.testing.assert_allclose(frame["p_holm"].iloc[1:], evaluation.holm(tested))
    assert np.isnan(frame.loc["baseline", "p_value"])
    assert evaluation.compare(table).frame["method"].nunique() == 2


def test_ablation_in_full(problem):
    X, y, _ = problem
    model = Pipeline([("scale", StandardScaler()), ("ridge", Ridge())])
    grid = {"ridge__alpha": [1.0, 10.0, 100.0], "scale__with_std": [True, False]}
    table = evaluation.ablate(
        model, grid, X, y, mode="full", n_splits=2, metrics="srcc"
    )
    assert len(table.frame) == 6  # the baseline is one of the six
    both = table.frame["changed"] == "ridge__alpha, scale__with_std"
    assert both.sum() == 2


def scaled(X, by):
    return X * by[: X.shape[1]]


def test_ablation_keeps_settings_of_one_label_apart(problem):
    """Parameters of one last name, and arrays that print alike or do not compare."""
    X, y, _ = problem
    model = Pipeline(
        [
            ("a", StandardScaler()),
            ("b", StandardScaler()),
            ("scale", FunctionTransformer(scaled, kw_args={"by": np.ones(6)})),
            ("ridge", Ridge()),
        ]
    )
    long = np.ones(2000)
    other = long.copy()
    other[3:6] = 0  # printed as "..."
    arrays = [np.ones(6), np.ones(7), long, long.copy(), other]
    grid = {
        "a__with_std": [False, True],
        "b__with_std": [False],
        "scale__kw_args": [{"by": array} for array in arrays],
    }
    table = evaluation.ablate(
        model, grid, X, y, n_splits=1, metrics="plcc", mapping=None
    )
    names = table.frame["setting"].tolist()
    assert names[:3] == ["baseline", "a__with_std=False", "b__with_std=False"]
    longs = [name for name in names if "..." in name]
    assert len(names) == 6
    assert longs == [longs[0], longs[0] + " (another)"]
    values = table.frame.set_index("setting")["median"]
    assert values[longs[0]] == values["baseline"] != values[longs[1]]


def test_ablation_passes_each_picture_once_per_prompt(small_folder, tmp_path):
    photos = datasets.load_sample_photos(image_size=64).data[:4]
    data = datasets.make_distorted_images(
        photos, families="jpeg", n_levels=2, image_size=64
    )
    features = DiffusionQAFeatures(
        str(small_folder), image_size=64, device="cpu", dtype="float32"
    )
    model = Pipeline([("f", features), ("ridge", Ridge())])
    grid = {
        "f__prompts": [("",), ("Good photo.",), ("Good photo.", "A cat.")],
        "f__timesteps": [(20,), (20, 50)],
        "f__blocks": ["mid*", "up*"],
        "f__kinds": ["error", "alignment", ("query", "hidden")],
        "f__pooling": ["std"],
        "ridge__alpha": [10.0],
    }

    def study():
        return evaluation.ablate(
            model,
            grid,
            data.data,
            data.target,
            groups=data.groups,
            n_splits=2,
            test_size=2,
            metrics="srcc",
        )

    with counting(small_folder) as count:
        table = study()
    # t=50: good, bad, none, cat; t=20: good, bad.
    assert (count.unet_rows, count.vae_rows) == (8 * 6, 8)
    assert len(table.frame) == 13
    widths = table.frame.set_index("setting")["n_features"]
    assert widths["prompts=('',)"] < widths["baseline"] < widths["timesteps=(20, 50)"]

    model.set_params(f__memory=FeatureStore(tmp_path))
    study()
    with counting(small_folder) as count:
        again = study()
    assert (count.unet_rows, count.vae_rows) == (0, 0)  # the estimator's own store
    pd.testing.assert_frame_equal(again.frame, table.frame, rtol=1e-4)
    assert again.facts == table.facts


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"ridge__beta": [1]}, "Invalid parameter 'beta'"),
        ({"ridge__alpha": "12"}, "needs to be a list or a numpy array"),
        ([{"ridge__alpha": [1]}], "'param_grid' parameter"),
    ],
)
def test_bad_grids_are_refused(problem, grid, message):
    X, y, _ = problem
    with pytest.raises((ValueError, TypeError), match=message):
        evaluation.ablate(Pipeline([("ridge", Ridge())]), grid, X, y)


NASTY = EvaluationTable(
    pd.DataFrame(
        {
            "method": ["a_b & 50%", 'x|y, "quoted" #1', "back\\slash {^~$}"],
            "srcc": [0.123456789, np.nan, 1.2e-7],
            "n": [1, 22, 333],
        }
    ),
    {"data": "10 rows: two, groups", "note": "several\nlines"},
)


def test_csv_reads_back_whole(tmp_path):
    NASTY.to_csv(tmp_path / "t.csv")
    back = EvaluationTable.from_csv(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(back.frame, NASTY.frame)
    assert back.facts == {"data": "10 rows: two, groups", "note": "several lines"}
    assert NASTY.to_csv() == (tmp_path / "t.csv").read_text()


def test_any_name_of_a_fact_reads_back(tmp_path):
    names = ["method a: b", "method a: c", "a:", '"quoted"', "two\nlines", "größe", ""]
    facts = {name: f"{i}: x" for i, name in enumerate(names)}
    EvaluationTable(NASTY.frame, facts).to_csv(tmp_path / "t.csv")
    back = EvaluationTable.from_csv(tmp_path / "t.csv")
    assert back.facts == facts
    pd.testing.assert_frame_equal(back.frame, NASTY.frame)


def test_any_name_of_a_method_reads_back(problem, tmp_path):
    names = ["null", "NA", "007", "7", "1e3", ""]
    X, y, _ = problem
    table = evaluation.repeated_splits(dict.fromkeys(names, Ridge()), X, y, n_splits=2)
    table.to_csv(tmp_path / "t.csv")
    back = EvaluationTable.from_csv(tmp_path / "t.csv").frame
    assert back["method"].tolist() == table.frame["method"].tolist()
    numbers = ["median", "q1", "q3", "mean", "std", "n_splits"]
    pd.testing.assert_frame_equal(back[numbers], table.frame[numbers])


def test_a_fact_that_is_there_twice_is_no_row(tmp_path):
    (tmp_path / "t.csv").write_text("# data: 1\n# data: 2\nsrcc\n0.5\n")
    back = EvaluationTable.from_csv(tmp_path / "t.csv")
    assert back.frame.to_dict("list") == {"srcc": [0.5]}


@pytest.mark.parametrize("text", ["", "# a: b\n", '# "a: b\nx\n1\n', "\0\1"])
def test_what_is_no_table_is_named(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=r"t\.csv' is not a table that to_csv wrote"):
        EvaluationTable.from_csv(tmp_path / "t.csv")


def test_markdown_reads_back(tmp_path):
    NASTY.to_markdown(tmp_path / "t.md", digits=3)
    lines = (tmp_path / "t.md").read_text().splitlines()
    cells = [
        [
            cell.strip().replace("\\|", "|")
            for cell in re.split(r"(?<!\\)\|", line)[1:-1]
        ]
        for line in lines
        if line.startswith("|")
    ]
    assert cells[0] == ["method", "srcc", "n"]
    assert cells[1] == ["---"] * 3
    assert [row[0] for row in cells[2:]] == NASTY.frame["method"].tolist()
    assert [row[1:] for row in cells[2:]] == [
        ["0.123", "1"],
        ["", "22"],
        ["1.2e-07", "333"],
    ]
    assert lines[-2:] == ["- data: 10 rows: two, groups", "- note: several lines"]


def test_latex_reads_back():
    text = NASTY.to_latex()
    assert text.startswith("% data: 10 rows: two, groups\n% note: several lines\n")
    assert r"\begin{tabular}{lrr}" in text and text.endswith(r"\end{tabular}")
    body = re.search(r"\\midrule\n(.*)\n\\bottomrule", text, re.S)[1]
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r" \\"))]
        for line in body.splitlines()
    ]
    assert [row[0] for row in rows] == [
        r"a\_b \& 50\%",
        r'x|y, "quoted" \#1',
        r"back\textbackslash{}slash \{\textasciicircum{}\textasciitilde{}\$\}",
    ]
    assert [row[1:] for row in rows] == [
        ["0.1235", "1"],
        ["", "22"],
        ["1.2e-07", "333"],
    ]


def test_tables_print_and_show_themselves(repeated):
    text = str(repeated)
    assert "method good: Ridge()" in text and "data: 80 rows in 16 groups" in text
    html = repeated._repr_html_()
    assert html.count("<tr") - html.count("<thead") == len(repeated.frame) + len(
        repeated.facts
    )
