"""What rules ask about NT handles and names: never an error, never a handle left open."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from extmem.handles import memfd
from extmem.handles.kernel import ACCESS_READ, ACCESS_WRITE
from extmem.handles.system import directory, kernel
from extmem.handles.winerror import ACCESS_DENIED, INVALID_HANDLE, NOT_SUPPORTED, code_of

__all__ = [
    "Found",
    "NotByName",
    "by_another_driver",
    "describe",
    "out_of_order",
    "why_not_by_name",
    "why_not_given",
]


class Found(NamedTuple):
    """What a number stands for."""

    kind: str | None  # the kernel's type of object ("Section"); None if that is not known
    why_not: str  # "is no open handle of this process", and the like


def describe(handle: int) -> Found:
    """What a number stands for, or why nobody knows."""
    try:
        return Found(kernel().info(handle).type_name, "")
    except OSError as error:
        if code_of(error) != INVALID_HANDLE:
            return Found(None, f"cannot be looked at: {_words_of(error)}")
        reasons = ("is no open handle of this process", kernel().lost)
        return Found(None, "; ".join(filter(None, reasons)))


class NotByName(NamedTuple):
    """Why a named object cannot be opened."""

    words: str  # the system's
    code: int | None  # Windows' number for it


def why_not_by_name(name: str, kind: str = "Section") -> NotByName | None:
    """Why a named object cannot be opened; None if it can.

    kind: "Section", or on Linux what drivers share by descriptors: "Memory"
    """
    try:
        if kind == "Section":
            opened = kernel().open_section(name, ACCESS_READ)
        else:
            opened = directory().open_named(name, kind, ACCESS_READ | ACCESS_WRITE)
    except OSError as error:
        return NotByName(_words_of(error), code_of(error))
    kernel().let_go(opened)
    return None


def by_another_driver(name: str, kind: str) -> str | None:
    """What another driver shares by a name that is not of this kind; None if none does.

    The embedded device shares sections, whatever they carry; drivers that are bridged do not.
    """
    if sys.platform == "win32":
        return None
    for other in ("Memory", "Semaphore", "Fence") if kind == "Section" else ("Section",):
        try:
            opened = directory().open_named(name, other, ACCESS_READ | ACCESS_WRITE)
        except OSError as error:
            if code_of(error) not in (
                ACCESS_DENIED,
                NOT_SUPPORTED,
            ):  # which it says of its kind alone
                continue
        else:
            kernel().let_go(opened)
        return other
    return None


def why_not_given(name: str | None, kind: str = "Section") -> str | None:
    """Why a new object cannot have a name, in the system's words; None if it can.

    kind: as for `why_not_by_name`
    """
    try:
        made = kernel().create_section(1, name=name) if kind == "Section" else _shared(name, kind)
    except OSError as error:
        return _words_of(error)
    kernel().let_go(made)
    return None


def _shared(name: str | None, kind: str) -> int:
    """An object of what drivers share by descriptors, with nothing of a driver's in it."""
    fd = memfd.make(1)
    try:
        return directory().share(fd, kind, name=name)
    finally:
        os.close(fd)


def out_of_order() -> str | None:
    """Why nothing can be shared by Windows handles at the moment, whatever it is: the directory is
    out of reach, or a limit is met. None if that is not so.
    """
    try:
        made = kernel().create_section(1)
        try:
            kernel().unmap_section(kernel().map_section(made, 1), 1)
        finally:
            kernel().let_go(made)
    except OSError as error:
        return _words_of(error)
    return None


def _words_of(error: OSError) -> str:
    return str(error.strerror or error)
