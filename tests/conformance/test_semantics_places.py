"""Where handles may go: a test for each cell of the table, from a place to a place.

Handles live in one process on Linux for now, so the cells of another process are there for
descriptors alone; on Windows they are there for all that Windows has.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import extmem
from extmem import vk, win32
from extmem.drivers.embedded import payload
from extmem.handles.security import security_attributes
from extmem.handles.system import kernel
from tests.support import second
from tests.support.second import Channel
from tests.support.sharing import (
    FD,
    INVALID,
    KMT,
    KMT_NV,
    NT,
    NT_NV,
    ON_LINUX,
    SIZE,
    Gpu,
    assert_shared,
    close,
    from_fd,
    from_handle,
    from_handle_nv,
    refused,
    terms,
)


@dataclass
class Shared:
    """Exported memory, and how to say to an importer what it shall import."""

    memory: Any
    info: Callable[[], Any]


@contextmanager
def shared(gpu: Gpu, column: str, name: str) -> Iterator[Shared]:
    """Memory on `gpu`, to be imported as this column says."""
    if column == "nt":
        memory = gpu.export(NT)
        handle = gpu.get(memory, NT)
        yield Shared(memory, lambda: from_handle(handle))
        close(handle)
    elif column == "kmt":
        memory = gpu.export(KMT)
        number = gpu.get(memory, KMT)
        yield Shared(memory, lambda: from_handle(number, KMT))
    elif column == "name":
        memory = gpu.export(NT, terms(name=name))
        yield Shared(memory, lambda: from_handle(None, NT, name))
    else:
        memory = gpu.export(FD)
        fd = gpu.get(memory, FD)
        # A successful import takes the descriptor: each gets a duplicate.
        duplicates: list[int] = []

        def duplicate() -> Any:
            duplicates.append(os.dup(fd))
            return from_fd(duplicates[-1])

        yield Shared(memory, duplicate)
        os.close(fd)
        for each in duplicates:
            if _is_open(each):
                os.close(each)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


NAMES = ["nt", "kmt", "name", *(["fd"] if ON_LINUX else [])]
COLUMNS = pytest.mark.parametrize("column", NAMES)

# By column: the rule about the device that an import is on, where there is one for values that
# come from a Vulkan of this process.
OTHER_DEVICE = {"nt": "00659", "kmt": "00659", "name": "00659", "fd": "fd-00668"}


# -- within a process ---------------------------------------------------------------------------


@COLUMNS
def test_to_the_same_device_again(gpu: Gpu, name: str, column: str) -> None:
    with shared(gpu, column, name) as it:
        first, second_ = gpu.allocate(it.info()), gpu.allocate(it.info())
        assert len({int(each) for each in (it.memory, first, second_)}) == 3
        assert_shared((gpu, it.memory), (gpu, first))
        assert_shared((gpu, first), (gpu, second_))


@COLUMNS
@pytest.mark.parametrize("place", ["other device", "other instance"])
def test_within_this_process(gpu: Gpu, name: str, column: str, place: str) -> None:
    beside = gpu if place == "other device" else None
    with shared(gpu, column, name) as it, Gpu(gpu.checks, beside=beside) as other:
        imported = other.allocate(it.info())
        assert_shared((gpu, it.memory), (other, imported))


@COLUMNS
def test_to_another_physical_device_it_does_not_go(gpu: Gpu, name: str, column: str) -> None:
    with shared(gpu, column, name) as it, Gpu(gpu.checks, index=1) as other:
        vuid = OTHER_DEVICE[column]
        refused(other, lambda: other.allocate(it.info()), vuid=vuid, result=INVALID)
        assert_shared((gpu, it.memory), (gpu, gpu.allocate(it.info())))


@COLUMNS
def test_to_another_driver_version_it_does_not_go(
    gpu: Gpu, name: str, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What another release of the device made: the page in front names its driver's UUID.
    with monkeypatch.context() as patch:
        patch.setattr(payload, "DRIVER_UUID", bytes(range(16)))
        with shared(gpu, column, name) as it:
            patch.undo()
            with pytest.raises((extmem.RuleViolation, extmem.DriverError)) as error:
                gpu.allocate(it.info())
            if isinstance(error.value, extmem.DriverError):
                assert error.value.result == INVALID


@pytest.mark.parametrize("handle_type", [NT_NV, KMT_NV], ids=["nt", "kmt"])
@pytest.mark.parametrize("place", ["same instance", "other instance"])
def test_nv_within_this_process(gpu: Gpu, handle_type: int, place: str) -> None:
    # Its text speaks of other instances only; here the same instance is as good as those.
    memory = gpu.export_nv(handle_type)
    handle = gpu.get_nv(memory, handle_type)
    with Gpu(gpu.checks, beside=gpu if place == "same instance" else None) as other:
        imported = other.allocate(from_handle_nv(handle, handle_type))
        assert_shared((gpu, memory), (other, imported))
    if handle_type == NT_NV:
        close(handle)


# -- to another process -------------------------------------------------------------------------


def import_there(channel: Channel) -> bool:
    """Over there: import what a message says, and have the bytes of both sides meet."""
    said, fds = channel.receive()
    with Gpu("full") as gpu:
        if fds:
            imported = gpu.take(fds[0], FD)
        elif said["name"] is not None:
            imported = gpu.take_name(said["name"])
        else:
            imported = gpu.take(said["handle"], said["type"])
            if said["type"] == NT:
                close(said["handle"])
        assert gpu.read(imported, 5) == b"there"
        gpu.write(imported, b"back!")
        channel.send("done")
        channel.receive()  # what it imported stays until the other side has looked
    return True


def meet(gpu: Gpu, memory: Any, send: Callable[[Any], None]) -> None:
    """Write here, and read what the other process answers in the same bytes."""
    gpu.write(memory, b"there")
    with second.start(import_there) as other:
        send(other)
        assert other.receive()[0] == "done"
        assert gpu.read(memory, 5) == b"back!"
        other.send("bye")
        assert other.result() is True


if ON_LINUX:

    def test_to_another_process_as_fd(gpu: Gpu) -> None:
        memory = gpu.export(FD)
        fd = gpu.get(memory, FD)
        meet(gpu, memory, lambda other: other.send({}, [fd]))
        os.close(fd)


def test_to_another_process_as_duplicated_nt(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    handle = gpu.get(memory, NT)

    def send(other: Any) -> None:
        theirs = other.give(handle)
        other.send({"handle": theirs, "type": NT, "name": None})

    meet(gpu, memory, send)
    close(handle)


def test_to_another_process_as_kmt(gpu: Gpu) -> None:
    memory = gpu.export(KMT)
    number = gpu.get(memory, KMT)
    said = {"handle": number, "type": KMT, "name": None}
    meet(gpu, memory, lambda other: other.send(said))


def test_to_another_process_by_name(gpu: Gpu, name: str) -> None:
    memory = gpu.export(NT, terms(name=name))
    meet(gpu, memory, lambda other: other.send({"name": name}))


def open_there(channel: Channel, handle: int) -> bool:
    """Over there: whether a number is a handle of memory in that process."""
    try:
        return kernel().info(handle).type_name == "Section"
    except OSError:
        return False


def test_to_another_process_a_value_means_nothing(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    # Beyond the few handles that a new process has of its own.
    first = gpu.get(memory, NT)
    handles = [kernel().duplicate(first) for _ in range(2000)]
    assert not second.run(open_there, handle=handles[-1])
    close(first, *handles)


def hold_there(channel: Channel, name: str) -> bool:
    """Over there: hold the only handle of a name, and end without closing it."""
    (handle,), _ = channel.receive()
    channel.send(kernel().info(handle).handle_count)
    channel.receive()
    return True


def test_nt_handle_ends_with_its_process(gpu: Gpu, name: str) -> None:
    memory = gpu.export(NT, terms(name=name))
    handle = gpu.get(memory, NT)
    gpu.write(memory, b"process")
    with second.start(hold_there, name=name) as other:
        other.send([other.give(handle)])
        close(handle)
        gpu.free(memory)
        assert other.receive()[0] == 1
        # The other process' handle is all that there is of it.
        imported = gpu.take_name(name)
        assert gpu.read(imported, 7) == b"process"
        other.send("end")
        assert other.result() is True
    refused(gpu, lambda: gpu.take_name(name), vuid="01440", result=INVALID)


INHERITING = """
import sys
from extmem import vk
from tests.support.sharing import Gpu, NT
with Gpu() as gpu:
    imported = gpu.take(int(sys.argv[1]), NT)
    assert gpu.read(imported, 5) == b"there"
    gpu.write(imported, b"back!")
