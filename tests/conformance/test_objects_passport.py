"""Passports on the objects: what an import is told by one, and what it refuses because of one."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator

import msgspec
import pytest

import extmem
from extmem import PassportError
from extmem.share.passport import Passport
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
