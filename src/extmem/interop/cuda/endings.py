"""The order in which what was made of one import is freed, whoever is done first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from extmem.errors import ClosedError

__all__ = ["Endings"]

log = logging.getLogger("extmem")


class Endings:
    """Steps that free something, each added when the thing was made. The last thing that was made
    is freed first. They run once: when it is closed and nobody uses it any more.

    >>> endings = Endings("this import")
    >>> endings.then(lambda: print("the import is destroyed"))
    >>> endings.then(lambda: print("its mapping is freed"))
    >>> endings.take()
    >>> endings.close()
    >>> endings.freed
    False
    >>> endings.leave()
    its mapping is freed
    the import is destroyed
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._steps: list[Callable[[], object]] = []
        self._users = 0
        # One that its own thread may have twice: the collector may end a use at any time.
        self._lock = threading.RLock()
        self.closed = False  # nobody may begin to use it
        self.freed = False

    @property
    def users(self) -> int:
        """How many use it."""
        return self._users

    def then(self, step: Callable[[], object]) -> None:
        """What frees the thing that was made just now. ClosedError if it is too late for that; the
        thing is freed then.
        """
        with self._lock:
            if not self.freed:
                self._steps.append(step)
                return
        step()
        raise ClosedError(f"{self._what} was closed meanwhile")

    def take(self) -> None:
        """Begin to use it. ClosedError if it is closed."""
        with self._lock:
            if self.closed:
                raise ClosedError(f"{self._what} is closed")
            self._users += 1

    def leave(self) -> None:
        """End a use. It is called while tensors are freed, where nobody could catch an error."""
        with self._lock:
            self._users -= 1
        try:
            self._end()
        except Exception as error:
            log.warning("%s was not freed as it should be: %s", self._what, error)

    def close(self) -> None:
        """Let nobody begin to use it; what was made is freed now, or after the last use. Safe to
        call again.
        """
        with self._lock:
            self.closed = True
        self._end()

    def forget(self) -> None:
        """In a forked child: what was made is its parent's, and nothing is freed."""
        self.closed = self.freed = True
        self._steps.clear()

    def _end(self) -> None:
        with self._lock:
            if self.freed or not self.closed or self._users:
                return
            self.freed = True
            steps, self._steps = self._steps, []
        errors = []
        for step in reversed(steps):
            try:  # the others are freed, whatever becomes of one
                step()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
