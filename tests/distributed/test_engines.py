"""Whole tables through the engines themselves, on this machine with two workers."""

import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from PIL import Image
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from diffqa_features import NaturalSceneStatistics
from diffqa_features.distributed import BatchExtractor, extract, read_parts

COUNT = 40


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Pictures of skewed sizes; one is damaged and one is missing."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = [str(folder / f"{number}.png") for number in range(COUNT)]
    for number, path in enumerate(paths[:-1]):
        side = 256 if number == 3 else 32 + number % 7
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(path)
    os.truncate(paths[5], 60)
    return pd.DataFrame({"path": paths, "id": np.arange(COUNT) * 10})


@pytest.fixture(scope="module")
def expected(table):
    return read(table, BatchExtractor(NaturalSceneStatistics())(table))


def read(table, found):
    """In the order of the table, without stamps."""
    found = found.set_index("id").loc[table["id"]].reset_index()
    return found.drop(columns=["size", "modified"], errors="ignore")


def same(out, table, expected):
    found = read(table, pd.read_parquet(out))
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_dtype=False)


def test_here(table, expected, tmp_path):
    report = extract(table, NaturalSceneStatistics(), tmp_path / "x", batch_size=16)
    assert report == {"rows": 40, "found": 0, "computed": 40, "bad": 2, "removed": 0}
    same(tmp_path / "x", table, expected)
    assert len(list((tmp_path / "x").glob("part-*"))) == 3


def test_what_is_there_is_not_computed_again(table, tmp_path):
    out, features = tmp_path / "x", NaturalSceneStatistics()
    mine = tmp_path / "mine.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(mine)
    small = pd.concat(
        [table[:9], pd.DataFrame({"path": [str(mine)], "id": [999]})], ignore_index=True
    )
    extract(small[3:], features, out, batch_size=4)
    report = extract(small, features, out, batch_size=4)
    assert (report["found"], report["computed"]) == (7, 3)
    parts = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    # One file changes: its row goes from its part, and comes back.
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(mine)
    report = extract(small, features, out, batch_size=4)
    assert (report["found"], report["computed"]) == (9, 1)
    same(out, small, read(small, BatchExtractor(features)(small)))
    kept = [path for path in parts if path.exists()]
    assert len(kept) >= 2
    assert all(path.stat().st_mtime_ns == parts[path] for path in kept)
    # What the table no longer has stays, unless it is asked to go.
    assert extract(small[:5], features, out)["removed"] == 0
    assert len(pd.read_parquet(out)) == 10
    assert extract(small[:5], features, out, prune=True)["removed"] == 5
    same(out, small[:5], read(small[:5], BatchExtractor(features)(small[:5])))


def test_a_folder_holds_one_kind_of_results(table, tmp_path):
    out = tmp_path / "x"
    features = NaturalSceneStatistics()
    extract(table[:2], features, out)
    extract(table[:3], NaturalSceneStatistics(memory=tmp_path / "store"), out)
    with pytest.raises(FileExistsError, match=r"other settings .*max_frames"):
        extract(table[:3], NaturalSceneStatistics(max_frames=3), out)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("a")
    with pytest.raises(FileExistsError, match=r"'a.txt' and no _settings.json"):
        extract(table[:2], features, tmp_path / "photos")
    with pytest.raises(FileExistsError, match="is a file"):
        extract(table[:2], features, tmp_path / "photos" / "a.txt")


def test_a_column_that_is_empty_in_a_batch_keeps_its_type(table, tmp_path):
    texts = [None] * 20 + ["a"] * 20
    notes = table.assign(note=texts, tags=[[1]] * COUNT)
    extract(notes, NaturalSceneStatistics(), tmp_path / "x", batch_size=10)
    found = pd.read_parquet(tmp_path / "x").sort_values("id")
    assert found["note"].tolist()[20:] == ["a"] * 20
    assert found["note"].isna().tolist()[:20] == [True] * 20
    assert "tags" not in found


