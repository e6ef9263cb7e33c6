"""The objects of the public face on every driver: sharing, closing, and what is forgotten."""

from __future__ import annotations

import gc
import mmap
import os
import socket
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import extmem
from extmem import ClosedError, Device, Handle, Memory, Unsupported, ViewsAlive
from tests.support import second
from tests.support.second import Channel
from tests.support.strict import driver_cannot

SIZE = 10_000  # bytes; no multiple of anything


@pytest.fixture
def gpu(driver: str) -> Iterator[Device]:
    with extmem.open_device(driver=driver) as device:
        if not device.physical.can_export("opaque_fd"):
            driver_cannot("it exports no opaque_fd")
        yield device


@pytest.fixture
def shared(gpu: Device) -> Memory:
    return gpu.allocate(SIZE, export="opaque_fd")


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# -- sharing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dedicated", [True, False, None])
def test_two_devices_share_bytes(driver: str, gpu: Device, dedicated: bool | None) -> None:
    shared = gpu.allocate(SIZE, export="opaque_fd", dedicated=dedicated)
    with extmem.open_device(driver=driver) as other, shared.export() as handle:
        imported = other.import_memory(handle)
        assert imported.size == SIZE
        shared.numpy()[:] = np.arange(SIZE, dtype="uint32").astype("uint8")
        assert (imported.numpy() == shared.numpy()).all()
        imported.numpy("uint16", (100, 50))[:] = 0xABCD
        assert (shared.numpy("uint16")[:5000] == 0xABCD).all()


def test_the_handle_stays_the_callers(gpu: Device, shared: Memory) -> None:
    with shared.export() as handle:
        imports = [gpu.import_memory(handle) for _ in range(3)]
        assert not handle.closed
        assert is_open(handle.fileno())
        imports[0].numpy()[7] = 77
        assert [each.numpy()[7] for each in imports] == [77] * 3


def test_a_bare_descriptor_stays_the_callers(gpu: Device, shared: Memory) -> None:
    handle = shared.export()
    index, fd = handle.memory_type_index, handle.detach()
    assert handle.closed
    imported = gpu.import_memory(fd, handle_type="opaque_fd", size=SIZE, memory_type=index)
    assert is_open(fd)
    shared.numpy()[0] = 9
    assert imported.numpy()[0] == 9
    os.close(fd)


def test_handles_duplicate_and_close_once(shared: Memory) -> None:
    handle = shared.export()
    with handle.duplicate() as copy:
        assert copy.value != handle.value
        assert (copy.size, copy.memory_type_index, copy.dedicated, copy.device_uuid) == (
            handle.size,
            handle.memory_type_index,
            handle.dedicated,
            handle.device_uuid,
        )
        fd = handle.value
        handle.close()
        assert not is_open(fd)
        handle.close()
        assert is_open(copy.value)
        with pytest.raises(ClosedError):
            _ = handle.value
    assert copy.closed


def test_a_refused_import_leaves_the_handle(gpu: Device, shared: Memory) -> None:
    with shared.export() as handle:
        with pytest.raises(Unsupported, match="d3d11_texture"):
            gpu.import_memory(handle.value, handle_type="d3d11_texture", size=SIZE)
        with pytest.raises(ValueError, match="size"):
            gpu.import_memory(handle.value, handle_type="opaque_fd")
        with pytest.raises(ValueError, match="memory type"):
            gpu.import_memory(handle, memory_type=99)
        assert is_open(handle.value)
        gpu.import_memory(handle).numpy()[:] = 5
    assert (shared.numpy() == 5).all()


def test_a_handle_of_another_device_is_refused(gpu: Device, shared: Memory) -> None:
    with shared.export() as handle:
        stranger = Handle(
            handle.duplicate().detach(), "opaque_fd", size=SIZE, device_uuid=bytes(range(16))
        )
        with stranger, pytest.raises(Unsupported, match=bytes(range(16)).hex()):
            gpu.import_memory(stranger)


def test_not_exportable(gpu: Device) -> None:
    private = gpu.allocate(SIZE)
    with pytest.raises(Unsupported, match="opaque_fd"):
        private.export("opaque_fd")
    with pytest.raises(ValueError, match="none"):
        private.export()


