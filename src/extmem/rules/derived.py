"""Examples of the rules that follow from the registry.

There are hundreds, and they are alike. `derived.toml` has one right program for each structure and
command, and for each of its rules the few lines that break it there:

    [VkMemoryGetFdInfoKHR]
    lost = "..."            what is lost when a driver does not see the structure
    systems = ["linux"]     where it runs; everywhere by default
    program = '''...'''     with a line "# here", where a rule's lines are put in

    [VkMemoryGetFdInfoKHR.changes]
    sType-sType = "info.sType = 0"
    memory-parameter = { put = '''...''', also = ["VUID-..."] }

A change is the lines, or a table that says more of them: `also` and `systems` as in `Explanation`,
and `refused`: the exception that `extmem.vk` raises before it looks at any rule, where the rule
cannot be broken from Python.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

import msgspec

__all__ = ["MARK", "Change", "Scene", "scenes"]

MARK = "# here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What breaks a rule in the program of its structure or command."""

    put: str  # the lines
    also: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()  # none: those of the scene
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One structure or command: a program that uses it well, and what breaks its rules."""

    program: str
    changes: dict[str, str | Change]
    lost: str = ""
    systems: tuple[str, ...] = ("linux", "win32")

    def right(self) -> str:
        """The program as it should be."""
        before, _, after = self._parts()
        return before + after

    def wrong(self, change: Change) -> str:
        """The program with a change."""
        before, indent, after = self._parts()
        lines = textwrap.indent(change.put.strip("\n"), indent)
        return f"{before}{lines}\n{after}"

    def _parts(self) -> tuple[str, str, str]:
        lines = self.program.splitlines(keepends=True)
        (place,) = (at for at, line in enumerate(lines) if line.strip() == MARK)
        indent = lines[place][: lines[place].index(MARK)]
        return "".join(lines[:place]), indent, "".join(lines[place + 1 :])


def scenes() -> Iterator[tuple[str, str, Scene, Change]]:
    """For each rule: its structure or command, the rest of its name, and how it is shown."""
    text = files("extmem.rules").joinpath("derived.toml").read_text(encoding="utf-8")
    for parent, plain in tomllib.loads(text).items():
        scene = msgspec.convert(plain, Scene)
        for tail, change in scene.changes.items():
            yield parent, tail, scene, Change(put=change) if isinstance(change, str) else change
