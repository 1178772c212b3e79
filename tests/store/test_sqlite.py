"""The store's file against damage, other formats, and disks that refuse."""

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from child_processes import run_script, value_of, wrong_in

from diffqa_features._store.store import FeatureStore

KEYS = [f"key{i}" for i in range(25)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Folder with a closed store of KEYS, to be copied."""
    folder = tmp_path_factory.mktemp("sound")
    with FeatureStore(folder) as store:
        store.put({key: value_of(key) for key in KEYS})
    (folder / "features.sqlite.lock").unlink()
    return folder


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """The same with all of it still in the journal of a killed process."""
    folder = tmp_path_factory.mktemp("journal")
    script = """
    store = FeatureStore(sys.argv[1])
    for i in range(25):
        store.put({f"key{i}": value_of(f"key{i}")})
    os.kill(os.getpid(), signal.SIGKILL)
    """
    run_script(script, folder, code=-signal.SIGKILL)
    (folder / "features.sqlite.lock").unlink()
    assert (folder / "features.sqlite-wal").stat().st_size > 50_000
    return folder


def damage(path, seed):
    """Flip bytes, overwrite a stretch or cut the file, as the seed says."""
    rng = random.Random(seed)
    content = bytearray(path.read_bytes())
    match seed % 6:
        case 0:
            del content[rng.randrange(len(content)) :]
        case 1:
            length = rng.choice([512, 4096])
            at = rng.randrange(0, len(content) - length + 1, 512)
            content[at : at + length] = rng.randbytes(length)
        case 2:  # header and schema
            for _ in range(rng.randint(1, 3)):
                content[rng.randrange(min(100, len(content)))] ^= rng.randint(1, 255)
        case _:
            for _ in range(rng.choice([1, 10, 300])):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def survives(folder):
    """No get raises or is wrong, before and after everything is put again."""
    with warnings.catch_warnings(), FeatureStore(folder) as store:
        warnings.simplefilter("ignore", RuntimeWarning)
        before = store.get(KEYS)
        store.put({key: value_of(key) for key in KEYS})
        after = store.get(KEYS)
        assert store.info().entries >= 0
    assert wrong_in(before) == wrong_in(after) == []
    return len(before), len(after)


class TestDamage:
    def test_random_bytes_of_the_database(self, sound, tmp_path):
        served = []
        for seed in range(60):
            folder = Path(shutil.copytree(sound, tmp_path / str(seed)))
            damage(folder / "features.sqlite", seed)
            served.append(survives(folder))
        # The trials would prove nothing if all of them spared, or all hit, the values.
        before = [count for count, _ in served]
        assert 0 in before
        assert 25 in before
        assert any(0 < count < 25 for count in before)
        assert sum(after == 25 for _, after in served) > 50

    @pytest.mark.parametrize(
        "old, new",
        [
            (b"CREATE TABLE entries", b"CREATE \xf3ABLE entries"),  # no UTF-8 to quote
            (b"header BLOB", b"heater BLOB"),
            (b"CREATE TABLE format", b"CREATE TABLE farmot"),
            (
                b"SQLite format 3\0\x10\0\2\2",
                b"SQLite format 3\0\x10\0\3\2",
            ),  # read-only
        ],
    )
    def test_chosen_bytes_of_the_database(self, sound, tmp_path, old, new):
        path = Path(shutil.copytree(sound, tmp_path / "store")) / "features.sqlite"
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))
        assert survives(path.parent)[1] == 25
        assert len(list(path.parent.glob("features.sqlite.*-1"))) == 1

    @pytest.mark.parametrize("part", ["-wal", "-shm"])
    def test_random_bytes_of_the_journal(self, journal, tmp_path, part):
        assert survives(shutil.copytree(journal, tmp_path / "whole")) == (25, 25)
        for seed in range(12):
            folder = Path(shutil.copytree(journal, tmp_path / str(seed)))
            damage(folder / f"features.sqlite{part}", seed)
            assert survives(folder)[1] == 25

    @pytest.mark.parametrize(
        "content",
        [b"not a database at all\n" * 300, b"x", b"short", bytes(8192)]
        + [b"SQLite format 3\0" * 9],
        ids=["text", "one byte", "short", "zeros", "magic"],
    )
    def test_what_is_no_database_is_moved_aside_whole(self, tmp_path, content):
        path = tmp_path / "features.sqlite"
        path.write_bytes(content)
        store = FeatureStore(tmp_path)
        with pytest.warns(RuntimeWarning, match=r"moved to '.*sqlite\.damaged-1'"):
            assert store.get(["key1"]) == {}
        store.put({"key1": value_of("key1")})
        store.close()
        path.write_bytes(content[::-1])
        with pytest.warns(RuntimeWarning, match=r"moved to '.*sqlite\.damaged-2'"):
            store.put({"key2": value_of("key2")})
        assert list(store.get(["key1", "key2"])) == ["key2"]
        store.close()
        assert (tmp_path / "features.sqlite.damaged-1").read_bytes() == content
        assert (tmp_path / "features.sqlite.damaged-2").read_bytes() == content[::-1]

    def test_clear_deletes_only_what_is_ours(self, tmp_path):
        path = tmp_path / "features.sqlite"
        path.write_bytes(b"somebody's notes")
        with pytest.warns(RuntimeWarning, match=r"damaged-1"):
            FeatureStore(tmp_path).clear()
        kept = tmp_path / "features.sqlite.damaged-1"
        assert kept.read_bytes() == b"somebody's notes"

    def test_damage_that_shows_at_a_later_query(self, tmp_path):
        with FeatureStore(tmp_path) as store:
            store.put({f"large{i}": np.full(500, i) for i in range(200)})
        store.get(["large0"])
        # By another process: closing the file here would drop SQLite's locks.
        script = """
        with open(sys.argv[1], "r+b") as file:
            size = file.seek(0, 2)
            file.seek(3 * 4096)
            file.write(b"\\xff" * (size - 3 * 4096))
        """
        run_script(script, tmp_path / "features.sqlite")
        with pytest.warns(RuntimeWarning, match="malformed.*moved to"):
            assert store.get([f"large{i}" for i in range(1, 200)]) == {}
        store.put({"key1": value_of("key1")})
        assert list(store.get(["key1", "large0"])) == ["key1"]
        store.close()


@pytest.mark.parametrize(
    "column, value",
    [
        ("value", np.arange(4.0)[::-1].tobytes()),
        ("value", b"short"),
        ("value", 17),
        ("value", None),
        ("header", b"<f8 2 2"),
        ("header", b"<i8 4"),
        ("checksum", b"0" * 16),
        ("checksum", None),
        ("key", b"other"),
    ],
)
def test_a_damaged_value_is_removed_with_a_warning(tmp_path, column, value):
    store = FeatureStore(tmp_path)
    store.put({"a": np.arange(4.0), "whole": np.ones(3)})
    store.close()
    path = tmp_path / "features.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            f"UPDATE entries SET {column} = ? WHERE key = ?", (value, b"a")
        )
    asked = ["a", "other", "whole"]
    with pytest.warns(RuntimeWarning, match="1 damaged value") as caught:
        assert list(store.get(asked)) == ["whole"]
    assert str(tmp_path) in str(caught[0].message)
    assert Path(caught[0].filename) == Path(__file__)
    assert store.info().entries == 1
    assert list(store.get(asked)) == ["whole"]
    store.put({"a": np.arange(4.0)})
    assert np.array_equal(store.get(["a"])["a"], np.arange(4.0))


@pytest.mark.parametrize(
    "header",
    [
        b"|O 4",  # addresses of objects
        b"<M8[ns] 4",
        b"|V32",
        b"odd 4",
        b"<f8 -1",
        b"<f8 99999999",
        b"<f8 2",
        b"<f8 0 " + b"9" * 30,
    ],
)
def test_what_no_put_wrote_is_damaged_whatever_its_checksum(tmp_path, header):
    store = FeatureStore(tmp_path)
    store.put({"a": np.arange(4.0)})
    store.close()
    content = np.arange(4.0).tobytes()
    told = b"%d %d " % (1, len(header)) + b"a" + header + content
    digest = hashlib.blake2b(told, digest_size=16).digest()
    with closing(sqlite3.connect(tmp_path / "features.sqlite")) as connection:
        with connection:
            connection.execute(
                "UPDATE entries SET header = ?, checksum = ?", (header, digest)
            )
    with pytest.warns(RuntimeWarning, match="1 damaged value"):
        assert store.get(["a"]) == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    for name in ("features.sqlite", "features.sqlite.lock"):
        os.mkfifo(tmp_path / name)
    store = FeatureStore(tmp_path)
    with pytest.warns(RuntimeWarning, match="is not a regular file"):
        assert store.get(["a"]) == {}
    with pytest.raises(OSError, match="is not a regular file; move it away"):
        store.put({"a": np.ones(3)})
    (tmp_path / "features.sqlite").unlink()
    store.put({"a": np.ones(3)})
    assert list(store.get(["a"])) == ["a"]


def test_a_value_moved_to_another_key_is_not_served(tmp_path):
    store = FeatureStore(tmp_path)
    store.put({"a": np.zeros(3), "b": np.ones(3)})
    store.close()
    with closing(sqlite3.connect(tmp_path / "features.sqlite")) as connection:
        with connection:
            connection.execute(
                "UPDATE entries SET (header, checksum, value) = "
                "(SELECT header, checksum, value FROM entries WHERE key = ?) "
                "WHERE key = ?",
                (b"a", b"b"),
            )
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert list(store.get(["a", "b"])) == ["a"]


class TestOtherFormats:
    def test_another_version(self, sound, tmp_path):
        folder = shutil.copytree(sound, tmp_path / "store")
        path = folder / "features.sqlite"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE format SET version = 99")
        store = FeatureStore(folder)
        with pytest.warns(RuntimeWarning, match="its format is 99, not 1"):
            assert store.get(KEYS) == {}
        store.put({"key1": value_of("key1")})
        assert list(store.get(KEYS)) == ["key1"]
        store.close()
        aside = folder / "features.sqlite.other-format-1"
        with closing(sqlite3.connect(aside)) as connection:
            count = connection.execute("SELECT count(*) FROM entries").fetchone()
        assert count == (25,)

    def test_somebody_elses_database(self, tmp_path):
        path = tmp_path / "features.sqlite"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE entries (key, recipe)")
            connection.execute("INSERT INTO entries VALUES ('key1', 'soup')")
        store = FeatureStore(tmp_path)
        with pytest.warns(RuntimeWarning, match="a database of something else"):
            store.put({"key1": value_of("key1")})
        assert wrong_in(store.get(["key1"])) == []
        store.close()
        aside = tmp_path / "features.sqlite.other-format-1"
        with closing(sqlite3.connect(aside)) as connection:
            rows = connection.execute("SELECT * FROM entries").fetchall()
        assert rows == [("key1", "soup")]

    def test_an_empty_file_is_a_store_that_was_killed_at_birth(self, tmp_path):
        (tmp_path / "features.sqlite").touch()
        with FeatureStore(tmp_path) as store:
            assert store.get(["key1"]) == {}
            store.put({"key1": value_of("key1")})
            assert list(store.get(["key1"])) == ["key1"]
        assert not list(tmp_path.glob("*other*"))


@pytest.fixture
def store_disk(small_disk):
    yield small_disk
    FeatureStore(small_disk / "store").close()


@pytest.fixture
def open_folder():
    """A folder that other users can reach, as pytest's own ones cannot be."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    (folder / "store").chmod(0o755)
    shutil.rmtree(folder)


def fill(store):
    """Batches until a put fails: numbers of whole batches, and the error."""
    for number in range(100):
        try:
            store.put({f"b{number}-{i}": np.full(6000, number) for i in range(4)})
        except OSError as error:
            return number, str(error)
    pytest.fail("the disk never became full")


class TestDisks:
    def check_full(self, store):
        count, message = fill(store)
        assert count >= 2
        assert str(store.path) in message
        assert "computed but not kept" in message
        assert "clear()" in message
        assert "max_size" in message
        for _ in range(2):
            found = store.get([f"b{n}-{i}" for n in range(count + 1) for i in range(4)])
            assert len(found) == 4 * count
            assert all(
                value[0] == int(k[1 : k.index("-")]) for k, value in found.items()
            )
            store.close()

    def test_full(self, store_disk):
        store = FeatureStore(store_disk / "store")
        self.check_full(store)
        store.clear()
        store.put({"key1": value_of("key1")})
        assert list(store.get(["key1", "b0-0"])) == ["key1"]

    def test_full_to_the_last_byte_and_freshly_opened(self, store_disk):
        with FeatureStore(store_disk / "store") as store:
            store.put({key: value_of(key) for key in KEYS})
            store.put({"half": np.zeros(100_000)})
        with (store_disk / "rest").open("wb", buffering=0) as file:
            with pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(512))
        assert len(store.get(KEYS)) == 25
        with pytest.raises(OSError, match="computed but not kept"):
            store.put({"large": np.zeros(10_000)})
        assert wrong_in(store.get(KEYS)) == []
        assert len(store.get(KEYS)) == 25
        store.clear()
        store.put({"key1": value_of("key1")})

    def test_a_file_size_limit(self, tmp_path):
        script = """
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
        store = FeatureStore(sys.argv[1])
        for number in range(100):
            try:
                store.put({f"b{number}": np.full(6000, number)})
            except OSError as error:
                print(error)
                break
        found = store.get([f"b{n}" for n in range(100)])
        right = all((value == int(key[1:])).all() for key, value in found.items())
        sys.exit(not (right and len(found) == number > 2))
        """
        output = run_script(script, tmp_path)
        assert f"'{tmp_path}' could not be written" in output
        assert "computed but not kept" in output
        assert len(FeatureStore(tmp_path).get(["b0", "b1"])) == 2

    def test_a_folder_that_may_only_be_read(self, sound, open_folder):
        folder = Path(shutil.copytree(sound, open_folder / "store"))
        script = """
        warnings.simplefilter("error")
        store = FeatureStore(sys.argv[1])
        if os.geteuid() == 0:  # root may write everything
            os.setgid(65534)
            os.setuid(65534)
        keys = [f"key{i}" for i in range(25)]
        for _ in range(3):
            found = store.get(keys)
            if len(found) < 25 or wrong_in(found):
                sys.exit(3)
        try:
            store.put({"new": value_of("new")})
        except OSError as error:
            print(error)
        sys.exit(len(store.get(keys + ["new"])) - 25 or store.info().entries - 25)
        """
        (folder / "features.sqlite").chmod(0o444)
        folder.chmod(0o555)
        output = run_script(script, folder)
        assert "could not be written" in output
        assert {path.name for path in folder.iterdir()} == {"features.sqlite"}

    def test_a_read_only_file_system(self, store_disk, sound):
        shutil.copy(sound / "features.sqlite", store_disk)
        remount = ["mount", "-o", "remount,ro", store_disk]
        if subprocess.run(remount, capture_output=True).returncode:
            pytest.skip("may not remount here")
        store = FeatureStore(store_disk)
        assert wrong_in(store.get(KEYS)) == []
        assert len(store.get(KEYS)) == 25
        with pytest.raises(OSError, match="computed but not kept"):
            store.put({"new": value_of("new")})
        with pytest.raises(OSError, match=r"[Rr]ead-only"):
            store.clear()
        assert len(store.get(KEYS)) == 25
