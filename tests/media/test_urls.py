"""Rows at URLs: web servers that fail, object stores, archives; and what is refused."""

import pickle
import traceback
import zipfile

import fsspec
import numpy as np
import pandas as pd
import pytest
from counting import counting
from flaky_server import flaky_server
from fsspec.config import conf
from PIL import Image
from video_files import encode, pan

from diffqa_features import DiffusionQAFeatures, NaturalSceneStatistics
from diffqa_features._media import remote
from diffqa_features._media.remote import expand_url, redact_url
from diffqa_features._media.rows import as_rows, open_media


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture, a video, a headerless video, and an archive of the first two."""
    folder = tmp_path_factory.mktemp("files")
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(rgb).save(folder / "a.png")
    encode(folder / "a.mp4", pan(6))
    (folder / "a.yuv").write_bytes(bytes(range(256)) * 6)  # one frame of 32 x 32
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        for name in ("a.png", "a.mp4"):
            archive.write(folder / name, f"inside/{name}")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    pytest.importorskip("aiohttp", reason="needs aiohttp: pip install aiohttp")
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    with flaky_server(files) as server:
        yield server


def media_of(source):
    return open_media(as_rows([source])[0])


def check_same(source, path, **choice):
    """The same key and frames as those of a file."""
    media, expected = media_of(source), media_of(path)
    assert media.key == expected.key
    assert media.is_still == expected.is_still
    np.testing.assert_array_equal(
        list(media.frames(**choice)), list(expected.frames(**choice))
    )


# -- web servers --


def test_files_of_a_web_server(server, folder, temporary):
    for name in ("a.png", "a.mp4"):
        check_same(f"{server.address}/ok/{name}?size=full", folder / name)
        assert server.asked[f"/ok/{name}"] == 1
    assert not list(temporary.iterdir())


def test_a_headerless_video_of_a_web_server(server, folder, temporary):
    facts = {"width": 32, "height": 32, "frame_rate": 25, "pixel_format": "yuv420p"}
    tables = [
        pd.DataFrame([{"path": path, **facts}])
        for path in (f"{server.address}/ok/a.yuv", str(folder / "a.yuv"))
    ]
    one, two = (open_media(as_rows(X)[0]) for X in tables)
    assert one.key == two.key
    np.testing.assert_array_equal(list(one.frames()), list(two.frames()))
    del one
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("how", ["drops/2", "fails/1"])
def test_faults_that_pass(server, folder, temporary, how):
    name = "a.mp4" if how == "fails/1" else "a.png"
    check_same(f"{server.address}/{how}/{name}", folder / name)
    assert server.asked[f"/{how}/{name}"] == int(how[-1]) + 1
    assert not list(temporary.iterdir())


def test_silence_is_waited_for_only_so_long(server, folder, monkeypatch):
    """Time-outs are those of fsspec's configuration, where there are any."""
    aiohttp = pytest.importorskip("aiohttp")
    short = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_read=2)}}
    monkeypatch.setitem(conf, "http", short)
    check_same(f"{server.address}/stalls/1/a.png", folder / "a.png")


def test_faults_that_stay(server, temporary):
    """One wait of 5 s, which is that before the last attempt."""
    with pytest.raises(OSError, match=r"cannot be fetched in 4 attempts \(.*try later"):
        media_of(f"{server.address}/drops/9/a.mp4")
    assert server.asked["/drops/9/a.mp4"] == 4
    assert not list(temporary.iterdir())


