"""The functions of Windows that `extmem.handles.nt` calls: one table, and how they fail."""

from __future__ import annotations

import ctypes
import functools
import operator
import sys
from ctypes import POINTER, byref, c_size_t, c_uint32, c_void_p, c_wchar_p
from typing import Any, SupportsIndex

from extmem.handles import winerror
from extmem.handles.winerror import failure
from extmem.vk._base import BOOL, DWORD, HANDLE, SECURITY_ATTRIBUTES

__all__ = [
    "Basic",
    "Extent",
    "SystemHandle",
    "Text",
    "clear_last_error",
    "descriptor_from_text",
    "for_nobody",
    "last_error",
    "number",
    "require",
    "require_status",
    "text_of_descriptor",
    "windows",
]

_NTSTATUS = c_uint32
_OUT, _NUMBER_OUT = POINTER(c_void_p), POINTER(DWORD)
_ATTRIBUTES = POINTER(SECURITY_ATTRIBUTES)

# What each function returns, and what it takes.
_SIGNATURES: dict[str, dict[str, tuple[Any, ...]]] = {
    "kernel32": {
        "CloseHandle": (BOOL, HANDLE),
        "CreateEventW": (HANDLE, _ATTRIBUTES, BOOL, BOOL, c_wchar_p),
        "CreateFileMappingW": (HANDLE, HANDLE, _ATTRIBUTES, DWORD, DWORD, DWORD, c_wchar_p),
        "CreateMutexW": (HANDLE, _ATTRIBUTES, BOOL, c_wchar_p),
        "DuplicateHandle": (BOOL, HANDLE, HANDLE, HANDLE, _OUT, DWORD, BOOL, DWORD),
        "GetHandleInformation": (BOOL, HANDLE, _NUMBER_OUT),
        "GetProcessHandleCount": (BOOL, HANDLE, _NUMBER_OUT),
        "LocalFree": (c_void_p, c_void_p),
        "MapViewOfFile": (c_void_p, HANDLE, DWORD, DWORD, DWORD, c_size_t),
        "OpenEventW": (HANDLE, DWORD, BOOL, c_wchar_p),
        "OpenFileMappingW": (HANDLE, DWORD, BOOL, c_wchar_p),
        "OpenMutexW": (HANDLE, DWORD, BOOL, c_wchar_p),
        "OpenProcess": (HANDLE, DWORD, BOOL, DWORD),
        "ReleaseMutex": (BOOL, HANDLE),
        "SetEvent": (BOOL, HANDLE),
        "SetHandleInformation": (BOOL, HANDLE, DWORD, DWORD),
        "UnmapViewOfFile": (BOOL, c_void_p),
        "WaitForSingleObject": (DWORD, HANDLE, DWORD),
    },
    "kernelbase": {"CompareObjectHandles": (BOOL, HANDLE, HANDLE)},  # kernel32 does not have it
    "ntdll": {
        "NtQueryObject": (_NTSTATUS, HANDLE, c_uint32, c_void_p, c_uint32, _NUMBER_OUT),
        "NtQuerySection": (_NTSTATUS, HANDLE, c_uint32, c_void_p, c_size_t, POINTER(c_size_t)),
        "NtQuerySystemInformation": (_NTSTATUS, c_uint32, c_void_p, c_uint32, _NUMBER_OUT),
        "RtlNtStatusToDosError": (c_uint32, _NTSTATUS),
    },
    "advapi32": {
        "ConvertSecurityDescriptorToStringSecurityDescriptorW": (
            *(BOOL, c_void_p, DWORD, DWORD),
            *(_OUT, _NUMBER_OUT),
        ),
        "ConvertStringSecurityDescriptorToSecurityDescriptorW": (
            *(BOOL, c_wchar_p, DWORD),
            *(_OUT, _NUMBER_OUT),
        ),
    },
}

_SDDL_REVISION = 1
_OWNER_GROUP_AND_LISTS = 0x1 | 0x2 | 0x4 | 0x8


