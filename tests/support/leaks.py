"""What this process holds of the system, so that a test can be asked to leave nothing behind."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from extmem.handles.system import kernel
from tests.support import leaks_windows

__all__ = ["SHARED_OBJECTS", "Held", "held", "left_over", "windows_handles"]

# The types of Windows handles that this package can have open, beside those of processes.
SHARED_OBJECTS = ("Section", "Event", "Mutant")

Held = dict[str, Counter[str]]

# Mappings of shared memory, by how /proc/self/maps names them.
_SHARED = ("/memfd:", "/dev/shm/", "/dmabuf:", "/SYSV", "/dev/zero", "/dev/dri/")

# What is counted of the machine and not of this process.
_OF_THE_MACHINE = ("files in /dev/shm", "sockets with a name")

_PATIENCE = 3.0  # seconds that threads and processes get to end


def held() -> Held:
    """Everything that is counted."""
    if sys.platform == "win32":
        threads, children = leaks_windows.processes()
        return {
            "Windows handles": windows_handles(),
            "threads": Counter({"threads": threads}),
            "child processes": children,
            "bytes of mapped views": Counter({"bytes": leaks_windows.views()}),
        }
    return {
        "Windows handles": windows_handles(),
        "file descriptors": _descriptors(),
        "threads": _threads(),
        "child processes": _children(),
        "bytes of shared mappings": _mappings(),
        "files in /dev/shm": Counter(os.listdir("/dev/shm")),
        "sockets with a name": _sockets(),
    }


def windows_handles() -> Counter[str]:
    """The Windows handles of this process, by their types: by the word of the kernel, or of the
    table that stands in for it.
    """
    if sys.platform == "win32":
        found = leaks_windows.handles()
        # A lock of Python's is a semaphore there. They come with modules, with threads and with
        # pytest's own objects, and go when those do.
        del found["Semaphore"]
        # Wine has objects of its own whose type has no name. What is ours has one.
        del found[""]
        return found
    return Counter({"in the table": kernel().count_handles()})


def left_over(before: Held) -> list[str]:
    """What is there now and was not `before`, or the other way round; empty if all is equal.

    What only the garbage collector frees is freed first, and what ends by itself gets a little time
    to do so.
    """
    if os.environ.get("EXTMEM_TEST_LAYER"):
        return []  # the validation layer keeps things of its own: test_validation_layer.py
    until = time.monotonic() + _PATIENCE
    while True:
        lines = _difference(before, held())
        if not lines or time.monotonic() > until:
            return lines
        time.sleep(0.01)
        gc.collect()


def _difference(before: Held, after: Held) -> list[str]:
    lines = []
    for what, now in after.items():
        then = before[what]
        for name in sorted(now.keys() | then.keys()):
            change = now[name] - then[name]
            if change and not (
                _of_another(what, name) if change > 0 else _ended_by_itself(what, name)
            ):
                lines.append(f"{what}: {change:+d} {name}")
    return lines


def _ended_by_itself(what: str, name: str) -> bool:
    """Whether something that is gone was not ours to lose.

    Files and names of sockets are the whole machine's: another program may have taken its own away.
    And Windows starts threads in any process for its own work, and ends them, with what they had
    open, when there has been none for a while.
    """
    if what in _OF_THE_MACHINE:
        return True
    return sys.platform == "win32" and (what == "threads" or name not in SHARED_OBJECTS)


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{number}")] += 1
        except FileNotFoundError:
            continue  # the one that listed them
    return found


def _threads() -> Counter[str]:
    found: Counter[str] = Counter()
    for task in Path("/proc/self/task").iterdir():
        try:
            found[(task / "comm").read_text().strip()] += 1
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def _children() -> Counter[str]:
    """Processes whose parent we are, dead ones that nobody waited for included."""
    found: Counter[str] = Counter()
    for number in _numbers_of_children():
        try:
            status = Path(f"/proc/{number}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, _, rest = status.partition("(")[2].rpartition(")")
        state, parent = rest.split()[:2]
        if int(parent) == os.getpid():
            found[f"{name} ({number}{', dead' if state == 'Z' else ''})"] += 1
    return found


def _numbers_of_children() -> list[str]:
    """The children of each of our threads; of a kernel that does not list them, all processes."""
    numbers: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            numbers += (task / "children").read_text().split()
        except FileNotFoundError:
            if task.exists():
                return [entry for entry in os.listdir("/proc") if entry.isdigit()]
    return numbers


def _mappings() -> Counter[str]:
    """Bytes and not numbers: the kernel joins neighbours and splits them again."""
    found: Counter[str] = Counter()
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(_SHARED):
            start, end = (int(each, 16) for each in fields[0].split("-"))
            found[fields[5]] += end - start
    return found


def _sockets() -> Counter[str]:
    """Unix sockets of this package that have a name, whoever holds them.

    Those of directories are not counted: each connection has its directory's name, and other
    workers of this test run have directories of their own.
    """
    found: Counter[str] = Counter()
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        name = line.split(maxsplit=7)[7:]
        if name and "extmem" in name[0] and "directory" not in name[0]:
            found[name[0]] += 1
    return found


def _of_another(what: str, name: str) -> bool:
    """Whether something new belongs to a process that is not ours: another run of tests, say."""
    if what == "files in /dev/shm":
        # By its number: the C library makes a semaphore under one name and links it to another,
        # and a mapping goes on to say the first.
        try:
            file = os.stat(f"/dev/shm/{name}")
        except FileNotFoundError:
            return True  # whoever made it has taken it away

        def is_it(fd: Path) -> bool:
            return os.path.samestat(os.stat(fd), file)

        def holds(process: Path) -> bool:
            lines = (process / "maps").read_text().splitlines()
            if any(f" {file.st_ino} " in line and "/dev/shm/" in line for line in lines):
                return True
            return _has_open(process, is_it)

    elif what == "sockets with a name":
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
        ours = {f"socket:[{x[6]}]" for x in (line.split(maxsplit=7) for line in lines) if name in x}

        def holds(process: Path) -> bool:
            return _has_open(process, lambda fd: os.readlink(fd) in ours)

    else:
        return False
    family = {os.getpid(), *map(int, _numbers_of_children())}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) in family:
            continue
        try:
            if holds(process):
                return True
        except OSError:
            continue  # ended, or not ours to look at
    return False


def _has_open(process: Path, wanted: Callable[[Path], bool]) -> bool:
    """Whether a process, which goes on opening and closing others, has a descriptor like that."""
    for fd in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if wanted(fd):
                return True
    return False
