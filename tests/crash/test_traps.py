"""Bad inputs end with an error that says what is wrong: none kills the process, hangs it, or
succeeds, and what the caller handed over is as before.

Each is tried in another process on each driver, one after the other; one that dies or takes too
long is replaced, and the case that it was about has failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import pytest

from tests.crash import cases, scene, trap
from tests.support import second

__all__ = ["cases"]

_PATIENCE = 30.0  # seconds that a case may take


class Child:
    """The process in which cases are tried."""

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self._stack = ExitStack()
        self._other = self._started()

    def _started(self) -> second.Other:
        return self._stack.enter_context(
            second.start(scene.serve, driver=self._driver, timeout=_PATIENCE)
        )

    def ask(self, name: str | None) -> Any:
        """How a case ended. OtherFailed if the process did."""
        try:
            self._other.send(name)
            return self._other.receive()[0]
        except (second.OtherFailed, OSError):
            self._stack.close()
            self._other = self._started()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def child(driver: str) -> Iterator[Child]:
    with Child(driver) as found:
        yield found


@pytest.mark.parametrize("name", trap.here())
def test_a_bad_input_is_refused(child: Child, name: str) -> None:
    try:
        outcome = child.ask(name)
    except second.OtherFailed as error:
        pytest.fail(str(error), pytrace=False)
    if "skipped" in outcome and not outcome.get("left"):
        pytest.skip(outcome["skipped"])
    problem = trap.CASES[name].wrong(outcome)
    if problem is not None:
        pytest.fail(problem, pytrace=False)


def test_there_are_many(child: Child) -> None:
    assert child.ask(None) >= 1
