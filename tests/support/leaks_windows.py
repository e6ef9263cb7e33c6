"""What this process holds of Windows, by the word of its kernel: `leaks.held` there.

The kernel lists the handles of all processes with the number of each one's type. What a number
means is asked of one handle of that type, once.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections import Counter
from contextlib import suppress
from ctypes import byref, c_size_t, c_uint16, c_uint32, c_void_p
from typing import Any

from extmem.handles.nt_calls import SystemHandle, windows
from extmem.handles.system import kernel

__all__ = ["handles", "processes", "views"]

_HANDLES, _PROCESSES = 64, 5  # what NtQuerySystemInformation is asked
_TOO_SHORT = 0xC0000004
_FREE, _MAPPED = 0x10000, 0x40000  # MEM_FREE, MEM_MAPPED

_names: dict[int, str] = {}  # of types, by number


def _ask(question: int) -> Any:
    """What the kernel knows of the whole system."""
    room, needed = 1 << 18, c_uint32()
    while True:
        answer = ctypes.create_string_buffer(room)
        status = windows().NtQuerySystemInformation(question, answer, room, byref(needed))
        if status != _TOO_SHORT:
            break
        room *= 2
    assert status == 0, hex(status)
    return answer


@functools.cache
def _open_what_stays_open() -> None:
    """The first name that a process opens makes Windows keep the folder of all names open."""
    with suppress(OSError):
        kernel().close(kernel().open_section("Local\\extmem-test-nothing"))


def handles() -> Counter[str]:
    """The open handles of this process, by what they are of: Section, Event, File, ..."""
    _open_what_stays_open()
    answer = _ask(_HANDLES)
    count = c_size_t.from_buffer(answer).value  # a number that nobody uses follows it
    entries = (SystemHandle * count).from_buffer(answer, 2 * ctypes.sizeof(c_size_t))
    mine = os.getpid()
    found: Counter[str] = Counter()
    for entry in entries:
        if entry.process == mine:
            number = entry.others[1] >> 16
            if number not in _names:
                _names[number] = kernel().info(entry.handle).type_name
            found[_names[number]] += 1
    return found


def processes() -> tuple[int, Counter[str]]:
    """How many threads this process has, and the processes whose parent it is."""
    answer, at = _ask(_PROCESSES), 0
    mine, threads = os.getpid(), 0
    children: Counter[str] = Counter()
    while True:  # SYSTEM_PROCESS_INFORMATION, one after the other
        following = c_uint32.from_buffer(answer, at).value
        number, parent = (c_size_t.from_buffer(answer, at + here).value for here in (80, 88))
        if number == mine:
            threads = c_uint32.from_buffer(answer, at + 4).value
        elif parent == mine:
            length = c_uint16.from_buffer(answer, at + 56).value
            place = c_void_p.from_buffer(answer, at + 64).value
            name = ctypes.wstring_at(place, length // 2) if place else "?"
            children[f"{name} ({number})"] += 1
        if not following:
            return threads, children
        at += following


class _Region(ctypes.Structure):
    """MEMORY_BASIC_INFORMATION."""

    _fields_ = (
        ("base", c_void_p),
        ("allocation", c_void_p),
        ("allocation_protection", c_uint32),
        ("partition", c_uint32),
        ("size", c_size_t),
        ("state", c_uint32),
        ("protection", c_uint32),
        ("type", c_uint32),
    )


def views() -> int:
    """Bytes of sections and files that this process has mapped, programs apart."""
    if sys.platform != "win32":
        raise NotImplementedError
    query = ctypes.WinDLL("kernel32").VirtualQuery
    query.argtypes, query.restype = (c_void_p, c_void_p, c_size_t), c_size_t
    region, address, total = _Region(), 0, 0
    while query(address, byref(region), ctypes.sizeof(region)):
        if region.state != _FREE and region.type == _MAPPED:
            total += region.size
        address = (region.base or 0) + region.size
    return total
