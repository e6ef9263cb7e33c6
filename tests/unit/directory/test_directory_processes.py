"""Two processes and one directory: duplicates, names, inheritance, descriptors, and their ends."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from extmem import win32
from extmem.handles.access import MAXIMUM_ALLOWED
from extmem.handles.directory import protocol as p
from extmem.handles.directory.client import DirectoryKernel
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE, Security
from extmem.handles.winerror import code_of
from tests.support.directory import PAGE, Place, eventually, refuses

DUPLICATE = win32.PROCESS_DUP_HANDLE


def test_a_handle_for_a_process_that_has_not_connected_yet(
    place: Place, kernel: DirectoryKernel
) -> None:
    other = place.other("""
handle = int(input())
address = kernel.map_section(handle, 4096)
ctypes.memset(address, 42, 1)
print(kernel.info(handle).handle_count, kernel.info(handle).access, flush=True)
input()
kernel.close(handle)
print("closed", flush=True)
input()
""")
    handle = kernel.create_section(PAGE)
    process = kernel.open_process(DUPLICATE, False, other.pid)
    assert kernel.status().counts["processes"] == 2
    assert kernel.status().counts["connections"] <= 2  # both are ours
    theirs = kernel.duplicate(handle, target=process)
    address = kernel.map_section(handle, PAGE)
    assert other.ask(theirs) == f"2 {0xF0007}"
    assert ctypes.string_at(address, 1) == b"\x2a"
    back = kernel.duplicate(theirs, source=process)
    assert kernel.same_object(back, handle)
    kernel.close(back)
    assert other.ask() == "closed"
    assert kernel.info(handle).handle_count == 1
    kernel.unmap_section(address, PAGE)
    for each in (handle, process):
        kernel.close(each)


def test_a_connection_that_closes_keeps_the_handles(kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE, name="x")
    kernel.disconnect()
    assert kernel.info(handle).name == "Local\\x"
    second = DirectoryKernel()  # the table is the process', not the connection's
    second.close(handle)
    second.disconnect()
    with refuses(2):
        kernel.open_section("x")


def test_a_name_across_processes(place: Place, kernel: DirectoryKernel) -> None:
    other = place.other("""
handle = kernel.create_section(4096, name=input(), security=Security("D:(A;;GR;;;WD)"))
print(handle, flush=True)
input()
""")
    other.ask("x")
    with refuses(5, rf"process {other.pid} \(python"):
        kernel.create_section(PAGE, name="x")
    handle = kernel.open_section("x", ACCESS_READ)
    with refuses(5):
        kernel.open_section("x", ACCESS_ALL)
    other.kill()
    assert kernel.info(handle).handle_count == 1
    kernel.close(handle)
    with refuses(2):
        kernel.open_section("x")


def test_kmt_numbers_are_names(place: Place, kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE, name="Local\\extmem-kmt-1073741826")
    assert kernel.listing()[0].kmt
    other = place.other("print(kernel.section_size(kernel.open_section(input())), flush=True)")
    assert other.ask("Local\\extmem-kmt-1073741826") == "4096"
    other.close()
    kernel.close(handle)


def test_processes_that_cannot_be_opened(kernel: DirectoryKernel) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    for number in (0, -1, 0x7FFFFFFC, 1 << 40, ended.pid):
        with refuses(87, "no such process"):
            kernel.open_process(DUPLICATE, False, number)
    ended.wait()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert thread.native_id is not None
    with refuses(87, "no such process"):  # a thread is none
        kernel.open_process(DUPLICATE, False, thread.native_id)
    stop.set()
    thread.join()


def test_a_process_that_has_ended(place: Place, kernel: DirectoryKernel) -> None:
    other = place.other("input()")
    handle = kernel.create_section(PAGE)
    process = kernel.open_process(DUPLICATE, False, other.pid)
    other.kill()
    with refuses(5, "has ended"):
        kernel.duplicate(handle, target=process)
    kernel.close(process)
    kernel.close(handle)
    assert kernel.status().counts["processes"] == 1


# -- inheritance -----------------------------------------------------------------------------------

_CHILD = """
handle = int(input())
print(fails(kernel.map_section, handle, 4096), "EXTMEM_INHERIT" in os.environ, flush=True)
input()
"""


def test_a_child_inherits_under_the_same_number(place: Place, kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE, security=Security(inherit=True))
    private = kernel.create_section(PAGE)
    token = kernel.child_environment()
    assert list(token) == ["EXTMEM_INHERIT"]
    child = place.other(_CHILD, token)
    assert child.ask(handle) == "0 False"
    assert kernel.info(handle).handle_count == 2
    assert place.other(_CHILD, kernel.child_environment()).ask(private) == "6 False"
    again = place.other("print(fails(kernel.count_handles), kernel.count_handles(), flush=True)",
                        token)  # fmt: skip
    assert again.read() == "5 0"  # said once; it goes on without
    kernel.close(handle)
    kernel.close(private)


# -- descriptors of drivers ------------------------------------------------------------------------


def test_what_a_driver_shares(place: Place, kernel: DirectoryKernel) -> None:
    fd = os.memfd_create("a driver's")
    os.ftruncate(fd, PAGE)
    passport = os.urandom(16 * 1024)
    handle = kernel.share(fd, "Memory", name="x", passport=passport)
    os.close(fd)
    other = place.other("""
