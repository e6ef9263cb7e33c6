"""The page of VkImportMemoryWin32HandleInfoNV, statement by statement.

Memory of the same physical device comes in by a Windows handle: what each member means, that 0
turns the structure off, what a valid handle is, and who owns it afterwards. What each type's handle
is, in itself, is the matter of `test_seed_handle_types_nv`.

The page speaks of memory from outside the current instance; of memory from inside it says nothing,
and here that works as it does with KHR. An older text of NV hands the handle to the driver; KHR's
twin was corrected, and here the handle stays the application's with both.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import pytest

import extmem
from extmem import vk, win32
from extmem.drivers.embedded import foreign
from tests.support.win32 import (
    BAD_HANDLES,
    EXTENSIONS,
    IMAGE11_KMT_NV,
    IMAGE11_NV,
    KMT_NV,
    NT,
    NT_NV,
    PLACES,
    REFUSED,
    SIZE,
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
)

PAGE = "VUID-VkImportMemoryWin32HandleInfoNV"
Info = vk.VkImportMemoryWin32HandleInfoNV
TYPES = pytest.mark.parametrize(
    "type", [NT_NV, KMT_NV, IMAGE11_NV, IMAGE11_KMT_NV], ids=["nt", "kmt", "d3d11", "d3d11_kmt"]
)
Sides = tuple[Side, Side]


@pytest.fixture
def sides() -> Iterator[Sides]:
    with opened() as both:
        yield both


@pytest.fixture
def careless() -> Iterator[Sides]:
    """Nothing stands between the test and the driver."""
    with opened(checks="off") as both:
        yield both


# -- the structure --------------------------------------------------------------------------------


def test_members() -> None:
    info = Info(handleType=NT_NV, handle=0x1234)
    assert [field[0] for field in Info._fields_] == ["sType", "pNext", "handleType", "handle"]
    assert info.sType == vk.VK_STRUCTURE_TYPE_IMPORT_MEMORY_WIN32_HANDLE_INFO_NV == 1000057000
    assert (info.pNext, info.handleType, info.handle) == (None, NT_NV, 0x1234)
    # A mask of 32 bits, and a HANDLE, which is as wide as a pointer.
    kinds = dict(field[:2] for field in Info._fields_)
    assert ctypes.sizeof(kinds["handleType"]) == 4
    assert ctypes.sizeof(kinds["handle"]) == ctypes.sizeof(ctypes.c_void_p)
    with pytest.raises(ValueError, match="handleType"):
        Info(handleType=1 << 32)


def test_an_empty_one_is_turned_off() -> None:
    info = Info()
    assert (info.handleType, info.handle) == (0, None)


def test_it_extends_an_allocation_at_any_place_of_the_chain(sides: Sides) -> None:
    here, there = sides
    block = here.export_nv()
    handle = here.get_nv(block)
    flags = vk.VkMemoryAllocateFlagsInfo
    first = there.allocate(Info(handleType=NT_NV, handle=handle), flags())
    last = there.allocate(flags(), Info(handleType=NT_NV, handle=handle))
    prove_same(block, first, last)


def test_it_extends_nothing_else(sides: Sides) -> None:
    here, _ = sides
    info = vk.VkBufferCreateInfo(size=SIZE, usage=vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT)
    with breaks("VUID-VkBufferCreateInfo-pNext-pNext"):
        vk.vkCreateBuffer(here.device, vk.link(info, Info()))


def test_it_is_in_a_chain_once(sides: Sides) -> None:
    here, _ = sides
    with breaks("VUID-VkMemoryAllocateInfo-sType-unique"):
        here.allocate(Info(), Info())


# -- importing ------------------------------------------------------------------------------------


@TYPES
@pytest.mark.parametrize("place", PLACES)
def test_an_import_has_the_same_bytes(sides: Sides, type: int, place: str) -> None:
    with importing(place, *sides) as importer, shared(sides[0], type, nv=True) as (source, origin):
        prove_same(origin, importer.take(source))


@TYPES
def test_bytes_that_were_there_before_are_not_touched(sides: Sides, type: int) -> None:
    here, there = sides
    with shared(here, type, nv=True) as (source, origin):
        origin.write(b"\xa5" * SIZE)
        block = there.take(source)
        assert block.read() == b"\xa5" * SIZE
        block.free()


@TYPES
def test_each_import_is_memory_of_its_own(sides: Sides, type: int) -> None:
    with shared(sides[0], type, nv=True) as (source, origin):
        blocks = [side.take(source) for side in sides for _ in range(3)]
        for side in sides:
            assert len({int(block.memory) for block in blocks if block.side is side}) == 3
        prove_same(origin, *blocks)
        # One that is freed takes nothing from the others.
        for index, block in enumerate(blocks[:-1]):
            block.free()
            prove_same(origin, *blocks[index + 1 :])
        blocks[-1].free()


def test_an_import_may_be_smaller_than_what_was_exported(sides: Sides) -> None:
    """No rule of NV's compares the two sizes: an importer passes what its resource needs."""
    here, there = sides
    block = here.export_nv(size=2 * SIZE)
    part = there.take(Source(NT_NV, here.get_nv(block), nv=True, size=SIZE))
    prove_same(block, part)


