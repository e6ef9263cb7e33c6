"""Streams where something goes wrong just then: deaths, cancelled steps, and peers that hang up."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest

import extmem
from extmem import ClosedError, StreamEnded
from extmem.share import channel, joining, leases, looking, slots, stream, subscribing
from tests.support import second
from tests.support.streams import PATIENCE, fresh_name

pytestmark = pytest.mark.usefixtures("by_the_embedded_device")

SOON = 0.1  # seconds in which nothing happens


@pytest.fixture
def name(used_before: None) -> Iterator[str]:
    with fresh_name() as chosen:
        yield chosen


def put(source: stream.Stream) -> None:
    with source.frame() as frame:
        frame.numpy()[...] = source.sequence + 1


def soon(happened: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if happened():
            return True
        time.sleep(0.005)
    return False


def in_a_thread(act: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """What it came to, or its error, is in the list at the end."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(act())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, found


def publisher(home: Any, name: str, promises: str = "") -> None:
    """Publishes a frame for each letter, and again for those that it is sent: k for a promise that
    is kept, b for one that is broken, a dash for none.
    """
    with extmem.publish(name, shape=4, dtype="int64", policy="all", slots=6) as source:
        while True:
            for kind in promises or "-":
                with source.frame() as frame:
                    frame.numpy()[...] = source.sequence + 1
                    if kind in "kb":
                        ((semaphore, value),) = frame.promise()
                if kind == "k":
                    semaphore.signal(value)
            home.send("published")
            promises = home.receive()[0]


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Counts how often somebody tries to reach a publisher."""
    count = threading.Semaphore(0)
    original = subscribing.reach

    def reach(*options: Any) -> joining.Line:
        count.release()
        return original(*options)

    monkeypatch.setattr(subscribing, "reach", reach)
    return count


# -- who hangs up ---------------------------------------------------------------------------------


def test_a_listener_that_hangs_up_is_not_asked_for_ever(name: str) -> None:
    over = threading.Event()
    with channel.Listener(slots.listener_name(name)) as door:

        def hang_up() -> None:
            while not over.is_set():
                with suppress(TimeoutError, OSError, EOFError):
                    door.accept(timeout=SOON).close()

        listener = threading.Thread(target=hang_up)
        listener.start()
        try:
            thread, found = in_a_thread(lambda: extmem.subscribe(name, patience=SOON))
            thread.join(PATIENCE)
        finally:
            over.set()
            listener.join()
    assert not thread.is_alive()
    assert isinstance(found[0], ConnectionRefusedError)
    assert "hangs up on whoever comes" in str(found[0])


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="hardware: what Windows sends is in the peer's table at once, and the peer is this test",
)
def test_who_hangs_up_holds_nobody_else_up(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING, "extmem"),
        extmem.publish(name, shape=4, dtype="int64") as source,
    ):
        for _ in range(50):
            channel.connect(slots.listener_name(name), timeout=PATIENCE).close()
        with extmem.subscribe(name, timeout=PATIENCE, patience=PATIENCE) as frames:
            put(source)
            assert next(frames).sequence == 1
    assert [each for each in caplog.messages if "could not let somebody in" in each] == []


def test_a_look_takes_no_seat_while_it_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = joining._imported

    def imported(*options: Any) -> joining.Line:
        seen.append(len(source.readers))
        return original(*options)

    monkeypatch.setattr(joining, "_imported", imported)
    with extmem.publish(name, shape=4, dtype="int64", subscribers=1) as source:
        looking.Onlooker(name, patience=PATIENCE).close()
    assert seen == [0]


# -- recovery -------------------------------------------------------------------------------------


def test_who_closes_it_while_it_recovers_has_it_closed(
    name: str, attempts: threading.Semaphore
) -> None:
    with second.start(publisher, name=name) as process:
        process.receive()
        frames = extmem.subscribe(name, timeout=PATIENCE, resume=10 * PATIENCE)
        next(frames)
        assert attempts.acquire(timeout=PATIENCE)
        process.kill()
    thread, found = in_a_thread(lambda: next(frames))
    assert attempts.acquire(timeout=PATIENCE)
    frames.close()
    with extmem.publish(name, shape=4, dtype="int64") as source:
        put(source)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert isinstance(found[0], ClosedError)
        assert frames.closed
        assert soon(lambda: source.readers == [])


def test_closing_does_not_wait_for_another_publisher(
    name: str, attempts: threading.Semaphore
) -> None:
    async def recover() -> None:
        await anext(frames)
        assert attempts.acquire(timeout=PATIENCE)
        process.kill()
        step = asyncio.ensure_future(anext(frames))
        while not attempts.acquire(blocking=False):
            await asyncio.sleep(0.01)
        step.cancel()
        with suppress(asyncio.CancelledError):
            await step

    with second.start(publisher, name=name) as process:
        process.receive()
        frames = extmem.subscribe(name, timeout=PATIENCE, resume=10 * PATIENCE)
        asyncio.run(recover())
    thread, _ = in_a_thread(frames.close)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert frames.closed


def test_steps_that_are_cancelled_recover_once(name: str) -> None:
    async def main() -> None:
        kept = (await anext(frames)).keep()
        process.kill()
        for _ in range(5):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(frames), 4 * SOON)
        with extmem.publish(name, shape=4, dtype="int64", policy="all", timeout=PATIENCE) as source:
            put(source)
            assert (await anext(frames)).sequence == 1
            for number in range(2, 12):  # more than its slots: no seat is there that takes none
                put(source)
                assert (await anext(frames)).sequence == number
            assert [each.process_id for each in source.readers] == [os.getpid()]
            assert kept.numpy().tolist() == [1] * 4
            kept.release()
            frames.close()
            assert soon(lambda: source.readers == [])

    with second.start(publisher, name=name) as process:
        process.receive()
        with extmem.subscribe(name, policy="all", timeout=PATIENCE, resume=PATIENCE) as frames:
            asyncio.run(main())


# -- promises -------------------------------------------------------------------------------------


def test_a_cancelled_step_loses_no_frame_that_is_late(name: str) -> None:
    async def main() -> list[int]:
        with source.frame() as frame:
            frame.numpy()[...] = 1
            ((semaphore, value),) = frame.promise()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(frames), SOON)
        semaphore.signal(value)
        job = frames._sleeper().submit(int)  # what the step had begun is over when this is
        await asyncio.wrap_future(job)
        put(source)
        return [(await anext(frames)).sequence for _ in range(2)]

    with (
        extmem.publish(name, shape=4, dtype="int64", policy="all", slots=6) as source,
        extmem.subscribe(name, policy="all", timeout=PATIENCE) as frames,
    ):
        assert asyncio.run(main()) == [1, 2]


def test_nobody_gets_a_frame_that_was_not_written(name: str) -> None:
    """One subscriber has its device go on; the others know that this was no publisher's word."""
    with second.start(publisher, name=name, promises="b") as process:
        process.receive()
        first, other, late = (extmem.subscribe(name, timeout=SOON) for _ in range(3))
        with first, other, late, extmem.subscribe(name, timeout=PATIENCE, pending=True) as early:
            for frames in (first, other):
                with pytest.raises(TimeoutError, match="was handed over"):
                    next(frames)
                frames.timeout = PATIENCE
            frame = next(early).keep()
            process.kill()
            line = first._line
            assert line is not None
            assert soon(line.lost)
            with pytest.raises(StreamEnded, match="has died"):
                next(first)
            for frames in (other, late):
                with pytest.raises(StreamEnded, match="has died"):
                    next(frames)
            with pytest.raises(StreamEnded, match="has died"):
                frame.numpy()
            with pytest.raises(StreamEnded, match="has died"):
                _ = frame.ready
            frame.release()


