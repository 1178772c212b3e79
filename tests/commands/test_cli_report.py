"""`diffqa report`: what the page holds, and what a browser makes of it."""

import base64
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import video_files
from browser import Browser, needs_browser
from command_line import picture
from PIL import Image
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from skops import io as skops_io

from diffqa_features import load_scorer
from diffqa_features._commands._report.page import write_page
from diffqa_features._commands._report.pictures import THUMB, encode
from diffqa_features._media.images import decode_image
from diffqa_features.cli import main
from diffqa_features.datasets import load_sample_photos

pytest_plugins = ["command_line_fixtures"]

TAG = "<img src=x onerror=alert(1)>.jpg"
QUOTES = "\"quotes' & <b>more.png"
ENDS = "evil<", "script>alert(2).png"  # with the slash between them an end of script
BAD = "<b onclick=alert(3)>.png"


class Page(HTMLParser):
    """The elements of a page, and its blocks of JSON by name."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.blocks, self.text = [], {}, ""
        self._block = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._block = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag):
        self._block = None

    def handle_data(self, data):
        if self._block:
            self.blocks[self._block] = json.loads(data)
        else:
            self.text += data

    @property
    def rows(self):
        count = sum(name.startswith("row-") for name in self.blocks)
        return [self.blocks[f"row-{index}"] for index in range(count)]


def noisy(pixels, spread):
    noise = np.random.default_rng(0).normal(0, spread, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with names of all kinds, copies, a clip, and what is none of these."""
    root = tmp_path_factory.mktemp("report")
    photos = root / "photos"
    (photos / ENDS[0]).mkdir(parents=True)
    (photos / "more").mkdir()
    (first, second, third) = load_sample_photos(image_size=128).data[:3]
    Image.fromarray(first).save(photos / "a.png")
    noisy(first, 60).save(photos / "more" / "noisy.png")
    shutil.copy(photos / "more" / "noisy.png", photos / "more" / "again.png")
    Image.fromarray(second).save(photos / TAG)
    Image.fromarray(third).save(photos / QUOTES)
    noisy(second, 10).save(photos / ENDS[0] / ENDS[1])
    wide = Image.fromarray(third).resize((1400, 700))
    wide.save(photos / "wide.jpg")
    latin = os.path.join(os.fsencode(photos), b"\xe9.png")  # noqa: PTH118
    Image.fromarray(third[:96]).save(os.fsdecode(latin))
    video_files.encode(photos / "clip.mp4", video_files.pan(30))
    (photos / BAD).write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def report(folder):
    """The report on that folder."""
    out = folder / "report.html"
    assert main(["report", str(folder / "photos"), "-r", "-o", str(out), "-q"]) == 3
    return out


@pytest.fixture(scope="module")
def page(report):
    return Page(report)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


