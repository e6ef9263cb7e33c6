"""Every program on the pages of the documentation runs, and prints what the page says."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import pages
from tests.support.second import ROOT
from tests.support.strict import optional

PAGES = {each.relative_to(ROOT).as_posix(): each for each in pages.pages()}
MOST_NOT_RUN = 8  # blocks on all pages together that are compiled alone

# Commands that ask, and change nothing.
HARMLESS = (
    "devices",
    "list",
    "doctor",
    "rules",
    "explain",
    "demo",
    "matrix",
    "schema",
    "--version",
    "--help",
)


def programs() -> list[str]:
    return [name for name, path in PAGES.items() if pages.read(path).programs]


@pytest.mark.parametrize("name", programs())
def test_a_page_runs(name: str, tmp_path: Path) -> None:
    page = pages.read(PAGES[name])
    for each in page.needs:
        optional(each, f"pip install {each}")
    pages.run(page, tmp_path)


def test_what_is_not_run_is_python_and_little() -> None:
    not_run = [(name, *each) for name, path in PAGES.items() for each in pages.read(path).not_run]
    for name, line, why, code in not_run:
        compile(code, f"{name}:{line}", "exec")
        assert len(why.split()) > 2, f"{name}:{line} does not say why: {why}"
    assert len(not_run) <= MOST_NOT_RUN, not_run


def commands() -> list[str]:
    """The lines for a shell on all pages that call extmem's command line, each once."""
    found: dict[str, None] = {}
    for path in PAGES.values():
        for line in pages.read(path).console:
            words = shlex.split(line, comments=True)
            if words and words[0] in ("extmem", "./extmem") and words[1] in HARMLESS:
                found[shlex.join(words[1:])] = None
    return [*found]


@pytest.mark.parametrize("command", commands())
def test_a_command_works(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "demo" and "--seconds" not in words:
        words += ["--seconds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "extmem", *words],
        env={**os.environ, "EXTMEM_DRIVER": "embedded"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_wrong_page_is_found(tmp_path: Path) -> None:
    """The tests above can fail."""
    text = "```python\nprint(6 * 7)  # 42\nprint('x')  # y\n```\n"
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(pages.PageFailed, match="no line 'y'"):
        pages.run(pages.read(path), tmp_path)
    path.write_text("```python\nraise ValueError\n```\n")
    with pytest.raises(pages.PageFailed, match="ended with 1"):
        pages.run(pages.read(path), tmp_path)


def test_programs_of_a_page_live_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "<!-- program: first -->\n```python\nimport os\n"
        "open('number', 'w').write(str(os.getpid()))\n"
        'input("enter")\nprint("end")  # end\n```\n'
        "<!-- program: second -->\n```python\nimport os\n"
        "os.kill(int(open('number').read()), 0)\n```\n"
    )
    pages.run(pages.read(path), tmp_path)


def test_tools_of_the_documentation_say_what_they_do() -> None:
    """Their examples run, where Sphinx is installed or not."""
    for name in ("docs_words", "docs_names"):
        done = subprocess.run(
            [sys.executable, "-m", "doctest", str(ROOT / "tools" / f"{name}.py")],
            env={**os.environ, "PYTHONPATH": str(ROOT / "tools")},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
