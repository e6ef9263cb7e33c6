"""Windows' kernel as this package asks for it: the real one, and the table in its place.

Every test runs on both systems and expects the same, error numbers included. Those with a second
process need Windows: the table is one process' own. What Wine 8 does differently from Windows is
said where it is, and not expected.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from extmem import win32
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE, Kernel, Security
from extmem.handles.security import security_of
from extmem.handles.system import kernel as the_kernel
from extmem.handles.winerror import code_of

WINDOWS = sys.platform == "win32"
WINE = sys.platform == "win32" and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")

PAGE = 4096
EVERYONE = "D:(A;;GA;;;WD)"
READERS = "D:(A;;GR;;;WD)"
NOBODY = "D:"
DENIED = "D:(D;;GA;;;WD)(A;;GA;;;WD)"

_numbers = itertools.count()


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    """What is inside raises an OSError with this `winerror`, and a sentence."""
    with pytest.raises(OSError, match=": ") as caught:
        yield
    assert code_of(caught.value) == code, str(caught.value)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """The kernel of this process; as many handles are open in the end as were."""
    kernel = the_kernel()
    kernel.count_handles()  # which loads what it needs
    with refused(2):  # Windows keeps the folder of names open, from the first name on
        kernel.open_section("Local\\extmem-test-nothing")
    gc.collect()
    before = kernel.count_handles()
    yield kernel
    gc.collect()
    assert kernel.count_handles() == before


@pytest.fixture
def name() -> str:
    """A name that nobody has."""
    return f"Local\\extmem-test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def section(kernel: Kernel) -> Iterator[int]:
    """A section of one page, without a name."""
    handle = kernel.create_section(PAGE)
    yield handle
    kernel.close(handle)


@contextlib.contextmanager
def view(kernel: Kernel, handle: int, size: int = PAGE, write: bool = True) -> Iterator[Any]:
    address = kernel.map_section(handle, size, write=write)
    try:
        yield (ctypes.c_ubyte * size).from_address(address)
    finally:
        kernel.unmap_section(address, size)


# -- sections --------------------------------------------------------------------------------------


def test_a_section_is_shared_memory_of_zeros(kernel: Kernel) -> None:
    handle = kernel.create_section(3 * PAGE)
    assert handle > 0
    assert handle % 4 == 0
    assert kernel.section_size(handle) == 3 * PAGE
    with view(kernel, handle, 3 * PAGE) as here, view(kernel, handle, 3 * PAGE) as there:
        assert not any(here)
        assert ctypes.addressof(here) != ctypes.addressof(there)
        here[0], here[3 * PAGE - 1] = 7, 9
        assert (there[0], there[3 * PAGE - 1]) == (7, 9)
    kernel.close(handle)


def test_a_section_has_whole_pages(kernel: Kernel) -> None:
    handle = kernel.create_section(PAGE + 1)
    assert kernel.section_size(handle) == 2 * PAGE
    with view(kernel, handle, 2 * PAGE) as here:
        here[2 * PAGE - 1] = 1
    kernel.close(handle)


def test_a_view_keeps_the_pages(kernel: Kernel) -> None:
    handle = kernel.create_section(PAGE)
    address = kernel.map_section(handle, PAGE)
    kernel.close(handle)
    ctypes.memset(address, 5, PAGE)
    assert ctypes.string_at(address, PAGE) == b"\5" * PAGE
    kernel.unmap_section(address, PAGE)


@pytest.mark.parametrize("size", [0, -1, 1 << 63])
def test_a_size_that_is_none(kernel: Kernel, size: int) -> None:
    with refused(87):
        kernel.create_section(size)


def test_a_size_that_no_system_has(kernel: Kernel) -> None:
    with refused(8):
        kernel.create_section((1 << 63) - PAGE)


@pytest.mark.parametrize(("size", "code"), [(0, 87), (-1, 87), (PAGE + 1, 5)])
def test_a_view_that_does_not_fit(kernel: Kernel, section: int, size: int, code: int) -> None:
    with refused(code):
        kernel.map_section(section, size)


def test_a_view_goes_once(kernel: Kernel, section: int) -> None:
    address = kernel.map_section(section, PAGE)
    kernel.unmap_section(address, PAGE)
    with refused(487):
        kernel.unmap_section(address, PAGE)


def test_what_is_not_open_or_not_a_section(kernel: Kernel, section: int) -> None:
    process = kernel.open_process(win32.PROCESS_DUP_HANDLE, False, os.getpid())
    for handle in (0, process, 0x7FFFFFF0, 1 << 62, 1 << 80, -(1 << 70)):
        with refused(6):
            kernel.map_section(handle, PAGE)
        with refused(6):
            kernel.section_size(handle)
    kernel.close(process)


# -- access ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "bits"),
    [
        (ACCESS_ALL, 0xF0007),
        (ACCESS_READ, 0x20005),
        (ACCESS_READ | ACCESS_WRITE, 0x20007),
        (ACCESS_WRITE, 0x20003),
        (0xF001F, 0xF0007),  # FILE_MAP_ALL_ACCESS: the maker gets no more than this
        (0x4, 0x4),  # FILE_MAP_READ
        (0, 0),
    ],
)
def test_a_section_is_made_with_the_access_that_was_asked(
    kernel: Kernel, access: int, bits: int
) -> None:
    handle = kernel.create_section(PAGE, access=access)
    assert kernel.info(handle).access == bits
    assert kernel.info(handle).handle_count == 1
    kernel.close(handle)


def test_reading_alone(kernel: Kernel, section: int) -> None:
    reader = kernel.duplicate(section, access=ACCESS_READ)
    assert kernel.section_size(reader) == PAGE
    with refused(5):
        kernel.map_section(reader, PAGE)
    with view(kernel, section) as written, view(kernel, reader, write=False) as read:
        written[1] = 3
        assert read[1] == 3
    kernel.close(reader)


def test_writing_alone(kernel: Kernel, section: int) -> None:
    writer = kernel.duplicate(section, access=ACCESS_WRITE)
    with view(kernel, writer) as written:
        written[1] = 3
    with refused(5):
        kernel.map_section(writer, PAGE, write=False)
    kernel.close(writer)


def test_no_access(kernel: Kernel, section: int) -> None:
    handle = kernel.duplicate(section, access=0)
    for write in (False, True):
        with refused(5):
            kernel.map_section(handle, PAGE, write=write)
    with refused(5):
        kernel.section_size(handle)
    assert kernel.same_object(handle, section)
    kernel.close(handle)


@pytest.mark.parametrize("access", [ACCESS_ALL, ACCESS_READ | ACCESS_WRITE, 0x2, 0x40000000])
def test_a_handle_of_what_has_no_name_is_never_widened(kernel: Kernel, access: int) -> None:
    reader = kernel.create_section(PAGE, access=ACCESS_READ)
    with refused(5):
        kernel.duplicate(reader, access=access)
    again = kernel.duplicate(reader, access=ACCESS_READ)
    assert kernel.info(again).access == 0x20005
    kernel.close(again)
    kernel.close(reader)


@pytest.mark.parametrize(
    ("descriptor", "code"), [(None, 0), (EVERYONE, 0), (READERS, 5), (NOBODY, 5), (DENIED, 5)]
)
def test_a_handle_of_what_has_a_name_is_widened_for_whom_the_name_would_open(
    kernel: Kernel, name: str, descriptor: str | None, code: int
) -> None:
    reader = kernel.create_section(
        PAGE, name=name, access=ACCESS_READ, security=Security(descriptor)
    )
    with refused(code) if code else contextlib.nullcontext():
        kernel.close(kernel.duplicate(reader, access=ACCESS_READ | ACCESS_WRITE))
    kernel.close(reader)


# -- names -----------------------------------------------------------------------------------------


def test_a_name_opens_the_section(kernel: Kernel, name: str) -> None:
    handle = kernel.create_section(PAGE, name=name)
    other = kernel.open_section(name)
    assert other != handle
    assert kernel.same_object(handle, other)
    assert kernel.info(other).name == name
    assert kernel.info(other).handle_count == 2
    with view(kernel, handle) as here, view(kernel, other) as there:
        here[0] = 1
        assert there[0] == 1
    kernel.close(handle)
    kernel.close(other)


def test_without_a_prefix_it_is_local(kernel: Kernel, name: str) -> None:
    handle = kernel.create_section(PAGE, name=name.removeprefix("Local\\"))
    assert kernel.info(handle).name == name
    other = kernel.open_section(name)
    assert kernel.same_object(handle, other)
    kernel.close(other)
    kernel.close(handle)


def test_global_is_another_space(kernel: Kernel, name: str) -> None:
    everywhere = name.replace("Local\\", "Global\\")
    handle = kernel.create_section(PAGE, name=everywhere)
    assert kernel.info(handle).name == everywhere
    with refused(2):
        kernel.open_section(name)
    other = kernel.create_section(PAGE, name=name)
    assert not kernel.same_object(handle, other)
    kernel.close(other)
    kernel.close(handle)


def test_no_name(kernel: Kernel, section: int) -> None:
    assert kernel.info(section).name is None
    empty = kernel.create_section(PAGE, name="")
    assert kernel.info(empty).name is None
    kernel.close(empty)
    with refused(87):
        kernel.open_section("")


def test_a_name_that_is_taken(kernel: Kernel, name: str) -> None:
    handle = kernel.create_section(PAGE, name=name)
    for same in (name, name.removeprefix("Local\\")):
        with refused(183):
            kernel.create_section(2 * PAGE, name=same)
    assert kernel.info(handle).handle_count == 1
    assert kernel.section_size(handle) == PAGE
    kernel.close(handle)


def test_a_name_that_is_taken_by_who_does_not_admit_us(kernel: Kernel, name: str) -> None:
    handle = kernel.create_section(PAGE, name=name, security=Security(READERS))
    with refused(5):
        kernel.create_section(PAGE, name=name)
    kernel.close(handle)


def test_the_case_of_a_name_matters(kernel: Kernel, name: str) -> None:
    handle = kernel.create_section(PAGE, name=name)
    with refused(2):
        kernel.open_section("Local\\" + name.removeprefix("Local\\").upper())
    with refused(3):
        kernel.open_section(name.replace("Local", "local"))
    kernel.close(handle)


def test_a_name_goes_with_the_last_handle(kernel: Kernel, name: str) -> None:
    first = kernel.create_section(PAGE, name=name)
    second = kernel.duplicate(first)
    kernel.close(first)
    third = kernel.open_section(name)
    kernel.close(second)
    kernel.close(third)
    with refused(2):
        kernel.open_section(name)


def test_a_view_does_not_keep_the_name(kernel: Kernel, name: str) -> None:
    first = kernel.create_section(PAGE, name=name)
    address = kernel.map_section(first, PAGE)
    ctypes.memset(address, 5, PAGE)
    kernel.close(first)
    with refused(2):
        kernel.open_section(name)
    second = kernel.create_section(PAGE, name=name)
    with view(kernel, second) as new:
        assert new[0] == 0
        assert ctypes.string_at(address, 1) == b"\5"
    kernel.close(second)
    kernel.unmap_section(address, PAGE)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("a\\b", 3),
        ("Local\\a\\b", 3),
        ("local\\a", 3),
        ("GLOBAL\\a", 3),
        ("\\a", 161),
        ("Local\\", 123),
        ("Global\\", 123),
        ("Local", 6),
        ("Global", 6),
        ("x" * 261, 206),
        ("Local\\" + "x" * 255, 206),
        ("\U0001f600" * 131, 206),  # each of them is two units
    ],
    ids=lambda value: repr(value)[:12],
)
def test_names_that_cannot_be(kernel: Kernel, wrong: str, code: int) -> None:
    with refused(code):
        kernel.create_section(PAGE, name=wrong)
    with refused(code):
        kernel.open_section(wrong)


def test_a_name_with_nul(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match="NUL"):
        kernel.create_section(PAGE, name="a\0b")


@pytest.mark.parametrize(
    "rest", ["x" * 240, " ", ".", "a/b", "ä\U0001f600", "C:", "\ud800"], ids=ascii
)
def test_names_that_can_be(kernel: Kernel, name: str, rest: str) -> None:
    name = (name + rest)[:260]
    handle = kernel.create_section(PAGE, name=name)
    assert kernel.info(handle).name == name
    kernel.close(kernel.open_section(name))
    kernel.close(handle)


def _event(kernel: Any, name: str) -> int:
    """A handle of something that is no section and has a name."""
    if sys.platform == "win32":
        make = ctypes.WinDLL("kernel32").CreateEventW
        make.restype = ctypes.c_void_p
        make.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_wchar_p)
        return int(make(None, True, False, name))
    fd = os.eventfd(0)
    try:
        return int(kernel.share(fd, "Fence", name=name))
    finally:
        os.close(fd)


def test_all_kinds_of_objects_share_the_names(kernel: Kernel, name: str) -> None:
    event = _event(kernel, name)
    assert kernel.info(event).type_name == ("Event" if WINDOWS else "Fence")
    assert kernel.info(event).name == name
    with refused(6):
        kernel.create_section(PAGE, name=name)
    with refused(6):
        kernel.open_section(name)
    with refused(6):
        kernel.map_section(event, PAGE)
    with refused(6):
        kernel.section_size(event)
    # The words of shared resources are a section's; DuplicateHandle must leave others' bits alone.
    if WINDOWS:
        least = kernel.duplicate(event, access=0x1)
        assert kernel.info(least).access == 0x1
        kernel.close(least)
    kernel.close(event)


# -- security --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("descriptor", "read", "write", "everything"),
    [
        (None, 0, 0, 0),
        ("", 0, 0, 0),
        (EVERYONE, 0, 0, 0),
        ("D:(A;;GA;;;S-1-1-0)", 0, 0, 0),
        ("D:P(A;;GRGW;;;WD)", 0, 0, 5),
        ("D:(A;;0xf001f;;;AU)", 0, 0, 0),
        ("D:(A;;0x20005;;;WD)", 0, 5, 5),
        (READERS, 0, 5, 5),
        ("D:(A;;GW;;;WD)(A;;GR;;;WD)", 0, 0, 5),
        ("D:(D;;0x2;;;WD)(A;;GA;;;WD)", 0, 5, 5),
        ("D:(A;;GA;;;WD)(D;;GA;;;WD)", 0, 0, 0),  # the first entry that speaks decides
        (DENIED, 5, 5, 5),
        (NOBODY, 5, 5, 5),
        ("D:(A;;GA;;;AN)", 5, 5, 5),
        ("D:(A;;GA;;;S-1-22-1-4294967295)", 5, 5, 5),
        ("D:(A;IO;GA;;;WD)", 5, 5, 5),  # for children, which a section has none of
    ],
)
def test_who_is_admitted_by_name(
    kernel: Kernel, name: str, descriptor: str | None, read: int, write: int, everything: int
) -> None:
    handle = kernel.create_section(PAGE, name=name, security=Security(descriptor))
    assert kernel.info(handle).access == 0xF0007  # its maker has it anyway
    for access, code in (
        (ACCESS_READ, read),
        (ACCESS_READ | ACCESS_WRITE, write),
        (ACCESS_ALL, everything),
    ):
        if WINE and access == ACCESS_ALL and not write:
            continue  # there, the owner of an object has all the rights that are not the kind's own
        with refused(code) if code else contextlib.nullcontext():
            kernel.close(kernel.open_section(name, access))
    kernel.close(handle)


def test_what_is_opened_for_reading_only_reads(kernel: Kernel, name: str) -> None:
    handle = kernel.create_section(PAGE, name=name, security=Security(READERS))
    reader = kernel.open_section(name, ACCESS_READ)
    assert kernel.info(reader).access == 0x20005
    with view(kernel, handle) as written, view(kernel, reader, write=False) as read:
        written[7] = 1
        assert read[7] == 1
    with refused(5):
        kernel.map_section(reader, PAGE)
    kernel.close(reader)
    kernel.close(handle)


@pytest.mark.parametrize(
    "wrong",
    [
        *("hello", "D", "X:", "D:(", "D:()", "D:(A;;GA;;;WD", "D:(A;;GA)", "D:(Q;;GA;;;WD)"),
        *("D:(A;;GA;;;)", "D:(A;;GA;;;XX)", "D:(A;;ZZ;;;WD)", "D:(A;XX;GA;;;WD)"),
        *("D:(A;;GA;;;S-1)", "D:(A;;GA;x;;WD)"),
    ],
)
def test_malformed_descriptors(kernel: Kernel, name: str, wrong: str) -> None:
    # Which number is for what differs between versions of Windows (Wine has 1705 for some).
    with pytest.raises(OSError, match="security descriptor") as caught:
        kernel.create_section(PAGE, name=name, security=Security(wrong))
    assert code_of(caught.value) in (87, 1336, 1337, 1332, 1705)
    with refused(2):
        kernel.open_section(name)
    with pytest.raises(OSError, match="security descriptor"):
        win32.security_attributes(wrong)


@pytest.mark.parametrize("inherit", [False, True])
@pytest.mark.parametrize("descriptor", [None, "D:", EVERYONE, "D:P(A;;GR;;;WD)(D;;GA;;;AN)"])
def test_security_attributes_carry_a_descriptor(
    kernel: Kernel, descriptor: str | None, inherit: bool
) -> None:
    attributes = win32.security_attributes(descriptor, inherit=inherit)
    gc.collect()
    assert isinstance(attributes, win32.SECURITY_ATTRIBUTES)
    assert attributes.nLength == ctypes.sizeof(attributes)
    assert bool(attributes.lpSecurityDescriptor) == (descriptor is not None)
    assert security_of(attributes) == Security(descriptor, inherit)
    copy = security_of(win32.SECURITY_ATTRIBUTES.from_buffer_copy(attributes))
    attributes.lpSecurityDescriptor = None
    assert copy == Security(descriptor, inherit)


def test_no_security_attributes() -> None:
    assert security_of(None) is None
    assert security_of(win32.SECURITY_ATTRIBUTES(bInheritHandle=1)) == Security(None, True)


# -- handles ---------------------------------------------------------------------------------------


def test_closing(kernel: Kernel) -> None:
    handle = kernel.create_section(PAGE)
    win32.CloseHandle(handle)
    for wrong in (handle, 0, 0x7FFFFFF0, 1 << 63, 1 << 64, -9):
        with refused(6):
            win32.CloseHandle(wrong)


def test_protection_from_closing(kernel: Kernel, section: int) -> None:
    both = win32.HANDLE_FLAG_PROTECT_FROM_CLOSE | win32.HANDLE_FLAG_INHERIT
    win32.SetHandleInformation(section, both, both)
    assert win32.GetHandleInformation(section) == both
    with refused(6):
        win32.CloseHandle(section)
    here = win32.GetCurrentProcess()
    # The protected one stays, and what was asked for is done.
    copy = win32.DuplicateHandle(here, section, here, 0, False, 3)
    assert win32.GetHandleInformation(section) == both
    assert win32.GetHandleInformation(copy) == 0  # flags are the handle's, not the object's
    win32.CloseHandle(copy)
    win32.SetHandleInformation(section, win32.HANDLE_FLAG_PROTECT_FROM_CLOSE, 0)
    assert win32.GetHandleInformation(section) == win32.HANDLE_FLAG_INHERIT


def test_the_flag_of_inheritance(kernel: Kernel) -> None:
    handle = kernel.create_section(PAGE, security=Security(inherit=True))
    narrow = kernel.create_section(PAGE, access=ACCESS_READ, security=Security(inherit=True))
    assert kernel.flags(handle) == kernel.flags(narrow) == win32.HANDLE_FLAG_INHERIT
    here = win32.GetCurrentProcess()
    for inherit in (False, True):
        copy = win32.DuplicateHandle(here, handle, here, 0, inherit, win32.DUPLICATE_SAME_ACCESS)
        assert win32.GetHandleInformation(copy) == inherit
        win32.CloseHandle(copy)
    win32.SetHandleInformation(handle, 0xFF, 0xF0)  # others than the two are nobody's
    assert win32.GetHandleInformation(handle) == 0
    kernel.close(handle)
    kernel.close(narrow)


def test_flags_of_what_is_not_open(kernel: Kernel) -> None:
    with refused(6):
        win32.GetHandleInformation(0x7FFFFFF0)
    with refused(6):
        win32.SetHandleInformation(0x7FFFFFF0, 1, 1)
    with refused(6):
        kernel.info(0x7FFFFFF0)


def test_comparing(kernel: Kernel, section: int) -> None:
    other, same = kernel.create_section(PAGE), kernel.duplicate(section, access=ACCESS_READ)
    assert win32.CompareObjectHandles(section, section)
    assert win32.CompareObjectHandles(section, same)
    assert not win32.CompareObjectHandles(section, other)
    for wrong in (0, 0x7FFFFFF0, 1 << 70):
        with refused(6):
            win32.CompareObjectHandles(section, wrong)
        with refused(6):
            win32.CompareObjectHandles(wrong, section)
    kernel.close(other)
    kernel.close(same)


def test_what_is_known_of_a_handle(kernel: Kernel, name: str) -> None:
    handle = kernel.create_section(PAGE, name=name)
    others = [kernel.duplicate(handle) for _ in range(3)]
    info = kernel.info(handle)
    assert (info.type_name, info.name, info.handle_count) == ("Section", name, 4)
    assert {kernel.info(each).identity for each in others} == {info.identity}
    for each in others:
        kernel.close(each)
    assert kernel.info(handle).handle_count == 1
    kernel.close(handle)


def test_handles_are_counted(kernel: Kernel) -> None:
    before = kernel.count_handles()
    handles = [kernel.create_section(PAGE) for _ in range(5)]
    assert kernel.count_handles() == before + 5
    for handle in handles:
        kernel.close(handle)
    assert kernel.count_handles() == before


def test_moving_a_handle(kernel: Kernel) -> None:
    first, before = kernel.create_section(PAGE), kernel.count_handles()
    second = kernel.duplicate(first, close_source=True)
    assert kernel.count_handles() == before
    assert kernel.info(second).handle_count == 1
    kernel.close(second)


def test_a_move_that_fails_closes_the_handle_all_the_same(kernel: Kernel) -> None:
    handle = kernel.create_section(PAGE, access=ACCESS_READ)
    here = win32.GetCurrentProcess()
    with refused(5):
        win32.DuplicateHandle(here, handle, here, ACCESS_ALL, False, win32.DUPLICATE_CLOSE_SOURCE)
    with refused(6):
        kernel.close(handle)


def test_access_through_the_public_face(kernel: Kernel, section: int) -> None:
    here = win32.GetCurrentProcess()
    both = win32.DXGI_SHARED_RESOURCE_READ | win32.DXGI_SHARED_RESOURCE_WRITE
    for access, bits in (
        (both, 0x20007),
        (win32.GENERIC_READ, 0x20005),
        (win32.GENERIC_ALL, 0xF0007),
        (0x4, 0x4),
        (0x20001, 0x20001),
    ):
        copy = win32.DuplicateHandle(here, section, here, access, False, 0)
        assert kernel.info(copy).access == bits
        # Beside DUPLICATE_SAME_ACCESS, access says nothing.
        same = win32.DuplicateHandle(here, copy, here, 0xF001F, False, 2)
        assert kernel.info(same).access == bits
        win32.CloseHandle(same)
        win32.CloseHandle(copy)


def test_options_that_are_none(kernel: Kernel, section: int) -> None:
    here = win32.GetCurrentProcess()
    with refused(87):
        win32.DuplicateHandle(here, section, here, 0, False, 8)


# -- processes -------------------------------------------------------------------------------------


def test_this_process(kernel: Kernel, section: int) -> None:
    here = win32.GetCurrentProcess()
    assert here == win32.INVALID_HANDLE_VALUE == -1
    win32.CloseHandle(here)  # does nothing
    process = win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, os.getpid())
    assert kernel.info(process).type_name == "Process"
    assert kernel.info(process).access == win32.PROCESS_DUP_HANDLE
    copy = win32.DuplicateHandle(process, section, process, 0, False, 2)
    assert win32.CompareObjectHandles(copy, section)
    win32.CloseHandle(copy)
    real = win32.DuplicateHandle(here, here, here, 0, False, 2)
    assert real > 0
    assert win32.CompareObjectHandles(real, process)
    win32.CloseHandle(real)
    win32.CloseHandle(process)


def test_duplicating_takes_the_right_to_it(kernel: Kernel, section: int) -> None:
    here = win32.GetCurrentProcess()
    query = 0x1000
    process = win32.OpenProcess(query, False, os.getpid())
    with refused(5):
        win32.DuplicateHandle(process, section, here, 0, False, 2)
    with refused(5):
        win32.DuplicateHandle(here, section, process, 0, False, 2)
    win32.CloseHandle(process)


def test_what_is_no_process_or_no_handle(kernel: Kernel, section: int) -> None:
    here = win32.GetCurrentProcess()
    for source, handle, target in (
        (section, section, here),
        (here, section, section),
        (0, section, here),
        (here, section, 0x7FFFFFF0),
        (here, 0, here),
        (here, 0x7FFFFFF0, here),
        (here, 1 << 65, here),
    ):
        with refused(6):
            win32.DuplicateHandle(source, handle, target, 0, False, 2)


@pytest.mark.parametrize("process_id", [0, -1, 0x7FFFFFFC, 1 << 40])
def test_a_process_that_is_none(kernel: Kernel, process_id: int) -> None:
    with refused(87):
        win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, process_id)


# -- a second process ------------------------------------------------------------------------------

_HEAD = """
import ctypes, sys
from extmem import win32
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ
from extmem.handles.system import kernel
kernel = kernel()
def fails(call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except OSError as error:
        return error.winerror
    return 0
print("ready", flush=True)
"""

Run = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def run() -> Iterator[Run]:
    """Start a second Python with some lines; it has said that it is there when this returns."""
    started: list[subprocess.Popen[str]] = []

    def start(lines: str, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _HEAD + lines],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        with process:
            process.kill()
    started.clear()  # a Popen closes the handle of its process when it goes


def _ask(process: subprocess.Popen[str], *words: object) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(" ".join(map(str, words)) + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_a_handle_into_a_second_process(kernel: Kernel, section: int, run: Any) -> None:
    other = run("""
handle = int(input())
address = kernel.map_section(handle, 4096)
ctypes.memset(address, 42, 1)
print(kernel.info(handle).handle_count, kernel.info(handle).access, flush=True)
input()
kernel.close(handle)
print("closed", flush=True)
input()
""")
    process = win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, other.pid)
    here = win32.GetCurrentProcess()
    theirs = win32.DuplicateHandle(here, section, process, 0, False, win32.DUPLICATE_SAME_ACCESS)
    with view(kernel, section) as mine:
        assert _ask(other, theirs) == f"2 {0xF0007}"
        assert mine[0] == 42
    back = win32.DuplicateHandle(process, theirs, here, 0, False, win32.DUPLICATE_SAME_ACCESS)
    assert win32.CompareObjectHandles(back, section)
    win32.CloseHandle(back)
    assert _ask(other) == "closed"
    assert kernel.info(section).handle_count == 1
    win32.CloseHandle(process)


def test_reduced_access_in_a_second_process(kernel: Kernel, section: int, run: Any) -> None:
    other = run("""
handle = int(input())
here = win32.GetCurrentProcess()
address = kernel.map_section(handle, 4096, write=False)
print(
    fails(kernel.map_section, handle, 4096),
    fails(win32.DuplicateHandle, here, handle, here, ACCESS_ALL, False, 0),
    ctypes.string_at(address, 1)[0],
    flush=True,
)
input()
""")
    process = win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, other.pid)
    here = win32.GetCurrentProcess()
    with view(kernel, section) as mine:
        mine[0] = 9
        theirs = win32.DuplicateHandle(here, section, process, ACCESS_READ, False, 0)
        assert _ask(other, theirs) == "5 5 9"
        # Words and not bits, also where the handle is in another process.
        wide = win32.DuplicateHandle(here, section, process, 0x80000001, False, 0)
        back = win32.DuplicateHandle(process, wide, here, 0x80000001, False, 1)
        assert kernel.info(back).access == 0x20007
        win32.CloseHandle(back)
    win32.CloseHandle(process)


@pytest.mark.parametrize("inherit", [False, True])
def test_inheritance_by_a_child(kernel: Kernel, run: Any, inherit: bool) -> None:
    handle = kernel.create_section(PAGE, security=Security(inherit=inherit))
    other = run(
        """
handle = int(input())
code = fails(kernel.map_section, handle, 4096)
print(code, flush=True)
input()
""",
        close_fds=False,
        env={**os.environ, **win32.child_environment()},
    )
    assert _ask(other, handle) == ("0" if inherit else "6")
    kernel.close(handle)


def test_a_name_in_a_second_process(kernel: Kernel, name: str, run: Any) -> None:
    handle = kernel.create_section(PAGE, name=name, security=Security(READERS))
    other = run("""
name = input()
handle = kernel.open_section(name, ACCESS_READ)
address = kernel.map_section(handle, 4096, write=False)
print(
    ctypes.string_at(address, 1)[0],
    fails(kernel.open_section, name, ACCESS_ALL),
    fails(kernel.create_section, 1, name=name),
    kernel.info(handle).name == name,
    flush=True,
)
input()
kernel.close(handle)
print("closed", flush=True)
input()
""")
    with view(kernel, handle) as mine:
        mine[0] = 11
        assert _ask(other, name) == "11 5 5 True"
    kernel.close(handle)
    kernel.close(kernel.open_section(name, ACCESS_READ))  # the other process has it still
    assert _ask(other) == "closed"
    with refused(2):
        kernel.open_section(name)


def test_the_end_of_a_process_closes_its_handles(kernel: Kernel, name: str, run: Any) -> None:
    other = run("""
handle = kernel.create_section(4096, name=input())
print(flush=True)
input()
""")
    _ask(other, name)
    handle = kernel.open_section(name)
    assert kernel.info(handle).handle_count == 2
    other.kill()
    other.wait()
    assert kernel.info(handle).handle_count == 1
    kernel.close(handle)
    with refused(2):
        kernel.open_section(name)
