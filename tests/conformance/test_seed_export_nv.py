"""The page of VkExportMemoryWin32HandleInfoNV, and those it rests on, statement by statement.

What handles of exported memory grant and to whom: the security attributes, the access rights, and
what holds where nothing is said. With it VkExportMemoryAllocateInfoNV, which announces the types,
and vkGetMemoryWin32HandleNV, which hands the handles out. (An old text of the page calls it the
export of a semaphore; it is of memory.)
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from extmem import vk, win32
from extmem.handles import winerror
from extmem.handles.system import kernel
from tests.support.second import ROOT
from tests.support.win32 import (
    IMAGE11_NV,
    KMT_NV,
    NT,
    NT_NV,
    PLACES,
    REFUSED,
    SIZE,
    Block,
    Side,
    Source,
    breaks,
    fails,
    importing,
    is_open,
    opened,
    prove_same,
    refused,
)

Sides = tuple[Side, Side]
Terms = vk.VkExportMemoryWin32HandleInfoNV
Export = vk.VkExportMemoryAllocateInfoNV
GET = "VUID-vkGetMemoryWin32HandleNV"

READ = win32.DXGI_SHARED_RESOURCE_READ
WRITE = win32.DXGI_SHARED_RESOURCE_WRITE
ALL = win32.GENERIC_ALL

# What a handle of shared memory grants, in the kernel's own bits.
MAP_WRITE, MAP_READ = 2, 4

EVERYBODY = "D:(A;;GA;;;WD)"
NOBODY = "D:"


@pytest.fixture
def sides() -> Iterator[Sides]:
    with opened() as both:
        yield both


@pytest.fixture
def careless() -> Iterator[Sides]:
    with opened(checks="off") as both:
        yield both


def granted(handle: int) -> int:
    return kernel().info(handle).access & (MAP_READ | MAP_WRITE)


def is_inherited(handle: int) -> bool:
    return bool(win32.GetHandleInformation(handle) & win32.HANDLE_FLAG_INHERIT)


def copied(source: Block) -> bytes:
    """The bytes of memory that may not be mapped, as a queue of its device reads them."""
    side, mine = source.side, source.side.allocate()
    usage = vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT
    buffers = []
    # NV has no structure for buffers that are shared; KHR's names the same memory.
    for block, types in ((source, NT), (mine, 0)):
        chain = vk.VkExternalMemoryBufferCreateInfo(handleTypes=types) if types else None
        info = vk.VkBufferCreateInfo(size=SIZE, usage=usage, pNext=chain)
        buffers.append(vk.vkCreateBuffer(side.device, info))
        vk.vkBindBufferMemory(side.device, buffers[-1], block.memory, 0)
    pool = vk.vkCreateCommandPool(side.device, vk.VkCommandPoolCreateInfo())
    info = vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
    (commands,) = vk.vkAllocateCommandBuffers(side.device, info)
    vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo())
    vk.vkCmdCopyBuffer(commands, *buffers, 1, [vk.VkBufferCopy(size=SIZE)])
    vk.vkEndCommandBuffer(commands)
    queue = vk.vkGetDeviceQueue(side.device, 0, 0)
    vk.vkQueueSubmit(queue, 1, [vk.VkSubmitInfo(pCommandBuffers=[commands])], None)
    vk.vkQueueWaitIdle(queue)
    vk.vkDestroyCommandPool(side.device, pool)
    for buffer in buffers:
        vk.vkDestroyBuffer(side.device, buffer)
    data = mine.read()
    mine.free()
    return data


# -- VkExportMemoryWin32HandleInfoNV: the structure -----------------------------------------------


def test_members() -> None:
    attributes = win32.SECURITY_ATTRIBUTES()
    info = Terms(pAttributes=attributes, dwAccess=READ | WRITE)
    assert [each[0] for each in Terms._fields_] == ["sType", "pNext", "pAttributes", "dwAccess"]
    assert info.sType == vk.VK_STRUCTURE_TYPE_EXPORT_MEMORY_WIN32_HANDLE_INFO_NV == 1000057001
    assert info.dwAccess == 0x8000_0001
    assert ctypes.addressof(info.pAttributes[0]) == ctypes.addressof(attributes)
    kinds = dict(each[:2] for each in Terms._fields_)
    assert ctypes.sizeof(kinds["dwAccess"]) == 4  # a DWORD, which is 32 bits wide everywhere
    with pytest.raises(ValueError, match="dwAccess"):
        Terms(dwAccess=1 << 32)


def test_it_stands_anywhere_behind_the_allocation(sides: Sides) -> None:
    """The page has it behind VkExportMemoryAllocateInfoNV; the registry, in the same chain."""
    here, _ = sides
    behind = here.allocate(Export(handleTypes=NT_NV), Terms(dwAccess=READ))
    before = here.allocate(Terms(dwAccess=READ), Export(handleTypes=NT_NV))
    assert granted(here.get_nv(behind)) == granted(here.get_nv(before)) == MAP_READ


def test_it_extends_nothing_else_and_once(sides: Sides) -> None:
    here, _ = sides
    for extra in (Terms(), Export()):
        info = vk.VkBufferCreateInfo(size=SIZE, usage=vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT)
        with breaks("VUID-VkBufferCreateInfo-pNext-pNext"):
            vk.vkCreateBuffer(here.device, vk.link(info, extra))
        with breaks("VUID-VkMemoryAllocateInfo-sType-unique"):
            here.allocate(extra, type(extra)())


@pytest.mark.parametrize("kind", [Terms, Export])
def test_the_structure_type_is_its_own(sides: Sides, kind: Any) -> None:
    info = kind()
    info.sType = 0
    with breaks(f"VUID-{kind.__name__}-sType-sType"):
        sides[0].allocate(info)


@pytest.mark.parametrize("checks", ["full", "off"])
def test_it_alone_exports_nothing(checks: str) -> None:
    """Unlike KHR, NV has no rule against it; there is only nothing that it could speak of."""
    with opened(checks=checks) as (here, _):
        block = here.allocate(Terms(dwAccess=ALL))
        assert block.read() == bytes(SIZE)
        with refused(checks, f"{GET}-handleType-01326", vk.VK_ERROR_UNKNOWN):
            here.get_nv(block)


def test_it_is_not_mixed_with_the_cores_export(sides: Sides) -> None:
    with breaks("VUID-VkMemoryAllocateInfo-pNext-00640"):
        sides[0].export(NT, Terms(dwAccess=ALL))


def test_numbers_have_no_terms(sides: Sides) -> None:
    """The page gives it a meaning for opaque_win32 alone; beside a KMT export it says nothing."""
    here, there = sides
    attributes = win32.security_attributes(NOBODY, inherit=True)
    block = here.export_nv(KMT_NV, Terms(pAttributes=attributes, dwAccess=READ))
    prove_same(block, there.take(Source(KMT_NV, here.get_nv(block, KMT_NV), nv=True)))


# -- dwAccess -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (None, MAP_READ | MAP_WRITE),
        (READ, MAP_READ),
        (WRITE, MAP_WRITE),
        (READ | WRITE, MAP_READ | MAP_WRITE),
        (ALL, MAP_READ | MAP_WRITE),
        (0, 0),
    ],
    ids=["missing", "read", "write", "both", "all", "0"],
)
@pytest.mark.parametrize("attributes", [False, True], ids=["no_attributes", "attributes"])
def test_rights(sides: Sides, access: int | None, expected: int, attributes: bool) -> None:
    """Used as it is, with attributes and without; without the structure it is read and write."""
    here, _ = sides
    given = win32.security_attributes() if attributes else None
    terms = [] if access is None else [Terms(dwAccess=access, pAttributes=given)]
    block = here.export_nv(NT_NV, *terms)
    assert granted(here.get_nv(block)) == expected
    assert granted(here.get_nv(block)) == expected  # and so does each that is fetched later


def test_what_is_missing_means_what_can_be_said(sides: Sides) -> None:
    here, _ = sides
    silent = here.get_nv(here.export_nv())
    said = here.get_nv(here.export_nv(NT_NV, Terms(dwAccess=READ | WRITE)))
    assert kernel().info(silent).access == kernel().info(said).access
    assert win32.GetHandleInformation(silent) == win32.GetHandleInformation(said) == 0


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("terms", [None, READ | WRITE, ALL], ids=["missing", "both", "all"])
def test_the_right_to_write_is_enough_to_share(sides: Sides, terms: int | None, place: str) -> None:
    here, there = sides
    block = here.export_nv(NT_NV, *([] if terms is None else [Terms(dwAccess=terms)]))
    with importing(place, here, there) as importer:
        prove_same(block, importer.take(Source(NT_NV, here.get_nv(block), nv=True)))


@pytest.mark.parametrize("checks", ["full", "off"])
def test_the_right_to_read_is_not_enough_to_write(checks: str) -> None:
    with opened(checks=checks) as (here, there):
        block = here.export_nv(NT_NV, Terms(dwAccess=READ))
        block.write(b"\x2a" * SIZE)
        copy = there.take(Source(NT_NV, here.get_nv(block), nv=True))
        with pytest.raises(TypeError, match="read-only"):
            copy.write(b"\0")
        assert copy.read() == b"\x2a" * SIZE
        assert copied(copy) == b"\x2a" * SIZE


@pytest.mark.parametrize("checks", ["full", "off"])
def test_no_right_is_no_import(checks: str) -> None:
    """The handle is a live one, so no rule minds; it is only good for nothing."""
    with opened(checks=checks) as (here, there):
        handle = here.get_nv(here.export_nv(NT_NV, Terms(dwAccess=0)))
        with fails(REFUSED):
            there.take(Source(NT_NV, handle, nv=True))


@pytest.mark.parametrize("sddl", [None, NOBODY], ids=["default", "nobody"])
def test_a_duplicate_has_no_more_rights_than_the_handle(sides: Sides, sddl: str | None) -> None:
    here, _ = sides
    attributes = win32.security_attributes(sddl)
    block = here.export_nv(NT_NV, Terms(dwAccess=READ, pAttributes=attributes))
    handle = here.get_nv(block)
    assert granted(here.duplicate(handle)) == MAP_READ
    with pytest.raises(OSError, match=r"denied|grant|right") as error:
        here.duplicate(handle, READ | WRITE)
    assert winerror.code_of(error.value) == winerror.ACCESS_DENIED


# -- pAttributes ----------------------------------------------------------------------------------


def test_without_attributes_no_child_inherits(sides: Sides) -> None:
    here, _ = sides
    for terms in ([], [Terms(dwAccess=ALL)]):
        assert not is_inherited(here.get_nv(here.export_nv(NT_NV, *terms)))


@pytest.mark.parametrize("sddl", [None, EVERYBODY], ids=["no_descriptor", "descriptor"])
@pytest.mark.parametrize("inherit", [False, True])
def test_attributes_say_who_inherits(sides: Sides, sddl: str | None, inherit: bool) -> None:
    here, there = sides
    attributes = win32.security_attributes(sddl, inherit=inherit)
    block = here.export_nv(NT_NV, Terms(pAttributes=attributes, dwAccess=READ | WRITE))
    handles = [here.get_nv(block) for _ in range(2)]
    assert [is_inherited(handle) for handle in handles] == [inherit, inherit]
    prove_same(block, there.take(Source(NT_NV, handles[1], nv=True)))


def test_a_descriptor_says_who_opens_it_with_more(sides: Sides) -> None:
    here, there = sides
    attributes = win32.security_attributes(EVERYBODY)
    block = here.export_nv(NT_NV, Terms(dwAccess=READ, pAttributes=attributes))
    wider = here.duplicate(here.get_nv(block), READ | WRITE)
    prove_same(block, there.take(Source(NT_NV, wider, nv=True)))


def test_what_is_pointed_to_is_read_at_the_allocation(sides: Sides) -> None:
    """The caller's memory may be gone by the time that a handle is fetched."""
    here, _ = sides
    attributes = win32.security_attributes(EVERYBODY, inherit=True)
    terms = Terms(pAttributes=attributes, dwAccess=READ)
    block = here.export_nv(NT_NV, terms)
    ctypes.memset(ctypes.addressof(attributes), 0xFF, ctypes.sizeof(attributes))
    terms.dwAccess = 0
    handle = here.get_nv(block)
    assert (granted(handle), is_inherited(handle)) == (MAP_READ, True)
    assert granted(here.duplicate(handle, READ | WRITE)) == MAP_READ | MAP_WRITE


