"""Waiting on the host: how long is read before sleeping, what a timeout means, and Ctrl-C."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from extmem import ClosedError, waiting
from extmem.lives import Life
from extmem.reading import Manners
from extmem.waiting import Spin, deadline_of
from tests.support.clock import lasted

MS = 1_000_000  # nanoseconds


class Sleeper:
    """A thing to wait for, whose driver sleeps in steps that are noted."""

    def __init__(self, after: int | None) -> None:
        self.after = after  # sleeps until it is there; None: never
        self.steps: list[int] = []
        self.looks = 0

    def ready(self) -> bool:
        self.looks += 1
        return self.after is not None and len(self.steps) >= self.after

    def sleep(self, nanoseconds: int) -> bool:
        self.steps.append(nanoseconds)
        time.sleep(min(nanoseconds, 2 * MS) / 1e9)
        return False


def waited(
    thing: Sleeper, timeout: float | None, *, polite: bool = True, spin: Spin | None = None
) -> bool:
    return waiting.wait(
        thing.ready, thing.sleep, spin or Spin(), deadline_of(timeout), polite=polite
    )


# -- timeouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [math.nan, -1, -0.001, -math.inf, -(10**400)])
def test_times_that_are_none(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"timeout is .*0 or more"):
        deadline_of(wrong)


@pytest.mark.parametrize("wrong", ["1", True, 1j, b"1"])
def test_things_that_are_no_times(wrong: object) -> None:
    with pytest.raises(TypeError, match="seconds"):
        deadline_of(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("long", [None, math.inf, 1e30, 1e11, 10**400])
def test_times_that_never_pass(long: float | None) -> None:
    assert deadline_of(long) is None


def test_what_is_there_needs_no_time() -> None:
    thing = Sleeper(0)
    assert waited(thing, 0)
    assert (thing.looks, thing.steps) == (1, [])


@pytest.mark.parametrize("timeout", [0, 1e-9, 1e-6, 0.0001])
def test_short_timeouts_do_not_sleep_long(timeout: float) -> None:
    thing = Sleeper(None)
    assert not waited(thing, timeout)
    assert thing.looks >= 1
    assert sum(thing.steps) <= timeout * 1e9


def test_a_timeout_bounds_the_last_sleep() -> None:
    thing = Sleeper(None)
    began = time.monotonic()
    assert not waited(thing, 0.05)
    assert lasted(began, 0.05)
    assert max(thing.steps) <= 50 * MS


# -- reading, then sleeping -----------------------------------------------------------------------


def test_a_long_wait_sleeps_in_steps_that_grow() -> None:
    thing = Sleeper(30)
    assert waited(thing, None)
    assert thing.steps[0] >= MS // 4
    assert thing.steps[-1] > thing.steps[0]
    assert max(thing.steps) <= waiting.longest_sleep()


def test_what_is_woken_by_the_signal_sleeps_long_at_once() -> None:
    thing = Sleeper(1)
    assert waited(thing, None, polite=False)
    assert thing.steps == [waiting.longest_sleep(polite=False)]
    assert thing.steps[0] <= 250 * MS  # nothing wakes it when what it waits for is closed


def test_sleep_is_short_enough_for_ctrl_c_and_longer_elsewhere() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(waiting.longest_sleep()))
    thread.start()
    thread.join()
    assert waiting.longest_sleep() <= 100 * MS
    assert waiting.longest_sleep() < found[0] <= 1000 * MS


def test_reading_adapts_to_how_waits_ended() -> None:
    spin = Spin()
    for _ in range(8):
        spin.learn(16 * MS)
    assert spin.budget == Spin.SHORTEST
    spin.learn(50_000)
    assert spin.budget == 100_000
    for _ in range(8):
        spin.learn(Spin.PAYS)
    assert spin.budget == Spin.LONGEST


def test_a_wait_that_ends_while_reading_is_learnt_from() -> None:
    spin, looks = Spin(), iter(range(20))

    def ready() -> bool:
        return next(looks) == 10

    spin.budget = 20_000 * MS
    assert waiting.wait(
        ready, lambda _: pytest.fail("it was not to sleep"), spin, None, polite=True
    )
    spin.study()  # as the next wait does first
    assert spin.budget <= Spin.LONGEST


def test_what_comes_at_regular_times_is_expected() -> None:
    spin, due = Spin(), 1_000 * MS
    assert spin.expected() == (0, 0)
    for frame in range(40):
        spin.beat(due + 16 * MS * frame + 30_000 * (frame % 3))
    start, end = spin.expected()
    assert start < due + 16 * MS * 40 < end
    assert end - start <= 2 * 16 * MS // Spin.SHARE
    spin.miss()
    assert spin.expected() == (0, 0)
    for frame in range(40):
        spin.beat(due + MS * frame)  # too often to be worth it
    assert spin.expected() == (0, 0)
    for frame in range(40):
        spin.beat(due + 16 * MS * frame + 3 * MS * (frame % 3))  # too irregular
    assert spin.expected() == (0, 0)


@pytest.mark.parametrize("polite", [True, False])
def test_other_threads_run_while_one_waits(polite: bool) -> None:
    """What is waited for is made by a thread that needs the interpreter for it."""
    count = 0

    def work() -> None:
        nonlocal count
        for _ in range(100_000):
            count += 1

    thread = threading.Thread(target=work)
    spin = Spin()
    spin.budget = 30_000 * MS  # as if it had paid, so that it only reads
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # nobody takes the interpreter from a thread that does not let go
    try:
        thread.start()
        reads = ctypes.CDLL(None).abs if os.name != "nt" else ctypes.windll.kernel32.GetLastError
        assert waiting.wait(
            lambda: (polite and reads(0) and False) or count == 100_000,
            lambda _: pytest.fail("it was not to sleep"),
            spin,
            deadline_of(20),
            polite=polite,
        )
    finally:
        sys.setswitchinterval(interval)
        thread.join()


@pytest.mark.parametrize(
    ("slept", "burned", "times", "spins"),
    [
        (5 * MS, 5 * MS, 20, True),
        (5 * MS, 2 * MS, 40, True),  # another program had the processor, too
        (5 * MS, 5 * MS, 10, False),  # too short to tell
        (5 * MS, MS // 4, 400, False),
        (MS // 2, MS // 2, 4000, False),  # to fall asleep and to wake up is not to spin
    ],
)
def test_who_keeps_a_processor_busy(slept: int, burned: int, times: int, spins: bool) -> None:
    manners = Manners()
    for _ in range(times):
        manners.learn(slept, burned)
    assert manners.spins is spins


def test_a_driver_that_spun_is_not_trusted_again() -> None:
    manners = Manners()
    for slept, burned in [(200 * MS, 200 * MS), *[(200 * MS, 0)] * 9]:
        manners.learn(slept, burned)
        assert manners.spins


def test_who_lets_go_by_himself() -> None:
    kind = ctypes.CFUNCTYPE(ctypes.c_int)
    assert waiting.lets_go(kind(lambda: 0))
    assert not waiting.lets_go(lambda: 0)


# -- lives ----------------------------------------------------------------------------------------


def test_the_last_use_ends_a_life() -> None:
    ended: list[str] = []
    life = Life("this thing", lambda: ended.append("end"))
    with life, life:
        life.close()
        life.close()
        assert not ended
        with pytest.raises(ClosedError, match="this thing is closed"):
            life.take()
        with pytest.raises(ClosedError, match="while it was waited for"):
            life.still_open()
        assert not life.ended(0)
    assert ended == ["end"]
    assert life.ended(0)
    life.close()
    assert ended == ["end"]


def test_an_end_that_fails_can_be_tried_again() -> None:
    attempts: list[int] = []

    def end() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("not yet")

    life = Life("this thing", end)
    with pytest.raises(OSError, match="not yet"):
        life.close()
    assert not life.gone
    life.close()
    assert life.gone


def test_many_threads_use_and_one_closes() -> None:
    ended: list[int] = []
    users = 0
    life = Life("this thing", lambda: ended.append(users))
    started = threading.Barrier(9)

    def use() -> None:
        nonlocal users
        started.wait()
        while True:
            try:
                life.take()
            except ClosedError:
                return
            users += 1
            users -= 1
            life.leave()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(0.01)
    life.close()
    for thread in threads:
        thread.join()
    assert len(ended) == 1


# -- Ctrl-C ---------------------------------------------------------------------------------------

_WAITS: dict[str, str] = {
    "semaphore": "semaphore.wait(1)",
    "with a timeout": "semaphore.wait(1, timeout=1000)",
    "a shared one": "shared.wait(1)",
    "fence": "fence.wait()",
    "all": "extmem.wait_all([(semaphore, 1), (other, 1)])",
    "any": "extmem.wait_any([(semaphore, 1), (other, 1)])",
    "a copy": "gpu.fill(buffer, 1, wait=[(semaphore, 1)])",
    "asyncio": "asyncio.run(main())",
}

_PROGRAM = """
import asyncio, sys
import extmem

with (
    extmem.open_device(driver="embedded") as gpu,
    gpu.semaphore() as semaphore, gpu.semaphore() as other, gpu.fence() as fence,
    gpu.semaphore(export="opaque_fd") as shared,
    gpu.allocate(64) as memory, gpu.buffer(memory) as buffer,
):
    async def main():
        print("waiting", flush=True)
        await semaphore.reached(1)
    try:
        if not {wait!r}.startswith("asyncio"):
            print("waiting", flush=True)
        {wait}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    semaphore.signal(1)
    if "fill" in {wait!r}:  # which goes on, and uses the buffer
        gpu.submit(fence=fence)
        fence.wait()
print("ended", flush=True)
"""


def _interrupted(wait: str, delay: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", _PROGRAM.format(wait=wait)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == "waiting\n"
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=90)
        finally:
            process.kill()
    assert said.splitlines() == ["interrupted", "ended"]
    assert process.returncode == 0


if sys.platform != "win32":  # which sends Ctrl-C to consoles only

    @pytest.mark.parametrize("what", _WAITS)
    def test_ctrl_c_ends_a_wait(what: str) -> None:
        _interrupted(_WAITS[what], 0.15)