"""


@pytest.mark.parametrize("inherit", [True, False])
def test_to_another_process_by_inheritance(gpu: Gpu, inherit: bool) -> None:
    memory = gpu.export(NT, terms(pAttributes=security_attributes(inherit=inherit)))
    handle = gpu.get(memory, NT)
    gpu.write(memory, b"there")
    done = subprocess.run(
        [sys.executable, "-c", INHERITING, str(handle)],
        cwd=second.ROOT,
        close_fds=False,  # all that is inheritable goes along
        env={**os.environ, **win32.child_environment()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode == 0) == inherit, done.stderr
    assert gpu.read(memory, 5) == (b"back!" if inherit else b"there")
    if not inherit:
        assert "VUID" in done.stderr
    close(handle)


def test_a_size_is_what_travels_beside_a_handle(gpu: Gpu) -> None:
    """A handle in another place is a number: nobody there can ask how large it is."""
    memory = gpu.export(NT, size=3 * SIZE)
    handle = gpu.get(memory, NT)
    with Gpu(gpu.checks) as other:
        refused(
            other,
            lambda: vk.vkGetMemoryWin32HandlePropertiesKHR(other.device, NT, handle),
            vuid="handleType-00666",
            result=INVALID,
        )
        assert_shared((gpu, memory), (other, other.take(handle, NT, size=3 * SIZE)))
    close(handle)
