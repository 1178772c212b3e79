"""Reading ahead: in order, no further than asked, and no thread that stays."""

import threading

import pytest
from child_processes import wait_until

from diffqa_features._engine.parallel import read_ahead


class Reader:
    """Returns ten times the row, or fails at row 2; notes what it began and ended."""

    def __init__(self):
        self.begun, self.ended = [], []
        self.allowed = threading.Event()

    def __call__(self, row):
        self.begun.append(row)
        assert self.allowed.wait(20)
        try:
            if row == 2:
                raise ValueError("unreadable")
            return 10 * row
        finally:
            self.ended.append(row)

    def wait_for(self, count):
        wait_until(lambda: len(self.ended) >= count)
        assert len(self.ended) == len(self.begun) == count


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("diffqa-read")]


def test_rows_come_in_order_and_a_bad_one_does_not_stop_the_others():
    read = Reader()
    read.allowed.set()
    given = list(read_ahead(range(30), read, depth=4))
    assert [row for row, _ in given] == list(range(30))
    for row, future in given:
        if row == 2:
            with pytest.raises(ValueError, match="unreadable"):
                future.result()
        else:
            assert future.result() == 10 * row
    assert not readers()


@pytest.mark.parametrize(("size", "begun"), [(1, [3, 4, 5]), (6, [3, 3, 3])])
def test_it_goes_no_further_ahead_than_asked(size, begun):
    """Three rows, and no new one while those that wait come to six."""
    read = Reader()
    given = read_ahead(range(3, 30), read, 3, lambda result: size)
    for count in begun:
        next(given)
        read.allowed.set()
        read.wait_for(count)
    given.close()
    assert not readers()
    assert len(read.begun) == begun[-1]
