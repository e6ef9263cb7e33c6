"""The service's life: how it starts, leaves, survives others, and what its end means to them."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from extmem.handles.directory import starting
from extmem.handles.directory.client import DirectoryKernel
from extmem.handles.directory.folder import where
from tests.support.directory import (
    LONG,
    PAGE,
    Other,
    Place,
    entered,
    eventually,
    gone,
    refuses,
    services_of,
)


def test_many_who_start_at_once_start_one(place: Place) -> None:
    # They have the imports behind them, and wait for the same line.
    others = [place.other("input()\nprint(kernel.status().process_id, flush=True)\ninput()")
              for _ in range(20)]  # fmt: skip
    assert services_of(place.folder) == []
    for other in others:
        assert other.process.stdin is not None
        other.process.stdin.write("\n")
        other.process.stdin.flush()
    services = {int(other.read()) for other in others}
    assert len(services) == 1
    assert services_of(place.folder) == list(services)


def test_the_service_is_nobodys_child(place: Place) -> None:
    service = place.service
    status = Path(f"/proc/{service}/stat").read_text().rpartition(")")[2].split()
    parent, session = int(status[1]), int(status[3])
    assert parent != os.getpid()
    assert session != os.getsid(0)
    assert os.readlink(f"/proc/{service}/cwd") == "/"
    assert os.readlink(f"/proc/{service}/fd/0") == "/dev/null"
    targets = [os.readlink(fd) for fd in Path(f"/proc/{service}/fd").iterdir()]
    kinds = ("/dev/null", "socket:", "anon_inode:", str(place.folder))
    assert [each for each in targets if not each.startswith(kinds)] == []


def test_it_leaves_when_nobody_needs_it() -> None:
    with entered(Place(idle=0.3)) as place:
        kernel = place.kernel()
        handle = kernel.create_section(PAGE)
        service = kernel.status().process_id
        time.sleep(0.8)
        assert kernel.status().process_id == service  # we are connected
        kernel.disconnect()
        time.sleep(0.8)
        assert kernel.info(handle).handle_count == 1  # and our handles keep it too
        kernel.close(handle)
        kernel.disconnect()
        assert gone(service, 5)
        assert sorted(each.name for each in place.folder.iterdir()) == [
            "directory.lock",
            "directory.log",
        ]
        assert kernel.status().process_id != service  # nothing was lost, so nothing is said


def test_who_comes_when_it_leaves_gets_another(place: Place) -> None:
    with entered(Place(idle=0.0)) as place:
        services = set()
        for _ in range(20):
            kernel = DirectoryKernel()
            services.add(kernel.status().process_id)
            kernel.disconnect()
            time.sleep(random.random() / 200)
        assert eventually(lambda: services_of(place.folder) == [])


@pytest.mark.parametrize("count", [500 if LONG else 20])
@pytest.mark.timeout(900)
def test_clients_are_killed_anywhere(place: Place, kernel: DirectoryKernel, count: int) -> None:
    chance = random.Random(count)
    kept = kernel.create_section(PAGE, name="kept", passport=bytes(1000))
    for turn in range(count):
        other = Other(
            """
import random
kernel.count_handles()
print("go", flush=True)
chance, open_ = random.Random(int(input())), []
while True:
    match chance.randrange(6):
        case 0:
            open_.append(kernel.create_section(4096, name=f"{len(open_)}", passport=bytes(9000)))
        case 1:
            open_.append(kernel.open_section("kept"))
        case 2 if open_:
            kernel.close(open_.pop())
        case 3 if open_:
            kernel.unmap_section(kernel.map_section(open_[-1], 4096), 0)
        case 4:
            kernel.child_environment()
        case 5:
            fd = os.memfd_create("x")
            open_.append(kernel.share(fd, "Memory"))
            os.close(fd)
