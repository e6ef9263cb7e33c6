"""Rules of VK_KHR_external_memory_win32: structures, fetches and questions, each broken and kept.

They hold wherever the device is. Where a handle comes from is in test_rules_win32_origin.py.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from extmem import vk
from extmem.drivers.embedded import foreign
from extmem.handles.kernel import ACCESS_READ, ACCESS_WRITE
from extmem.handles.security import security_attributes
from extmem.handles.system import kernel
from extmem.vk._base import SECURITY_ATTRIBUTES
from extmem.vk.queries import External, Queries
from tests.support.strict_side import StrictSide
from tests.support.win32 import (
    HEAP12,
    KMT,
    NT,
    RESOURCE12,
    SIZE,
    TEXTURE11,
    TEXTURE11_KMT,
    unique_name,
)

FD = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
HOST = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT)
INVALID = (1 << 64) - 1

IMPORT = "VUID-VkImportMemoryWin32HandleInfoKHR"
TERMS = "VUID-VkExportMemoryWin32HandleInfoKHR"
GET = "VUID-VkMemoryGetWin32HandleInfoKHR"
INFO = "VUID-VkMemoryAllocateInfo"
PROPERTIES = "VUID-vkGetMemoryWin32HandlePropertiesKHR"


@pytest.fixture
def gpu() -> Iterator[StrictSide]:
    with StrictSide() as made:
        yield made


@pytest.fixture
def handle(gpu: StrictSide) -> int:
    """An NT handle of SIZE bytes of exported memory."""
    return gpu.get(gpu.export(NT), NT)


@pytest.fixture
def section() -> Iterator[int]:
    """A handle of a section that is no payload."""
    made = kernel().create_section(65536)
    yield made
    kernel().close(made)


def by(type: int, handle: int | None = None, name: str | None = None) -> Any:
    return vk.VkImportMemoryWin32HandleInfoKHR(handleType=type, handle=handle, name=name)


def exporting(types: int = NT) -> Any:
    return vk.VkExportMemoryAllocateInfo(handleTypes=types)


def terms(**members: Any) -> Any:
    return vk.VkExportMemoryWin32HandleInfoKHR(**{"dwAccess": ACCESS_READ | ACCESS_WRITE} | members)


# -- what the import structure says ---------------------------------------------------------------


def test_windows_types_alone(gpu: StrictSide, handle: int) -> None:
    for type in (FD, HOST):
        gpu.refuses(f"{IMPORT}-handleType-00660", by(type, handle))
    # No type at all is no single type either.
    parameter = f"{IMPORT}-handleType-parameter"
    gpu.refuses({parameter}, by(NT | KMT, handle))
    gpu.refuses({parameter, f"{IMPORT}-handleType-00660"}, by(1 << 30, handle))
    gpu.allocate(by(NT, handle))


def test_names_are_of_nt_types(gpu: StrictSide) -> None:
    name = unique_name()
    block = gpu.export(NT, terms(name=name))
    gpu.get(block)
    for type in (KMT, TEXTURE11_KMT, 0):
        gpu.refuses(f"{IMPORT}-handleType-01439", by(type, name=name))
    gpu.allocate(by(NT, name=name))


def test_a_handle_or_a_name(gpu: StrictSide) -> None:
    name = unique_name()
    handle = gpu.get(gpu.export(NT, terms(name=name)))
    gpu.refuses(f"{IMPORT}-handle-01441", by(NT, handle, name))
    # Nor with type 0, although that turns the import off.
    gpu.refuses(
        {f"{IMPORT}-handle-01441", f"{IMPORT}-handleType-01439"},
        by(0, handle, name),
    )
    gpu.allocate(by(NT, handle))
    gpu.allocate(by(NT, name=name))
    gpu.allocate(by(0, handle))


def test_structures_say_what_they_are(gpu: StrictSide, handle: int) -> None:
    info = by(NT, handle)
    info.sType = 5
    gpu.refuses(f"{IMPORT}-sType-sType", info)
    info = terms()
    info.sType = 5
    gpu.refuses(f"{TERMS}-sType-sType", exporting(), info)
    gpu.refuses(f"{INFO}-sType-unique", by(NT, handle), by(NT, handle))
    gpu.allocate(by(NT, handle))


# -- handles and names that are open --------------------------------------------------------------


def test_handles_that_are_open(gpu: StrictSide, handle: int, section: int) -> None:
    vuid = f"{IMPORT}-handleType-00661"
    for type in (NT, HEAP12):
        for wrong in (None, INVALID, section, section + 40000):
            gpu.refuses(vuid, by(type, wrong))
    assert kernel().section_size(section) == 65536  # looked at, and left alone
    process = kernel().open_process(0x40, False, os.getpid())
    try:
        assert "not of memory" in gpu.refuses(vuid, by(NT, process))
    finally:
        kernel().close(process)
    closed = gpu.duplicate(handle)
    gpu.close(closed)
    assert "no open handle" in gpu.refuses(vuid, by(NT, closed))
    gpu.allocate(by(NT, handle))


def test_numbers_that_somebody_holds(gpu: StrictSide, handle: int) -> None:
    vuid = f"{IMPORT}-handleType-00661"
    block = gpu.export(KMT)
    number = gpu.get(block, KMT)
    gpu.allocate(by(KMT, number))
    for wrong in (None, number ^ 4, handle, 3):
        gpu.refuses(vuid, by(KMT, wrong))
    assert "32 bits" in gpu.refuses(vuid, by(KMT, number | 1 << 40))
    block.free()
    assert "no living memory" in gpu.refuses(vuid, by(KMT, number))


def test_names_that_somebody_holds(gpu: StrictSide) -> None:
    vuid, name = f"{IMPORT}-handleType-01440", unique_name()
    for wrong in (name, "", "Local\\", "a\\b"):
        gpu.refuses(vuid, by(NT, name=wrong))
    block = gpu.export(NT, terms(name=name))
    handle = gpu.get(block)
    gpu.refuses(vuid, by(NT, name=name.upper()))  # case counts
    gpu.allocate(by(NT, name=name))
    gpu.close(handle)
    gpu.refuses(vuid, by(NT, name=name))  # the last handle had it


def test_names_of_other_objects(gpu: StrictSide) -> None:
    vuid, name = f"{IMPORT}-handleType-01440", unique_name()
    other = kernel().create_section(65536, name=name)
    try:
        assert "no memory" in gpu.refuses(vuid, by(NT, name=name))
    finally:
        kernel().close(other)


def test_what_an_nt_handle_can_be() -> None:
    from extmem.rules.windows import unfit_nt

    handle = kernel().create_section(4096)
    try:
        assert unfit_nt(handle, "Section") is None
        assert unfit_nt(handle, None) is None
        assert "not of memory" in str(unfit_nt(handle, "Event"))
    finally:
        kernel().close(handle)
    assert "no open handle" in str(unfit_nt(handle, "Section"))
    assert "INVALID_HANDLE_VALUE" in str(unfit_nt(INVALID, None))


def test_types_that_can_be_imported(
    gpu: StrictSide, handle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Queries, "external_plain", lambda self, which: External(2, NT, 0))
        gpu.refuses(f"{IMPORT}-handleType-09861", by(NT, handle))
    gpu.allocate(by(NT, handle))


# -- exporting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [None, 0, KMT])
def test_terms_are_of_opaque_win32(gpu: StrictSide, mask: int | None) -> None:
    chain = [terms()] if mask is None else [terms(), exporting(mask)]
    gpu.refuses(f"{TERMS}-handleTypes-00657", *chain)
    gpu.allocate(*([] if mask is None else [exporting(mask)]))
    gpu.allocate(terms(), exporting(NT))


def test_no_name_is_a_name_that_may_be_given(gpu: StrictSide) -> None:
    """The registry does not say that it is optional; there is no rule, and it is what is usual."""
    gpu.get(gpu.export(NT, terms(name=None)))
    gpu.get(gpu.export(NT, terms(name=unique_name())))


def test_attributes_that_can_be_read(gpu: StrictSide) -> None:
    vuid = f"{TERMS}-pAttributes-parameter"
    for attributes in (SECURITY_ATTRIBUTES(nLength=0), SECURITY_ATTRIBUTES(nLength=12)):
        assert "nLength" in gpu.refuses(vuid, exporting(), terms(pAttributes=attributes))
    junk = SECURITY_ATTRIBUTES(lpSecurityDescriptor=bytes(64))
    gpu.refuses(vuid, exporting(), terms(pAttributes=junk))
    if sys.platform == "linux":  # Windows cannot be asked what can be read, yet
        nowhere = ctypes.cast(4096, ctypes.POINTER(SECURITY_ATTRIBUTES))
        gpu.refuses(vuid, exporting(), terms(pAttributes=nowhere))
    for kept in (None, security_attributes(), security_attributes("D:(A;;GA;;;WD)", inherit=True)):
        gpu.get(gpu.export(NT, terms(pAttributes=kept)))


def test_no_mixture_with_nv(gpu: StrictSide, handle: int) -> None:
    vuid = f"{INFO}-pNext-00640"
    for other in (vk.VkExportMemoryAllocateInfoNV(), vk.VkExportMemoryWin32HandleInfoNV()):
        gpu.refuses(vuid, exporting(), other)
        gpu.refuses(vuid, exporting(0), other)  # by presence
        gpu.allocate(other)
    vuid = f"{INFO}-pNext-00641"
    for type, nv in ((NT, 0), (0, 0)):
        gpu.refuses(vuid, by(type, handle), vk.VkImportMemoryWin32HandleInfoNV(handleType=nv))
    gpu.refuses(
        {vuid, f"{INFO}-None-06657"},
        by(NT, handle),
        vk.VkImportMemoryWin32HandleInfoNV(handleType=1, handle=handle),
    )
    gpu.allocate(by(NT, handle))
    gpu.allocate(exporting())


def test_types_that_can_be_exported(gpu: StrictSide) -> None:
    vuid = "VUID-VkExportMemoryAllocateInfo-handleTypes-09860"
    for types in (NT | KMT, HEAP12):
        gpu.refuses(vuid, exporting(types))
    for types in (NT, KMT):
        gpu.export(types)


def test_dedicated_where_demanded(gpu: StrictSide, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = gpu.buffer(NT)
    only = int(vk.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT)
    offer = External(6 | only, NT, NT)
    monkeypatch.setattr(Queries, "external_plain", lambda self, which: offer)
    monkeypatch.setattr(Queries, "external_buffer", lambda self, *which: offer)
    gpu.refuses(f"{INFO}-pNext-00639", exporting())
    gpu.export(NT, vk.VkMemoryDedicatedAllocateInfo(buffer=buffer))


# -- fetching -------------------------------------------------------------------------------------


def fetch(memory: Any, type: int) -> Any:
    return vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=type)


def test_fetched_as_windows_types_that_were_announced(gpu: StrictSide) -> None:
    get, device = vk.vkGetMemoryWin32HandleKHR, gpu.device
    nt, kmt, plain = gpu.export(NT), gpu.export(KMT), gpu.allocate()
    for type in (FD, HOST):
        vuids = {f"{GET}-handleType-00664", f"{GET}-handleType-00662"}
        gpu.breaks(vuids, get, device, fetch(nt.memory, type))
    for block, type in ((nt, KMT), (kmt, NT), (plain, NT), (nt, TEXTURE11)):
        gpu.breaks(f"{GET}-handleType-00662", get, device, fetch(block.memory, type))
    for type in (0, NT | KMT):
        vuids = {f"{GET}-handleType-parameter"} | ({f"{GET}-handleType-00662"} if type else set())
        gpu.breaks(vuids, get, device, fetch(nt.memory, type))
    for memory in (0, 0xDEAD):
        gpu.breaks(f"{GET}-memory-parameter", get, device, fetch(memory, NT))
    info = fetch(nt.memory, NT)
    info.pNext = exporting()
    gpu.breaks(f"{GET}-pNext-pNext", get, device, info)
    info = fetch(nt.memory, NT)
    info.sType = 0
    gpu.breaks(f"{GET}-sType-sType", get, device, info)
    get_without = "VUID-vkGetMemoryWin32HandleKHR-pGetWin32HandleInfo-parameter"
    gpu.breaks(get_without, get, device, None)
    gpu.get(nt, NT)
    gpu.get(kmt, KMT)


def test_an_nt_handle_is_fetched_once(gpu: StrictSide) -> None:
    block, other, numbered = gpu.export(), gpu.export(), gpu.export(KMT)
    handle = gpu.get(block)
    again = fetch(block.memory, NT)
    for _ in range(2):
        vuid = f"{GET}-handleType-00663"
        gpu.breaks(vuid, vk.vkGetMemoryWin32HandleKHR, gpu.device, again)
        if handle:
            gpu.close(handle)  # which does not change it
            handle = 0
    gpu.get(other)
    assert gpu.get(numbered, KMT) == gpu.get(numbered, KMT)
    assert gpu.facts(block.memory)["fetched"] == {NT}


# -- asking about handles -------------------------------------------------------------------------


def test_opaque_handles_are_not_asked_about(gpu: StrictSide, handle: int) -> None:
    ask = vk.vkGetMemoryWin32HandlePropertiesKHR
    for type in (NT, KMT):
        gpu.breaks(f"{PROPERTIES}-handleType-00666", ask, gpu.device, type, handle)
    for type in (0, HEAP12 | TEXTURE11):
        gpu.breaks(f"{PROPERTIES}-handleType-parameter", ask, gpu.device, type, handle)
    with foreign.heap12(size=SIZE, memory_types=0b110) as heap:
        assert gpu.properties(HEAP12, heap.handle) == 0b110


def test_what_is_asked_about_is_memory(gpu: StrictSide, section: int) -> None:
    ask, vuid = vk.vkGetMemoryWin32HandlePropertiesKHR, f"{PROPERTIES}-handle-00665"
    for type in (TEXTURE11, HEAP12, RESOURCE12):
        for wrong in (None, INVALID, section, section + 40000):
            gpu.breaks(vuid, ask, gpu.device, type, wrong)
    for number in (None, 0x4000_0002, section, 1 << 40):
        gpu.breaks(vuid, ask, gpu.device, TEXTURE11_KMT, number)
    with foreign.texture11(size=SIZE, kmt=True) as texture:
        assert gpu.properties(TEXTURE11_KMT, texture.kmt) == 1


def test_what_is_filled_says_what_it_is(gpu: StrictSide) -> None:
    ask = vk.vkGetMemoryWin32HandlePropertiesKHR
    box = vk.VkMemoryWin32HandlePropertiesKHR()
    owner = "VUID-VkMemoryWin32HandlePropertiesKHR"
    with foreign.heap12(size=SIZE) as heap:
        box.sType = 0
        gpu.breaks(f"{owner}-sType-sType", ask, gpu.device, HEAP12, heap.handle, box)
        box = vk.VkMemoryWin32HandlePropertiesKHR(pNext=exporting())
        gpu.breaks(f"{owner}-pNext-pNext", ask, gpu.device, HEAP12, heap.handle, box)
        box.pNext = None
        assert ask(gpu.device, HEAP12, heap.handle, box).memoryTypeBits == 1
