"""Streams whose frames a device writes and reads: promises, leases, memory that it alone sees."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import extmem
from extmem import StreamEnded, StreamFull, TensorError, Unsupported
from extmem.share import making, ring, stream
from tests.support import second
from tests.support.streams import (
    PATIENCE,
    Publish,
    Subscribe,
    fresh_name,
    publisher_of,
    subscriber_of,
)
from tests.support.tensors import NUMPY_HAS_VERSIONS, Asking, Taken

pytestmark = pytest.mark.usefixtures("by_the_embedded_device")

SOON = 0.1  # seconds in which nothing happens


@pytest.fixture
def name() -> Iterator[str]:
    with fresh_name() as chosen:
        yield chosen


@pytest.fixture
def gpu(used_before: None) -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded") as opened:
        yield opened


@pytest.fixture
def gate(gpu: extmem.Device) -> extmem.Semaphore:
    """What holds up the device until it is signalled; closed with the device."""
    return gpu.semaphore()


@pytest.fixture
def publish(gpu: extmem.Device, name: str) -> Iterator[Publish]:
    with publisher_of(gpu, name, shape=4, dtype="int64") as begin:
        yield begin


@pytest.fixture
def subscribe(name: str) -> Iterator[Subscribe]:
    with subscriber_of(name) as begin:
        yield begin


def put(source: stream.Stream) -> None:
    with source.frame() as frame:
        frame.numpy()[...] = source.sequence + 1


def promise(source: stream.Stream, gate: extmem.Semaphore, value: int) -> None:
    """A frame that is written when the gate has come to a value."""
    with source.frame() as frame:
        frame.numpy()[...] = source.sequence + 1
        source._slots.memories[0].device.submit(wait=[(gate, value)], signal=frame.promise())


def soon(happened: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if happened():
            return True
        time.sleep(0.005)
    return False


# -- memory that the device alone sees ------------------------------------------------------------


def copier(home: Any, name: str, frames: int) -> list[int]:
    """Copies each frame on its device, and says what was in it."""
    with (
        extmem.open_device(driver="embedded") as gpu,
        extmem.subscribe(
            name, policy="all", timeout=PATIENCE, device=gpu, pending=True
        ) as arriving,
        gpu.allocate(32) as memory,
        gpu.buffer(memory) as target,
        gpu.semaphore() as done,
    ):
        home.send("joined")
        seen = []
        for number in range(1, frames + 1):
            frame = next(arriving).keep()
            gpu.copy(frame.buffer, target, wait=frame.ready, signal=[(done, number)])
            seen.append(int(memory.numpy("int64")[3]))
            frame.release(after=(done, number))
        return seen


def test_slots_that_no_processor_sees(gpu: extmem.Device, publish: Publish, name: str) -> None:
    source = publish(memory="device_local", policy="all", timeout=PATIENCE)
    assert not source._slots.memories[0].host_visible
    with (
        gpu.allocate(32) as memory,
        gpu.buffer(memory) as pixels,
        second.start(copier, name=name, frames=20) as process,
    ):
        assert process.receive()[0] == "joined"
        for number in range(1, 21):
            memory.numpy("int64")[:] = number
            with source.frame() as frame:
                gpu.copy(pixels, frame.buffer, signal=frame.promise() if number % 2 else ())
        assert process.result() == list(range(1, 21))


def test_what_the_processor_does_not_see_has_no_array(
    publish: Publish, subscribe: Subscribe
) -> None:
    source = publish(memory="device_local")
    with source.frame() as draft, pytest.raises(Unsupported, match=r"memory='host_visible'"):
        draft.numpy()
    frame = next(subscribe())
    with pytest.raises(Unsupported, match=r"copy from frame.buffer"):
        frame.numpy()
    with pytest.raises(TensorError, match="no GPU of NVIDIA's"):
        np.from_dlpack(frame)


# -- promises -------------------------------------------------------------------------------------


def test_a_frame_that_is_promised_comes_when_it_is_written(
    publish: Publish, subscribe: Subscribe, gate: extmem.Semaphore
) -> None:
    source = publish(policy="all")
    frames = subscribe(policy="all")
    promise(source, gate, 1)
    frames.timeout = SOON
    for _ in range(2):  # it is not lost by that
        with pytest.raises(TimeoutError, match=r"frame 1 .* was handed over, .* has not written"):
            next(frames)
    frames.timeout = PATIENCE
    threading.Timer(SOON, gate.signal, [1]).start()
    frame = next(frames)
    assert (frame.sequence, frame.ready, frame.numpy().tolist()) == (1, [], [1] * 4)
    put(source)  # one that is written when it is left, after one that was not
    assert next(frames).sequence == 2


def test_whoever_does_not_wait_has_it_at_once(
    publish: Publish, subscribe: Subscribe, gate: extmem.Semaphore
) -> None:
    source = publish()
    frames = subscribe(pending=True)
    promise(source, gate, 1)
    frame = next(frames)
    ((semaphore, value),) = frame.ready
    with semaphore.device.semaphore() as mine:
        semaphore.device.submit(wait=frame.ready, signal=[(mine, 1)])
        with pytest.raises(TimeoutError, match=r"which promised it, has not written it in 0\.1 s"):
            frame.wait(SOON)
        assert mine.value == 0
        gate.signal(1)
        mine.wait(1, PATIENCE)
        frame.wait(PATIENCE)
    assert frame.ready == []
    assert semaphore.value == value


def promiser(home: Any, name: str) -> None:
    with (
        extmem.open_device(driver="embedded") as gpu,
        gpu.semaphore() as gate,
        extmem.publish(name, shape=4, dtype="int64", device=gpu) as source,
    ):
        home.send("publishes")
        home.receive()
        promise(source, gate, 1)
        home.send("promised")
        if home.receive()[0] == "die":
            os._exit(0)
        gate.signal(1)
        home.receive()


def test_another_process_waits_for_the_device(name: str, used_before: None) -> None:
    with second.start(promiser, name=name) as process:
        process.receive()
        with extmem.subscribe(name, timeout=SOON) as frames:
            process.send("now")
            assert process.receive()[0] == "promised"
            with pytest.raises(TimeoutError, match=rf"and process {process.pid}, which promised"):
                next(frames)
            frames.timeout = PATIENCE
            process.send("keep it")
            assert next(frames).numpy().tolist() == [1] * 4
        process.send("end")
        process.result()


@pytest.mark.parametrize("pending", [False, True])
def test_a_publisher_that_dies_keeps_no_promise(
    name: str, used_before: None, pending: bool
) -> None:
    with second.start(promiser, name=name) as process:
        process.receive()
        with extmem.subscribe(name, timeout=PATIENCE, pending=pending) as frames:
            process.send("now")
            assert process.receive()[0] == "promised"
            process.send("die")
            with pytest.raises(StreamEnded, match="has died"):
                next(frames).wait(PATIENCE)
        process.kill()


def test_a_device_that_waits_for_the_dead_goes_on(name: str, used_before: None) -> None:
    with second.start(promiser, name=name) as process, extmem.open_device() as gpu:
        process.receive()
        with (
            extmem.subscribe(name, timeout=PATIENCE, pending=True, device=gpu) as frames,
            gpu.semaphore() as mine,
        ):
            process.send("now")
            assert process.receive()[0] == "promised"
            frame = next(frames).keep()
            gpu.submit(wait=frame.ready, signal=[(mine, 1)])
            process.send("die")
            with pytest.raises(StreamEnded):
                next(frames)
            mine.wait(1, PATIENCE)
            frame.release()
        process.kill()


def fail_after(act: Callable[[], object]) -> None:
    """The frame is dropped then, and the device is still at it."""
    act()
    raise RuntimeError("no picture")


def test_a_slot_is_not_written_while_the_device_writes_it(
    publish: Publish, gate: extmem.Semaphore
) -> None:
    source = publish(slots=2)
    promise(source, gate, 1)
    with pytest.raises(RuntimeError, match="no picture"), source.frame() as frame:
        fail_after(lambda: gate.device.submit(wait=[(gate, 1)], signal=frame.promise()))
    with (
        pytest.raises(TimeoutError, match="the device has not done what was promised"),
        source.frame(timeout=SOON),
    ):
        pass
    threading.Timer(SOON, gate.signal, [1]).start()
    with source.frame(timeout=PATIENCE) as frame:
        assert source._promises.running() == 0
    assert source.sequence == 2


def test_a_stream_ends_when_its_promises_are_kept(
    publish: Publish, subscribe: Subscribe, gate: extmem.Semaphore
) -> None:
    source = publish()
    frames = subscribe()
    promise(source, gate, 1)
    threading.Timer(SOON, gate.signal, [1]).start()
    source.close()
    assert gate.value == 1
    assert [frame.numpy().tolist() for frame in frames] == [[1] * 4]


@pytest.mark.parametrize("pending", [False, True])
def test_a_stream_that_ends_without_its_promise_keeps_nobody(
    publish: Publish, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch, pending: bool
) -> None:
    """Nothing was ever submitted for the second frame. The first one is there all the same."""
    monkeypatch.setattr(stream, "_TO_KEEP", SOON)
    source = publish(policy="all")
    frames = subscribe(policy="all", timeout=PATIENCE, pending=pending)
    with source.frame() as frame:
        frame.numpy()[...] = 1
        gpu = frame.memory.device
        gpu.submit(signal=frame.promise())
    with source.frame() as frame:
        frame.promise()
    source.close()
    assert next(frames).numpy().tolist() == [1] * 4
    if pending:
        with pytest.raises(StreamEnded, match="ended the stream without keeping its promise"):
            next(frames).wait(PATIENCE)
    assert list(frames) == []


def test_asyncio_waits_for_the_device(
    publish: Publish, subscribe: Subscribe, gate: extmem.Semaphore
) -> None:
    import asyncio

    source = publish(policy="all")
    frames = subscribe(policy="all", timeout=None)
    promise(source, gate, 1)

    async def main() -> int:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(frames), SOON)
        frames.timeout = SOON
        with pytest.raises(TimeoutError, match="was handed over"):
            await anext(frames)
        frames.timeout = PATIENCE
        asyncio.get_running_loop().call_later(SOON, gate.signal, 1)
        return (await anext(frames)).sequence

    assert asyncio.run(main()) == 1


def test_a_device_that_shares_no_timelines_promises_nothing(
    publish: Publish, monkeypatch: pytest.MonkeyPatch, subscribe: Subscribe
) -> None:
    monkeypatch.setattr(making, "timeline_of", lambda *_: None)
    source = publish()
    frames = subscribe()
    with pytest.raises(Unsupported, match="shares no timeline semaphores"), source.frame() as frame:
        frame.promise()
    put(source)
    assert next(frames).ready == []


# -- leases ---------------------------------------------------------------------------------------


def taken(source: stream.Stream) -> int:
    """How many slots subscribers have."""
    return sum(each.holds for each in source.readers)


def test_a_slot_waits_for_the_device_that_reads_it(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(policy="all", slots=2)
    frames = subscribe(policy="all")
    for _ in range(2):
        put(source)
    first, other = next(frames).keep(), next(frames).keep()
    gpu = first.memory.device
    with gpu.semaphore() as done:
        first.release(after=(done, 1))
        other.release(after=[(done, 1), (done, 2)])
        assert first.released
        with (
            pytest.raises(TimeoutError, match="has 2 or has still to take them"),
            source.frame(timeout=SOON),
        ):
            pass
        done.signal(1)
        with source.frame(timeout=PATIENCE):
            pass
        assert soon(lambda: next(frames).sequence == 3)
        assert taken(source) == 2
        done.signal(2)
        with source.frame(timeout=PATIENCE):
            pass


def test_what_is_wrong_with_after(publish: Publish, subscribe: Subscribe) -> None:
    source = publish()
    frames = subscribe()
    put(source)
    frame = next(frames).keep()
    with frame.memory.device.semaphore(timeline=False) as binary:
        for after, error, says in (
            ([binary], TypeError, r"expected \(semaphore, value\)"),
            ((binary, 1), Unsupported, "is binary"),
            ((frame.memory.device.semaphore(), "1"), TypeError, "with a number"),
        ):
            with pytest.raises(error, match=says):
                frame.release(after=after)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="frames on CUDA's GPU, and these are not"):
        frame.release(stream=1)
    assert not frame.released
    frame.release()
    frame.release(stream=1)  # nothing is left to be released


def endless(home: Any, name: str) -> None:
    """Releases its frames for a time that never comes."""
    with (
        extmem.open_device(driver="embedded") as gpu,
        gpu.semaphore() as never,
        extmem.subscribe(name, policy="all", timeout=PATIENCE, device=gpu) as frames,
    ):
        home.send("joined")
        for _ in range(2):
            next(frames).keep().release(after=(never, 1))
        home.send("released")
        home.receive()


def test_who_dies_before_its_device_is_done_gives_its_slots_back(
    publish: Publish, name: str
) -> None:
    source = publish(policy="all", slots=2)
    with second.start(endless, name=name) as process:
        process.receive()
        for _ in range(2):
            put(source)
        assert process.receive()[0] == "released"
        with pytest.raises(TimeoutError, match=rf"process {process.pid} has 2"):
            source.frame(timeout=SOON).__enter__()
        process.kill()
        with source.frame(timeout=PATIENCE):
            pass


def test_semaphores_that_are_closed_keep_nothing(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(policy="all", slots=2)
    frames = subscribe(policy="all")
    put(source)
    frame = next(frames).keep()
    with frame.memory.device.semaphore() as done:
        frame.release(after=(done, 1))
        assert taken(source) == 1
    assert soon(lambda: taken(source) == 0)


def tensor_of(frame: Any) -> Any:
    """NumPy before 2.1 takes nothing that is to be read alone."""
    return np.from_dlpack(frame)


@pytest.mark.skipif(not NUMPY_HAS_VERSIONS, reason="hardware: NumPy 2.1")
def test_a_tensor_keeps_its_frame(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(slots=3)
    frames = subscribe()
    put(source)
    frame = next(frames)
    tensors = [tensor_of(frame), tensor_of(frame)[1:]]
    for _ in range(10):
        put(source)
        next(frames)
    assert frame.released
    assert [each.tolist() for each in tensors] == [[1] * 4, [1] * 3]
    assert taken(source) == 2
    tensors.pop()
    assert taken(source) == 2
    tensors.pop()
    assert taken(source) == 1
    with pytest.raises(StreamFull):
        held = [tensor_of(next(frames)) for _ in range(5) if put(source) is None]
    held = []
    assert held == []


@pytest.mark.skipif(not NUMPY_HAS_VERSIONS, reason="hardware: NumPy 2.1")
def test_a_tensor_outlives_everything(gpu: extmem.Device, name: str) -> None:
    for order in ("frame stream subscription", "subscription stream frame", "stream frame"):
        source = extmem.publish(name, shape=4, dtype="int64")
        frames = extmem.subscribe(name, timeout=PATIENCE)
        put(source)
        things: dict[str, Any] = {"stream": source, "subscription": frames}
        things["frame"] = next(frames).keep()
        tensor = tensor_of(things["frame"])
        capsule = things["frame"].__dlpack__(max_version=(1, 0))
        for what in order.split():
            if what == "frame":
                things[what].release()
            else:
                things[what].close()
        assert tensor.tolist() == [1] * 4
        frames.close()
        assert tensor.tolist() == [1] * 4
        del tensor, capsule, frames, source, things


def test_a_copy_keeps_nothing(publish: Publish, subscribe: Subscribe) -> None:
    source = publish()
    frames = subscribe()
    put(source)
    frame = next(frames)
    copied = np.from_dlpack(Asking(frame, copy=True, max_version=(1, 0)))
    frame.keep().release()
    assert taken(source) == 0
    assert copied.tolist() == [1] * 4


# -- what frames are ------------------------------------------------------------------------------


def test_frames_of_bfloat16(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(dtype="bfloat16")
    frames = subscribe()
    with source.frame() as draft:
        draft.memory.numpy("uint16")[:4] = 0x3F80  # one
    frame = next(frames)
    assert frames.bfloat16
    assert "bfloat16" in repr(frames)
    assert "bfloat16" in repr(source)
    if NUMPY_HAS_VERSIONS:  # those before cannot say that it is to be read alone
        tensor = Taken(frame, (1, 0))
        assert (tensor.dtype, tensor.shape, tensor[0], tensor[1]) == ("bfloat16", (4,), 0x80, 0x3F)
        tensor.delete()
    if "ml_dtypes" in sys.modules:
        assert str(frame.numpy().dtype) == "bfloat16"
    else:
        with pytest.raises(TypeError, match="import ml_dtypes"):
            frame.numpy()


def test_frames_of_records(publish: Publish, subscribe: Subscribe) -> None:
    kind = np.dtype({"names": ["x", "far"], "formats": ["f4", "u8"], "offsets": [0, 16]})
    source = publish(dtype=kind)
    frames = subscribe()
    assert frames.dtype == kind
    with source.frame() as draft:
        draft.numpy()["far"] = 1 << 40
        draft.numpy()["x"] = 0.5
    frame = next(frames)
    assert (frame.numpy()["x"] == 0.5).all()
    assert (frame.numpy()["far"] == 1 << 40).all()
    with pytest.raises(TensorError, match="frames of records are no tensors"):
        np.from_dlpack(frame)


@pytest.mark.parametrize(
    "dtype",
    [
        "O",
        "U4",
        "datetime64[s]",
        "V8",
        [("pair", "f4", 2)],
        [("inner", [("x", "f4")])],
        [("name", "S4")],
        [(f"f{number}", "f4") for number in range(65)],
        {"names": ["x"], "formats": ["f4"], "itemsize": 1 << 17},
    ],
    ids=str,
)
def test_what_frames_cannot_be(name: str, used_before: None, dtype: Any) -> None:
    with pytest.raises(TypeError, match="a frame has plain numbers"):
        extmem.publish(name, shape=4, dtype=dtype)


def test_another_publisher_of_other_bits_is_not_alike(publish: Publish, name: str) -> None:
    source = publish(dtype="bfloat16")
    other = extmem.share.formats.format_of(4, "uint16")  # type: ignore[attr-defined]
    assert source._slots.format != other


# -- nothing for each frame -----------------------------------------------------------------------


def test_nothing_is_made_for_a_frame_of_a_device(
    gpu: extmem.Device,
    publish: Publish,
    subscribe: Subscribe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Descriptors, memory, buffers, semaphores and threads; command buffers are the copy's."""
    source = publish(memory="device_local", policy="all", timeout=PATIENCE)
    frames = subscribe(policy="all", pending=True)

    def one() -> None:
        with source.frame() as frame:
            gpu.submit(signal=frame.promise())
            _ = frame.buffer
        seen = next(frames)
        seen.wait(PATIENCE)
        _ = seen.buffer
        seen.keep().release(after=seen_at(seen))

    marks = []
    semaphore = frames._open().slots.memories[0].device.semaphore()

    def seen_at(frame: Any) -> Any:
        marks.append(frame.sequence)
        semaphore.signal(frame.sequence)
        return semaphore, frame.sequence

    for _ in range(10):
        one()
    made: list[str] = []
    from extmem.vk import commands, memories

    for module in (commands, memories):
        for call in ("vkAllocateMemory", "vkCreateBuffer", "vkCreateSemaphore", "vkMapMemory"):
            if hasattr(module, call):
                monkeypatch.setattr(module, call, lambda *_, name=call: made.append(name))
                monkeypatch.setattr(extmem.vk, call, getattr(module, call))
    threads = threading.active_count()
    for _ in range(200):
        one()
    monkeypatch.undo()
    assert made == []
    assert threading.active_count() == threads
    assert marks[-1] == 210


def test_a_greeting_of_the_largest_stream_fits(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(slots=ring.MOST_SLOTS, dtype=[(f"field{n}", "f4") for n in range(64)])
    put_once = source.frame()
    with put_once as frame:
        frame.numpy()["field63"] = 7
    assert (next(subscribe()).numpy()["field63"] == 7).all()
