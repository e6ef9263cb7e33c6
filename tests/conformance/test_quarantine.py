"""Imports that are tried in a process of their own first: what passes, and what that costs whom."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

import extmem
from extmem import QuarantineError, RuleViolation
from extmem.examining import examiner_of
from extmem.handle_types import memory_type
from extmem.handles.handle import Handle
from extmem.handles.system import kernel
from extmem.share import helper, quarantine, trials
from tests.support import second
from tests.support.quarantined import (
    PATIENCE,
    SIZE,
    descriptors_of,
    gone,
    helper_of,
    kill,
    stop,
    there,
    works,
)
from tests.support.second import Channel

TYPES = ["opaque_fd", "opaque_win32", "opaque_win32_kmt"]
if sys.platform == "win32":
    TYPES.remove("opaque_fd")


@pytest.fixture
def gpu(used_before: None) -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded") as opened:
        yield opened


# -- what is right --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_good_handles_pass_and_share(driver: str, kind: str) -> None:
    with extmem.open_device(driver=driver) as gpu, gpu.allocate(SIZE, export=kind) as memory:
        passport = memory.passport
        ways: list[Callable[[Handle], dict[str, Any]]] = [
            lambda handle: {"handle": handle},
            lambda handle: {"handle": int(handle), "handle_type": kind, "passport": passport},
            lambda handle: {
                "handle": int(handle),
                "handle_type": kind,
                "passport": passport.encode(),
            },
        ]
        if not memory.dedicated:  # or it would have to be said, too
            ways.append(
                lambda handle: {
                    "handle": Handle(int(handle), kind),
                    "size": SIZE,
                    "memory_type": memory.memory_type.index,
                }
            )
        tried_in = set()
        for number, way in enumerate(ways):
            with memory.export() as handle:
                given = way(handle)
                with gpu.import_memory(**given, quarantine=True) as again:
                    memory.numpy()[0] = number
                    memory.flush()
                    again.invalidate()
                    assert again.numpy()[0] == number
                    again.numpy()[SIZE - 1] = 100 + number
                    again.flush()
                    memory.invalidate()
                    assert memory.numpy()[SIZE - 1] == 100 + number
                if given["handle"] is not handle and isinstance(given["handle"], Handle):
                    given["handle"].detach()
                if kind == "opaque_fd":
                    os.fstat(int(handle))  # it is still the caller's
            tried_in.add(helper_of(gpu))
        assert len(tried_in) == 1
        [process] = tried_in
        assert process is not None
        assert there(process)
    assert gone(process)  # with its device


def test_a_name_is_enough(driver: str) -> None:
    name = f"Local\\extmem-test-{secrets.token_hex(8)}"
    with (
        extmem.open_device(driver=driver) as gpu,
        gpu.allocate(SIZE, export="opaque_win32", name=name) as memory,
        gpu.import_memory(name=name, quarantine=True) as again,
    ):
        again.numpy()[5] = 9
        again.flush()
        memory.invalidate()
        assert memory.numpy()[5] == 9
        assert again.size == SIZE


def test_memory_that_cannot_be_mapped_passes_too(gpu: extmem.Device) -> None:
    with (
        gpu.allocate(SIZE, export=TYPES[0], memory="device_local") as memory,
        memory.export() as handle,
        gpu.import_memory(handle, quarantine=True) as again,
    ):
        assert again.host_visible == memory.host_visible


def test_many_imports_are_tried_in_one_process_that_stays_as_it_is(driver: str) -> None:
    with extmem.open_device(driver=driver) as gpu:
        process, held = works(gpu), [""]
        with gpu.allocate(SIZE, export=TYPES[0]) as memory, memory.export() as handle:
            for number in range(50):
                gpu.import_memory(handle, quarantine=True).close()
                if number == 3:  # by now it has opened all that it keeps
                    held = descriptors_of(process)
        assert works(gpu) == process
        assert descriptors_of(process) == held


def test_threads_take_turns(gpu: extmem.Device) -> None:
    tried_in: list[int] = []
    threads = [threading.Thread(target=lambda: tried_in.append(works(gpu))) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert len(tried_in) == 4
    assert len(set(tried_in)) == 1


# -- what is wrong --------------------------------------------------------------------------------


def test_what_no_other_process_can_try_is_refused(gpu: extmem.Device) -> None:
    with pytest.raises(extmem.Unsupported, match="without quarantine=True"):
        gpu.import_memory(bytearray(8192), quarantine=True)
    for wrong, error in (
        ({}, ValueError),
        ({"name": "x", "handle": 4}, ValueError),
        ({"name": b"x"}, TypeError),
        ({"name": "x" * 40_000}, ValueError),
        ({"name": "x", "size": 0}, ValueError),
        ({"name": "x", "size": "1"}, TypeError),
        ({"name": "x", "size": 1 << 63}, ValueError),
        ({"name": "x", "size": 64, "memory_type": 1 << 70}, ValueError),
        ({"name": "x", "passport": b"nonsense"}, extmem.PassportError),
        ({"name": "x", "handle_type": "dma_buf"}, extmem.Unsupported),
        ({"handle": 1 << 70, "handle_type": "opaque_win32_kmt", "size": 64}, ValueError),
    ):
        with pytest.raises(error):
            gpu.import_memory(**wrong, quarantine=True)  # type: ignore[arg-type]
    assert helper_of(gpu) is None  # all of that was known without
    closed = Handle(4, "opaque_win32")
    closed.detach()
    with pytest.raises(extmem.ClosedError):
        gpu.import_memory(closed, quarantine=True)


def test_errors_are_those_of_the_import(gpu: extmem.Device) -> None:
    with gpu.allocate(SIZE, export="opaque_win32") as memory, memory.export() as handle:
        assert memory.passport.place is not None
        elsewhere = msgspec.structs.replace(
            memory.passport,
            place=msgspec.structs.replace(memory.passport.place, device_uuid=b"x" * 16),
        )
        for wrong, error, words in (
            ({"passport": elsewhere}, extmem.PassportError, "open that device"),
            ({"size": 5}, extmem.PassportError, "the size is 5"),
            ({"memory_type": 0}, extmem.PassportError, "memory type"),
        ):
            with pytest.raises(error, match=words) as met:
                gpu.import_memory(handle, **wrong, quarantine=True)  # type: ignore[arg-type]
            assert "a process of its own" in met.value.__notes__[0]
        process = kernel().open_process(0x40, False, os.getpid())
        try:
            with pytest.raises(RuleViolation, match="a Process, not of memory") as told:
                gpu.import_memory(process, handle_type="opaque_win32", size=64, quarantine=True)
            with pytest.raises(RuleViolation) as here:
                gpu.import_memory(process, handle_type="opaque_win32", size=64)
        finally:
            kernel().close(process)
        ours, theirs = here.value.problems, told.value.problems
        assert [each.vuid for each in ours] == [each.vuid for each in theirs]
        works(gpu)


def test_windows_handles_that_are_wrong(driver: str) -> None:
    process = kernel().open_process(0x40, False, os.getpid())
    try:
        for checks in ("full", "off"):
            with extmem.open_device(driver=driver, checks=checks) as gpu:
                tried_in = works(gpu)
                for wrong in (
                    {"handle": process, "handle_type": "opaque_win32"},
                    {"handle": 0x7FFFFFF0, "handle_type": "opaque_win32"},
                    {"handle": 0x7FFFFFF2, "handle_type": "opaque_win32_kmt"},
                    {"name": "Local\\extmem-test-nothing"},
                ):
                    with pytest.raises((extmem.ExtmemError, OSError)):
                        gpu.import_memory(**wrong, size=SIZE, quarantine=True)  # type: ignore[arg-type]
                assert works(gpu) == tried_in
        assert kernel().info(process).type_name == "Process"  # it is still ours
    finally:
        kernel().close(process)


# -- the helper -----------------------------------------------------------------------------------


def test_one_that_was_killed_is_replaced(gpu: extmem.Device) -> None:
    before = works(gpu)
    for _ in range(3):
        kill(before)
        after = works(gpu)
        assert after != before
        before = after


def test_one_that_does_not_answer_is_an_error(
    gpu: extmem.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = works(gpu)
    stop(stopped)
    with monkeypatch.context() as patch:
        patch.setattr(quarantine, "PATIENCE", 1.0)
        with pytest.raises(QuarantineError, match="within 1 s, and was killed, before it had beg"):
            works(gpu)
    assert not there(stopped)
    works(gpu)


def uses(home: Channel) -> None:
    with extmem.open_device(driver="embedded") as gpu:
        home.send(works(gpu))
        time.sleep(PATIENCE)


def leaves_it_open(home: Channel) -> int:
    gpu = extmem.open_device(driver="embedded")
    return works(gpu)


def test_it_ends_with_a_parent_that_is_killed() -> None:
    with second.start(uses) as other:
        process, _ = other.receive()
        assert there(process)
        other.kill()
        assert gone(process)


def test_it_ends_with_a_parent_that_closes_nothing() -> None:
    assert gone(second.run(leaves_it_open))


def test_it_opens_that_device_and_no_other(gpu: extmem.Device) -> None:
    good = helper.Target(
        "embedded", gpu.physical.device_uuid, gpu.physical.driver_uuid, "full", "x"
    )
    for wrong, told in (
        ({"device_uuid": b"?" * 16}, "cannot open x: DriverNotFound: no device has the UUID"),
        ({"driver": "/none.json"}, "cannot open x: DriverNotFound: there is no driver manifest"),
        ({"driver_uuid": b"?" * 16}, "was the driver replaced"),
    ):
        fields = {name: getattr(good, name) for name in good.__slots__} | wrong
        with pytest.raises(QuarantineError, match=told):
            helper.start(helper.Target(**fields))


def test_an_error_of_its_own_is_told_and_ends_it(gpu: extmem.Device) -> None:
    process = works(gpu)
    examiner = examiner_of(gpu)
    assert isinstance(examiner, quarantine.Quarantine)
    # What it is asked to try has neither a number nor a name.
    trial = trials.Try("opaque_win32_kmt", None, None, None, 64, None, None, None)
    answer = examiner._ask(trial, memory_type("opaque_win32_kmt"), 4, [], "it")
    assert isinstance(answer, trials.Failed)
    with pytest.raises(QuarantineError, match="an error of its own: AssertionError"):
        raise trials.remade(answer)
    assert gone(process)
    works(gpu)