def _too_short() -> Any:
    return win32.SECURITY_ATTRIBUTES(nLength=4)


def _no_descriptor() -> Any:
    return win32.SECURITY_ATTRIBUTES(lpSecurityDescriptor=bytes(64))


@pytest.mark.parametrize("wrong", [_too_short, _no_descriptor])
def test_attributes_are_well_formed(wrong: Any) -> None:
    for checks in ("full", "off"):
        with opened(checks=checks) as (here, _):
            terms = Terms(pAttributes=wrong(), dwAccess=ALL)
            with refused(checks, "VUID-VkExportMemoryWin32HandleInfoNV-pAttributes-parameter"):
                here.export_nv(NT_NV, terms)


if sys.platform == "win32":  # no other system hands such handles to children yet
    _CHILD = """
import sys
from tests.support.win32 import NT_NV, Side, Source
with Side() as side:
    block = side.take(Source(NT_NV, int(sys.argv[1]), nv=True))
    assert block.read(6) == b"parent"
    block.write(b"child ")
"""

    def test_a_child_process_inherits(sides: Sides) -> None:
        here, _ = sides
        attributes = win32.security_attributes(inherit=True)
        block = here.export_nv(NT_NV, Terms(pAttributes=attributes, dwAccess=READ | WRITE))
        block.write(b"parent")
        child = [sys.executable, "-c", _CHILD, str(here.get_nv(block))]
        assert subprocess.run(child, timeout=100, close_fds=False, cwd=ROOT).returncode == 0
        assert block.read(6) == b"child "


