"""How a bad input is written down: what is done, and what has to come of it.

    @trap("VUID-VkImportMemoryFdInfoKHR-handleType-00670", on="linux", needs=FD)
    def empty_pipe(here: Scene) -> None:
        here.import_fd(here.fd(os.pipe()[0]))

    @trap(TypeError, says="expected a memory type")
    def ...

A case ends with one of the rules that it names, or with one of the exceptions, whose message says
what is wrong. What it hands over to the scene (`here.fd`, `here.handle`) has to be as before then.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.crash.scene import Scene

__all__ = ["CASES", "Case", "Trap", "trap"]

Case = Callable[["Scene"], object]


@dataclass(frozen=True, slots=True)
class Trap:
    """One bad input."""

    case: Case
    rules: tuple[str, ...]  # one of these is broken
    errors: tuple[str, ...]  # or it ends with one of these exceptions, by name
    says: str  # what such an exception says: a regular expression
    systems: tuple[str, ...]  # where it can be done, as sys.platform has it
    needs: tuple[str, ...]  # commands that the driver has to have

    @property
    def subject(self) -> str:
        """What it is about: the module that it stands in."""
        return self.case.__module__.rpartition(".")[2].removesuffix("_traps")

    def wrong(self, outcome: dict[str, Any]) -> str | None:
        """What should not have been; None if it ended as it should, or could not be tried."""
        if outcome["left"]:
            return "; ".join(outcome["left"])
        if "skipped" in outcome:
            return None
        if outcome["error"] is None:
            return "it succeeded"
        if any(rule in outcome["rules"] for rule in self.rules):
            return None
        if not any(error in outcome["error"] for error in self.errors):
            wanted = " or ".join((*self.rules, *self.errors))
            return f"expected {wanted}, and it was {outcome['error'][0]}: {outcome['text']}"
        if not re.search(self.says, outcome["text"]):
            return f"the message does not say {self.says!r}: {outcome['text']}"
        return None


CASES: dict[str, Trap] = {}


def trap(
    *expected: str | type[BaseException],
    says: str | None = None,
    on: str = "",
    needs: str | tuple[str, ...] = (),
) -> Callable[[Case], Case]:
    """Register a case.

    expected: rules by their names, and exceptions
    says: what the exceptions' messages match; needed if there are any
    on: the only system where this can be done; everywhere if empty
    needs: commands without which a driver is not asked
    """
    rules = tuple(each for each in expected if isinstance(each, str))
    errors = tuple(each.__name__ for each in expected if not isinstance(each, str))
    if bool(errors) != (says is not None) or not expected:
        raise ValueError("name rules, or exceptions with what they say")

    def register(case: Case) -> Case:
        name = getattr(case, "__name__", "")
        if name in CASES:
            raise ValueError(f"there are two cases {name}")
        CASES[name] = Trap(
            case,
            rules,
            errors,
            says or ".",
            (on,) if on else ("linux", "win32"),
            (needs,) if isinstance(needs, str) else needs,
        )
        return case

    return register


def here() -> list[str]:
    """The cases that this system can try, in their order."""
    return [name for name, each in CASES.items() if sys.platform in each.systems]
