"""Streams: frames that are whole whatever happens to whom, policies, ends, limits, and leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import secrets
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest

import extmem
from extmem import ClosedError, StreamEnded, StreamFull, Unsupported, vk
from extmem.handles.words import PATIENCE as LOCKED
from extmem.share import channel, ring, slots, stream, subscribing
from extmem.share.frames import Frame
from extmem.share.ring import GivenSeat, Offer, TakenSeat
from tests.support import second
from tests.support.clock import lasted
from tests.support.leaks import held, left_over
from tests.support.second import Channel
from tests.support.streams import PATIENCE, Publish, fresh_name, publisher_of

LONG = bool(os.environ.get("EXTMEM_TEST_LONG"))
FRAME = 4096  # numbers in a frame of most tests


@pytest.fixture(autouse=True)
def _embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens a device by itself, here and in other processes, opens that one."""
    monkeypatch.setenv("EXTMEM_DRIVER", "embedded")


@pytest.fixture
def name() -> Iterator[str]:
    with fresh_name() as chosen:
        yield chosen


@pytest.fixture
def gpu(used_before: None) -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded") as opened:
        yield opened


@pytest.fixture
def publish(gpu: extmem.Device, name: str) -> Iterator[Publish]:
    """Publish small frames under the test's name."""
    with publisher_of(gpu, name, shape=4, dtype="int64") as begin:
        yield begin


Subscribe = Callable[..., subscribing.Subscription]


@pytest.fixture
def subscribe(gpu: extmem.Device, name: str) -> Iterator[Subscribe]:
    with ExitStack() as made:

        def begin(**options: Any) -> subscribing.Subscription:
            options = {"timeout": PATIENCE, "device": gpu, **options}
            return made.enter_context(extmem.subscribe(name, **options))

        yield begin


def put(source: stream.Stream, value: int | None = None, **fields: Any) -> None:
    """Publish a frame whose numbers are all the same: the frame's own, by default."""
    with source.frame() as frame:
        frame.numpy()[...] = source.sequence + 1 if value is None else value
        frame.fields.update(fields)


def numbers(frames: subscribing.Subscription, count: int) -> list[int]:
    return [next(frames).sequence for _ in range(count)]


# -- other processes ------------------------------------------------------------------------------


def told(home: Any) -> threading.Event:
    """Set once the test has sent something."""
    event = threading.Event()

    def listen() -> None:
        with suppress(EOFError, OSError):
            home.receive()
        event.set()

    threading.Thread(target=listen, daemon=True).start()
    return event


def reader(home: Any, name: str, driver: str, policy: str = "latest") -> dict[str, Any]:
    """Looks at every frame until the stream ends."""
    with (
        extmem.open_device(driver=driver) as gpu,
        extmem.subscribe(name, policy=policy, timeout=PATIENCE, device=gpu) as frames,
    ):
        home.send("joined")
        seen = []
        for frame in frames:
            found = frame.numpy()
            assert (found == frame.sequence).all()
            seen.append([frame.sequence, frame.fields])
            del found
        del frame
        return {"seen": seen, "shape": list(frames.shape), "dtype": str(frames.dtype)}


def holder(home: Any, name: str, keeps: int) -> None:
    """Keeps some frames, and says so."""
    with extmem.subscribe(name, policy="all", timeout=PATIENCE) as frames:
        home.send("joined")
        kept = [next(frames).keep() for _ in range(keeps)]
        home.send(len(kept))
        home.receive()


def publisher(home: Any, name: str, size: int = 4, frames: int = 1, close: bool = False) -> None:
    """Publishes some frames, and waits to be told."""
    with extmem.publish(name, shape=size, dtype="int64") as source:
        for _ in range(frames):
            put(source)
        home.send("published")
        home.receive()
        if not close:
            os._exit(0)


