"""Objects and lifetimes: what keeps a payload, and what dies with whom. A test for each statement.

What is alive is told by writing on one side and reading on the other; that pages are gone, by
asking the system. Handles in a second process are in `test_semantics_places.py`. Descriptors are
Linux's alone, so their rows are not there on Windows.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Callable
from typing import Any

import pytest

from extmem import vk, win32
from extmem.handles.system import kernel
from extmem.handles.winerror import code_of
from tests.support.sharing import (
    FD,
    HOST,
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
    from_handle,
    from_handle_nv,
    mapped_at,
    open_sections,
    payload_of,
    refused,
    terms,
)

STALE = vk.VK_ERROR_MEMORY_MAP_FAILED
NOT_OPEN = 6  # ERROR_INVALID_HANDLE

WINDOWS_TYPES = pytest.mark.parametrize("handle_type", [NT, KMT], ids=["nt", "kmt"])
ALL_TYPES = pytest.mark.parametrize(
    "handle_type",
    [NT, KMT, *([FD] if ON_LINUX else [])],
    ids=["nt", "kmt", *(["fd"] if ON_LINUX else [])],
)


# -- payload ------------------------------------------------------------------------------------


@ALL_TYPES
@pytest.mark.parametrize("fact", ["size", "memory type", "device", "dedicated resource"])
def test_payload_has_facts_that_an_import_repeats(
    unchecked: Gpu, handle_type: int, fact: str
) -> None:
    memory = unchecked.export(handle_type)
    handle = unchecked.get(memory, handle_type)
    members, chain, importer = {}, [], unchecked
    with Gpu("off", index=1) as other:
        if fact == "size":
            members["size"] = 2 * SIZE
        elif fact == "memory type":
            members["index"] = 2
        elif fact == "device":
            importer = other
        else:
            buffer = unchecked.buffer(handle_type)
            chain.append(vk.VkMemoryDedicatedAllocateInfo(buffer=buffer))
        refused(
            importer, lambda: importer.take(handle, handle_type, *chain, **members), result=INVALID
        )
    again = unchecked.take(handle, handle_type)
    if handle_type == NT:
        close(handle)
    assert_shared((unchecked, memory), (unchecked, again))


@pytest.mark.parametrize("order", list(itertools.permutations(["exporter", "import", "handle"])))
def test_payload_ends_with_its_last_reference(gpu: Gpu, order: tuple[str, ...]) -> None:
    exporter = gpu.export(NT)
    gpu.write(exporter, b"alive")
    handle = gpu.get(exporter, NT)
    imported = gpu.take(handle, NT)
    places = {
        "exporter": payload_of(exporter).address,
        "import": payload_of(imported).address,
    }
    handles = open_sections()
    left = {
        "exporter": lambda: gpu.free(exporter),
        "import": lambda: gpu.free(imported),
        "handle": lambda: close(handle),
    }
    for ended in order:
        left.pop(ended)()
        if "exporter" in left:
            assert gpu.read(exporter, 5) == b"alive"
        if "import" in left:
            assert gpu.read(imported, 5) == b"alive"
        if "handle" in left:
            again = gpu.take(handle, NT)
            assert gpu.read(again, 5) == b"alive"
            gpu.free(again)
    assert [mapped_at(address) for address in places.values()] == [False, False]
    assert open_sections() == handles - 1
    refused(gpu, lambda: gpu.take(handle, NT), vuid="handleType-00661", result=INVALID)


# -- VkDeviceMemory (exporter) ------------------------------------------------------------------


@ALL_TYPES
def test_exporter_ends_with_free_memory(gpu: Gpu, handle_type: int) -> None:
    memory = gpu.export(handle_type)
    address = payload_of(memory).address
    gpu.write(memory, b"mine")
    assert mapped_at(address)
    gpu.free(memory)
    assert not mapped_at(address)


@WINDOWS_TYPES
def test_exporter_may_be_freed_under_resources(gpu: Gpu, handle_type: int) -> None:
    memory = gpu.export(handle_type)
    handle = gpu.get(memory, handle_type)
    buffer = gpu.buffer(handle_type)
    gpu.bind_buffer(buffer, memory)
    gpu.write(memory, b"bound")
    gpu.free(memory)
    if handle_type == NT:
        again = gpu.take(handle, NT)
        close(handle)
        assert gpu.read(again, 5) == b"bound"
    gpu.destroy(buffer)
    # Here a bound resource keeps nothing, so the number is worth nothing any more.
    if handle_type == KMT:
        refused(gpu, lambda: gpu.take(handle, KMT), vuid="handleType-00661", result=INVALID)


# -- VkDeviceMemory (import) --------------------------------------------------------------------


@ALL_TYPES
def test_import_is_a_new_object_each_time(gpu: Gpu, handle_type: int) -> None:
    memory = gpu.export(handle_type)
    handle = gpu.get(memory, handle_type)
    # An import takes a descriptor, so there is one for each.
    handles = [handle, os.dup(handle)] if handle_type == FD else [handle, handle]
    imports = [gpu.take(each, handle_type) for each in handles]
    assert len({int(each) for each in (memory, *imports)}) == 3
    for each in imports:
        assert_shared((gpu, memory), (gpu, each))
    assert_shared((gpu, imports[0]), (gpu, imports[1]))
    # And each is freed on its own.
    gpu.free(imports[0])
    assert_shared((gpu, memory), (gpu, imports[1]))
    if handle_type == NT:
        close(handle)


def test_import_by_name_is_a_new_object_each_time(gpu: Gpu, name: str) -> None:
    memory = gpu.export(NT, terms(name=name))
    first, second = gpu.take_name(name), gpu.take_name(name)
    assert len({int(each) for each in (memory, first, second)}) == 3
    assert_shared((gpu, first), (gpu, second))


def _import_of_handle(gpu: Gpu, memory: Any, name: str) -> Any:
    handle = gpu.get(memory, NT)
    imported = gpu.take(handle, NT)
    close(handle)
    return imported


def _import_of_name(gpu: Gpu, memory: Any, name: str) -> Any:
    return gpu.take_name(name)


@pytest.mark.parametrize("way", [_import_of_handle, _import_of_name], ids=["handle", "name"])
def test_import_of_nt_holds_a_reference(
    gpu: Gpu, name: str, way: Callable[[Gpu, Any, str], Any]
) -> None:
    memory = gpu.export(NT, terms(name=name))
    gpu.write(memory, b"kept")
    imported = way(gpu, memory, name)
    gpu.free(memory)
    assert gpu.read(imported, 4) == b"kept"


def test_import_of_nv_holds_a_reference(gpu: Gpu) -> None:
    memory = gpu.export_nv(NT_NV)
    gpu.write(memory, b"kept")
    handle = gpu.get_nv(memory, NT_NV)
    imported = gpu.allocate(from_handle_nv(handle))
    close(handle)
    gpu.free(memory)
    assert gpu.read(imported, 4) == b"kept"


if ON_LINUX:

    def test_import_of_fd_holds_a_reference(gpu: Gpu) -> None:
        memory = gpu.export(FD)
        gpu.write(memory, b"kept")
        imported = gpu.take(gpu.get(memory, FD), FD)
        gpu.free(memory)
        assert gpu.read(imported, 4) == b"kept"


@pytest.mark.parametrize("nv", [False, True], ids=["khr", "nv"])
def test_import_of_kmt_holds_none(gpu: Gpu, nv: bool) -> None:
    if nv:
        memory = gpu.export_nv(KMT_NV)
        info = from_handle_nv(gpu.get_nv(memory, KMT_NV), KMT_NV)
    else:
        memory = gpu.export(KMT)
        info = from_handle(gpu.get(memory, KMT), KMT)
    imported = gpu.allocate(info)
    assert_shared((gpu, memory), (gpu, imported))
    gpu.free(memory)
    refused(gpu, lambda: gpu.read(imported, 4), result=STALE)


def test_import_of_host_pointer_holds_none(gpu: Gpu) -> None:
    room = ctypes.create_string_buffer(2 * SIZE)
    address = -(-ctypes.addressof(room) // SIZE) * SIZE
    info = vk.VkImportMemoryHostPointerInfoEXT(handleType=HOST, pHostPointer=address)
    imported = gpu.allocate(info)
    gpu.write(imported, b"host")
    assert ctypes.string_at(address, 4) == b"host"
    # The pages are the program's, before and after.
    ctypes.memmove(address, b"back", 4)
    assert gpu.read(imported, 4) == b"back"
    gpu.free(imported)
    assert ctypes.string_at(address, 4) == b"back"


# -- NT handle ----------------------------------------------------------------------------------


def test_nt_handle_is_an_entry_of_this_process(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    handle = gpu.get(memory, NT)
    assert handle % 4 == 0
    assert kernel().info(handle).type_name == "Section"
    before = open_sections()
    here = win32.GetCurrentProcess()
    copy = win32.DuplicateHandle(here, handle, here, 0, False, win32.DUPLICATE_SAME_ACCESS)
    assert copy != handle
    assert open_sections() == before + 1
    assert win32.CompareObjectHandles(copy, handle)
    close(copy, handle)
    assert open_sections() == before - 1


def test_nt_handle_holds_a_reference(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    gpu.write(memory, b"held")
    handle = gpu.get(memory, NT)
    gpu.free(memory)
    # Nothing but the handle is left.
    again = gpu.take(handle, NT)
    assert gpu.read(again, 4) == b"held"
    close(handle)


def test_nt_handle_is_not_closed_by_free_memory(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    handle = gpu.get(memory, NT)
    imported = gpu.take(handle, NT)
    gpu.free(memory, imported)
    assert win32.GetHandleInformation(handle) == 0
    win32.CloseHandle(handle)
    with pytest.raises(OSError, match="not open") as error:
        win32.CloseHandle(handle)
    assert code_of(error.value) == NOT_OPEN


# -- KMT handle ---------------------------------------------------------------------------------


def test_kmt_handle_is_a_number_and_no_entry(gpu: Gpu) -> None:
    memory = gpu.export(KMT)
    before = open_sections()
    number = gpu.get(memory, KMT)
    assert gpu.get(memory, KMT) == number
    assert 0 < number < 1 << 32
    assert open_sections() == before
    # Never a number that an NT handle could have as well.
    assert number % 4


def test_kmt_handle_cannot_be_closed(gpu: Gpu) -> None:
    memory = gpu.export(KMT)
    number = gpu.get(memory, KMT)
    before = open_sections()
    # Windows ignores the two lowest bits of a handle: what would be beside it is not open either.
    with pytest.raises(OSError, match="not open"):
        win32.CloseHandle(number)
    assert open_sections() == before
    assert_shared((gpu, memory), (gpu, gpu.take(number, KMT)))


def test_kmt_handle_goes_stale_with_its_memory(gpu: Gpu) -> None:
    memory = gpu.export(KMT)
    number = gpu.get(memory, KMT)
    gpu.free(gpu.take(number, KMT))
    assert_shared((gpu, memory), (gpu, gpu.take(number, KMT)))
    gpu.free(memory)
    refused(gpu, lambda: gpu.take(number, KMT), vuid="handleType-00661", result=INVALID)


# -- name ---------------------------------------------------------------------------------------


def test_name_is_of_the_nt_object(gpu: Gpu, name: str) -> None:
    memory = gpu.export(NT, terms(name=name))
    handle = gpu.get(memory, NT)
    found = kernel().open_section(name)
    assert win32.CompareObjectHandles(handle, found)
    assert kernel().info(handle).name == name
    close(handle, found)


@pytest.mark.parametrize("ended", ["first", "duplicate"])
def test_name_ends_with_the_last_nt_handle(gpu: Gpu, name: str, ended: str) -> None:
    memory = gpu.export(NT, terms(name=name))
    gpu.write(memory, b"name")
    first = gpu.get(memory, NT)
    handles = {"first": first, "duplicate": kernel().duplicate(first)}
    imported = gpu.take(first, NT)
    gpu.free(memory)
    close(handles.pop(ended))
    by_name = gpu.take_name(name)
    assert gpu.read(by_name, 4) == b"name"
    close(*handles.values())
    # Two imports are alive, and the payload with them; the name is not.
    refused(gpu, lambda: gpu.take_name(name), vuid="handleType-01440", result=INVALID)
    assert_shared((gpu, imported), (gpu, by_name))


# -- fd -----------------------------------------------------------------------------------------

if ON_LINUX:

    def test_fd_references_the_payload(gpu: Gpu) -> None:
        memory = gpu.export(FD)
        gpu.write(memory, b"held")
        fd = gpu.get(memory, FD)
        gpu.free(memory)
        assert gpu.read(gpu.take(fd, FD), 4) == b"held"

    def test_fd_is_the_applications_until_an_import_succeeds(gpu: Gpu) -> None:
        memory = gpu.export(FD)
        fd = gpu.get(memory, FD)
        refused(
            gpu,
            lambda: gpu.take(fd, FD, size=2 * SIZE),
            vuid="allocationSize-01742",
            result=INVALID,
        )
        os.fstat(fd)
        gpu.take(fd, FD)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    def test_fd_that_is_closed_takes_its_reference_along(gpu: Gpu) -> None:
        memory = gpu.export(FD)
        first, second = gpu.get(memory, FD), gpu.get(memory, FD)
        assert first != second
        os.close(first)
        assert_shared((gpu, memory), (gpu, gpu.take(second, FD)))
