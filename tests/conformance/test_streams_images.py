"""Streams whose slots are images: every pixel of every frame, between processes, on all drivers."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

import extmem
from extmem import ClosedError, Image, OwnershipError, StreamEnded, TensorError, Unsupported, vk
from extmem.inspector.streams import taken
from extmem.memory import Memory
from extmem.share import formats, making, stream
from extmem.share.looking import Onlooker
from tests.support import second
from tests.support.leaks import held, left_over
from tests.support.pictures import parts, pixels, same
from tests.support.streams import (
    PATIENCE,
    Publish,
    Subscribe,
    fresh_name,
    publisher_of,
    subscriber_of,
)
from tests.support.strict import driver_cannot
from tests.support.tensors import NUMPY_HAS_VERSIONS

SOON = 0.1  # seconds in which nothing happens
SHAPE = (18, 38)  # no multiple of what drivers round rows to, and even, as nv12 wants it
FORMATS = ("rgba8", "rgba16f", "r32f", "nv12")
TILINGS = ("optimal", "linear")
HANDLE = "opaque_win32" if sys.platform == "win32" else "opaque_fd"


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
    with publisher_of(gpu, name, shape=SHAPE, format="rgba8") as begin:
        yield begin


@pytest.fixture
def subscribe(name: str) -> Iterator[Subscribe]:
    with subscriber_of(name) as begin:
        yield begin


def put(source: stream.Stream) -> None:
    """A frame whose pixels are those of its number, all of them."""
    with source.frame() as frame:
        paint(frame, source.sequence + 1)


def paint(frame: Any, seed: int) -> None:
    for part in parts(frame.image):
        frame.upload(pixels(frame.image, part, seed), plane=part["plane"])


def wrong_in(frame: Any) -> list[str]:
    """What of a frame is not as `put` has it, by all ways to look at it."""
    found = []
    for part in parts(frame.image):
        expected = pixels(frame.image, part, frame.sequence)
        if not same(frame.readback(plane=part["plane"]), expected):
            found.append(f"frame {frame.sequence}, {part}: other pixels were read back")
        if frame.image.tiling == "linear" and not same(frame.numpy(part["plane"]), expected):
            found.append(f"frame {frame.sequence}, {part}: other pixels are in view")
    return found


def published(made: ExitStack, name: str, **options: Any) -> stream.Stream | None:
    """None if the driver makes no such images."""
    try:
        return made.enter_context(extmem.publish(name, shape=SHAPE, **options))
    except Unsupported:
        return None


@contextmanager
def counted() -> Iterator[list[str]]:
    """What is made meanwhile, and would have to be made once; command buffers are each copy's."""
    made: list[str] = []
    before = {}
    for command in (
        "vkAllocateMemory", "vkCreateImage", "vkCreateBuffer", "vkCreateSemaphore", "vkMapMemory",
        "vkGetImageSubresourceLayout",
    ):  # fmt: skip
        original = before[command] = getattr(vk, command)
        setattr(vk, command, lambda *a, o=original, c=command: (made.append(c), o(*a))[1])
    try:
        yield made
    finally:
        for command, original in before.items():
            setattr(vk, command, original)


# -- between processes ----------------------------------------------------------------------------


def reader(home: Any, name: str, driver: str, policy: str = "all") -> dict[str, Any]:
    """Compares every frame until the stream ends, on a device without checks."""
    wrong: list[str] = []
    seen: list[int] = []
    with (
        extmem.open_device(driver=driver, checks="off") as gpu,
        extmem.subscribe(name, device=gpu, policy=policy, timeout=PATIENCE) as frames,
    ):
        home.send("joined")
        made: list[str] = []
        with counted() as calls:
            for frame in frames:
                wrong += wrong_in(frame)
                seen.append(frame.sequence)
                if len(seen) == 10:  # each slot was there
                    calls.clear()
            made += calls
    return {"seen": seen, "wrong": wrong, "made": made, "format": frames.format}


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("format", FORMATS)
def test_another_process_sees_every_pixel(driver: str, name: str, format: str, tiling: str) -> None:
    with ExitStack() as made:
        gpu = made.enter_context(extmem.open_device(driver=driver))
        options = {"format": format, "tiling": tiling, "device": gpu, "policy": "all"}
        source = published(made, name, timeout=PATIENCE, **options)
        if source is None:
            driver_cannot(f"it shares no images of {format}, {tiling}, as {HANDLE}")
        assert source.format == format
        assert source.shape == SHAPE
        with second.start(reader, name=name, driver=driver) as other:
            assert other.receive()[0] == "joined"
            for _ in range(12):
                put(source)
            source.close()
            found = other.result()
    assert found["seen"] == list(range(1, 13))
    assert found["wrong"] == []
    assert found["format"] == format