""",
            place.environment,
        )
        assert other.read() == "go"
        assert other.process.stdin is not None
        other.process.stdin.write(f"{turn}\n")
        other.process.stdin.flush()
        time.sleep(chance.random() / 20)
        other.kill()
        assert kernel.info(kept).handle_count == 1
        assert [each.identity for each in kernel.listing()] == [kernel.info(kept).identity]
    status = kernel.status()
    assert status.counts == {
        **dict.fromkeys(status.counts, 0),
        **{"processes": 1, "objects": 1, "names": 1, "handles": 1, "descriptors": 1},
        "connections": status.counts["connections"],
    }
    kernel.close(kept)


@pytest.mark.parametrize("count", [50 if LONG else 3])
@pytest.mark.timeout(300)
def test_the_end_of_the_directory(place: Place, kernel: DirectoryKernel, count: int) -> None:
    for _ in range(count):
        handle = kernel.create_section(PAGE, name="x")
        address = kernel.map_section(handle, PAGE)
        ctypes.memset(address, 7, PAGE)
        first = place.kill()
        with refuses(1722, "it ended while .* handles, names and KMT numbers are gone.* again"):
            kernel.info(handle)
        with refuses(6, "ended once"):  # a new one, which says so
            kernel.info(handle)
        with refuses(2, "ended once"):
            kernel.open_section("x")
        assert kernel.status().process_id != first
        assert ctypes.string_at(address, PAGE) == b"\7" * PAGE
        kernel.unmap_section(address, PAGE)
        assert kernel.count_handles() == 0


def test_waiting_clients_are_told_of_the_end(place: Place, kernel: DirectoryKernel) -> None:
    service = place.service
    kernel.count_handles()
    os.kill(service, signal.SIGSTOP)  # it does not answer while it is stopped
    told: list[int | None] = []

    def wait() -> None:
        try:
            kernel.count_handles()
        except OSError as error:
            told.append(getattr(error, "winerror", None))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    os.kill(service, signal.SIGKILL)
    thread.join(5)
    assert told == [1722]
    kernel.count_handles()  # a new one, which takes the place of the old one's socket


@pytest.mark.parametrize("handles", [0, 1])
def test_the_end_of_a_process_and_of_its_connection_at_once(
    place: Place, kernel: DirectoryKernel, handles: int
) -> None:
    other = place.other(
        f"for _ in range({handles}): kernel.create_section(4096)\n"
        "print(kernel.count_handles(), flush=True)\ninput()"
    )
    assert other.read() == str(handles)
    service = kernel.status().process_id
    os.kill(service, signal.SIGSTOP)
    other.kill()
    os.kill(service, signal.SIGCONT)
    assert kernel.status().process_id == service
    assert kernel.status().counts["processes"] == 1
    assert "mistake" not in (place.folder / "directory.log").read_text()


def test_a_socket_that_was_left_behind(place: Place, kernel: DirectoryKernel) -> None:
    service = place.kill()
    assert (place.folder / "directory.sock").exists()
    other = place.kernel()
    assert other.status().process_id != service


def test_it_cannot_be_started(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with refuses(1722, "cannot be started"):
        place.kernel().status()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with refuses(1722, "cannot be started; its log is"):
        place.kernel().status()
    monkeypatch.setattr(sys, "executable", "")
    with refuses(1722, "sys.executable"):
        place.kernel().status()
    monkeypatch.undo()
    monkeypatch.setattr(starting, "_LAUNCHER", "import os\nif os.fork(): os._exit(0)\nos._exit(1)")
    with refuses(1722, "ends as soon as it is started"):
        place.kernel().status()
    (place.folder / "directory.sock").unlink()


def test_descriptors_end(place: Place) -> None:
    """A service that may have few says so, and goes on."""
    other = place.other("""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
handles = []
try:
    while True:
        handles.append(kernel.create_section(4096))
except OSError as error:
    print(error.winerror, error, flush=True)
for handle in handles[:3]:
    kernel.close(handle)
kernel.create_section(4096)
print(len(handles), flush=True)
input()
""")
    said = other.read()
    assert said.startswith("1450 ")
    assert "limit of" in said
    assert "ulimit -Hn" in said
    assert 20 < int(other.read()) < 160
    hard = resource.prlimit(place.service, resource.RLIMIT_NOFILE)
    assert hard == (160, 160)


# -- the folder ------------------------------------------------------------------------------------


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXTMEM_RUNTIME_DIR", str(tmp_path / "x"))
    assert where() == tmp_path / "x"
    monkeypatch.delenv("EXTMEM_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert where() == tmp_path / "extmem"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nothing"))
    user = os.geteuid()
    there = Path(f"/run/user/{user}").is_dir()
    assert where() == Path(f"/run/user/{user}/extmem" if there else f"/tmp/extmem-{user}")


def test_folders_that_are_not_ours_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(path: Path, why: str) -> None:
        monkeypatch.setenv("EXTMEM_RUNTIME_DIR", str(path))
        with refuses(1722, why):
            DirectoryKernel().count_handles()

    wide = tmp_path / "wide"
    wide.mkdir()
    wide.chmod(0o755)
    refused(wide, "mode 755.*chmod 700")
    link = tmp_path / "link"
    link.symlink_to(place.folder)
    refused(link, "symbolic link")
    file = tmp_path / "file"
    file.touch()
    refused(file, "cannot use the folder")
    refused(tmp_path / "a" / "b", "No such file")
    if os.geteuid() == 0:
        theirs = tmp_path / "theirs"
        theirs.mkdir(mode=0o700)
        os.chown(theirs, 65534, 65534)
        refused(theirs, "belongs to user 65534")


def test_a_long_path() -> None:
    with entered(Place()) as place:
        long = place.folder / ("x" * 150)
        os.environ["EXTMEM_RUNTIME_DIR"] = str(long)  # `entered` puts it back
        kernel = DirectoryKernel()
        service = kernel.status().process_id
        second = DirectoryKernel()
        assert second.status().process_id == service
        kernel.disconnect()
        second.disconnect()
        os.kill(service, 15)
        assert gone(service)


def test_two_folders_are_two_directories(place: Place, kernel: DirectoryKernel) -> None:
    handle = kernel.create_section(PAGE, name="x")
    with entered(Place()) as second, refuses(2):
        second.kernel().open_section("x")
    kernel.close(handle)


def test_a_stranger_in_the_place_of_the_service(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.bind(str(place.folder / "directory.sock"))
        stranger.listen()

        def answer() -> None:
            connection, _ = stranger.accept()
            with connection:
                connection.recv(1000)
                connection.send(b"nonsense")

        thread = threading.Thread(target=answer)
        thread.start()
        with refuses(1722, "cannot be read"):
            place.kernel().count_handles()
        thread.join()
    (place.folder / "directory.sock").unlink()


def test_the_log_of_a_client(place: Place) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import logging; logging.basicConfig(level=logging.INFO)\n"
         "from extmem.handles.directory.client import DirectoryKernel\n"
         "DirectoryKernel().count_handles()"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "extmem.directory:started the directory" in ended.stderr