class TestContent:
    def test_scores_intervals_and_faults_are_the_scorers(self, folder, page):
        scorer = load_scorer()
        assert len(page.rows) == 9
        for row in page.rows:
            path = Path(row["folder"]) / row["name"]
            if row["name"] in ("clip.mp4", "\\udce9.png"):
                continue
            found = scorer.assess([path]).iloc[0]
            assert row["score"] == pytest.approx(found["jod"], abs=1e-3)
            low, high = found["jod"] - 2 * found["std"], found["jod"] + 2 * found["std"]
            assert row["low"] == pytest.approx(low, abs=1e-3)
            assert row["high"] == pytest.approx(min(10, high), abs=1e-3)
            faults = found.drop(["jod", "std"])
            assert set(row["faults"]) == set(faults.index[faults >= 0.5])
            for name, chance in row["chances"]:
                assert chance == pytest.approx(faults[name], abs=1e-3)
            with Image.open(path) as image:
                assert row["size"] == list(image.size)
            assert row["bytes"] == path.stat().st_size

    def test_a_clip_has_its_frames_and_its_own_score(self, folder, page):
        (row,) = (row for row in page.rows if row["name"] == "clip.mp4")
        frames = video_files.pan(30)
        assert row["times"][0] == 0
        assert len(row["times"]) == len(row["scores"]) == 5
        found = load_scorer().assess([folder / "photos" / "clip.mp4"]).iloc[0]
        assert row["score"] == pytest.approx(found["jod"], abs=1e-3)
        # It is one burst, and none of its frames worse than others.
        assert row["scores"] == pytest.approx([found["jod"]] * 5, abs=1e-3)
        assert row["shown"] == 0
        chances = dict(row["chances"])
        assert chances["freeze"] == pytest.approx(found["freeze"], abs=1e-3)
        strip = page.blocks[f"strip-{row['pictures']}"]
        for thumb, time in zip(strip, row["times"], strict=True):
            small = decoded(thumb).astype(float)
            whole = Image.fromarray(frames[round(25 * time)]).resize(small.shape[1::-1])
            assert np.abs(small - np.asarray(whole)).mean() < 16

    def test_copies_share_their_pictures(self, page):
        twins = [row for row in page.rows if row["name"] in ("again.png", "noisy.png")]
        assert len({row["pictures"] for row in twins}) == 1
        assert len({row["pictures"] for row in page.rows}) == 8
        assert sum(name.startswith("thumb-") for name in page.blocks) == 8

    def test_pictures(self, folder, page):
        by_name = {row["name"]: row["pictures"] for row in page.rows}
        with Image.open(folder / "photos" / "a.png") as image:
            small = decoded(page.blocks[f"thumb-{by_name['a.png']}"])
            assert small.shape == (128, 128, 3)
            assert np.abs(small.astype(float) - np.asarray(image)).mean() < 8
        wide = by_name["wide.jpg"]
        assert decoded(page.blocks[f"thumb-{wide}"]).shape == (112, 224, 3)
        assert decoded(page.blocks[f"large-{wide}"]).shape == (512, 1024, 3)
        # What is made smaller is also shown in part, as it is.
        assert decoded(page.blocks[f"detail-{wide}"]).shape == (208, 312, 3)
        assert f"detail-{by_name['a.png']}" not in page.blocks

    def test_the_page_asks_nobody(self, report, page):
        text = report.read_text(encoding="utf-8")
        (policy,) = (
            attrs["content"]
            for tag, attrs in page.tags
            if attrs.get("http-equiv") == "Content-Security-Policy"
        )
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http:" not in policy
        sources = re.findall(r"\b(?:src|href)=[\"']?([^\"'\s>]*)", text)
        assert {source for source in sources if not source.startswith("data:")} <= {
            "#results",
            "x",  # a part of a name, which is text
        }

    def test_names_stay_text(self, page):
        names = {row["name"] for row in page.rows}
        assert {TAG, QUOTES, ENDS[1]} <= names
        assert not any("onerror" in attrs for _, attrs in page.tags)
        assert not any("onclick" in attrs for _, attrs in page.tags)
        assert not any(tag == "b" for tag, _ in page.tags)
        assert BAD in page.text

    def test_bad_files_are_listed(self, folder, run, page):
        assert "not an image that Pillow can read" in page.text
        words = ("report", str(folder / "photos" / BAD), "-o", folder / "none.html")
        assert run(*words)[0] == 1
        assert not (folder / "none.html").exists()
        words = ("report", str(folder / "photos"), "-o", folder / "none.html")
        code, _, stderr = run(*words, "--on-error", "raise", "--quiet")
        assert code == 1
        assert BAD in stderr
        assert not (folder / "none.html").exists()

    def test_only_the_lowest_are_large(self, folder, page, run):
        out = folder / "few.html"
        photos = sorted((folder / "photos").glob("*.*"))
        chosen = [path for path in photos if path.name not in (BAD, "clip.mp4")]
        words = ("report", *chosen, "-o", out, "--large-views", 2, "--quiet")
        code, _, stderr = run(*words)
        assert code == 0
        assert f"{len(chosen)} files, " in stderr
        few = Page(out)
        lowest = sorted(few.rows, key=lambda row: row["score"])[:2]
        for kind in ("large", "map"):
            found = {name for name in few.blocks if name.startswith(f"{kind}-")}
            assert found == {f"{kind}-{row['pictures']}" for row in lowest}
            for row in lowest:
                (same,) = (r for r in page.rows if r["name"] == row["name"])
                expected = page.blocks[f"{kind}-{same['pictures']}"]
                assert few.blocks[f"{kind}-{row['pictures']}"] == expected

    def test_maps(self, folder, page):
        (row,) = (row for row in page.rows if row["name"] == TAG)
        found = page.blocks[f"map-{row['pictures']}"]
        levels = np.frombuffer(base64.b64decode(found["levels"]), np.uint8)
        expected = load_scorer().quality_maps([folder / "photos" / TAG])[0, 0]
        assert found["shape"] == list(expected.shape)
        shares = np.clip(expected.ravel() / 4, 0, 1)
        np.testing.assert_allclose(levels / 255, shares, atol=0.003)

    def test_a_table(self, folder, run):
        table = pd.DataFrame({"file": ["a.png", "wide.jpg", "", "gone.png"]})
        table.to_csv(folder / "photos" / "table.csv", index=False)
        out = folder / "table.html"
        words = ("report", folder / "photos" / "table.csv", "-o", out)
        code, _, stderr = run(*words, "--path-column", "file", "-q")
        assert code == 3
        assert "2 of 4 files" in stderr
        assert [row["name"] for row in Page(out).rows] == ["a.png", "wide.jpg"]

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            ((), "Give INPUTs, or --compare"),
            (("a.png", "--compare", "a.csv", "b.csv"), "Give INPUTs, or --compare"),
            (("a.png", "--memory", "m"), "--memory would have no effect"),
            (("a.png", "--jobs", "2"), "--jobs would have no effect"),
            (("--compare", "a.csv", "b.csv", "--model", "m"), "--model would have no"),
        ],
    )
    def test_what_is_refused(self, folder, run, words, sentence):
        code, _, stderr = run("report", *words, "-o", folder / "refused.html")
        assert code == 2
        assert sentence in stderr
        assert run("report", "a.png", "-o", folder / "report.txt")[0] == 2


