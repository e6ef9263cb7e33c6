"""Ctrl-C in the middle of a stream's steps, on either side: nothing is lost, and nobody hangs."""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import extmem
from extmem.share.stream import Stream
from tests.support import second
from tests.support.streams import PATIENCE, fresh_name

pytestmark = pytest.mark.usefixtures("by_the_embedded_device")

timers = pytest.mark.skipif(sys.platform == "win32", reason="hardware: Windows has no such timers")

SLOTS = 5


@pytest.fixture
def name(used_before: None) -> Iterator[str]:
    with fresh_name() as chosen:
        yield chosen


def put(source: Stream) -> None:
    with source.frame():
        pass


class Interrupted(BaseException):
    """As KeyboardInterrupt."""


class Interrupts:
    """Has a signal come at any time."""

    def __init__(self) -> None:
        faulthandler.dump_traceback_later(60, exit=True)
        self._chance = random.Random(3)
        self._armed = False
        signal.signal(signal.SIGALRM, self._come)

    def _come(self, *_: object) -> None:
        if self._armed:
            raise Interrupted

    def interrupt(self, act: Callable[[], object], longest: float = 0.0004) -> None:
        """Do something again and again, until a signal comes in the middle."""
        try:
            self._armed = True
            # More than once: what comes while something is freed is lost.
            signal.setitimer(signal.ITIMER_REAL, self._chance.uniform(1e-5, longest), 0.02)
            while True:
                act()
        except Interrupted:
            self._armed = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def all_free(source: Stream) -> None:
    """As many frames are written at once as there are slots; the newest frame has one."""
    gc.collect()
    with ExitStack() as held:
        for _ in range(SLOTS - 1):
            held.enter_context(source.frame())


def interrupted_publisher(home: Any, name: str) -> None:
    interrupts = Interrupts()
    with extmem.publish(name, shape=4, dtype="uint8", slots=SLOTS) as source:
        for _ in range(1500):
            interrupts.interrupt(lambda: put(source))
        all_free(source)


def interrupted_reader(home: Any, name: str, policy: str) -> list[Any]:
    """Both sides, in one thread."""
    interrupts = Interrupts()
    with extmem.publish(
        name, shape=4, dtype="uint8", slots=SLOTS, policy=policy, timeout=PATIENCE
    ) as source:
        for _ in range(20):
            with extmem.subscribe(name, policy=policy, timeout=PATIENCE) as frames:

                def step(frames: Any = frames) -> None:
                    if source.sequence < 2 or source._free() is not None:
                        put(source)
                    next(frames)

                for _ in range(40):
                    interrupts.interrupt(step)
            del frames, step
            gc.collect()
            if source.readers:
                break
        left = source.readers
        all_free(source)
        return left


@timers
def test_a_publisher_is_interrupted(name: str) -> None:
    second.run(interrupted_publisher, name=name)


@timers
@pytest.mark.parametrize("policy", ["latest", "all"])
def test_a_subscriber_is_interrupted(name: str, policy: str) -> None:
    assert second.run(interrupted_reader, name=name, policy=policy) == []


def test_frames_that_are_entered_and_never_left(name: str) -> None:
    with extmem.publish(name, shape=4, dtype="uint8", slots=SLOTS) as source:
        for _ in range(3 * SLOTS):
            source.frame().__enter__()
        gc.collect()
        put(source)
        all_free(source)


def interrupted_close(home: Any, name: str) -> list[bool]:
    gpu = extmem.open_device(driver="embedded")
    source = extmem.publish(name, shape=4, dtype="uint8", device=gpu)
    frames = extmem.subscribe(name, timeout=PATIENCE, device=gpu)
    with source.frame() as frame:
        ((semaphore, value),) = frame.promise()
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        source.close()
    except KeyboardInterrupt:
        interrupted = source.closed
    semaphore.signal(value)
    source.close()
    ended = [each.sequence for each in frames] == [1]
    frames.close()
    gpu.close()  # ViewsAlive if a slot is left
    return [interrupted, ended, all(each.closed for each in source._slots.memories)]


@timers
def test_close_goes_on_where_it_was_interrupted(name: str) -> None:
    assert second.run(interrupted_close, name=name) == [True, True, True]


def test_a_frame_that_is_written_while_the_stream_closes(name: str) -> None:
    source = extmem.publish(name, shape=4, dtype="uint8")
    frame = source.frame()
    frame.__enter__()
    source.close()
    with pytest.raises(extmem.ClosedError, match="is closed"):
        frame.numpy()
    with pytest.raises(extmem.ClosedError, match="was closed before the frame was left"):
        frame.__exit__(None, None, None)
