"""The store under several processes: killed, concurrent, forked."""

import os
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from child_processes import run_script, value_of, wrong_in

from diffqa_features._store.store import FeatureStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def check_file(folder):
    """The database is whole and no process has thought otherwise."""
    with closing(sqlite3.connect(Path(folder) / "features.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert not list(Path(folder).glob("*damaged*"))


class TestKill:
    def test_what_was_committed_is_there_and_whole(self, tmp_path):
        # A batch is logged after its put has returned, so what is logged must be there.
        script = """
        folder, rng = Path(sys.argv[1]), random.Random(0)

        def write(name):
            store, rng = FeatureStore(folder / "store"), random.Random(name)
            with open(folder / f"{name}.log", "w", buffering=1) as log:
                for number in range(10**6):
                    size = rng.randint(1, 20)
                    keys = [f"{name}-{number}of{size}-{i}" for i in range(size)]
                    store.put({key: value_of(key) for key in keys})
                    log.write(" ".join(keys) + "\\n")
                    if number % 7 == 6:
                        store.close()

        writers = [spawn(write, f"w{i}") for i in range(3)]
        for number in range(20):
            log = folder / f"w{number}.log"
            wait_until(lambda: log.exists() and log.stat().st_size)
            time.sleep(rng.uniform(0, 0.04))
            victim = writers.pop(0)
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            with FeatureStore(folder / "store") as store:
                store.get(["nothing"])
            writers.append(spawn(write, f"w{number + 3}"))
        for victim in writers:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
        """
        run_script(script, tmp_path)
        committed = [
            line.split()
            for log in tmp_path.glob("*.log")
            for line in log.read_text().splitlines()
        ]
        assert len(committed) > 20
        with FeatureStore(tmp_path / "store") as store:
            found = store.get([key for keys in committed for key in keys])
            assert wrong_in(found) == []
            assert len(found) == sum(map(len, committed))
        # Nor is any batch, logged or not, there in part.
        check_file(tmp_path / "store")
        with closing(sqlite3.connect(tmp_path / "store/features.sqlite")) as connection:
            keys = [
                row[0].decode() for row in connection.execute("SELECT key FROM entries")
            ]
        batches = Counter(key.rsplit("-", 1)[0] for key in keys)
        assert all(int(name.split("of")[1]) == n for name, n in batches.items())

    def test_in_the_moments_of_creation_eviction_and_clearing(self, tmp_path):
        script = """
        rng = random.Random(1)

        def write(folder):
            store = FeatureStore(folder, max_size=150_000)
            for number in range(10**6):
                keys = [f"{number}-{i}" for i in range(30)]
                store.put({key: value_of(key) for key in keys})
                store.get(keys[:5])
                if number % 10 == 9:
                    store.clear()

        for number in range(16):
            victim = spawn(write, Path(sys.argv[1]) / str(number))
            time.sleep(rng.uniform(0, 0.02 if number < 10 else 0.2))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
        """
        run_script(script, tmp_path)
        keys = [f"{n}-{i}" for n in range(50) for i in range(30)]
        for number in range(16):
            with FeatureStore(tmp_path / str(number), max_size=150_000) as store:
                assert wrong_in(store.get(keys)) == []
                store.put({"after": value_of("after")})
                assert list(store.get(["after"])) == ["after"]
            check_file(tmp_path / str(number))


@pytest.mark.parametrize("clearing", [False, True])
def test_processes_read_and_write_the_same_keys(tmp_path, clearing):
    script = """
    def work(seed, clearing):
        warnings.simplefilter("error")
        rng = random.Random(seed)
        store = FeatureStore(sys.argv[1], max_size=100_000 if seed == 1 else None)
        for number in range(60):
            keys = [f"key{rng.randrange(80)}" for _ in range(12)]
            found = store.get(keys)
            if wrong_in(found):
                return 3
            store.put({key: value_of(key) for key in keys if key not in found})
            if clearing and seed == 2 and number % 10 == 5:
                store.clear()
            if number % 20 == 19:
                store.close()

    children = [spawn(work, seed, sys.argv[2] == "True") for seed in range(4)]
    sys.exit(any([os.waitpid(pid, 0)[1] for pid in children]))
    """
    run_script(script, tmp_path, clearing)
    check_file(tmp_path)


def test_processes_that_notice_damage_together_share_the_new_file(tmp_path):
    script = """
    folder, go = sys.argv[1], os.pipe()

    def work(name):
        warnings.simplefilter("ignore")
        store = FeatureStore(folder)
        os.close(go[1])
        os.read(go[0], 1)
        store.get(["key1"])
        for i in range(10):
            store.put({f"{name}-{i}": value_of(f"{name}-{i}")})

    for number in range(4):
        (Path(folder) / "features.sqlite").write_bytes(bytes([65 + number]) * 20000)
        children = [spawn(work, f"r{number}p{i}") for i in range(6)]
        time.sleep(0.05)
        os.close(go[1])
        if any([os.waitpid(pid, 0)[1] for pid in children]):
            sys.exit(1)
        os.close(go[0])
        go = os.pipe()
        keys = [f"r{number}p{n}-{i}" for n in range(6) for i in range(10)]
        with FeatureStore(folder) as store:
            found = store.get(keys)
        if len(found) < 60 or wrong_in(found):
            sys.exit(2)
    """
    run_script(script, tmp_path)
    for number in range(4):
        aside = tmp_path / f"features.sqlite.damaged-{number + 1}"
        assert aside.read_bytes() == bytes([65 + number]) * 20000
    assert len(list(tmp_path.glob("*damaged*"))) == 4


def test_nothing_is_read_while_another_process_takes_the_file_away(tmp_path):
    script = """
    import fcntl
    store = FeatureStore(sys.argv[1])
    store.put({"key1": value_of("key1")})
    locked = os.pipe()

    def work():
        with (Path(sys.argv[1]) / "features.sqlite.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.write(locked[1], b".")
            time.sleep(0.4)
            for path in Path(sys.argv[1]).glob("features.sqlite*"):
                path.rename(f"{path}.moved")

    child = spawn(work)
    os.read(locked[0], 1)
    found = store.get(["key1"])
    sys.exit(os.waitpid(child, 0)[1] or len(found))
    """
    run_script(script, tmp_path)
    assert not (tmp_path / "features.sqlite").exists()


class TestFork:
    def test_children_and_parent_use_a_store_opened_before(self, tmp_path):
        script = """
        store = FeatureStore(sys.argv[1])
        store.put({"parent": value_of("parent")})

        def work(name):
            for i in range(20):
                store.put({f"{name}-{i}": value_of(f"{name}-{i}")})
                found = store.get(["parent"])
                if not found or wrong_in(found):
                    return 2

        children = [spawn(work, f"child{n}") for n in range(4)]
        work("self")
        sys.exit(any([os.waitpid(pid, 0)[1] for pid in children]))
        """
        run_script(script, tmp_path)
        names = ["self", *(f"child{n}" for n in range(4))]
        with FeatureStore(tmp_path) as store:
            found = store.get([f"{name}-{i}" for name in names for i in range(20)])
        assert len(found) == 100
        assert wrong_in(found) == []
        check_file(tmp_path)

    def test_a_parent_that_closes_takes_nothing_from_its_child(self, tmp_path):
        # With a connection carried over the fork the child believes in a lock that
        # only the parent holds; the parent then deletes the child's journal.
        script = """
        store = FeatureStore(sys.argv[1])
        store.put({"before": value_of("before")})
        ready, go = os.pipe(), os.pipe()

        def work():
            store.put({"first": value_of("first")})
            os.write(ready[1], b".")
            os.read(go[0], 1)
            store.put({"second": value_of("second")})

        child = spawn(work)
        os.read(ready[0], 1)
        store.get(["before"])
        store.close()
        os.write(go[1], b".")
        os.waitpid(child, 0)
        """
        run_script(script, tmp_path)
        with FeatureStore(tmp_path) as store:
            found = store.get(["before", "first", "second"])
        assert list(found) == ["before", "first", "second"]
        check_file(tmp_path)

    def test_while_threads_are_inside_the_store(self, tmp_path):
        script = """
        warnings.simplefilter("ignore")
        store, stop = FeatureStore(sys.argv[1]), threading.Event()

        def hammer(name):
            number = 0
            while not stop.is_set():
                key = f"{name}-{number}"
                store.put({key: value_of(key)})
                store.get([f"{name}-{i}" for i in range(number)])
                number += 1

        def work(number):
            signal.alarm(30)
            store.put({f"child{number}": value_of(f"child{number}")})

        threads = [threading.Thread(target=hammer, args=(f"t{i}",)) for i in range(3)]
        for thread in threads:
            thread.start()
        failed = [os.waitpid(spawn(work, number), 0)[1] for number in range(15)]
        stop.set()
        for thread in threads:
            thread.join()
        sys.exit(any(failed))
        """
        run_script(script, tmp_path)
        with FeatureStore(tmp_path) as store:
            found = store.get([f"child{number}" for number in range(15)])
        assert len(found) == 15
        assert wrong_in(found) == []
        check_file(tmp_path)