def test_answers_that_are_no_picture(server, temporary, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such file there; check the URL"):
        media_of(f"{server.address}/ok/none.png")
    assert server.asked["/ok/none.png"] == 1
    with pytest.raises(ValueError, match="not an image"):
        list(media_of(f"{server.address}/page/a.png").frames())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="is a picture file of"):
        media_of(f"{server.address}/endless/a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="is a video of more than"):
        media_of(f"{server.address}/ok/a.mp4")
    assert not list(temporary.iterdir())


def test_each_bad_url_is_one_bad_row(server, folder):
    features = NaturalSceneStatistics(on_error="nan")
    X = [f"{server.address}/{name}" for name in ("ok/a.png", "ok/b.png", "page/a.png")]
    with pytest.warns(RuntimeWarning, match="2 of 3 rows could not be read"):
        matrix = features.transform(X)
    assert [index for index, _ in features.failed_] == [1, 2]
    assert np.isnan(matrix[1:]).all()
    np.testing.assert_array_equal(matrix[:1], features.transform([folder / "a.png"]))


# -- secrets --


def test_a_short_fragment_leaves_other_words_alone():
    url = "https://host/pic4.png?sig=hush-hush#4"
    error = remote._explained(OSError(f"sig=hush-hush of {url}: HTTP 444"), url, 1)
    assert "(OSError: ... of https://host/pic4.png: HTTP 444)" in str(error)


def test_passwords_work_and_are_in_no_message(server, folder):
    host = server.address.removeprefix("http://")
    for secret in (f"http://user:hush@{host}/secret/", f"http://{host}/secret/"):
        end = "" if "@" in secret else "?key=hush"
        check_same(f"{secret}a.png{end}", folder / "a.png")
        for bad in ("none.png", "a.png"):
            url = f"{secret}{bad}{end}".replace("hush", "hush" * (1 + (bad == "a.png")))
            with pytest.raises(OSError) as info:
                media_of(url)
            text = "".join(traceback.format_exception(info.value))
            assert "hush" not in text
            assert f"'http://{host}/secret/{bad}'" in text
            (row,) = as_rows([url])
            assert "hush" not in f"{row} {row!r}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a.png", "https://host/a.png"),
        ("https://u:p@host/a b.png?sig=1#top", "https://host/a b.png"),
        ("hf://datasets/o/n@main/a.png", "hf://datasets/o/n@main/a.png"),
        (
            "zip://a.png::https://u:p@host/x.zip?sig=1",
            "zip://a.png::https://host/x.zip",
        ),
        ("photos/what?.png", "photos/what?.png"),
        ("https://host:8080/a@2x.png#token", "https://host:8080/a@2x.png"),
        ("s3://u:p/a?b::c#d@e@host/a.png", "s3://host/a.png"),
        ("zip://a.png::https://u:p::a/b@h/x.zip", "zip://a.png::https://h/x.zip"),
    ],
)
def test_redacted_urls(url, shown):
    assert redact_url(url) == shown


# -- archives, objects of fsspec, files --


def test_archives(folder, temporary, monkeypatch):
    monkeypatch.chdir(folder)
    for archive in (
        "archive.zip",
        folder / "archive.zip",
        f"file://{folder}/archive.zip",
    ):
        for name in ("a.png", "a.mp4"):
            check_same(f"zip://inside/{name}::{archive}", folder / name)
    check_same(f"file://{folder}/a.png", folder / "a.png")
    found = expand_url("zip://inside/*.png::archive.zip")
    assert found == ["zip://inside/a.png::archive.zip"]
    with pytest.raises(FileNotFoundError, match="no such file there"):
        media_of("zip://inside/b.png::archive.zip")
    assert not list(temporary.iterdir())


def test_archives_of_a_web_server(server, folder):
    url = f"zip://inside/a.png::{server.address}/ok/archive.zip"
    check_same(url, folder / "a.png")


