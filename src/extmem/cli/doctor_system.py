"""Checks of what the directory and shared memory need of the system."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from extmem.cli.findings import Finding, note, ok, problem
from extmem.cli.words import size_of
from extmem.handles import memfd
from extmem.handles.directory.limits import Limits, within

if sys.platform == "win32":
    raise ImportError("Windows needs none of this")

__all__ = ["descriptors", "memfds", "memory", "pidfds", "proc"]

_FEW_OBJECTS = 4_096
_FEW_OF_A_CLIENT = 256  # descriptors
_LITTLE = 256 << 20  # bytes
_SO_PEERPIDFD = 77
_UNLIMITED = 1 << 60  # bytes; cgroups of version 1 say something like it


def descriptors() -> Iterator[Finding]:
    """Whether the system allows as many descriptors as the directory could use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = Limits()
    if hard != resource.RLIM_INFINITY:
        limits = within(limits, hard)
    room = limits.descriptors
    facts = {"soft": soft, "hard": hard, "room": room}
    allowed = "as many descriptors as it wants" if hard < 0 else f"{hard:,} descriptors"
    sentence = f"A directory may open {allowed}, which is room for {room:,} objects."
    remedy = "Raise the hard limit: ulimit -Hn, limits.conf, or LimitNOFILE= of the service."
    if room < 64:
        yield problem(sentence, remedy, **facts)
    elif room < _FEW_OBJECTS:
        yield note(sentence, remedy, **facts)
    else:
        yield ok(sentence, **facts)
    if 0 <= soft < _FEW_OF_A_CLIENT:
        yield note(
            f"A program of this session may open {soft} descriptors, and each descriptor that it "
            "exports or imports is one.",
            f"ulimit -n {min(1024, hard) if hard > 0 else 1024}, before it is started.",
            **facts,
        )


def proc() -> Iterator[Finding]:
    """/proc, by which processes are known and pages are opened for reading alone."""
    needed = ("/proc/self/fd", "/proc/self/maps", f"/proc/{os.getpid()}/comm", "/proc/net/unix")
    missing = [each for each in needed if not os.access(each, os.R_OK)]
    if missing:
        yield problem(
            f"{' and '.join(missing)} cannot be read; the directory knows processes by /proc.",
            "mount -t proc proc /proc, or start the container with a /proc of its own.",
            missing=missing,
        )
    else:
        yield ok("/proc is mounted and can be read.")


def memfds() -> Iterable[Finding]:
    """Whether shared pages can be made, and sealed against writing."""
    try:
        fd = memfd.make(mmap.PAGESIZE)
    except (OSError, AttributeError) as error:
        remedy = "Use Linux 3.17 or later, and let the container's filter allow memfd_create."
        return [problem(f"No shared memory can be made: {error}.", remedy)]
    try:
        return [_readable(fd), _sealed(fd)]
    finally:
        os.close(fd)


def _readable(fd: int) -> Finding:
    try:
        os.close(memfd.again(fd, write=False))
    except OSError as error:
        return problem(
            f"Shared memory cannot be opened for reading alone: {error.strerror}.",
            "See the finding on /proc, by which it is opened.",
        )
    return ok("Shared memory (memfd) can be made, and opened for reading alone.")


def _sealed(fd: int) -> Finding:
    remedy = "Use Linux 5.1 or later, or give no handle to a program that is not trusted."
    try:
        memfd.seal_writing(fd)
    except OSError as error:
        return note(
            f"Memory that was given away to read cannot be sealed ({error.strerror}), so a program "
            "that wants to can write to it all the same.",
            remedy,
        )
    try:
        address = memfd.map_pages(fd, mmap.PAGESIZE, write=True)
    except OSError as error:
        if error.errno == errno.EPERM:
            return ok("Memory that was given away to read can be sealed (F_SEAL_FUTURE_WRITE).")
        return note(f"Whether sealed memory is sealed cannot be told: {error.strerror}.", remedy)
    memfd.unmap_pages(address, mmap.PAGESIZE)
    return problem("Memory that is sealed against writing can be written to.", remedy)


def pidfds() -> Iterator[Finding]:
    """Whether the end of a process is told at once, and of the right one."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError) as error:
        yield note(
            f"There are no pidfds here ({error}); the directory looks twice a second whether "
            "processes still run, and frees late what one had that was killed.",
            "Use Linux 5.3 or later, and let the container's filter allow pidfd_open.",
        )
        return
    ends = socket.socketpair()
    try:
        raw = ends[0].getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4)
        os.close(int.from_bytes(raw, sys.byteorder))
        how = "and tells the directory which process a connection is of"
    except OSError:  # before Linux 6.5
        how = "by process numbers, because Linux before 6.5 gives none for a connection"
    finally:
        for end in ends:
            end.close()
    yield ok(f"The kernel tells by pidfds when a process ends, {how}.")


def memory() -> Iterator[Finding]:
    """How much shared memory the system and the container allow."""
    rest: list[tuple[int, str]] = []
    available = _available()
    if available is not None:
        rest.append((available, "the machine has available"))
    rest += [(free, f"the limit of the cgroup {path} leaves") for path, free in _cgroups()]
    if not rest:
        yield note("How much memory there is cannot be read.", "See the finding on /proc.")
        return
    free, who = min(rest)
    sentence = f"{size_of(free)} is what {who} for shared memory."
    if free < _LITTLE:
        yield note(sentence, "Free memory, or raise the limit, before large frames are shared.",
                   free=free)  # fmt: skip
    else:
        yield ok(sentence, free=free)


def _available() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _cgroups() -> Iterator[tuple[str, int]]:
    """The cgroups of this process that limit its memory, and how much each leaves."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, most, used = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root = Path("/sys/fs/cgroup/memory")
            most, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        parts = [each for each in path.split("/") if each not in ("", "..")]
        for length in range(len(parts), -1, -1):
            group = root.joinpath(*parts[:length])
            with contextlib.suppress(OSError, ValueError):  # "max" is no number, nor a limit
                limit = int((group / most).read_text())
                if limit < _UNLIMITED:
                    yield (
                        f"/{'/'.join(parts[:length])}",
                        max(0, limit - int((group / used).read_text())),
                    )
