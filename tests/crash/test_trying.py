"""What tries bad inputs notices each way in which one can go wrong, and goes on."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from tests.crash.trap import CASES
from tests.crash.trying import Child
from tests.support import second

_SHAMS = "tests.crash.shams"
_WRONG = {
    "succeeds": "it succeeded",
    "fails_otherwise": "expected Expected, and it was KeyError: 'something else'",
    "breaks_another_rule": "expected VUID-vkAllocateMemory-pAllocateInfo-01713, and it was RuleV",
    "says_something_else": "the message does not say 'as it should': or not",
    "changes_what_it_looked_at": r"the list was \[1\], and is \[1, 2\]",
    "breaks_the_device": "the device does not work any more: DriverError: vkAllocateMemory",
}
_WRONG_ON_LINUX = {
    "closes_what_it_was_given": r"descriptor \d+ was .*, and is OSError\(9",
    "exchanges_what_it_was_given": r"descriptor \d+ was \(\d+, \d+\), and is \(\d+, \d+\)",
    "leaks": r"left behind: file descriptors: \+1 /memfd:leaked",
}
if sys.platform == "linux":
    _WRONG |= _WRONG_ON_LINUX


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with Child("embedded", _SHAMS, patience=15) as found:
        yield found


@pytest.fixture(autouse=True, scope="module")
def shams() -> Iterator[None]:
    """They are there for these tests alone."""
    before = set(CASES)
    sys.modules.pop(_SHAMS, None)
    __import__(_SHAMS)
    yield
    for name in set(CASES) - before:
        del CASES[name]


def _wrong(child: Child, name: str) -> str | None:
    return CASES[name].wrong(child.ask(name))


@pytest.mark.parametrize("name", _WRONG)
def test_what_goes_wrong_is_noticed(child: Child, name: str) -> None:
    problem = _wrong(child, name)
    assert problem is not None
    assert re.match(_WRONG[name], problem), problem
    assert _wrong(child, "right") is None  # and the next one has to do with none of it


def test_what_cannot_be_tried_is_skipped(child: Child) -> None:
    assert child.ask("cannot_be_tried")["skipped"].startswith("the driver's answer: no vkGet")


def test_who_dies_is_replaced() -> None:
    deaths = {"ends": "ended with 3", "hangs": "took too long"}
    if sys.platform == "linux":  # elsewhere ctypes makes an exception of it
        deaths["dies"] = "was killed by SIGSEGV"
    with Child("embedded", _SHAMS, patience=5) as child:
        for name, said in deaths.items():
            with pytest.raises(second.OtherFailed, match=said):
                child.ask(name)
            assert _wrong(child, "right") is None