def test_objects_of_fsspec(folder):
    """Whatever fsspec can open, as the caller asks for it."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/rows/a.png", (folder / "a.png").read_bytes())
    opened = fsspec.open("memory://rows/a.png")
    check_same(opened, folder / "a.png")
    check_same(pickle.loads(pickle.dumps(opened)), folder / "a.png")
    files = fsspec.open_files(f"zip://inside/*::{folder}/archive.zip")
    rows = as_rows(files)
    assert [str(row) for row in rows] == [
        "row 0 ('zip://inside/a.mp4')",
        "row 1 ('zip://inside/a.png')",
    ]
    check_same(files[1], folder / "a.png")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/a.png", "URLs of 'ftp' are not read"),
        ("memory://a.png", "URLs of 'memory' are not read"),
        ("zip://a.png::simplecache::s3://b/x.zip", "'simplecache' are not read"),
        ("data://image/png;base64,AAAA", "'data' are not read"),
    ],
)
def test_schemes_that_are_not_listed(url, message):
    with pytest.raises(ValueError, match=rf"{message}.*fsspec\.open\(url\)"):
        media_of(url)


def test_a_missing_package_is_named_and_is_no_bad_row():
    try:
        import gcsfs  # noqa: F401

        pytest.skip("gcsfs is there")
    except ImportError:
        pass
    with pytest.raises(ImportError, match=r"Row 0 .*URLs of 'gs' need.*gcsfs"):
        NaturalSceneStatistics(on_error="nan").transform(["gs://bucket/a.png"])


def test_tables_do_not_lead_to_this_machine(folder, server):
    url = f"file://{folder}/a.png"
    chain = f"zip://inside/a.png::{folder}/archive.zip"
    far = f"{server.address}/ok/a.png"
    for X in (
        pd.DataFrame({"path": [url, chain, far]}),
        pd.DataFrame(
            {"image": [{"bytes": None, "path": u} for u in (url, chain, far)]}
        ),
    ):
        rows = as_rows(X)
        with pytest.raises(ValueError, match="write the path itself"):
            open_media(rows[0])
        with pytest.raises(ValueError, match=r"a chain of URLs .* as a list"):
            open_media(rows[1])
        check_same(far, folder / "a.png")
        assert open_media(rows[2]).key == media_of(folder / "a.png").key
    # Processes are told as well.
    with pytest.raises(ValueError, match="write the path itself"):
        open_media(pickle.loads(pickle.dumps(rows[0])))
    assert len(as_rows(X["image"].tolist())) == 3  # asked for


# -- the store, and an object store --


def test_one_picture_is_one_entry(folder, sd1_folder, tmp_path):
    data = (folder / "a.png").read_bytes()
    features = DiffusionQAFeatures(
        str(sd1_folder), image_size=64, memory=tmp_path / "s"
    )
    expected = features.transform([folder / "a.png"])
    X = [
        data,
        {"bytes": data, "path": "b.png"},
        f"file://{folder}/a.png",
        f"zip://inside/a.png::{folder}/archive.zip",
    ]
    with counting(sd1_folder) as count:
        for source in X:
            np.testing.assert_array_equal(features.transform([source]), expected)
    assert count.unet_rows == count.vae_rows == 0


@pytest.fixture(scope="module")
def bucket(folder):
    """A bucket of a local S3 server with the files of `folder`."""
    moto = pytest.importorskip("moto.server", reason="needs moto, flask, flask-cors")
    pytest.importorskip("s3fs", reason="needs s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        options = {
            "key": "key",
            "secret": "hush",
            "endpoint_url": f"http://{host}:{port}",
        }
        patch.setitem(conf, "s3", options)
        system = fsspec.filesystem("s3")
        system.mkdir("bucket")
        for path in folder.iterdir():
            system.put(str(path), f"bucket/photos/{path.name}")
        yield "s3://bucket/photos"
    server.stop()


def test_an_object_store(bucket, folder, temporary):
    for name in ("a.png", "a.mp4"):
        check_same(f"{bucket}/{name}", folder / name)
    check_same(f"zip://inside/a.png::{bucket}/archive.zip", folder / "a.png")
    with pytest.raises(FileNotFoundError, match="no such file there"):
        media_of(f"{bucket}/none.png")
    found = expand_url(f"{bucket}/a.*")
    assert found == [f"{bucket}/{name}" for name in ("a.mp4", "a.png", "a.yuv")]
    assert not list(temporary.iterdir())
