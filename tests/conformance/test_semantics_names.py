"""Names, security and default access: a test for each statement.

Not here yet: those of semaphores and fences, which the embedded device does not have.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest

from extmem import vk, win32
from extmem.drivers.embedded import foreign
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE
from extmem.handles.security import security_attributes
from extmem.handles.system import kernel
from tests.support.sharing import (
    HEAP12,
    INVALID,
    KMT,
    NT,
    NT_NV,
    RESOURCE12,
    SIZE,
    TEXTURE11,
    TEXTURE11_KMT,
    UNKNOWN,
    Gpu,
    assert_shared,
    close,
    from_handle,
    payload_of,
    refused,
    terms,
    unique_name,
)

MAY_WRITE, MAY_READ = 2, 4  # SECTION_MAP_WRITE, SECTION_MAP_READ
BOTH = MAY_READ | MAY_WRITE


def granted(gpu: Gpu, *chain: Any) -> int:
    """What the handle of memory that was exported so may do with its bytes."""
    memory = gpu.export(NT, *chain)
    handle = gpu.get(memory, NT)
    access = kernel().info(handle).access
    close(handle)
    return access & BOTH


# -- what a name is -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["grün", "枠", "\N{FRAME WITH PICTURE}"])
def test_name_is_utf_16(gpu: Gpu, name: str, text: str) -> None:
    memory = gpu.export(NT, terms(name=name + text))
    handle = gpu.get(memory, NT)
    assert kernel().info(handle).name == name + text
    assert_shared((gpu, memory), (gpu, gpu.take_name(name + text)))
    refused(gpu, lambda: gpu.take_name(name), vuid="01440", result=INVALID)
    close(handle)


@pytest.mark.parametrize("handle_type", [KMT, TEXTURE11_KMT], ids=["kmt", "texture11_kmt"])
def test_name_of_a_kmt_type_is_no_import(gpu: Gpu, name: str, handle_type: int) -> None:
    memory = gpu.export(NT, terms(name=name))
    refused(gpu, lambda: gpu.take_name(name, handle_type), vuid="handleType-01439", result=INVALID)
    assert_shared((gpu, memory), (gpu, gpu.take_name(name)))


FOREIGN = {"texture11": TEXTURE11, "heap12": HEAP12, "resource12": RESOURCE12}


@pytest.mark.parametrize("what", FOREIGN)
def test_name_of_d3d_is_an_import(gpu: Gpu, name: str, what: str) -> None:
    handle_type = FOREIGN[what]
    with getattr(foreign, what)(size=SIZE, name=name, memory_types=0b010) as made:
        chain = []
        if what != "heap12":
            image = gpu.image(handle_type)
            chain.append(vk.VkMemoryDedicatedAllocateInfo(image=image))
        memory = gpu.take_name(name, handle_type, *chain)
        made.view[:4] = b"name"
        assert gpu.read(memory, 4) == b"name"


def test_name_and_handle_exclude_each_other(gpu: Gpu, name: str) -> None:
    memory = gpu.export(NT, terms(name=name))
    handle = gpu.get(memory, NT)
    info = from_handle(handle, NT, name)
    refused(gpu, lambda: gpu.allocate(info), vuid="handle-01441", result=INVALID)
    refused(gpu, lambda: gpu.allocate(from_handle(None)), vuid="00661", result=INVALID)
    close(handle)


def test_names_are_unknown_to_nv() -> None:
    for structure in (vk.VkImportMemoryWin32HandleInfoNV, vk.VkExportMemoryWin32HandleInfoNV):
        assert "name" not in {field[0] for field in structure._fields_}


@pytest.mark.parametrize("types", [0, KMT], ids=["none", "kmt"])
def test_name_is_made_for_opaque_win32_only(checked: Gpu, name: str, types: int) -> None:
    chain = [vk.VkExportMemoryAllocateInfo(handleTypes=types)] if types else []
    refused(
        checked,
        lambda: checked.allocate(*chain, terms(name=name)),
        vuid="00657",
        result=INVALID,
    )


# -- the namespace ------------------------------------------------------------------------------


def test_name_has_a_case(gpu: Gpu, name: str) -> None:
    memory = gpu.export(NT, terms(name=name + "a"))
    other = gpu.export(NT, terms(name=name + "A"))
    gpu.write(memory, b"a")
    gpu.write(other, b"A")
    assert gpu.read(gpu.take_name(name + "a"), 1) == b"a"
    assert gpu.read(gpu.take_name(name + "A"), 1) == b"A"


@pytest.mark.parametrize("length", [259, 261, 5000])
def test_name_has_a_greatest_length(gpu: Gpu, name: str, length: int) -> None:
    long = name.ljust(length, "x")
    if length == 259:
        memory = gpu.export(NT, terms(name=long))
        assert_shared((gpu, memory), (gpu, gpu.take_name(long)))
    else:
        refused(gpu, lambda: gpu.export(NT, terms(name=long)), result=INVALID)
        refused(gpu, lambda: gpu.take_name(long), vuid="01440", result=INVALID)


WRONG = ["{}\\b", "Local\\{}\\b", "local\\{}", "GLOBAL\\{}"]
if sys.platform != "win32":
    WRONG.append("Session\\{}")  # reserved; Wine, that the tests for Windows run on, lets it pass


@pytest.mark.parametrize("wrong", WRONG)
def test_name_has_no_backslash_but_behind_its_prefix(gpu: Gpu, name: str, wrong: str) -> None:
    text = wrong.format(name.removeprefix("Local\\"))
    refused(gpu, lambda: gpu.export(NT, terms(name=text)), result=INVALID)
    refused(gpu, lambda: gpu.take_name(text), vuid="01440", result=INVALID)


def test_name_without_prefix_is_of_the_session(gpu: Gpu, name: str) -> None:
    plain = name.removeprefix("Local\\")
    memory = gpu.export(NT, terms(name=plain))
    assert_shared((gpu, memory), (gpu, gpu.take_name(name)))
    refused(gpu, lambda: gpu.export(NT, terms(name=name)), result=INVALID)


def test_name_with_the_global_prefix_is_another(gpu: Gpu) -> None:
    # Making such names takes a privilege on Windows, which the user of these tests has.
    name = unique_name("Global\\")
    memory = gpu.export(NT, terms(name=name))
    assert_shared((gpu, memory), (gpu, gpu.take_name(name)))
    if sys.platform != "win32":  # a service or Wine's only session has one space for both
        local = gpu.export(NT, terms(name=name.replace("Global", "Local")))
        gpu.write(local, b"local")
        gpu.write(memory, b"globe")
        assert gpu.read(gpu.take_name(name), 5) == b"globe"


def test_names_are_one_space_for_all_kinds(gpu: Gpu, name: str) -> None:
    if sys.platform == "win32":
        kernel32: Any = ctypes.WinDLL("kernel32")
        make = kernel32.CreateEventW
        make.restype = ctypes.c_void_p
        other = make(None, False, False, name)
    else:
        other = kernel().create_section(2 * SIZE, name=name)  # of somebody, and no memory
    refused(gpu, lambda: gpu.export(NT, terms(name=name)), result=INVALID)
    refused(gpu, lambda: gpu.take_name(name), vuid="01440", result=INVALID)
    close(other)
    gpu.export(NT, terms(name=name))


# -- when there is a name -----------------------------------------------------------------------


def test_name_that_is_taken_is_refused_by_the_allocation(gpu: Gpu, name: str) -> None:
    # Vulkan says nothing of it, and the fetch has no code for it.
    memory = gpu.export(NT, terms(name=name))
    refused(gpu, lambda: gpu.export(NT, terms(name=name)), result=INVALID)
    assert_shared((gpu, memory), (gpu, gpu.take_name(name)))


def test_name_is_there_with_the_allocation(gpu: Gpu, name: str) -> None:
    # Vulkan says nothing of when: portable programs fetch the handle first.
    refused(gpu, lambda: gpu.take_name(name), vuid="01440", result=INVALID)
    memory = gpu.export(NT, terms(name=name))
    before = gpu.take_name(name)
    handle = gpu.get(memory, NT)
    after = gpu.take_name(name)
    assert_shared((gpu, before), (gpu, after))
    close(handle)


def test_name_that_was_never_fetched_ends_with_its_memory(gpu: Gpu, name: str) -> None:
    memory = gpu.export(NT, terms(name=name))
    imported = gpu.take_name(name)
    gpu.free(memory)
    refused(gpu, lambda: gpu.take_name(name), vuid="01440", result=INVALID)
    assert gpu.read(imported, 4) == bytes(4)


# -- security -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", ["missing", "null"])
def test_attributes_are_not_inheritable_by_default(gpu: Gpu, name: str, chain: str) -> None:
    memory = gpu.export(NT, *([] if chain == "missing" else [terms(name=name)]))
    handle = gpu.get(memory, NT)
    assert win32.GetHandleInformation(handle) == 0
    if chain == "null":
        # The creator's own descriptor: we are the creator.
        imported = gpu.take_name(name)
        assert payload_of(imported).writable
    close(handle)


def test_attributes_without_a_descriptor_may_inherit(gpu: Gpu) -> None:
    attributes = security_attributes(inherit=True)
    assert not attributes.lpSecurityDescriptor
    memory = gpu.export(NT, terms(pAttributes=attributes))
    handle = gpu.get(memory, NT)
    assert win32.GetHandleInformation(handle) == win32.HANDLE_FLAG_INHERIT
    close(handle)


@pytest.mark.parametrize(
    ("entries", "writable"),
    [("(A;;GA;;;WD)", True), ("(A;;GR;;;WD)", False), ("", None)],
    ids=["all", "read", "nobody"],
)
def test_import_by_name_gets_what_it_is_admitted_to(
    gpu: Gpu, name: str, entries: str, writable: bool | None
) -> None:
    # It cannot say what it wants: the device takes writing, or else reading.
    attributes = security_attributes("D:" + entries)
    memory = gpu.export(NT, terms(name=name, pAttributes=attributes))
    if writable is None:
        refused(gpu, lambda: gpu.take_name(name), vuid="01440", result=INVALID)
        return
    imported = gpu.take_name(name)
    assert payload_of(imported).writable == writable
    if writable:
        assert_shared((gpu, memory), (gpu, imported))


# -- dwAccess -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "bits"),
    [
        (ACCESS_READ, MAY_READ),
        (ACCESS_WRITE, MAY_WRITE),
        (ACCESS_READ | ACCESS_WRITE, BOTH),
        (ACCESS_ALL, BOTH),
        (0, 0),
    ],
    ids=["read", "write", "read and write", "all", "0"],
)
@pytest.mark.parametrize("attributes", [True, False], ids=["attributes", "no attributes"])
def test_access_is_used_as_it_is(gpu: Gpu, access: int, bits: int, attributes: bool) -> None:
    more: dict[str, Any] = {"pAttributes": security_attributes(inherit=True)} if attributes else {}
    assert granted(gpu, terms(access, **more)) == bits


def test_access_of_0_imports_nothing(gpu: Gpu) -> None:
    # A program's mistake, which shows at the first import of such a handle.
    memory = gpu.export(NT, terms(0))
    handle = gpu.get(memory, NT)
    refused(gpu, lambda: gpu.take(handle, NT), result=INVALID)
    close(handle)


def test_access_to_write_is_access_to_read(gpu: Gpu) -> None:
    # No system makes pages that can be written and not read.
    memory = gpu.export(NT, terms(ACCESS_WRITE))
    handle = gpu.get(memory, NT)
    assert_shared((gpu, memory), (gpu, gpu.take(handle, NT)))
    close(handle)


# -- default access -----------------------------------------------------------------------------


def test_default_access_of_memory_is_to_read_and_write(gpu: Gpu) -> None:
    assert granted(gpu) == BOTH
    memory = gpu.export(NT)
    handle = gpu.get(memory, NT)
    assert_shared((gpu, memory), (gpu, gpu.take(handle, NT)))
    close(handle)


def test_default_access_of_nv_is_dxgi_read_and_write(gpu: Gpu) -> None:
    assert win32.DXGI_SHARED_RESOURCE_READ | win32.DXGI_SHARED_RESOURCE_WRITE == 0x80000001
    handles = []
    for chain in ((), (vk.VkExportMemoryWin32HandleInfoNV(dwAccess=0x80000001),)):
        memory = gpu.export_nv(NT_NV, *chain)
        handles.append(gpu.get_nv(memory, NT_NV))
    default, said = (kernel().info(handle).access for handle in handles)
    assert default == said
    assert default & BOTH == BOTH
    close(*handles)


def test_default_access_is_not_that_of_all(gpu: Gpu) -> None:
    # GENERIC_ALL would let a peer change who may open it.
    memory = gpu.export(NT)
    handle = gpu.get(memory, NT)
    write_dac = 0x40000
    assert not kernel().info(handle).access & write_dac
    close(handle)


def test_get_of_memory_without_terms_has_no_name(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    handle = gpu.get(memory, NT)
    assert kernel().info(handle).name is None
    refused(gpu, lambda: gpu.get(memory, KMT), vuid="00662", result=UNKNOWN)
    close(handle)