# -- VkExportMemoryAllocateInfoNV -----------------------------------------------------------------


def test_members_of_the_announcement() -> None:
    assert [each[0] for each in Export._fields_] == ["sType", "pNext", "handleTypes"]
    assert Export().sType == vk.VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO_NV == 1000056001
    assert Export().handleTypes == 0


@pytest.mark.parametrize("checks", ["full", "off"])
def test_an_announcement_of_nothing_is_none(checks: str) -> None:
    with opened(checks=checks) as (here, _):
        block = here.export_nv(0)
        assert block.read() == bytes(SIZE)
        for type in (NT_NV, KMT_NV):
            with refused(checks, f"{GET}-handleType-01326", vk.VK_ERROR_UNKNOWN):
                here.get_nv(block, type)


def test_memory_to_be_exported_has_a_size(sides: Sides) -> None:
    with breaks("VUID-VkMemoryAllocateInfo-allocationSize-07897"):
        sides[0].export_nv(size=0)


# -- vkGetMemoryWin32HandleNV ---------------------------------------------------------------------


def test_each_get_is_a_new_handle_of_the_same_memory(sides: Sides) -> None:
    """NV has no rule that an NT handle is fetched once."""
    here, there = sides
    block = here.export_nv()
    handles = [here.get_nv(block) for _ in range(3)]
    assert len(set(handles)) == 3
    assert all(win32.CompareObjectHandles(handles[0], other) for other in handles)
    prove_same(block, *(there.take(Source(NT_NV, handle, nv=True)) for handle in handles))