def test_what_comes_after_an_unwritten_frame_is_not_lost(name: str) -> None:
    """Neither to who waits for that one, nor to who comes to it after the publisher's death."""
    with second.start(publisher, name=name, promises="-") as process:
        process.receive()
        first, other, late = (
            extmem.subscribe(name, policy="all", timeout=PATIENCE) for _ in range(3)
        )
        with first, other, late:
            for frames in (first, other, late):
                assert next(frames).sequence == 1
            process.send("b-")
            assert process.receive()[0] == "published"
            for frames in (first, other):
                frames.timeout = SOON
                with pytest.raises(TimeoutError, match="was handed over"):
                    next(frames)
                frames.timeout = PATIENCE
            process.kill()
            for frames in (first, other, late):
                assert soon(frames._open().lost)
                assert next(frames).sequence == 3
                with pytest.raises(StreamEnded, match="has died"):
                    next(frames)


def test_what_was_written_before_the_death_is_there(name: str) -> None:
    with second.start(publisher, name=name, promises="-b") as process:
        process.receive()
        # Nobody but this one subscribes, so that nobody moves the timeline on before it looks.
        with extmem.subscribe(name, timeout=PATIENCE, pending=True) as frames:
            unwritten = next(frames).keep()
            process.kill()
            with pytest.raises(StreamEnded):
                next(frames)
            assert unwritten.sequence == 2
            with pytest.raises(StreamEnded):
                unwritten.wait(PATIENCE)
            unwritten.release()
    with second.start(publisher, name=name, promises="k") as process:
        process.receive()
        with extmem.subscribe(name, timeout=PATIENCE, pending=True) as frames:
            written = next(frames).keep()
            process.kill()
            with pytest.raises(StreamEnded):
                next(frames)
            assert written.numpy().tolist() == [1] * 4
            written.release()


