"""What `extmem doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Finding", "note", "ok", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence, and what to do."""

    severity: Literal["ok", "note", "problem"]  # a note: it works, and could be better
    sentence: str
    remedy: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # what was measured
    check: str = ""  # whose finding it is, which the table of checks knows

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "check": self.check,
            "severity": self.severity,
            "sentence": self.sentence,
            "remedy": self.remedy,
            "facts": self.facts,
        }


def ok(sentence: str, **facts: Any) -> Finding:
    """All is well."""
    return Finding("ok", sentence, None, facts)


def note(sentence: str, remedy: str | None, **facts: Any) -> Finding:
    """It works, and somebody may want to know this."""
    return Finding("note", sentence, remedy, facts)


def problem(sentence: str, remedy: str, **facts: Any) -> Finding:
    """Something does not work."""
    return Finding("problem", sentence, remedy, facts)
