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
        pytest.raises(extmem.RuleViolation, match="01440") as refused,
    ):
        gpu.import_memory(name=name, size=SIZE)
    assert "must hold an NT handle" not in str(refused.value)  # it is there, and held
    assert "Its exporter says who may come in" in str(refused.value)


def test_a_name_that_is_taken(gpu: extmem.Device, name: str) -> None:
    with (
        gpu.allocate(SIZE, export="opaque_win32", name=name),
        pytest.raises(extmem.DriverError, match="the name is taken") as taken,
    ):
        gpu.allocate(SIZE, export="opaque_win32", name=name)
    assert " bytes" not in str(taken.value)


@pytest.mark.parametrize("end", ["\\behind", "\0", "x" * 300])
def test_a_name_that_no_object_can_have(gpu: extmem.Device, name: str, end: str) -> None:
    with pytest.raises(ValueError, match="name") as wrong:
        gpu.allocate(SIZE, export="opaque_win32", name=name + end)
    assert not isinstance(wrong.value, extmem.ExtmemError)
    with pytest.raises(ValueError, match="name"):
        gpu.semaphore(export="opaque_win32", name=name + end)
    with pytest.raises(ValueError, match="name"):
        gpu.fence(export="opaque_win32", name=name + end)


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
    with pytest.raises(ValueError, match="and not both"):
        gpu.import_memory(3, name=name)
    with pytest.raises(ValueError, match="and not both"):
        gpu.import_semaphore(3, name=name)
    with gpu.allocate(SIZE) as memory, pytest.raises(TypeError, match="dtype is 'foo'; expected"):
        memory.numpy("foo")
    with pytest.raises(extmem.DriverNotFound, match="there are: number 0, extmem embedded 0"):
        extmem.open_device(driver="embedded", index=9)
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
