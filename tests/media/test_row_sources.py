"""Rows that are no paths: bytes, open files, columns of Arrow, tensors, datasets."""

import io
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from PIL import Image
from video_files import encode, pan

from diffqa_features import NaturalSceneStatistics
from diffqa_features._media.rows import as_rows, open_media, take_rows

CASES = Path(__file__).parents[1] / "cases"


def media_of(source):
    return open_media(as_rows([source])[0])


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def picture(rgb, tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "a.png"
    Image.fromarray(rgb).save(path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    encode(path, pan(6))
    return path


FORMS = {
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "file": lambda path: path.open("rb"),
    "undecoded": lambda path: {"bytes": path.read_bytes(), "path": "name.png"},
    "nameless": lambda path: {"bytes": memoryview(path.read_bytes()), "path": None},
    "named only": lambda path: {"bytes": None, "path": str(path)},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_is_the_file(form, picture, clip, temporary):
    for path in (picture, clip):
        expected, source = media_of(path), form(path)
        # Twice, as a file that was read stands at its beginning again.
        for row in (*as_rows([source, source]), *pickled(as_rows([source]))):
            media = open_media(row)
            assert media.key == expected.key
            assert media.is_still == expected.is_still
            assert media.frame_rate == expected.frame_rate
            np.testing.assert_array_equal(
                list(media.frames(10)), list(expected.frames(10))
            )
            del media
            assert not list(temporary.iterdir())


def pickled(rows):
    return pickle.loads(pickle.dumps(rows))


def test_names_of_rows(picture):
    data = picture.read_bytes()
    sources = [data, memoryview(data), {"bytes": data, "path": "a.png"}]
    rows = as_rows(sources)
    names = ["row 0 (bytes)", "row 1 (memoryview)", "row 2 ('a.png')"]
    assert [str(row) for row in rows] == names
    assert [str(row) for row in pickled(rows)] == names


# -- hostile and broken content --


def cut(path):
    return path.read_bytes()[:-100]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>404</html>", "not an image that Pillow can read"),
        (b"#EXTM3U\n/etc/passwd\n", "not an image that Pillow can read"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_content_that_is_no_media(data, message):
    with pytest.raises(ValueError, match=rf"^Row 0 \(bytes\): .*{message}"):
        list(media_of(data).frames())


def test_broken_content(clip, temporary):
    for data in (
        (CASES / "photo_iptc.jpg").read_bytes(),  # would open what is inside
        (CASES / "cut_with_end.jpg").read_bytes(),
        (CASES / "zeroed_middle.jpg").read_bytes(),
        (CASES / "frag_mp4_zero0.mp4").read_bytes(),
        cut(clip),
    ):
        messages = []
        for source in (data, io.BytesIO(data)):
            with pytest.raises(ValueError) as info:
                list(media_of(source).frames())
            messages.append(info.value.cause)
            assert not list(temporary.iterdir())  # while the traceback is held
        assert messages[0] == messages[1]


def test_budget_of_content(picture, clip, temporary, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24)
    for source in (picture.read_bytes(), picture.open("rb")):
        with pytest.raises(ValueError, match="is a picture file of"):
            media_of(source)
    with pytest.raises(ValueError, match=r"is a video of more than .* Download it"):
        media_of(clip.open("rb"))
    assert not list(temporary.iterdir())


def test_files_that_are_refused(picture, tmp_path):
    moved, closed = picture.open("rb"), picture.open("rb")
    moved.seek(3)
    closed.close()

    class Stream(io.BytesIO):
        def seekable(self):
            return False

    (tmp_path / "a.txt").write_text("text")
    for source, message in [
        (moved, r"stands at byte 3.*seek\(0\)"),
        (closed, "the file is closed"),
        ((tmp_path / "a.txt").open(), "open as text.*'rb'"),
        (Stream(picture.read_bytes()), "cannot be wound back"),
    ]:
        with pytest.raises(ValueError, match=message):
            media_of(source)
        # What cannot be sent to a process is that row's error there.
        (row,) = pickled(as_rows([source]))
        with pytest.raises(ValueError, match=message):
            open_media(row)
    with pytest.raises(TypeError, match=r"a single BytesIO; wrap it in a list: \[X\]"):
        as_rows(io.BytesIO())


def test_raw_video_is_read_from_its_path_only():
    with pytest.raises(ValueError, match="yuv file is read from its path only"):
        media_of({"bytes": bytes(100), "path": "a.yuv"})


# -- tables --


@pytest.fixture
def table(picture):
    data = [picture.read_bytes(), None, picture.read_bytes()]
    paths = ["far/a.png", str(picture), None]
    return pa.table({"path": paths, "bytes": data, "caption": ["x", "y", "z"]})


def test_tables_of_content(table, picture, rgb):
    """As Ray reads files: the bytes are the media, and the paths their names."""
    frame = table.to_pandas()
    polars = pl.from_arrow(table)
    for X in (table, table.to_batches()[0], frame, polars):
        rows = as_rows(X)
        assert [row.columns for row in rows] == [{"caption": c} for c in "xyz"]
        assert str(rows[0]) == "row 0 ('far/a.png')"
        keys = {open_media(row).key for row in (*rows, *pickled(rows))}
        assert keys == {media_of(picture).key}


def test_a_column_of_sizes_is_no_content(picture):
    X = pd.DataFrame({"path": [str(picture)], "bytes": [picture.stat().st_size]})
    (row,) = as_rows(X)
    assert row.source == str(picture)
    assert row.columns == {"bytes": picture.stat().st_size}


def test_columns_of_content(picture, rgb):
    data = picture.read_bytes()
    structs = [{"bytes": data, "path": "a.png"}] * 2
    for X in (
        pa.chunked_array([[data], [data]]),
        pa.array([data] * 2, pa.large_binary()),
        pa.array(structs),
        pa.table({"image": structs, "label": [0, 1]}),
        pl.Series([data] * 2),
        pl.Series(structs),
        pl.DataFrame({"image": structs, "label": [0, 1]}),
        pd.DataFrame({"image": structs, "label": [0, 1]}),
        pd.Series([data] * 2),
    ):
        rows = as_rows(X)
        assert [open_media(row).key for row in rows] == [media_of(picture).key] * 2
        # A process is sent the content of its row, and not the whole column.
        assert len(pickle.dumps(rows[0])) < len(data) + 500
    assert rows[0].columns == {}


def test_paths_in_arrow(picture):
    for X in (pa.array([str(picture)]), pa.table({"path": [str(picture)]})):
        (row,) = as_rows(X)
        assert row.source == str(picture)


# -- tensors and datasets --


def test_tensors_are_arrays_with_channels_first(rgb):
    tensor = torch.from_numpy(rgb).movedim(-1, 0)
    clip = torch.stack([tensor, 255 - tensor])
    for source, expected in [
        (tensor, rgb),
        (tensor / 255, rgb),
        ((tensor / 255).requires_grad_(), rgb),
        ((tensor / 255).double(), rgb),
        (tensor[:1], rgb[..., :1]),
        (tensor[0], rgb[..., 0]),
        (clip, np.stack([rgb, 255 - rgb])),
        (clip[:1], rgb),
    ]:
        media, same = media_of(source), media_of(expected)
        assert media.key == same.key
        np.testing.assert_array_equal(list(media.frames()), list(same.frames()))
    half = (tensor / 255).bfloat16()
    assert media_of(half).key == media_of(half.float()).key
    for X, count in [(clip, 2), (clip[None], 1), ([tensor, clip], 2)]:
        assert len(as_rows(X)) == count


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((24, 40, 3), r"shape \(24, 40, 3\).*channels first"),
        ((2, 24, 40, 3), "channels first"),
        ((9,), r"shape \(9,\)"),
    ],
)
def test_tensors_of_other_shapes(shape, message):
    with pytest.raises(ValueError, match=message):
        media_of(torch.zeros(shape))
    with pytest.raises(ValueError, match="X is a tensor of shape"):
        as_rows(torch.zeros(shape))


def test_values_of_tensors_are_those_of_arrays(rgb):
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        media_of(torch.from_numpy(rgb).movedim(-1, 0).float())


def test_a_dataset_of_torch_is_read_row_by_row(rgb):
    class Pictures(torch.utils.data.Dataset):
        taken = 0

        def __len__(self):
            return 3

        def __getitem__(self, index):
            self.taken += 1
            if index == 2:
                raise RuntimeError("the third one is lost")
            return torch.from_numpy(rgb).movedim(-1, 0)

    pictures = Pictures()
    rows = as_rows(pictures)
    assert len(rows) == 3
    assert pictures.taken == 0
    assert open_media(rows[1]).key == media_of(rgb).key
    with pytest.raises(ValueError, match=r"element of a Pictures\): the third one"):
        open_media(rows[2])


def test_a_dataset_of_hugging_face_is_not_decoded(picture, rgb):
    datasets = pytest.importorskip("datasets", "4.0", reason="needs datasets")
    X = datasets.Dataset.from_dict(
        {"image": [str(picture)] * 3, "label": [0, 1, 2]}
    ).cast_column("image", datasets.Image())
    for each in (X, X.with_format("torch"), X.select([2, 1, 0]).shuffle(seed=0)):
        rows = as_rows(each)
        assert {open_media(row).key for row in rows} == {media_of(picture).key}
        assert sorted(row.columns["label"] for row in rows) == [0, 1, 2]
        assert open_media(pickled(rows)[0]).key == media_of(picture).key
    pictures = X["image"]  # decoded by the caller: pixels
    assert open_media(as_rows(pictures)[0]).key == media_of(rgb).key


def test_some_rows_of_any_container(picture, table, rgb):
    hub = pytest.importorskip("datasets", "4.0", reason="needs datasets")
    table = table.append_column("number", pa.array([0, 1, 2]))
    paths = pa.table({"path": [str(picture)] * 3, "number": [0, 1, 2]})
    for X in (table, table.to_pandas(), pl.from_arrow(table), hub.Dataset(paths)):
        (row,) = as_rows(take_rows(X, np.array([1])))
        assert row.columns["number"] == 1
        assert open_media(row).key == media_of(picture).key
    for X in ([rgb] * 3, np.stack([rgb] * 3), pa.array([picture.read_bytes()] * 3)):
        assert len(as_rows(take_rows(X, [2, 0]))) == 2


# -- in an estimator --


def test_processes_are_sent_content(picture, table):
    data = picture.read_bytes()
    X = [picture, data, memoryview(data), io.BytesIO(data), {"bytes": data}, b"none"]
    features = NaturalSceneStatistics(on_error="nan")
    with pytest.warns(RuntimeWarning, match="1 of 6 rows"):
        one = features.transform(X)
    assert np.isnan(one[5]).all()
    np.testing.assert_array_equal(one[:5], np.repeat(one[:1], 5, axis=0))
    X = [source for source in X for _ in range(8)]  # enough for two tasks
    with pytest.warns(RuntimeWarning, match="8 of 48 rows"):
        two = features.set_params(n_jobs=2).transform(X)
    np.testing.assert_array_equal(two, np.repeat(one, 8, axis=0))
    assert [index for index, _ in features.failed_] == list(range(40, 48))


def test_nothing_is_imported_to_know_a_container():
    code = (
        "import sys; from diffqa_features._media.rows import as_rows; "
        "as_rows([b'x', {'bytes': b'x'}, 's3://bucket/a.png']); "
        "print({'torch', 'fsspec', 'pyarrow', 'polars'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "set()"


def test_rows_are_read_while_another_thread_imports_torch(monkeypatch):
    """As in a process that a worker pool has just started."""
    image = np.zeros((20, 20, 3), np.uint8)
    for name in ("torch", "torch.utils.data"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    (row,) = as_rows([image])
    np.testing.assert_array_equal(next(open_media(row).frames()), image)
    assert len(as_rows(Listed([image, image]))) == 2


class Listed:
    """A sequence of no known kind."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]
