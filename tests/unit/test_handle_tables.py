"""What stands in for Windows' kernel: numbers, rights, security attributes and errors."""

from __future__ import annotations

import ctypes
import sys

import pytest

from extmem import win32
from extmem.handles import objects
from extmem.handles.access import MAXIMUM_ALLOWED, SECTION, section_bits
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE
from extmem.handles.objects import HandleTable, KernelObject
from extmem.handles.sddl import Descriptor, User, check, parse
from extmem.handles.security import security_of
from extmem.handles.winerror import code_of, failure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hardware: needs Linux")

PAGE = 4096


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
