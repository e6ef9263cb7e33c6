"""Bad inputs end with an error that says what is wrong: none kills the process, hangs it, or
succeeds, and what the caller handed over is as before.

Each is tried in another process on each driver, one after the other; one that dies or takes too
long is replaced, and the case that it was about has failed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash import cases, trap
from tests.crash.trying import Child
from tests.support import second

LEAST = 150  # cases that can be tried on a driver


@pytest.fixture(scope="module")
def child(driver: str) -> Iterator[Child]:
    with Child(driver, cases.__name__) as found:
        yield found


@pytest.mark.parametrize("name", trap.here())
def test_a_bad_input_is_refused(child: Child, name: str) -> None:
    try:
        outcome = child.ask(name)
    except second.OtherFailed as error:
        pytest.fail(str(error), pytrace=False)
    problem = trap.CASES[name].wrong(outcome)
    if problem is not None:
        pytest.fail(problem, pytrace=False)
    if "skipped" in outcome:
        pytest.skip(outcome["skipped"])


def test_there_are_many(child: Child) -> None:
    assert child.ask(None) >= LEAST