def test_no_device_waits_for_the_dead(name: str) -> None:
    """Although nobody here takes a step, or waits."""
    with second.start(publisher, name=name, promises="b") as process, extmem.open_device() as gpu:
        process.receive()
        with (
            extmem.subscribe(name, timeout=PATIENCE, pending=True, device=gpu) as frames,
            gpu.semaphore() as mine,
        ):
            frame = next(frames).keep()
            gpu.submit(wait=frame.ready, signal=[(mine, 1)])
            process.kill()
            try:
                mine.wait(1, PATIENCE)
            finally:
                with suppress(StreamEnded):
                    next(frames)
            frame.release()


# -- leases and fields ----------------------------------------------------------------------------


def test_moments_come_in_any_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    with (
        extmem.open_device() as gpu,
        gpu.semaphore() as never,
        gpu.semaphore() as soon_there,
    ):
        all_of_them = leases.Leases()
        for semaphore, word in ((never, "never"), (soon_there, "soon")):
            lease = leases.Lease(lambda word=word: ended.append(word))  # type: ignore[misc]
            lease.release([(semaphore, 1)])
            all_of_them._waiting.append(lease)
        monkeypatch.setattr(leases, "_SLICE", 10 * PATIENCE)

        def steps() -> None:
            while not ended:
                all_of_them._step()

        thread, _ = in_a_thread(steps)
        soon_there.signal(1)
        thread.join(PATIENCE)
        try:
            assert ended == ["soon"]
        finally:
            never.signal(1)
            thread.join(PATIENCE)


def test_two_moments_may_be_a_tuple(name: str) -> None:
    with (
        extmem.publish(name, shape=4, dtype="int64") as source,
        extmem.subscribe(name, timeout=PATIENCE) as frames,
    ):
        put(source)
        frame = next(frames).keep()
        with frame.memory.device.semaphore() as done:
            frame.release(after=((done, 1), (done, 2)))
            assert [each.holds for each in source.readers] == [1]
            done.signal(2)
            assert soon(lambda: [each.holds for each in source.readers] == [0])


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (datetime.datetime(2026, 1, 1), "when is a datetime"),
        ({"at": [1, decimal.Decimal("1.5")]}, r"when\['at'\]\[1\] is a Decimal"),
        ({1, 2}, "when is a set"),
        ({datetime.date(2026, 1, 1): 1}, "when has the key"),
    ],
    ids=["datetime", "decimal", "set", "key"],
)
def test_what_would_arrive_as_something_else_is_not_sent(
    name: str, value: object, where: str
) -> None:
    with extmem.publish(name, shape=4, dtype="int64") as source:
        with pytest.raises(TypeError, match=where), source.frame() as frame:
            frame.fields["when"] = value
        put(source)
        assert source.sequence == 1


def test_what_cannot_be_sent_is_not_taken_either(name: str) -> None:
    for value in (datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), msgspec.msgpack.Ext(1, b"")):
        with pytest.raises(ValueError, match="bytes that are no fields: when is a"):
            slots.decode_fields(msgspec.msgpack.encode({"when": value}))
