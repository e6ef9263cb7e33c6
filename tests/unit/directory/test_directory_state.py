"""What the directory knows, without sockets: tables, names, rights, limits and inheritance."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from extmem.handles import memfd
from extmem.handles.access import MAXIMUM_ALLOWED, MEMORY, SECTION, SECTION_FULL, Kind
from extmem.handles.directory.accounts import Account, Record
from extmem.handles.directory.items import Borrowed
from extmem.handles.directory.limits import Limits
from extmem.handles.directory.state import THIS_PROCESS, State
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE
from extmem.handles.objects import HandleTable
from extmem.handles.sddl import User
from tests.support.directory import PAGE, refuses

ALICE, BOB = User(1000, frozenset({1000})), User(1001, frozenset({1001}))
BOTH = ACCESS_READ | ACCESS_WRITE
EVERYONE, READERS = "D:(A;;GA;;;WD)", "D:(A;;GR;;;WD)"


@pytest.fixture
def state() -> Iterator[State]:
    state = State()
    yield state
    for account in list(state.accounts):
        state.end(account)
    assert (state.handles, len(state), state.descriptors, len(state.names)) == (0, 0, 0, 0)


@pytest.fixture
def first(state: State) -> Account:
    return state.admit(10, ALICE, "first")


@pytest.fixture
def second(state: State) -> Account:
    return state.admit(20, ALICE, "second")


def make(state: State, account: Account, name: str | None = None, **options: object) -> int:
    size, access = options.pop("size", PAGE), options.pop("access", ACCESS_ALL)
    security, inherit = options.pop("security", None), options.pop("inherit", False)
    return state.create_section(account, size, name, access, security, inherit, **options)  # type: ignore[arg-type]


def opened(state: State, account: Account, name: str, access: int = ACCESS_ALL) -> int:
    return state.open_named(account, "Section", name, access)


@contextlib.contextmanager
def fetched(state: State, account: Account, handle: int, write: bool | None) -> Iterator[int]:
    fd = state.fetch(account, handle, write)
    try:
        yield fd
    finally:
        os.close(fd)


def home(state: State, account: Account, other: Account, access: int = 0x40) -> int:
    return state.open_process(account, other, access, False)


# -- tables ----------------------------------------------------------------------------------------


def test_a_handle_means_nothing_elsewhere(state: State, first: Account, second: Account) -> None:
    handle = make(state, first)
    assert handle % 4 == 0
    for call in (state.close, state.info, state.section_size, state.passport):
        with refuses(6, "not open"):
            call(second, handle)


def test_numbers_of_two_tables_begin_anywhere(state: State) -> None:
    numbers = {make(state, state.admit(each, ALICE, "x")) for each in range(50)}
    assert len(numbers) > 45
    assert all(number % 4 == 0 and 0 < number < 1 << 31 for number in numbers)


def test_duplicating_into_another_process(state: State, first: Account, second: Account) -> None:
    handle, process = make(state, first), home(state, first, second)
    theirs = state.duplicate(first, handle, None, False, target=process)
    assert state.info(second, theirs).handle_count == 2
    back = state.duplicate(first, theirs, None, False, source=process)
    assert state.same_object(first, back, handle)
    state.duplicate(first, theirs, ACCESS_READ, False, source=process, close_source=True)
    with refuses(6):
        state.info(second, theirs)


def test_the_end_of_a_process(state: State, first: Account, second: Account) -> None:
    handle = make(state, first, "x")
    state.set_flags(first, handle, 3, 3)  # protected, which is nothing to a dead process
    process = home(state, second, first)
    other = opened(state, second, "x")
    state.end(first)
    assert state.info(second, other).handle_count == 1
    for call in (
        lambda: state.duplicate(second, other, None, False, target=process),
        lambda: state.duplicate(second, handle, None, False, source=process),
    ):
        with refuses(5, "has ended"):
            call()
    state.close(second, other)
    with refuses(2):
        opened(state, second, "x")


def test_no_right_to_duplicate(state: State, first: Account, second: Account) -> None:
    handle, process = make(state, first), home(state, first, second, 0x1000)
    with refuses(5, "PROCESS_DUP_HANDLE"):
        state.duplicate(first, handle, None, False, target=process)


def test_no_number_is_left_for_a_new_section(
    state: State, first: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HandleTable, "highest", 0)
    with refuses(1450):
        make(state, first, "x")  # its pages and its name are gone then
    monkeypatch.undo()
    make(state, first, "x")


def test_no_pages_are_left(state: State, first: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(size: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(memfd, "make", none)
    with refuses(1450, "ulimit"):
        make(state, first)


# -- names and rights ------------------------------------------------------------------------------


def test_a_collision_says_who_has_the_name(state: State, first: Account, second: Account) -> None:
    make(state, first, "x")
    with refuses(183, r"process 10 \(first\)"):
        make(state, second, "Local\\x")
    with refuses(6, r"another kind, Section; process 10 \(first\)"):
        state.share(second, 0, "Fence", "x", ACCESS_ALL, None, False)


@pytest.mark.parametrize(
    ("security", "access", "code"),
    [
        (None, ACCESS_READ, 5),
        (EVERYONE, ACCESS_ALL, 0),
        (READERS, ACCESS_READ, 0),
        (READERS, BOTH, 5),
        ("D:(A;;GA;;;S-1-22-1-1001)", ACCESS_ALL, 0),
        ("D:(A;;GA;;;S-1-22-2-1001)", ACCESS_ALL, 0),
        ("D:(A;;GA;;;S-1-22-1-1002)", ACCESS_READ, 5),
        ("D:(D;;GW;;;S-1-22-1-1001)(A;;GA;;;WD)", BOTH, 5),
    ],
)
def test_another_user(
    state: State, first: Account, security: str | None, access: int, code: int
) -> None:
    make(state, first, "Global\\x", security=security)
    guest = state.admit(30, BOB, "guest", guest=True)
    with refuses(code) if code else contextlib.nullcontext():
        opened(state, guest, "Global\\x", access)


def test_a_guest_who_may_read_gets_what_only_reads(state: State, first: Account) -> None:
    make(state, first, "Global\\x", security=READERS)
    guest = state.admit(30, BOB, "guest", guest=True)
    handle = opened(state, guest, "Global\\x", ACCESS_READ)
    with refuses(5, "is missing"):
        state.fetch(guest, handle, True)
    with fetched(state, guest, handle, False) as fd, pytest.raises(OSError, match="Permission"):
        memfd.map_pages(fd, PAGE, write=True)


# -- reading alone ---------------------------------------------------------------------------------


def test_read_only_is_sealed_when_nobody_writes_any_more(state: State, first: Account) -> None:
    writer = make(state, first, "x")
    reader = state.duplicate(first, writer, ACCESS_READ, False)
    with fetched(state, first, writer, True) as fd:
        address = memfd.map_pages(fd, PAGE, write=True)
        kept = os.dup(fd)
    try:
        with fetched(state, first, reader, False):
            pass  # somebody writes still: this one is not sealed
        with fetched(state, first, writer, True) as fd:
            memfd.unmap_pages(memfd.map_pages(fd, PAGE, write=True), PAGE)
        state.close(first, writer)
        with fetched(state, first, reader, False) as fd:
            ctypes.memset(address, 7, 1)  # who has mapped it writes still
            assert os.pread(fd, 1, 0) == b"\7"
            with pytest.raises(OSError, match="not permitted"):
                memfd.map_pages(kept, PAGE, write=True)
            again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
            with pytest.raises(OSError, match="not permitted"):
                memfd.map_pages(again, PAGE, write=True)
            os.close(again)
    finally:
        os.close(kept)
        memfd.unmap_pages(address, PAGE)
    for access in (BOTH, ACCESS_ALL, ACCESS_WRITE):
        with refuses(5, "sealed against writing"):
            opened(state, first, "x", access)
        with refuses(5, "sealed against writing"):
            state.duplicate(first, reader, access, False)
    most = opened(state, first, "x", MAXIMUM_ALLOWED)
    assert not state.info(first, most).access & 0x2


# -- descriptors of drivers ------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("a driver's")
    os.ftruncate(fd, 3 * PAGE)
    yield fd
    os.close(fd)


def share(state: State, account: Account, fd: int, name: str | None = None, **more: object) -> int:
    """As the service does it: the state owns what it takes."""
    own = os.dup(fd)
    try:
        access = more.pop("access", ACCESS_ALL)
        kind = more.pop("kind", "Memory")
        return state.share(account, own, kind, name, access, None, False, **more)  # type: ignore[arg-type]
    except OSError:
        os.close(own)
        raise


def test_a_drivers_descriptor(state: State, first: Account, second: Account, memory: int) -> None:
    handle = share(state, first, memory, "x", passport=b"p")
    assert state.info(first, handle).type_name == "Memory"
    assert state.passport(first, handle) == b"p"
    other = state.open_named(second, "Memory", "x", BOTH)
    with fetched(state, second, other, None) as fd:
        assert os.path.sameopenfile(fd, memory)
    with refuses(6, "Memory"):
        opened(state, second, "x")
    with refuses(6, "Memory"):
        state.fetch(second, other, True, PAGE)


@pytest.mark.parametrize("access", [ACCESS_READ, ACCESS_WRITE, 0, 0x4])
def test_less_than_all_of_it_is_refused(
    state: State, first: Account, memory: int, access: int
) -> None:
    handle = share(state, first, memory, "x")
    with refuses(50, "cannot be restricted"):
        share(state, first, memory, access=access)
    with refuses(50, "cannot be restricted"):
        state.open_named(first, "Memory", "x", access)
    with refuses(50, "cannot be restricted"):
        state.duplicate(first, handle, access, False)


def test_descriptors_that_no_driver_shares(state: State, first: Account) -> None:
    reads, writes = os.pipe()
    path = os.open("/dev/null", os.O_PATH)
    file = os.open(__file__, os.O_RDONLY)
    folder = os.open("/dev", os.O_RDONLY)
    for fd in (reads, writes, path, file, folder):
        with refuses(87, "descriptor"):
            share(state, first, fd)
        os.close(fd)
    with refuses(87, "no such kind"):
        share(state, first, 0, kind="Section")
    event = os.eventfd(0)
    share(state, first, event, kind="Semaphore")
    os.close(event)


# -- inheritance -----------------------------------------------------------------------------------


def test_a_child_gets_what_is_inherited(state: State, first: Account, second: Account) -> None:
    wanted = make(state, first, inherit=True)
    reads = state.duplicate(first, wanted, ACCESS_READ, True)
    not_wanted = make(state, first)
    token = state.offer(first)
    state.close(first, wanted)  # the token keeps it
    state.claim(second, token)
    assert state.set_flags(second, wanted, 0, 0) == 1
    assert state.info(second, wanted).handle_count == 3
    assert state.info(second, reads).access == 0x20005
    with refuses(6):
        state.info(second, not_wanted)
    assert make(state, second) not in (wanted, reads)


def test_a_token_works_once(state: State, first: Account, second: Account) -> None:
    token = state.offer(first)
    state.claim(second, token)
    third = state.admit(30, ALICE, "third")
    with refuses(5, r"used by process 20 \(second\) already; .* one child"):
        state.claim(third, token)
    with refuses(5, "does not know the token"):
        state.claim(third, "x" * 32)


def test_a_token_ends_with_its_parent(state: State, first: Account, second: Account) -> None:
    make(state, first, "x", inherit=True)
    token = state.offer(first)
    state.end(first)
    assert state.handles == 0
    with refuses(5, "parent ended"):
        state.claim(second, token)


def test_a_token_ends_by_itself() -> None:
    state = State(Limits(token_seconds=0.01))
    parent = state.admit(10, ALICE, "parent")
    make(state, parent, inherit=True)
    token = state.offer(parent)
    assert state.handles == 2
    time.sleep(0.02)
    state.lapse()
    assert state.handles == 1
    with refuses(5, "not used in time"):
        state.claim(parent, token)
    state.end(parent)


def test_a_number_that_the_child_has_already(state: State, first: Account, second: Account) -> None:
    handle = make(state, first, inherit=True)
    second.table = HandleTable(first=handle)
    make(state, second)
    with refuses(6, "same numbers"):
        state.claim(second, state.offer(first))
    assert state.handles == 2


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "what", "number"),
    [
        (replace(Limits(), handles=3), r"handles of process 10 \(first\)", 3),
        (replace(Limits(), all_handles=3), "handles of this user", 3),
        (replace(Limits(), objects=3), "objects of this process", 3),
        (replace(Limits(), all_objects=3), "objects of this user", 3),
        (replace(Limits(), names=3), "names of this process", 3),
        (replace(Limits(), all_names=3), "names of this user", 3),
        (replace(Limits(), descriptors=3), "descriptors", 3),
    ],
)
def test_limits_say_what_they_are(limits: Limits, what: str, number: int) -> None:
    state = State(limits)
    account = state.admit(10, ALICE, "first")
    handles = [make(state, account, f"x{each}") for each in range(number)]
    with refuses(1450, f"{what}.*limit of {number} is reached"):
        make(state, account, "more")
    state.close(account, handles[0])
    make(state, account, "more")
    state.end(account)
    assert (state.handles, len(state), state.descriptors) == (0, 0, 0)


def test_limits_of_processes_and_tokens() -> None:
    state = State(Limits(processes=1, tokens=1))
    account = state.admit(10, ALICE, "first")
    with refuses(1450, "limit of 1"):
        state.admit(11, ALICE, "second")
    state.offer(account)
    with refuses(1450, "tokens .* limit of 1"):
        state.offer(account)


def test_this_process(state: State, first: Account) -> None:
    state.close(first, THIS_PROCESS)
    real = state.duplicate(first, THIS_PROCESS, None, False)
    assert state.same_object(first, real, home(state, first, first))
    assert state.info(first, real).type_name == "Process"


# -- what another user lends -----------------------------------------------------------------------


def lent(kind: Kind, name: str, size: int) -> Borrowed:
    """What user 1001's directory calls its object 9, with a descriptor that reads and one that
    writes.
    """
    item = Borrowed(kind, name, 1001, size)
    item.key = (1001, bytes(16), 9)
    item.adopt(memfd.make(size), memfd.make(size))
    return item


def borrow(state: State, account: Account, item: Borrowed) -> int:
    try:
        record = Record(item, account, item.size, b"", 3)
        return state.borrow(account, item, SECTION_FULL, record)
    finally:
        if not item.handles:
            item.end()


def test_what_was_lent_twice_is_one_object(state: State, first: Account) -> None:
    handles = [borrow(state, first, lent(SECTION, "Global\\x", 2 * PAGE)) for _ in range(2)]
    assert state.same_object(first, *handles)
    assert len(state) == 1


@pytest.mark.parametrize(
    ("kind", "name", "size"),
    [
        (SECTION, "Global\\x", PAGE),  # who maps two pages of it would die of the second
        (SECTION, "Global\\y", 2 * PAGE),
        (MEMORY, "Global\\x", 2 * PAGE),
    ],
)
def test_what_was_lent_does_not_become_another(
    state: State, first: Account, kind: Kind, name: str, size: int
) -> None:
    handle = borrow(state, first, lent(SECTION, "Global\\x", 2 * PAGE))
    with refuses(5, "says now that it is another"):
        borrow(state, first, lent(kind, name, size))
    for write in (False, True):
        with fetched(state, first, handle, write) as fd:
            assert os.fstat(fd).st_size == 2 * PAGE


def test_what_drivers_share_is_lent_as_one_descriptor(state: State, first: Account) -> None:
    item = Borrowed(MEMORY, "Global\\x", 1001, PAGE)
    item.adopt(memfd.make(PAGE), None)
    handle = borrow(state, first, item)
    for write in (None, False, True):
        with fetched(state, first, handle, write) as fd:
            os.pwrite(fd, b"x", 0)
