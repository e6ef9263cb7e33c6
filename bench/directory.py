"""What the directory costs: one request, names, its start, and a hand-over by name.

    python bench/directory.py [--rounds 15] [--json]

For Linux: Windows has no directory. The floor is a server in plain Python that sends back what it
gets on a Unix socket, in a process of its own as the directory is: no request to a Python process
can cost less. All take turns, round by round, so that a machine that changes its speed changes it
for all. p50 and p95 are the medians of the rounds' own; lowest and highest are rounds' p50; ratios
are medians of the rounds' own ratios.

The crowded directory has 10,000 names, which 100 processes hold, each by a connection of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import platform
import random
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import extmem
from extmem.handles.directory.client import DirectoryKernel

SIZE = 65536
HOLDERS, NAMES_EACH = 100, 100  # of the crowded directory
FEW = 10  # names, in the other one
FLOOR = "echo server in Python"
FEW_NAMES, MANY_NAMES = "open and close, 10 names", "open and close, 10,000 names"

Round = Callable[[int], list[float]]


def timed(action: Callable[[], None]) -> Round:
    """A round that times `action` many times, in microseconds."""

    def run(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            start = time.perf_counter_ns()
            action()
            taken.append((time.perf_counter_ns() - start) / 1000)
        return taken

    return run


# -- directories -----------------------------------------------------------------------------------


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A folder in which the next new client finds, or starts, a directory; it ends with this."""
    folder = Path(tempfile.mkdtemp(prefix="xb-"))
    before = os.environ.get("EXTMEM_RUNTIME_DIR")
    os.environ["EXTMEM_RUNTIME_DIR"] = str(folder)
    os.environ["EXTMEM_DIRECTORY_GLOBAL"] = f"xb-{os.getpid()}"
    try:
        yield folder
    finally:
        os.environ["EXTMEM_RUNTIME_DIR"] = str(folder)
        looking = DirectoryKernel()
        service = looking.status().process_id
        looking.disconnect()
        end(service)
        shutil.rmtree(folder)
        os.environ.pop("EXTMEM_RUNTIME_DIR")
        if before is not None:
            os.environ["EXTMEM_RUNTIME_DIR"] = before


def end(service: int) -> None:
    """End a directory, and wait until it has."""
    watch = os.pidfd_open(service)
    os.kill(service, signal.SIGTERM)
    select.select([watch], [], [], 10)
    os.close(watch)


def client() -> DirectoryKernel:
    """One that is connected to the directory of this moment, and stays so."""
    made = DirectoryKernel()
    made.count_handles()
    return made


