"""The precision of ``dtype="auto"``, memory that is kept, and threads that read."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from processor import attends_in_bfloat16

from diffqa_features import DiffusionQAFeatures, FeatureStore
from diffqa_features._media.budget import reader_threads
from diffqa_features._utils.devices import pick_dtype
from diffqa_features._utils.processor import fast_precision

CPU = torch.device("cpu")


def test_auto_is_bfloat16_with_amx_only():
    dtype, why = fast_precision()
    able = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    wanted = able and attends_in_bfloat16()
    assert dtype == (torch.bfloat16 if wanted else torch.float32)
    assert pick_dtype("auto", CPU) == dtype
    assert ("AMX" in why) and pick_dtype(None, CPU) == torch.float32


def test_less_than_the_processor_has():
    """torch held to AVX2 cannot attend in bfloat16 where there is AMX."""
    code = (
        "from diffqa_features._utils.allocator import keep_memory;"
        "from diffqa_features._utils.processor import fast_precision;"
        "print(fast_precision()[0], keep_memory())"
    )
    limits = {"ATEN_CPU_CAPABILITY": "avx2", "DIFFQA_KEEP_MEMORY": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **limits},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["torch.float32", "False"]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting")
def test_memory_is_kept():
    """Page faults of a thread that takes and frees the same 64 MiB ten times."""
    code = (
        "import resource, threading\n"
        "from diffqa_features._utils.allocator import keep_memory\n"
        "kept = keep_memory()\n"
        "def work():\n"
        "    for _ in range(10):\n"
        "        len(b'x' * (2**26 + kept))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start(); thread.join()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, kept)"
    )
    faults = {}
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    plain["MALLOC_TRIM_THRESHOLD_"] = "65536"  # as Dask starts its workers
    for setting in "0", "1":
        found = subprocess.run(
            [sys.executable, "-c", code],
            env={**plain, "DIFFQA_KEEP_MEMORY": setting},
            capture_output=True,
            text=True,
            check=True,
        )
        number, kept = found.stdout.split()
        faults[kept] = int(number)
    if "True" not in faults:
        pytest.skip("a C library without mallopt")
    assert faults["True"] < faults["False"] / 4


def test_auto_shares_the_store_with_the_precision_that_it_means(sd1_folder, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    name = str(pick_dtype("auto", CPU)).removeprefix("torch.")
    store = FeatureStore(tmp_path / "store")
    found, entries = [], []
    for dtype in ("auto", name):
        features = DiffusionQAFeatures(
            str(sd1_folder), image_size=64, device="cpu", dtype=dtype, memory=store
        )
        found.append(features.transform(picture))
        entries.append(store.info().entries)
    np.testing.assert_array_equal(*found)
    assert entries[0] == entries[1] > 0


@pytest.mark.parametrize(("cores", "threads"), [(1, 3), (2, 3), (12, 12), (64, 16)])
def test_readers_follow_the_cores(cores, threads, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10**6)
    assert reader_threads() == threads
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10**12)  # more than any memory
    assert reader_threads() == 3


def test_readers_do_not_change_the_result(sd1_folder, monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    features = DiffusionQAFeatures(str(sd1_folder), image_size=64, device="cpu")
    expected = features.transform(pictures)
    monkeypatch.setattr("joblib.cpu_count", lambda: 12)
    np.testing.assert_array_equal(features.transform(pictures), expected)
