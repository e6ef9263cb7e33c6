"""Random calls on each driver, a little in each run; and what watches them, tried on purpose.

EXTMEM_TEST_LONG=1: a million calls on the embedded device, 150,000 on each other driver.
EXTMEM_TEST_SEED=N: these calls and no others. See `python -m tests.fuzz.calls --help`.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("hardware: what the calls are given is made of Linux' files and pages",
                allow_module_level=True)  # fmt: skip

from tests.fuzz.calls import coverage, growth, page, sabotage, watch
from tests.fuzz.calls.gpu import Gpu
from tests.fuzz.calls.right import RIGHT
from tests.fuzz.calls.rounds import Rounds  # noqa: F401 - the makers register themselves
from tests.fuzz.calls.tables import COMMANDS
from tests.support.directory import LONG

# The same calls in each short run: a commit fails by what it does, and not by chance.
SEED = int(os.environ.get("EXTMEM_TEST_SEED", "0")) or (random.randrange(1, 1 << 32) if LONG else 1)

_FEW = {"embedded": 24_000}  # in some seconds
_MANY = {"embedded": 1_000_000}


@pytest.mark.timeout(7200 if LONG else 600)
def test_random_calls_do_no_harm(driver: str) -> None:
    calls = _MANY.get(driver, 150_000) if LONG else _FEW.get(driver, 10_000)
    print(f"\nEXTMEM_TEST_SEED={SEED}")
    report = watch.run(watch.Asked(driver, calls, SEED))
    print(report, *report.unreached, sep="\n")
    assert report.calls >= calls
    assert report.reached > 0.5, "most calls are refused before the driver has them"


# -- what watches them, and what judges ------------------------------------------------------------


def _found(name: str) -> str:
    """What is said of a process in which something goes wrong on purpose."""
    with pytest.raises(watch.Found) as found:
        watch.run(watch.Asked("embedded", 3000, 1, round=150, patience=6.0, sabotage=name))
    said = str(found.value)
    assert "seed 1" in said
    assert "python -m tests.fuzz.calls --driver embedded --seed 1" in said
    return said


@pytest.mark.parametrize("what", sabotage.AFTER_A_ROUND)
@pytest.mark.timeout(300)
def test_what_is_kept_is_noticed(what: str) -> None:
    said = _found(what)
    assert f", {what}: " in said
    assert "grown: after round " in said


@pytest.mark.timeout(300)
def test_a_signal_is_told_with_the_call() -> None:
    said = _found("dies")
    assert "was killed by SIGSEGV" in said
    assert "of round 3: vkAllocateMemory(<VkDevice " in said
    assert "VkMemoryAllocateInfo(" in said
    assert "--only 3" in said
    assert "sabotage.py" in said, "where it was"


@pytest.mark.timeout(300)
def test_a_hang_is_told_with_the_call() -> None:
    said = _found("hangs")
    assert "hung for 6 s" in said
    assert "of round 3: vkAllocateMemory(<VkDevice " in said
    assert "sabotage.py" in said, "where it was"


@pytest.mark.timeout(300)
def test_an_error_of_others_is_told_with_the_call() -> None:
    said = _found("trips")
    assert "KeyError" in said
    assert "vkAllocateMemory(<VkDevice " in said


def test_a_hundred_bytes_of_each_call_are_seen() -> None:
    first = {what: 10_000_000 for what in growth.memory()}

    def after(each: int, driver: str) -> list[str]:
        """A million calls that keep so many bytes each, looked at as a long run does."""
        steps = growth.Steps(growth.allowed(driver))
        for calls in range(200_000, 1_000_001, 40_000):
            now = first["bytes of memory"] + each * (calls - 200_000)
            said = steps.add(calls, first | {"bytes of memory": now})
            if said:
                return said
        assert steps.grown["bytes of memory"] == each * 800_000
        return []

    for driver in ("embedded", "another"):
        (said,) = after(100, driver)
        assert said.startswith("bytes of memory: ")
        assert after(20, driver) == []


def test_counts_are_level_or_told() -> None:
    numbers: Iterator[int] = iter([3, 3, 2, 4, 4, 4, 4])
    level = growth.Level(lambda: {"doors": next(numbers), "windows": 1}, patience=0.0)
    assert level.excess() == []  # nothing was begun
    level.begin()
    assert level.excess() == []
    assert level.excess() == []  # fewer are no harm
    assert level.excess() == ["doors: 4, and there were 3"]


def test_the_page_says_what_was_at_hand(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_bytes(b"")
    assert page.read(path) == page.Seen(0, 0, 0, "", "")
    mine = page.Page(str(path))
    mine.round = 7
    mine.announce(3, "vkFreeMemory", "vkFreeMemory(\ud800" + "x" * 10_000)
    seen = page.read(path)
    assert (seen.beat, seen.number, seen.round, seen.name) == (1, 3, 7, "vkFreeMemory")
    assert str(seen).startswith("call 3 of round 7: vkFreeMemory(\\ud800xx")
    mine.announce(0, "measuring")
    assert str(page.read(path)) == "call 0 of round 7: measuring"


# -- which commands are reached --------------------------------------------------------------------


def test_each_command_is_played_or_has_a_reason() -> None:
    assert set(COMMANDS) == set(RIGHT) | set(coverage.NEVER_RIGHT)
    assert not set(RIGHT) & set(coverage.NEVER_RIGHT)


def test_what_the_embedded_device_has_not_is_declared() -> None:
    gpu = Gpu("embedded")
    try:
        missing = {name for name, each in COMMANDS.items() if each.prototype.level != "global"
                   and name != "vkGetDeviceProcAddr" and not gpu.has(name)}  # fmt: skip
        assert missing == set(coverage.NOT_EMBEDDED)
        assert set(coverage.declared(gpu)) == missing | set(coverage.NEVER_RIGHT)
    finally:
        gpu.close()


def test_commands_that_are_left_out_are_told() -> None:
    counts = {"vkFreeMemory": [coverage.ENOUGH, 0, 0, 0, 0, 0], "vkMapMemory": [0, 0, 5, 0, 0, 0],
              "vkUnmapMemory": [0] * 6}  # fmt: skip
    assert coverage.wrong(counts, {"vkMapMemory": "why", "vkUnmapMemory": "why"}) == []
    mapped, unmapped = coverage.wrong(counts, {})
    assert mapped == "vkMapMemory never reached the driver, in 5 calls, and no reason is declared"
    assert unmapped.startswith("vkUnmapMemory never reached the driver, nor was it called")
    (false,) = coverage.wrong(counts, dict.fromkeys(counts, "why"))
    assert false == "vkFreeMemory reached the driver, although why"
    few = counts | {"vkFreeMemory": [9, 0, 0, 0, 0, 0]}
    assert coverage.wrong(few, {}) == []  # a short run leaves some out by chance
    assert coverage.told(few, {"vkMapMemory": "why"}) == [
        "vkMapMemory, in 5 calls: why", "vkUnmapMemory, never called: by chance"
    ]  # fmt: skip
