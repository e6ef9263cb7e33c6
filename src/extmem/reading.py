"""What is read to learn that something is done: a timeline's counter, and a fence's status.

The first look at each goes through the door, where it is checked. The next ones are the same call
on an object that only this package can destroy, and go to the driver's command at once: at the door
they would take ten times as long, while the signal is waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from extmem import vk, waiting
from extmem.drivers.driver import Timeline, Timelines
from extmem.lives import Life
from extmem.rules.waits import is_plainly_right
from extmem.vk import _prototypes as p
from extmem.vk import calls
from extmem.vk._dispatch import Dispatch
from extmem.waiting import Spin

__all__ = [
    "LONGEST_NAP",
    "Counter",
    "FenceStatus",
    "Manners",
    "manners_of",
    "napper",
    "sleep_on",
    "sleep_on_any",
]

LONGEST_NAP = 10_000_000  # nanoseconds between looks at what cannot be slept on
_SHORTEST_NAP = 100_000


def _dispatch(device: vk.VkDevice) -> Dispatch:
    found: Dispatch | None = device.dispatch
    assert found is not None
    return found


class Manners:
    """Whether a device sleeps while it waits for any of several timelines, or keeps a processor
    busy: Mesa's software driver looks at them without end. That is measured while it is done.

    >>> manners = Manners()
    >>> manners.learn(150_000_000, burned=2_000_000)
    >>> manners.spins
    False
    >>> manners.learn(150_000_000, burned=149_000_000)
    >>> manners.spins
    True
    """

    SHORTEST = 1_000_000  # nanoseconds of sleep from which on it is not waking up that is measured
    # Of sleep that are judged together: some systems count a thread's time in ticks of 16 ms.
    PROOF = 100_000_000
    SHARE = 4  # who was busy for one part in so many spins; the processor may have been shared

    __slots__ = ("_burned", "_slept", "spins")

    def __init__(self) -> None:
        self.spins = False  # for good, once it was seen
        self._slept = self._burned = 0  # nanoseconds

    def learn(self, slept: int, burned: int) -> None:
        """A sleep that nothing ended took so many nanoseconds, and so many of the processor's."""
        if slept < self.SHORTEST:
            return
        self._slept += slept
        self._burned += burned
        if self._slept >= self.PROOF:
            self.spins = self.spins or self._burned * self.SHARE > self._slept
            self._slept = self._burned = 0


_manners: WeakKeyDictionary[Dispatch, Manners] = WeakKeyDictionary()


def manners_of(device: vk.VkDevice) -> Manners:
    """What was learned of a device so far."""
    dispatch = _dispatch(device)
    return _manners.get(dispatch) or _manners.setdefault(dispatch, Manners())


def napper() -> Callable[[int], bool]:
    """How to sleep, for nanoseconds at most, where no driver does it well: in steps that grow from
    now on, after each of which the caller looks for himself.
    """
    began = time.monotonic_ns()

    def nap(nanoseconds: int) -> bool:
        gone_by = (time.monotonic_ns() - began) // 8
        time.sleep(min(nanoseconds, max(gone_by, _SHORTEST_NAP), LONGEST_NAP) / 1e9)
        return False

    return nap


def sleep_on_any(
    device: vk.VkDevice, moments: Sequence[tuple[vk.VkSemaphore, int]]
) -> Callable[[int], bool]:
    """How to sleep, for nanoseconds at most, until any of several timelines has reached its value:
    in the driver, or in steps if that keeps a processor busy. Not checked, as `sleep_on`.
    """
    if len(moments) == 1:
        return sleep_on(device, moments)
    manners, nap = manners_of(device), napper()
    in_driver = sleep_on(device, moments, flags=int(vk.VK_SEMAPHORE_WAIT_ANY_BIT))

    def sleep(nanoseconds: int) -> bool:
        if manners.spins:
            return nap(nanoseconds)
        if nanoseconds < manners.SHORTEST:
            return in_driver(nanoseconds)
        began, busy = time.monotonic_ns(), time.thread_time_ns()
        if in_driver(nanoseconds):
            return True
        manners.learn(time.monotonic_ns() - began, time.thread_time_ns() - busy)
        return False

    return sleep


def sleep_on(
    device: vk.VkDevice, moments: Sequence[tuple[vk.VkSemaphore, int]], *, flags: int = 0
) -> Callable[[int], bool]:
    """How to sleep in the driver, for nanoseconds at most, until all of several timelines have
    reached their values.

    flags: of vkWaitSemaphores

    Not checked: the caller has had each of them checked.
    """
    info = vk.VkSemaphoreWaitInfo(
        flags=flags,
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

    def wait(
        self, deadline: int | None, spin: Spin, value: int, others: Sequence[Life] = ()
    ) -> bool:
        """Wait until it has reached a value; whether that was before the deadline.

        others: of what is to be waited for afterwards. ClosedError if one of it is closed
        """
        if self.check(value):
            return True
        ready = self.ready(value) if not others else _while_open(others, self.ready(value))
        by_command: Callable[[int], bool] | None = None
        direct = self._find_direct()

        def sleep(nanoseconds: int) -> bool:
            nonlocal by_command
            if direct is not None:
                try:
                    return direct.sleep(value, nanoseconds / 1e9)
                except Exception:
                    pass
            if by_command is None:
                by_command = sleep_on(self._device, [(self._semaphore, value)])
            return by_command(nanoseconds)

        return waiting.wait(ready, sleep, spin, deadline, polite=self.polite)


def _while_open(others: Sequence[Life], look: Callable[[], bool]) -> Callable[[], bool]:
    """A look that minds whether others were closed, too."""

    def look_at_all() -> bool:
        for life in others:
            if life.closed:
                life.still_open()
        return look()

    return look_at_all


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