def test_two_processes_and_nothing_for_a_frame(driver: str, name: str) -> None:
    """Sixty frames, each seen by both; whoever is slower is waited for."""
    with ExitStack() as made:
        gpu = made.enter_context(extmem.open_device(driver=driver))
        source = published(made, name, format="rgba8", device=gpu, policy="all", timeout=PATIENCE)
        if source is None:
            driver_cannot(f"it shares no images of rgba8 as {HANDLE}")
        others = [
            made.enter_context(second.start(reader, name=name, driver=driver)) for _ in range(2)
        ]
        for each in others:
            assert each.receive()[0] == "joined"
        for _ in range(10):
            put(source)
        before, threads = held(), threading.active_count()
        with counted() as calls:
            for _ in range(50):
                put(source)
        assert calls == []
        assert threading.active_count() == threads
        assert left_over(before) == []
        source.close()
        for each in others:
            found = each.result()
            assert found["seen"] == list(range(1, 61))
            assert found["wrong"] == []
            assert found["made"] == []


def holder(home: Any, name: str, driver: str) -> list[str]:
    """Has a frame, says so, and looks at it when it is told to."""
    with (
        extmem.open_device(driver=driver) as gpu,
        extmem.subscribe(name, device=gpu, timeout=PATIENCE) as frames,
    ):
        frame = next(frames).keep()
        assert frame.image.acquired
        home.send(frame.sequence)
        home.receive()
        found = wrong_in(frame)
        frame.release()
        return found


def test_the_same_image_is_read_by_several_at_once(driver: str, name: str) -> None:
    with ExitStack() as made:
        gpu = made.enter_context(extmem.open_device(driver=driver))
        source = published(made, name, format="rgba8", device=gpu)
        if source is None:
            driver_cannot(f"it shares no images of rgba8 as {HANDLE}")
        put(source)
        others = [
            made.enter_context(second.start(holder, name=name, driver=driver)) for _ in range(2)
        ]
        assert [each.receive()[0] for each in others] == [1, 1]
        for _ in range(9):  # in the other slots
            put(source)
        for each in others:
            each.send("look")
        assert [each.result() for each in others] == [[], []]


