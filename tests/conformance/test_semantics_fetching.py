"""Fetching handles, twice and of the wrong type, and in which order handles and memory end."""

from __future__ import annotations

import pytest

from extmem import vk
from extmem.handles.system import kernel
from tests.support.sharing import (
    FD,
    IMAGE11_NV,
    INVALID,
    KMT,
    KMT_NV,
    NT,
    NT_NV,
    ON_LINUX,
    TEXTURE11,
    UNKNOWN,
    Gpu,
    assert_shared,
    close,
    from_handle_nv,
    payload_of,
    refused,
    terms,
)

# -- vkGetMemoryWin32HandleKHR ------------------------------------------------------------------


def test_get_of_a_type_that_was_not_announced(gpu: Gpu) -> None:
    for exported, asked in ((NT, KMT), (KMT, NT), (NT, TEXTURE11)):
        memory = gpu.export(exported)
        refused(
            gpu,
            lambda memory=memory, asked=asked: gpu.get(memory, asked),
            vuid="handleType-00662",
            result=UNKNOWN,
        )


def test_get_of_a_type_that_is_not_windows(checked: Gpu) -> None:
    memory = checked.export(NT)
    info = vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=FD)
    refused(
        checked,
        lambda: vk.vkGetMemoryWin32HandleKHR(checked.device, info),
        vuid="handleType-00664",
        result=UNKNOWN,
    )


def test_get_of_nt_twice(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    first = gpu.get(memory, NT)
    if gpu.checks != "off":
        refused(gpu, lambda: gpu.get(memory, NT), vuid="handleType-00663", result=UNKNOWN)
        close(first)
        return
    # Undefined; here friendly: another handle, for as long as the first is open.
    second = gpu.get(memory, NT)
    assert second != first
    assert kernel().same_object(first, second)
    close(first, second)
    refused(gpu, lambda: gpu.get(memory, NT), result=UNKNOWN)


def test_get_of_nt_is_not_counted_back_by_closing(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    close(gpu.get(memory, NT))
    refused(gpu, lambda: gpu.get(memory, NT), vuid="handleType-00663", result=UNKNOWN)


def test_get_of_kmt_again_is_the_same_number(gpu: Gpu) -> None:
    memory = gpu.export(KMT)
    assert len({gpu.get(memory, KMT) for _ in range(5)}) == 1


# -- vkGetMemoryWin32HandleNV -------------------------------------------------------------------


def test_get_of_nv_has_no_once_only_rule(gpu: Gpu) -> None:
    memory = gpu.export_nv(NT_NV)
    first, second = gpu.get_nv(memory, NT_NV), gpu.get_nv(memory, NT_NV)
    assert first != second
    close(first, second)
    third = gpu.get_nv(memory, NT_NV)
    assert_shared((gpu, memory), (gpu, gpu.allocate(from_handle_nv(third))))
    close(third)


def test_get_of_kmt_through_nv_is_the_same_number(gpu: Gpu) -> None:
    memory = gpu.export_nv(KMT_NV)
    number = gpu.get_nv(memory, KMT_NV)
    assert gpu.get_nv(memory, KMT_NV) == number
    imported = gpu.allocate(from_handle_nv(number, KMT_NV))
    assert_shared((gpu, memory), (gpu, imported))


@pytest.mark.parametrize("asked", [NT_NV | KMT_NV, KMT_NV, IMAGE11_NV], ids=["two", "kmt", "image"])
def test_get_of_nv_types_that_were_not_announced(gpu: Gpu, asked: int) -> None:
    memory = gpu.export_nv(NT_NV)
    refused(gpu, lambda: gpu.get_nv(memory, asked), vuid="handleType-01326", result=UNKNOWN)


def test_get_through_nv_of_what_the_core_exports(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    refused(gpu, lambda: gpu.get_nv(memory, NT_NV), vuid="handleType-01326", result=UNKNOWN)


if ON_LINUX:

    def test_fd_can_be_fetched_again(gpu: Gpu) -> None:
        memory = gpu.export(FD)
        first, second = (gpu.take(gpu.get(memory, FD), FD) for _ in range(2))
        assert_shared((gpu, first), (gpu, second))


# -- in which order things end ------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["handle", "import", "name"])
def test_exporter_is_freed_first_and_nt_stays(gpu: Gpu, name: str, kept: str) -> None:
    memory = gpu.export(NT, terms(name=name))
    gpu.write(memory, b"first")
    handle = gpu.get(memory, NT)
    imported = gpu.take(handle, NT) if kept == "import" else None
    gpu.free(memory)
    if kept == "handle":
        imported = gpu.take(handle, NT)
    elif kept == "name":
        imported = gpu.take_name(name)
    assert gpu.read(imported, 5) == b"first"
    close(handle)


@pytest.mark.parametrize("kept", ["number", "import"])
def test_exporter_is_freed_first_and_kmt_goes(gpu: Gpu, kept: str) -> None:
    memory = gpu.export(KMT)
    number = gpu.get(memory, KMT)
    imported = gpu.take(number, KMT)
    buffer = gpu.buffer(KMT)
    gpu.free(memory)
    if kept == "number":
        refused(gpu, lambda: gpu.take(number, KMT), vuid="handleType-00661", result=INVALID)
    else:
        refused(gpu, lambda: gpu.read(imported, 1), result=vk.VK_ERROR_MEMORY_MAP_FAILED)
        wrong = vk.VK_ERROR_VALIDATION_FAILED
        refused(gpu, lambda: gpu.bind_buffer(buffer, imported), result=wrong)


def test_handle_is_closed_first(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    handle = gpu.get(memory, NT)
    imported = gpu.take(handle, NT)
    close(handle)
    assert_shared((gpu, memory), (gpu, imported))
    gpu.free(memory)
    gpu.write(imported, b"alone")
    assert gpu.read(imported, 5) == b"alone"


def test_handle_is_closed_before_anybody_opened_it(gpu: Gpu, name: str) -> None:
    memory = gpu.export(NT, terms(name=name))
    gpu.write(memory, b"mine")
    close(gpu.get(memory, NT))
    assert gpu.read(memory, 4) == b"mine"
    assert payload_of(memory).address
    refused(gpu, lambda: gpu.get(memory, NT), vuid="handleType-00663", result=UNKNOWN)
    refused(gpu, lambda: gpu.take_name(name), vuid="handleType-01440", result=INVALID)
