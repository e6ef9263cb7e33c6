"""Keyed mutexes: who may use a texture of D3D11, and who next.

Two words in the first page of the texture: the key that it was released with last, and who holds it
(0 nobody, 1 nobody ever again, else the number of a hold). A holder that dies has given nothing
back: whoever wants the mutex next finds the hold gone and says so to all, for good. DXGI answers
WAIT_ABANDONED then, and the texture has to be made anew.

What Vulkan does when an acquire fails is not specified (Vulkan-Docs issue 1554). NVIDIA's driver
acquires in vkQueueSubmit itself, which blocks, and returns VK_TIMEOUT; so it is here. With an
abandoned one the submission fails with VK_ERROR_INITIALIZATION_FAILED, and the device is not lost:
one dead peer shall not take what else runs on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from extmem.handles.words import SLICE, WORD_SIZE, Hold, Pages, Word

__all__ = ["ABANDONED", "GOT", "INFINITE", "STOPPED", "TIMEOUT", "KeyedMutex"]

# As DXGI says it.
GOT, ABANDONED, TIMEOUT = 0, 0x80, 0x102
STOPPED = -1  # the one who waits was told to give up
INFINITE = 0xFFFFFFFF  # milliseconds

_FREE, _NEVER = 0, 1
_STATE_OFFSET = 1536  # in the first page of a payload, behind its label
_KEY_OFFSET = _STATE_OFFSET + WORD_SIZE
_HOLD_BYTE = _STATE_OFFSET + 16


class KeyedMutex:
    """A keyed mutex as one device has it: another device that has it as well is another one."""

    def __init__(self, pages: Pages) -> None:
        self._state = Word(pages, _STATE_OFFSET)
        self._key = Word(pages, _KEY_OFFSET)
        self._hold = Hold(pages, _HOLD_BYTE)

    @classmethod
    def of_section(cls, handle: int, size: int, identity: bytes) -> Self:
        """The mutex of a texture; the handle stays the caller's."""
        return cls(Pages.of_section(handle, size, identity=identity))

    @property
    def held(self) -> bool:
        """Whether this device has it."""
        return self._hold.mine

    def acquire(
        self, key: int, milliseconds: int = INFINITE, stop: Callable[[], bool] | None = None
    ) -> int:
        """Have it once it is released with this key: GOT, TIMEOUT, ABANDONED or STOPPED."""
        deadline = None if milliseconds == INFINITE else time.monotonic() + milliseconds / 1000
        while True:
            state = self._take(key)
            if state not in (_FREE, _NEVER):
                return GOT
            if state == _NEVER:
                return ABANDONED
            if stop is not None and stop():
                return STOPPED
            # Nobody tells us that a holder has died: it is looked at after each slice.
            left = SLICE if deadline is None else min(SLICE, deadline - time.monotonic())
            if left <= 0:
                return TIMEOUT
            self._state.wait(lambda now: now == _NEVER or self._fits(now, key), left)

    def _fits(self, state: int, key: int) -> bool:
        return state == _FREE and self._key.value == key

    def _take(self, key: int) -> int:
        """Have it if it is there for this key. Else _FREE, or _NEVER if it never will be."""
        answer = _FREE

        def to(state: int) -> int | None:
            nonlocal answer
            if state not in (_FREE, _NEVER) and not self._hold.alive(state):
                answer = _NEVER
                return _NEVER
            if state == _NEVER:
                answer = _NEVER
            elif self._fits(state, key):
                answer = self._hold.take()
                return answer
            return None

        try:
            self._state.change(to)
        except TimeoutError:
            # Somebody keeps a lock. That is waiting like any other, until our time is over.
            return _FREE
        return answer

    def release(self, key: int) -> None:
        """Give it to whoever acquires it with this key. ValueError if this device has it not."""
        if not self._hold.mine:
            raise ValueError("this keyed mutex is released by who has not acquired it")

        def to(state: int) -> int:
            # In this order: who dies in between leaves a mutex without its holder.
            self._key.put(key)
            self._hold.drop()
            return _FREE

        self._state.change(to)

    def close(self) -> None:
        """Let go of it. If it is held, it is abandoned: nobody knows what is in the texture."""
        self._hold.drop()
        self._state.close()
        self._key.close()