def test_shards_are_disjoint_and_stay(table, expected, tmp_path):
    features = NaturalSceneStatistics()
    counts = [
        extract(table, features, tmp_path / "x", shard=(i, 3))["rows"] for i in range(3)
    ]
    assert sum(counts) == COUNT
    assert min(counts) > 5
    same(tmp_path / "x", table, expected)
    # Rows that are added do not move the others to another shard.
    half = [
        extract(table[::2], features, tmp_path / "x", shard=(i, 3)) for i in range(3)
    ]
    assert all(report["computed"] == 0 for report in half)
    with pytest.raises(ValueError, match=r"0 <= i < n. Got \(3, 3\)"):
        extract(table, features, tmp_path / "x", shard=(3, 3))


def draw(folder, count, seed=0):
    rng = np.random.default_rng(seed)
    paths = [str(folder / f"{number}.png") for number in range(count)]
    for path in paths:
        # Of another size each time, as two writes can have one time stamp.
        picture = rng.integers(0, 256, (32 + seed, 32, 3), np.uint8)
        Image.fromarray(picture).save(path)
    return paths


def test_shards_at_once_take_changed_rows_from_the_same_files(tmp_path):
    """Where each rewrote a file as it had seen it, rows came back and were doubled."""
    out, features = tmp_path / "x", NaturalSceneStatistics()
    paths = draw(tmp_path, 24)
    extract(paths, features, out, batch_size=4)
    draw(tmp_path, 24, seed=1)
    both, failed = threading.Barrier(2), []

    def work(index):
        both.wait()
        try:
            extract(paths, features, out, shard=(index, 2))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    found = pd.read_parquet(out)
    assert sorted(found["path"]) == sorted(paths)
    expected = BatchExtractor(features)({"path": found["path"].tolist()})
    for name in features.get_feature_names_out():
        np.testing.assert_array_equal(found[name], expected[name])


def test_rows_that_two_processes_computed_are_there_once(tmp_path):
    out, other, features = tmp_path / "x", tmp_path / "y", NaturalSceneStatistics()
    paths = draw(tmp_path, 5)
    extract(paths, features, out, batch_size=2)
    extract(paths[1:], features, other, batch_size=2)
    for part in other.glob("part-*"):  # as a second process with other batches
        part.rename(out / part.name)
    with pytest.raises(ValueError, match="repeat the extraction"):
        read_parts([out])
    extract(paths[:3], features, out)  # what it is not asked for it leaves alone
    assert set(pd.read_parquet(out)["path"]) == set(paths)
    extract(paths, features, out)
    assert read_parts([out])["path"].to_pylist() == sorted(paths)


def test_a_file_that_changes_while_it_is_read_is_computed_again(tmp_path):
    paths = draw(tmp_path, 2)
    report = extract(paths, ChangesItsFiles(NaturalSceneStatistics()), tmp_path / "x")
    assert report["computed"] == 2
    report = extract(paths, NaturalSceneStatistics(), tmp_path / "x")
    assert report["computed"] == 2


class ChangesItsFiles(BatchExtractor):
    """Each file is another one as soon as it was read."""

    def __call__(self, batch):
        found = super().__call__(batch)
        draw(Path(batch["path"].tolist()[0]).parent, len(batch), seed=2)
        return found


def test_what_a_server_did_not_give_is_asked_for_again(tmp_path):
    paths = ["http://127.0.0.1:9/a.png", *draw(tmp_path, 2)]
    os.truncate(paths[2], 60)
    report = extract(paths, NaturalSceneStatistics(), tmp_path / "x")
    assert report["bad"] == 2
    report = extract(paths, NaturalSceneStatistics(), tmp_path / "x")
    # A damaged file that has not changed would be bad again.
    assert (report["found"], report["computed"], report["bad"]) == (2, 1, 1)


def test_a_pipeline_is_the_same_in_another_process_and_on_another_disk(tmp_path):
    paths = draw(tmp_path, 1)
    for memory in (None, str(tmp_path / "store")):
        features = NaturalSceneStatistics(memory=memory)
        absolute = FunctionTransformer(np.abs, feature_names_out=same_names)
        model = make_pipeline(features, absolute)
        report = extract(paths, model, tmp_path / "x")
    assert report["found"] == 1
    # Nor is there an address, which each process has its own.
    assert "same_names" in (settings := (tmp_path / "x/_settings.json").read_text())
    assert "0x" not in settings


