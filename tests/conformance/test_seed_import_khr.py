"""The page of VkImportMemoryWin32HandleInfoKHR, statement by statement.

A handle or a name comes in; the handle stays the application's; NT imports hold a reference and
the others do not; the same payload goes into several instances, back into its own, and into one
several times, each time as memory of its own. Some copies of the page have lost their Valid Usage;
here all of it is broken once, with the rules of VkMemoryAllocateInfo that are about these imports.
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

import extmem
from extmem import vk, win32
from extmem.drivers.embedded import foreign
from extmem.handles import winerror
from extmem.handles.system import kernel
from tests.support.win32 import (
    BAD_HANDLES,
    EXTENSIONS,
    HEAP12,
    KMT,
    NT,
    NT_NV,
    PLACES,
    REFUSED,
    RESOURCE12,
    SIZE,
    TEXTURE11,
    TEXTURE11_KMT,
    VISIBLE,
    Side,
    Source,
    breaks,
    fails,
    importing,
    is_open,
    no_handle,
    opened,
    prove_same,
    refused,
    shared,
    unique_name,
)

Sides = tuple[Side, Side]
Info = vk.VkImportMemoryWin32HandleInfoKHR
PAGE = "VUID-VkImportMemoryWin32HandleInfoKHR"
ALLOCATE = "VUID-VkMemoryAllocateInfo"

NT_TYPES = {"nt": NT, "d3d11": TEXTURE11, "heap": HEAP12, "resource": RESOURCE12}
KMT_TYPES = {"kmt": KMT, "d3d11_kmt": TEXTURE11_KMT}
ALL_TYPES = NT_TYPES | KMT_TYPES

BY_TYPE = pytest.mark.parametrize("type", ALL_TYPES.values(), ids=ALL_TYPES)
BY_NT_TYPE = pytest.mark.parametrize("type", NT_TYPES.values(), ids=NT_TYPES)
BY_KMT_TYPE = pytest.mark.parametrize("type", KMT_TYPES.values(), ids=KMT_TYPES)
BOTH_CHECKS = pytest.mark.parametrize("checks", ["full", "off"])


@pytest.fixture
def sides() -> Iterator[Sides]:
    with opened() as both:
        yield both


@pytest.fixture
def careless() -> Iterator[Sides]:
    with opened(checks="off") as both:
        yield both


# -- the structure --------------------------------------------------------------------------------


def test_members() -> None:
    info = Info(handleType=NT, name="Local\\é𝄞")
    members = [each[0] for each in Info._fields_]
    assert members == ["sType", "pNext", "handleType", "handle", "name"]
    assert info.sType == vk.VK_STRUCTURE_TYPE_IMPORT_MEMORY_WIN32_HANDLE_INFO_KHR == 1000073000
    assert (info.pNext, info.handleType, info.handle) == (None, NT, None)
    assert info.name == "Local\\é𝄞"
    kinds = dict(each[:2] for each in Info._fields_)
    assert ctypes.sizeof(kinds["handle"]) == ctypes.sizeof(ctypes.c_void_p)


def test_a_name_is_utf_16_and_ends_with_a_zero() -> None:
    info = Info(handleType=NT, name="Local\\é𝄞")
    text = "Local\\é𝄞".encode("utf-16-le") + b"\0\0"
    # Whatever wchar_t is here: C reads 16 bits at a time.
    offset = ctypes.sizeof(info) - ctypes.sizeof(ctypes.c_void_p)
    address = ctypes.c_void_p.from_buffer(info, offset).value
    assert address is not None
    assert ctypes.string_at(address, len(text)) == text


def test_where_it_is_chained(sides: Sides) -> None:
    here, there = sides
    source = Source(NT, here.get(here.export()))
    flags = vk.VkMemoryAllocateFlagsInfo
    prove_same(there.allocate(source.info(), flags()), there.allocate(flags(), source.info()))
    info = vk.VkBufferCreateInfo(size=SIZE, usage=vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT)
    with breaks("VUID-VkBufferCreateInfo-pNext-pNext"):
        vk.vkCreateBuffer(here.device, vk.link(info, Info()))
    with breaks(f"{ALLOCATE}-sType-unique"):
        there.allocate(Info(), Info())
    # A driver goes by sType, and would take this for something else, or for nothing at all.
    another = source.info()
    another.sType = 0
    with breaks(f"{PAGE}-sType-sType"):
        there.allocate(another)


# -- a handle or a name ---------------------------------------------------------------------------


@BY_TYPE
@pytest.mark.parametrize("place", PLACES)
def test_an_import_by_handle(sides: Sides, type: int, place: str) -> None:
    with importing(place, *sides) as importer, shared(sides[0], type) as (source, origin):
        prove_same(origin, importer.take(source))


@BY_NT_TYPE
@pytest.mark.parametrize("place", PLACES)
def test_an_import_by_name(sides: Sides, type: int, place: str) -> None:
    with (
        importing(place, *sides) as importer,
        shared(sides[0], type, name=unique_name()) as (source, origin),
    ):
        assert source.handle is None
        prove_same(origin, importer.take(source))


@pytest.mark.parametrize("text", ["plain", "Local\\with spaces", "Local\\é𝄞", "Local\\a/b:c*"])
def test_names_of_all_kinds(sides: Sides, text: str) -> None:
    here, there = sides
    name = text + secrets.token_hex(8)
    with shared(here, NT, name=name) as (source, origin):
        prove_same(origin, there.take(source))
        # The names of this session, said or not.
        other = name.removeprefix("Local\\") if "\\" in name else f"Local\\{name}"
        prove_same(origin, there.take(Source(NT, name=other)))


@BOTH_CHECKS
def test_a_name_is_compared_exactly(checks: str) -> None:
    with opened(checks=checks) as (here, there):
        name = unique_name() + "a"
        with shared(here, NT, name=name):
            for other in (name[:-1] + "A", name + "a", name[:-1], name.replace("Local", "LOCAL")):
                with refused(checks, f"{PAGE}-handleType-01440"):
                    there.take(Source(NT, name=other))


@BOTH_CHECKS
def test_a_name_is_there_as_long_as_an_nt_handle_is(checks: str) -> None:
    with (
        opened(checks=checks) as (here, there),
        shared(here, NT, name=unique_name()) as (source, origin),
    ):
        early = there.take(source)
        handle = here.get(origin)
        origin.free()
        late = here.take(source)
        prove_same(early, late)
        here.close(handle)
        with refused(checks, f"{PAGE}-handleType-01440"):
            there.take(source)
        prove_same(early, late)


def test_a_handle_of_a_named_payload_is_as_good(sides: Sides) -> None:
    here, there = sides
    with shared(here, NT, name=unique_name()) as (source, origin):
        by_name, by_handle = there.take(source), there.take(Source(NT, here.get(origin)))
        prove_same(origin, by_name, by_handle)


@BOTH_CHECKS
@BY_NT_TYPE
def test_a_handle_and_a_name_are_too_much(checks: str, type: int) -> None:
    with opened(checks=checks) as (here, there), shared(here, type) as (source, _):
        both = Source(type, source.handle, unique_name())
        with refused(checks, f"{PAGE}-handle-01441"):
            there.take(both)


@BOTH_CHECKS
@BY_NT_TYPE
def test_neither_is_too_little(checks: str, type: int) -> None:
    with opened(checks=checks) as (here, _), refused(checks, f"{PAGE}-handleType-00661"):
        here.take(Source(type))


@BOTH_CHECKS
@BY_KMT_TYPE
def test_numbers_have_no_names(checks: str, type: int) -> None:
    with (
        opened(checks=checks) as (here, _),
        shared(here, NT, name=unique_name()) as (source, _o),
        refused(checks, f"{PAGE}-handleType-01439"),
    ):
        here.take(Source(type, name=source.name))


@pytest.mark.parametrize("name", ["", "Local\\", "Local\\a\\b", "x" * 300])
@BOTH_CHECKS
def test_names_that_nobody_can_have(checks: str, name: str) -> None:
    with opened(checks=checks) as (here, _), refused(checks, f"{PAGE}-handleType-01440"):
        here.take(Source(NT, name=name))


@BY_NT_TYPE
@BOTH_CHECKS
def test_a_name_of_something_else(checks: str, type: int) -> None:
    name = unique_name()
    with opened(checks=checks) as (here, _):
        section = kernel().create_section(2 * SIZE, name=name)
        with refused(checks, f"{PAGE}-handleType-01440"):
            here.take(Source(type, name=name))
        win32.CloseHandle(section)


# -- ownership and references ---------------------------------------------------------------------


@BY_NT_TYPE
def test_an_import_does_not_take_the_handle(sides: Sides, type: int) -> None:
    here, there = sides
    with shared(here, type) as (source, origin):
        assert source.handle is not None
        handle = here.duplicate(source.handle)
        before = kernel().info(handle)
        first = there.take(Source(type, handle))
        assert kernel().info(handle) == before
        second = there.take(Source(type, handle))
        # It is released by CloseHandle, which takes nothing from what was imported.
        here.close(handle)
        assert not is_open(handle)
        prove_same(origin, first, second)
        first.free()
        second.free()


@BY_NT_TYPE
def test_a_failed_import_does_not_take_it_either(careless: Sides, type: int) -> None:
    here, there = careless
    with shared(here, type) as (source, origin):
        assert source.handle is not None
        before = kernel().info(source.handle)
        with fails(REFUSED):
            there.take(Source(type, source.handle, index=0))
        assert kernel().info(source.handle) == before
        block = there.take(source)
        prove_same(origin, block)
        block.free()


@BY_NT_TYPE
@pytest.mark.parametrize("named", [False, True], ids=["handle", "name"])
def test_an_nt_import_holds_a_reference(sides: Sides, type: int, named: bool) -> None:
    here, there = sides
    with shared(here, type, name=unique_name() if named else None) as (source, origin):
        first, second = there.take(source), there.take(source)
        origin.write(b"\x66" * SIZE)
        if type == NT:
            origin.free()
            if source.handle:
                here.close(source.handle)
    assert first.read() == b"\x66" * SIZE
    prove_same(first, second)


@BY_KMT_TYPE
def test_a_kmt_import_holds_none(sides: Sides, type: int) -> None:
    here, there = sides
    with shared(here, type) as (source, origin):
        block, other = there.take(source), there.take(source)
        prove_same(origin, block, other)
        if type == KMT:
            origin.free()
    # Invalid is all that shares the payload, and using it an error that says so.
    for each in (block, other):
        with fails(vk.VK_ERROR_MEMORY_MAP_FAILED):
            each.read()


@BY_KMT_TYPE
@BOTH_CHECKS
def test_a_number_without_its_owner_is_not_imported(checks: str, type: int) -> None:
    with opened(checks=checks) as (here, there):
        with shared(here, type) as (source, origin):
            if type == KMT:
                origin.free()
        with refused(checks, f"{PAGE}-handleType-00661"):
            there.take(source)


@BY_TYPE
def test_the_same_payload_many_times(sides: Sides, type: int) -> None:
    """Into several instances, into the exporter's, and several times into each."""
    with shared(sides[0], type) as (source, origin), Side(beside=sides[0]) as beside:
        importers = (*sides, beside)
        blocks = [side.take(source) for side in importers for _ in range(3)]
        for side in importers:
            assert len({int(each.memory) for each in blocks if each.side is side}) == 3
        prove_same(origin, *blocks)
        for index, block in enumerate(blocks[:-1]):
            block.free()
            prove_same(*blocks[index + 1 :])
        blocks[-1].free()


