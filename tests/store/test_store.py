"""The store as its users see it: values, bounds, copies, parameters."""

import copy
import pickle
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import BaseEstimator, clone

from diffqa_features._store.store import FeatureStore, as_store


@pytest.fixture
def store(tmp_path):
    with FeatureStore(tmp_path / "store") as store:
        yield store


def same(a, b):
    """Equal to the bit, NaNs included."""
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def numbered(count, size, start=0):
    """`count` arrays of `size` bytes; every one differs."""
    return {
        f"k{i}": np.full(size // 8, i, dtype="float64")
        for i in range(start, start + count)
    }


NUMERIC = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
    hnp.complex_number_dtypes(sizes=(64, 128), endianness="?"),
)
ARRAYS = hnp.arrays(NUMERIC, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with FeatureStore(tmp_path_factory.mktemp("shared")) as store:
        yield store


@settings(deadline=None, max_examples=100)
@given(items=st.dictionaries(st.text(max_size=8), ARRAYS, max_size=5))
def test_any_array_under_any_key_comes_back_to_the_bit(shared, items):
    shared.put(items)
    found = shared.get(items)
    assert found.keys() == items.keys()
    assert all(same(found[key], items[key]) for key in items)


@pytest.mark.parametrize(
    "view",
    [np.s_[::-1], np.s_[:, ::2], np.s_[..., None], np.s_[1, 2], np.s_[:0]],
    ids=str,
)
def test_views_are_kept_as_they_look(store, view):
    base = np.asfortranarray(np.arange(42.0).reshape(6, 7))
    value = np.asarray(base[view])
    store.put({"view": value})
    assert np.array_equal(store.get(["view"])["view"], value)


def test_what_was_got_is_the_callers_own(store):
    store.put({"a": np.zeros(3)})
    store.get(["a"])["a"][:] = 7
    assert store.get(["a"])["a"].tolist() == [0, 0, 0]


def test_missing_keys_are_absent_and_repeated_ones_given_once(store):
    assert store.get(["a"]) == {}
    store.put({"a": np.arange(2)})
    assert list(store.get(["b", "a", "a"])) == ["a"]
    assert store.get([]) == {}


def test_more_keys_than_one_statement_can_take(store):
    items = numbered(2345, 8)
    store.put(items)
    found = store.get(iter(items))
    assert {key: value[0] for key, value in found.items()} == {
        key: value[0] for key, value in items.items()
    }


def test_a_key_put_again_is_replaced(store):
    store.put({"a": np.zeros(3)})
    store.put({"a": np.ones((2, 2), dtype="int8")})
    assert same(store.get(["a"])["a"], np.ones((2, 2), dtype="int8"))
    assert store.info().entries == 1


def test_nothing_is_made_before_the_first_put(tmp_path):
    store = FeatureStore(tmp_path / "a" / "b")
    assert store.get(["a"]) == {}
    assert store.info() == (str(tmp_path / "a" / "b"), 0, 0, None)
    store.put({})
    store.clear()
    store.close()
    assert not (tmp_path / "a").exists()
    store.put({"a": np.zeros(1)})
    assert (tmp_path / "a" / "b" / "features.sqlite").exists()


def test_a_store_is_one_ordinary_file_in_wal_mode(store):
    store.put(numbered(3, 80))
    store.close()
    assert {path.name for path in Path(store.path).iterdir()} == {
        "features.sqlite",
        "features.sqlite.lock",
    }
    with closing(sqlite3.connect(store.path / "features.sqlite")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT version FROM format").fetchone() == (1,)


def test_info_and_clear(store):
    store.put(numbered(50, 8000))
    info = store.info()
    assert info.entries == 50
    store.close()
    assert info.size == (store.path / "features.sqlite").stat().st_size > 50 * 8000
    store.clear()
    assert store.info()[1:] == (0, 0, None)
    assert store.get(["k1"]) == {}
    store.put(numbered(1, 80))
    assert store.info().entries == 1


def test_a_folder_taken_away_while_open_is_begun_anew(store):
    store.put(numbered(3, 80))
    for path in store.path.iterdir():
        path.unlink()
    store.path.rmdir()
    assert store.get(["k1"]) == {}
    store.put(numbered(1, 80, start=9))
    assert list(store.get(["k1", "k9"])) == ["k9"]


class TestMaxSize:
    def test_the_file_stays_below_it_and_keeps_the_latest(self, tmp_path):
        store = FeatureStore(tmp_path, max_size=500_000)
        for start in range(0, 200, 5):
            store.put(numbered(5, 20_000, start))
            assert store.info().size <= 500_000
        found = store.get([f"k{i}" for i in range(200)])
        assert list(found) == [f"k{i}" for i in range(200 - len(found), 200)]
        assert len(found) >= 20
        store.close()
        assert (tmp_path / "features.sqlite").stat().st_size <= 500_000

    def test_small_values_are_bounded_too(self, tmp_path):
        with FeatureStore(tmp_path, max_size=200_000) as store:
            for start in range(0, 5000, 500):
                store.put(numbered(500, 64, start))
            assert 100_000 < store.info().size <= 200_000
            assert "k4999" in store.get(["k4999"])

    def test_what_was_read_outlives_what_was_not(self, tmp_path):
        with FeatureStore(tmp_path, max_size=1_000_000) as store:
            for i in range(8):
                store.put(numbered(1, 100_000, i))
            store.get(["k0", "k2"])
            store.put(numbered(4, 100_000, 8))
            kept = store.get([f"k{i}" for i in range(12)])
        assert {"k0", "k2", "k8", "k9", "k10", "k11"} <= set(kept)
        assert {"k1", "k3"}.isdisjoint(kept)

    def test_reading_is_remembered_over_a_close(self, tmp_path):
        with FeatureStore(tmp_path, max_size=1_000_000) as store:
            for i in range(8):
                store.put(numbered(1, 100_000, i))
            store.get(["k0"])
        with FeatureStore(tmp_path, max_size=1_000_000) as store:
            store.put(numbered(4, 100_000, 8))
            assert list(store.get(["k0", "k1"])) == ["k0"]

    def test_reading_writes_nothing(self, tmp_path):
        store = FeatureStore(tmp_path, max_size=1_000_000)
        store.put(numbered(20, 80))
        files = [tmp_path / "features.sqlite", tmp_path / "features.sqlite-wal"]
        before = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        for _ in range(50):
            assert len(store.get([f"k{i}" for i in range(20)])) == 20
        after = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        assert after == before
        store.close()

    def test_a_smaller_bound_shrinks_a_grown_file(self, tmp_path):
        with FeatureStore(tmp_path) as store:
            store.put(numbered(100, 20_000))
        path = tmp_path / "features.sqlite"
        assert path.stat().st_size > 2_000_000
        with FeatureStore(tmp_path, max_size=300_000) as store:
            store.put(numbered(1, 80, start=500))
        assert path.stat().st_size <= 300_000
        assert list(FeatureStore(tmp_path).get(["k500"])) == ["k500"]

    def test_a_value_larger_than_the_bound_drives_nothing_out(self, tmp_path):
        with FeatureStore(tmp_path, max_size=200_000) as store:
            store.put(numbered(5, 8000))
            store.put({"large": np.zeros(30_000)})
            assert set(store.get(["large", *numbered(5, 8)])) == set(numbered(5, 8))


class TestCopies:
    def test_equality_hash_and_repr_are_by_folder_and_bound(self, tmp_path):
        one = FeatureStore(tmp_path, max_size=5000)
        assert one == FeatureStore(str(tmp_path), max_size=5000)
        assert hash(one) == hash(FeatureStore(str(tmp_path), max_size=5000))
        assert one != FeatureStore(tmp_path)
        assert one != FeatureStore(tmp_path / "other", max_size=5000)
        assert one != str(tmp_path)
        assert repr(one) == f"FeatureStore({str(tmp_path)!r}, max_size=5000)"
        assert eval(repr(one)) == one

    @pytest.mark.parametrize(
        "duplicate", [copy.deepcopy, copy.copy, lambda s: pickle.loads(pickle.dumps(s))]
    )
    def test_copies_of_a_store_in_use_see_the_same_values(self, store, duplicate):
        store.put({"a": np.arange(3)})
        twin = duplicate(store)
        assert twin == store
        assert twin is not store
        twin.put({"b": np.arange(4)})
        assert set(store.get(["a", "b"])) == set(twin.get(["a", "b"])) == {"a", "b"}
        assert len(pickle.dumps(store)) < 300

    def test_clone_of_an_estimator(self, store):
        class Extractor(BaseEstimator):
            def __init__(self, memory=None):
                self.memory = memory

        store.put({"a": np.arange(3)})
        twin = clone(clone(Extractor(memory=store)))
        assert twin.memory == store
        assert list(twin.memory.get(["a"])) == ["a"]

    def test_many_clones_share_one_connection(self, store):
        store.put({"a": np.arange(3)})
        folder = Path("/proc/self/fd")
        if not folder.exists():
            pytest.skip("needs /proc to count open files")
        before = len(list(folder.iterdir()))
        clones = [copy.deepcopy(store) for _ in range(50)]
        assert all("a" in twin.get(["a"]) for twin in clones)
        assert len(list(folder.iterdir())) == before


def test_threads_share_a_store(store):
    items, wrong = numbered(60, 4000), []

    def work(seed):
        rng = np.random.default_rng(seed)
        mine = copy.copy(store)
        for _ in range(15):
            keys = [f"k{i}" for i in rng.integers(0, 60, 8)]
            mine.put({key: items[key] for key in keys})
            found = mine.get(items)
            wrong.extend(set(keys) - set(found))
            wrong.extend(k for k, value in found.items() if not same(value, items[k]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(store.get(items)) > 50


def test_a_thousand_small_values_are_read_in_few_steps(store):
    """A few statements for all, and for each value what checks and copies it."""
    items = numbered(1000, 800)
    store.put(items)
    store.get(["k0"])  # what is opened and imported once
    statements, calls = [], []

    def see(frame, event, argument):
        if event in ("call", "c_call"):
            calls.append(event)
        if event == "c_call" and argument.__name__.startswith("execute"):
            statements.append(argument)

    sys.setprofile(see)
    try:
        found = store.get(items)
    finally:
        sys.setprofile(None)
    assert len(found) == 1000
    assert 1 <= len(statements) <= 10
    assert len(calls) < 40 * 1000  # 22 for each when this was written


class TestParameters:
    @pytest.mark.parametrize("path", [None, 3, b"bytes", ""])
    def test_path(self, path):
        with pytest.raises(TypeError, match="'path' parameter of FeatureStore must"):
            FeatureStore(path).get(["a"])

    @pytest.mark.parametrize(
        "size, error",
        [(0, ValueError), (-1, ValueError), (1.5, TypeError)]
        + [("1GB", TypeError), (True, TypeError)],
    )
    def test_max_size(self, tmp_path, size, error):
        with pytest.raises(error, match=r"'max_size' parameter .* \[1, inf\) or None"):
            FeatureStore(tmp_path, max_size=size).put({"a": np.zeros(1)})
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "value",
        [
            [1.0, 2.0],
            1.0,
            None,
            np.float32(1),
            np.array(["text"]),
            np.array([object()]),
            np.array(["2020-01-01"], dtype="datetime64[D]"),
            np.zeros(2, dtype=[("a", "f4")]),
            np.zeros(2, dtype="longdouble"),
            np.ma.masked_array([1.0, 2.0], mask=[True, False]),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_values_other_than_numeric_arrays(self, store, value):
        with pytest.raises(TypeError, match=r"Values of a FeatureStore .* key 'bad'"):
            store.put({"good": np.zeros(2), "bad": value})
        assert store.get(["good"]) == {}

    def test_keys(self, store):
        with pytest.raises(TypeError, match="come as a list"):
            store.get("key")
        with pytest.raises(TypeError, match=r"must be str\. Got 3 instead"):
            store.get(["a", 3])
        with pytest.raises(TypeError, match="must be str"):
            store.put({b"a": np.zeros(2)})

    def test_a_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        store = FeatureStore(tmp_path / "file")
        with pytest.raises(OSError, match=r"needs a folder, but .*file' is a file"):
            store.get(["a"])
        with pytest.raises(OSError, match="computed but not kept"):
            store.put({"a": np.zeros(2)})
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_folder_in_place_of_the_database(self, tmp_path):
        (tmp_path / "features.sqlite").mkdir()
        store = FeatureStore(tmp_path)
        with pytest.raises(OSError, match="sqlite' is not a regular file"):
            store.put({"a": np.zeros(2)})
        with pytest.warns(RuntimeWarning, match="sqlite' is not a regular file"):
            assert store.get(["a"]) == {}

    def test_the_home_folder_is_known_by_its_sign(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        with FeatureStore("~/store") as store:
            store.put({"a": np.zeros(2)})
        assert (tmp_path / "store" / "features.sqlite").exists()


class TestAsStore:
    def test_what_memory_may_be(self, tmp_path):
        store = FeatureStore(tmp_path, max_size=5)
        assert as_store(None) is None
        assert as_store(store) is store
        assert as_store(str(tmp_path)) == as_store(tmp_path) == FeatureStore(tmp_path)

    @pytest.mark.parametrize("memory", [3, True, b"folder", {"path": "folder"}])
    def test_what_it_may_not(self, memory):
        with pytest.raises(TypeError, match="'memory' parameter must be a str") as info:
            as_store(memory)
        assert f"Got {memory!r} instead." in str(info.value)

    def test_joblib_memory_is_told_apart(self, tmp_path):
        with pytest.raises(TypeError, match="results of whole calls"):
            as_store(joblib.Memory(tmp_path, verbose=0))