@contextlib.contextmanager
def holders(processes: int, names: int) -> Iterator[None]:
    """Processes that hold names in the directory of this moment."""
    command = [sys.executable, __file__, "--hold", str(processes), str(names)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        if parent.stdout.readline() != b"ready\n":
            raise SystemExit("the processes that hold names could not be started")
        yield  # they end with the pipe that `with` closes


def hold(processes: int, names: int) -> None:
    """What those do: fork, so that a hundred of them fit into a small machine, then connect."""
    made, done = os.pipe()
    for number in range(processes):
        if os.fork() == 0:
            kernel = DirectoryKernel()
            for index in range(names):
                kernel.create_section(4096, name=f"held-{number}-{index}")
            os.write(done, b"x")
            os.close(made)
            sys.stdin.read()
            os._exit(0)
    for _ in range(processes):
        os.read(made, 1)
    print("ready", flush=True)
    sys.stdin.read()
    for _ in range(processes):
        os.wait()


def opening(kernel: DirectoryKernel, names: list[str]) -> Round:
    """Open a name, one or another, and close it: two requests."""
    chance = random.Random(1)

    def once() -> None:
        kernel.close(kernel.open_section(chance.choice(names)))

    return timed(once)


# -- the floor -------------------------------------------------------------------------------------

_ECHO = """
import socket, sys
connection = socket.socket(fileno=int(sys.argv[1]))
while packet := connection.recv(65536):
    connection.send(packet)
"""


@contextlib.contextmanager
def echo() -> Iterator[Round]:
    """A packet as long as a small request, there and back."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-c", _ECHO, str(there.fileno())]
    with subprocess.Popen(command, pass_fds=[there.fileno()]), here:
        there.close()
        packet = b"x" * 24

        def once() -> None:
            here.send(packet)
            here.recv(65536)

        once()
        yield timed(once)


def plain_handover(sockets: tuple[socket.socket, socket.socket]) -> Round:
    """Shared pages by what Python has: made, sent, received, mapped on both sides, given back."""
    here, there = sockets

    def once() -> None:
        fd = os.memfd_create("bench", os.MFD_CLOEXEC)
        os.ftruncate(fd, SIZE)
        first = mmap.mmap(fd, SIZE)
        socket.send_fds(here, [b"x"], [fd])
        _, (got,), _, _ = socket.recv_fds(there, 16, 1)
        second = mmap.mmap(got, SIZE)
        os.close(fd)
        os.close(got)
        second.close()
        first.close()

    return timed(once)


# -- hand-overs ------------------------------------------------------------------------------------


def by_name(gpu: extmem.Device) -> Round:
    def once() -> None:
        with (
            gpu.allocate(SIZE, export="opaque_win32", name=r"Local\bench"),
            gpu.import_memory(name=r"Local\bench"),
        ):
            pass

    return timed(once)


def by_descriptor(gpu: extmem.Device, sockets: tuple[socket.socket, socket.socket]) -> Round:
    here, there = sockets

    def once() -> None:
        with gpu.allocate(SIZE, export="opaque_fd") as memory, memory.export() as handle:
            socket.send_fds(here, [memory.passport.encode()], [handle.fileno()])
            passport, (got,), _, _ = socket.recv_fds(there, 2048, 1)
            gpu.import_memory(got, handle_type="opaque_fd", passport=passport).close()
            os.close(got)

    return timed(once)


# -- starts ----------------------------------------------------------------------------------------


def start() -> float:
    """Milliseconds of the first call of all, which starts a directory."""
    with place():
        began = time.perf_counter_ns()
        kernel = client()
        taken = (time.perf_counter_ns() - began) / 1e6
        kernel.disconnect()
    return taken


def start_python() -> float:
    """Milliseconds of two Pythons that do nothing, one after the other: a start takes two."""
    began = time.perf_counter_ns()
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    subprocess.run([sys.executable, "-P", "-c", "pass"], check=True)
    return (time.perf_counter_ns() - began) / 1e6


# -- all of it -------------------------------------------------------------------------------------


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def measure(rounds: int, count: int, starts: int) -> dict[str, Any]:
    """Everything, as one JSON-able object."""
    started: dict[str, list[float]] = {"two bare Pythons": [], "the directory": []}
    for _ in range(starts):
        started["two bare Pythons"].append(start_python())
        started["the directory"].append(start())
    with contextlib.ExitStack() as stack:
        floor = stack.enter_context(echo())
        stack.enter_context(place())
        calm = client()
        few_names = [f"held-{index}" for index in range(FEW)]
        kept = [calm.create_section(4096, name=each) for each in few_names]
        stack.callback(calm.disconnect)
        sockets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in sockets:
            stack.enter_context(each)
        # What the devices are given names by is this directory, too.
        full = stack.enter_context(extmem.open_device(driver="embedded", checks="full"))
        off = stack.enter_context(extmem.open_device(driver="embedded", checks="off"))
        by_name(full)(1)
        stack.enter_context(place())
        crowded = client()
        stack.callback(crowded.disconnect)
        stack.enter_context(holders(HOLDERS, NAMES_EACH))
        counts = crowded.status().counts
        assert counts["names"] == HOLDERS * NAMES_EACH, counts
        assert counts["connections"] == HOLDERS + 1, counts
        many_names = [f"held-{a}-{b}" for a in range(HOLDERS) for b in range(NAMES_EACH)]
        some = max(20, count // 10)  # a hand-over by name is some twenty requests
        contestants: dict[str, tuple[int, Round]] = {
            FLOOR: (count, floor),
            # The pseudo-handle of a process stays open; the directory looks and says so.
            "one request": (count, timed(lambda: calm.close(-1))),
            FEW_NAMES: (count, opening(calm, few_names)),
            MANY_NAMES: (count, opening(crowded, many_names)),
            "memfd over a socketpair": (count, plain_handover(sockets)),
            "descriptor over it, checks off": (some, by_descriptor(off, sockets)),
            "by name, checks off": (some, by_name(off)),
            "descriptor over it, full checks": (some, by_descriptor(full, sockets)),
            "by name, full checks": (some, by_name(full)),
        }
        p50s: dict[str, list[float]] = {label: [] for label in contestants}
        p95s: dict[str, list[float]] = {label: [] for label in contestants}
        for times, act in contestants.values():
            act(times)  # warm up
        for _ in range(rounds):
            for label, (times, act) in contestants.items():
                taken = act(times)
                p50s[label].append(statistics.median(taken))
                p95s[label].append(p95(taken))
        for each in kept:
            calm.close(each)
    return {
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "rounds": rounds,
        "actions_per_round": count,
        "microseconds": {
            label: {
                "p50": round(statistics.median(values), 2),
                "p95": round(statistics.median(p95s[label]), 2),
                "lowest": round(min(values), 2),
                "highest": round(max(values), 2),
                "over_echo": ratio(values, p50s[FLOOR]),
            }
            for label, values in p50s.items()
        },
        "many_over_few": ratio(p50s[MANY_NAMES], p50s[FEW_NAMES]),
        "many_over_few_p95": ratio(p95s[MANY_NAMES], p95s[FEW_NAMES]),
        "starts": starts,
        "start_milliseconds": {
            label: {
                "p50": round(statistics.median(values), 1),
                "p95": round(p95(values), 1),
                "lowest": round(min(values), 1),
                "highest": round(max(values), 1),
            }
            for label, values in started.items()
        },
    }


def ratio(values: list[float], to: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(values, to, strict=True)), 2)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--actions", type=int, default=1000, help="in a round; a tenth of hand-overs"
    )
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hold", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        hold(*options.hold)
        return 0
    result = measure(options.rounds, options.actions, options.starts)
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{result['machine']}, {result['cores']} cores, Python {result['python']}")
    print(f"{'':33}{'p50':>9}{'p95':>9}{'lowest':>9}{'highest':>9}{'x echo':>8}   (µs)")
    for label, row in result["microseconds"].items():
        print(
            f"{label:33}{row['p50']:9.1f}{row['p95']:9.1f}{row['lowest']:9.1f}"
            f"{row['highest']:9.1f}{row['over_echo']:8.2f}"
        )
    print(
        f"10,000 names over 10: {result['many_over_few']} at p50, "
        f"{result['many_over_few_p95']} at p95"
    )
    print(f"\n{'':33}{'p50':>9}{'p95':>9}{'lowest':>9}{'highest':>9}   (ms)")
    for label, row in result["start_milliseconds"].items():
        print(
            f"{'start: ' + label:33}{row['p50']:9.1f}{row['p95']:9.1f}{row['lowest']:9.1f}"
            f"{row['highest']:9.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
