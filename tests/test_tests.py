"""What holds for the tests themselves: none of them depends on how fast it runs."""

import re
from pathlib import Path

from hypothesis import settings

FOLDER = Path(__file__).parent
CLOCK = re.compile(
    r"\b(perf_counter|process_time|monotonic|thread_time|timeit)\b"
    r"|time\.time\(|os\.times|datetime\.now"
)
# Who may look at a clock, and why.
ALLOWED = {
    "child_processes.py": "gives up after a long time what would wait for ever",
    "damage.py": "tells whoever runs it by hand how long each file took",
    "interruptions.py": "sets the clock",
    "test_efficiency.py": "sets the clock",
    "test_tests.py": "names the clocks",
}


def test_only_these_look_at_a_clock():
    found = {
        path.name
        for path in FOLDER.rglob("*.py")
        # Full sizes are run by hand, to measure.
        if not path.stem.endswith("full_size")
        and CLOCK.search(path.read_text(encoding="utf-8"))
    }
    assert found - ALLOWED.keys() == set()


def test_hypothesis_has_no_deadline():
    assert settings().deadline is None
