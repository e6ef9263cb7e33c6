"""Doubts every glance: what `rules.glances` lets through is put to all rules as well."""

from __future__ import annotations

from typing import Any

import pytest

from extmem.errors import RuleViolation
from extmem.rules import glances, glances_at_submits
from extmem.vk import _prototypes as p
from extmem.vk import calls

__all__ = ["UNDOUBTED", "UNDOUBTED_SUBMISSION", "doubt"]


def doubt(patch: pytest.MonkeyPatch) -> None:
    """From now on a glance that says yes where a rule says no is an AssertionError."""
    allocation, fetch, free = glances.allocation, glances.fetch, glances.free

    def ask(prototype: Any, dispatch: Any, given: tuple[Any, ...]) -> None:
        arguments = calls.converted(prototype, given)
        try:
            calls.check(prototype, dispatch, arguments)
        except RuleViolation as violation:
            raise AssertionError(f"a glance let through: {violation}") from None

    def doubted_allocation(dispatch: Any, info: Any) -> Any:
        known = allocation(dispatch, info)
        if known is not None:
            ask(p.vkAllocateMemory, dispatch, (dispatch.device, info, None))
        return known

    def doubted_fetch(dispatch: Any, info: Any) -> Any:
        record = fetch(dispatch, info)
        if record is not None:
            ask(p.vkGetMemoryFdKHR, dispatch, (dispatch.device, info))
        return record

    def doubted_free(dispatch: Any, memory: Any) -> bool:
        plain = free(dispatch, memory)
        if plain:
            ask(p.vkFreeMemory, dispatch, (dispatch.device, memory, None))
        return plain

    submission = glances_at_submits.submission

    def doubted_submission(dispatch: Any, queue: Any, info: Any, fence: Any) -> Any:
        plain = submission(dispatch, queue, info, fence)
        if plain is not None:
            ask(p.vkQueueSubmit, dispatch, (queue, 1, [info], fence))
        return plain

    patch.setattr(glances, "allocation", doubted_allocation)
    patch.setattr(glances, "fetch", doubted_fetch)
    patch.setattr(glances, "free", doubted_free)
    patch.setattr(glances_at_submits, "submission", doubted_submission)


# As they are, for tests that count.
UNDOUBTED = {name: getattr(glances, name) for name in ("allocation", "fetch", "free")}
UNDOUBTED_SUBMISSION = glances_at_submits.submission
