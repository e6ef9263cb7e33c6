"""The process in which cases are tried, seen from the tests."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from tests.crash import scene
from tests.support import second

__all__ = ["Child"]

PATIENCE = 60.0  # seconds that a case may take
_START = 60.0  # seconds until the process can try one


class Child:
    """It serves one case after the other, and is replaced when it dies."""

    def __init__(self, driver: str, module: str, patience: float = PATIENCE) -> None:
        self._driver = driver
        self._module = module  # whose cases it knows
        self._patience = patience
        self._stack = ExitStack()
        self._other = self._started()

    def _started(self) -> second.Other:
        other = self._stack.enter_context(
            second.start(scene.serve, driver=self._driver, module=self._module, timeout=_START)
        )
        try:
            assert other.receive()[0] == "ready"
        except BaseException:
            self._stack.close()
            raise
        other.wait_no_longer_than(self._patience)
        return other

    def ask(self, name: str | None) -> Any:
        """How a case ended; for None, how many there are. OtherFailed if the process ended."""
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
