"""What is known of every rule in scope, for people: the catalogue, and the explanations.

`catalogue.json` names all 533 rules and says each in our words; where a rule cannot be decided, or
only in part, it says why. What checks a rule is found among the functions themselves. The
explanations lie in `explanations/`, one file for each part of the specification; those of implicit
rules are put together from `reasons.py` and `derived.toml`. The tests run their examples.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from extmem.rules import engine
from extmem.rules.derived import scenes
from extmem.rules.reasons import reasons

__all__ = ["PRELUDE", "VERDICTS", "Entry", "Explanation", "entries", "explanation", "find"]

# checked: of the arguments, the chain, or what was done before. derived: from the registry, as all
# implicit rules are. os, device: by asking the system or the driver. undecidable: see its reason.
VERDICTS = ("checked", "derived", "os", "device", "undecidable")

# What every example begins with.
PRELUDE = """\
import extmem
from extmem import vk

gpu = extmem.open_device(driver="embedded")
device, queue, physical = gpu.handle, gpu.queue, gpu.vk_physical
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One rule of the specification."""

    vuid: str
    parent: str  # the structure or the command that it is of
    implicit: bool  # follows from the registry
    verdict: str  # one of VERDICTS
    where: str  # the function that checks it, as "extmem.rules.fd.only_...", or ""
    reason: str  # why it cannot be decided, or how far it can; mostly ""
    says: str  # what it wants, in our words
    extension: str  # what brings it, "core" for Vulkan itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a rule is there, and how it is broken and kept."""

    why: str  # what the rule is for
    breaks: str  # what happens without it
    wrong: str  # Python that breaks it, after PRELUDE; "" where that cannot be shown
    right: str  # and Python that keeps it
    # Other rules that the wrong example breaks, where it cannot be broken alone.
    also: tuple[str, ...] = ()
    systems: tuple[str, ...] = ("linux", "win32")  # where the examples run, as sys.platform has it
    # What the wrong example raises instead, where Python cannot break the rule: the name of the
    # exception that comes before any rule is looked at.
    refused: str = ""


def _named(function: Any) -> str:
    return f"{function.__module__}.{function.__name__}"


@cache
def entries() -> tuple[Entry, ...]:
    """Every rule in scope."""
    plain: list[dict[str, Any]] = msgspec.json.decode(
        files("extmem.rules").joinpath("catalogue.json").read_bytes()
    )
    functions = {each.vuid: each for each in engine.rules()}
    return tuple(_entry(each, functions.get(each["vuid"])) for each in plain)


def _entry(plain: dict[str, Any], found: engine.Rule | None) -> Entry:
    if plain.get("undecidable"):
        verdict, where = "undecidable", ""
    elif found is None:
        verdict, where = "derived", "extmem.rules.implicit.check"
    else:
        verdict = found.stage if found.stage in ("os", "device") else "checked"
        where = _named(found.function)
    return Entry(
        vuid=plain["vuid"],
        parent=plain["parent"],
        implicit=plain["implicit"],
        verdict=verdict,
        where=where,
        reason=plain.get("reason", ""),
        says=plain["says"],
        extension=plain["extension"],
    )


def find(text: str) -> Entry:
    """The rule of that name, or of that unambiguous tail of a name, as people paste it.

    >>> find("[vuid-vkallocatememory-pallocateinfo-01714]").parent
    'vkAllocateMemory'
    >>> find("01327").vuid
    'VUID-VkImportMemoryWin32HandleInfoNV-handleType-01327'
    >>> find("00001")
    Traceback (most recent call last):
    LookupError: no rule is named 00001; `extmem rules` lists all that are in scope
    """
    wanted = text.strip("[]().,:'\" \n").lstrip("-").lower()
    names = {each.vuid.lower(): each for each in entries()}
    tails = [each for name, each in names.items() if name.endswith(wanted)]
    whole = [each for name, each in names.items() if name.endswith("-" + wanted)]
    found = [names[wanted]] if wanted in names else whole or tails
    if len(found) == 1:
        return found[0]
    if not found or not wanted:
        raise LookupError(f"no rule is named {text}; `extmem rules` lists all that are in scope")
    some = ", ".join(each.vuid for each in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    raise LookupError(f"{text} may be {some}{more}; say more of the name")


@cache
def _explanations() -> dict[str, Explanation]:
    return dict(_read())


def _read() -> Iterator[tuple[str, Explanation]]:
    for file in sorted(files("extmem.rules").joinpath("explanations").iterdir(), key=str):
        if file.name.endswith(".toml"):
            for vuid, plain in tomllib.loads(file.read_text(encoding="utf-8")).items():
                yield vuid, msgspec.convert(plain, Explanation)
    for parent, tail, scene, change in scenes():
        why, breaks = reasons(parent, tail, scene.lost, change.refused)
        yield (
            f"VUID-{parent}-{tail}",
            Explanation(
                why=why,
                breaks=breaks,
                wrong=scene.wrong(change),
                right=scene.right(),
                also=change.also,
                systems=change.systems or scene.systems,
                refused=change.refused,
            ),
        )


def explanation(entry: Entry) -> Explanation | None:
    """Why a rule is there; None where nobody has written that yet."""
    return _explanations().get(entry.vuid)
