"""`diffqa extract` and `diffqa score` on URLs, typed or in a table."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import close, read
from flaky_server import flaky_server

from diffqa_features import load_scorer

pytest_plugins = ["command_line_fixtures"]


@pytest.fixture
def archive(photos):
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for name in ("a.png", "b.JPG", "d.png"):
            archive.write(photos / name, name)
    return "::photos.zip"


def test_typed_urls(photos, archive, run, features):
    url = f"file://{photos}/a.png"
    code, _, _ = run("extract", f"zip://*.png{archive}", url, "-o", "o.csv", "--quiet")
    assert code == 0
    paths, matrix, _ = read(Path("o.csv"))
    assert paths == [f"zip://a.png{archive}", f"zip://d.png{archive}", url]
    names = [photos / name for name in ("a.png", "d.png", "a.png")]
    close(matrix, features().transform(names))


def test_urls_in_a_table(photos, archive, run, features):
    """Those of this machine are bad rows there, for all commands alike."""
    pytest.importorskip("aiohttp", reason="needs aiohttp: pip install aiohttp")
    content = {"a.png": (photos / "a.png").read_bytes()}
    with flaky_server(content) as server:
        far = f"{server.address}/ok/a.png?key=hush"
        lost = f"{server.address}/ok/lost.png?key=hush"
        near = [f"file://{photos}/a.png", f"zip://a.png{archive}"]
        table = pd.DataFrame({"path": [far, lost, "photos/d.png", *near]})
        table.to_csv("list.csv", index=False)
        code, _, stderr = run("extract", "list.csv", "-o", "o.csv", "--quiet")
        assert code == 3
        listed = pd.read_csv("o.csv.bad.csv")
        scored, _, errors = run("score", "list.csv", "-o", "scores.csv", "--quiet")
        assert scored == 3
        assert run("extract", "list.csv", "-o", "folder", "--quiet")[0] == 3
        small = ("--large-views", 0, "--quiet", "-o")
        assert run("report", "list.csv", *small, "r.html")[0] == 3
        assert run("report", far, near[0], *small, "typed.html")[0] == 0
        table.assign(score=1.0).to_csv("list.csv", index=False)
        compare = ("--compare", "list.csv", "list.csv")
        assert run("report", *compare, *small, "compared.html")[0] == 0
    paths, matrix, _ = read(Path("o.csv"))
    assert paths == [far, "photos/d.png"]
    close(matrix, features().transform([photos / "a.png", photos / "d.png"]))
    found = pd.read_parquet("folder").set_index("path")["reason"]
    assert (found[[lost, *near]] != "").all()
    assert (found[paths] == "").all()
    assert listed["path"].tolist() == [lost.partition("?")[0], *near]
    for name, count in ("r.html", 2), ("typed.html", 2), ("compared.html", 5):
        page = Path(name).read_text(encoding="utf-8")
        assert page.count('id="row-') == count
        assert f'"name": "a.png", "folder": "{server.address}/ok"' in page
        assert "hush" not in page
    assert page.count('id="thumb-') == 2
    for reason, part in zip(
        listed["reason"], ["no such file there", "write the path itself", "a chain of"]
    ):
        assert part in reason
    assert "hush" not in stderr + errors
    scores = pd.read_csv("scores.csv")
    assert scores["path"].tolist() == paths
    expected = load_scorer().predict([photos / "a.png", photos / "d.png"])
    np.testing.assert_allclose(scores["score"], expected, rtol=1e-5)


def test_urls_that_are_no_files(photos, archive, run):
    for word, message in [
        ("https://host/list.csv", "is a table or a folder"),
        ("s3://bucket/photos/", "is a table or a folder"),
        ("ftp://host/a.png", "URLs of 'ftp' are not read"),
        (f"zip://*.gif{archive}", "No file matches"),
        ("zip://*.gif::none.zip", "INPUT 'zip://*.gif::none.zip': no such file there"),
    ]:
        code, _, stderr = run("extract", word, "-o", "o.csv")
        assert code != 0
        assert message in stderr


@pytest.mark.parametrize("out", ["o.csv", "folder"])
def test_a_password_is_not_shown(photos, run, out):
    secret = "ftp://me:hush@host/a.png?key=hush"  # which is not read
    pd.DataFrame({"path": [secret, "photos/a.png"]}).to_csv("list.csv", index=False)
    for words in (
        ["list.csv", "-o", out, "--on-error", "raise"],
        ["list.csv", "-o", out],
    ):
        code, stdout, stderr = run("extract", *words, "--quiet")
        assert code == (1 if "raise" in words else 3)
        assert "ftp://host/a.png: URLs of 'ftp' are not read" in stderr
        assert "hush" not in stdout + stderr
    assert "hush" not in Path(f"{out}.bad.csv").read_text()
    for words in [secret, "-o", out], ["photos", "-o", "s3://me:hush@host/x"]:
        code, stdout, stderr = run("extract", *words)
        assert code == 2
        assert "hush" not in stdout + stderr