# -- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["latest", "all"])
def test_another_process_sees_the_frames_of_every_driver(
    driver: str, name: str, policy: str
) -> None:
    with (
        extmem.open_device(driver=driver) as gpu,
        extmem.publish(
            name, shape=(3, 5), dtype="float32", policy=policy, device=gpu, timeout=PATIENCE
        ) as source,
        second.start(reader, name=name, driver=driver, policy=policy) as process,
    ):
        assert process.receive()[0] == "joined"
        for number in range(1, 101):
            put(source, exposure=number / 2)
        source.close()
        told = process.result()
    sequences = [sequence for sequence, _ in told["seen"]]
    assert sequences == sorted(set(sequences))
    assert sequences[-1] == 100  # whoever is slow misses some, but never the newest
    if policy == "all":
        assert sequences == list(range(1, 101))
    assert all(fields == {"exposure": sequence / 2} for sequence, fields in told["seen"])
    assert (told["shape"], told["dtype"]) == ([3, 5], "float32")


def test_the_newest_frame_is_what_is_seen(publish: Publish, subscribe: Subscribe) -> None:
    source = publish()
    put(source)
    frames = subscribe()
    assert numbers(frames, 1) == [1]  # what was there when it came
    for _ in range(5):
        put(source)
    assert numbers(frames, 1) == [6]
    put(source)
    assert numbers(frames, 1) == [7]
    frames.timeout = 0.05
    with pytest.raises(TimeoutError, match=r"no frame of .* came from process \d+ in 0.05 s"):
        next(frames)
    put(source)
    assert numbers(frames, 1) == [8]  # and goes on


