"""How long a Vulkan object lives: until it is closed, and nobody uses it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from extmem.errors import ClosedError

__all__ = ["Life"]


class Life:
    """An object that threads wait on, or the device works with, while somebody may close it.

    Closing only says that no use may begin; the last use that ends destroys the object.

    >>> life = Life("this semaphore", lambda: print("destroyed"))
    >>> with life:
    ...     life.close()
    ...     print("still there")
    still there
    destroyed
    """

    def __init__(self, what: str, destroy: Callable[[], None]) -> None:
        self._what = what
        self._destroy = destroy
        # One that its own thread may have twice: a signal's handler may close what is being taken.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._users = 0
        self._ending = False
        self.closed = False  # no use may begin
        self.gone = False  # it is destroyed

    def take(self) -> None:
        """Begin to use it. ClosedError if it is closed."""
        with self._lock:
            if self.closed:
                raise ClosedError(f"{self._what} is closed")
            self._users += 1

    def leave(self) -> None:
        """End a use."""
        with self._lock:
            self._users -= 1
        if self.closed:
            self._end()

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        # As `leave`: whoever waited goes through here with the news, and one call less is felt.
        with self._lock:
            self._users -= 1
        if self.closed:
            self._end()

    def still_open(self) -> None:
        """For whoever uses it for long. ClosedError if it was closed meanwhile."""
        if self.closed:
            raise ClosedError(f"{self._what} was closed while it was waited for")

    def close(self) -> None:
        """Let no use begin any more. Safe to call again."""
        self.closed = True
        self._end()

    def _end(self) -> None:
        with self._changed:
            if self._ending or not self.closed or self._users:
                return
            self._ending = True
        try:
            self._destroy()
        except BaseException:
            self._ending = False  # to be tried again
            raise
        with self._changed:
            self.gone = True
            self._changed.notify_all()

    def ended(self, seconds: float) -> bool:
        """Wait until it is destroyed; whether that was before the time had passed."""
        with self._changed:
            return self._changed.wait_for(lambda: self.gone, seconds)
