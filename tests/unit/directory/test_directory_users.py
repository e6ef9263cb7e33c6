"""Two users, two directories, and names that both can see."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from extmem.handles.directory import protocol as p
from extmem.handles.directory.client import DirectoryKernel
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, Security
from tests.support.directory import PAGE, Other, Place, gone, refuses
from tests.support.strict import missing

EVERYONE, READERS = "D:(A;;GA;;;WD)", "D:(A;;GR;;;WD)"
NOBODY, SOMEBODY = 65534, 54321

As = Callable[[int, str], Other]


# A process that gives up being root. Its Python may lie where the other user cannot read, so that
# its directory is a fork of it, and not a program that it starts.
_BECOME = """
import socket
from extmem.handles.directory import starting
from extmem.handles.directory.folder import Folder
from extmem.handles.directory.service import Service
def spawn(folder, listener):
    listener = os.dup(listener)  # the one that was given is kept from children
    if os.fork():
        os.close(listener)
    else:
        nothing = os.open("/dev/null", os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        try:
            Service(Folder.open(folder.path), socket.socket(fileno=listener), 60.0).run()
        finally:
            os._exit(0)
starting._spawn = spawn
"".encode("utf-16-le")  # which Python loads with its first use
os.setgroups([])
os.setgid({uid})
os.setuid({uid})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: it may look into its own /proc again
print(kernel.status().process_id, flush=True)
"""


@pytest.fixture
def other_user(place: Place) -> Iterator[As]:
    """Run lines as another user, whose directory sees ours; it says its process first."""
    if os.geteuid() != 0:
        missing("needs root to be two users", installable=False)
    places: list[Place] = []
    others: list[Other] = []
    services: list[int] = []

    def start(uid: int, lines: str) -> Other:
        theirs = Place(prefix=place.prefix)
        os.chown(theirs.folder, uid, uid)
        places.append(theirs)
        others.append(Other(_BECOME.format(uid=uid) + lines, theirs.environment))
        services.append(int(others[-1].read()))
        others[-1].service = services[-1]
        return others[-1]

    yield start
    for other in others:
        other.close()
    for service in services:
        with contextlib.suppress(ProcessLookupError):
            os.kill(service, signal.SIGKILL)
        assert gone(service)
    for theirs in places:
        (theirs.folder / "directory.sock").unlink()
        theirs.close()


_OPEN = """
while True:
    word, name = input().split()
    try:
        handle = kernel.open_section(name, {"read": ACCESS_READ, "all": ACCESS_ALL}[word])
    except OSError as error:
        print(error.winerror, error, flush=True)
        continue
    address = kernel.map_section(handle, 4096, write=word == "all")
    if word == "all":
        ctypes.memset(address, 9, 1)
    fd = kernel.descriptor(handle)
    try:
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        os.close(again)
        wide = "opens"
    except PermissionError:
        wide = "refused"
    os.close(fd)
    kernel.unmap_section(address, 4096) if word == "all" else None
    print(kernel.info(handle).access, wide,
          ctypes.string_at(address, 1)[0] if word == "read" else 0,
          fails(kernel.map_section, handle, 4096),
          fails(kernel.duplicate, handle, access=ACCESS_ALL),
          flush=True)
    kernel.close(handle)
"""


def test_another_user_reads_and_cannot_write(kernel: DirectoryKernel, other_user: As) -> None:
    handle = kernel.create_section(PAGE, name="Global\\x", security=Security(READERS))
    address = kernel.map_section(handle, PAGE)
    ctypes.memset(address, 5, 1)
    other = other_user(NOBODY, _OPEN)
    assert other.ask("read", "Global\\x") == f"{0x20005} refused 5 5 5"
    refused = other.ask("all", "Global\\x")
    assert refused.startswith("5 ")
    assert "user 0, whose it is, refuses: its security grants this user reading" in refused
    assert refused.count("Windows error 5") == 1
    assert other.ask("read", "Local\\x").startswith("2 ")
    kernel.unmap_section(address, PAGE)
    kernel.close(handle)
    assert other.ask("read", "Global\\x").startswith("2 ")


def test_another_user_writes_where_that_is_granted(kernel: DirectoryKernel, other_user: As) -> None:
    handle = kernel.create_section(PAGE, name="Global\\x", security=Security(EVERYONE))
    address = kernel.map_section(handle, PAGE)
    other = other_user(NOBODY, _OPEN)
    said = other.ask("all", "Global\\x").split()
    assert (said[0], said[3]) == (str(0xF0007), "0")
    assert ctypes.string_at(address, 1) == b"\x09"
    kernel.unmap_section(address, PAGE)
    kernel.close(handle)


@pytest.mark.parametrize(
    ("security", "admitted"),
    [
        (None, False),
        ("D:", False),
        (f"D:(A;;GR;;;S-1-22-1-{NOBODY})", True),
        (f"D:(A;;GR;;;S-1-22-2-{NOBODY})", True),
        (f"D:(A;;GR;;;S-1-22-1-{SOMEBODY})", False),
        (f"D:(D;;GA;;;S-1-22-1-{NOBODY})(A;;GA;;;WD)", False),
    ],
)
def test_whom_the_list_admits(
    kernel: DirectoryKernel, other_user: As, security: str | None, admitted: bool
) -> None:
    handle = kernel.create_section(PAGE, name="Global\\x", security=Security(security))
    said = other_user(NOBODY, _OPEN).ask("read", "Global\\x")
    assert said.startswith(str(0x20005) if admitted else "5 "), said
    kernel.close(handle)


_MAKE = """
handle = kernel.create_section(4096, name=input(), security=Security("D:(A;;GA;;;WD)"))
print(kernel.info(handle).handle_count, flush=True)
while True:
    input()
    print(kernel.info(handle).handle_count, flush=True)
"""


def soon(what: Callable[[], bool]) -> bool:
    """Whether it comes true by itself within a few seconds."""
    until = time.monotonic() + 5
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def test_the_lender_counts_what_it_lent(kernel: DirectoryKernel, other_user: As) -> None:
    other = other_user(NOBODY, _MAKE)
    assert other.ask("Global\\x") == "1"
    first = kernel.open_section("Global\\x", ACCESS_READ)
    second = kernel.open_section("Global\\x", ACCESS_ALL)
    assert kernel.same_object(first, second)
    assert other.ask() == "3"
    (listed,) = kernel.listing()
    assert listed.lender == NOBODY
    kernel.close(first)
    kernel.close(second)
    # One directory tells the other, and nobody waits for that.
    assert soon(lambda: other.ask() == "1")
    with refuses(183, rf"user {NOBODY}, process {other.pid} \(python.*has it"):
        kernel.create_section(PAGE, name="Global\\x")


def test_what_was_lent_outlives_the_lender(kernel: DirectoryKernel, other_user: As) -> None:
    other = other_user(NOBODY, _MAKE)
    other.ask("Global\\x")
    handle = kernel.open_section("Global\\x")
    other.kill()
    kernel.unmap_section(kernel.map_section(handle, PAGE), 0)
    kernel.close(kernel.duplicate(handle, access=ACCESS_READ, close_source=True))
    with refuses(2):
        kernel.open_section("Global\\x")


_USE_MEMORY = """
while True:
    handle = kernel.open_named(input(), "Memory", ACCESS_ALL)
    fd = kernel.descriptor(handle)
    os.pwrite(fd, b"seven", 0)
    os.close(fd)
    kernel.close(handle)
    print("written", flush=True)
"""


def test_what_a_driver_shares_is_used_by_another_user(
    kernel: DirectoryKernel, other_user: As
) -> None:
    fd = os.memfd_create("x", os.MFD_CLOEXEC)
    handle = kernel.share(fd, "Memory", name="Global\\x", security=Security(EVERYONE))
    assert other_user(NOBODY, _USE_MEMORY).ask("Global\\x") == "written"
    assert os.pread(fd, 9, 0) == b"seven"
    kernel.close(handle)
    os.close(fd)


def test_the_same_name_from_two_users(kernel: DirectoryKernel, other_user: As) -> None:
    first, second = other_user(NOBODY, _MAKE), other_user(SOMEBODY, _MAKE)
    assert first.ask("Global\\x") == "1"
    os.kill(first.service, signal.SIGSTOP)  # so that the second does not learn of it
    assert second.ask("Global\\x") == "1"
    os.kill(first.service, signal.SIGCONT)
    both = rf"(user {NOBODY} and user {SOMEBODY}|user {SOMEBODY} and user {NOBODY}) have that name"
    with refuses(52, both):
        kernel.open_section("Global\\x")
    with refuses(183, "the name is taken"):
        kernel.create_section(PAGE, name="Global\\x")
    second.kill()
    kernel.close(kernel.open_section("Global\\x"))
    assert first.ask() == "1"


class _impostor:
    """Something at an abstract socket, which says one thing or nothing."""

    def __init__(self, name: str, says: p.Message | bytes | None, uid: int = 0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for ending in ("", "-00000000"):
            try:
                self.socket.bind(f"\0{name}{ending}")
                break
            except OSError:
                continue
        self.socket.listen()
        self.says = says
        self.thread = threading.Thread(target=self.serve)
        self.kept: list[socket.socket] = []

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.kept.append(connection)
            connection.recv(p.MAX_PACKET)
            with contextlib.suppress(BrokenPipeError):
                if isinstance(self.says, bytes):
                    connection.send(self.says)
                elif self.says is not None:
                    p.send(connection, self.says)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()
        for each in self.kept:
            each.close()


def test_a_directory_that_hangs_costs_one_request(place: Place, kernel: DirectoryKernel) -> None:
    kernel.count_handles()
    with _impostor(f"{place.prefix}-{os.geteuid()}", None):
        waited: list[float] = []

        def wait() -> None:
            began = time.monotonic()
            second = DirectoryKernel()
            with refuses(2):
                second.open_section("Global\\x")
            waited.append(time.monotonic() - began)
            second.disconnect()

        thread = threading.Thread(target=wait)
        thread.start()
        longest = 0.0
        while thread.is_alive():
            began = time.monotonic()
            kernel.count_handles()
            longest = max(longest, time.monotonic() - began)
        thread.join()
        assert 0.9 < waited[0] < 20
        assert longest < 0.9  # less than one wait for the one that hangs


@pytest.mark.parametrize(
    "lie",
    [
        b"nonsense",
        p.Done(),
        p.Borrowed(bytes(16), 1, "Section", PAGE, 0x20005, b"", 1, "x"),  # without a descriptor
        p.Borrowed(bytes(16), 1, "Memory", PAGE, 0xF0007, b"", 1, "x"),
        p.Failed(2, 2, "x" * 8000),
    ],
    ids=lambda each: repr(each)[:20],
)
def test_a_directory_that_lies(
    place: Place, kernel: DirectoryKernel, lie: p.Message | bytes
) -> None:
    kernel.count_handles()

    def use() -> None:
        kernel.map_section(kernel.open_section("Global\\x", ACCESS_READ), PAGE, write=False)

    with _impostor(f"{place.prefix}-{os.geteuid()}", lie), pytest.raises(OSError, match=": "):
        use()
    assert kernel.status().counts["guests"] == 0


def test_what_is_no_request_ends_the_connection_after_others_were_asked(
    place: Place, kernel: DirectoryKernel
) -> None:
    kernel.count_handles()
    with (
        _impostor(f"{place.prefix}-{os.geteuid()}", p.Failed(2, 2, "none")),
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hostile,
    ):
        hostile.settimeout(5)
        hostile.connect(str(place.folder / "directory.sock"))
        p.send(hostile, p.Hello(p.VERSION))
        p.receive(hostile)
        p.send(hostile, p.CreateSection(PAGE, b"Global\\x", 0, b"\xff", False, b""))
        assert hostile.recv(100) == b""
    assert kernel.listing() == []


def test_who_claims_to_be_somebody_else(place: Place, kernel: DirectoryKernel) -> None:
    kernel.count_handles()
    lie = p.Borrowed(bytes(16), 1, "Section", PAGE, 0x20005, b"", 1, "x")
    with _impostor(f"{place.prefix}-4242", lie), refuses(2):
        kernel.open_section("Global\\x")
    assert "claims to be the directory of user 4242" in (place.folder / "directory.log").read_text()


def test_our_folder_is_closed_to_others(place: Place, kernel: DirectoryKernel) -> None:
    kernel.count_handles()
    if os.geteuid() != 0:
        missing("needs root to be two users", installable=False)
    tried = subprocess.run(
        [sys.executable, "-I", "-c", "import os, socket, sys\nos.setuid(65534)\n"
         "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])",
         str(place.folder / "directory.sock")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "PermissionError" in tried.stderr


def test_all_is_ours_again(kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE, name="Global\\x", access=ACCESS_ALL)
    kernel.close(kernel.open_section("Global\\x"))
    kernel.close(handle)
