"""The README's Python runs as printed, in order, in one session."""

import re
import shlex
from pathlib import Path

import pytest

from diffqa_features.cli import main

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks("python")
    assert code
    namespace = {"__name__": "__main__"}
    for number, block in enumerate(code):
        exec(compile(block, f"README.md, Python block {number}", "exec"), namespace)


def console_lines(start):
    return [
        line.removeprefix("$ ").partition("  #")[0].strip()
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith(f"$ {start} ")
    ]


@pytest.mark.parametrize("line", console_lines("diffqa"))
def test_commands_and_their_options_exist(line, capsys):
    verb, *arguments = shlex.split(line)[1:]
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    known = re.findall(r"(?<!\S)--?[a-z-]+", capsys.readouterr().out)
    assert {word for word in arguments if word.startswith("-")} <= set(known)


@pytest.mark.parametrize("line", console_lines("make"))
def test_make_targets_exist(line):
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    target = shlex.split(line)[1]
    assert re.search(rf"^{target}:", makefile, re.M)