def test_what_was_imported_is_exported_again_where_that_is_offered(sides: Sides) -> None:
    here, there = sides
    for type in (NT, KMT):
        with shared(here, type) as (source, origin):
            again = there.export(type, source.info())
            prove_same(origin, again, here.take(Source(type, there.get(again, type))))
    rule = breaks("VUID-VkExportMemoryAllocateInfo-handleTypes-09860")
    with shared(here, HEAP12) as (source, _), rule:
        there.export(HEAP12, source.info())


# -- handleType 0 ---------------------------------------------------------------------------------


@BOTH_CHECKS
@pytest.mark.parametrize("members", [{}, {"handle": 0xDEAD0}])
def test_0_is_no_import(checks: str, members: dict[str, Any]) -> None:
    with opened(checks=checks) as (here, _):
        block = here.allocate(Info(handleType=0, **members))
        assert block.read() == bytes(SIZE)
    with opened() as (here, _), breaks(f"{ALLOCATE}-allocationSize-07897"):
        here.allocate(Info(handleType=0, **members), size=0)


def test_0_does_not_allow_what_is_never_allowed(sides: Sides) -> None:
    here, _ = sides
    with breaks(f"{PAGE}-handle-01441", f"{PAGE}-handleType-01439"):
        here.allocate(Info(handleType=0, handle=4, name=unique_name()))
    with breaks(f"{PAGE}-handleType-01439"):
        here.allocate(Info(handleType=0, name=unique_name()))
    with breaks(f"{ALLOCATE}-pNext-00641"):
        here.allocate(Info(handleType=0), vk.VkImportMemoryWin32HandleInfoNV(handleType=NT_NV))


