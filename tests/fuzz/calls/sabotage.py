"""What the fuzzer has to notice, done on purpose: so that a test can see that it does."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from extmem import world
from extmem.handles.system import kernel
from tests.fuzz.calls.rounds import Rounds
from tests.fuzz.calls.tables import COMMANDS

__all__ = ["AFTER_A_ROUND", "after_a_round", "in_calls"]

_VICTIM = "vkAllocateMemory"  # the command in which things go wrong
_kept: list[Any] = []


def _descriptor(rounds: Rounds) -> None:
    os.open("/dev/null", os.O_RDONLY)


def _thread(rounds: Rounds) -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def _handle(rounds: Rounds) -> None:
    kernel().create_section(4096)


def _mapping(rounds: Rounds) -> None:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    fd = os.memfd_create("sabotage")
    os.truncate(fd, 4096)
    libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    os.close(fd)


def _process(rounds: Rounds) -> None:
    _kept.append(subprocess.Popen(["true"]))  # which nobody waits for


def _world(rounds: Rounds) -> None:
    _kept.append(world.World("nobody", None))


def _record(rounds: Rounds) -> None:
    rounds.foreign.dispatch.world.add("VkBuffer", 1_000_000 + rounds.made)


def _memory(rounds: Rounds) -> None:
    """Outside of Python's own memory."""
    size = 2 << 20
    malloc = ctypes.CDLL(None).malloc
    malloc.restype = ctypes.c_void_p
    malloc.argtypes = (ctypes.c_size_t,)
    ctypes.memset(malloc(size), 1, size)


def _blocks(rounds: Rounds) -> None:
    _kept.append([object() for _ in range(1000)])


def _objects(rounds: Rounds) -> None:
    _kept.append([[each] for each in range(300)])


# By what is to be noticed.
AFTER_A_ROUND: dict[str, Callable[[Rounds], None]] = {
    "file descriptors": _descriptor,
    "threads": _thread,
    "Windows handles": _handle,
    "bytes of shared mappings": _mapping,
    "child processes": _process,
    "worlds of instances and devices": _world,
    "objects in those": _record,
    "bytes of memory": _memory,
    "blocks of Python's memory": _blocks,
    "objects of Python": _objects,
}


def after_a_round(name: str, rounds: Rounds) -> None:
    """Keep something."""
    if name in AFTER_A_ROUND:
        AFTER_A_ROUND[name](rounds)


def _dies(*arguments: Any) -> None:
    ctypes.string_at(8)


def _hangs(*arguments: Any) -> None:
    # With the interpreter's lock, as a driver that calls back would.
    while True:
        ctypes.PyDLL(None).sleep(3600)


def _trips(*arguments: Any) -> NoReturn:
    raise KeyError("sabotage")


_IN_CALLS: dict[str, Callable[..., Any]] = {"dies": _dies, "hangs": _hangs, "trips": _trips}


def in_calls(name: str) -> None:
    """From now on a command does something else."""
    if name in _IN_CALLS:
        COMMANDS[_VICTIM] = replace(COMMANDS[_VICTIM], function=_IN_CALLS[name])
