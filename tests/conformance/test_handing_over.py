"""Releasing and acquiring: by one thread at a time, and done once it was submitted."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import extmem
from extmem import Buffer, Device, OwnershipError, RuleViolation
from tests.support.strict import driver_cannot

PATIENCE = 60.0
THREADS = 8
TYPES = ("opaque_win32",) if sys.platform == "win32" else ("opaque_fd", "dma_buf", "opaque_win32")


@pytest.fixture
def gpu(driver: str) -> Iterator[Device]:
    with extmem.open_device(driver=driver) as device:
        yield device


@pytest.fixture
def shared(gpu: Device) -> Iterator[Buffer]:
    """A buffer that can be handed over."""
    kind = next((each for each in TYPES if gpu.physical.can_export(each)), None)
    if kind is None:
        driver_cannot("it exports no memory")
    with gpu.allocate(64, export=kind) as memory, gpu.buffer(memory) as buffer:
        yield buffer


def at_once(act: Callable[[], None]) -> list[str]:
    """What becomes of an act that many threads do at the same time."""
    found: list[str] = []
    ready = threading.Barrier(THREADS)

    def one() -> None:
        ready.wait(PATIENCE)
        try:
            act()
            found.append("done")
        except OwnershipError:
            found.append("refused")

    threads = [threading.Thread(target=one) for _ in range(THREADS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    return sorted(found)


def test_one_of_many_threads_hands_it_over(shared: Buffer) -> None:
    once = ["done", *["refused"] * (THREADS - 1)]
    for _ in range(5):
        assert at_once(shared.release) == once
        assert at_once(shared.acquire) == once


def test_nobody_waits_for_who_waits(gpu: Device, shared: Buffer) -> None:
    """While one thread waits until it may acquire, another one is told so."""
    shared.release()
    with gpu.semaphore(host=True) as gate:
        thread = threading.Thread(target=lambda: shared.acquire(wait=[(gate, 1)]))
        thread.start()
        try:
            limit = time.monotonic() + PATIENCE
            while shared.ownership.turn and time.monotonic() < limit:  # until it has begun
                time.sleep(0.001)
            with pytest.raises(OwnershipError, match="by another thread at this moment"):
                shared.acquire()
        finally:
            gate.signal(1)
            thread.join(PATIENCE)
    gpu.fill(shared, 1)


def test_what_failed_was_not_handed_over(gpu: Device, shared: Buffer) -> None:
    with gpu.semaphore(value=5) as done:
        for _ in range(2):
            with pytest.raises(RuleViolation):
                shared.release(signal=[(done, 4)])
            gpu.fill(shared, 1)
        shared.release()
        with pytest.raises(TypeError):
            shared.acquire(wait=[done])
        shared.acquire()
        gpu.fill(shared, 2)


def interrupted(act: Callable[[], None]) -> None:
    """Ctrl-C while it waits."""
    soon = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    soon.start()
    with pytest.raises(KeyboardInterrupt):
        act()
    soon.join()


def test_ctrl_c_ends_the_wait_and_not_the_change_of_owner(gpu: Device, shared: Buffer) -> None:
    with gpu.semaphore() as gate:
        opened = threading.Timer(20, gate.signal, [3])  # for what is submitted and should not be
        opened.start()
        try:
            gpu.submit(wait=[(gate, 1)])  # what is submitted later comes after it
            interrupted(shared.release)
            for when in ("while it is to be done", "when it was"):
                with pytest.raises(OwnershipError, match="was released"):
                    gpu.fill(shared, 1)
                with pytest.raises(OwnershipError, match="cannot be released"):
                    shared.release()
                if when == "while it is to be done":
                    gate.signal(1)
            interrupted(lambda: shared.acquire(wait=[(gate, 2)]))
            with pytest.raises(OwnershipError, match="acquired already"):
                shared.acquire()
            gate.signal(2)
            gpu.fill(shared, 3)
            shared.release()
            shared.acquire()
        finally:
            opened.cancel()
            opened.join()
            if gate.value < 2:
                gate.signal(2)


def test_ctrl_c_before_it_was_submitted_changes_nothing(gpu: Device, shared: Buffer) -> None:
    shared.release()
    with gpu.semaphore(host=True) as gate:
        interrupted(lambda: shared.acquire(wait=[(gate, 1)]))
    with pytest.raises(OwnershipError, match="was released"):
        gpu.fill(shared, 1)
    shared.acquire()
    gpu.fill(shared, 1)
