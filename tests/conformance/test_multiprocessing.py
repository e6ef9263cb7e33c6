"""Memory in multiprocessing: arguments, queues and pipes, under spawn and forkserver; not fork."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import resource_sharer
from typing import Any

import pytest

import extmem
from extmem.handles.handle import Handle
from extmem.share import arrivals
from tests.support.leaks import windows_handles

SIZE = 10_000
PATIENCE = 60.0
METHODS = [each for each in multiprocessing.get_all_start_methods() if each != "fork"]
TYPES = ["opaque_fd", "opaque_win32", "opaque_win32_kmt"]
if sys.platform == "win32":
    TYPES.remove("opaque_fd")


def _nothing() -> None:
    pass


@pytest.fixture(scope="session")
def helpers() -> Iterator[None]:
    """What multiprocessing starts on the first use and keeps: its processes, and a thread."""
    for method in METHODS:
        process = multiprocessing.get_context(method).Process(target=_nothing)
        process.start()
        process.join(PATIENCE)
        process.close()
    if sys.platform != "win32":
        resource_sharer._resource_sharer._start()
    yield
    if sys.platform != "win32":
        from multiprocessing import forkserver, resource_tracker

        resource_sharer.stop(timeout=PATIENCE)
        forkserver._forkserver._stop()
        resource_tracker._resource_tracker._stop()


@pytest.fixture(autouse=True)
def _no_device_is_kept(helpers: None) -> Iterator[None]:
    yield
    arrivals._close_devices()


def _work(memory: extmem.Memory, queue: Any, pipe: Any) -> None:
    """Changes what came as an argument and through the queue, and sends memory of its own."""
    with memory, queue.get(timeout=PATIENCE) as second:
        for each in (memory, second):
            each.invalidate()
            each.numpy()[1] = each.numpy()[0] + 1
            each.flush()
        assert memory.device is second.device  # opened once
        kind = memory.imported.name  # type: ignore[union-attr]
        with memory.device.allocate(SIZE, export=kind) as own:
            own.numpy()[:] = 5
            own.flush()
            pipe.send({"nested": [own, own.export()]})
            assert pipe.poll(PATIENCE)
            pipe.recv()  # it was taken
            own.invalidate()
            pipe.send(int(own.numpy()[0]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", TYPES)
def test_memory_arrives_as_an_import(driver: str, kind: str, method: str) -> None:
    context = multiprocessing.get_context(method)
    queue, (ours, theirs) = context.Queue(), context.Pipe()
    with (
        extmem.open_device(driver=driver) as gpu,
        gpu.allocate(SIZE, export=kind) as first,
        gpu.allocate(SIZE, export=kind) as second,
    ):
        for number, memory in enumerate((first, second)):
            memory.numpy()[0] = 10 * number
            memory.flush()
        process = context.Process(target=_work, args=(first, queue, theirs))
        process.start()
        try:
            queue.put(second)
            assert ours.poll(PATIENCE)
            arrived, handle = ours.recv()["nested"]
            with arrived, handle, gpu.import_memory(handle) as again:
                assert arrived.device.physical.device_uuid == gpu.physical.device_uuid
                assert arrived.device.checks == gpu.checks
                assert arrived.passport.exporter.process_id == process.pid
                assert isinstance(handle, Handle)
                assert handle.passport == arrived.passport
                assert (again.numpy() == 5).all()
                arrived.numpy()[0] = 6
                arrived.flush()
                ours.send("taken")
                assert ours.poll(PATIENCE)
                assert ours.recv() == 6
            process.join(PATIENCE)
            assert process.exitcode == 0
        finally:
            process.kill()
            process.join(PATIENCE)
            process.close()
            for end in (queue, ours, theirs):
                end.close()
            queue.join_thread()
        for number, memory in enumerate((first, second)):
            memory.invalidate()
            assert int(memory.numpy()[1]) == 10 * number + 1


def _fill(array: extmem.Array) -> None:
    array.numpy()[...] = 0.5


def test_an_array_arrives_in_an_import(used_before: None) -> None:
    with (
        extmem.open_device(driver="embedded") as gpu,
        gpu.allocate(SIZE, export=TYPES[0]) as memory,
    ):
        array = memory.array((5, 5), "float32", offset=40)
        process = multiprocessing.get_context("spawn").Process(target=_fill, args=(array,))
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == 0
        process.close()
        assert (array.numpy() == 0.5).all()
        assert int(memory.numpy("float32").astype(bool).sum()) == 25
        for copied in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="multiprocessing"):
                copied(array)
        del array


def _signals(ping: extmem.Semaphore, fence: extmem.Fence, pipe: Any) -> None:
    """Answers by a semaphore of its own, and by a fence."""
    kind = ping.imported.name  # type: ignore[union-attr]
    with ping, fence, ping.device.semaphore(export=kind) as pong:
        assert ping.device is fence.device
        pipe.send(pong)
        ping.wait(1, timeout=PATIENCE)
        pong.signal(2)
        ping.device.submit(fence=fence)
        ping.wait(3, timeout=PATIENCE)


@pytest.mark.parametrize("kind", TYPES)
def test_semaphores_and_fences_arrive_as_imports(used_before: None, kind: str) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with (
        extmem.open_device(driver="embedded") as gpu,
        gpu.semaphore(export=kind) as ping,
        gpu.fence(export=kind) as fence,
    ):
        process = context.Process(target=_signals, args=(ping, fence, theirs))
        process.start()
        try:
            assert ours.poll(PATIENCE)
            with ours.recv() as pong:
                ping.signal(1)
                pong.wait(2, timeout=PATIENCE)
                fence.wait(PATIENCE)
                ping.signal(3)
                process.join(PATIENCE)
            assert process.exitcode == 0
        finally:
            process.kill()
            process.join(PATIENCE)
            process.close()
            ours.close()
            theirs.close()


def test_semaphores_that_cannot_be_sent_say_so(used_before: None) -> None:
    ours, theirs = multiprocessing.Pipe()
    with (
        ours,
        theirs,
        extmem.open_device(driver="embedded") as gpu,
        gpu.semaphore() as semaphore,
        gpu.fence() as fence,
    ):
        for each in (semaphore, fence):
            with pytest.raises(extmem.Unsupported, match=r"\(\.\.\., export='opaque_fd'\)"):
                ours.send(each)
            with pytest.raises(TypeError, match="multiprocessing Queue, Pipe or Process"):
                pickle.dumps(each)


def _send_and_wait(pipe: Any, kind: str) -> None:
    with extmem.open_device(driver="embedded") as gpu, gpu.allocate(SIZE, export=kind) as memory:
        pipe.send(memory)
        pipe.poll(PATIENCE)


@pytest.mark.parametrize("kind", [each for each in TYPES if each != "opaque_win32_kmt"])
def test_a_sender_that_was_killed_is_an_error(used_before: None, kind: str) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send_and_wait, args=(theirs, kind))
    process.start()
    theirs.close()
    try:
        assert ours.poll(PATIENCE)
        process.kill()
        process.join(PATIENCE)
        with pytest.raises((OSError, EOFError)):
            ours.recv()
    finally:
        process.kill()
        process.join(PATIENCE)
        process.close()
        ours.close()


def _never_reads(memory: extmem.Memory) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("kind", TYPES)
def test_a_child_that_takes_nothing_costs_nothing(used_before: None, kind: str) -> None:
    context = multiprocessing.get_context("spawn")
    with extmem.open_device(driver="embedded") as gpu, gpu.allocate(64, export=kind) as memory:
        process = context.Process(target=_never_reads, args=(memory,))
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == 3
        process.close()
        memory.numpy()[:] = 1


class _Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def _not_reached(*_: object) -> None:
    raise AssertionError


@pytest.mark.parametrize("kind", TYPES)
def test_a_child_that_never_unpickles_costs_nothing(used_before: None, kind: str) -> None:
    context = multiprocessing.get_context("spawn")
    with extmem.open_device(driver="embedded") as gpu:
        before = windows_handles()
        with gpu.allocate(64, export=kind) as memory:
            process = context.Process(target=_not_reached, args=(_Deadly(), memory))
            process.start()
            process.join(PATIENCE)
            assert process.exitcode == 3
            process.close()
        assert windows_handles() == before


def test_what_nobody_receives_is_closed_with_its_memory(used_before: None) -> None:
    with extmem.open_device(driver="embedded") as gpu:
        before = windows_handles()
        with gpu.allocate(64, export="opaque_win32") as memory:
            ours, theirs = multiprocessing.get_context("spawn").Pipe()
            with ours, theirs:
                for _ in range(5):
                    ours.send(memory)
                with theirs.recv() as again:
                    memory.numpy()[0] = 5
                    assert again.numpy()[0] == 5
        assert windows_handles() == before


def test_other_pickles_are_refused(used_before: None) -> None:
    with (
        extmem.open_device(driver="embedded") as gpu,
        gpu.allocate(64, export=TYPES[0]) as memory,
        memory.export() as handle,
    ):
        for each in (memory, handle):
            for pickler in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match="multiprocessing Queue, Pipe or Process"):
                    pickler(each)


def test_memory_that_cannot_be_shared_says_so(used_before: None) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with ours, theirs, extmem.open_device(driver="embedded") as gpu, gpu.allocate(64) as private:
        with pytest.raises(extmem.Unsupported, match=r"allocate\(\.\.\., export="):
            ours.send(private)
        with (
            gpu.allocate(64, export=TYPES[0]) as memory,
            memory.export() as handle,
            gpu.import_memory(handle) as again,
            pytest.raises(extmem.Unsupported, match="was imported"),
        ):
            ours.send(again)
        with pytest.raises(extmem.Unsupported, match="an address"):
            ours.send(Handle(4096, "host_allocation"))


_IMPORTS_NOTHING = """
import sys, extmem
assert not [each for each in sys.modules if each.startswith("multiprocessing")]
import multiprocessing
ours, theirs = multiprocessing.Pipe()
with extmem.open_device(driver="embedded") as gpu:
    with gpu.allocate(64, export="opaque_win32") as memory:
        memory.numpy()[:] = 3
        for _ in range(2):  # the first registers what the second uses
            ours.send(memory)
            with theirs.recv() as again:
                assert again.numpy()[63] == 3 and again.device is not gpu
        ours.send(memory.export())
        theirs.recv().close()