class TestOwnModel:
    def test_scores_are_the_models(self, photos, features, run):
        paths = sorted(
            str(path) for path in photos.glob("*.*") if path.suffix != ".txt"
        )
        model = make_pipeline(features(memory=None), StandardScaler(), SVR(C=10))
        model.fit(paths, 50 + 10.0 * np.arange(len(paths)))
        skops_io.dump(model, "m.skops")
        video_files.encode(photos / "clip.mp4", video_files.pan(30))
        (photos / "bad.png").write_bytes(b"no picture")
        code, _, stderr = run("report", "photos", "--model", "m.skops", "-o", "r.html")
        assert code == 3, stderr
        page = Page(Path("r.html"))
        found = {row["name"]: row for row in page.rows}
        assert "bad.png" in page.text
        assert len(found) == 5
        assert "m.skops" in page.text
        for name, row in found.items():
            (expected,) = model.predict([str(photos / name)])
            assert row["score"] == pytest.approx(expected, rel=1e-3)
            assert (row["faults"], row["chances"]) == ([], [])
            assert "low" not in row
            assert f"map-{row['pictures']}" not in page.blocks
        assert len(found["clip.mp4"]["scores"]) == 5


def test_a_clip_of_which_one_frame_is_shown(tmp_path, run):
    """It lasts 0.2 s, and yet its timing counts."""
    frames = [Image.fromarray(frame) for frame in video_files.pan(10)]
    path = tmp_path / "short.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=20)
    assert run("report", path, "-o", tmp_path / "r.html")[0] == 0
    (row,) = Page(tmp_path / "r.html").rows
    assert row["score"] == pytest.approx(load_scorer().predict([path])[0], abs=1e-3)
    assert "freeze" in dict(row["chances"])