def test_each_handle_is_closed_by_itself(sides: Sides) -> None:
    here, there = sides
    block = here.export_nv()
    first, second = here.get_nv(block), here.get_nv(block)
    here.close(first)
    assert not is_open(first)
    assert is_open(second)
    here.close(second)
    # Closing them all takes nothing from the memory, which still gives new ones.
    prove_same(block, there.take(Source(NT_NV, here.get_nv(block), nv=True)))


@pytest.mark.parametrize("type", [NT_NV, KMT_NV], ids=["nt", "kmt"])
def test_freeing_the_memory_does_not_close_nt_handles(sides: Sides, type: int) -> None:
    here, _ = sides
    block = here.export_nv(type)
    handle = here.get_nv(block, type)
    block.free()
    assert is_open(handle) == (type == NT_NV)


@pytest.mark.parametrize(
    ("exported", "asked"),
    [(None, NT_NV), (NT_NV, KMT_NV), (KMT_NV, NT_NV), (NT_NV, IMAGE11_NV), (NT_NV, NT_NV | KMT_NV)],
)
def test_a_type_that_was_announced(exported: int | None, asked: int) -> None:
    for checks in ("full", "off"):
        with opened(checks=checks) as (here, _):
            block = here.allocate() if exported is None else here.export_nv(exported)
            with refused(checks, f"{GET}-handleType-01326", vk.VK_ERROR_UNKNOWN):
                here.get_nv(block, asked)