def over_there(channel: Channel, driver: str) -> dict[str, Any]:
    """Import, read, write, and export something of our own."""
    facts, (fd,) = channel.receive()
    with extmem.open_device(driver=driver) as gpu:
        with Handle(
            fd,
            "opaque_fd",
            size=facts["size"],
            memory_type_index=facts["memory_type"],
            device_uuid=bytes.fromhex(facts["uuid"]),
            dedicated=facts["dedicated"],
        ) as handle:
            memory = gpu.import_memory(handle)
        seen = int(memory.numpy().sum())
        memory.numpy()[:] = 3
        mine = gpu.allocate(facts["size"], export="opaque_fd")
        mine.numpy()[:] = 4
        with mine.export() as handle:
            channel.send(handle.memory_type_index, [handle.fileno()])
        channel.receive()
        return {"seen": seen, "mine": int(mine.numpy().max())}


@pytest.mark.parametrize("dedicated", [True, False])
def test_two_processes_share_bytes(driver: str, gpu: Device, dedicated: bool) -> None:
    shared = gpu.allocate(SIZE, export="opaque_fd", dedicated=dedicated)
    shared.numpy()[:] = 2
    with second.start(over_there, driver=driver) as other:
        with shared.export() as handle:
            facts = {
                "size": SIZE,
                "memory_type": handle.memory_type_index,
                "uuid": gpu.physical.device_uuid.hex(),
                "dedicated": handle.dedicated,
            }
            other.send(facts, [handle.fileno()])
        index, (fd,) = other.receive()
        with Handle(fd, "opaque_fd", size=SIZE, memory_type_index=index) as handle:
            theirs = gpu.import_memory(handle)
        assert (shared.numpy() == 3).all()
        assert (theirs.numpy() == 4).all()
        theirs.numpy()[-1] = 200
        other.send("look")
        assert other.result() == {"seen": 2 * SIZE, "mine": 200}
    assert theirs.numpy()[-1] == 200  # the exporter is gone, the bytes are not


def test_host_memory(gpu: Device) -> None:
    if not gpu.physical.can_import("host_allocation"):
        driver_cannot("it imports no host_allocation")
    with mmap.mmap(-1, 65536) as bytes_of_mine:
        memory = gpu.import_memory(bytes_of_mine)
        with gpu.buffer(memory) as buffer:
            gpu.fill(buffer, 0x07070707)
        assert bytes_of_mine[:] == b"\7" * 65536
        bytes_of_mine[:3] = b"abc"
        assert bytes(memory.numpy()[:3]) == b"abc"
        with pytest.raises(BufferError):
            bytes_of_mine.close()  # the device works on it
        memory.close()


# -- on the device ----------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["a word", 3.5, object()])
def test_what_is_no_host_memory_is_named(gpu: Device, wrong: object) -> None:
    if not gpu.physical.can_import("host_allocation"):
        driver_cannot("it imports no host_allocation")
    with pytest.raises(TypeError, match=r"expected a Handle.*names go to name="):
        gpu.import_memory(wrong, size=64)


def test_copy_and_fill_through_device_memory(driver: str, gpu: Device) -> None:
    """Host to device-local, shared to another device, and back to the host."""
    with extmem.open_device(driver=driver) as other:
        near = gpu.allocate(4096, export="opaque_fd", memory="device_local")
        with near.export() as handle:
            distant = other.import_memory(handle)
        source, target = gpu.allocate(4096), other.allocate(4096)
        source.numpy("uint16")[:] = np.arange(2048)
        with gpu.buffer(source) as a, gpu.buffer(near) as b:
            gpu.copy(a, b)
        with other.buffer(distant) as c, other.buffer(target) as d:
            other.copy(c, d)
            assert (target.numpy("uint16") == np.arange(2048)).all()
            other.fill(c, 0xCAFE0001)
        with gpu.buffer(near) as b, gpu.buffer(source) as a:
            gpu.copy(b, a, 2048)
        assert (source.numpy("uint32")[:512] == 0xCAFE0001).all()
        assert (source.numpy("uint16")[1024:] == np.arange(1024, 2048)).all()


def test_what_is_no_buffer_is_named(gpu: Device) -> None:
    with gpu.allocate(64) as memory, gpu.buffer(memory) as buffer:
        for call in (gpu.copy, lambda a, b: gpu.copy(b, a)):
            with pytest.raises(TypeError, match="expected a Buffer"):
                call(memory, buffer)
        with pytest.raises(TypeError, match="target is <Memory"):
            gpu.fill(memory, 7)


def test_a_part_of_memory(gpu: Device) -> None:
    memory = gpu.allocate(65536)
    memory.numpy()[:] = 0
    with gpu.buffer(memory, offset=16384, size=8192) as part:
        gpu.fill(part, 0x01010101)
        with pytest.raises(ValueError, match="16384"):
            gpu.copy(part, part, 16384)
    assert memory.numpy()[16384:24576].all()
    assert int(memory.numpy().sum()) == 8192


