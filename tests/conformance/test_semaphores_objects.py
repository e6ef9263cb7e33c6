"""Semaphore objects on every driver: signals and waits here, on the device, and in asyncio."""

from __future__ import annotations

import asyncio
import gc
import math
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

import extmem
from extmem import ClosedError, Device, RuleViolation, Semaphore, Unsupported, wait_all, wait_any
from tests.support.clock import lasted
from tests.support.strict import driver_cannot

PATIENCE = 60.0


@pytest.fixture
def gpu(driver: str) -> Iterator[Device]:
    with extmem.open_device(driver=driver) as device:
        yield device


@pytest.fixture
def done(gpu: Device) -> Iterator[Semaphore]:
    with gpu.semaphore() as semaphore:
        yield semaphore


def later(action: Callable[[], object], seconds: float = 0.03) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


# -- the host -------------------------------------------------------------------------------------


def test_the_host_signals_and_waits(gpu: Device) -> None:
    with gpu.semaphore(value=5) as done:
        done.wait(5)
        done.wait(0, timeout=0)
        assert done.value == 5
        done.signal(1 << 40)
        done.wait(1 << 40, timeout=0)
        assert done.value == 1 << 40
        with pytest.raises(TimeoutError, match=f"has reached {1 << 40} and not {(1 << 64) - 1}"):
            done.wait((1 << 64) - 1, timeout=0.001)


def test_a_wait_ends_with_the_signal(done: Semaphore) -> None:
    for value in range(1, 4):
        timer = later(lambda value=value: done.signal(value))
        done.wait(value, timeout=PATIENCE)
        assert done.value == value
        timer.join()


def test_a_timeline_does_not_go_back(done: Semaphore) -> None:
    done.signal(3)
    with pytest.raises(RuleViolation, match="03258"):
        done.signal(3)
    assert done.value == 3


@pytest.mark.parametrize("timeout", [0, 1e-9, 0.0005, 0.05])
def test_a_timeout_passes(done: Semaphore, timeout: float) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="has reached 0 and not 1"):
        done.wait(1, timeout)
    assert lasted(began, timeout)


@pytest.mark.parametrize("timeout", [1e9, 1e30, math.inf, 10**400])
def test_a_timeout_that_is_huge(done: Semaphore, timeout: float) -> None:
    timer = later(lambda: done.signal(1))
    done.wait(1, timeout)
    timer.join()


def test_what_is_no_time_or_value(done: Semaphore) -> None:
    for timeout in (-1, math.nan):
        with pytest.raises(ValueError, match="timeout"):
            done.wait(1, timeout)
    for value in (-1, 1 << 64):
        with pytest.raises(ValueError, match="64 bits"):
            done.wait(value)
        with pytest.raises(ValueError, match="64 bits"):
            done.signal(value)
    for wrong in (None, "1", True, 1.5):
        with pytest.raises(TypeError, match="number"):
            done.wait(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="number"):
            done.signal(wrong)  # type: ignore[arg-type]


def test_a_binary_semaphore_is_not_the_hosts(gpu: Device) -> None:
    with gpu.semaphore(timeline=False) as binary:
        for use in (
            lambda: binary.wait(1),
            lambda: binary.signal(1),
            lambda: binary.value,
            lambda: asyncio.run(binary.reached(1)),
            lambda: wait_all([(binary, 1)]),
        ):
            with pytest.raises(Unsupported, match="the device can"):
                use()
        assert "binary" in repr(binary)
    with pytest.raises(ValueError, match="only timelines"):
        gpu.semaphore(timeline=False, value=1)


# -- the device -----------------------------------------------------------------------------------


def test_the_device_waits_and_signals(gpu: Device, done: Semaphore) -> None:
    gpu.submit(wait=[(done, 1)], signal=[(done, 2)])
    with pytest.raises(TimeoutError):
        done.wait(2, timeout=0.03)
    done.signal(1)
    done.wait(2, timeout=PATIENCE)