@pytest.mark.parametrize(("type", "rule"), [(0, "requiredbitmask"), (0x10, "parameter")])
def test_a_type_of_nv(type: int, rule: str) -> None:
    for checks in ("full", "off"):
        with opened(checks=checks) as (here, _):
            block = here.export_nv()
            with refused(checks, f"{GET}-handleType-{rule}", vk.VK_ERROR_UNKNOWN):
                here.get_nv(block, type)


def test_memory_that_is_alive_and_of_this_device(sides: Sides) -> None:
    here, there = sides
    block, other = here.export_nv(), there.export_nv()
    gone = here.export_nv()
    gone.free()
    for memory in (gone.memory, None, 0xDEAD0):
        with breaks(f"{GET}-memory-parameter"):
            vk.vkGetMemoryWin32HandleNV(here.device, memory, NT_NV)
    with breaks(f"{GET}-memory-parent"):
        vk.vkGetMemoryWin32HandleNV(here.device, other.memory, NT_NV)
    prove_same(block, there.take(Source(NT_NV, here.get_nv(block), nv=True)))


def test_a_device_that_is_alive(sides: Sides) -> None:
    here, _ = sides
    made_up = vk.VkDevice.of(0xDEAD0, here.device.dispatch)
    with breaks(f"{GET}-device-parameter"):
        vk.vkGetMemoryWin32HandleNV(made_up, here.export_nv().memory, NT_NV)


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (4, vk.VK_ERROR_TOO_MANY_OBJECTS),
        (1450, vk.VK_ERROR_TOO_MANY_OBJECTS),
        (8, vk.VK_ERROR_OUT_OF_HOST_MEMORY),
    ],
    ids=["too_many_open", "no_system_resources", "no_memory"],
)
@pytest.mark.parametrize("checks", ["full", "off"])
def test_a_system_without_handles_left(
    checks: str, code: int, result: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(checks=checks) as (here, _):
        block = here.export_nv()

        def full(*_: Any, **__: Any) -> int:
            raise winerror.failure(code, "cannot duplicate a handle")

        with monkeypatch.context() as patch, fails(result):
            patch.setattr(kernel(), "duplicate", full)
            here.get_nv(block)
        prove_same(block, here.take(Source(NT_NV, here.get_nv(block), nv=True)))


def test_an_export_as_what_only_others_make(careless: Sides) -> None:
    with fails(REFUSED):
        careless[0].export_nv(IMAGE11_NV)