"""


def test_nothing_is_imported_before_it_is_used() -> None:
    options = ("-X", "dev", "-W", "error::ResourceWarning")
    subprocess.run([sys.executable, *options, "-c", _IMPORTS_NOTHING], check=True, timeout=PATIENCE)


_FORKS = """
import multiprocessing, os, sys
import extmem
from extmem import vk

def child(gpu, memory, buffer, pipe):
    for name, use in {
        "numpy": memory.numpy,
        "export": memory.export,
        "allocate": lambda: gpu.allocate(64),
        "import": lambda: gpu.import_memory(0, handle_type="opaque_fd", size=4096),
        "handle": lambda: gpu.handle,
        "memory": lambda: memory.handle,
        "vk": lambda: vk.vkEnumeratePhysicalDevices(gpu.instance),
        "queue": lambda: pipe.recv(),
    }.items():
        try:
            use()
        except extmem.Unsupported as error:
            assert "spawn or forkserver" in str(error), error
            print(name, flush=True)
    repr(gpu), repr(memory)
    memory.close(), buffer.close(), gpu.close()

def main(driver, kind):
    ours, theirs = multiprocessing.Pipe()
    with extmem.open_device(driver=driver) as gpu:
        with gpu.allocate(64, export=kind) as memory, gpu.buffer(memory) as buffer:
            memory.numpy()[:] = 9
            memory.export().close()
            # As multiprocessing does it, whose children end without the interpreter's end.
            ours.send(memory)
            process = multiprocessing.get_context("fork").Process(
                target=child, args=(gpu, memory, buffer, theirs))
            process.start()
            process.join(30)
            assert process.exitcode == 0, process.exitcode
            # And bare, with the interpreter's end, in the middle of the parent's `with`. Not on
            # NVIDIA's driver, whose own exit handler never returns in a forked child.
            sys.stdout.flush()
            pid = 0 if "nvidia" in driver else os.fork()
            if not pid and "nvidia" not in driver:
                sys.exit(7)
            assert not pid or os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            assert (memory.numpy() == 9).all()  # the parent's is as it was

main(*sys.argv[1:])
"""

if sys.platform != "win32":

    @pytest.mark.parametrize("kind", ["opaque_fd", "opaque_win32"])
    def test_a_forked_child_is_told_the_way_out(driver: str, kind: str) -> None:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "always", "-c", _FORKS, driver, kind],
            capture_output=True,
            timeout=PATIENCE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        said = done.stderr.decode()
        assert done.returncode == 0, said
        assert done.stdout.decode().split() == [
            *("numpy", "export", "allocate", "import", "handle", "memory", "vk", "queue")
        ]
        assert "ResourceWarning" not in said
        assert "Exception ignored" not in said
        assert "Traceback" not in said
