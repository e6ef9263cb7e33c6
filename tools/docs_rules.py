"""Writes the pages of the rules: one for each structure and command, and one that lists them all.

They are made from the catalogue each time that the documentation is built, and kept nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from extmem.rules import catalogue
from extmem.rules.catalogue import PRELUDE, Entry, Explanation

__all__ = ["filled", "link", "rules_of", "write"]

_HOW = {
    "checked": "before the driver is called, from the arguments and from what was done before",
    "derived": "before the driver is called, as the registry has it",
    "os": 'by asking the operating system, with `checks="full"`',
    "device": 'by asking the driver what the device can do, with `checks="full"`',
    "undecidable": "not at all: it cannot be decided here",
}

_SYSTEMS = {"linux": "Linux", "win32": "Windows"}

# In the hand-written pages: a line that stands for the rules of a structure or command, and links
# that name a rule by the tail of its VUID.
_LIST = re.compile(r"<!-- rules: (\w+) -->")
_LINK = re.compile(r"\[([^\]]*)\]\(rule:([\w-]+)\)")
_PAGE = re.compile(r"\[([^\]]*)\]\(rules:(\w+)\)")


def _by_parent() -> dict[str, list[Entry]]:
    ordered = sorted(catalogue.entries(), key=lambda each: each.parent.lower())
    return {parent: list(some) for parent, some in groupby(ordered, lambda each: each.parent)}


def rules_of(parent: str) -> list[Entry]:
    """The rules of a structure or command, explicit ones first."""
    return sorted(_by_parent()[parent], key=lambda each: each.implicit)


def _tail(entry: Entry) -> str:
    return entry.vuid.removeprefix(f"VUID-{entry.parent}-")


def link(text: str, entry: Entry) -> str:
    """Markdown of a link to a rule, from any page."""
    return f"{{ref}}`{text} <{entry.vuid.lower()}>`"


def _escaped(text: str) -> str:
    """Words of the catalogue as Markdown: names are code, and stars and the like no marks."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\*_\[\]<>|#$~{}])", r"\\\1", part)
        for part in parts
    )


def filled(text: str, folder: str) -> str:
    """A hand-written page with its lists and links of rules written out.

    folder: how the page gets to the root of the documentation, as "../"
    """

    def listed(match: re.Match[str]) -> str:
        rows = (
            f"| {link(_tail(each), each)} | {_escaped(each.says)} | {each.verdict} |"
            for each in rules_of(match[1])
        )
        return "\n".join(["| rule | what it wants | verdict |", "|---|---|---|", *rows])

    text = _LIST.sub(listed, text)
    text = _LINK.sub(lambda match: link(match[1] or match[2], catalogue.find(match[2])), text)
    return _PAGE.sub(rf"[\1]({folder}rules/\2.md)", text)


def _program(title: str, example: str) -> list[str]:
    return [
        "<details>",
        f"<summary>{title}</summary>",
        "",
        "```python",
        example.strip("\n"),
        "```",
        "",
        "</details>",
        "",
    ]


def _checked(entry: Entry, found: Explanation | None) -> str:
    if found and found.refused:
        return f"what would break it is a `{found.refused}` before any rule is looked at"
    return _HOW[entry.verdict] + (f" (`{entry.where}`)" if entry.where else "")


def _rule(entry: Entry) -> list[str]:
    found = catalogue.explanation(entry)
    lines = [f"({entry.vuid.lower()})=", f"## {entry.vuid}", ""]
    number = entry.vuid.rpartition("-")[2]
    if number.isdigit():  # the search takes no numbers, but for those that are in the index
        lines += [f"```{{index}} {number}", "```", ""]
    lines += [_escaped(entry.says), ""]
    if found:
        lines += [f"**Why.** {_escaped(found.why)}", ""]
        lines += [f"**What breaks without it.** {_escaped(found.breaks)}", ""]
    lines += [f"**How it is checked:** {_checked(entry, found)}."]
    lines += [_escaped(entry.reason)] if entry.reason else []
    lines.append("")
    if found and found.wrong:
        if len(found.systems) == 1:
            lines += [f"The programs run on {_SYSTEMS[found.systems[0]]}.", ""]
        lines += _program("A program that breaks it", found.wrong)
        lines += _program("A program that keeps it", found.right)
    return lines


def _page(parent: str, entries: Iterable[Entry], explained: str) -> str:
    every = sorted(entries, key=lambda each: each.implicit)
    brought = " and ".join(sorted({each.extension for each in every}))
    count = f"Its {len(every)} rules" if len(every) > 1 else "Its rule"
    about = f" It is explained [on a page of its own]({explained})." if explained else ""
    lines = [
        f"# {parent}",
        "",
        f"{count}, from {brought}.{about}",
        "",
        "Each program on this page begins with these lines:",
        "",
        "```python",
        PRELUDE.strip(),
        "```",
        "",
    ]
    for each in every:
        lines += _rule(each)
    return "\n".join(lines)


def _index(parents: dict[str, list[Entry]]) -> str:
    verdicts = [each.verdict for some in parents.values() for each in some]
    rows = [
        f"| [{parent}]({parent}.md) | {len(some)} | {', '.join(_counts(some))} |"
        for parent, some in parents.items()
    ]
    meanings = [f"- **{name}** ({verdicts.count(name)}): {how}" for name, how in _HOW.items()]
    return "\n".join(
        [
            "# The rules",
            "",
            f"The specification has {len(verdicts)} rules for external memory and its"
            " synchronisation that are in scope here. Each has a name, its VUID, and is said in our"
            " words: what it wants, why it is there, what breaks without it, how it is checked, and"
            " a program that breaks and one that keeps it. The tests run those programs.",
            "",
            "Search for a name, or for the end of one (`01714`), with the field on the left, or"
            " say `extmem explain 01714` on the command line. A page's address and a rule's name"
            " make a link to it:"
            " `rules/VkMemoryAllocateInfo.html#VUID-VkMemoryAllocateInfo-pNext-00639`.",
            "",
            "## How they are checked",
            "",
            *meanings,
            "",
            "## By structure and command",
            "",
            "| of | rules | verdicts |",
            "|---|---|---|",
            *rows,
            "",
            "```{toctree}",
            ":hidden:",
            "",
            *parents,
            "```",
            "",
        ]
    )


def _counts(entries: list[Entry]) -> list[str]:
    verdicts = [each.verdict for each in entries]
    return [f"{verdicts.count(each)} {each}" for each in _HOW if each in verdicts]


def write(folder: Path, explained: dict[str, str]) -> int:
    """Write the pages into a folder; how many rules they have.

    explained: where structures and commands are explained: {name: address from that folder}
    """
    folder.mkdir(parents=True)
    parents = _by_parent()
    for parent, entries in parents.items():
        page = _page(parent, entries, explained.get(parent, ""))
        (folder / f"{parent}.md").write_text(page, encoding="utf-8")
    (folder / "index.md").write_text(_index(parents), encoding="utf-8")
    return sum(map(len, parents.values()))
