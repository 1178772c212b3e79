import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from diffqa_features._media.rows import as_rows, open_media, pixel_key

PATHS = ["photos/a.jpg", "photos/b.jpg", "photos/c.jpg"]


def sources(X):
    return [row.source for row in as_rows(X)]


def key_of(source):
    return open_media(as_rows([source])[0]).key


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


# -- containers --


@pytest.mark.parametrize(
    "X",
    [
        PATHS,
        tuple(PATHS),
        np.array(PATHS),
        np.array(PATHS)[:, None],
        np.array(PATHS, dtype=object),
        np.array(PATHS, dtype=object)[:, None],
        pd.Series(PATHS),
        pd.Series(PATHS, index=[7, 7, 2]),
        pd.Series(PATHS, dtype=object),
        pd.Series(PATHS).values,
        pd.Index(PATHS),
        pd.Categorical(PATHS),
        pl.Series(PATHS),
        pd.DataFrame({"path": PATHS}),
        pd.DataFrame({"file": PATHS}, index=["x", "y", "z"]),
        pd.DataFrame({0: PATHS}),
        pl.DataFrame({"path": PATHS}),
        pl.DataFrame({"file": PATHS}),
    ],
    ids=lambda X: f"{type(X).__module__}.{type(X).__name__}",
)
def test_containers_of_paths(X):
    rows = as_rows(X)
    assert [row.index for row in rows] == [0, 1, 2]
    assert [row.source for row in rows] == PATHS
    assert all(isinstance(row.source, str) and row.columns == {} for row in rows)
    assert str(rows[2]) == "row 2 ('photos/c.jpg')"


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="needs NumPy 2")
def test_variable_width_strings():
    assert sources(np.array(PATHS, dtype=np.dtypes.StringDType())) == PATHS


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_other_columns_of_a_table(frame):
    X = frame({"caption": ["a dog", "a cat", "two"], "path": PATHS, "n": [1, 2, 3]})
    rows = as_rows(X)
    assert [row.source for row in rows] == PATHS
    assert rows[1].columns == {"caption": "a cat", "n": 2}
    assert [row.index for row in as_rows(X[1:])] == [0, 1]


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_a_table_without_the_path_column(frame):
    X = frame({"file": PATHS, "mos": [1, 2, 3]})
    message = r"column 'path' with the media. Got columns \['file', 'mos'\]; rename"
    with pytest.raises(ValueError, match=message):
        as_rows(X)


def test_a_table_with_a_repeated_column():
    X = pd.DataFrame([["a", "b"]], columns=["path", "path"])
    with pytest.raises(ValueError, match="different names"):
        as_rows(X)


