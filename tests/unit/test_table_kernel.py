"""The table in the place of Windows' kernel: what `tests/windows/test_kernel.py` cannot see."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from extmem import win32
from extmem.handles import memfd, objects
from extmem.handles.access import MAXIMUM_ALLOWED, SECTION, section_bits
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE, Security
from extmem.handles.objects import HandleTable, KernelObject
from extmem.handles.sddl import Descriptor, User, check, parse
from extmem.handles.security import security_of
from extmem.handles.table import TableKernel
from extmem.handles.winerror import code_of, failure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hardware: needs Linux")

PAGE = 4096


@pytest.fixture
def kernel() -> Iterator[TableKernel]:
    kernel = TableKernel()
    yield kernel
    assert kernel.count_handles() == 0


def refuses(code: int, text: str = ": ") -> pytest.RaisesExc[OSError]:
    return pytest.RaisesExc(OSError, match=text, check=lambda error: code_of(error) == code)


# -- numbers ---------------------------------------------------------------------------------------


def thing() -> KernelObject:
    return KernelObject(SECTION, Descriptor(0, None))


def test_numbers_are_multiples_of_four_from_four() -> None:
    table = HandleTable()
    assert [table.add(thing(), 0, 0) for _ in range(3)] == [4, 8, 12]


def test_a_number_rests_before_it_is_used_again() -> None:
    table = HandleTable(rest=10)
    closed = []
    for _ in range(11):
        closed.append(table.add(thing(), 0, 0))
        table.remove(closed[-1])
    assert len(set(closed)) == 11
    again = table.add(thing(), 0, 0)
    assert again == closed[0]  # and so the table does not grow without end


def test_numbers_end() -> None:
    table = HandleTable()
    table.highest = 12
    numbers = [table.add(thing(), 0, 0) for _ in range(3)]
    with refuses(1450):
        table.add(thing(), 0, 0)
    table.remove(numbers[1])
    assert table.add(thing(), 0, 0) == numbers[1]


def test_no_number_is_left_for_a_new_section(
    kernel: TableKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HandleTable, "highest", 0)
    with refuses(1450):
        kernel.create_section(PAGE, name="x")  # its pages and its name are gone then
    monkeypatch.undo()
    kernel.close(kernel.create_section(PAGE, name="x"))


# -- pages -----------------------------------------------------------------------------------------


def _descriptors() -> list[int]:
    """Those of sections."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            if "extmem-section" in os.readlink(f"/proc/self/fd/{number}"):
                found.append(int(number))
    return found


def test_a_section_is_one_descriptor_that_no_program_inherits(kernel: TableKernel) -> None:
    assert _descriptors() == []
    handle = kernel.create_section(PAGE)
    handles = [handle, *(kernel.duplicate(handle) for _ in range(3))]
    (fd,) = _descriptors()
    assert not os.get_inheritable(fd)
    assert os.fstat(fd).st_mode & 0o777 == 0o600
    with pytest.raises(PermissionError):  # sealed: nobody can take the pages from under a view
        os.ftruncate(fd, 0)
    for each in handles:
        assert _descriptors() == [fd]
        kernel.close(each)
    assert _descriptors() == []


def test_a_view_for_reading_cannot_become_one_for_writing(kernel: TableKernel) -> None:
    handle = kernel.create_section(PAGE)
    address = kernel.map_section(handle, PAGE, write=False)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert protect(address, PAGE, 3) == -1
    kernel.unmap_section(address, PAGE)
    kernel.close(handle)


def test_no_descriptor_is_left(kernel: TableKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(size: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(memfd, "make", none)
    with refuses(1450, "ulimit"):
        kernel.create_section(PAGE)


# -- this process alone ----------------------------------------------------------------------------


# In a process of its own: NumPy's threads do not survive a fork, in the parent either.
_FORK = """
import os
from extmem.handles.system import kernel
from extmem.handles.winerror import code_of
handle = kernel().create_section(4096)
child = os.fork()
if child:
    os.waitpid(child, 0)
    print(kernel().info(handle).handle_count)
else:
    for call in (
        lambda: kernel().info(handle),
        lambda: kernel().create_section(4096),
        lambda: kernel().close(handle),
    ):
        try:
            call()
        except OSError as error:
            print(code_of(error), error, flush=True)
    os._exit(0)
"""


def test_a_forked_child_is_told_what_to_do() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _FORK], capture_output=True, text=True, timeout=60, check=True
    )
    *told, last = ended.stdout.splitlines()
    assert last == "1"  # the parent's is untouched
    assert len(told) == 3
    for line in told:
        assert line.startswith("6 ")
        assert "spawn or forkserver" in line


def test_another_process_cannot_be_opened_yet(kernel: TableKernel) -> None:
    with refuses(50, "within one process"):
        kernel.open_process(win32.PROCESS_DUP_HANDLE, False, os.getppid())


def test_many_threads(kernel: TableKernel) -> None:
    together = threading.Barrier(8)

    def work(number: int) -> int:
        together.wait()
        made = 0
        for turn in range(100):
            try:
                handle = kernel.create_section(PAGE, name=f"threads-{turn % 3}")
                made += 1
            except OSError as error:
                assert code_of(error) == 183  # noqa: PT017
                continue
            copy = kernel.duplicate(handle, close_source=True)
            address = kernel.map_section(copy, PAGE)
            assert ctypes.string_at(address, 1) == b"\0"
            ctypes.memset(address, number, 1)
            kernel.unmap_section(address, PAGE)
            kernel.close(copy)
        return made

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(1, 9))) > 0


# -- who may ---------------------------------------------------------------------------------------

ALICE, BOB = User(1000, frozenset({1000, 50})), User(1001, frozenset({1001}))
ROOT = User(0, frozenset({0}))