def test_binary_semaphores_order_submissions(gpu: Device, done: Semaphore) -> None:
    with gpu.semaphore(timeline=False) as binary, gpu.fence() as fence:
        for value in range(1, 5):  # the same one again: each wait leaves it unsignalled
            gpu.submit(signal=[binary])
            gpu.submit(wait=[binary], signal=[(done, value)])
        done.wait(4, timeout=PATIENCE)
        gpu.submit(fence=fence)
        fence.wait(PATIENCE)


def test_copies_wait_and_signal(gpu: Device, done: Semaphore) -> None:
    with gpu.allocate(4096) as memory, gpu.buffer(memory) as whole, gpu.allocate(4096) as other:
        timer = later(lambda: done.signal(1))
        gpu.fill(whole, 0x07070707, wait=[(done, 1)], signal=[(done, 2)])
        assert done.value == 2
        assert bytes(memory.view()) == b"\7" * 4096
        timer.join()
        with gpu.buffer(other) as target:
            gpu.copy(whole, target, wait=[(done, 2)], signal=[(done, 3)])
        assert done.value == 3
        assert bytes(other.view()) == b"\7" * 4096


def test_mistakes_of_submissions(driver: str, gpu: Device, done: Semaphore) -> None:
    with gpu.semaphore(timeline=False) as binary, extmem.open_device(driver=driver) as other:
        for wrong, error, says in (
            ([done], TypeError, "value"),
            ([(binary, 1)], ValueError, "binary"),
            ([(done, -1)], ValueError, "64 bits"),
            ((done, 1), TypeError, "value|expected a list"),
            ([1], TypeError, "expected a list"),
            ([(other.semaphore(), 1)], ValueError, "of another device"),
        ):
            with pytest.raises(error, match=says):
                gpu.submit(signal=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="of another device"):
            gpu.submit(fence=other.fence())
    assert done.value == 0


# -- several --------------------------------------------------------------------------------------


def test_all_of_several(driver: str, gpu: Device, done: Semaphore) -> None:
    with gpu.semaphore() as second, extmem.open_device(driver=driver) as other:
        third = other.semaphore()
        pairs = [(done, 2), (second, 1), (third, 9)]
        wait_all([])
        with pytest.raises(TimeoutError, match="3 of 3"):
            wait_all(pairs, timeout=0)
        done.signal(2)
        with pytest.raises(TimeoutError, match="2 of 3"):
            wait_all(pairs, timeout=0.01)
        timers = [later(lambda: second.signal(1)), later(lambda: third.signal(9), 0.05)]
        wait_all(pairs, timeout=PATIENCE)
        for timer in timers:
            timer.join()


@pytest.mark.parametrize("far", [False, True], ids=["one device", "two devices"])
def test_any_of_several(driver: str, gpu: Device, done: Semaphore, far: bool) -> None:
    with extmem.open_device(driver=driver) as other:
        second = (other if far else gpu).semaphore()
        pairs = [(done, 1), (second, 1), (second, 3)]
        with pytest.raises(TimeoutError, match="none of 3"):
            wait_any(pairs, timeout=0.01)
        timer = later(lambda: second.signal(2))
        assert wait_any(pairs, timeout=PATIENCE) == 1
        timer.join()
        done.signal(1)
        assert wait_any(pairs) == 0
        second.close()
    with pytest.raises(ValueError, match="nothing to wait for"):
        wait_any([])
    for wrong in ([done], [(done,)], [(1, 1)]):
        with pytest.raises(TypeError, match="expected a pair"):
            wait_any(wrong)  # type: ignore[arg-type]


# -- asyncio --------------------------------------------------------------------------------------


def waiting_threads() -> int:
    return sum(each.name == "extmem waits" for each in threading.enumerate())


def test_awaits_share_one_thread(gpu: Device, done: Semaphore) -> None:
    async def main() -> list[int]:
        order: list[int] = []

        async def one(semaphore: Semaphore, value: int) -> None:
            await semaphore.reached(value)
            order.append(value)

        with gpu.semaphore() as second:
            tasks = [asyncio.create_task(one(done, value)) for value in range(1, 40)]
            tasks += [asyncio.create_task(one(second, value)) for value in range(100, 110)]
            await asyncio.sleep(0.05)
            assert waiting_threads() == 1
            assert order == []
            for value in range(1, 40):
                done.signal(value)
                if value % 10 == 0:
                    await asyncio.sleep(0.01)
            gpu.submit(signal=[(second, 200)])
            await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        return sorted(order)

    assert asyncio.run(main()) == [*range(1, 40), *range(100, 110)]
    gpu.close()
    assert waiting_threads() == 0


