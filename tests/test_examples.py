"""Every script in examples/ runs, in a process of its own, without a display.

Those of the gallery also run when the documentation is built, with the same conditions
(`guard_example` in docs/_ext), so here they are left to ``-m gallery``.
"""

import os
import runpy
import sys
import warnings
from pathlib import Path

import pytest
from child_processes import run_in_process

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_examples():
    assert len(EXAMPLES) >= 2


def run_example(path, folder):
    """As Python runs a script; warnings of deprecation are errors, as in all tests."""
    sys.stdout, sys.stderr = ((folder / n).open("w") for n in ("stdout", "stderr"))
    import matplotlib as mpl

    mpl.use("agg")
    for category in (DeprecationWarning, FutureWarning):
        warnings.simplefilter("error", category)
    (folder / "here").mkdir()
    os.chdir(folder / "here")
    sys.argv = [str(path)]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.gallery] * in_gallery)
        for path in EXAMPLES
        for in_gallery in [path.stem.startswith("plot_")]
    ],
)
def test_example_runs(path, tmp_path):
    code = run_in_process(run_example, path, tmp_path)
    assert code == 0, (tmp_path / "stderr").read_text()
    # What it keeps lies in a temporary folder.
    assert list((tmp_path / "here").iterdir()) == []
