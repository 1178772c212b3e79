"""CSV tables: every column under its own name, whatever the ends of the lines."""

import numpy as np
import pandas as pd
import pytest
from dataset_copies import media

from diffqa_features._utils.tables import load_table, quote_formulas, read_csv
from diffqa_features.datasets import from_table


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "t.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


@pytest.mark.parametrize("end", [",", ",,", ", ,", ""])
def test_lines_that_end_in_the_separator(write, end):
    """As of KADID-10k's dmos.csv, when a spreadsheet has saved it."""
    table = read_csv(write(f"dist_img,dmos,var\r\nI01_01_01.png,4.57,0.4{end}\r\n"))
    assert table.to_dict("list") == {
        "dist_img": ["I01_01_01.png"], "dmos": [4.57], "var": [0.4],
    }  # fmt: skip


def test_some_lines_only_and_short_ones(write):
    table = read_csv(write("a,b\n1,2\n3,4,\n5\n\n"))
    assert table["a"].tolist() == [1, 3, 5]
    np.testing.assert_array_equal(table["b"], [2, 4, np.nan])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\nx, y.png,3\n", "line 3 has 3 cells, but there are 2 .*quotes"),
        ("a,b\n1,2,3\n", "line 2 has 3 cells"),
        ('a,b\n"1,2\n', "line 2: unexpected end"),
        ("", "it is empty"),
        ("path,mos,mos\na,1,2\n", "two columns are called 'mos'; rename"),
        ("\x01\x02,a\n1,2\n", "control characters"),
        ("path;mos\na.png;1,5\n", "no ',' and is separated by ';'. Separate cells"),
        ("path\tmos\na.png\t1\n", r"separated by '\\t'. .*sep='\\t'"),
    ],
)
def test_what_fits_no_column_is_an_error_with_its_line(write, text, message):
    with pytest.raises(ValueError, match=message):
        read_csv(write(text))


def test_a_table_that_is_not_utf8_says_so(write):
    for encoding in ("latin-1", "utf-16"):
        with pytest.raises(ValueError, match=r"not in UTF-8 .*Save it as UTF-8"):
            read_csv(write("name,mos\né.png,1\n", encoding))


def test_quotes_marks_and_separators(write):
    text = '\ufeffname;mos\n"a;""b""\nc";1,5\n'
    table = read_csv(write(text), sep=";", decimal=",")
    assert table.to_dict("list") == {"name": ['a;"b"\nc'], "mos": [1.5]}
    assert read_csv(write('"mos, mean"\n4\n')).columns.tolist() == ["mos, mean"]
    assert read_csv(write("x,1\ny,2,\n"), names=["n", "v"])["v"].tolist() == [1, 2]


def test_from_table_with_such_lines(write, tmp_path):
    media(tmp_path, ["a.png", "b.png"])
    path = write("path,target,var,group\na.png,1.5,9,NA,\nb.png,2.5,8,null,\n")
    found = from_table(path, group_column="group")
    assert found.target.tolist() == [1.5, 2.5]
    assert found.groups.tolist() == ["NA", "null"]
    path = write("path,target,group\na.png,1,x\nb.png,2, \n")
    with pytest.raises(ValueError, match=r"'group' of .* is blank in 1 rows: 1"):
        from_table(path, group_column="group")


def test_columns_without_a_name_may_be_several(write):
    assert read_csv(write("a,,\n1,2,3\n"))["a"].tolist() == [1]


@pytest.mark.parametrize("folder", [False, True])
def test_rows_are_counted_from_0(tmp_path, folder):
    """Whatever index a Parquet table was written with."""
    table = pd.DataFrame({"path": ["a", "b"]}, index=[7, 3])
    path = tmp_path / "t.parquet"
    table.to_parquet(path)
    assert load_table(tmp_path if folder else path).index.tolist() == [0, 1]


def test_formulas():
    cells = ["=1+1", "+1", "-1", "@x", "\t=1", "a=1", "", -1.5, None]
    quoted = ["'=1+1", "'+1", "'-1", "'@x", "'\t=1", "a=1", "", -1.5, None]
    assert list(map(quote_formulas, cells)) == quoted
