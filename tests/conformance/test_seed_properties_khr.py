"""The page of vkGetMemoryWin32HandlePropertiesKHR, statement by statement.

The memory types that a Windows handle can be imported as. Only what other APIs make can be asked
about: of opaque handles the exporter knows all, and has to say it. Old texts demand that a handle
was made outside Vulkan, and leave open which results are failures; here any live handle of memory
may be asked about, as the specification has it since 1.3.251.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    REFUSED,
    RESOURCE12,
    SIZE,
    TEXTURE11,
    TEXTURE11_KMT,
    Side,
    Source,
    breaks,
    fails,
    is_open,
    no_handle,
    opened,
    refused,
    shared,
    unique_name,
)

Sides = tuple[Side, Side]
Properties = vk.VkMemoryWin32HandlePropertiesKHR
PAGE = "VUID-vkGetMemoryWin32HandlePropertiesKHR"
ALLOCATE = "VUID-VkMemoryAllocateInfo"

ALL = [TEXTURE11, TEXTURE11_KMT, HEAP12, RESOURCE12]
IDS = ["d3d11", "d3d11_kmt", "heap", "resource"]
TYPES = pytest.mark.parametrize("type", ALL, ids=IDS)
NT_TYPES = pytest.mark.parametrize("type", [TEXTURE11, HEAP12, RESOURCE12])


@pytest.fixture
def sides() -> Iterator[Sides]:
    with opened() as both:
        yield both


@pytest.fixture
def careless() -> Iterator[Sides]:
    with opened(checks="off") as both:
        yield both


def made(type: int, memory_types: int, **more: Any) -> foreign.Foreign:
    """What another API made, to be imported as these memory types."""
    if type in (TEXTURE11, TEXTURE11_KMT):
        kmt = type == TEXTURE11_KMT
        return foreign.texture11(size=SIZE, memory_types=memory_types, kmt=kmt, **more)
    make: Callable[..., foreign.Foreign] = foreign.heap12 if type == HEAP12 else foreign.resource12
    return make(size=SIZE, memory_types=memory_types, **more)


# -- VkMemoryWin32HandlePropertiesKHR -------------------------------------------------------------


def test_members() -> None:
    assert [each[0] for each in Properties._fields_] == ["sType", "pNext", "memoryTypeBits"]
    assert Properties().sType == vk.VK_STRUCTURE_TYPE_MEMORY_WIN32_HANDLE_PROPERTIES_KHR
    assert Properties().sType == 1000073002


def test_the_answer_is_written_into_the_callers_structure(sides: Sides) -> None:
    device = sides[0].device
    box = Properties(memoryTypeBits=0xFFFF)
    with made(HEAP12, 0b010) as heap:
        ask = vk.vkGetMemoryWin32HandlePropertiesKHR
        assert ask(device, HEAP12, heap.handle, box) is box
        assert (box.memoryTypeBits, box.pNext) == (0b010, None)
        # There is no pointer to get wrong; a structure of another kind is a mistake in Python.
        with pytest.raises(TypeError, match="VkMemoryWin32HandlePropertiesKHR"):
            ask(device, HEAP12, heap.handle, vk.VkMemoryGetWin32HandleInfoKHR())


def test_the_structure_is_of_its_type_and_ends_the_chain(sides: Sides) -> None:
    ask, device = vk.vkGetMemoryWin32HandlePropertiesKHR, sides[0].device
    another = Properties()
    another.sType = 0
    with made(HEAP12, 0b010) as heap:
        with breaks("VUID-VkMemoryWin32HandlePropertiesKHR-sType-sType"):
            ask(device, HEAP12, heap.handle, another)
        with breaks("VUID-VkMemoryWin32HandlePropertiesKHR-pNext-pNext"):
            ask(device, HEAP12, heap.handle, Properties(pNext=vk.VkMemoryDedicatedRequirements()))


# -- what is answered -----------------------------------------------------------------------------


@TYPES
@pytest.mark.parametrize("mask", [0b001, 0b010, 0b110, 0b111])
@pytest.mark.parametrize("checks", ["full", "off"])
def test_a_bit_for_each_memory_type_that_it_can_be_imported_as(
    checks: str, type: int, mask: int
) -> None:
    with opened(checks=checks) as (here, there), made(type, mask) as resource:
        handle = resource.kmt or resource.handle
        assert here.properties(type, handle) == there.properties(type, handle) == mask
        for index in range(3):
            source = Source(type, handle, index=index)
            if mask >> index & 1:
                here.take(source).free()
            else:
                with refused(checks, f"{ALLOCATE}-memoryTypeIndex-00645"):
                    here.take(source)


@TYPES
def test_the_answer_leads_to_memory_that_is_shared(sides: Sides, type: int) -> None:
    here, there = sides
    with shared(here, type) as (source, origin):
        index = there.properties(type, source.handle).bit_length() - 1
        assert index == source.index
        block = there.take(source)
        origin.write(b"\x77" * SIZE)
        assert block.read() == b"\x77" * SIZE
        block.write(b"\x88" * SIZE)
        assert origin.read(SIZE) == b"\x88" * SIZE
        block.free()


@NT_TYPES
def test_a_duplicate_is_as_good(sides: Sides, type: int) -> None:
    here, _ = sides
    with made(type, 0b110) as resource:
        copy = here.duplicate(resource.handle)
    # It alone keeps what was made, and can be asked about.
    assert here.properties(type, copy) == 0b110


def test_a_handle_that_only_reads_can_be_asked_about(sides: Sides) -> None:
    with foreign.texture11(size=SIZE, access=win32.DXGI_SHARED_RESOURCE_READ) as texture:
        assert sides[0].properties(TEXTURE11, texture.handle) == 0b001


@NT_TYPES
def test_asking_takes_nothing(sides: Sides, type: int) -> None:
    here, there = sides
    with shared(here, type) as (source, origin):
        assert source.handle is not None
        before = kernel().info(source.handle)
        for _ in range(3):
            there.properties(type, source.handle)
        assert kernel().info(source.handle) == before  # open, and nobody else has one more
        block = there.take(source)
        origin.write(b"\x99" * SIZE)
        assert block.read() == b"\x99" * SIZE
        block.free()


def test_a_name_is_opened_first(sides: Sides) -> None:
    """The command takes a handle. Whoever has a name gets one from whoever made the thing."""
    here, _ = sides
    name = unique_name()
    with made(HEAP12, 0b100, name=name) as heap:
        handle = kernel().open_section(name)
        assert here.properties(HEAP12, handle) == 0b100
        assert heap.name == name
        win32.CloseHandle(handle)


# -- valid usage and failures ---------------------------------------------------------------------


@pytest.mark.parametrize("type", [NT, KMT], ids=["nt", "kmt"])
def test_opaque_handles_are_not_asked_about(type: int) -> None:
    for checks in ("full", "off"):
        with opened(checks=checks) as (here, _):
            handle = here.get(here.export(type), type)
            with refused(checks, f"{PAGE}-handleType-00666"):
                here.properties(type, handle)


@pytest.mark.parametrize("type", [0, TEXTURE11 | HEAP12, 1 << 30])
def test_one_type(type: int) -> None:
    for checks in ("full", "off"):
        with (
            opened(checks=checks) as (here, _),
            made(HEAP12, 0b010) as heap,
            refused(checks, f"{PAGE}-handleType-parameter"),
        ):
            here.properties(type, heap.handle)


@pytest.mark.parametrize("which", BAD_HANDLES)
@TYPES
def test_a_handle_that_is_none(type: int, which: str) -> None:
    for checks in ("full", "off"):
        with opened(checks=checks) as (here, _), no_handle(which) as handle:
            before = is_open(handle)
            with refused(checks, f"{PAGE}-handle-00665"):
                here.properties(type, handle)
            assert is_open(handle) == before


@TYPES
def test_a_handle_of_another_type_than_is_said(careless: Sides, type: int) -> None:
    here, _ = careless
    with made(type, 0b010) as resource:
        for other in ALL:
            if other != type:
                with fails(REFUSED):
                    here.properties(other, resource.kmt or resource.handle)


@pytest.mark.parametrize("checks", ["full", "off"])
def test_memory_of_vulkan_is_none_of_another_api(checks: str) -> None:
    """A live handle of memory, since 1.3.251 a valid one; it is only not of the type that is said.

    So the driver answers for it: not every one could tell.
    """
    with opened(checks=checks) as (here, _):
        handle = here.get(here.export())
        for type in (TEXTURE11, HEAP12, RESOURCE12):
            with fails(REFUSED):
                here.properties(type, handle)
        assert is_open(handle)


@pytest.mark.parametrize("checks", ["full", "off"])
def test_a_number_without_an_owner(checks: str) -> None:
    with opened(checks=checks) as (here, _):
        with made(TEXTURE11_KMT, 0b010) as texture:
            number = texture.kmt
            assert here.properties(TEXTURE11_KMT, number) == 0b010
        with refused(checks, f"{PAGE}-handle-00665"):
            here.properties(TEXTURE11_KMT, number)


@TYPES
def test_a_resource_of_another_physical_device(careless: Sides, type: int) -> None:
    here, _ = careless
    with made(type, 0b010, device=1) as resource:
        handle = resource.kmt or resource.handle
        with fails(REFUSED):
            here.properties(type, handle)
        with Side(checks="off", index=1) as its_own:
            assert its_own.properties(type, handle) == 0b010


def test_a_device_that_is_alive(sides: Sides) -> None:
    made_up = vk.VkDevice.of(0xDEAD0, sides[0].device.dispatch)
    with made(HEAP12, 0b010) as heap, breaks(f"{PAGE}-device-parameter"):
        vk.vkGetMemoryWin32HandlePropertiesKHR(made_up, HEAP12, heap.handle)


@pytest.mark.parametrize("code", [4, 8, 1450, 1455])
def test_a_system_with_nothing_left_gives_a_result_of_this_command(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> int:
        raise winerror.failure(code, "cannot duplicate a handle")

    with opened(checks="off") as (here, _), made(HEAP12, 0b010) as heap:
        with monkeypatch.context() as patch:
            patch.setattr(kernel(), "duplicate", full)
            with pytest.raises(extmem.DriverError) as error:
                here.properties(HEAP12, heap.handle)
        assert error.value.result in (REFUSED, vk.VK_ERROR_OUT_OF_HOST_MEMORY, vk.VK_ERROR_UNKNOWN)
        assert here.properties(HEAP12, heap.handle) == 0b010


def test_the_command_needs_its_extension() -> None:
    missing = pytest.raises(extmem.CommandUnavailable, match="VK_KHR_external_memory_win32")
    with Side(extensions=EXTENSIONS[1:]) as bare, made(HEAP12, 0b010) as heap, missing:
        bare.properties(HEAP12, heap.handle)