def test_device_memory_that_the_host_cannot_see(gpu: Device) -> None:
    memory = gpu.allocate(4096, memory="device_local")
    if memory.host_visible:
        driver_cannot("all its memory is host-visible")
    with pytest.raises(Unsupported, match="host_visible"):
        memory.numpy()


# -- closing ----------------------------------------------------------------------------------


def test_closing_a_device_closes_what_it_made(driver: str) -> None:
    gpu = extmem.open_device(driver=driver)
    memory = gpu.allocate(4096)
    buffer = gpu.buffer(memory)
    gpu.close()
    gpu.close()
    assert gpu.closed
    assert memory.closed
    assert buffer.closed
    memory.close()
    buffer.close()
    for closed in (lambda: gpu.allocate(1), lambda: memory.numpy(), lambda: buffer.handle):
        with pytest.raises(ClosedError):
            closed()


def test_memory_closed_before_its_buffer(gpu: Device) -> None:
    memory = gpu.allocate(4096)
    buffer = gpu.buffer(memory)
    memory.close()
    memory.close()
    assert "closed" in repr(memory)
    buffer.close()
    buffer.close()


def test_handles_outlive_everything(driver: str, gpu: Device) -> None:
    with extmem.open_device(driver=driver) as other:
        memory = other.allocate(SIZE, export="opaque_fd")
        memory.numpy()[:] = 6
        handle = memory.export()
    with handle:
        assert (gpu.import_memory(handle).numpy() == 6).all()


def test_memory_with_views_does_not_close(gpu: Device, shared: Memory) -> None:
    array, part = shared.numpy(), shared.numpy("uint32")[5:9]
    assert shared.views == 2
    with pytest.raises(ViewsAlive) as raised:
        shared.close()
    assert raised.value.count == 2
    with pytest.raises(ViewsAlive) as raised:
        gpu.close()
    assert raised.value.count == 2
    assert not gpu.closed
    assert not shared.closed
    part[:] = 0xFFFFFFFF
    assert array[20:36].all()
    del array
    with pytest.raises(ViewsAlive) as raised:
        shared.close()
    assert raised.value.count == 1
    del part
    shared.close()


def test_an_error_within_a_with_is_not_hidden_by_views(gpu: Device) -> None:
    kept = []
    memory = gpu.allocate(4096)

    def fail_within() -> None:
        with memory:
            kept.append(memory.numpy())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    assert not memory.closed
    kept[0][:] = 1  # still there
    kept.clear()
    gc.collect()
    assert memory.closed


# -- forgetting -------------------------------------------------------------------------------


def test_a_forgotten_handle_warns_and_is_closed(shared: Memory) -> None:
    handle = shared.export()
    fd = handle.value
    with pytest.warns(ResourceWarning, match=r"opaque_fd handle.*test_objects\.py"):
        del handle
    assert not is_open(fd)


def test_forgotten_memory_warns_and_is_freed(gpu: Device) -> None:
    with pytest.warns(ResourceWarning, match=r"4096 bytes.*test_objects\.py"):
        gpu.allocate(4096)  # and nobody holds it


def test_closed_things_do_not_warn(driver: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with extmem.open_device(driver=driver) as gpu, gpu.allocate(16) as memory:
            memory.numpy()[:] = 1
            del memory
        del gpu
        gc.collect()


def forget_device(channel: Channel, driver: str) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gpu = extmem.open_device(driver=driver)
        del gpu
        gc.collect()
    return [str(each.message) for each in caught if each.category is ResourceWarning]


def test_a_forgotten_device_warns(driver: str) -> None:
    (message,) = second.run(forget_device, driver=driver)
    assert "never closed" in message
    assert "test_objects.py" in message


# -- sockets ----------------------------------------------------------------------------------


def test_a_handle_goes_through_a_socket(gpu: Device, shared: Memory) -> None:
    here, there = socket.socketpair()
    with here, there, shared.export() as handle:
        socket.send_fds(here, [b"x"], [handle.fileno()])
        _, (fd,), _, _ = socket.recv_fds(there, 1, 1)
    with Handle(fd, "opaque_fd", size=SIZE, memory_type_index=handle.memory_type_index) as came:
        imported = gpu.import_memory(came)
    shared.numpy()[1] = 11
    assert imported.numpy()[1] == 11
