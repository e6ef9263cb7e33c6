"""`extmem rules` and `extmem explain`."""

from __future__ import annotations

import textwrap
from typing import Any

import typer

from extmem.cli.exits import NotThere
from extmem.cli.schemas import schema_of
from extmem.cli.words import say
from extmem.rules import catalogue
from extmem.rules.catalogue import Entry

__all__ = ["collect", "explain", "show", "show_explanation"]

_WIDTH = 96  # of what people read


def collect(parent: str, verdict: str) -> list[dict[str, Any]]:
    """The rules of one structure or command, or with one verdict; "" for all."""
    every = catalogue.entries()
    if verdict and verdict not in catalogue.VERDICTS:
        raise typer.BadParameter(
            f"--verdict is {verdict}; expected one of {', '.join(catalogue.VERDICTS)}"
        )
    if parent and all(each.parent != parent for each in every):
        raise NotThere(
            f"--parent is {parent}, and no rule in scope is of a structure or command with that "
            "name; they are spelled as in the specification (VkMemoryAllocateInfo)"
        )
    return [
        {
            "vuid": each.vuid,
            "parent": each.parent,
            "implicit": each.implicit,
            "verdict": each.verdict,
            "where": each.where,
            "reason": each.reason,
            "says": each.says,
        }
        for each in every
        if parent in ("", each.parent) and verdict in ("", each.verdict)
    ]


def show(found: list[dict[str, Any]]) -> None:
    """For people: by parent, each rule in a line or two."""
    before = ""
    for each in found:
        if each["parent"] != before:
            before = each["parent"]
            say(before)
        say(f"  {each['vuid']}  {each['verdict']}")
        _wrapped(each["says"], "      ")
        if each["reason"]:
            _wrapped(each["reason"], "      ")
    verdicts = [each["verdict"] for each in found]
    counts = (f"{verdicts.count(each)} {each}" for each in catalogue.VERDICTS if each in verdicts)
    say(f"{len(found)} rule{'s' if len(found) != 1 else ''}: {', '.join(counts)}")
    for verdict, how in _HOW.items():
        if verdict in verdicts:
            say(f"  {verdict:<11}  {how[0].lower()}{how[1:]}")


def _wrapped(text: str, indent: str) -> None:
    for line in textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent):
        say(line)


def explain(text: str) -> dict[str, Any]:
    """All that is known of one rule."""
    if not text.strip():
        raise typer.BadParameter("name a rule: VUID-..., or the end of one, as 01327")
    try:
        entry = catalogue.find(text)
    except LookupError as problem:
        raise NotThere(str(problem)) from None
    found = catalogue.explanation(entry)
    return {
        "schema": schema_of("explain"),
        "vuid": entry.vuid,
        "parent": entry.parent,
        "implicit": entry.implicit,
        "verdict": entry.verdict,
        "where": entry.where,
        "reason": entry.reason,
        "says": entry.says,
        "extension": entry.extension,
        "why": found.why if found else "",
        "breaks": found.breaks if found else "",
        "refused": found.refused if found else "",
        "wrong": _whole(found.wrong) if found else "",
        "right": _whole(found.right) if found else "",
    }


def _whole(example: str) -> str:
    return f"{catalogue.PRELUDE}\n{example.strip()}\n" if example else ""


_HOW = {
    "checked": "Checked before the driver is called, from the arguments and what was done before",
    "derived": "Checked before the driver is called, as the registry has it",
    "os": "Checked by asking the operating system",
    "device": "Checked by asking the driver what the device can do",
    "undecidable": "Not checked",
}


def show_explanation(known: dict[str, Any]) -> None:
    """For people."""
    say(known["vuid"])
    entry: Entry = catalogue.find(known["vuid"])
    say(f"of {entry.parent} ({entry.extension})")
    for title, text in (
        ("What it wants", known["says"]),
        ("Why", known["why"]),
        ("What breaks without it", known["breaks"]),
        ("How it is checked", _how(entry, known["refused"])),
    ):
        if text:
            say(f"\n{title}")
            _wrapped(text, "  ")
    for title, example in (("Wrong", known["wrong"]), ("Right", known["right"])):
        if example:
            say(f"\n{title}\n")
            say(textwrap.indent(example, "  ").rstrip())


def _how(entry: Entry, refused: str) -> str:
    if refused:
        return f"By no rule: what would break it is a {refused} before any rule is looked at."
    where = f" ({entry.where})" if entry.where else ""
    reason = f" {entry.reason}" if entry.reason else ""
    return f"{_HOW[entry.verdict]}{where}.{reason}"
