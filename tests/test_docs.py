"""The pages of docs/ say what is true: their sessions run, their commands exist."""

import ast
import doctest
import re
import shlex
from pathlib import Path

import pytest

from diffqa_features.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.rst"))
MARKDOWN = [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md")]
MARKDOWN += ROOT.glob("diffqa_features/**/*.md")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(path, language):
    """Contents of the code blocks of a page."""
    pattern = rf"^\.\. code-block:: {language}\n\n((?:(?:   .*)?\n)+)"
    text = path.read_text(encoding="utf-8") + "\n"
    return [
        re.sub("^   ", "", block, flags=re.M)
        for block in re.findall(pattern, text, re.M)
    ]


def sessions(path):
    return doctest.DocTestParser().get_doctest(
        path.read_text(encoding="utf-8"), {}, path.stem, str(path), 0
    )


def test_there_are_pages_with_sessions():
    assert sum(len(sessions(page).examples) for page in PAGES) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_sessions_run_as_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    result = runner.run(sessions(page), out=told.append)
    assert result.failed == 0, "".join(told)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_other_code_is_python(page):
    # What cannot run here: a cluster, a GPU, data sets that nobody may pass on.
    for block in blocks(page, "python"):
        ast.parse(block)


COMMANDS = [
    (page.stem, line.removeprefix("$ ").strip())
    for page in PAGES
    for block in blocks(page, "console")
    for line in block.splitlines()
    if line.startswith("$ ")
]


def test_there_are_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_exist(page, line, capsys):
    program, *words = shlex.split(line)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[0]}:", makefile, re.M)
    elif program == "diffqa":
        with pytest.raises(SystemExit) as stop:
            main([words[0], "--help"])
        assert stop.value.code == 0
        known = re.findall(r"(?<!\S)--?[a-z-]+", capsys.readouterr().out)
        assert {word for word in words if word.startswith("-")} <= set(known)
    else:
        assert program in ("pip", "hf")


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://", target):
            assert (path.parent / target.partition("#")[0]).exists(), target