@pytest.mark.parametrize(
    ("text", "alice", "bob", "root"),
    [
        (None, True, False, True),  # root, as the system itself is admitted on Windows
        ("D:(A;;GA;;;OW)", True, False, False),
        ("D:(A;;GA;;;BA)", False, False, True),
        ("D:(A;;GA;;;SY)", False, False, True),
        ("D:(A;;GA;;;S-1-22-1-1001)", False, True, False),
        ("D:(A;;GA;;;S-1-22-2-50)", True, False, False),
        ("D:(D;;GA;;;S-1-22-1-1001)(A;;GA;;;WD)", True, False, True),
        ("D:NO_ACCESS_CONTROL", True, True, True),  # Wine 8 takes it for nobody
        ("D:PAI(A;OICI;0xF001F;;;WD)", True, True, True),
        ("D:(A;;031;;;WD)", False, False, False),  # octal
        ("O:S-1-22-1-1000G:BAD:(A;;GA;;;WD)S:(ML;;NW;;;LW)", True, True, True),
        (" D: ( A ; ; GA ; ; ; WD ) ", True, True, True),
        ("D:", False, False, False),
        ("S:", True, False, True),
    ],
)
def test_whom_a_descriptor_admits(text: str | None, alice: bool, bob: bool, root: bool) -> None:
    descriptor = parse(text, ALICE, named=True)
    wanted = SECTION.all & 0x1F
    admitted = [not wanted & ~descriptor.allowed(user, SECTION) for user in (ALICE, BOB, ROOT)]
    assert admitted == [alice, bob, root]


def test_an_owner_can_always_read_and_change_the_rights() -> None:
    assert parse("D:", ALICE, named=True).allowed(ALICE, SECTION) == 0x60000
    assert parse("D:", ALICE, named=True).allowed(BOB, SECTION) == 0
    assert parse("D:(A;;GR;;;OW)", ALICE, named=True).allowed(ALICE, SECTION) == 0x20005
    assert parse("D:(D;;GW;;;WD)(A;;GR;;;WD)", ALICE, named=True).allowed(ALICE, SECTION) == 0x60005


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("O:S-1-22-1-1001D:", 1307),
        ("O:XXD:", 1337),
        ("O:", 1337),
        ("D:D:", 87),
        ("D:(A;;GA;;;WD)(", 1336),
        ("D:(A;;GA;;;WD))", 87),
        ("D:(A;;09;;;WD)", 1336),
        ("D:(A;;0x;;;WD)", 1336),
        ("D:(A;;-1;;;WD)", 1336),
        ("D:(A;;4294967296;;;WD)", 1336),
        ("D:(OA;;GA;;;WD)", 1336),
        ("D:" + "(A;;GA;;;WD)" * 10000, 87),
    ],
)
def test_descriptors_that_are_none(text: str, code: int) -> None:
    with refuses(code):
        parse(text, ALICE, named=True)


def test_all_that_one_may_have(kernel: TableKernel) -> None:
    handle = kernel.create_section(PAGE, name="x", security=Security("D:(A;;GR;;;WD)"))
    other = kernel.open_section("x", MAXIMUM_ALLOWED)
    assert kernel.info(other).access == 0x60005  # to read, and what an owner always has
    kernel.close(other)
    kernel.close(handle)


@pytest.mark.parametrize(
    ("access", "bits"),
    [
        (ACCESS_READ, 0x20005),
        (ACCESS_WRITE, 0x20003),
        (ACCESS_ALL, 0xF0007),
        (ACCESS_ALL | ACCESS_READ | ACCESS_WRITE, 0xF0007),
        (0x40000000, 0x20003),
        (0x20000000, 0x20008),
        (0x5, 0x5),  # bits of the kernel's own stay
        (0x20001, 0x20001),
        (0, 0),
        (MAXIMUM_ALLOWED, MAXIMUM_ALLOWED),
    ],
)
def test_words_and_bits(access: int, bits: int) -> None:
    assert section_bits(access) == bits
    assert section_bits(bits) == bits


# -- security attributes ---------------------------------------------------------------------------


@pytest.mark.parametrize("block", [bytes(64), b"\1\0\0\x80" + bytes(60), bytes(8)])
def test_a_descriptor_that_we_did_not_make(block: bytes) -> None:
    attributes = win32.SECURITY_ATTRIBUTES(lpSecurityDescriptor=block + bytes(64))
    with refuses(1338, "security_attributes"):
        security_of(attributes)


def test_a_descriptor_that_is_nowhere() -> None:
    attributes = win32.SECURITY_ATTRIBUTES(lpSecurityDescriptor=0x10)
    with refuses(998):
        security_of(attributes)


def test_a_descriptor_that_claims_too_much() -> None:
    attributes = win32.security_attributes("D:")
    size_at = 4 + 16 + 8
    ctypes.memmove(attributes.lpSecurityDescriptor + size_at, b"\xff\xff\xff\x7f", 4)
    with refuses(1338):
        security_of(attributes)


# -- errors ----------------------------------------------------------------------------------------


def test_errors_have_numbers_of_both_systems() -> None:
    error = failure(2, "cannot open x")
    assert isinstance(error, FileNotFoundError)
    assert error.winerror == 2  # type: ignore[attr-defined]
    assert str(error).endswith("cannot open x: there is no object of that name (Windows error 2)")
    assert code_of(failure(31, "cannot")) == 31
    assert code_of(OSError(1, "x")) is None


def test_a_text_is_checked_without_an_object() -> None:
    check("D:(A;;GA;;;WD)")
    with refuses(1336, "XX"):
        check("D:(A;;GA;;;XX)")


def test_objects_are_told_apart() -> None:
    assert thing().identity != thing().identity
    assert objects.Entry(thing(), 0, 0).flags == 0
