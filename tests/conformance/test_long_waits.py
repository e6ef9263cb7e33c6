"""Long waits: what they cost the processor, and how soon they end when something is closed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import extmem
from extmem import ClosedError, Device, Semaphore, wait_all, wait_any

PATIENCE = 60.0
LONG = 1.0  # seconds: what a driver does with the processor is seen in a tenth of that
# Of one processor. A driver that spins takes all of it, and what is meant is next to nothing.
SHARE = 0.4
# Seconds until a closed wait ends. A quarter of that is meant, and 1.7 was once the rule.
SOON = 1.2
LINGER = 0.8  # and less than the time for which a thread stays that awaits nothing


@pytest.fixture
def gpu(driver: str) -> Iterator[Device]:
    with extmem.open_device(driver=driver) as device:
        yield device


def _until(wait: Callable[[], object]) -> None:
    with pytest.raises(TimeoutError):
        wait()


async def _awaited(*semaphores: Semaphore) -> None:
    tasks = [asyncio.create_task(each.reached(1)) for each in semaphores]
    await asyncio.sleep(LONG)
    assert not any(each.done() for each in tasks)
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("way", ["all", "any", "one await", "two awaits"])
def test_a_long_wait_keeps_no_processor_busy(gpu: Device, way: str) -> None:
    with gpu.semaphore() as first, gpu.semaphore() as second:
        pairs = [(first, 1), (second, 1)]
        wait: dict[str, Callable[[], None]] = {
            "all": lambda: _until(lambda: wait_all(pairs, LONG)),
            "any": lambda: _until(lambda: wait_any(pairs, LONG)),
            "one await": lambda: asyncio.run(_awaited(first)),
            "two awaits": lambda: asyncio.run(_awaited(first, second)),
        }
        began, busy = time.monotonic(), time.process_time()
        wait[way]()
        busy, lasted = time.process_time() - busy, time.monotonic() - began
    assert busy < SHARE * lasted, f"{busy:.2f} s of {lasted:.2f} s"


def test_who_waits_long_is_told_at_once_all_the_same(gpu: Device) -> None:
    """Whatever was learned of the driver meanwhile: by a signal, and by another one that waits."""

    async def main() -> None:
        with gpu.semaphore() as first, gpu.semaphore() as second:
            early = asyncio.create_task(first.reached(1))
            await asyncio.sleep(0.4)
            late = asyncio.create_task(second.reached(1))
            await asyncio.sleep(0)
            second.signal(1)
            await asyncio.wait_for(late, 1)
            first.signal(1)
            await asyncio.wait_for(early, 1)

    asyncio.run(main())
    with gpu.semaphore() as first, gpu.semaphore() as second:
        for value, semaphore in enumerate((first, second)):
            timer = threading.Timer(0.3, semaphore.signal, [1])
            timer.start()
            pairs = [(first, value + 1), (second, 1)]
            assert wait_any(pairs, PATIENCE) == value
            timer.join()


# -- closing --------------------------------------------------------------------------------------

_WAYS: dict[str, Callable[[Semaphore, Semaphore], object]] = {
    "one": lambda first, second: second.wait(1, PATIENCE),
    "any": lambda first, second: wait_any([(first, 1), (second, 1)], PATIENCE),
    "all": lambda first, second: wait_all([(first, 1), (second, 1)], PATIENCE),
}


class _Waiting:
    """A thread that waits until something is closed."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self.ended = 0.0  # when, by `time.monotonic`
        self._wait = wait
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        time.sleep(0.15)  # so that it sleeps

    def _run(self) -> None:
        with pytest.raises(ClosedError, match="was closed while"):
            self._wait()
        self.ended = time.monotonic()

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("way", _WAYS)
def test_closing_ends_a_wait_soon(gpu: Device, way: str) -> None:
    """Also where it is not the first one of those that are waited for."""
    with gpu.semaphore() as first, gpu.semaphore() as second:
        waiting = _Waiting(lambda: _WAYS[way](first, second))
        closed = time.monotonic()
        second.close()
        second_ended = _joined(waiting, first)
    assert second_ended - closed < SOON


def _joined(waiting: _Waiting, other: Semaphore) -> float:
    """When it ended. Who does not mind what was closed is let go, so that nothing hangs."""
    limit = time.monotonic() + 5
    while not waiting.ended and time.monotonic() < limit:
        time.sleep(0.005)
    ended = waiting.ended or time.monotonic()
    other.close()
    waiting.join()
    return ended


def test_a_device_is_closed_soon_after_an_await_was_given_up(driver: str) -> None:
    """The thread that awaits hears of both at once."""

    async def give_up() -> None:
        task = asyncio.create_task(first.reached(1))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for _ in range(3):
        gpu = extmem.open_device(driver=driver)
        first = gpu.semaphore()
        asyncio.run(give_up())
        began = time.monotonic()
        gpu.close()
        assert time.monotonic() - began < LINGER


def test_a_device_is_closed_soon_while_others_wait(driver: str) -> None:
    gpu = extmem.open_device(driver=driver)
    first, fence = gpu.semaphore(), gpu.fence()
    waits = [_Waiting(lambda: first.wait(1, PATIENCE)), _Waiting(lambda: fence.wait(PATIENCE))]
    began = time.monotonic()
    gpu.close()
    assert time.monotonic() - began < SOON
    for each in waits:
        each.join()
