"""The objects with Windows handles, on the embedded device: the same on Linux and on Windows."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

import extmem
from extmem import win32
from extmem.handles.system import kernel

SIZE = 4096


@pytest.fixture
def gpu() -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded") as device:
        yield device


@pytest.fixture
def name() -> str:
    return f"Local\\extmem-test-{secrets.token_hex(8)}"


def test_an_nt_handle_is_exported_as_often_as_asked(gpu: extmem.Device) -> None:
    with gpu.allocate(SIZE, export="opaque_win32") as memory:
        memory.numpy()[:] = 7
        with memory.export() as first, memory.export() as second:
            assert first.value != second.value
            assert win32.CompareObjectHandles(first, second)
            with gpu.import_memory(second) as again:
                assert (again.numpy() == 7).all()
                again.numpy()[0] = 9
            assert memory.numpy()[0] == 9
            assert win32.GetHandleInformation(second) == 0  # it is still the caller's


def test_an_import_keeps_the_payload(gpu: extmem.Device) -> None:
    memory = gpu.allocate(SIZE, export="opaque_win32")
    memory.numpy()[:] = 5
    with memory.export() as handle:
        again = gpu.import_memory(handle)
    memory.close()
    assert (again.numpy() == 5).all()


def test_by_name(gpu: extmem.Device, name: str) -> None:
    with gpu.allocate(SIZE, export="opaque_win32", name=name) as memory:
        memory.numpy()[:3] = (1, 2, 3)
        with gpu.import_memory(name=name, size=SIZE) as again:
            assert list(again.numpy()[:3]) == [1, 2, 3]
    with pytest.raises(extmem.RuleViolation, match="no object of that name"):
        gpu.import_memory(name=name, size=SIZE)


def test_a_name_that_admits_nobody(gpu: extmem.Device, name: str) -> None:
    with (
        gpu.allocate(SIZE, export="opaque_win32", name=name, security="D:"),
        pytest.raises(extmem.RuleViolation, match="01440"),
    ):
        gpu.import_memory(name=name, size=SIZE)


def test_a_kmt_value_is_a_number_that_nobody_closes(gpu: extmem.Device) -> None:
    memory = gpu.allocate(SIZE, export="opaque_win32_kmt")
    handle = memory.export()
    assert memory.export().value == handle.value
    with gpu.import_memory(handle) as again:
        again.numpy()[0] = 3
        assert memory.numpy()[0] == 3
    memory.close()
    with pytest.raises(extmem.RuleViolation, match="a number that no living memory goes by"):
        gpu.import_memory(handle)


def test_mistakes(gpu: extmem.Device, name: str) -> None:
    with pytest.raises(extmem.Unsupported, match="belongs to a Windows handle"):
        gpu.allocate(SIZE, name=name)
    with pytest.raises(ValueError, match="access is 'some'"):
        gpu.allocate(SIZE, export="opaque_win32", name=name, access="some")
    with pytest.raises(ValueError, match="a handle to import, or a name"):
        gpu.import_memory()
    with pytest.raises(extmem.RuleViolation, match="no object of that name"):
        gpu.import_memory(name=name)


def test_every_handle_is_closed(gpu: extmem.Device, name: str) -> None:
    with gpu.allocate(SIZE, export="opaque_win32", name=name) as memory:
        memory.export().close()  # whatever the system keeps from the first time on
    before = kernel().count_handles()
    with gpu.allocate(SIZE, export="opaque_win32", name=name) as memory, memory.export() as handle:
        gpu.import_memory(handle).close()
        gpu.import_memory(name=name, size=SIZE).close()
        handle.duplicate().close()
    assert kernel().count_handles() == before
