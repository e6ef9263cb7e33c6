"""Streams that end in an unusual way: by the collector, in forks, before what was promised came."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

import extmem
from extmem.share import stream
from tests.support import second
from tests.support.streams import PATIENCE, fresh_name

pytestmark = pytest.mark.usefixtures("by_the_embedded_device")
fork = pytest.mark.skipif(sys.platform == "win32", reason="hardware: Windows has no fork")


@pytest.fixture
def name(used_before: None) -> Iterator[str]:
    with fresh_name() as chosen:
        yield chosen


class Viewer:
    """Something that refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.me = self


class Opener:
    """Opens files when it is freed, which get the numbers of those that are closed just then."""

    def __init__(self, opened: list[int]) -> None:
        self.opened = opened

    def __del__(self) -> None:
        self.opened += [os.open(os.devnull, os.O_RDWR) for _ in range(4)]


# -- the collector --------------------------------------------------------------------------------


def collected_subscriber(home: Any, name: str) -> list[Any]:
    """Seats, frames and their subscriptions in one cycle."""
    opened: list[int] = []
    gc.disable()
    with extmem.publish(name, shape=4, dtype="uint8") as source:
        for _ in range(5):
            viewer: Any = Viewer()
            viewer.frames = extmem.subscribe(name, timeout=PATIENCE)
            viewer.opener = Opener(opened)
            with source.frame():
                pass
            viewer.frame = next(viewer.frames)
            viewer.another = viewer.frames
            del viewer
            gc.collect()
        left = source.readers
    for each in opened:
        os.close(each)  # EBADF if somebody has closed it
    return left


def test_a_frame_and_its_subscription_in_one_cycle(name: str) -> None:
    assert second.run(collected_subscriber, name=name) == []


def collected_publisher(home: Any, name: str) -> list[str]:
    """Streams that only the collector closes; and what of theirs says that it was never closed."""
    said = []
    gc.disable()
    for _ in range(5):
        viewer: Any = Viewer()
        viewer.source = extmem.publish(name, shape=4, dtype="uint8")
        frames = extmem.subscribe(name, timeout=PATIENCE)
        with viewer.source.frame():
            pass
        viewer.draft = viewer.source.frame()
        del viewer
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            gc.collect()
        said += [str(each.message).split(" '")[0] for each in warned]
        said += [str(each.sequence) for each in frames]
    return said


def test_a_stream_in_a_cycle(name: str) -> None:
    """It is closed as a whole: none of its parts goes before it, and says so."""
    assert second.run(collected_publisher, name=name) == ["the stream", "1"] * 5


def test_the_end_of_the_interpreter(name: str) -> None:
    """What is open then says nothing, and brings nobody down."""
    program = f"""
import extmem

source = extmem.publish({name!r}, shape=4, dtype="uint8")
frames = extmem.subscribe({name!r}, timeout=9)
with source.frame():
    pass
frame = next(frames)
def fail(*all):
    raise RuntimeError("the end")
fail(source, frames, frame)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("RuntimeError: the end")


# -- forks ----------------------------------------------------------------------------------------


def _child(home: Any) -> None:
    """Fork a process that does nothing, and tell its number."""
    child = os.fork()
    if not child:
        time.sleep(PATIENCE)
        os._exit(0)
    home.send(child)
    home.receive()  # until this process is killed


def forked_subscriber(home: Any, name: str) -> None:
    with extmem.subscribe(name, policy="all", timeout=PATIENCE) as frames:
        home.send("joined")
        next(frames).keep()
        _child(home)


def forked_publisher(home: Any, name: str) -> None:
    with extmem.publish(name, shape=4, dtype="uint8", policy="all") as source:
        home.send("published")
        source.wait_for(1, timeout=PATIENCE)
        with source.frame():
            pass
        _child(home)


@fork
def test_a_subscriber_dies_although_a_child_of_it_lives(name: str) -> None:
    with (
        extmem.publish(name, shape=4, dtype="uint8", policy="all", slots=2) as source,
        second.start(forked_subscriber, name=name) as process,
    ):
        process.receive()
        source.wait_for(1, timeout=PATIENCE)
        with source.frame():
            pass
        child = process.receive()[0]
        try:
            process.kill()
            for _ in range(6):
                with source.frame(timeout=10):
                    pass
            assert source.readers == []
        finally:
            os.kill(child, signal.SIGKILL)


@fork
def test_a_publisher_is_missed_although_a_child_of_it_lives(name: str) -> None:
    with second.start(forked_publisher, name=name) as process:
        process.receive()
        with extmem.subscribe(name, policy="all", timeout=10) as frames:
            next(frames)
            child = process.receive()[0]
            try:
                process.kill()
                with pytest.raises(extmem.StreamEnded, match="has died"):
                    next(frames)
            finally:
                os.kill(child, signal.SIGKILL)


# -- promises that nobody keeps -------------------------------------------------------------------


def breaks_its_promise(home: Any, name: str, image: bool, killed: bool) -> None:
    """Publishes a frame, promises it, and closes the stream without having kept that."""
    stream._TO_KEEP = PATIENCE if killed else 0.2
    kind: Any = {"shape": (4, 4), "format": "r8"} if image else {"shape": 64, "dtype": "uint8"}
    gpu = extmem.open_device(driver="embedded", checks="off")
    source = extmem.publish(name, policy="all", device=gpu, **kind)
    home.send("published")
    source.wait_for(1, timeout=PATIENCE)
    with source.frame() as frame:
        frame.promise()
        if image:
            _ = frame.image
    if killed:
        threading.Timer(0.2, lambda: os._exit(0)).start()
    source.close()
    os._exit(0)


def waits_for_ever(home: Any, name: str, pending: bool) -> str:
    """Subscribes without a timeout."""
    faulthandler.dump_traceback_later(30, exit=True)
    with (
        extmem.open_device(driver="embedded") as gpu,
        extmem.subscribe(name, policy="all", device=gpu, pending=pending) as frames,
    ):
        for frame in frames:
            try:
                frame.wait()
            except extmem.StreamEnded as error:
                return "has died, or ended the stream" if "ended" in str(error) else str(error)
        return "the end"


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("pending", [False, True])
def test_a_publisher_closes_and_goes_with_its_promise_unkept(
    name: str, image: bool, killed: bool, pending: bool
) -> None:
    with second.start(breaks_its_promise, name=name, image=image, killed=killed) as publisher:
        publisher.receive()
        with second.start(waits_for_ever, name=name, pending=pending) as reader:
            found = reader.result()
        with suppress(second.OtherFailed):  # it ends in the middle
            publisher.result()
    assert found == ("has died, or ended the stream" if pending else "the end")


def test_a_promise_that_is_kept_while_the_stream_closes(name: str) -> None:
    with (
        extmem.open_device(driver="embedded") as gpu,
        extmem.open_device(driver="embedded") as other,
        extmem.publish(name, shape=4, dtype="uint8", policy="all", device=gpu) as source,
        extmem.subscribe(name, policy="all", device=other, timeout=PATIENCE) as frames,
    ):
        with source.frame() as frame:
            frame.numpy()[:] = 7
            ((semaphore, value),) = frame.promise()
        threading.Timer(0.6, lambda: semaphore.signal(value)).start()
        closing = threading.Thread(target=source.close)
        closing.start()
        assert [each.numpy().tolist() for each in frames] == [[7] * 4]
        closing.join(PATIENCE)
        del frame