# -- valid usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "rule"), [(1, "00660"), (0x80, "00660"), (NT | KMT, "parameter"), (1 << 30, "00660")]
)
@BOTH_CHECKS
def test_one_of_windows_types(checks: str, type: int, rule: str) -> None:
    with opened(checks=checks) as (here, there):
        handle = here.get(here.export())
        with refused(checks, f"{PAGE}-handleType-{rule}"):
            there.allocate(Info(handleType=type, handle=handle))


@pytest.mark.parametrize("which", BAD_HANDLES)
@BY_TYPE
def test_a_handle_that_is_none(type: int, which: str) -> None:
    for checks in ("full", "off"):
        with opened(checks=checks) as (here, _), no_handle(which) as handle:
            before = is_open(handle)
            with refused(checks, f"{PAGE}-handleType-00661"):
                here.take(Source(type, handle))
            assert is_open(handle) == before


@BY_TYPE
@BOTH_CHECKS
def test_a_handle_of_another_type_than_is_said(checks: str, type: int) -> None:
    with opened(checks=checks) as (here, there), shared(here, type) as (source, origin):
        for other in ALL_TYPES.values():
            if other != type:
                with refused(checks, f"{PAGE}-handleType-00661"):
                    there.take(Source(other, source.handle))
        block = there.take(source)
        prove_same(origin, block)
        block.free()