class Basic(ctypes.Structure):
    """What NtQueryObject answers: OBJECT_BASIC_INFORMATION."""

    _fields_ = (
        ("attributes", c_uint32),
        ("access", c_uint32),
        ("handles", c_uint32),
        ("pointers", c_uint32),
        ("others", c_uint32 * 8),
        ("created", ctypes.c_uint64),
    )


class Text(ctypes.Structure):
    """UNICODE_STRING: where some UTF-16 is, and how many bytes of it there are."""

    _fields_ = (("length", ctypes.c_uint16), ("room", ctypes.c_uint16), ("units", c_void_p))


class Extent(ctypes.Structure):
    """What NtQuerySection answers: SECTION_BASIC_INFORMATION."""

    _fields_ = (("base", c_void_p), ("attributes", c_uint32), ("size", ctypes.c_uint64))


class SystemHandle(ctypes.Structure):
    """One handle of any process: SYSTEM_HANDLE_TABLE_ENTRY_INFO_EX."""

    _fields_ = (
        ("object", c_void_p),
        ("process", c_size_t),
        ("handle", c_size_t),
        ("others", c_uint32 * 4),
    )


@functools.cache
def windows() -> Any:
    """Every function above, by its name. (Any: ctypes' functions have no types of their own.)"""
    if sys.platform != "win32":
        raise NotImplementedError("this system has no kernel32; see extmem.handles.system")
    functions = {}
    for library, signatures in _SIGNATURES.items():
        loaded = ctypes.WinDLL(library, use_last_error=True)
        for name, (result, *arguments) in signatures.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
            functions[name] = function
    return type("Functions", (), {name: staticmethod(each) for name, each in functions.items()})


def last_error() -> int:
    """What the last call through ctypes failed with."""
    if sys.platform == "win32":
        return ctypes.get_last_error()
    raise NotImplementedError


def clear_last_error() -> None:
    """For calls that do not say whether they did."""
    if sys.platform == "win32":
        ctypes.set_last_error(0)


def require(done: object, asked: str) -> None:
    """Raise what the last call failed with, unless it is done."""
    if not done:
        raise failure(last_error(), asked)


def require_status(status: int, asked: str) -> None:
    """The same for the functions of ntdll."""
    if status:
        raise failure(windows().RtlNtStatusToDosError(status), asked)


def number(handle: SupportsIndex) -> int:
    """A handle as ctypes may get it, which cuts off in silence what does not fit."""
    value = operator.index(handle)
    if not -(1 << 63) <= value < 1 << 64:
        raise failure(winerror.INVALID_HANDLE, f"{value:#x} is not a handle")
    return value


# -- security descriptors -------------------------------------------------------------------------


def descriptor_from_text(text: str) -> bytes:
    """A security descriptor from SDDL, in one piece. OSError 87, 1336 and others if it is wrong."""
    asked = f"cannot read the security descriptor {text[:200]!r}"
    if "\0" in text:
        raise failure(winerror.INVALID_PARAMETER, asked, "it has a NUL character in it")
    place, size, call = c_void_p(), DWORD(), windows()
    require(
        call.ConvertStringSecurityDescriptorToSecurityDescriptorW(
            text, _SDDL_REVISION, byref(place), byref(size)
        ),
        asked,
    )
    try:
        return ctypes.string_at(place.value or 0, size.value)
    finally:
        call.LocalFree(place)


def text_of_descriptor(address: int) -> str:
    """The SDDL of a security descriptor in memory, in one piece or not."""
    place, size, call = c_void_p(), DWORD(), windows()
    require(
        call.ConvertSecurityDescriptorToStringSecurityDescriptorW(
            address, _SDDL_REVISION, _OWNER_GROUP_AND_LISTS, byref(place), byref(size)
        ),
        f"cannot read the security descriptor at {address:#x}",
    )
    try:
        return ctypes.wstring_at(place.value or 0)
    finally:
        call.LocalFree(place)


@functools.cache
def for_nobody() -> bytes:
    """A security descriptor that admits nobody."""
    return descriptor_from_text("D:")
