"""Passports on the objects: what an import is told by one, and what it refuses because of one."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator

import msgspec
import pytest

import extmem
from extmem import PassportError
from extmem.share.passport import BufferInfo, Passport
from tests.support.strict import driver_cannot

SIZE = 10_000  # no multiple of anything that a driver rounds to
BY_WINDOWS = ["opaque_win32", "opaque_win32_kmt"]


@pytest.fixture
def gpu() -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded", index=0) as opened:
        yield opened


@pytest.fixture
def elsewhere() -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded", index=1) as opened:
        yield opened


@pytest.mark.parametrize("dedicated", [False, True])
@pytest.mark.parametrize("kind", BY_WINDOWS)
def test_a_bare_windows_handle_needs_nothing_beside_it(
    gpu: extmem.Device, kind: str, dedicated: bool
) -> None:
    with gpu.allocate(SIZE, export=kind, dedicated=dedicated, memory=2) as memory:
        memory.numpy()[:] = 7
        with memory.export() as handle, gpu.import_memory(int(handle), handle_type=kind) as again:
            assert again.size == SIZE
            assert again.dedicated is dedicated
            assert again.memory_type.index == 2
            assert (again.numpy() == 7).all()
            assert again.passport.exporter == memory.passport.exporter


def test_a_name_needs_nothing_beside_it(gpu: extmem.Device) -> None:
    name = f"Local\\extmem-test-{secrets.token_hex(8)}"
    with gpu.allocate(SIZE, export="opaque_win32", name=name) as memory:
        memory.numpy()[-1] = 9
        with gpu.import_memory(name=name) as again:
            assert again.size == SIZE
            assert again.numpy()[-1] == 9


def test_a_name_of_something_else_is_told_to_be_that(gpu: extmem.Device) -> None:
    name = f"Local\\extmem-test-{secrets.token_hex(8)}"
    # What a semaphore counts lies where memory has its passport.
    with (
        gpu.semaphore(export="opaque_win32", name=name, value=1),
        pytest.raises(extmem.RuleViolation, match="01440"),
    ):
        gpu.import_memory(name=name)


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")
@pytest.mark.parametrize("encoded", [False, True])
def test_a_descriptor_is_imported_with_the_passport_that_came_beside_it(
    gpu: extmem.Device, encoded: bool
) -> None:
    with gpu.allocate(SIZE, export="opaque_fd") as memory, memory.export() as handle:
        memory.numpy()[:] = 3
        assert handle.passport is not None
        passport = handle.passport.encode() if encoded else handle.passport
        with gpu.import_memory(int(handle), passport=passport) as again:
            assert again.size == SIZE
            assert (again.numpy() == 3).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": SIZE - 1}, "size is 9999, but the passport of this memory says 10000"),
        ({"memory_type": 0}, "memory type is 0, but the passport of this memory says 1"),
        ({"dedicated": True}, "dedicated is True, but the passport of this memory says False"),
    ],
    ids=["size", "memory type", "dedicated"],
)
def test_what_the_caller_says_has_to_agree(
    gpu: extmem.Device, change: dict[str, object], told: str
) -> None:
    with (
        gpu.allocate(SIZE, export="opaque_win32") as memory,
        memory.export() as handle,
        pytest.raises(PassportError, match=told),
    ):
        gpu.import_memory(handle, **change)  # type: ignore[arg-type]


def test_another_device_is_named(gpu: extmem.Device, elsewhere: extmem.Device) -> None:
    with gpu.allocate(SIZE, export="opaque_win32") as memory, memory.export() as handle:
        with pytest.raises(PassportError, match="open that device") as caught:
            elsewhere.import_memory(int(handle), handle_type="opaque_win32")
        for device in (gpu, elsewhere):
            assert device.physical.device_uuid.hex() in str(caught.value)


def _changed(memory: extmem.Memory, **changes: object) -> Passport:
    return msgspec.structs.replace(memory.passport, **changes)


def test_another_machine_another_type_and_no_passport_are_refused(gpu: extmem.Device) -> None:
    with gpu.allocate(SIZE, export="opaque_win32") as memory, memory.export() as handle:
        place = msgspec.structs.replace(memory.passport.place, machine=b"m" * 16)
        for passport, told in (
            (_changed(memory, place=place), "another machine"),
            (_changed(memory, handle_type="opaque_win32_kmt"), "exported as opaque_win32_kmt"),
            (_changed(memory, memory_type=7), "memory type 7"),
            (b"no passport at all", "no passport"),
        ):
            with pytest.raises(PassportError, match=told):
                gpu.import_memory(handle, passport=passport)  # type: ignore[arg-type]
        gpu.import_memory(handle).close()  # it is as it was


def test_a_lie_about_the_size_is_noticed_before_the_driver(gpu: extmem.Device) -> None:
    with gpu.allocate(SIZE, export="opaque_win32") as memory, memory.export() as handle:
        larger = _changed(memory, allocation_size=1 << 20, size=1 << 20)
        with pytest.raises(extmem.RuleViolation, match="01743"):
            gpu.import_memory(handle, passport=larger)


def test_an_import_passes_on_what_it_was_told(gpu: extmem.Device) -> None:
    with (
        gpu.allocate(SIZE, export="opaque_win32") as memory,
        memory.export() as handle,
        gpu.import_memory(handle) as again,
    ):
        assert again.passport == handle.passport


def test_a_name_that_nobody_holds_is_said_to_be_one(driver: str) -> None:
    with extmem.open_device(driver=driver) as gpu:
        if not gpu.physical.can_import("opaque_win32"):
            driver_cannot("it has no Windows handles")
        with pytest.raises(extmem.RuleViolation, match="no object of that name"):
            gpu.import_memory(name="Local\\extmem-test-nobody")


def test_a_name_that_is_taken_leaves_nothing_behind(gpu: extmem.Device, driver: str) -> None:
    """The counting around every test sees what would be left: memory, handles, descriptors."""
    name = f"Local\\extmem-test-{secrets.token_hex(8)}"
    with (
        extmem.open_device(driver=driver) as other,
        gpu.allocate(SIZE, export="opaque_win32", name=name),
    ):
        if not other.physical.can_export("opaque_win32"):
            driver_cannot("it has no Windows handles")
        with pytest.raises(extmem.DriverError, match=name.removeprefix("Local\\")):
            other.allocate(SIZE, export="opaque_win32", name=name)
        assert not list(other._children)
        other.allocate(SIZE, export="opaque_win32", name=name + "2").close()


# -- what nobody said -----------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")
def test_without_a_passport_an_import_says_what_stays_unchecked(
    gpu: extmem.Device, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        gpu.allocate(SIZE, export="opaque_fd") as memory,
        memory.export() as handle,
        caplog.at_level("INFO", "extmem"),
    ):
        with gpu.import_memory(int(handle), handle_type="opaque_fd", size=SIZE) as again:
            said = again.passport
            assert (said.place, said.exporter, said.dedicated) == (None, None, None)
            for what in ("size", "dedication", "device and driver", "exporter"):
                assert what in repr(again)
                assert what in caplog.text
        caplog.clear()
        with gpu.import_memory(handle) as again:
            assert "unchecked" not in repr(again)
            assert again.unchecked == ()
        bare = _changed(memory, exporter=None)
        with gpu.import_memory(int(handle), passport=bare) as again:
            assert again.unchecked == ("exporter",)


# -- what the driver is not asked -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["opaque_win32", "opaque_fd"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"luid": b"x" * 8}, "LUID"),
        ({"node_mask": 6}, "nodes 0x6"),
        ({"device_mask": 2}, "device mask 0x2"),
        ({"handle_type": "forged\nline"}, r"forged\\nline"),
    ],
    ids=["luid", "node mask", "device mask", "handle type"],
)
def test_all_that_it_carries_is_compared(
    gpu: extmem.Device, kind: str, change: dict[str, object], told: str
) -> None:
    if not gpu.physical.can_export(kind):
        driver_cannot(f"it has no {kind}")
    with gpu.allocate(SIZE, export=kind) as memory, memory.export() as handle:
        if change.keys() & {"luid", "node_mask"}:
            assert memory.passport.place is not None
            change = {"place": msgspec.structs.replace(memory.passport.place, **change)}
        with pytest.raises(PassportError, match=told):
            gpu.import_memory(handle, passport=_changed(memory, **change))


def _dedicated_export(
    gpu: extmem.Device, usage: int
) -> tuple[int, Passport, list[Callable[[], None]]]:
    """A descriptor of memory that is dedicated to a buffer with this usage, made through vk."""
    of_fd = extmem.vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT
    vk, device = extmem.vk, gpu.handle
    buffer = vk.vkCreateBuffer(
        device,
        vk.VkBufferCreateInfo(
            size=4096, usage=usage, pNext=vk.VkExternalMemoryBufferCreateInfo(handleTypes=of_fd)
        ),
    )
    needs = vk.vkGetBufferMemoryRequirements(device, buffer)
    index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
    info = vk.VkMemoryAllocateInfo(allocationSize=needs.size, memoryTypeIndex=index)
    vk.link(info, vk.VkExportMemoryAllocateInfo(handleTypes=of_fd))
    vk.link(info, vk.VkMemoryDedicatedAllocateInfo(buffer=buffer))
    memory = vk.vkAllocateMemory(device, info)
    fd = vk.vkGetMemoryFdKHR(device, vk.VkMemoryGetFdInfoKHR(memory=memory, handleType=of_fd))
    passport = Passport("opaque_fd", needs.size, index, dedicated=BufferInfo(4096, usage))
    ends = [
        lambda: vk.vkFreeMemory(device, memory),
        lambda: vk.vkDestroyBuffer(device, buffer),
        lambda: os.close(fd),
    ]
    return fd, passport, ends


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")
def test_the_buffer_is_made_as_its_exporter_made_it(gpu: extmem.Device) -> None:
    """The rules know what this process exported, and refuse another buffer, and none."""
    fd, passport, ends = _dedicated_export(gpu, 0xA0)
    try:
        with gpu.import_memory(fd, passport=passport) as again:
            assert again.dedicated
            assert again.size == 4096
            assert again.passport.dedicated == BufferInfo(4096, 0xA0)
        other = msgspec.structs.replace(passport, dedicated=BufferInfo(4096, 3))
        with pytest.raises(extmem.RuleViolation, match="01879"):
            gpu.import_memory(fd, passport=other)
        none = msgspec.structs.replace(passport, dedicated=None)
        with pytest.raises(extmem.RuleViolation, match="01879"):
            gpu.import_memory(fd, passport=none)
        for lie in (BufferInfo(1 << 30, 3), BufferInfo(4096, 3, flags=1), BufferInfo(4096, 0)):
            with pytest.raises(PassportError, match="dedicated to a buffer"):
                gpu.import_memory(fd, passport=msgspec.structs.replace(passport, dedicated=lie))
    finally:
        for end in ends:
            end()