def test_a_type_that_can_back_the_resource(sides: Sides) -> None:
    """Heaps carry no images here, and textures no buffers."""
    here, _ = sides
    image = here.image(NT)
    info = vk.VkBufferCreateInfo(size=SIZE, usage=vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT)
    buffer = vk.vkCreateBuffer(here.device, info)
    for type, resource in ((HEAP12, {"image": image}), (TEXTURE11, {"buffer": buffer})):
        with shared(here, type) as (source, _), breaks(f"{PAGE}-handleType-09861"):
            here.allocate(source.info(), vk.VkMemoryDedicatedAllocateInfo(**resource))
    vk.vkDestroyImage(here.device, image)
    vk.vkDestroyBuffer(here.device, buffer)


@pytest.mark.parametrize("named", [False, True], ids=["handle", "name"])
@BOTH_CHECKS
def test_a_payload_of_another_physical_device(checks: str, named: bool) -> None:
    """Its device UUID differs, too, which the compatibility table wants to match."""
    rules = f"{PAGE}-handle-00659", f"{PAGE}-{'name-01519' if named else 'handle-01518'}"
    with (
        opened(checks=checks) as (here, _),
        Side(checks=checks, index=1) as elsewhere,
        shared(here, NT, name=unique_name() if named else None) as (source, _o),
        breaks(*rules) if checks == "full" else fails(REFUSED),
    ):
        elsewhere.take(source)


