"""How rules are written, found and run.

A rule is a small function that is given a call and one place in it, and yields what is wrong
there. It is named for what it demands and carries the specification's name of the rule:

    @rule("VUID-VkMemoryGetFdInfoKHR-handleType-00672", stage="arguments")
    def only_types_that_are_descriptors(call: Call, site: Site) -> Findings:
        if ...:
            yield site.broken("handleType", "is not a descriptor's type", "Use OPAQUE_FD ...")

The second part of the name says where it applies: a structure, wherever it stands, or a command.
Rules derived from the registry come first (`extmem.rules.implicit`); they also find the places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extmem.errors import Problem, RuleViolation
from extmem.vk._base import Structure
from extmem.vk._dispatch import Dispatch
from extmem.vk._prototype import Prototype
from extmem.world import World

if TYPE_CHECKING:
    from extmem.vk.queries import Queries

__all__ = ["Broken", "Call", "Findings", "Rule", "Site", "check", "rule", "rules"]

# Cheap looks before dear ones, and nothing asks the driver or the system about a value that an
# earlier stage found senseless.
STAGES = ("arguments", "chain", "state", "device", "os")


@dataclass(frozen=True, slots=True)
class Broken:
    """What a rule found; the engine adds the rule's name."""

    member: str
    value: Any
    problem: str
    remedy: str


Findings = Iterable[Broken]


@dataclass(slots=True)
class Site:
    """One place where rules apply: a structure within a call, or the call's own parameters."""

    owner: str  # the structure's or the command's name
    path: str  # how to get there, as "pAllocateInfo.pNext(VkImportMemoryFdInfoKHR)"
    subject: Any  # the structure; for a command, its arguments by name
    chain: dict[str, Structure]  # the structures of its chain by name, itself included
    head: Any  # the structure that the chain starts at

    def value(self, member: str) -> Any:
        """The value of a member or parameter."""
        if isinstance(self.subject, dict):
            return self.subject.get(member)
        return getattr(self.subject, member)

    def broken(self, member: str, problem: str, remedy: str = "") -> Broken:
        """Say that a member is wrong."""
        value = self.value(member.split("[")[0]) if member else None
        where = ".".join(part for part in (self.path, member) if part)
        return Broken(where, value, problem, remedy)


class Call:
    """One call on its way to a driver: what is called, with what, and in which world."""

    __slots__ = ("arguments", "asked", "dispatch", "name", "prototype", "sites", "world")

    def __init__(
        self, prototype: Prototype, arguments: dict[str, Any], dispatch: Dispatch, asked: Queries
    ) -> None:
        self.name = prototype.name
        self.prototype = prototype
        self.arguments = arguments  # by parameter name, as C will get them
        self.dispatch = dispatch
        self.world: World = dispatch.world
        self.sites: list[Site] = []
        self.asked = asked  # what rules may ask the driver and the system


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its function."""

    vuid: str
    parent: str
    stage: str
    function: Callable[[Call, Site], Findings | None]


# By stage and parent.
_rules: dict[tuple[str, str], list[Rule]] = {}


def rule(
    *vuids: str, stage: str, at: str | None = None
) -> Callable[[Callable[[Call, Site], Findings | None]], Callable[[Call, Site], Findings | None]]:
    """Register a function for one rule, or for rules that say the same of two places.

    at: where to look, if not at what the rule is named for: a rule of a structure can be broken by
        leaving that structure out
    """
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}; expected one of {', '.join(STAGES)}")

    def register(
        function: Callable[[Call, Site], Findings | None],
    ) -> Callable[[Call, Site], Findings | None]:
        for vuid in vuids:
            parent = at or vuid.split("-")[1]
            _rules.setdefault((stage, parent), []).append(Rule(vuid, parent, stage, function))
        return function

    return register


def rules() -> list[Rule]:
    """Every explicit rule that has a function."""
    _load()
    return [each for listed in _rules.values() for each in listed]


_loaded = False
# `rules.implicit.check`. Kept: while Python ends, nothing can be imported any more.
_implied: Callable[[Call], list[Problem]]


def _load() -> None:
    # Here and not at the top: the rule modules import this one to register themselves.
    global _loaded, _implied
    if not _loaded:
        from extmem.rules import (  # noqa: F401
            allocate,
            barriers,
            bind,
            boxes,
            create,
            export,
            fd,
            fences,
            get_win32,
            host,
            implicit,
            import_win32,
            in_use,
            keyed_mutex,
            mapping,
            nv,
            origins,
            queues,
            recording,
            regions,
            semaphores,
            shapes,
            sparse,
            sync_sharing,
            waits,
        )

        _implied = implicit.check
        _loaded = True  # last: a module that fails to load must not leave some rules unchecked


def check(call: Call, level: str) -> None:
    """Run every rule that applies to a call; raise RuleViolation with all that is wrong."""
    _load()
    problems = _implied(call)
    stages = STAGES if level == "full" else STAGES[:1]
    for stage in stages:
        for site in call.sites:
            for each in _rules.get((stage, site.owner), ()):
                problems += _run(each, call, site, bool(problems))
        if problems and stage == "state":
            # What comes next asks the driver and the system, and would ask nonsense.
            break
    if problems:
        raise RuleViolation(call.name, problems)


def _run(each: Rule, call: Call, site: Site, broken_already: bool) -> list[Problem]:
    try:
        found = each.function(call, site)
        return [Problem(each.vuid, f.member, f.value, f.problem, f.remedy) for f in found or ()]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        # A rule may rely on those before it (a handle that is alive, a pointer that is set).
        if broken_already:
            return []
        raise