def test_an_import_cannot_be_larger_than_what_was_exported(careless: Sides) -> None:
    here, there = careless
    source = Source(NT_NV, here.get_nv(here.export_nv()), nv=True, size=2 * SIZE)
    with fails(REFUSED):
        there.take(source)


def test_what_was_imported_can_be_exported_again(sides: Sides) -> None:
    here, there = sides
    block = here.export_nv()
    export = vk.VkExportMemoryAllocateInfoNV(handleTypes=NT_NV)
    again = there.allocate(Source(NT_NV, here.get_nv(block), nv=True).info(), export)
    last = here.take(Source(NT_NV, there.get_nv(again), nv=True))
    prove_same(block, again, last)


def test_memory_comes_from_the_same_physical_device(careless: Sides) -> None:
    here, _ = careless
    sources = [
        Source(type, here.get_nv(here.export_nv(type), type), nv=True) for type in (NT_NV, KMT_NV)
    ]
    with (
        Side(checks="off", index=1) as elsewhere,
        foreign.texture11(size=SIZE, memory_types=1 << VISIBLE) as texture,
    ):
        for source in (*sources, Source(IMAGE11_NV, texture.handle, nv=True)):
            with fails(REFUSED):
                elsewhere.take(source)


# -- the handle's owner and its references --------------------------------------------------------


@pytest.mark.parametrize("type", [NT_NV, IMAGE11_NV], ids=["nt", "d3d11"])
def test_an_nt_handle_stays_the_applications(sides: Sides, type: int) -> None:
    here, there = sides
    with shared(here, type, nv=True) as (source, _):
        assert source.handle is not None
        handle = here.duplicate(source.handle)
        there.take(Source(type, handle, nv=True)).free()
        # Open, for the same object, and usable again; and the structure still names it.
        assert win32.CompareObjectHandles(handle, source.handle)
        info = Source(type, handle, nv=True).info()
        if type == NT_NV:
            there.allocate(info).free()
        assert info.handle == handle
        there.take(Source(type, handle, nv=True)).free()
        here.close(handle)


def test_a_failed_import_leaves_the_handle_alone(careless: Sides) -> None:
    here, there = careless
    block = here.export_nv()
    handle = here.get_nv(block)
    with fails(REFUSED):
        there.take(Source(NT_NV, handle, nv=True, size=SIZE * 2))
    with fails(REFUSED):
        there.take(Source(IMAGE11_NV, handle, nv=True))
    prove_same(block, there.take(Source(NT_NV, handle, nv=True)))


def test_a_closed_handle_takes_nothing_from_what_was_imported(sides: Sides) -> None:
    here, there = sides
    block = here.export_nv()
    handle = here.get_nv(block)
    copy = there.take(Source(NT_NV, handle, nv=True))
    here.close(handle)
    prove_same(block, copy)


@pytest.mark.parametrize("type", [NT_NV, IMAGE11_NV], ids=["nt", "d3d11"])
def test_an_nt_import_holds_a_reference(sides: Sides, type: int) -> None:
    here, there = sides
    with shared(here, type, nv=True) as (source, origin):
        first, second = there.take(source), here.take(source)
        origin.write(b"\x5a" * SIZE)
        if type == NT_NV:
            assert source.handle is not None
            origin.free()
            here.close(source.handle)
    assert first.read() == b"\x5a" * SIZE
    prove_same(first, second)


@pytest.mark.parametrize("type", [KMT_NV, IMAGE11_KMT_NV], ids=["kmt", "d3d11_kmt"])
def test_a_kmt_import_holds_none(sides: Sides, type: int) -> None:
    here, there = sides
    with shared(here, type, nv=True) as (source, origin):
        block = there.take(source)
        prove_same(origin, block)
        if type == KMT_NV:
            origin.free()
    with fails(vk.VK_ERROR_MEMORY_MAP_FAILED):
        block.read()
    with breaks(f"{PAGE}-handle-01328"):
        there.take(source)


def test_kmt_values_are_never_closed(sides: Sides) -> None:
    here, there = sides
    block = here.export_nv(KMT_NV)
    number = here.get_nv(block, KMT_NV)
    copy = there.take(Source(KMT_NV, number, nv=True))
    assert not is_open(number)  # it is in no handle table
    prove_same(block, copy)


# -- handleType 0 ---------------------------------------------------------------------------------


def _nothing(here: Side) -> int:
    return 0


def _garbage(here: Side) -> int:
    return 0xDEAD0