def test_what_was_reached_is_not_waited_for(gpu: Device, done: Semaphore) -> None:
    done.signal(4)
    asyncio.run(done.reached(4))
    asyncio.run(done.reached(3))
    assert waiting_threads() == 0


def test_an_await_is_cancelled(done: Semaphore) -> None:
    async def main() -> None:
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(done.reached(1), 0.02)
        task = asyncio.create_task(done.reached(2))
        other = asyncio.create_task(done.reached(1))
        await asyncio.sleep(0.02)
        task.cancel()
        done.signal(1)
        await asyncio.wait_for(other, PATIENCE)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_several_loops_await_at_once(gpu: Device, done: Semaphore) -> None:
    def run(value: int) -> None:
        asyncio.run(asyncio.wait_for(done.reached(value), PATIENCE))
        ended.append(value)

    ended: list[int] = []
    threads = [threading.Thread(target=run, args=(value,)) for value in (1, 2, 3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    for value in (1, 2, 3):
        done.signal(value)
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(ended) == [1, 2, 3]


def test_closing_ends_what_is_awaited(driver: str, gpu: Device) -> None:
    async def main(close: Callable[[], None], semaphore: Semaphore) -> None:
        task = asyncio.create_task(semaphore.reached(1))
        await asyncio.sleep(0.02)
        close()
        with pytest.raises(ClosedError, match="while"):
            await asyncio.wait_for(task, PATIENCE)
        with pytest.raises(ClosedError):
            await semaphore.reached(1)

    first = gpu.semaphore()
    asyncio.run(main(first.close, first))
    other = extmem.open_device(driver=driver)
    asyncio.run(main(other.close, other.semaphore()))


def test_a_loop_that_ended_is_no_trouble(gpu: Device, done: Semaphore) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(done.reached(1))
    loop.run_until_complete(asyncio.sleep(0.01))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    done.signal(1)
    asyncio.run(asyncio.wait_for(done.reached(1), PATIENCE))


# -- closing --------------------------------------------------------------------------------------


def test_closing_while_another_thread_waits(driver: str) -> None:
    gpu = extmem.open_device(driver=driver)
    closed_alone, closed_with_it = gpu.semaphore(), gpu.semaphore()
    errors: list[BaseException] = []

    def wait(semaphore: Semaphore) -> None:
        try:
            semaphore.wait(1, timeout=PATIENCE)
        except ClosedError as error:
            errors.append(error)

    threads = [
        threading.Thread(target=wait, args=(each,)) for each in (closed_alone, closed_with_it)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    closed_alone.close()
    closed_alone.close()
    threads[0].join(PATIENCE)
    assert len(errors) == 1
    gpu.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(errors) == 2


def test_closed_means_closed(gpu: Device, done: Semaphore) -> None:
    done.close()
    assert done.closed
    assert repr(done) == "<Semaphore, closed>"
    for use in (
        lambda: done.value,
        lambda: done.wait(0),
        lambda: done.signal(1),
        lambda: done.handle,
        lambda: done.export(),
        lambda: done.export("opaque_fd"),
        lambda: gpu.submit(signal=[(done, 1)]),
        lambda: asyncio.run(done.reached(0)),
        lambda: wait_all([(done, 0)]),
    ):
        with pytest.raises(ClosedError):
            use()


def test_the_device_works_on_with_what_was_closed(gpu: Device, done: Semaphore) -> None:
    """What was submitted keeps its semaphores and fences."""
    with gpu.semaphore() as gate, gpu.fence() as fence:
        gpu.submit(wait=[(gate, 1)], signal=[(done, 1)], fence=fence)
        gate.signal(1)
    done.wait(1, timeout=PATIENCE)


def test_a_device_with_work_that_cannot_end(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extmem.work._PATIENCE", 0.05)
    gpu = extmem.open_device(driver=driver)
    gate = gpu.semaphore()
    gpu.submit(wait=[(gate, 1)])
    with pytest.raises(TimeoutError, match="1 submission has not ended"):
        gpu.close()
    assert not gpu.closed
    gate.signal(1)
    gpu.close()


def test_forgotten_semaphores_warn(gpu: Device) -> None:
    with pytest.warns(ResourceWarning, match=r"timeline semaphore.*test_semaphores_objects\.py"):
        gpu.semaphore()
    with pytest.warns(ResourceWarning, match="binary semaphore"):
        gpu.semaphore(timeline=False)


_FORGETFUL = """
import sys
import extmem
gpu = extmem.open_device(driver=sys.argv[1])
done, ended = gpu.semaphore(), gpu.fence()
def use():
    return gpu, done, ended
"""


def test_a_script_that_closes_nothing_ends_in_peace(driver: str) -> None:
    """Python may end before what a function of it uses is gone, and then nothing can be called."""
    ended = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", _FORGETFUL, driver],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    told = ended.stderr.splitlines()
    assert all("ResourceWarning" in line for line in told), ended.stderr
    for what in ("a timeline semaphore was", "a fence was"):
        assert sum(what in line for line in told) == 1, ended.stderr


def test_closed_things_do_not_warn(driver: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gpu = extmem.open_device(driver=driver)
        semaphore, fence = gpu.semaphore(), gpu.fence()
        gpu.close()
        assert semaphore.closed
        assert fence.closed
        del semaphore, fence, gpu
        gc.collect()


# -- what cannot be shared ------------------------------------------------------------------------


def test_a_driver_that_cannot_export_names_the_way_out(gpu: Device) -> None:
    if gpu.driver == "embedded":
        driver_cannot("it needs no way out: it exports semaphores")
    kind = "opaque_win32_kmt" if "lvp" in gpu.driver else "d3d12_fence"
    with pytest.raises(Unsupported, match=f"export='{kind}', host=True"):
        gpu.semaphore(export=kind)
    with pytest.raises(ValueError, match="expected one of opaque_fd"):
        gpu.semaphore(export="dma_buf")
    with gpu.semaphore() as private:
        with pytest.raises(ValueError, match=r"as: none \(Device.semaphore\(export"):
            private.export()
        with pytest.raises(Unsupported, match="make it with export='opaque_fd'"):
            private.export("opaque_fd")


def test_semaphores_of_the_host(gpu: Device) -> None:
    """The device waits for them and signals them by way of the host."""
    with gpu.semaphore(host=True) as there, gpu.allocate(64) as memory, gpu.buffer(memory) as whole:
        assert "of the host" in repr(there)
        timer = later(lambda: there.signal(1))
        gpu.fill(whole, 0x03030303, wait=[(there, 1)], signal=[(there, 2)])
        assert there.value == 2
        assert bytes(memory.view()) == b"\3" * 64
        timer.join()
        with gpu.semaphore() as own:
            gpu.submit(wait=[(there, 2), (own, 0)], signal=[(own, 1), (there, 3)])
            assert (own.value, there.value) == (1, 3)
            wait_all([(own, 1), (there, 3)])
    with pytest.raises(ValueError, match="timeline"):
        gpu.semaphore(host=True, timeline=False)


def test_a_handle_of_something_else(gpu: Device) -> None:
    kinds = [each.handle_type.name for each in gpu.physical.sharing if each.exportable]
    with gpu.allocate(64, export=kinds[0]) as memory, memory.export() as handle:
        with pytest.raises(ValueError, match=r"is no semaphore; import it with .*import_memory"):
            gpu.import_semaphore(handle)
        with pytest.raises(ValueError, match=r"is no fence; import it with .*import_memory"):
            gpu.import_fence(handle)
    for wrong in ({}, {"handle": 1, "name": "x"}):
        with pytest.raises(ValueError, match=r"pass a handle to import,? or a name"):
            gpu.import_semaphore(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pass handle_type="):
        gpu.import_semaphore(1)