class TestCompare:
    @pytest.fixture
    def tables(self, tmp_path, monkeypatch):
        """Scores of a folder, and of the same pictures in another format."""
        monkeypatch.chdir(tmp_path)
        rng = np.random.default_rng(0)
        before, after = rng.normal(8, 1, 40), rng.normal(7.6, 1, 40)
        after[5] = before[5]
        for name, ending, scores in (
            ("before", "png", before), ("after", "webp", after),
        ):  # fmt: skip
            Path(name).mkdir()
            for index in range(3):
                picture(index).save(f"{name}/{index}.{ending}")
            paths = [f"{name}/{index}.{ending}" for index in range(40)]
            pd.DataFrame({"path": paths, "score": scores, "fault": "blur"}).to_csv(
                f"{name}.csv", index=False
            )
        with Path("before.csv").open("a") as file:
            file.write("before/<i>gone.png,7.5,\n")
        return before, after

    def test_pairs_and_summary(self, tables, run):
        before, after = tables
        words = ("report", "--compare", "before.csv", "after.csv", "-o", "c.html")
        code, _, stderr = run(*words)
        assert code == 0, stderr
        page = Page(Path("c.html"))
        order = np.argsort(after - before, kind="stable")
        assert [row["name"] for row in page.rows] == [f"{i}.webp" for i in order]
        change = [row["change"] for row in page.rows]
        np.testing.assert_allclose(change, (after - before)[order], atol=1e-3)
        for row in page.rows:
            there = int(Path(row["name"]).stem) < 3
            for kind in ("thumb", "before-thumb", "large", "before-large"):
                assert (f"{kind}-{row['pictures']}" in page.blocks) == there
        figures = dict(page.blocks["settings"]["figures"])
        figures = {k: v.replace("\N{MINUS SIGN}", "-") for k, v in figures.items()}
        assert int(figures["better"]) == (after > before).sum()
        assert int(figures["worse"]) == (after < before).sum()
        assert int(figures["the same"]) == 1
        median = np.median(after - before)
        assert float(figures["median change"]) == pytest.approx(median, abs=0.006)
        drawn = np.random.default_rng(1).integers(0, 40, (20_000, 40))
        interval = np.quantile(np.median((after - before)[drawn], 1), [0.025, 0.975])
        low, high = map(float, figures["95 % interval"].split(" to "))
        np.testing.assert_allclose([low, high], interval, atol=0.06)
        assert "before/<i>gone.png" in page.text
        assert "only before.csv has a score of it" in page.text

    def test_names_that_differ_in_their_folders(self, tmp_path, run):
        for side in ("before", "after"):
            paths = [f"{tmp_path}/{side}/{name}" for name in ("a/x.png", "b/x.png")]
            scores = [5, 6] if side == "before" else [7, 3]
            table = pd.DataFrame({"path": paths, "score": scores})
            table.to_csv(tmp_path / f"{side}.csv", index=False)
        words = ("report", "--compare", tmp_path / "before.csv", tmp_path / "after.csv")
        assert run(*words, "-o", tmp_path / "c.html")[0] == 0
        rows = Page(tmp_path / "c.html").rows
        assert [row["change"] for row in rows] == [-3, 2]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("path,mos\na.png,3\n", "has no column 'score'"),
            ("path,score\na.png,good\n", "must hold finite numbers. Got 'good'"),
            ("path,score\nother.png,3\n", "No file of"),
            ("path,score\na.png,3\n,4\n", "row 1: the column 'path' holds no path"),
            ("path,score\na.png,3\na.png,4\n", "names 'a.png' twice"),
        ],
    )
    def test_tables_that_do_not_fit(self, tmp_path, run, text, sentence):
        (tmp_path / "good.csv").write_text("path,score\na.png,5\n")
        (tmp_path / "other.csv").write_text(text)
        words = ("report", "--compare", tmp_path / "good.csv", tmp_path / "other.csv")
        code, _, stderr = run(*words, "-o", tmp_path / "c.html")
        assert code == 2
        assert sentence in stderr


