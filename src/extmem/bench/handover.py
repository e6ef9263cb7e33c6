"""The cost of one hand-over, side by side: C, bare ctypes, PyPI's `vulkan`, extmem.

Allocate exportable memory, get its descriptor, import it, free both; 64 KiB. All in one process on
one device of one driver. extmem is measured with checks off and, for what they cost, with cheap and
full checks. Then the same on the embedded device, which has no C below it; there the floor is what
Python has for shared pages.
"""

from __future__ import annotations

import contextlib
import sys

from extmem.bench import cycles, machine
from extmem.bench.in_c import in_c
from extmem.bench.report import Measurement, Missing
from extmem.bench.rounds import Effort, Round, take_turns
from extmem.errors import DriverNotFound

__all__ = ["measure"]

_CHECKS = ("off", "cheap", "full")
_MEMFD = "memfd, mapped twice"


def measure(effort: Effort) -> list[Measurement]:
    """On the driver that was asked for, and on the embedded device."""
    rounds, count = effort.of(9), effort.some(500, 50)
    effort.watch.steps(rounds * (6 + 4))
    return [
        *_on_driver(effort, rounds, count),
        _on_embedded(effort, rounds, count),
    ]


def _on_driver(effort: Effort, rounds: int, count: int) -> list[Measurement]:
    missing: list[Missing] = []
    contestants: dict[str, tuple[int, Round]] = {}
    facts: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        opened = []
        try:
            for checks in _CHECKS:
                opened.append(stack.enter_context(cycles.in_library(effort.driver, checks)))
        except DriverNotFound as problem:
            missing.append(
                Missing(
                    f"hand-overs by a Vulkan driver ({effort.driver})",
                    str(problem),
                    cycles.REMEDY,
                )
            )
        if opened:
            first = opened[0]
            facts = {"device": first.name, "driver": first.driver}
            floor = in_c(first.device, 0)
            if floor is not None:
                contestants["C"] = count, floor
            else:
                missing.append(Missing("C", "gcc is not installed", "apt install gcc libc6-dev"))
            contestants["bare ctypes"] = count, cycles.in_ctypes(first.device, 0)
            for checks, each in zip(_CHECKS, opened, strict=True):
                label = f"extmem, {'checks off' if checks == 'off' else f'{checks} checks'}"
                contestants[label] = count, cycles.in_extmem(each.device, 0)
            lacking = machine.missing("vulkan", "the other binding")
            if lacking is None:
                try:
                    contestants["PyPI vulkan"] = count, cycles.in_pypi_vulkan(first.name, 0)
                except (ImportError, OSError, StopIteration) as problem:
                    lacking = Missing("vulkan", f"PyPI's vulkan cannot be used: {problem!r}", "")
            if lacking is not None:
                missing.append(lacking)
            tally = take_turns(contestants, rounds, effort.watch)
            rows = tally.rows(["C", "bare ctypes"])
        else:
            rows = []
    return [
        Measurement(
            "handover",
            "handover",
            "A hand-over of 64 KiB: allocate, export, get the handle, import, free both",
            rows,
            facts=dict(facts),
            missing=missing,
        )
    ]


def _on_embedded(effort: Effort, rounds: int, count: int) -> Measurement:
    contestants: dict[str, tuple[int, Round]] = {}
    missing: list[Missing] = []
    if sys.platform == "win32":
        missing.append(Missing(_MEMFD, "it is Linux' own", ""))
    else:
        from extmem.bench.directory import plain_handover

        contestants[_MEMFD] = count, plain_handover(None)
    with contextlib.ExitStack() as stack:
        for checks in _CHECKS:
            opened = stack.enter_context(cycles.opened("embedded", checks))
            label = f"extmem, {'checks off' if checks == 'off' else f'{checks} checks'}"
            contestants[label] = count, cycles.in_extmem(opened.device, 0)
        tally = take_turns(contestants, rounds, effort.watch)
    return Measurement(
        "handover-embedded",
        "handover",
        "A hand-over of 64 KiB on the embedded device",
        tally.rows([_MEMFD, "extmem, checks off"]),
        missing=missing,
    )