@pytest.mark.parametrize("change", [{"size": SIZE * 2}, {"size": SIZE // 2}, {"index": 2}], ids=str)
@pytest.mark.parametrize("type", [NT, KMT], ids=["nt", "kmt"])
@BOTH_CHECKS
def test_an_opaque_import_repeats_what_was_exported(
    checks: str, type: int, change: dict[str, int]
) -> None:
    with (
        opened(checks=checks) as (here, there),
        shared(here, type) as (source, _),
        refused(checks, f"{ALLOCATE}-allocationSize-01743"),
    ):
        there.take(Source(type, source.handle, **change))


@BOTH_CHECKS
def test_a_heap_is_imported_whole(checks: str) -> None:
    with opened(checks=checks) as (here, _), shared(here, HEAP12) as (source, _o):
        for size in (SIZE // 2, SIZE * 2):
            with refused(checks, f"{ALLOCATE}-allocationSize-00647"):
                here.take(Source(HEAP12, source.handle, size=size))


@pytest.mark.parametrize("type", [TEXTURE11, TEXTURE11_KMT, RESOURCE12])
@pytest.mark.parametrize("size", [0, 1, 1 << 40])
@BOTH_CHECKS
def test_the_size_of_a_resource_is_the_systems(checks: str, type: int, size: int) -> None:
    with opened(checks=checks) as (here, _), shared(here, type) as (source, origin):
        block = here.take(Source(type, source.handle, size=size))
        origin.write(b"\x44")
        assert block.read(1) == b"\x44"
        block.free()


@pytest.mark.parametrize("type", [TEXTURE11, TEXTURE11_KMT, HEAP12, RESOURCE12])
@BOTH_CHECKS
def test_the_memory_type_is_one_that_was_asked_for(checks: str, type: int) -> None:
    with opened(checks=checks) as (here, _), shared(here, type) as (source, _o):
        assert here.properties(type, source.handle) == 1 << VISIBLE
        with refused(checks, f"{ALLOCATE}-memoryTypeIndex-00645"):
            here.take(Source(type, source.handle, index=2))


@BOTH_CHECKS
def test_a_dedicated_payload_goes_to_its_twin(checks: str) -> None:
    kind = vk.VkMemoryDedicatedAllocateInfo
    with opened(checks=checks) as (here, there):
        mine, twin, other = here.image(NT), there.image(NT), there.image(KMT)
        block = here.export(NT, kind(image=mine))
        source = Source(NT, here.get(block))
        rules = "VUID-VkMemoryDedicatedAllocateInfo-image-01876"
        for chain in ([], [kind(image=other)]):
            with refused(checks, rules):
                there.allocate(source.info(), *chain)
        prove_same(block, there.allocate(source.info(), kind(image=twin)))
        for side, image in ((here, mine), (there, twin), (there, other)):
            vk.vkDestroyImage(side.device, image)


def test_one_source_of_memory(sides: Sides) -> None:
    here, _ = sides
    with shared(here, NT) as (source, _o), breaks(f"{ALLOCATE}-None-06657"):
        nv = vk.VkImportMemoryWin32HandleInfoNV(handleType=NT_NV, handle=source.handle)
        here.allocate(source.info(), nv)


# -- the results of the driver --------------------------------------------------------------------


@pytest.mark.parametrize("code", [4, 8, 1450, 1455])
def test_a_system_with_nothing_left_gives_a_result_of_vkAllocateMemory(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> int:
        raise winerror.failure(code, "cannot map a section")

    with opened(checks="off") as (here, there), shared(here, NT) as (source, origin):
        with monkeypatch.context() as patch:
            patch.setattr(kernel(), "map_section", full)
            with pytest.raises(extmem.DriverError) as error:
                there.take(source)
        assert error.value.result in (
            vk.VK_ERROR_OUT_OF_HOST_MEMORY,
            vk.VK_ERROR_OUT_OF_DEVICE_MEMORY,
            REFUSED,
            vk.VK_ERROR_UNKNOWN,
        )
        prove_same(origin, there.take(source))


@BY_TYPE
def test_nothing_is_imported_without_the_extension(careless: Sides, type: int) -> None:
    """Nor does it quietly become an ordinary allocation."""
    with (
        Side(checks="off", extensions=EXTENSIONS[1:]) as bare,
        shared(careless[0], type) as (source, _),
        fails(REFUSED),
    ):
        bare.take(source)


def test_a_texture_with_rights_to_read_alone(sides: Sides) -> None:
    with foreign.texture11(
        size=SIZE, memory_types=1 << VISIBLE, access=win32.DXGI_SHARED_RESOURCE_READ
    ) as texture:
        block = sides[0].take(Source(TEXTURE11, texture.handle))
        texture.view[:4] = b"seen"
        assert block.read(4) == b"seen"
        with pytest.raises(TypeError, match="read-only"):
            block.write(b"\0")
        block.free()