def _payload(here: Side) -> int:
    return here.get_nv(here.export_nv())


@pytest.mark.parametrize("checks", ["full", "off"])
@pytest.mark.parametrize("handle", [_nothing, _garbage, _payload])
def test_0_turns_the_structure_off(checks: str, handle: Callable[[Side], int]) -> None:
    """What follows is an ordinary allocation, whatever the handle is: zeros that nobody shares."""
    with opened(checks=checks) as (here, there):
        value = handle(here)
        block = there.allocate(Info(handleType=0, handle=value))
        assert block.read() == bytes(SIZE)
        block.write(b"\xff" * SIZE)
        if handle is _payload:
            assert here.take(Source(NT_NV, value, nv=True)).read() == bytes(SIZE)


def test_0_leaves_the_rest_of_the_chain_on(sides: Sides) -> None:
    here, there = sides
    export = vk.VkExportMemoryAllocateInfoNV(handleTypes=NT_NV)
    block = here.allocate(Info(handleType=0), export)
    prove_same(block, there.take(Source(NT_NV, here.get_nv(block), nv=True)))


def test_0_leaves_an_allocation_that_needs_a_size(sides: Sides) -> None:
    here, _ = sides
    with breaks("VUID-VkMemoryAllocateInfo-allocationSize-07897"):
        here.allocate(Info(handleType=0, handle=0xDEAD0), size=0)


def test_0_does_not_allow_the_structure_beside_its_khr_twin(sides: Sides) -> None:
    """That rule looks at who is there, and not at what they say."""
    here, _ = sides
    for type, other in ((0, 0), (0, NT), (NT_NV, 0)):
        core = vk.VkImportMemoryWin32HandleInfoKHR(handleType=other)
        with breaks("VUID-VkMemoryAllocateInfo-pNext-00641"):
            here.allocate(Info(handleType=type), core)


# -- valid usage ----------------------------------------------------------------------------------


def test_the_structure_type_is_its_own(sides: Sides) -> None:
    """A driver goes by sType, and would take this for something else, or for nothing at all."""
    here, there = sides
    info = Info(handleType=NT_NV, handle=here.get_nv(here.export_nv()))
    for wrong in (0, vk.VK_STRUCTURE_TYPE_IMPORT_MEMORY_WIN32_HANDLE_INFO_KHR):
        info.sType = wrong
        with breaks(f"{PAGE}-sType-sType"):
            there.allocate(info)


@pytest.mark.parametrize("type", [NT_NV | KMT_NV, NT_NV | IMAGE11_NV, 0xF])
def test_one_type_at_most(type: int) -> None:
    for checks in ("full", "off"):
        with opened(checks=checks) as (here, there):
            handle = here.get_nv(here.export_nv())
            with refused(checks, f"{PAGE}-handleType-01327"):
                there.allocate(Info(handleType=type, handle=handle))


@pytest.mark.parametrize("type", [0x10, NT_NV | 0x10, 1 << 31])
def test_types_of_nv_only(type: int) -> None:
    for checks in ("full", "off"):
        with opened(checks=checks) as (here, there):
            handle = here.get_nv(here.export_nv())
            with refused(checks, f"{PAGE}-handleType-parameter"):
                there.allocate(Info(handleType=type, handle=handle))


@pytest.mark.parametrize("which", BAD_HANDLES)
@TYPES
def test_a_handle_that_is_none(type: int, which: str) -> None:
    for checks in ("full", "off"):
        with opened(checks=checks) as (here, _), no_handle(which) as handle:
            before = is_open(handle)
            with refused(checks, f"{PAGE}-handle-01328"):
                here.take(Source(type, handle, nv=True))
            assert is_open(handle) == before


@TYPES
def test_a_handle_of_another_type_than_is_said(sides: Sides, type: int) -> None:
    here, there = sides
    with shared(here, type, nv=True) as (source, origin):
        for other in (NT_NV, KMT_NV, IMAGE11_NV, IMAGE11_KMT_NV):
            if other != type:
                with breaks(f"{PAGE}-handle-01328"):
                    there.take(Source(other, source.handle, nv=True))
        block = there.take(source)
        prove_same(origin, block)
        block.free()


# -- the extension --------------------------------------------------------------------------------


@TYPES
def test_nothing_is_imported_without_the_extension(careless: Sides, type: int) -> None:
    """Nor does it quietly become an ordinary allocation."""
    without = tuple(each for each in EXTENSIONS if each != "VK_NV_external_memory_win32")
    with (
        Side(checks="off", extensions=without) as bare,
        shared(careless[0], type, nv=True) as (source, _),
    ):
        with fails(REFUSED):
            bare.take(source)
        with pytest.raises(extmem.CommandUnavailable, match="VK_NV_external_memory_win32"):
            vk.vkGetMemoryWin32HandleNV(bare.device, bare.allocate().memory, NT_NV)