handle = kernel.open_named("x", "Memory", ACCESS_READ | ACCESS_WRITE)
fd = kernel.descriptor(handle)
os.pwrite(fd, b"hello", 0)
print(os.get_inheritable(fd), len(kernel.passport(handle)), fails(kernel.open_section, "x"),
      fails(kernel.open_named, "x", "Memory", ACCESS_READ), flush=True)
""")
    assert other.read() == "False 16384 6 50"
    other.close()
    fd = kernel.descriptor(handle)
    assert os.pread(fd, 5, 0) == b"hello"
    assert kernel.passport(handle) == passport
    os.close(fd)
    kernel.close(handle)


def test_passports_of_sections(kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE, passport=b"what importers need")
    assert kernel.passport(handle) == b"what importers need"
    with refuses(87, "limit is 16384"):
        kernel.create_section(PAGE, passport=bytes(16385))
    kernel.close(handle)
    with refuses(6):
        kernel.passport(handle)
    assert kernel.passport(-1) == b""


def test_a_descriptor_of_a_section_is_as_its_handle(kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE)
    reader = kernel.duplicate(handle, access=ACCESS_READ)
    for each, mode in ((handle, os.O_RDWR), (reader, os.O_RDONLY)):
        fd = kernel.descriptor(each)
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == mode
        os.close(fd)
        kernel.close(each)


# -- the list --------------------------------------------------------------------------------------


def test_the_list(place: Place, kernel: DirectoryKernel) -> None:
    handles = [
        kernel.create_section(PAGE, name=f"x{each}", passport=bytes(8000)) for each in range(40)
    ]
    other = place.other('handle = kernel.open_section("x7")\nprint(flush=True)\ninput()')
    other.read()
    found = kernel.listing()
    assert [p.unpack_text(each.name or b"") for each in found] == [
        f"Local\\x{each}" for each in range(40)
    ]
    listed = found[7]
    assert (listed.kind, listed.size, listed.kmt, listed.lender) == ("Section", PAGE, False, None)
    assert listed.passport == bytes(8000)
    assert listed.owner.process_id == os.getpid()
    assert {each.process_id: each.handles for each in listed.holders} == {
        os.getpid(): 1,
        other.pid: 1,
    }
    assert 0 <= listed.age < 60
    status = kernel.status()
    assert (status.counts["objects"], status.counts["handles"]) == (40, 41)
    assert status.limits["names"] >= 1000
    assert status.folder == str(place.folder)
    for handle in handles:
        kernel.close(handle)


# -- threads, finalisers, forks --------------------------------------------------------------------


def test_many_threads(kernel: DirectoryKernel) -> None:
    together = threading.Barrier(8)

    def work(number: int) -> int:
        together.wait()
        made = 0
        for turn in range(50):
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
    assert kernel.count_handles() == 0


def test_a_finaliser_in_the_middle_of_a_request(
    kernel: DirectoryKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = [kernel.create_section(PAGE) for _ in range(3)]

    class Owner:
        def __init__(self, handle: int) -> None:
            self.handle = handle
            self.ring = self  # only the collector frees it

        def __del__(self) -> None:
            kernel.close(self.handle)

    decode = p.decode_reply

    def collected(packet: bytes) -> Any:
        monkeypatch.setattr(p, "decode_reply", decode)
        gc.collect()
        return decode(packet)

    gc.disable()
    Owner(handles.pop())
    monkeypatch.setattr(p, "decode_reply", collected)
    assert kernel.count_handles() == 3  # the answer to this request, and not to the other
    gc.enable()
    assert kernel.count_handles() == 2
    for handle in handles:
        kernel.close(handle)


def test_an_interrupted_request_spoils_nothing(
    kernel: DirectoryKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = kernel.create_section(PAGE)
    receive = p.receive

    def interrupted(connection: Any) -> Any:
        monkeypatch.setattr(p, "receive", receive)
        raise KeyboardInterrupt

    monkeypatch.setattr(p, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kernel.count_handles()
    assert kernel.info(handle).handle_count == 1
    kernel.close(handle)


_FORK = """
import os
from extmem.handles.directory.client import DirectoryKernel
kernel = DirectoryKernel()
handle = kernel.create_section(4096)
child = os.fork()
if child:
    os.waitpid(child, 0)
    print(kernel.info(handle).handle_count)