@needs_browser
class TestInABrowser:
    CARDS = "[...document.querySelectorAll('#results .card')]"
    NAMES = (
        "[...document.querySelectorAll('.card .name')].map((e) => e.firstChild.data)"
    )
    COUNT = "document.getElementById('count').textContent"

    def names(self, browser):
        return browser.value(self.NAMES)

    def test_opens_quietly_and_in_order(self, browser, report, page):
        browser.open(report)
        ordered = sorted(page.rows, key=lambda row: row["score"])
        assert self.names(browser) == [row["name"] for row in ordered]
        assert browser.value(self.COUNT) == "9 files"
        assert browser.complaints == []
        outside = [url for url in browser.asked if not url.startswith("data:")]
        assert outside == [report.as_uri()]
        assert browser.value(
            "[...document.images].filter((i) => i.src).every((i) => i.complete"
            " && i.naturalWidth > 0)"
        )
        assert (
            browser.value("document.querySelectorAll('[onerror], .name b').length") == 0
        )

    def test_filters(self, browser, report, page):
        noise = {row["name"] for row in page.rows if "noise" in row["faults"]}
        assert 0 < len(noise) < 9
        browser.open(report, "#fault=noise&sort=name")
        assert set(self.names(browser)) == noise
        assert browser.value(self.COUNT) == f"{len(noise)} of 9 files"
        assert browser.value("document.querySelector('[aria-pressed=true]').innerText")
        browser.open(report, "#twins=1")
        assert set(self.names(browser)) == {"noisy.png", "again.png"}
        browser.open(report, "#to=9&from=2")
        within = {r["name"] for r in page.rows if 2 <= r["score"] <= 9}
        assert set(self.names(browser)) == within
        browser.open(report)
        browser.value("document.getElementById('q').focus()")
        browser.press(*"evil<")
        browser.value("new Promise((done) => setTimeout(done, 300))")
        assert self.names(browser) == [ENDS[1]]
        assert browser.value("location.hash") == "#q=evil%3C"
        browser.value("document.getElementById('clear').click()")
        assert browser.value(self.COUNT) == "9 files"
        browser.open(report, "#view=table&folder=nowhere")
        assert browser.value(self.COUNT) == "0 of 9 files"
        assert browser.complaints == []

    def test_keys_and_the_large_view(self, browser, report):
        browser.open(report)
        names = self.names(browser)
        browser.value(f"{self.CARDS}[0].focus()")
        browser.press("ArrowRight", "Enter")
        shown = "document.getElementById('viewer-name').textContent"
        assert browser.value("document.getElementById('viewer').open")
        assert browser.value(shown) == names[1]
        assert browser.value("document.getElementById('base').naturalWidth") > 100
        inked = (
            "document.getElementById('map').getContext('2d').getImageData(0, 0, 128, "
            "128).data.some((value) => value > 0)"
        )
        assert browser.value(inked)
        # The switch of the map has the focus.
        hidden = "document.getElementById('map').hidden"
        assert browser.value(hidden) is False
        browser.press("Space")
        assert browser.value(hidden) is True
        browser.press("ArrowRight", "ArrowRight")
        assert browser.value(shown) == names[3]
        browser.press("Escape")
        assert not browser.value("document.getElementById('viewer').open")
        focused = "document.activeElement.querySelector('.name').firstChild.data"
        assert browser.value(focused) == names[3]
        assert browser.value("location.hash") == ""
        assert browser.complaints == []

    def test_a_clip(self, browser, report, page):
        (index,) = (i for i, r in enumerate(page.rows) if r["name"] == "clip.mp4")
        browser.open(report, f"#open={index}")
        count = "document.querySelectorAll('#viewer-facts .{}').length"
        assert browser.value(count.format("strip img")) == 5
        assert browser.value(count.format("curve circle")) == 5
        assert browser.complaints == []

    def test_a_screen_reader_finds_names_and_places(self, browser, report):
        for address in ("", "#view=table", "#open=0"):
            browser.open(report, address)
            tree = browser.call("Accessibility.getFullAXTree")["nodes"]
            roles = {}
            for node in tree:
                if not node["ignored"]:
                    name = node.get("name", {}).get("value", "")
                    roles.setdefault(node["role"]["value"], []).append(name)
            for role in (
                "button", "checkbox", "combobox", "searchbox", "spinbutton", "image",
                "dialog", "slider", "table", "region",
            ):  # fmt: skip
                assert all(roles.get(role, [])), (role, roles[role])
            if address != "#open=0":
                assert {"banner", "main", "contentinfo", "search", "status"} <= set(
                    roles
                )
                assert roles["heading"][0] == "photos"
                assert "1 file, with the reason" in roles["table"]
            if address == "#view=table":
                assert "Files, as filtered" in roles["table"]

    def test_dark_narrow_and_still(self, browser, report):
        ground = "getComputedStyle(document.body).backgroundColor"
        root = "document.documentElement"
        moves = (
            "getComputedStyle(document.querySelector('.card img')).transitionDuration"
        )
        browser.open(report, size=(360, 700))
        light = browser.value(ground)
        assert browser.value(f"{root}.scrollWidth === {root}.clientWidth")
        assert browser.value(moves) != "0s"
        browser.open(
            report, prefers_color_scheme="dark", prefers_reduced_motion="reduce"
        )
        dark = browser.value(ground)
        assert sum(numbers(light)) > 690
        assert sum(numbers(dark)) < 90
        assert browser.value(moves) == "0s"

    def test_a_comparison(self, browser, folder, page):
        table = pd.DataFrame(
            {
                "path": [str(Path(r["folder"]) / r["name"]) for r in page.rows],
                "score": [row["score"] for row in page.rows],
            }
        )
        table = table[~table["path"].str.contains("udce9")]
        table.to_csv(folder / "before.csv", index=False)
        table.assign(score=table["score"][::-1].to_numpy()).to_csv(
            folder / "after.csv", index=False
        )
        out = folder / "change.html"
        words = ("--compare", folder / "before.csv", folder / "after.csv", "-o", out)
        assert main(["report", *map(str, words), "--quiet"]) == 0
        browser.open(out)
        first = Page(out).rows[0]
        assert self.names(browser)[0] == first["name"]
        score = browser.value("document.querySelector('.card .score').textContent")
        assert float(score.replace("\N{MINUS SIGN}", "-")) == pytest.approx(
            first["change"], abs=0.006
        )
        browser.open(out, "#open=0")
        for name in ("base", "other"):
            assert browser.value(f"document.getElementById('{name}').naturalWidth") > 90
        assert browser.complaints == []

    def test_ten_thousand(self, browser, tmp_path):
        """As many as are promised: a page of them at once, and below 100 MB."""
        thumbs = [encode(p, THUMB) for p in load_sample_photos(image_size=192).data[:8]]
        size = np.mean([len(thumb) for thumb in thumbs])

        def blocks():
            for index in range(10_000):
                yield f"thumb-{index}", thumbs[index % 8]
                row = {"name": f"{index:05}.jpg", "folder": f"photos/{index % 30}"}
                row |= {"pictures": index, "bytes": 1, "size": [192, 192]}
                row |= {"faults": [], "score": index % 100 / 10}
                yield f"row-{index}", row

        settings = {"compare": False, "unit": "JOD", "best": 10.0, "map_top": 4}
        out = tmp_path / "many.html"
        write_page(out, title="many", settings=settings, blocks=blocks(), bad=[])
        assert out.stat().st_size < 10_000 * (size + 400) < 100e6
        browser.open(out, "#page=2")
        assert browser.value(self.COUNT) == "10,000 files"
        assert browser.value("document.images.length") < 200
        assert browser.value("document.getElementById('page-number').textContent") == (
            "Page 2 of 84"
        )
        browser.value("document.getElementById('next-page').click()")
        assert self.names(browser)[0] == "04002.jpg"
        assert browser.complaints == []


def decoded(uri):
    """Pixels of a data URI."""
    kind, _, data = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return decode_image(base64.b64decode(data), "the URI")


def numbers(color):
    return [int(number) for number in re.findall(r"\d+", color)][:3]
