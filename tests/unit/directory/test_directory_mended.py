"""What clients are told when something is in the way: limits, forks, ends, folders, descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extmem.handles.access import MAXIMUM_ALLOWED, SECTION_MAP_READ
from extmem.handles.directory import client, folder, starting
from extmem.handles.directory import protocol as p
from extmem.handles.directory.client import DirectoryKernel
from extmem.handles.directory.connection import Connection
from extmem.handles.directory.processes import hung_up, peer_of, program
from extmem.handles.directory.state import State
from extmem.handles.handle import Handle
from extmem.handles.kernel import ACCESS_ALL, Security
from extmem.handles.sddl import User
from extmem.share import channel, parcels
from tests.support.directory import PAGE, Place, entered, refuses, services_of


def said(lines: str, **environment: str) -> list[str]:
    """What a program of its own prints; it ends by itself."""
    done = subprocess.run(
        [sys.executable, "-c", lines],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# -- one client for all threads, and for forks -----------------------------------------------------


def test_threads_that_are_the_first_get_one_client() -> None:
    assert said("""
import sys, threading
from extmem.handles import system
sys.setswitchinterval(1e-6)
found, together = [], threading.Barrier(8)
def first():
    together.wait()
    found.append(system.kernel())
threads = [threading.Thread(target=first) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
print(len(found), len({id(each) for each in found}))
""") == ["8 1"]


def test_a_fork_while_another_thread_connects(place: Place) -> None:
    """The thread is held where it has the client's lock; in the child there is no such thread."""
    assert said("""
import os, signal, threading
from extmem.handles.directory import client, starting
kernel = client.DirectoryKernel()
there, go, connect = threading.Event(), threading.Event(), starting.connect
def slow(token):
    there.set()
    go.wait()
    return connect(token)
starting.connect = slow
thread = threading.Thread(target=kernel.count_handles)
thread.start()
there.wait()
child = os.fork()
if child == 0:
    signal.alarm(10)
    try:
        kernel.count_handles()
    except OSError as error:
        print(error.winerror, "forked" in str(error), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
go.set()
thread.join()
print(kernel.count_handles())
""") == ["6 True", "0", "0"]


def test_a_child_keeps_nothing_of_a_start(place: Place) -> None:
    """A child that is forked while the service starts holds neither its lock nor its socket."""
    assert said("""
import fcntl, os
from extmem.handles.directory import client, starting
spawn, kernel = starting._spawn, client.DirectoryKernel()
def forks(folder, listener):
    global child
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writes)
        os.read(reads, 1)  # until the parent ends
        os._exit(0)
    os.close(reads)
    spawn(folder, listener)
starting._spawn = forks
service = kernel.status().process_id
lock = os.open(os.path.join(os.environ["EXTMEM_RUNTIME_DIR"], "directory.lock"), os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
fcntl.flock(lock, fcntl.LOCK_UN)
targets = {os.readlink(f"/proc/{child}/fd/{each}") for each in os.listdir(f"/proc/{child}/fd")}
print(len([each for each in targets if each.startswith("socket:")]))
""") == ["0"]


# -- the end of the directory ----------------------------------------------------------------------


@pytest.mark.parametrize("checks", ["full", "off"])
def test_exported_memory_closes_after_the_end(place: Place, checks: str) -> None:
    assert said(f"""
import os, signal, extmem
from extmem.handles.system import directory
gpu = extmem.open_device(driver="embedded", checks={checks!r})
named = gpu.allocate(4096, export="opaque_win32", name="Local\\\\x")
handle = named.export()
os.kill(directory().status().process_id, signal.SIGKILL)
for each in (handle, named):
    each.close()
    each.close()
    print(each.closed)
gpu.close()
""") == ["True", "True"]


def test_letting_go_of_what_cannot_be_reached(
    place: Place, kernel: DirectoryKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = kernel.create_section(PAGE)
    kernel.disconnect()
    monkeypatch.setenv("EXTMEM_RUNTIME_DIR", str(place.folder / "not" / "there"))
    kernel.let_go(handle)
    with refuses(1722, "cannot use .*there: No such file"):
        kernel.close(handle)
    monkeypatch.undo()
    kernel.close(handle)
    with refuses(6):
        kernel.let_go(handle)  # closed twice is a mistake


# -- limits ----------------------------------------------------------------------------------------

_FEW = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
from extmem.handles.directory.client import running
kernels = []
try:
    while len(kernels) < 20:
        made = DirectoryKernel()
        made.count_handles()
        kernels.append(made)
except OSError as error:
    print(len(kernels), error.winerror, error, flush=True)
try:
    print(running(), flush=True)
except OSError as error:
    print(error.winerror, error, flush=True)
input()
"""


def test_at_the_limit_of_connections_one_is_told(place: Place) -> None:
    other = place.other(_FEW)
    first = other.read()
    assert first.startswith("8 1450 ")
    assert "connections: the limit of 8 is reached" in first
    assert "connections: the limit of 8 is reached" in other.read()
    done = subprocess.run(
        [sys.executable, "-m", "extmem", "list"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "the limit of 8 is reached" in done.stderr
    from extmem.cli import doctor_directory

    (found,) = doctor_directory.service()
    assert (found.severity, found.facts) == ("problem", {"running": True})
    assert "limit of 8" in found.sentence
    assert "rm " not in str(found.remedy)
    other.close()
    assert place.kernel().count_handles() == 0  # who were refused left nothing


def test_a_listener_that_closes_everything_is_no_absence(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.bind(str(place.folder / "directory.sock"))
        stranger.listen()

        def close() -> None:
            for _ in range(2 * starting._TRIES):
                stranger.accept()[0].close()

        thread = threading.Thread(target=close)
        thread.start()
        with refuses(1722, "closes every connection"):
            client.running()
        with refuses(1722, "closes every connection"):
            place.kernel().count_handles()
        thread.join()
    (place.folder / "directory.sock").unlink()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """None is left in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_no_descriptor_is_left_in_the_client(place: Place, kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE)
    with no_descriptors():
        for _ in range(2):
            with refuses(1450, "ulimit -n"):
                kernel.descriptor(handle)
        assert kernel.info(handle).handle_count == 1  # the connection goes on
        kernel.disconnect()
        with refuses(1450, "no descriptor is left.*ulimit -n"):
            kernel.count_handles()
    os.close(kernel.descriptor(handle))
    kernel.close(handle)


def test_an_unusable_folder_is_said_by_the_objects(place: Place) -> None:
    lines = said(
        """
import extmem
from extmem import vk
def says(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except (extmem.DriverError, extmem.RuleViolation) as error:
        print(type(error).__name__, error)
with extmem.open_device(driver="embedded") as gpu:
    for kind in ("opaque_win32", "opaque_win32_kmt"):
        says(gpu.allocate, 64, export=kind)
    says(gpu.semaphore, export="opaque_win32")
    says(gpu.import_memory, 4096, handle_type="opaque_win32", size=64)
    says(gpu.import_memory, 4098, handle_type="opaque_win32_kmt", size=64)
    says(gpu.import_memory, name="x")
""",
        EXTMEM_RUNTIME_DIR=str(place.folder / "not" / "there"),
    )
    assert [each.partition(" ")[0] for each in lines] == [
        *["DriverError"] * 3,
        *["RuleViolation"] * 3,
    ]
    for each in lines:
        assert f"cannot use {place.folder}/not/there: No such file" in each


def test_a_limit_of_handles_is_said_by_the_objects(place: Place) -> None:
    first, second = said("""
import extmem
from extmem.handles.directory import service
from extmem.handles.system import directory
with extmem.open_device(driver="embedded") as gpu:
    made = gpu.allocate(64, export="opaque_win32")
    with made.export() as handle:
        taken = []
        try:
            while True: taken.append(directory().duplicate(handle.value))
        except OSError: pass
        for call in (lambda: gpu.allocate(64, export="opaque_win32"), made.export):
            try:
                call()
            except (extmem.DriverError, OSError) as error:
                print(error)
    made.close()
""")
    assert "the limit of 65536 is reached" in first
    assert "the limit of 65536 is reached" in second


# -- inheritance -----------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["f" * 32, "zzz", "z" * 1000])
def test_a_wrong_token_is_said_wherever_a_handle_is_missed(place: Place, token: str) -> None:
    first, second, third = said(
        """
import extmem, os
from extmem import win32
with extmem.open_device(driver="embedded") as gpu:
    for _ in range(2):
        try:
            gpu.import_memory(4096, handle_type="opaque_win32", size=64)
        except extmem.RuleViolation as error:
            print(error)
    try:
        win32.GetHandleInformation(4096)
    except OSError as error:
        print(error.winerror, error, "EXTMEM_INHERIT" in os.environ)
""",
        EXTMEM_INHERIT=token,
    )
    for each in (first, second, third):
        assert "cannot inherit the handles of EXTMEM_INHERIT" in each
        assert "win32.child_environment()" in each
    assert third.startswith("6 ")
    assert third.endswith("False")


def test_a_token_waits_for_the_directory(place: Place, kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE, security=Security(inherit=True))
    child = place.other(
        """
handle, right = int(input()), os.environ["EXTMEM_RUNTIME_DIR"]
os.environ["EXTMEM_RUNTIME_DIR"] = "/nowhere/at/all"
first = fails(kernel.info, handle)
os.environ["EXTMEM_RUNTIME_DIR"] = right
print(first, kernel.info(handle).handle_count, flush=True)
input()
""",
        kernel.child_environment(),
    )
    assert child.ask(handle) == "1722 2"
    kernel.close(handle)


# -- who has a name --------------------------------------------------------------------------------


def test_a_living_holder_is_named(place: Place, kernel: DirectoryKernel) -> None:
    maker = place.other('kernel.create_section(4096, name="x")\nprint(flush=True)\ninput()')
    maker.read()
    with refuses(183, rf"taken; process {maker.pid} \([^)]*\) has it \(W"):
        kernel.create_section(PAGE, name="x")
    holder = place.other('kernel.open_section("x")\nprint(flush=True)\ninput()')
    holder.read()
    maker.kill()
    why = rf"process {holder.pid} \(.*\) has it; process {maker.pid} \(.*\) made it and has ended"
    with refuses(183, why):
        kernel.create_section(PAGE, name="x")
    handle = kernel.open_section("x")
    kernel.set_flags(handle, 1, 1)
    kernel.child_environment()
    kernel.close(handle)
    holder.kill()
    with refuses(183, f"to inherit it; process {maker.pid} "):
        kernel.create_section(PAGE, name="x")


@pytest.mark.parametrize("access", [MAXIMUM_ALLOWED, 0])
def test_all_that_is_allowed_is_not_nothing(access: int) -> None:
    state = State()
    maker, stranger = (state.admit(each, User(each, frozenset()), "") for each in (1, 2))
    handle = state.create_section(maker, PAGE, "x", ACCESS_ALL, "D:(A;;GA;;;S-1-22-1-3)", False)
    with refuses(5, "allows this user nothing"):
        state.open_named(stranger, "Section", "x", access)
    item = maker.table.get(handle).object
    given = state._insert(stranger, item, SECTION_MAP_READ, False, "")
    if access:  # a handle that was given is no way to more, and none to nothing
        with refuses(5, "allows this user nothing"):
            state.duplicate(stranger, given, access, False)
    state.end(maker)
    state.end(stranger)
    assert state.handles == 0
    assert state.names.find("Local\\x") is None


# -- programs --------------------------------------------------------------------------------------

_FIRST = """
kernel.create_section(4096, name="of the first program")
print("made", flush=True)
input()
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
_SECOND = """
from extmem.handles.directory.client import DirectoryKernel
kernel = DirectoryKernel()
print(kernel.count_handles(), flush=True)
kernel.create_section(4096, name="of the first program")
print("made", flush=True)
input()
"""


def test_a_program_takes_nothing_over_by_execve(place: Place, kernel: DirectoryKernel) -> None:
    assert len(program()) == 16
    other = place.other(_FIRST.replace("sys.argv[1]", repr(_SECOND)))
    assert other.read() == "made"
    with refuses(183, f"process {other.pid} "):
        kernel.create_section(PAGE, name="of the first program")
    assert other.ask() == "0"
    assert other.read() == "made"
    assert kernel.status().counts["processes"] == 2


def test_two_programs_in_one_process_are_left_alone(
    place: Place, kernel: DirectoryKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = kernel.create_section(PAGE)
    monkeypatch.setattr(starting, "program", lambda: b"another")
    second = place.kernel()
    assert second.info(handle).handle_count == 1  # the first is there, and connected
    kernel.close(handle)


def test_hung_up() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    there.send(b"left to read")
    assert not hung_up(here)
    there.close()
    assert hung_up(here)
    here.close()


def test_the_directory_itself_is_no_process_to_open(place: Place, kernel: DirectoryKernel) -> None:
    with refuses(5, "it is the directory itself"):
        kernel.open_process(0x40, False, place.service)


# -- folders ---------------------------------------------------------------------------------------


def test_a_folder_that_is_no_text() -> None:
    with entered(Place()) as place:
        odd = os.fsencode(place.folder) + b"/\xff"
        os.environ["EXTMEM_RUNTIME_DIR"] = os.fsdecode(odd)  # `entered` puts it back
        kernel = DirectoryKernel()
        state = kernel.status()
        assert state.folder == f"{place.folder}/\\xff"
        kernel.disconnect()
        os.kill(state.process_id, 15)
        from tests.support.directory import gone

        assert gone(state.process_id)


def test_a_reply_that_cannot_be_sent_is_a_mistake_that_is_told() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    there.settimeout(5)
    connection = Connection(here, peer_of(here), guest=False)
    connection.reply(p.State(1, 1, 1.0, {}, {}, "\udcff"))
    reply = p.decode_reply(p.receive(there)[0])
    assert isinstance(reply, p.Failed)
    assert reply.code == 1359
    connection.close()
    there.close()


@pytest.mark.parametrize("name", ["directory.sock", "directory.log", "directory.lock"])
def test_a_folder_where_a_file_has_to_be(place: Place, name: str) -> None:
    wrong = place.folder / name
    wrong.mkdir()
    with refuses(1722, f"cannot use {wrong}: it is a folder.* remove it: rm -r {wrong}"):
        place.kernel().count_handles()
    wrong.rmdir()
    with contextlib.suppress(FileNotFoundError):
        (place.folder / "directory.sock").unlink()
    assert place.kernel().count_handles() == 0


@pytest.mark.parametrize(
    ("number", "says"),
    [(28, "no room left on its disk; make room"), (24, "no descriptor is left; .*ulimit -n")],
)
def test_a_system_that_has_no_more(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    real = os.open

    def full(path: Any, *rest: Any, **named: Any) -> int:
        if path == "directory.lock":
            raise OSError(number, os.strerror(number))
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", full)
    with refuses(1450 if number == 24 else 1722, f"directory.lock: .*{says}"):
        place.kernel().count_handles()


def test_a_program_without_input_output_and_errors(place: Place, tmp_path: Path) -> None:
    written = tmp_path / "said"
    lines = f"""
import os
from extmem.handles.directory.client import DirectoryKernel
kernel = DirectoryKernel()
handle = kernel.create_section(4096)
connection = kernel._connection.fileno()
with open({str(written)!r}, "w") as file:
    file.write(f"{{kernel.info(handle).handle_count}} {{connection > 2}}")
"""
    shell = 'exec "$0" -c "$1" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", shell, sys.executable, lines], check=True, timeout=60)
    assert written.read_text() == "1 True"


# -- channels and drivers --------------------------------------------------------------------------


def test_a_windows_handle_for_a_peer_that_is_gone(place: Place) -> None:
    assert said("""
import os, sys, extmem
from extmem.share import channel
with channel.Listener("gone") as door, extmem.open_device(driver="embedded") as gpu:
    child = os.posix_spawn(sys.executable, [sys.executable, "-c",
        "from extmem.share import channel; channel.connect('gone')"], os.environ)
    with gpu.allocate(64, export="opaque_win32") as memory, door.accept(60) as other:
        os.waitpid(child, 0)
        try:
            other.send(b"", [memory])
        except BrokenPipeError as error:
            print(error, other.closed)
""") == ["[Errno 32] the peer is gone True"]


def test_a_refusal_is_shown_and_not_obeyed() -> None:
    here, there = channel.pair()
    with here, there:
        assert there._end is not None
        there._end.send(
            parcels.encode(parcels.Packet(b"", (), "you\x1b[2J are not welcome")), [], 1
        )
        with pytest.raises(PermissionError, match="refused this one") as refused:
            here.receive(timeout=5)
    assert "\x1b" not in str(refused.value)
    assert "not welcome" in str(refused.value)


def test_a_channel_goes_on_when_a_descriptor_had_no_room() -> None:
    fd = os.memfd_create("x")
    here, there = channel.pair()
    with here, there, Handle(fd, "opaque_fd") as handle:
        here.send(b"lost", [handle])
        here.send(b"bare")
        with no_descriptors(), pytest.raises(OSError, match="ulimit -n") as few:
            there.receive(timeout=5)
        assert few.value.errno == 24
        assert there.receive(timeout=5).message == b"bare"


def test_a_name_of_another_driver(place: Place) -> None:
    (told,) = said("""
import os, extmem
from extmem.handles.system import directory
fd = os.memfd_create("x")
directory().share(fd, "Memory", name="x")
with extmem.open_device(driver="embedded") as gpu:
    try:
        gpu.import_memory(name="x", size=64)
    except extmem.RuleViolation as error:
        print(error)
""")
    assert "which another driver or device shares (Memory, not Section)" in told
    assert "open_device(driver=...)" in told


# -- doctor ----------------------------------------------------------------------------------------


def test_directories_elsewhere(
    place: Place, kernel: DirectoryKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from extmem.cli import doctor_directory

    kernel.count_handles()
    with entered(Place()) as second:
        second.kernel().count_handles()
        found = [each for each in doctor_directory.elsewhere() if each.facts.get("path") ==
                 str(place.folder)]  # fmt: skip
        (running,) = found
        assert running.severity == "note"
        assert running.facts["process_id"] in services_of(place.folder)
        assert "set EXTMEM_RUNTIME_DIR to one folder" in str(running.remedy)
    stale = tmp_path / "extmem"
    stale.mkdir(0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(stale / "directory.sock"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert stale in folder.others()
    (found_stale,) = [
        each for each in doctor_directory.elsewhere() if each.facts.get("path") == str(stale)
    ]
    assert found_stale.severity == "note"
    assert f"rm {stale / 'directory.sock'}" in str(found_stale.remedy)