def same_names(step, names):
    return names


def test_names_of_a_csv_are_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (32, 32))
    for name in ("NA", "007", "a\"b'c,\n.png"):
        picture.save(name, format="png")
    names = pd.DataFrame({"path": ["NA", "007", "a\"b'c,\n.png"]})
    names.to_csv("names.csv", index=False)
    report = extract("names.csv", NaturalSceneStatistics(), "x")
    assert (report["computed"], report["bad"]) == (3, 0)
    assert sorted(pd.read_parquet("x")["path"]) == sorted(names["path"])


@pytest.mark.parametrize("text", ['{"key": "pa', "[1]", "{}"])
def test_settings_that_are_damaged_are_named(text, table, tmp_path):
    out = tmp_path / "x"
    extract(table[:1], NaturalSceneStatistics(), out)
    (out / "_settings.json").write_text(text)
    with pytest.raises(ValueError, match=r"_settings.json"):
        read_parts([out])
    with pytest.raises((ValueError, FileExistsError), match=r"_settings.json|settings"):
        extract(table[:2], NaturalSceneStatistics(), out)


def test_a_part_that_is_damaged_is_named(table, tmp_path):
    out = tmp_path / "x"
    extract(table[:2], NaturalSceneStatistics(), out)
    (part,) = out.glob("part-*")
    os.truncate(part, 100)
    for work in (
        lambda: read_parts([out]),
        lambda: extract(table[:2], NaturalSceneStatistics(), out),
    ):
        with pytest.raises(ValueError, match=f"'.*{part.name}' is damaged .* Delete"):
            work()
    part.unlink()
    assert extract(table[:2], NaturalSceneStatistics(), out)["computed"] == 2