def test_every_frame_is_seen_in_order(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(policy="all", slots=5)
    every, newest = subscribe(policy="all"), subscribe()
    seen = []
    for _ in range(20):
        for _ in range(3):
            put(source)
        seen += numbers(every, 3)
        assert numbers(newest, 1) == [seen[-1]]
    assert seen == list(range(1, 61))


def test_who_wants_every_frame_must_be_given_them(publish: Publish, subscribe: Subscribe) -> None:
    source = publish()
    with pytest.raises(Unsupported, match="publish it with policy='all'"):
        subscribe(policy="all")
    assert _soon(lambda: source.readers == [])


def all_of_them(channel: Channel, name: str) -> None:
    with extmem.subscribe(name, policy="all", timeout=PATIENCE, patience=PATIENCE) as frames:
        channel.send([frame.sequence for frame in frames])


@pytest.mark.parametrize("waits", [True, False], ids=["wait_for", "readers"])
def test_who_is_there_misses_nothing(publish: Publish, name: str, waits: bool) -> None:
    """Also where the stream ends at once: whoever is still joining is not there yet."""
    with second.start(all_of_them, name=name) as other:
        source = publish(policy="all", timeout=PATIENCE)
        if waits:
            source.wait_for(subscribers=1, timeout=PATIENCE)
        else:
            assert _soon(lambda: source.readers != [])
        for _ in range(100):
            put(source)
        source.close()
        assert other.receive()[0] == list(range(1, 101))


def test_nobody_comes(publish: Publish) -> None:
    source = publish()
    with pytest.raises(TimeoutError, match=r"0 of 2 subscribers are there after 0\.01 s"):
        source.wait_for(2, timeout=0.01)
    source.close()
    with pytest.raises(ClosedError):
        source.wait_for(1, timeout=PATIENCE)


def test_the_publisher_waits_for_the_slowest(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(policy="all", slots=3)
    frames = subscribe(policy="all")
    for _ in range(3):
        put(source)
    began = time.monotonic()
    with (
        pytest.raises(TimeoutError, match=rf"process {os.getpid()} has 3"),
        source.frame(timeout=0.2),
    ):
        pass
    assert lasted(began, 0.2)
    assert time.monotonic() - began < PATIENCE
    threading.Timer(0.2, lambda: numbers(frames, 2)).start()  # the second step gives back the first
    with source.frame(timeout=PATIENCE) as frame:
        frame.numpy()[:] = 4
    assert time.monotonic() - began < PATIENCE
    assert _soon(lambda: frames._frame is not None and frames._frame.sequence == 2)
    assert numbers(frames, 2) == [3, 4]


def test_without_subscribers_nobody_is_waited_for(publish: Publish) -> None:
    source = publish(policy="all", slots=2, timeout=0)
    for _ in range(100):
        put(source)
    assert source.sequence == 100


def test_a_publisher_of_the_latest_never_waits(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(slots=4)
    frames = subscribe()
    kept = []
    for _ in range(2):
        put(source)
        kept.append(next(frames).keep())
    put(source)  # 2 held, this one, and one to write
    put(source)
    put(source)
    kept.append(next(frames).keep())
    put(source)
    with pytest.raises(StreamFull, match=rf"process {os.getpid()} has 4.*slots= \(one for each"):
        put(source)
    assert [int(each.numpy()[0]) for each in kept] == [1, 2, 5]
    kept.pop().release()
    put(source)
    assert source.sequence == 7
    del frames
    for each in kept:
        each.release()


def test_what_is_left_by_an_exception_is_not_published(
    publish: Publish, subscribe: Subscribe
) -> None:
    source = publish()
    frames = subscribe()
    for _ in range(10):  # and its slot is free again
        with pytest.raises(RuntimeError, match="no picture"), source.frame():
            raise RuntimeError("no picture")
    put(source)
    assert numbers(frames, 1) == [1]
    with pytest.raises(ClosedError, match="not being written"):
        source.frame().numpy()


def test_a_frame_is_read_without_a_copy_and_cannot_be_written(
    publish: Publish, subscribe: Subscribe
) -> None:
    source = publish()
    with source.frame() as draft:
        draft.numpy()[:] = 1
        address = draft.memory
    frame = next(subscribe())
    found = frame.numpy()
    assert not found.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 2
    with pytest.raises(ValueError, match="WRITEABLE"):
        found.flags.writeable = True
    address.numpy("int64")[3] = 9  # as nobody should: the other side sees it at once
    assert found.tolist() == [1, 1, 1, 9]


def test_frames_are_tensors(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(shape=(2, 3), dtype="float32")
    with source.frame() as draft:
        draft.numpy()[:] = 5
        assert np.shares_memory(np.from_dlpack(draft), draft.numpy())
    frame = next(subscribe())
    if np.lib.NumpyVersion(np.__version__) < "2.1.0":
        with pytest.raises(extmem.TensorError, match="to be read alone"):
            np.from_dlpack(frame)
        return
    tensor = np.from_dlpack(frame)
    assert (tensor.shape, tensor.dtype, float(tensor.sum())) == ((2, 3), np.float32, 30.0)
    assert not tensor.flags.writeable
    assert np.shares_memory(tensor, frame.numpy())
    frame.release()
    with pytest.raises(ClosedError):
        np.from_dlpack(frame)


def test_the_clock_is_the_publishers(publish: Publish, subscribe: Subscribe) -> None:
    source = publish()
    frames = subscribe()
    before = time.monotonic_ns()
    put(source)
    after = time.monotonic_ns()
    assert before <= next(frames).time <= after


# -- fields ---------------------------------------------------------------------------------------


def test_fields_are_bounded_and_plain(publish: Publish, subscribe: Subscribe) -> None:
    source = publish()
    frames = subscribe()
    given = {"exposure": 0.5, "tags": ["a", "b"], "raw": b"\0\1", "nested": {"n": None}}
    put(source, **given)
    assert next(frames).fields == given
    put(source)
    assert next(frames).fields == {}
    put(source, text="x" * (ring.LARGEST_FIELDS - 20))
    assert len(next(frames).fields["text"]) == ring.LARGEST_FIELDS - 20
    with pytest.raises(ValueError, match=rf"{ring.LARGEST_FIELDS} are allowed"):
        put(source, text="x" * ring.LARGEST_FIELDS)
    with pytest.raises(TypeError, match="cannot be sent"):
        put(source, thing=object())
    with pytest.raises(TypeError, match="names as keys"), source.frame() as draft:
        draft.fields[1] = 2  # type: ignore[index]
    put(source)
    assert numbers(frames, 1) == [4]


# -- keeping --------------------------------------------------------------------------------------


def test_the_next_step_releases_the_frame_unless_it_is_kept(
    publish: Publish, subscribe: Subscribe
) -> None:
    source = publish()
    frames = subscribe()
    put(source)
    first = next(frames)
    put(source)
    with next(frames).keep() as kept:
        assert first.released
        with pytest.raises(ClosedError, match="frame 1 was released"):
            first.numpy()
        for _ in range(10):
            put(source)
            next(frames)
        assert (kept.numpy() == 2).all()
    assert kept.released
    kept.release()
    with pytest.raises(ClosedError):
        kept.keep()


def test_what_is_kept_outlives_the_subscription(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(slots=3)
    for close in (True, False):
        frames = extmem.subscribe(source.name, timeout=PATIENCE)
        put(source)
        kept = next(frames).keep() if close else next(frames)
        if close:
            frames.close()
        del frames  # one that is forgotten keeps the frame that is still looked at
        value = int(kept.numpy()[0])
        for _ in range(10):
            put(source)
        assert (kept.numpy() == value).all()
        assert [each.holds for each in source.readers] == [2]
        kept.release()
        assert source.readers == []
        del kept


# -- ends -----------------------------------------------------------------------------------------


def test_closing_ends_the_iteration_after_what_was_offered(
    publish: Publish, subscribe: Subscribe
) -> None:
    source = publish(policy="all")
    every, newest = subscribe(policy="all"), subscribe()
    for _ in range(3):
        put(source)
    source.close()
    source.close()
    assert [frame.sequence for frame in every] == [1, 2, 3]
    assert [frame.sequence for frame in newest] == [3]
    assert every.closed
    with pytest.raises(StopIteration):
        next(every)
    with pytest.raises(ClosedError, match="is closed"):
        put(source)


def test_closing_wakes_who_waits(publish: Publish, subscribe: Subscribe) -> None:
    source = publish()
    frames = subscribe()
    threading.Timer(0.2, source.close).start()
    assert list(frames) == []


def test_a_subscription_that_is_closed_tells_who_waits(
    publish: Publish, subscribe: Subscribe
) -> None:
    publish()
    frames = subscribe()
    threading.Timer(0.2, frames.close).start()
    with pytest.raises(ClosedError, match="is closed"):
        next(frames)


def test_the_orders_of_closing(gpu: extmem.Device, name: str) -> None:
    """Stream, subscription, arrays: whichever goes first, nothing stays and nothing dies."""
    for order in ("sfa", "saf", "fsa", "fas", "asf", "afs"):
        source = extmem.publish(name, shape=4, dtype="int64")
        frames = extmem.subscribe(name, timeout=PATIENCE)
        put(source, 7)
        frame = next(frames)
        array: Any = frame.numpy()
        for what in order:
            if what == "s":
                source.close()
            elif what == "f":
                frames.close()
            else:
                assert (array == 7).all()
                array = None
        del frame


def test_a_publisher_that_is_killed_is_noticed(name: str, used_before: None) -> None:
    with second.start(publisher, name=name) as process:
        process.receive()
        with extmem.subscribe(name, timeout=PATIENCE) as frames:
            assert numbers(frames, 1) == [1]
            process.kill()
            began = time.monotonic()
            with pytest.raises(StreamEnded, match=rf"process {process.pid}, .* has died"):
                next(frames)
            assert time.monotonic() - began < PATIENCE / 2  # at once, and not by a timeout
            with pytest.raises(ClosedError):
                next(frames)


def test_subscribers_go_on_with_another_publisher(name: str, used_before: None) -> None:
    with ExitStack() as processes:
        first = processes.enter_context(second.start(publisher, name=name, frames=3))
        first.receive()
        with extmem.subscribe(name, timeout=PATIENCE, resume=PATIENCE) as frames:
            assert numbers(frames, 1) == [3]
            kept = next_kept(frames)
            first.kill()
            other = processes.enter_context(second.start(publisher, name=name, close=True))
            assert numbers(frames, 1) == [1]
            assert frames.publisher == other.pid
            assert kept is None or kept.numpy()[0] == 3
            other.send("end")
            assert list(frames) == []


def next_kept(frames: subscribing.Subscription) -> Frame | None:
    frame = frames._frame
    return None if frame is None else frame.keep()


def test_another_publisher_has_to_publish_what_is_alike(name: str, used_before: None) -> None:
    with ExitStack() as processes:
        first = processes.enter_context(second.start(publisher, name=name))
        first.receive()
        with extmem.subscribe(name, timeout=PATIENCE, resume=PATIENCE) as frames:
            next(frames)
            first.kill()
            processes.enter_context(second.start(publisher, name=name, size=5))
            with pytest.raises(StreamEnded, match=r"\(5,\) of int64 instead of \(4,\)"):
                next(frames)


def test_nobody_comes_back(name: str, used_before: None) -> None:
    with second.start(publisher, name=name) as process:
        process.receive()
        with extmem.subscribe(name, timeout=PATIENCE, resume=0.3) as frames:
            next(frames)
            process.kill()
            with pytest.raises(StreamEnded, match=r"within 0\.3 s"):
                next(frames)


def test_a_subscriber_that_is_killed_gives_its_slots_back(publish: Publish, name: str) -> None:
    source = publish(policy="all", slots=4, timeout=PATIENCE)
    with second.start(holder, name=name, keeps=4) as process:
        process.receive()
        for _ in range(4):
            put(source)
        assert process.receive()[0] == 4
        assert source.readers == [(process.pid, 4)]
        began = time.monotonic()
        threading.Timer(0.1, process.process.kill).start()
        put(source)
        assert time.monotonic() - began < PATIENCE / 2  # at once, and not by a timeout
    assert source.readers == []


# -- limits ---------------------------------------------------------------------------------------


def test_seats_are_limited_and_given_again(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(subscribers=2)
    first, _second = subscribe(), subscribe()
    with pytest.raises(StreamFull, match="2 are its limit"):
        subscribe()
    first.close()
    _third = subscribe()
    assert len(source.readers) == 2


def test_who_asks_for_a_seat_and_does_not_take_it(
    publish: Publish, subscribe: Subscribe, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "_TO_JOIN", 0.3)
    source = publish(subscribers=1)
    put(source)
    with channel.connect(slots.listener_name(name)) as other:
        other.receive(timeout=PATIENCE).close()
    assert _soon(lambda: [seat.used.bit_count() for seat in source._seats] == [1])
    assert source.readers == []  # nobody, but the seat is given away
    assert _soon(lambda: source.readers == [] and source._seats == [])  # who asks, looks around
    assert numbers(subscribe(), 1) == [1]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"name": "no spaces"}, ValueError, "the name of a stream is 'no spaces'"),
        ({"name": "x" * 33}, ValueError, "1 to 32"),
        ({"policy": "some"}, ValueError, "policy is 'some'"),
        ({"slots": 1}, ValueError, "slots is 1; expected a number from 2 to 29"),
        ({"slots": 30}, ValueError, "from 2 to 29"),
        ({"subscribers": 65}, ValueError, "from 1 to 64"),
        ({"dtype": "O"}, TypeError, "plain numbers"),
        ({"shape": (3, 0)}, ValueError, "above 0"),
        ({"shape": (3, 1.5)}, ValueError, "whole numbers"),
        ({"timeout": -1}, ValueError, "timeout is -1"),
    ],
)
def test_what_cannot_be_published(
    gpu: extmem.Device, name: str, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    options = {"name": name, "shape": 4, "dtype": "uint8", "device": gpu, **options}
    with pytest.raises(error, match=words):
        extmem.publish(options.pop("name"), **options)


if sys.platform != "win32":  # Wine lets two processes begin a pipe; Windows does not

    def test_a_name_has_one_publisher(publish: Publish, gpu: extmem.Device, name: str) -> None:
        publish()
        with pytest.raises(FileExistsError):
            extmem.publish(name, shape=1, dtype="uint8", device=gpu)


def test_nobody_publishes(name: str, gpu: extmem.Device) -> None:
    with pytest.raises(ConnectionRefusedError, match=f"nobody publishes {name!r}"):
        extmem.subscribe(name, patience=0.1, device=gpu)
    with pytest.raises(ValueError, match="the name of a stream"):
        extmem.subscribe("../x", device=gpu)


@pytest.mark.parametrize(
    "message", [b"", b"\x91\x02", b"\xc1", b"\x93\x01\xa0\x90", bytes(1000), b"\x91" * 5000]
)
def test_a_publisher_that_lies(name: str, gpu: extmem.Device, message: bytes) -> None:
    with channel.Listener(slots.listener_name(name)) as door:

        def lie() -> None:
            with door.accept(timeout=PATIENCE) as other:
                other.send(message)

        thread = threading.Thread(target=lie)
        thread.start()
        with pytest.raises(ConnectionAbortedError, match="sent what is no stream"):
            extmem.subscribe(name, device=gpu)
        thread.join()


def test_seats_believe_nothing(used_before: None) -> None:
    """Whatever a subscriber writes into its page, the publisher goes on, and frees what it can."""
    chance = random.Random(5)
    for _ in range(30):
        pages, handle = ring.seat_pages(bytes(16))
        with handle:
            given = GivenSeat(pages, 1, keeps_all=True)
            theirs = ring.opened_pages(handle, None, bytes(16))
            taken = TakenSeat(theirs)
            assert taken.join(every_frame=chance.random() < 0.5)
            for sequence in range(1, 20):
                slot = sequence % 30
                theirs.put(512, chance.randbytes(4096 - 512))
                theirs.put(0, chance.randbytes(16))
                given.offer(Offer(slot, sequence))
                assert 0 <= given.used < 1 << 30
                _ = given.gone
            taken.leave()
            given.end()
            given.close()


def test_the_device_has_to_be_the_streams(publish: Publish, name: str) -> None:
    source = publish()
    with (
        extmem.open_device(driver="embedded", index=1) as other,
        pytest.raises(extmem.PassportError, match="open that device"),
    ):
        extmem.subscribe(name, device=other)
    assert _soon(lambda: source.readers == [])


def test_frames_that_only_the_collector_releases(publish: Publish, subscribe: Subscribe) -> None:
    """It comes at any time, in the middle of a change as well."""
    source = publish(policy="all", slots=29, timeout=PATIENCE)
    frames = subscribe(policy="all")
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for number in range(1, 301):
            put(source)
            knot: list[Any] = [next(frames).keep()]
            assert knot[0].sequence == number
            knot.append(knot)
            del knot
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert source.readers == [(os.getpid(), 1)]  # what the next step releases


# -- several at once ------------------------------------------------------------------------------


def test_asyncio(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(policy="all", slots=6)

    async def main() -> list[int]:
        frames = subscribe(policy="all")
        for _ in range(3):
            put(source)
        seen = []
        async for frame in frames:
            assert (frame.numpy() == frame.sequence).all()
            seen.append(frame.sequence)
            if len(seen) == 3:  # from now on it has to be waited for
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(frames), 0.1)
                asyncio.get_running_loop().call_later(0.05, put, source)
            elif len(seen) == 4:
                asyncio.get_running_loop().call_later(0.05, source.close)
        assert frames.closed
        return seen

    assert asyncio.run(main()) == [1, 2, 3, 4]


def test_asyncio_meets_the_same_ends(name: str, used_before: None) -> None:
    async def main(process: second.Other) -> None:
        with extmem.subscribe(name, timeout=PATIENCE) as frames:
            await anext(frames)
            frames.timeout = 0.1
            with pytest.raises(TimeoutError, match="no frame of"):
                await anext(frames)
            process.kill()
            frames.timeout = PATIENCE
            with pytest.raises(StreamEnded, match="has died"):
                await anext(frames)

    with second.start(publisher, name=name) as process:
        process.receive()
        asyncio.run(main(process))


def test_several_threads_publish(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(policy="all", slots=8, timeout=PATIENCE)
    frames = subscribe(policy="all")

    def work(token: int) -> None:
        for _ in range(50):
            with source.frame() as frame:
                frame.numpy()[:] = token
                frame.fields["token"] = token

    threads = [threading.Thread(target=work, args=(token,)) for token in range(3)]
    for each in threads:
        each.start()
    for sequence in range(1, 151):
        frame = next(frames)
        assert frame.sequence == sequence
        assert (frame.numpy() == frame.fields["token"]).all()
    for each in threads:
        each.join()


def test_a_seat_whose_lock_is_kept_holds_nobody_up(publish: Publish, subscribe: Subscribe) -> None:
    """As by a process that was stopped in the middle of a change."""
    source = publish(slots=4)
    stuck, free = subscribe(), subscribe()
    put(source)
    assert numbers(stuck, 1) == numbers(free, 1) == [1]
    inside, go_on = threading.Event(), threading.Event()

    def stop(state: int) -> None:
        inside.set()
        go_on.wait(PATIENCE)

    line = stuck._line
    assert line is not None
    thread = threading.Thread(target=lambda: line.seat._state.change(stop))
    thread.start()
    assert inside.wait(PATIENCE)
    began = time.monotonic()
    for number in range(2, 102):
        put(source)
        assert numbers(free, 1) == [number]
    assert time.monotonic() - began < LOCKED
    go_on.set()
    thread.join()
    assert numbers(stuck, 1) == [101]  # the newest one came late, with nobody publishing


# -- what a frame costs -------------------------------------------------------------------------


def test_nothing_is_made_for_a_frame(
    publish: Publish, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = publish(shape=FRAME, policy="all", slots=4)
    frames = subscribe(policy="all")

    def some() -> None:
        for _ in range(50):
            put(source)
            frame = next(frames)
            assert frame.numpy()[0] == frame.sequence
            del frame

    calls: list[str] = []
    some()
    for command in ("vkAllocateMemory", "vkMapMemory", "vkGetMemoryFdKHR", "vkCreateBuffer"):
        original = getattr(vk, command)
        monkeypatch.setattr(
            vk, command, lambda *a, o=original, c=command: (calls.append(c), o(*a))[1]
        )
    before = held()
    some()
    assert left_over(before) == []
    assert calls == []


def test_a_thousand_streams_leave_nothing(gpu: extmem.Device, name: str) -> None:
    for _ in range(1000 if LONG else 30):
        with extmem.publish(name, shape=4, dtype="int64", device=gpu) as source:
            frames = extmem.subscribe(name, device=gpu, timeout=PATIENCE)
            put(source)
            next(frames)
        frames.close()


def test_a_forgotten_stream_warns_and_goes(gpu: extmem.Device, name: str) -> None:
    source = extmem.publish(name, shape=4, dtype="int64", device=gpu)
    weak = weakref.ref(source)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del source  # its thread may have it for a moment
        assert _soon(lambda: weak() is None)
    assert ["was never closed" in str(each.message) for each in told] == [True]
    assert _soon(lambda: _is_free(name, gpu))


def _is_free(name: str, gpu: extmem.Device) -> bool:
    try:
        extmem.publish(name, shape=4, dtype="int64", device=gpu).close()
    except FileExistsError:
        return False
    return True


def _soon(what: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def forking(home: Any, name: str) -> dict[str, Any]:
    """Publishes and subscribes, and has a child that closes all that it finds."""
    with (
        extmem.publish(name, shape=4, dtype="int64", slots=3) as source,
        extmem.subscribe(name, timeout=PATIENCE) as frames,
    ):
        put(source)
        kept = next(frames).keep()
        child = os.fork()
        if not child:
            code = 1
            with suppress(BaseException):
                kept.release()
                frames.close()
                try:
                    put(source)
                except Unsupported:
                    code = 0
                source.close()
            os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for _ in range(10):
            put(source)
        whole = bool((kept.numpy() == 1).all())
        kept.release()
        return {"child": ended, "kept": whole, "next": numbers(frames, 1)}


def forked_and_killed(home: Any, name: str) -> None:
    """Publishes, and leaves a child behind that has copies of everything."""
    with extmem.publish(name, shape=4, dtype="int64") as source:
        put(source)
        child = os.fork()
        if not child:
            time.sleep(PATIENCE)
            os._exit(0)
        home.send(child)
        home.receive()


fork = pytest.mark.skipif(sys.platform == "win32", reason="hardware: Windows has no fork")


@fork
def test_a_forked_child_takes_no_part(name: str) -> None:
    told = second.run(forking, name=name)
    assert told == {"child": 0, "kept": True, "next": [11]}


@fork
def test_a_publisher_dies_although_a_child_of_it_lives(name: str, used_before: None) -> None:
    with second.start(forked_and_killed, name=name) as process:
        child = process.receive()[0]
        try:
            with extmem.subscribe(name, timeout=PATIENCE, resume=PATIENCE) as frames:
                next(frames)
                process.kill()
                with second.start(publisher, name=name, close=True) as other:
                    assert numbers(frames, 1) == [1]
                    assert frames.publisher == other.pid
        finally:
            os.kill(child, signal.SIGKILL)


# -- nothing is torn ------------------------------------------------------------------------------


def restless_publisher(home: Any, name: str, slots: int) -> dict[str, Any]:
    """Publishes as fast as it can until it is told to end; then all slots have to be free."""
    end = told(home)
    token = os.getpid() << 32
    with extmem.publish(name, shape=FRAME, dtype="uint64", slots=slots) as source:
        home.send("published")
        while not end.is_set():
            with source.frame() as frame:
                array, value = frame.numpy(), token | source.sequence + 1
                for part in range(8):  # slowly, so that who looks too early sees it
                    array[part::8] = value
                frame.fields["token"] = token
        assert _soon(lambda: source.readers == []), source.readers
        for _ in range(3 * slots):
            put(source)
        return {"frames": source.sequence, "used": source._writing}


def restless_reader(home: Any, name: str, seed: int) -> dict[str, Any]:
    """Looks at each frame several times, with pauses; keeps some for a while."""
    end = told(home)
    chance = random.Random(seed)
    torn: list[str] = []
    count = publishers = 0

    def look(frame: Frame) -> None:
        array = frame.numpy()
        low, high = int(array.min()), int(array.max())
        if (
            low != high
            or low & 0xFFFFFFFF != frame.sequence
            or low >> 32 << 32 != frame.fields["token"]
        ):
            torn.append(f"frame {frame.sequence}: {low:#x} to {high:#x}")

    last = 0
    kept: Frame | None = None
    with extmem.subscribe(name, timeout=PATIENCE, patience=PATIENCE, resume=PATIENCE) as frames:
        home.send("joined")
        for frame in frames:
            publishers += frame.sequence <= last
            last = frame.sequence
            look(frame)
            if chance.random() < 0.3:  # as if it lost its processor between claim and use
                time.sleep(chance.random() * 0.004)
                look(frame)
            if kept is not None and chance.random() < 0.2:
                look(kept)
                kept.release()
                kept = None
            elif kept is None and chance.random() < 0.1:
                kept = frame.keep()
            count += 1
            if torn or end.is_set():
                break
        del frame
        if kept is not None:
            look(kept)
            kept.release()
    return {"frames": count, "torn": torn, "resumed": publishers}


READERS = 4


def test_no_frame_is_torn_whatever_happens(name: str, used_before: None) -> None:
    """Readers and publishers are killed and stopped at random."""
    chance = random.Random(secrets.randbits(32))
    limit = 2 * READERS + 3  # what they hold, the newest, one to write, one of who joins
    frames = torn = kills = stops = 0
    stoppable = sys.platform != "win32"
    with ExitStack() as all_of_them:

        def start(function: Any, **options: Any) -> second.Other:
            other = all_of_them.enter_context(second.start(function, name=name, **options))
            other.receive()
            return other

        def read() -> second.Other:
            return start(restless_reader, seed=chance.randrange(1 << 30))

        def write() -> second.Other:
            return start(restless_publisher, slots=limit)

        source = write()
        readers = [read() for _ in range(READERS)]
        until = time.monotonic() + (60 if LONG else 4)
        while time.monotonic() < until or kills < 3:
            time.sleep(chance.random() * 0.1)
            which, what = chance.randrange(READERS), chance.random()
            if what < 0.06:
                source.kill()
                source = write()
                kills += 1
            elif what < 0.2:
                readers[which].kill()
                readers[which] = read()
                kills += 1
            elif stoppable:
                victim = source if what > 0.9 else readers[which]
                os.kill(victim.pid, signal.SIGSTOP)
                time.sleep(chance.random() * 0.2)
                os.kill(victim.pid, signal.SIGCONT)
                stops += 1
        for each in readers:
            each.send("end")
        for each in readers:
            told = each.result()
            frames += told["frames"]
            torn += len(told["torn"])
            assert told["torn"] == []
        source.send("end")
        told = source.result()
        assert told["used"] == 0
    assert torn == 0
    assert frames > 0
    print(f"{frames} frames seen, {torn} torn, {kills} killed, {stops} stopped")