def test_mixed_sources(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    image = Image.fromarray(rgb)
    mixed = [str(tmp_path / "a.png"), tmp_path / "a.png", image, rgb, rgb[None]]
    holder = np.empty(5, dtype=object)
    holder[:] = mixed
    containers = [mixed, holder, holder[:, None], pd.Series(holder)]
    containers += [pd.DataFrame({"path": holder, "n": range(5)})]
    containers += [pl.DataFrame({"path": pl.Series(mixed, dtype=pl.Object)})]
    for X in containers:
        rows = as_rows(X)
        assert len(rows) == 5
        for row in rows:
            media = open_media(row)
            assert media.row is row
            assert media.is_still
            np.testing.assert_array_equal(list(media.frames()), rgb[None])
    names = [str(row) for row in as_rows(mixed)]
    assert names[1] == f"row 1 ('{tmp_path / 'a.png'}')"
    assert names[2:] == ["row 2 (PIL image)", "row 3 (array)", "row 4 (array)"]


def test_directory_entries_are_paths(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    with os.scandir(tmp_path) as entries:
        (row,) = as_rows(list(entries))
    np.testing.assert_array_equal(next(open_media(row).frames()), rgb)


def test_numeric_arrays_of_images_and_clips(rgb):
    images = np.stack([rgb, 255 - rgb, rgb // 2])
    for row, image in zip(as_rows(images), images, strict=True):
        assert np.shares_memory(row.source, images)
        np.testing.assert_array_equal(list(open_media(row).frames()), image[None])
    clips = np.stack([images, images[::-1]])
    for row, clip in zip(as_rows(clips), clips, strict=True):
        assert not open_media(row).is_still
        np.testing.assert_array_equal(list(open_media(row).frames()), clip)
    single = as_rows(images[:, None])
    assert [open_media(row).is_still for row in single] == [True] * 3


@pytest.mark.parametrize(
    "X",
    [
        [],
        (),
        np.array([]),
        np.empty((0, 1), object),
        np.empty((0, 8, 8, 3), np.uint8),
        pd.Series([], dtype=object),
        pd.DataFrame({"path": []}),
        pl.DataFrame({"path": [], "caption": []}),
    ],
    ids=lambda X: f"{type(X).__module__}.{type(X).__name__}",
)
def test_no_rows(X):
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        as_rows(X)


@pytest.mark.parametrize(
    ("X", "kind", "message"),
    [
        ("a.jpg", TypeError, r"a single str; wrap it in a list: \[X\]"),
        (b"a.jpg", TypeError, r"a single bytes; wrap"),
        (Path("a.jpg"), TypeError, r"a single \w*Path; wrap it in a list"),
        (Image.new("L", (9, 9)), TypeError, r"a single Image; wrap it in a list"),
        (np.zeros((9, 9)), ValueError, r"shape \(9, 9\).*a list: \[X\]"),
        (np.zeros((9, 9, 3)), ValueError, r"shape \(9, 9, 3\).*a list: \[X\]"),
        (np.zeros((5, 9, 9)), ValueError, r"grey images.*X\[\.\.\., None\]"),
        (np.zeros((5, 3, 9, 9)), ValueError, r"expected images\s+\(n, H, W, 3\)"),
        (np.zeros(7), ValueError, r"array of float64 with shape \(7,\)"),
        (np.array("a.jpg"), ValueError, r"with shape \(\)"),
        (np.array(7.0), ValueError, r"with shape \(\)"),
        (np.array([PATHS, PATHS]), ValueError, r"with shape \(2, 3\)"),
        (np.array([b"a.jpg"]), ValueError, r"array of \|S5"),
        (np.zeros(2, "M8[s]"), ValueError, r"array of datetime64\[s\]"),
        ((path for path in PATHS), TypeError, r"generator.*only once; pass list\(X\)"),
        (iter(PATHS), TypeError, r"list_iterator.*pass list\(X\)"),
        (Path("photos").glob("*"), TypeError, r"only once; pass list\(X\)"),
        ({"path": PATHS}, TypeError, "X is a dict; pass a list"),
        (set(PATHS), TypeError, "X is a set"),
        (None, TypeError, "X is a NoneType"),
        (3, TypeError, "X is a int"),
        (pl.LazyFrame({"path": PATHS}), TypeError, "X is a LazyFrame"),
    ],
)
def test_bad_containers(X, kind, message):
    with pytest.raises(kind, match=message):
        as_rows(X)


def test_no_file_is_touched_by_as_rows_and_none_decoded_by_open_media(tmp_path):
    (row,) = as_rows([tmp_path / "a.jpg"])
    with pytest.raises(FileNotFoundError):
        open_media(row)
    (tmp_path / "a.jpg").write_bytes(b"no image")
    media = open_media(row)
    assert len(media.key) == 32
    with pytest.raises(ValueError, match="not an image"):
        list(media.frames())


def test_a_file_is_read_once(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    media = open_media(as_rows([tmp_path / "a.png"])[0])
    Image.fromarray(255 - rgb).save(tmp_path / "a.png")
    np.testing.assert_array_equal(next(media.frames()), rgb)
    (tmp_path / "a.png").unlink()
    np.testing.assert_array_equal(next(media.frames()), rgb)


# -- bad rows --


@pytest.mark.parametrize(
    "X",
    [
        ["a.jpg", None],
        ["a.jpg", float("nan")],
        pd.Series(["a.jpg", None]),
        pd.Series(["a.jpg", pd.NA], dtype=object),
        pd.DataFrame({"path": ["a.jpg", np.nan], "n": [1, 2]}),
        pl.DataFrame({"path": ["a.jpg", None]}),
        [pd.NaT, pd.NaT],
    ],
)
def test_a_missing_value_is_a_bad_row_not_a_bad_container(X):
    row = as_rows(X)[1]
    with pytest.raises(ValueError, match=r"^Row 1 \(\w+\): the media is missing; fill"):
        open_media(row)


@pytest.mark.parametrize(
    "source", [3, 0.5, ("a.jpg", 1), ["a.jpg"], {"file": "a"}, object]
)
def test_other_types_are_no_media(source):
    row = as_rows(["a.jpg", source])[1]
    kind = type(source).__name__
    message = rf"^Row 1 \({kind}\): a {kind} is not media; pass a path, a PIL image"
    with pytest.raises(ValueError, match=message):
        open_media(row)


def check_bad_path(source, kind, message):
    row = as_rows(["other.jpg", source])[1]
    with pytest.raises(kind) as info:
        open_media(row)
    start = f"Row 1 ('{os.fspath(source)}'): "
    assert str(info.value).startswith(start + message)
    # What follows the cause is the way out.
    assert len(str(info.value)) > len(start + message) + 10


def test_missing_file(tmp_path):
    check_bad_path(tmp_path / "a.jpg", FileNotFoundError, "no such file; ")
    # A URL is text; this is what a Path makes of it.
    check_bad_path(Path("https://host/a.jpg"), FileNotFoundError, "no such file; ")


def test_directory_device_and_odd_paths(tmp_path):
    check_bad_path(tmp_path, ValueError, "this is a directory; pass the files in it")
    check_bad_path("", ValueError, "the path is empty; ")
    check_bad_path("a" * 5000, OSError, "cannot be read (File name too long)")
    (tmp_path / "file").write_bytes(b"content")
    check_bad_path(tmp_path / "file" / "a.jpg", OSError, "cannot be read (Not a dir")
    with pytest.raises(ValueError, match=r"^Row 0 \('a\x00b'\): .*null"):
        open_media(as_rows(["a\0b"])[0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    check_bad_path(tmp_path / "pipe", ValueError, "this is not a regular file; ")


def test_empty_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    check_bad_path(tmp_path / "a.jpg", ValueError, "the file is empty; restore")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
def test_no_permission(tmp_path, rgb):
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path)
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # root may read everything: be somebody else
            os.seteuid(65534)
        check_bad_path(path, PermissionError, "no permission to read the file; change")
    finally:
        os.seteuid(user)


# -- keys --


def test_a_key_is_the_hash_of_the_bytes(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    expected = hashlib.blake2b(b"file 2\0" + data, digest_size=16).hexdigest()
    assert key_of(tmp_path / "a.png") == expected
    (tmp_path / "a.png").rename(tmp_path / "b.jpeg")
    assert key_of(str(tmp_path / "b.jpeg")) == expected


def test_a_file_and_its_pixels_have_different_keys(tmp_path, rgb):
    # The bytes are hashed, so that a stored row costs no decoding.
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert key_of(tmp_path / "a.png") != key_of(rgb)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.binary(min_size=1, max_size=400))
def test_one_changed_byte_changes_the_key(tmp_path_factory, data, content):
    path = tmp_path_factory.mktemp("keys") / "a"
    path.write_bytes(content)
    before = key_of(path)
    at = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    assert key_of(path) != before


images = arrays(np.uint8, st.tuples(st.integers(8, 12), st.integers(8, 12), st.just(3)))


@settings(deadline=None, max_examples=60)
@given(images)
def test_every_form_of_the_same_pixels_has_one_key(image):
    key = key_of(image)
    assert pixel_key(image) == key
    forms = [
        Image.fromarray(image),
        Image.fromarray(image).convert("RGBA"),
        image[None],
        image.astype(np.int64),
        image / 255,
        (image / 255).astype(np.float32),
        image.astype(np.uint16) * 257,
        np.asfortranarray(image),
        np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]),
    ]
    assert [key_of(form) for form in forms] == [key] * len(forms)
    grey = image[..., 0]
    grey_key = key_of(np.stack([grey] * 3, -1))
    assert key_of(grey) == key_of(Image.fromarray(grey)) == grey_key


@settings(deadline=None, max_examples=60)
@given(images, st.data())
def test_one_changed_pixel_changes_the_key(image, data):
    before = key_of(image), key_of(Image.fromarray(image)), pixel_key(image)
    at = tuple(data.draw(st.integers(0, size - 1)) for size in image.shape)
    image[at] ^= data.draw(st.integers(1, 255))
    after = key_of(image), key_of(Image.fromarray(image)), pixel_key(image)
    assert not set(before) & set(after)


def test_the_shape_is_part_of_the_key():
    flat = np.arange(8 * 8 * 3 * 4, dtype=np.uint16).astype(np.uint8)
    shapes = [(16, 16, 3), (8, 32, 3), (32, 8, 3), (4, 8, 8, 3), (2, 8, 16, 3)]
    assert len({key_of(flat.reshape(shape)) for shape in shapes}) == len(shapes)