def test_the_key_is_kept_and_types_stay(table, tmp_path):
    out = tmp_path / "x"
    extractor = BatchExtractor(NaturalSceneStatistics(), keep=["id"])
    extract(table[:2].assign(note=None), extractor, out)
    assert sorted(pd.read_parquet(out)["path"]) == sorted(table["path"][:2])
    with pytest.raises(ValueError, match=r"column 'id' .* than in 'out'"):
        extract(table[:3].assign(id=["0", "10", "20"]), extractor, out)
    # Nothing is known of a column without values, and then it is text.
    notes = BatchExtractor(NaturalSceneStatistics(), keep=["note"])
    extract(table[:2].assign(note=None), notes, tmp_path / "y")
    extract(table[:3].assign(note="a"), notes, tmp_path / "y")
    found = pd.read_parquet(tmp_path / "y").set_index("path")["note"]
    assert found[table["path"][2]] == "a"


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: pd.concat([t, t[:1]]), {}, "not in rows 0 and 40"),
        (lambda t: t.assign(id=1), {"key": "id"}, r"'id' must .* rows 0 and 1 \(1\)"),
        (lambda t: t, {"media": "image"}, "no column 'image', only 'path', 'id'"),
        (lambda t: t, {"key": "name"}, "no column 'name'"),
        (lambda t: t, {"engine": "flink"}, "engine must be one of"),
        (lambda t: t, {"batch_size": 0}, "at least 1"),
        (lambda t: t.assign(size=3), {}, "'size' of the table would be replaced"),
        (lambda t: t.rename(columns={"id": 3}), {}, "column 3 .* not named by a str"),
        (lambda t: t.assign(id=[1, "1"] * 20), {}, "'id' .* one plain type"),
        (lambda t: ["a.png", "\udcff"], {}, r"Row 1: '\\udcff' is not UTF-8"),
        (lambda t: t["path"][0], {}, r"a list of paths, or a .csv"),
    ],
)
def test_bad_tables_are_refused_before_any_work(
    table, tmp_path, change, options, message
):
    with pytest.raises(ValueError, match=message):
        extract(change(table), NaturalSceneStatistics(), tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def extract_by_twos(source, out):
    extract(source, NaturalSceneStatistics(), out, batch_size=2)


def test_killed_many_times_it_ends_as_undisturbed(table, expected, tmp_path):
    from child_processes import start_process  # here: Ray's workers do not find it

    out, source = tmp_path / "x", tmp_path / "table.csv"
    table.to_csv(source, index=False)
    for wanted in (2, 6):
        process = start_process(extract_by_twos, source, out)
        while len(list(out.glob("part-*"))) < wanted:
            assert process.is_alive()
            time.sleep(0.01)
        process.kill()
        process.join()
    before = len(pd.read_parquet(out))
    assert 0 < before < COUNT
    report = extract(source, NaturalSceneStatistics(), out, batch_size=2)
    assert (report["found"], report["computed"]) == (before, COUNT - before)
    same(out, table, expected)


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    # Its workers import this module, too. In a `runtime_env` this would have further
    # processes started, and the workers that are there from the start replaced.
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def dask():
    from child_processes import run_in_process  # here: Ray's workers do not find it

    distributed = pytest.importorskip("dask.distributed")
    # Workers are forks of the one process that has imported what most tests need:
    # it is started here, or dask would start it with less for all later tests.
    assert run_in_process(int) == 0
    method = {"distributed.worker.multiprocessing-method": "forkserver"}
    with (
        sys.modules["dask"].config.set(method),
        distributed.Client(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def spark():
    sql = pytest.importorskip("pyspark.sql")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = sql.SparkSession.builder.master("local[2]")
    session = builder.config("spark.ui.enabled", "false").getOrCreate()
    yield session
    session.stop()


OF_ENGINES = [  # what they tell themselves
    pytest.mark.filterwarnings(f"ignore::{kind}:{module}")
    for kind in ("DeprecationWarning", "FutureWarning")
    for module in ("ray", "pyspark")
]


def of_engines(test):
    for mark in OF_ENGINES:
        test = mark(test)
    return test


@of_engines
@pytest.mark.parametrize(
    "engine", ["dask", pytest.param("spark", marks=pytest.mark.spark)]
)
def test_an_engine_gives_what_one_process_gives(
    engine, request, table, expected, tmp_path
):
    request.getfixturevalue(engine)
    options = {"engine": engine, "batch_size": 6, "n_workers": 2}
    features = NaturalSceneStatistics()
    report = extract(table[:30], features, tmp_path / "x", **options)
    assert report == {"rows": 30, "found": 0, "computed": 30, "bad": 1, "removed": 0}
    report = extract(table, features, tmp_path / "x", **options)
    assert (report["found"], report["computed"]) == (30, 10)
    same(tmp_path / "x", table, expected)


@of_engines
@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_a_worker_that_is_killed_loses_nothing(
    engine, request, table, expected, tmp_path
):
    """With -9, while it computes; the engine starts another one."""
    request.getfixturevalue(engine)
    marker = tmp_path / "killed"
    extractor = KillsItsWorker(NaturalSceneStatistics(), marker)
    report = extract(
        table, extractor, tmp_path / "x", engine=engine, batch_size=5, n_workers=2
    )
    assert marker.exists()
    assert report["computed"] == COUNT
    same(tmp_path / "x", table, expected)


class KillsItsWorker(BatchExtractor):
    """The first process to compute row 20 is gone."""

    def __init__(self, features, marker):
        super().__init__(features)
        self.marker = marker

    def __call__(self, batch):
        if 200 in batch["id"].tolist() and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@of_engines
def test_joblib_on_ray(ray, table):
    """Its backend starts two workers, which import the package: some seconds."""
    pytest.importorskip("ray.util.joblib").register_ray()
    paths = table["path"][6:20].tolist()
    expected = NaturalSceneStatistics().fit_transform(paths)
    with parallel_config("ray"):
        found = NaturalSceneStatistics(n_jobs=2).fit_transform(paths)
    np.testing.assert_array_equal(found, expected)


def test_the_backbone_is_not_shipped():
    # The workers of the engines import this module, and need no torch.
    from diffqa_features import DiffusionQAFeatures

    features = DiffusionQAFeatures(image_size=64)
    features.fit_transform([np.zeros((64, 64, 3), np.uint8)])
    assert len(pickle.dumps(BatchExtractor(features))) < 2000
