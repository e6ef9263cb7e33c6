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
        # One item for each use. A list and no counter under a lock: who waited comes through here
        # with the news, and a list is appended to and popped from in one step each.
        self._uses: list[None] = []
        # One that its own thread may have twice: a signal's handler may close what is being ended.
        self._changed = threading.Condition(threading.RLock())
        self._ending = False
        self.closed = False  # no use may begin
        self.gone = False  # it is destroyed

    def take(self) -> None:
        """Begin to use it. ClosedError if it is closed."""
        # First the use and then the look: whoever closes it does the opposite, so that one of the
        # two sees the other.
        self._uses.append(None)
        if self.closed:
            self.leave()
            raise ClosedError(f"{self._what} is closed")

    def leave(self) -> None:
        """End a use."""
        self._uses.pop()
        if self.closed:
            self._end()

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self._uses.pop()
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
            if self._ending or not self.closed or self._uses:
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
