"""Whole files: old or new after a kill, one writer at a time, no leftovers."""

import errno
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from command_line import ROOT, names_in

from diffqa_features._utils.files import (
    local_path,
    one_writer,
    remove_leftover,
    walk,
    whole_file,
    write_whole,
)

# Writes until it is killed; says so when its temporary file is there.
SLOW = """
import sys, time
from pathlib import Path
from diffqa_features._utils.files import whole_file
with whole_file(Path(sys.argv[1])) as path:
    path.write_text("half")
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def slow_writer(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW, tmp_path / "a.csv"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "begun\n"
    yield child
    child.kill()
    child.communicate()


def test_a_killed_writer_leaves_nothing_for_long(tmp_path, slow_writer):
    (tmp_path / "a.csv").write_text("old")
    (tmp_path / ".a.csv.tmp").write_text("somebody else's")
    slow_writer.send_signal(signal.SIGKILL)
    slow_writer.wait()
    assert (tmp_path / "a.csv").read_text() == "old"
    assert names_in(tmp_path) == [".a.csv.diffqa-part", ".a.csv.tmp", "a.csv"]
    write_whole(tmp_path / "a.csv", "new")
    assert (tmp_path / "a.csv").read_text() == "new"
    assert names_in(tmp_path) == [".a.csv.tmp", "a.csv"]


def test_a_leftover_goes_and_a_writer_stays(tmp_path, slow_writer):
    remove_leftover(tmp_path / "a.csv")
    assert names_in(tmp_path) == [".a.csv.diffqa-part"]
    slow_writer.send_signal(signal.SIGKILL)
    slow_writer.wait()
    remove_leftover(tmp_path / "a.csv")
    assert names_in(tmp_path) == []


def test_a_second_writer_is_told_at_once_and_leaves_nothing(tmp_path, slow_writer):
    before = names_in(tmp_path)
    with pytest.raises(OSError, match=r"a\.csv' is being written by another process"):
        write_whole(tmp_path / "a.csv", "mine")
    assert names_in(tmp_path) == before
    assert slow_writer.poll() is None


def test_those_who_wait_write_one_after_the_other(tmp_path):
    def write(number):
        write_whole(tmp_path / "a", 100_000 * bytes([number]), wait=True)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "a").read_bytes()
    assert len(content) == 100_000
    assert len(set(content)) == 1
    assert names_in(tmp_path) == ["a"]


def test_who_begins_while_another_ends_keeps_its_file(tmp_path, monkeypatch):
    path, real, begun = tmp_path / "a", Path.replace, []

    def replace(self, target):
        real(self, target)
        if not begun:  # the name of the temporary file is free now
            begun.append(whole_file(path))
            begun.append(begun[0].__enter__())

    monkeypatch.setattr(Path, "replace", replace)
    with whole_file(path) as part:
        part.write_text("first")
    second, part = begun
    assert path.read_text() == "first" and part.exists()
    part.write_text("second")
    second.__exit__(None, None, None)
    assert path.read_text() == "second"
    assert names_in(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_devices_and_pipes_are_not_replaced(tmp_path):
    """The super-user could: /dev/null would be a file from then on."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    (tmp_path / "folder").mkdir()
    before = names_in(tmp_path)
    for name in ("link", "null", "pipe", "folder"):
        # Only looked at: should the refusal fail, nothing is written here.
        with pytest.raises(OSError, match="is not a regular file"):
            with whole_file(tmp_path / name):
                raise AssertionError("it was not refused")
    assert names_in(tmp_path) == before
    assert (tmp_path / "pipe").is_fifo() and Path(os.devnull).is_char_device()


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    write_whole(path, "old\r\n")
    with pytest.raises(ValueError, match="oops"), whole_file(path) as temporary:
        temporary.write_text("half")
        raise ValueError("oops")
    assert path.read_bytes() == b"old\r\n"
    assert names_in(tmp_path) == ["a"]


def test_the_longest_name(tmp_path):
    write_whole(tmp_path / ("é" * 127), "x")
    assert names_in(tmp_path) == ["é" * 127]


def test_one_writer_of_several_files(tmp_path):
    with one_writer(tmp_path / "a"):
        with pytest.raises(OSError, match="being written"), one_writer(tmp_path / "a"):
            pass
        write_whole(tmp_path / "a", "x")
    assert names_in(tmp_path) == ["a"]


@pytest.fixture
def no_locks(monkeypatch):
    """As on a network disk that has none."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_one_writer_on_a_disk_without_locks(tmp_path, no_locks):
    inside, most = [], []

    def work():
        with one_writer(tmp_path / "a", wait=True):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    with one_writer(tmp_path / "a"):
        for thread in threads:
            thread.start()
        with (
            pytest.raises(OSError, match=rf"by process {os.getpid()} of .*delete"),
            one_writer(tmp_path / "a"),
        ):
            pass
        assert not most
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    assert names_in(tmp_path) == []


def test_the_place_of_a_killed_writer_is_taken(tmp_path, no_locks):
    owner = tmp_path / ".a.diffqa-owner"
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    owner.write_text(f"{child.pid} {platform.node()}")
    with one_writer(tmp_path / "a"):
        assert owner.read_text() == f"{os.getpid()} {platform.node()}"
    # Nothing is known of processes of other machines.
    owner.write_text(f"{child.pid} elsewhere")
    with (
        pytest.raises(OSError, match=r"process \d+ of 'elsewhere'.*\.a\.diffqa-owner"),
        one_writer(tmp_path / "a"),
    ):
        pass


def test_paths_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/x", "It") == tmp_path / "x"
    assert (
        local_path("~nobody-is-called-so.png", "It").name == "~nobody-is-called-so.png"
    )
    assert local_path("a:b/x", "It") == Path("a:b/x")
    assert local_path(Path(), "It") == Path()
    with pytest.raises(ValueError, match=r"It is empty\. Write '\.' for"):
        local_path("", "It")
    for url in ("s3://bucket/x", "file:///tmp", "HTTPS://host", Path("s3://bucket")):
        with pytest.raises(ValueError, match="It must be a path of this machine"):
            local_path(url, "It")


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(OSError, match=r"folder '.*/none' cannot be read \(No such"):
        list(walk(tmp_path / "none"))


def test_through_a_link_its_file_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a.csv").symlink_to("there/b.csv")
    for text in ("new", "newer"):  # the link dangles at first
        write_whole(tmp_path / "a.csv", text)
        assert (tmp_path / "there" / "b.csv").read_text() == text
    assert (tmp_path / "a.csv").is_symlink()
    with (
        one_writer(tmp_path / "there" / "b.csv"),
        pytest.raises(OSError, match="being written"),
        one_writer(tmp_path / "a.csv"),
    ):
        pass
    left = tmp_path / "there" / ".b.csv.diffqa-part"
    left.touch()
    remove_leftover(tmp_path / "a.csv")
    assert names_in(tmp_path) == ["a.csv", "there"]
    assert names_in(tmp_path / "there") == ["b.csv"]


def test_a_walk_ends(tmp_path):
    top = tmp_path / "top"  # its links lead no further than `tmp_path`
    (top / "a").mkdir(parents=True)
    for name in ("loop", "a/up", "a/self"):
        (top / name).symlink_to("..", target_is_directory=True)
    (top / "here").symlink_to(".", target_is_directory=True)
    (top / "a" / "x").touch()
    found = [(folder, names) for folder, names in walk(top / "a")]
    assert (top / "a", ["x"]) in found
    assert sum(names.count("x") for _, names in found) == 1
    assert top / "a" == found[0][0]
