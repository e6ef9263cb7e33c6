"""Threads that reach publishers, for whom nobody waits: a publisher may be stopped, or a trap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from extmem.errors import ExtmemError

__all__ = ["Asks", "Threads"]

_CLOSE = 1.0  # seconds that those who are being asked get in all, when nobody wants to know

T = TypeVar("T")


class Asks(Protocol):
    """Whatever calls in another thread."""

    def submit(self, call: Callable[[], T], /) -> Future[T]:
        """What `call` returns, later."""


class Threads:
    """A thread for each call, `most` at a time. They end with the process, at the latest: a call
    that does not come back keeps nobody else from being asked, and the process from no end.

    >>> threads = Threads(2)
    >>> threads.submit(lambda: 6 * 7).result(timeout=10)
    42
    >>> threads.close()
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._guard = threading.Lock()
        self._running: set[threading.Thread] = set()

    def submit(self, call: Callable[[], T], /) -> Future[T]:
        """What `call` returns, later. If `most` have not come back, an error at once."""
        future: Future[T] = Future()
        thread = threading.Thread(
            target=self._run, args=(call, future), name="extmem inspector reach", daemon=True
        )
        with self._guard:
            full = len(self._running) >= self._most
            if not full:
                self._running.add(thread)
        if full:
            future.set_exception(
                ExtmemError(
                    f"{self._most} publishers are being asked, and do not answer; "
                    "it is tried again when one of them has"
                )
            )
        else:
            thread.start()
        return future

    def _run(self, call: Callable[[], T], future: Future[T]) -> None:
        try:
            try:
                found = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(found)
        finally:
            del future, call  # an error keeps what this frame has
            with self._guard:
                self._running.discard(threading.current_thread())

    def close(self, seconds: float = _CLOSE) -> None:
        """Wait for those that come back soon."""
        until = time.monotonic() + seconds
        with self._guard:
            running = list(self._running)
        for each in running:
            each.join(max(until - time.monotonic(), 0))
