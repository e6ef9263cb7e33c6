"""Waiting for several timelines at once, of one device or of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack

from extmem import waiting
from extmem.reading import napper, sleep_on_any
from extmem.sync import Semaphore

__all__ = ["wait_all", "wait_any"]


def wait_all(moments: Iterable[tuple[Semaphore, int]], timeout: float | None = None) -> None:
    """Wait until each of several timelines has reached its value.

    moments: pairs of a timeline semaphore and a value; the semaphores may be of several devices
    timeout: seconds; TimeoutError when they have passed. None waits for ever

    ClosedError if another thread closes one that is still waited for.

    >>> import extmem
    >>> with extmem.open_device(driver="embedded") as gpu:
    ...     with gpu.semaphore() as first, gpu.semaphore() as second:
    ...         gpu.submit(signal=[(first, 3), (second, 4)])
    ...         wait_all([(first, 3), (second, 4)], timeout=5)
    """
    deadline = waiting.deadline_of(timeout)
    with ExitStack() as lives:
        pairs = _checked(moments, lives)
        # One after the other: a timeline that has reached its value does not go back.
        for done, (semaphore, value) in enumerate(pairs):
            left = [later.life for later, _ in pairs[done + 1 :]]
            if not semaphore.reader.wait(deadline, semaphore.spin, value, left):
                raise TimeoutError(
                    f"{len(pairs) - done} of {len(pairs)} timelines have not reached their values "
                    f"after {timeout:g} s, or have not been looked at; the first is {semaphore!r}, "
                    f"which should reach {value}"
                )


def wait_any(moments: Iterable[tuple[Semaphore, int]], timeout: float | None = None) -> int:
    """Wait until one of several timelines has reached its value; which one, by its place.

    moments: pairs of a timeline semaphore and a value; the semaphores may be of several devices,
        which are then looked at in turn, about a hundred times a second. The same is done on a
        device whose driver would keep a processor busy
    timeout: seconds; TimeoutError when they have passed. None waits for ever

    ClosedError if another thread closes one of them meanwhile.

    >>> import extmem
    >>> with extmem.open_device(driver="embedded") as gpu:
    ...     with gpu.semaphore() as first, gpu.semaphore() as second:
    ...         gpu.submit(signal=[(second, 4)])
    ...         wait_any([(first, 3), (second, 4)], timeout=5)
    1
    """
    deadline = waiting.deadline_of(timeout)
    with ExitStack() as lives:
        pairs = _checked(moments, lives)
        if not pairs:
            raise ValueError("there is nothing to wait for; pass at least one (semaphore, value)")
        looks = [semaphore.reader.ready(value) for semaphore, value in pairs]
        found = -1

        def ready() -> bool:
            nonlocal found
            found = next((place for place, look in enumerate(looks) if look()), -1)
            return found >= 0

        polite = all(semaphore.reader.polite for semaphore, _ in pairs)
        if not waiting.wait(ready, _sleep(pairs), pairs[0][0].spin, deadline, polite=polite):
            raise TimeoutError(
                f"none of {len(pairs)} timelines has reached its value after {timeout:g} s"
            )
        if found < 0:
            ready()  # the driver has said so already
        return found


def _checked(
    moments: Iterable[tuple[Semaphore, int]], lives: ExitStack
) -> list[tuple[Semaphore, int]]:
    pairs = list(moments)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], Semaphore):
            raise TypeError(f"{pair!r}; expected a pair of a timeline semaphore and a value")
        pair[0].waitable(pair[1])
        lives.enter_context(pair[0].life)
        pair[0].reader.check(pair[1])
    return pairs


def _sleep(pairs: list[tuple[Semaphore, int]]) -> Callable[[int], bool]:
    device = pairs[0][0].device
    if all(semaphore.device is device for semaphore, _ in pairs):
        found: Callable[[int], bool] | None = None

        def sleep(nanoseconds: int) -> bool:
            nonlocal found
            if found is None:  # not before it is needed: what is there already is not slept for
                moments = [(semaphore.reader.moment, value) for semaphore, value in pairs]
                found = sleep_on_any(device.handle, moments)
            return found(nanoseconds)

        return sleep
    return napper()  # each device sleeps by itself: all of them are looked at now and then
