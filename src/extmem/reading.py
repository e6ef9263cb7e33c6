"""What is read to learn that something is done: a timeline's counter, and a fence's status.

The first look at each goes through the door, where it is checked. The next ones are the same call
on an object that only this package can destroy, and go to the driver's command at once: at the door
they would take ten times as long, while the signal is waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Sequence

from extmem import vk, waiting
from extmem.drivers.driver import Timeline, Timelines
from extmem.lives import Life
from extmem.rules.waits import is_plainly_right
from extmem.vk import _prototypes as p
from extmem.vk import calls
from extmem.vk._dispatch import Dispatch
from extmem.waiting import Spin

__all__ = ["Counter", "FenceStatus", "sleep_on"]

_SLICE = 2_000_000_000  # nanoseconds of direct sleep, after which a lost device is noticed


def _dispatch(device: vk.VkDevice) -> Dispatch:
    found: Dispatch | None = device.dispatch
    assert found is not None
    return found


def sleep_on(
    device: vk.VkDevice, moments: Sequence[tuple[vk.VkSemaphore, int]], *, any_of: bool = False
) -> Callable[[int], bool]:
    """How to sleep in the driver until timelines have reached values, all or any, in nanoseconds.

    Not checked: the caller has had each of them checked.
    """
    info = vk.VkSemaphoreWaitInfo(
        flags=vk.VK_SEMAPHORE_WAIT_ANY_BIT if any_of else 0,
        pSemaphores=[semaphore for semaphore, _ in moments],
        pValues=[value for _, value in moments],
    )
    command, number = _dispatch(device).vkWaitSemaphores, int(device)

    def sleep(nanoseconds: int) -> bool:
        result = command(number, info, nanoseconds)
        if result:
            calls.raise_for(p.vkWaitSemaphores, result)
            return False  # VK_TIMEOUT
        return True

    return sleep


class Counter:
    """Of a timeline semaphore. Its life is held by whoever reads."""

    def __init__(self, device: vk.VkDevice, semaphore: vk.VkSemaphore, life: Life) -> None:
        self._device = device
        self._semaphore = semaphore
        self._life = life
        self._checked = False  # whether a wait for it was
        self._was_read = False  # and whether a look at it was
        self._direct: Timeline | None = None  # the way without commands, if there is one
        self._direct_asked = False

    @property
    def polite(self) -> bool:
        """Whether reading lets go of the interpreter by itself."""
        return waiting.lets_go(_dispatch(self._device).vkGetSemaphoreCounterValue)

    def _find_direct(self) -> Timeline | None:
        if not self._direct_asked:
            self._direct_asked = True
            driver = _dispatch(self._device).driver
            if isinstance(driver, Timelines):
                with contextlib.suppress(Exception):
                    self._direct = driver.timeline(int(self._device), int(self._semaphore))
        return self._direct

    @property
    def moment(self) -> vk.VkSemaphore:
        """What to sleep on."""
        return self._semaphore

    def check(self, value: int) -> bool:
        """Have the wait for a value checked, once; whether it is known to be over."""
        if self._checked:
            return False
        info = vk.VkSemaphoreWaitInfo(pSemaphores=[self._semaphore], pValues=[value])
        result = vk.vkWaitSemaphores(self._device, info, 0)
        vk.vkGetSemaphoreCounterValue(self._device, self._semaphore)
        self._checked = True
        return result == vk.VK_SUCCESS

    def read(self) -> int:
        """What it has reached."""
        if not self._checked and not self._was_read:
            found = vk.vkGetSemaphoreCounterValue(self._device, self._semaphore)
            self._was_read = True
            return found
        return self._read(_dispatch(self._device))

    def _read(self, dispatch: Dispatch) -> int:
        direct = self._find_direct()
        if direct is not None:
            return direct.read()
        box = ctypes.c_uint64()
        result = dispatch.vkGetSemaphoreCounterValue(int(self._device), int(self._semaphore), box)
        if result:
            calls.raise_for(p.vkGetSemaphoreCounterValue, result)
        return box.value

    def signal(self, value: int) -> None:
        """Set it to a larger value. Somebody waits for it: nothing is done that need not be."""
        dispatch = _dispatch(self._device)
        if not dispatch.unchecked and not (
            dispatch.alive
            and is_plainly_right(dispatch.world, int(self._semaphore), self._read(dispatch), value)
        ):
            info = vk.VkSemaphoreSignalInfo(semaphore=self._semaphore, value=value)
            vk.vkSignalSemaphore(self._device, info)
            return
        direct = self._find_direct()
        if direct is not None:
            try:
                direct.signal(value)
                return
            except Exception:  # the command says what is wrong
                pass
        info = vk.VkSemaphoreSignalInfo(semaphore=self._semaphore, value=value)
        result = dispatch.vkSignalSemaphore(int(self._device), info)
        if result:
            calls.raise_for(p.vkSignalSemaphore, result)

    def quick(self) -> Callable[[int], bool] | None:
        """The quickest way to signal, if there is one: it says whether it did. It is right while
        the dispatch `signals_freely`.
        """
        direct = self._find_direct()
        return direct.quick() if direct is not None else None

    def ready(self, value: int) -> Callable[[], bool]:
        """What tells whether it has reached a value. ClosedError if it was closed."""
        life, direct = self._life, self._find_direct()
        if direct is not None:
            read = direct.read

            def look_directly() -> bool:
                if life.closed:
                    life.still_open()
                return read() >= value

            return look_directly
        command, box = _dispatch(self._device).vkGetSemaphoreCounterValue, ctypes.c_uint64()
        number, semaphore = int(self._device), int(self._semaphore)

        def look() -> bool:
            if life.closed:
                life.still_open()
            result = command(number, semaphore, box)
            if result:
                calls.raise_for(p.vkGetSemaphoreCounterValue, result)
            return box.value >= value

        return look

    def wait(self, deadline: int | None, spin: Spin, value: int) -> bool:
        """Wait until it has reached a value; whether that was before the deadline."""
        if self.check(value):
            return True
        by_command: Callable[[int], bool] | None = None
        direct = self._find_direct()

        def sleep(nanoseconds: int) -> bool:
            nonlocal by_command
            if direct is not None:
                try:
                    return direct.sleep(value, min(nanoseconds, _SLICE) / 1e9)
                except Exception:
                    pass
            if by_command is None:
                by_command = sleep_on(self._device, [(self._semaphore, value)])
            return by_command(nanoseconds)

        return waiting.wait(self.ready(value), sleep, spin, deadline, polite=self.polite)


class FenceStatus:
    """Of a fence. Its life is held by whoever reads.

    As if it were a timeline that is at 0 or 1, so that whoever waits need not know.
    """

    def __init__(self, device: vk.VkDevice, fence: vk.VkFence, life: Life | None = None) -> None:
        self._device = device
        self._fence = fence
        self._life = life
        self._checked = False

    @property
    def polite(self) -> bool:
        """Whether reading lets go of the interpreter by itself."""
        return waiting.lets_go(_dispatch(self._device).vkGetFenceStatus)

    @property
    def moment(self) -> None:
        """There is no sleeping on it together with timelines."""

    def check(self, value: int = 1) -> bool:
        """Have the wait checked, once; whether it is known to be over."""
        if self._checked:
            return False
        result = vk.vkWaitForFences(self._device, 1, [self._fence], 1, 0)
        self._checked = True
        return result == vk.VK_SUCCESS

    def ready(self, value: int = 1) -> Callable[[], bool]:
        """What tells whether it is signalled. ClosedError if it was closed."""
        command, life = _dispatch(self._device).vkGetFenceStatus, self._life
        number, fence = int(self._device), int(self._fence)

        def look() -> bool:
            if life is not None and life.closed:
                life.still_open()
            result = command(number, fence)
            if result:
                calls.raise_for(p.vkGetFenceStatus, result)
            return not result

        return look

    def wait(self, deadline: int | None, spin: Spin, value: int = 1) -> bool:
        """Wait until it is signalled; whether that was before the deadline."""
        if self.check():
            return True
        command = _dispatch(self._device).vkWaitForFences
        number, array = int(self._device), (ctypes.c_uint64 * 1)(self._fence)

        def sleep(nanoseconds: int) -> bool:
            result = command(number, 1, array, 1, nanoseconds)
            if result:
                calls.raise_for(p.vkWaitForFences, result)
                return False  # VK_TIMEOUT
            return True

        return waiting.wait(self.ready(), sleep, spin, deadline, polite=self.polite)
