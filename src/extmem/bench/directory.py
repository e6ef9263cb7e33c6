"""What the directory costs: one request, its start, and a hand-over by name. Linux alone has one.

The floor is a server in plain Python that sends back what it gets on a Unix socket, in a process of
its own as the directory is: no request to a Python process can cost less. The hand-overs are of
64 KiB on the embedded device, with both ends in one process; "memfd" is the same with what Python
has alone: made, sent, received, mapped twice, given back. What names cost is in `names`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import extmem
from extmem.bench.places import client, place
from extmem.bench.report import Measurement
from extmem.bench.rounds import Effort, Round, Tally, take_turns, timed

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["echo", "measure"]

_SIZE = 65536
ECHO = "echo server in Python"
_PYTHONS, _FIRST = "two bare Pythons", "extmem, the first call"

_SERVER = """
import socket, sys
connection = socket.socket(fileno=int(sys.argv[1]))
while packet := connection.recv(65536):
    connection.send(packet)
"""

_Pair = tuple[socket.socket, socket.socket]


@contextlib.contextmanager
def echo() -> Iterator[Round]:
    """A packet as long as a small request, there and back."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-c", _SERVER, str(there.fileno())]
    with subprocess.Popen(command, pass_fds=[there.fileno()]), here:
        there.close()
        packet = b"x" * 24

        def once() -> None:
            here.send(packet)
            here.recv(65536)

        once()
        yield timed(once)


def plain_handover(sockets: _Pair | None) -> Round:
    """Shared pages by what Python has: made, sent, received, mapped on both sides, given back.
    Without sockets, a duplicate of the descriptor stands for what was received.
    """

    def once() -> None:
        fd = os.memfd_create("bench", os.MFD_CLOEXEC)
        os.ftruncate(fd, _SIZE)
        first = mmap.mmap(fd, _SIZE)
        if sockets is None:
            got = os.dup(fd)
        else:
            socket.send_fds(sockets[0], [b"x"], [fd])
            _, (got,), _, _ = socket.recv_fds(sockets[1], 16, 1)
        second = mmap.mmap(got, _SIZE)
        os.close(fd)
        os.close(got)
        second.close()
        first.close()

    return timed(once)


def _by_name(gpu: extmem.Device) -> Round:
    def once() -> None:
        with (
            gpu.allocate(_SIZE, export="opaque_win32", name=r"Local\bench"),
            gpu.import_memory(name=r"Local\bench"),
        ):
            pass

    return timed(once)


def _by_descriptor(gpu: extmem.Device, sockets: _Pair) -> Round:
    here, there = sockets

    def once() -> None:
        with gpu.allocate(_SIZE, export="opaque_fd") as memory, memory.export() as handle:
            socket.send_fds(here, [memory.passport.encode()], [handle.fileno()])
            passport, (got,), _, _ = socket.recv_fds(there, 2048, 1)
            gpu.import_memory(got, handle_type="opaque_fd", passport=passport).close()
            os.close(got)

    return timed(once)


# -- starts ----------------------------------------------------------------------------------------


def _start() -> float:
    """Milliseconds of the first call of all, which starts a directory."""
    with place():
        began = time.perf_counter_ns()
        kernel = client()
        taken = (time.perf_counter_ns() - began) / 1e6
        kernel.disconnect()
    return taken


def _start_python() -> float:
    """Milliseconds of two Pythons that do nothing, one after the other: a start takes two."""
    began = time.perf_counter_ns()
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    subprocess.run([sys.executable, "-P", "-c", "pass"], check=True)
    return (time.perf_counter_ns() - began) / 1e6


def _starts(effort: Effort) -> Measurement:
    tally = Tally()
    starts = effort.some(4, 1)
    for number in range(effort.of(3)):
        effort.watch.step(f"starts, round {number + 1}")
        tally.add(_PYTHONS, [_start_python() for _ in range(starts)])
        tally.add(_FIRST, [_start() for _ in range(starts)])
    return Measurement(
        "directory-start",
        "directory",
        "The first use of all, which starts the directory",
        tally.rows([_PYTHONS]),
        unit="ms",
    )


# -- all of it -------------------------------------------------------------------------------------


def measure(effort: Effort) -> list[Measurement]:
    """Requests, hand-overs, and starts."""
    rounds, count = effort.of(7), effort.some(1000, 50)
    some = max(10, count // 10)  # a hand-over by name is some twenty requests
    effort.watch.steps(rounds * 6 + effort.of(3))
    starts = _starts(effort)
    with contextlib.ExitStack() as stack:
        floor = stack.enter_context(echo())
        stack.enter_context(place())
        kernel = client()
        stack.callback(kernel.disconnect)
        sockets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in sockets:
            stack.enter_context(each)
        full = stack.enter_context(extmem.open_device(driver="embedded", checks="full"))
        off = stack.enter_context(extmem.open_device(driver="embedded", checks="off"))
        contestants: dict[str, tuple[int, Round]] = {
            ECHO: (count, floor),
            # The pseudo-handle of a process stays open; the directory looks and says so.
            "extmem, one request": (count, timed(lambda: kernel.close(-1))),
            "memfd over a socketpair": (count, plain_handover(sockets)),
            "extmem by descriptor, checks off": (some, _by_descriptor(off, sockets)),
            "extmem by descriptor, full checks": (some, _by_descriptor(full, sockets)),
            "extmem by name, checks off": (some, _by_name(off)),
            "extmem by name, full checks": (some, _by_name(full)),
        }
        tally = take_turns(contestants, rounds, effort.watch)
    asked = Measurement(
        "directory",
        "directory",
        "Requests to the directory, and hand-overs of 64 KiB by name and by descriptor",
        tally.rows([ECHO, "memfd over a socketpair"]),
    )
    return [asked, starts]