def test_a_stream_and_a_subscription_open_their_own_device(
    name: str, used_before: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXTMEM_DRIVER", "embedded")
    with (
        extmem.publish(name, shape=SHAPE, format="r8") as source,
        extmem.subscribe(name, timeout=PATIENCE) as frames,
    ):
        put(source)
        frame = next(frames)
        assert wrong_in(frame) == []
        assert repr(source) == (
            f"<Stream {name!r}, images (18, 38) of r8, tiling optimal, policy 'latest', 4 slots, "
            "1 subscribers, frame 1>"
        )
        assert "images (18, 38) of r8" in repr(frames)


# -- promises -------------------------------------------------------------------------------------


def shares_timelines(gpu: extmem.Device) -> None:
    try:
        gpu.semaphore(export=HANDLE).close()
    except Unsupported as error:
        driver_cannot(str(error))


def early(home: Any, name: str, driver: str) -> dict[str, Any]:
    """Has the frame before it is written, and lets its device wait."""
    with (
        extmem.open_device(driver=driver) as gpu,
        extmem.subscribe(name, device=gpu, timeout=PATIENCE, pending=True, policy="all") as frames,
    ):
        home.send("joined")
        frame = next(frames)
        ready = len(frame.ready)
        image = frame.image
        home.send("asked")
        seen = [gpu.readback(image).tolist()]  # the image was acquired when it was ready
        seen += [gpu.readback(each.image, wait=each.ready).tolist() for each in frames]
        return {"ready": ready, "seen": seen}


def test_another_process_waits_on_its_device(driver: str, name: str) -> None:
    with ExitStack() as made:
        gpu = made.enter_context(extmem.open_device(driver=driver))
        source = published(made, name, format="r8", device=gpu, policy="all", timeout=PATIENCE)
        if source is None:
            driver_cannot(f"it shares no images of r8 as {HANDLE}")
        shares_timelines(gpu)
        gate = made.enter_context(gpu.semaphore())
        with second.start(early, name=name, driver=driver) as other:
            assert other.receive()[0] == "joined"
            with source.frame() as frame:
                frame.upload(np.full(SHAPE, 1, "uint8"))
                gpu.submit(wait=[(gate, 1)], signal=frame.promise())
            assert other.receive()[0] == "asked"
            assert source._promises.running()
            gate.signal(1)
            for number in range(2, 30):  # each ends with its release, behind the promise
                with source.frame() as frame:
                    picture = np.full(SHAPE, number, "uint8")
                    gpu.upload(frame.image, picture, signal=frame.promise())
            source.close()
            found = other.result()
    assert found["ready"] == 1
    assert found["seen"] == [np.full(SHAPE, each).tolist() for each in range(1, 30)]


def test_who_does_not_ask_for_it_early_waits_here(
    gpu: extmem.Device, publish: Publish, subscribe: Subscribe, gate: extmem.Semaphore
) -> None:
    source = publish(policy="all")
    frames = subscribe(policy="all", timeout=SOON)
    with source.frame() as frame:
        paint(frame, 1)
        gpu.submit(wait=[(gate, 1)], signal=frame.promise())
    with pytest.raises(TimeoutError, match="was handed over"):
        next(frames)
    threading.Timer(SOON, gate.signal, [1]).start()
    frames.timeout = PATIENCE
    seen = next(frames)
    assert seen.ready == []
    assert wrong_in(seen) == []


def test_a_slot_stays_while_the_device_has_still_to_acquire_it(
    gpu: extmem.Device, publish: Publish, subscribe: Subscribe, gate: extmem.Semaphore
) -> None:
    source = publish(policy="all", slots=2)
    frames = subscribe(policy="all", pending=True)
    with source.frame() as frame:
        paint(frame, 1)
        gpu.submit(wait=[(gate, 1)], signal=frame.promise())
    seen = next(frames).keep()
    assert seen.image.acquired
    seen.release()
    assert [each.holds for each in source.readers] == [1]
    gate.signal(1)
    until = time.monotonic() + PATIENCE
    while source.readers[0].holds and time.monotonic() < until:
        time.sleep(0.005)
    assert [each.holds for each in source.readers] == [0]


def test_a_promise_without_the_image_is_kept_too(
    gpu: extmem.Device, publish: Publish, subscribe: Subscribe
) -> None:
    """As where CUDA writes it: no layout and no owner of Vulkan's changes then."""
    source = publish(policy="all")
    frames = subscribe(policy="all")
    for number in range(1, 10):
        with source.frame() as frame:
            assert frame.memory.image is not None
            gpu.submit(signal=frame.promise())
        seen = next(frames)
        assert (seen.sequence, seen.readback().shape) == (number, (*SHAPE, 4))


def test_without_timelines_frames_are_written_when_they_are_left(
    gpu: extmem.Device, publish: Publish, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "timeline_of", lambda *_: None)
    source = publish()
    frames = subscribe()
    frames._open().slots.memories[0].device.timelines = False
    for _ in range(6):
        put(source)
        assert wrong_in(next(frames)) == []
    with pytest.raises(Unsupported, match="shares no timeline"), source.frame() as frame:
        frame.promise()


def dying(home: Any, name: str) -> None:
    with (
        extmem.open_device(driver="embedded") as gpu,
        gpu.semaphore() as gate,
        extmem.publish(name, shape=SHAPE, format="rgba8", device=gpu) as source,
    ):
        home.receive()
        with source.frame() as frame:
            paint(frame, 1)
            gpu.submit(wait=[(gate, 1)], signal=frame.promise())
        home.send("promised")
        home.receive()
        os._exit(0)


def test_a_publisher_that_dies_keeps_no_device_waiting(name: str, gpu: extmem.Device) -> None:
    with second.start(dying, name=name) as process:
        with extmem.subscribe(
            name, device=gpu, timeout=PATIENCE, pending=True, patience=PATIENCE
        ) as frames:
            process.send("now")
            assert process.receive()[0] == "promised"
            frame = next(frames).keep()
            image = frame.image
            process.send("die")
            assert gpu.readback(image).shape == (*SHAPE, 4)  # of whatever is there
            with pytest.raises(StreamEnded, match="has died"):
                frame.readback()
            frame.release()
        process.kill()


def test_a_stream_is_closed_before_its_promise_is_kept(
    gpu: extmem.Device, publish: Publish, gate: extmem.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_TO_KEEP", SOON)
    source = publish()
    with source.frame() as frame:
        paint(frame, 1)
        gpu.submit(wait=[(gate, 1)], signal=frame.promise())
    source.close()
    memories = source._slots.memories
    assert not any(each.closed for each in memories)  # the queue works with them
    gate.signal(1)
    until = time.monotonic() + PATIENCE
    while gpu._work.collect() and time.monotonic() < until:
        time.sleep(0.005)
    assert all(each.closed for each in memories)


@pytest.mark.parametrize("order", ["devices", "stream", "frames"])
def test_the_orders_of_closing(name: str, used_before: None, order: str) -> None:
    devices = [extmem.open_device(driver="embedded") for _ in range(2)]
    source = extmem.publish(name, shape=SHAPE, format="nv12", device=devices[0])
    frames = extmem.subscribe(name, device=devices[1], timeout=PATIENCE)
    put(source)
    frame = next(frames).keep()
    assert wrong_in(frame) == []
    steps: dict[str, tuple[Any, ...]] = {
        "devices": (*devices, source, frames),
        "stream": (source, frames, *devices),
        "frames": (frames, source, *devices),
    }
    for each in steps[order]:
        if each is devices[1] and order != "devices":
            assert wrong_in(frame) == []  # it has outlived them
            frame.release()
        each.close()
    frame.release()


# -- looks ----------------------------------------------------------------------------------------


def test_linear_images_are_arrays(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(format="nv12", tiling="linear")
    frames = subscribe()
    with source.frame() as draft:
        draft.numpy()[...] = 9
        draft.numpy(plane=1)[..., 1] = 5
    frame = next(frames)
    luma, chroma = frame.numpy(), frame.numpy(plane=1)
    assert (luma.shape, chroma.shape) == (SHAPE, (9, 19, 2))
    assert luma.strides[0] > SHAPE[1]  # there may be something between the rows
    assert (luma == 9).all()
    assert (chroma[..., 1] == 5).all()
    with pytest.raises(ValueError, match="read-only"):
        luma[0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        luma.flags.writeable = True
    with pytest.raises(IndexError, match="plane 2"):
        frame.numpy(plane=2)
    with pytest.raises(TensorError, match="several planes"):
        np.from_dlpack(frame)
    image = frame.image
    whole = image.numpy()
    assert same(whole, luma)
    with pytest.raises(ValueError, match="WRITEABLE"):
        whole.flags.writeable = True
    del whole, luma, chroma
    frame.release()
    with pytest.raises(OwnershipError, match="a frame of a stream that is over"):
        image.numpy()


@pytest.mark.skipif(not NUMPY_HAS_VERSIONS, reason="hardware: NumPy 2.1")
def test_linear_images_of_one_plane_are_tensors(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(format="r32f", tiling="linear")
    frames = subscribe()
    with source.frame() as draft:
        tensor = np.from_dlpack(draft)
        tensor[...] = 0.5
        del tensor
    frame = next(frames)
    tensor = np.from_dlpack(frame)
    assert tensor.strides == frame.numpy().strides
    assert (tensor == 0.5).all()


def test_optimal_images_say_what_works(publish: Publish, subscribe: Subscribe) -> None:
    source = publish()
    frames = subscribe()
    with source.frame() as draft:
        with pytest.raises(Unsupported, match=r"frame\.upload\(array\).*cuda\(\)\.image"):
            draft.numpy()
        with pytest.raises(TensorError, match="tiling='linear'"):
            np.from_dlpack(draft)
    frame = next(frames)
    with pytest.raises(Unsupported, match=r"frame\.readback\(\), .*cuda\(\)\.image"):
        frame.numpy()
    with pytest.raises(TensorError, match=r"frame\.readback\(\)"):
        np.from_dlpack(frame)
    with pytest.raises(Unsupported, match="are images, and no buffers"):
        _ = frame.buffer
    with pytest.raises(Unsupported, match="stream= is of frames on CUDA's GPU"):
        frame.release(stream=1)
    assert not frame.released


def test_frames_of_memory_have_no_image(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(format=None, dtype="uint8")
    frames = subscribe()
    assert (source.format, frames.format) == (None, None)
    with source.frame() as draft:
        for act in (lambda: draft.image, lambda: draft.upload(0)):
            with pytest.raises(Unsupported, match="are no images"):
                act()
        with pytest.raises(IndexError, match="plane 1"):
            draft.numpy(plane=1)
    frame = next(frames)
    for act in (lambda: frame.image, frame.readback):
        with pytest.raises(Unsupported, match="are no images"):
            act()


@pytest.mark.filterwarnings("ignore:invalid value")  # some of the bits are no numbers
@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("format", FORMATS)
def test_who_only_looks_on_sees_a_picture(publish: Publish, format: str, tiling: str) -> None:
    source = publish(format=format, tiling=tiling)
    with Onlooker(source.name, device=source._slots.memories[0].device) as look:
        assert taken(look)[0] is None
        for _ in range(6):
            put(source)
            picture, seen, whole = taken(look)
            assert picture is not None
            assert seen is not None
            assert (picture.height, picture.width, whole) == (*SHAPE, True)
            assert seen.sequence == source.sequence
    assert source.readers == []


def test_what_cannot_be_copied_has_no_picture(publish: Publish) -> None:
    source = publish(usage="transfer_dst")
    put(source)
    with (
        Onlooker(source.name, device=source._slots.memories[0].device) as look,
        pytest.raises(Unsupported, match="readback needs an image with usage transfer_src"),
    ):
        taken(look)


# -- whose it is ----------------------------------------------------------------------------------


def test_nobody_hands_it_over_by_hand(
    gpu: extmem.Device, publish: Publish, subscribe: Subscribe
) -> None:
    source = publish()
    frames = subscribe()
    with source.frame() as draft:
        image = draft.image
        by_hand(image)
        paint(draft, 1)
    with pytest.raises(OwnershipError, match="a frame of a stream that is over"):
        gpu.upload(image, pixels(image, {"plane": 0}, 1))
    frame = next(frames)
    by_hand(frame.image)
    theirs, there = frame.image, frame.image.device
    with pytest.raises(OwnershipError, match="others read it at the same time"):
        there.upload(theirs, pixels(theirs, {"plane": 0}, 1))
    assert wrong_in(frame) == []
    frames._release()
    with pytest.raises(OwnershipError, match="a frame of a stream that is over"):
        there.readback(theirs)
    with pytest.raises(ClosedError, match="was released"):
        _ = frame.image
    with pytest.raises(ClosedError, match="is not being written"):
        _ = draft.image


def by_hand(image: Image) -> None:
    for act in (image.acquire, image.release):
        with pytest.raises(OwnershipError, match=r"leave out acquire\(\) and release\(\)"):
            act()
    assert image.acquired


def test_what_is_dropped_is_taken_anew(publish: Publish, subscribe: Subscribe) -> None:
    source = publish(slots=2)
    frames = subscribe()
    for _ in range(5):
        with pytest.raises(RuntimeError, match="no picture"), source.frame() as frame:
            fail_with(frame.image)
        put(source)
        assert wrong_in(next(frames)) == []
    assert source.sequence == 5


@pytest.mark.parametrize("tiling", TILINGS)
def test_a_stream_that_is_closed_meanwhile(publish: Publish, tiling: str) -> None:
    source = publish(tiling=tiling)
    with (
        pytest.raises(ClosedError, match="was closed before the frame was left"),
        source.frame() as frame,
    ):
        close_with(frame.image, source)


def close_with(image: Image, source: stream.Stream) -> None:
    assert image.acquired
    source.close()


def fail_with(image: Image) -> None:
    assert image.acquired
    raise RuntimeError("no picture")


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"dtype": "uint8"}, TypeError, "expected one of them: dtype= .* format="),
        ({"format": None}, TypeError, "expected one of them"),
        ({"format": "rgb565"}, ValueError, "format 'rgb565'; expected one of"),
        ({"format": None, "dtype": "uint8", "tiling": "linear"}, TypeError, "whose format="),
        ({"format": None, "dtype": "uint8", "usage": "sampled"}, TypeError, "are of images"),
        ({"tiling": "drm"}, ValueError, "'optimal' or 'linear'"),
        ({"usage": "drawing"}, ValueError, "usage 'drawing'"),
        ({"usage": ()}, ValueError, "usage is 0x0"),
        ({"shape": (1, 2, 3, 4)}, ValueError, "expected \\(width,\\)"),
        ({"shape": (0, 4)}, ValueError, "whole numbers from 1"),
        ({"shape": (3, 5), "format": "nv12"}, ValueError, "even height and width"),
        ({"shape": (1 << 20, 4)}, Unsupported, "its shape is"),
    ],
)
def test_what_cannot_be_published(
    publish: Publish, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        publish(**options)


_RGBA8 = formats.images_of(SHAPE, "rgba8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"texels": None}, "slots that are images, for frames that are none"),
        ({"texels": formats.Texels("bgra8", "optimal", 3)}, "format is bgra8, and it was made"),
        ({"texels": formats.Texels("rgba8", "linear", 3)}, "tiling is linear"),
        ({"texels": formats.Texels("rgba8", "optimal", 7)}, "usage is"),
        ({"texels": formats.Texels("rgba8", "optimal", 1 << 31)}, "usage is 0x80000000"),
        ({"texels": formats.Texels("no such", "optimal", 3)}, "format 'no such'"),
        ({"shape": (17, 38)}, "shape is"),
        ({"shape": (1, 2, 3, 4)}, "expected \\(width,\\)"),
        ({"shape": ()}, "expected \\(width,\\)"),
        ({"shape": (1 << 40, 4)}, "."),
        ({"dtype": "<f4"}, "elements of <f4"),
        ({"dtype": "|V4", "record": (formats.Field("x", "<f4", 0),)}, "elements of"),
        ({"slots": 3}, "handles for 3 slots"),
    ],
)
def test_a_greeting_that_lies(
    publish: Publish,
    subscribe: Subscribe,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    words: str,
) -> None:
    source = publish()
    original = stream.Greeting

    def lie(*told: Any) -> Any:
        return msgspec.structs.replace(original(*told), **change)

    monkeypatch.setattr(stream, "Greeting", lie)
    with pytest.raises(ConnectionAbortedError, match=f"sent what is no stream: .*{words}"):
        subscribe()
    monkeypatch.undo()
    put(source)
    assert wrong_in(next(subscribe())) == []


def test_memory_that_is_called_images(
    publish: Publish, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(format=None, dtype="uint8", shape=4096)
    original = stream.Greeting
    change = {"texels": _RGBA8.texels, "shape": SHAPE}
    monkeypatch.setattr(
        stream, "Greeting", lambda *told: msgspec.structs.replace(original(*told), **change)
    )
    with pytest.raises(ConnectionAbortedError, match="slots without images, for images"):
        subscribe()


def test_passports_that_lie_with_the_greeting(
    publish: Publish, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is too small for what both say."""
    publish()
    large = formats.images_of((180, 380), "rgba8")
    original, exported = stream.Greeting, Memory.export

    def export(memory: Memory, *options: Any) -> Any:
        handle = exported(memory, *options)
        assert handle.passport is not None
        lie = large.image(handle.handle_type.bit)
        handle.passport = msgspec.structs.replace(handle.passport, image=lie)
        return handle

    monkeypatch.setattr(
        stream, "Greeting", lambda *told: msgspec.structs.replace(original(*told), shape=(180, 380))
    )
    monkeypatch.setattr(Memory, "export", export)
    with pytest.raises(extmem.PassportError, match="its exporter made another one"):
        subscribe()


def other_publisher(home: Any, name: str, format: str, tiling: str, die: bool) -> None:
    with (
        extmem.open_device(driver="embedded") as gpu,
        extmem.publish(name, shape=SHAPE, format=format, tiling=tiling, device=gpu) as source,
    ):
        put(source)
        home.send("published")
        home.receive()
        if die:
            os._exit(0)


@pytest.mark.parametrize(
    ("format", "tiling", "alike"),
    [("rgba8", "optimal", True), ("bgra8", "optimal", False), ("rgba8", "linear", False)],
)
def test_another_publisher_has_to_publish_what_is_alike(
    name: str, gpu: extmem.Device, format: str, tiling: str, alike: bool
) -> None:
    first: dict[str, Any] = {"name": name, "format": "rgba8", "tiling": "optimal", "die": True}
    with second.start(other_publisher, **first) as one:
        assert one.receive()[0] == "published"
        with extmem.subscribe(name, device=gpu, timeout=PATIENCE, resume=PATIENCE) as frames:
            assert wrong_in(next(frames)) == []
            one.send("die")
            one.kill()
            again = {**first, "format": format, "tiling": tiling, "die": False}
            with second.start(other_publisher, **again) as other:
                assert other.receive()[0] == "published"
                if alike:
                    assert wrong_in(next(frames)) == []
                else:
                    with pytest.raises(StreamEnded, match=r"publishes images .* instead of images"):
                        next(frames)
                other.send("end")
                other.result()
