"""Fence objects on every driver: what the device signals, and the host waits for and resets."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
from collections.abc import Iterator

import pytest

import extmem
from extmem import ClosedError, Device, Fence, Unsupported
from tests.conformance.test_semaphores_objects import later, waiting_threads

PATIENCE = 60.0


@pytest.fixture
def gpu(driver: str) -> Iterator[Device]:
    with extmem.open_device(driver=driver) as device:
        yield device


@pytest.fixture
def fence(gpu: Device) -> Iterator[Fence]:
    with gpu.fence() as made:
        yield made


def test_signalled_waited_for_and_reset(gpu: Device, fence: Fence) -> None:
    for _ in range(3):
        assert not fence.signaled
        assert "not signaled" in repr(fence)
        gpu.submit(fence=fence)
        fence.wait(PATIENCE)
        fence.wait(0)
        assert fence.signaled
        assert "<Fence signaled" in repr(fence)
        fence.reset()


def test_signalled_from_the_start(gpu: Device) -> None:
    with gpu.fence(signaled=True) as fence:
        fence.wait(0)
        fence.reset()
        with pytest.raises(TimeoutError, match="not signaled after 0 s"):
            fence.wait(0)


def test_after_all_that_was_submitted(gpu: Device, fence: Fence) -> None:
    with gpu.semaphore() as gate:
        gpu.submit(wait=[(gate, 1)])
        gpu.submit(fence=fence)
        with pytest.raises(TimeoutError):
            fence.wait(0.03)
        timer = later(lambda: gate.signal(1))
        fence.wait(PATIENCE)
        timer.join()


def test_what_is_no_time(fence: Fence) -> None:
    for timeout in (-1, math.nan):
        with pytest.raises(ValueError, match="timeout"):
            fence.wait(timeout)


def test_asyncio(gpu: Device, fence: Fence) -> None:
    async def main() -> None:
        with gpu.semaphore() as gate, gpu.fence() as other:
            gpu.submit(wait=[(gate, 1)], fence=fence)
            tasks = [asyncio.create_task(fence.reached()) for _ in range(3)]
            never = asyncio.create_task(other.reached())
            await asyncio.sleep(0.03)
            assert waiting_threads() == 1
            assert not any(task.done() for task in tasks)
            gate.signal(1)
            await asyncio.wait_for(asyncio.gather(*tasks, gate.reached(1)), PATIENCE)
            never.cancel()
            with pytest.raises(asyncio.CancelledError):
                await never

    asyncio.run(main())
    asyncio.run(fence.reached())
    gpu.close()
    assert waiting_threads() == 0


def test_closing_while_another_thread_waits(fence: Fence) -> None:
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            fence.wait(PATIENCE)
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    fence.close()
    thread.join(PATIENCE)
    assert len(errors) == 1
    for use in (lambda: fence.signaled, fence.wait, fence.reset, lambda: fence.handle):
        with pytest.raises(ClosedError):
            use()
    assert repr(fence) == "<Fence, closed>"


def test_forgotten_fences_warn(gpu: Device) -> None:
    with pytest.warns(ResourceWarning, match=r"a fence.*test_fences_objects\.py"):
        gpu.fence()
    gc.collect()


def test_what_cannot_be_exported(gpu: Device, fence: Fence) -> None:
    with pytest.raises(ValueError, match=r"as: none \(Device.fence\(export"):
        fence.export()
    with pytest.raises(Unsupported, match="make it with export='opaque_fd'"):
        fence.export("opaque_fd")
    with pytest.raises(ValueError, match="of a fence; expected one of opaque_fd"):
        gpu.fence(export="d3d12_fence")  # which is a semaphore