else:
    for call in (
        lambda: kernel.info(handle),
        lambda: kernel.create_section(4096),
        lambda: kernel.close(handle),
        lambda: kernel.disconnect(),
    ):
        try:
            call()
        except OSError as error:
            print(error.winerror, error, flush=True)
    os._exit(0)
"""


def test_a_forked_child_is_told_what_to_do(place: Place) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _FORK], capture_output=True, text=True, timeout=60, check=True
    )
    *told, last = ended.stdout.splitlines()
    assert last == "1"  # the parent's is untouched
    assert len(told) == 4
    for line in told:
        assert line.startswith("6 ")
        assert "spawn or forkserver" in line


# -- pages -----------------------------------------------------------------------------------------


def test_a_view_for_reading_cannot_become_one_for_writing(kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE)
    address = kernel.map_section(handle, PAGE, write=False)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert protect(address, PAGE, 3) == -1
    kernel.unmap_section(address, PAGE)
    kernel.close(handle)


def test_the_pages_are_private_and_whole(kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE)
    fd = kernel.descriptor(handle)
    assert os.fstat(fd).st_mode & 0o777 == 0o600
    with pytest.raises(PermissionError):  # nobody can take the pages from under a view
        os.ftruncate(fd, 0)
    os.close(fd)
    kernel.close(handle)


def test_all_that_one_may_have(kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE, name="x", security=Security("D:(A;;GR;;;WD)"))
    other = kernel.open_section("x", MAXIMUM_ALLOWED)
    assert kernel.info(other).access == 0x60005  # to read, and what an owner always has
    kernel.close(other)
    kernel.close(handle)


def test_sealing_across_processes(place: Place, kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE, name="x")
    address = kernel.map_section(handle, PAGE)
    reader = kernel.duplicate(handle, access=ACCESS_READ)
    kernel.close(handle)
    other = place.other("""
reader = kernel.open_section("x", ACCESS_READ)
address = kernel.map_section(reader, 4096, write=False)
fd = kernel.descriptor(reader)
mine = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
import mmap
try:
    mmap.mmap(mine, 4096)
    print("mapped")
except OSError as error:
    print(type(error).__name__)
print(fails(kernel.open_section, "x", ACCESS_READ | ACCESS_WRITE), flush=True)
input()
print(ctypes.string_at(address, 1)[0], flush=True)
""")
    assert other.read() == "PermissionError"
    assert other.read() == "5"
    ctypes.memset(address, 9, 1)  # the writer's view is as it was
    assert other.ask() == "9"
    other.close()
    with refuses(5, "sealed against writing"):
        kernel.open_section("x", ACCESS_WRITE)
    kernel.unmap_section(address, PAGE)
    kernel.close(reader)


def test_a_stopped_process_stops_nobody_else(place: Place, kernel: DirectoryKernel) -> None:
    other = place.other(
        'handle = kernel.create_section(4096, name="x")\nprint(flush=True)\ninput()'
    )
    other.read()
    os.kill(other.pid, signal.SIGSTOP)
    kernel.close(kernel.open_section("x"))
    other.kill()
    assert eventually(lambda: not kernel.listing())
