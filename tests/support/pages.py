"""The programs on the pages of the documentation: what is on a page, and running it.

A page's blocks of Python are one program, in their order. What the tests have to know
beyond that is said in comments before a block:

    <!-- program: NAME -->      it belongs to another program of this page; see `run`
    <!-- program: NAME stays -->  the same, and it is not waited for once it has printed a line
    <!-- needs: MODULE -->      the page's programs are run only where that module is installed
    <!-- not run: WHY -->       it is compiled and not run

What a line prints may be said in a comment beside it: `print(value)  # 7`. That is held against
what was really printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.second import ROOT

__all__ = ["Page", "PageFailed", "Program", "pages", "read", "run"]

MAIN = "main"
PATIENCE = 100.0  # seconds for all programs of a page

_MARK = re.compile(r"\s*<!-- (program|needs|not run): (.*?) -->\s*$")
_FENCE = re.compile(r"(\s*)```(\S*)\s*.*$")
_PRINTED = re.compile(r"\s*print\(.*\)  # (.*)$")
_PROMPT = re.compile(r"""\binput\("([^"]+)"\)""")


class PageFailed(AssertionError):
    """A program of a page failed, or printed something else than the page says."""


@dataclass
class Program:
    """One program of a page: its lines where they are on the page, so that tracebacks fit."""

    name: str
    lines: dict[int, str] = field(default_factory=dict)
    stays: bool = False

    @property
    def source(self) -> str:
        return "\n".join(self.lines.get(at, "") for at in range(1, max(self.lines) + 1)) + "\n"

    @property
    def printed(self) -> list[str]:
        """What the page says that it prints, in order."""
        found = (_PRINTED.match(self.lines[at]) for at in sorted(self.lines))
        return [match[1] for match in found if match]

    @property
    def prompts(self) -> list[str]:
        return _PROMPT.findall(self.source)


@dataclass
class Page:
    """What is on a page."""

    path: Path
    programs: dict[str, Program] = field(default_factory=dict)
    not_run: list[tuple[int, str, str]] = field(default_factory=list)  # line, why, code
    needs: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)  # lines for a shell

    def add(self, called: str, first: int, lines: list[str]) -> None:
        name, _, stays = called.partition(" ")
        program = self.programs.setdefault(name, Program(name))
        program.stays = program.stays or stays == "stays"
        code = textwrap.dedent("\n".join(lines)).split("\n")
        program.lines |= {first + at: line for at, line in enumerate(code)}


def pages() -> list[Path]:
    """Every page with programs that is written by hand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read(path: Path) -> Page:
    """Read a page. ValueError, with the line, where a mark is not understood."""
    page = Page(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    name, why, at = MAIN, "", 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if match := _MARK.match(line):
            what, text = match.groups()
            if what == "program":
                name = text
            elif what == "needs":
                page.needs.append(text)
            else:
                why = text
        elif match := _FENCE.match(line):
            end = next(i for i in range(at, len(lines)) if lines[i].strip() == "```")
            block = lines[at:end]
            if match[2] == "python" and why:
                page.not_run.append((at + 1, why, textwrap.dedent("\n".join(block))))
            elif match[2] == "python":
                page.add(name, at + 1, block)
            elif match[2] == "sh" and not why:
                page.console += [each.strip() for each in block]
            name, why, at = MAIN, "", end + 1
        elif line.lstrip().startswith("<!--") and not line.lstrip().startswith("<!-- rules:"):
            raise ValueError(f"{path}:{at}: a comment that is no mark: {line}")
    return page


class _Running:
    def __init__(self, program: Program, script: Path) -> None:
        script.write_text(program.source, encoding="utf-8")
        self.program = program
        self.output = b""
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=script.parent,
            env={**os.environ, "EXTMEM_DRIVER": "embedded", "PYTHONUNBUFFERED": "1"},
        )
        self._errors: list[bytes] = []
        self._reader = threading.Thread(target=self._read_errors)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.append(self.process.stderr.read())

    def run_on(self, leaves: bool = True) -> bool:
        """Until it asks for input, or has ended: whether it goes on.

        leaves: whether a program that stays is left alone once it has printed a line
        """
        assert self.process.stdout is not None
        prompts = [each.encode() for each in self.program.prompts]
        while not any(self.output.endswith(prompt) for prompt in prompts):
            if leaves and self.program.stays and b"\n" in self.output:
                return True
            more = os.read(self.process.stdout.fileno(), 4096)
            if not more:
                return False
            self.output += more
        return True

    def answer(self) -> None:
        """Press enter where it asks, and read what else it prints."""
        assert self.process.stdin is not None
        while self.run_on(leaves=False):
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
            self.output += b"\n"

    def close(self) -> str:
        """End it, if it has not ended; what it wrote to stderr."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return b"".join(self._errors).decode(errors="replace")


def run(page: Page, folder: Path) -> None:
    """Run a page's programs, each in a process of its own.

    They are started in the order in which they are on the page. The next one begins when the one
    before has ended, or asks for input ("press enter ..."), or stays and has printed a line: then
    they live side by side. When all have begun, enter is pressed in those that ask for it.
    """
    running: list[_Running] = []
    late = threading.Timer(PATIENCE, _kill, [running])
    late.start()
    try:
        waiting: list[_Running] = []
        for program in page.programs.values():
            running.append(_Running(program, folder / f"{page.path.stem}_{program.name}.py"))
            if running[-1].run_on():
                waiting.append(running[-1])
            elif running[-1].process.wait():
                break  # the others would wait for it in vain
        else:
            for each in sorted(waiting, key=lambda each: each.program.stays):
                each.answer()
    finally:
        late.cancel()
        late.join()
        errors = [each.close() for each in running]
    # The last one first: where it failed, those that waited for it fail after it.
    for each, said in reversed([*zip(running, errors, strict=True)]):
        _judge(page, each, said)


def _kill(running: list[_Running]) -> None:
    for each in running:
        each.process.kill()


def _judge(page: Page, each: _Running, said: str) -> None:
    where = f"{page.path.name}, program {each.program.name}"
    output = each.output.decode(errors="replace")
    code = each.process.returncode
    if code or "Traceback" in said or "Warning" in said:
        raise PageFailed(f"{where} ended with {code}:\n{output}\n{said}")
    lines = iter(output.splitlines())
    for expected in each.program.printed:
        if expected not in lines:  # which goes on from the one that was found before
            raise PageFailed(f"{where}: no line {expected!r}, in this order, in:\n{output}")
