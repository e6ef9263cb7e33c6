"""Windows' kernel, asked itself, through kernel32, kernelbase, ntdll and advapi32."""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_size_t, c_void_p

from extmem.handles import memfd, names, winerror
from extmem.handles.access import MAXIMUM_ALLOWED, SECTION_FULL, section_bits
from extmem.handles.kernel import ACCESS_ALL, ObjectInfo, Security
from extmem.handles.nt_calls import (
    Basic,
    Extent,
    SystemHandle,
    Text,
    clear_last_error,
    descriptor_from_text,
    for_nobody,
    last_error,
    number,
    require,
    require_status,
    windows,
)
from extmem.handles.winerror import failure
from extmem.vk._base import DWORD, SECURITY_ATTRIBUTES

__all__ = ["NtKernel"]

_THIS_PROCESS = -1
_PAGE_READWRITE = 0x04
_FILE_MAP_WRITE, _FILE_MAP_READ = 0x2, 0x4
_CLOSE_SOURCE, _SAME_ACCESS = 1, 2
_BASIC, _NAME, _TYPE = 0, 1, 2  # questions to NtQueryObject
_SYSTEM_HANDLES = 64  # question to NtQuerySystemInformation
_TOO_SHORT = (0xC0000004, 0x80000005, 0xC0000023)


class NtKernel:
    """`extmem.handles.kernel.Kernel`, answered by Windows."""

    def __init__(self) -> None:
        self._call = windows()

    def create_section(
        self,
        size: int,
        *,
        name: str | None = None,
        access: int = ACCESS_ALL,
        security: Security | None = None,
    ) -> int:
        """Make a section; its first handle."""
        asked = f"cannot make section {name!r} of {size} bytes"
        if not 0 < size < 1 << 63:
            raise failure(winerror.INVALID_PARAMETER, asked, "its size is not a number of bytes")
        name, security = names.checked(name), security or Security()
        block = None
        if security.descriptor is not None:
            block = descriptor_from_text(security.descriptor)
        elif name is None:
            # Windows guards what has no name only if it is told to: whoever has a handle for
            # reading could else make one for writing out of it.
            block = for_nobody()
        attributes = SECURITY_ATTRIBUTES(
            lpSecurityDescriptor=block, bInheritHandle=security.inherit
        )
        clear_last_error()
        handle = self._call.CreateFileMappingW(
            -1, byref(attributes), _PAGE_READWRITE, size >> 32, size & 0xFFFFFFFF, name
        )
        code = last_error()
        if not handle:
            raise failure(code, asked)
        if code == winerror.ALREADY_EXISTS:  # and the handle is one of that other section
            self.close(handle)
            raise failure(code, f"cannot make section {name!r}")
        bits = section_bits(access)
        if bits & SECTION_FULL == SECTION_FULL or bits & MAXIMUM_ALLOWED:
            return int(handle)
        # Windows always gives the maker everything.
        return self.duplicate(
            handle, access=bits & SECTION_FULL, inherit=security.inherit, close_source=True
        )

    def open_section(self, name: str, access: int = ACCESS_ALL) -> int:
        """A handle of a named section."""
        asked = f"cannot open section {name!r}"
        if not names.checked(name):
            raise failure(winerror.INVALID_PARAMETER, asked, "the name is empty")
        handle = self._call.OpenFileMappingW(section_bits(access), False, name)
        require(handle, asked)
        return int(handle)

    def section_size(self, handle: int) -> int:
        """How large a section is, in bytes: whole pages."""
        extent = Extent()
        status = self._call.NtQuerySection(
            number(handle), 0, byref(extent), ctypes.sizeof(extent), None
        )
        require_status(status, f"cannot ask for the size of the section of handle {handle:#x}")
        return memfd.whole_pages(extent.size)

    def map_section(self, handle: int, size: int, *, write: bool = True) -> int:
        """Map a section from its start; the address."""
        asked = f"cannot map {size} bytes of the section of handle {handle:#x}"
        if size <= 0:
            raise failure(winerror.INVALID_PARAMETER, asked, "a view has at least one byte")
        access = _FILE_MAP_READ | (_FILE_MAP_WRITE if write else 0)
        address = self._call.MapViewOfFile(number(handle), access, 0, 0, size)
        require(address, asked)
        return int(address)

    def unmap_section(self, address: int, size: int) -> None:
        """Take a view away; Windows knows its size."""
        require(self._call.UnmapViewOfFile(address), f"cannot unmap the view at {address:#x}")

    def close(self, handle: int) -> None:
        """CloseHandle."""
        require(self._call.CloseHandle(number(handle)), f"cannot close handle {handle:#x}")

    let_go = close

    def duplicate(
        self,
        handle: int,
        *,
        access: int | None = None,
        inherit: bool = False,
        source: int | None = None,
        target: int | None = None,
        close_source: bool = False,
    ) -> int:
        """DuplicateHandle."""
        options = (_CLOSE_SOURCE if close_source else 0) | (_SAME_ACCESS if access is None else 0)
        bits = 0 if access is None else self._bits(handle, access, source)
        return self._duplicate(handle, bits, inherit, source, target, options)

    def _duplicate(
        self,
        handle: int,
        bits: int,
        inherit: bool,
        source: int | None,
        target: int | None,
        options: int,
    ) -> int:
        result = c_void_p()
        done = self._call.DuplicateHandle(
            number(_THIS_PROCESS if source is None else source),
            number(handle),
            number(_THIS_PROCESS if target is None else target),
            byref(result),
            bits,
            inherit,
            options,
        )
        require(done, f"cannot duplicate handle {handle:#x}")
        return result.value or 0

    def _bits(self, handle: int, access: int, source: int | None) -> int:
        """Access in the kernel's bits: words of shared resources mean a section's own rights."""
        bits = section_bits(access)
        if bits == access:
            return access
        try:
            if source is None:
                kind = self._text(handle, _TYPE)
            else:
                here = self._duplicate(handle, 0, False, source, None, _SAME_ACCESS)
                try:
                    kind = self._text(here, _TYPE)
                finally:
                    self.close(here)
        except OSError:  # which the call itself will meet again
            return access
        return bits if kind == "Section" else access

    def info(self, handle: int) -> ObjectInfo:
        """NtQueryObject. Windows tells no identity to ordinary users: `same_object` does."""
        basic = Basic()
        status = self._call.NtQueryObject(
            number(handle), _BASIC, byref(basic), ctypes.sizeof(basic), None
        )
        require_status(status, f"cannot ask what handle {handle:#x} is")
        kind = self._text(handle, _TYPE)
        # The name of a pipe that somebody waits at is answered when he no longer does.
        name = None if kind == "File" else _with_prefix(self._text(handle, _NAME))
        return ObjectInfo(kind, name, basic.handles, basic.access, 0)

    def _text(self, handle: int, question: int) -> str:
        """A text that NtQueryObject answers with, "" if there is none."""
        room, needed = 1024, DWORD()
        while True:
            answer = ctypes.create_string_buffer(room)
            status = self._call.NtQueryObject(number(handle), question, answer, room, byref(needed))
            if status not in _TOO_SHORT or room > 1 << 17:
                break
            room = max(needed.value, 2 * room)
        require_status(status, f"cannot ask what handle {handle:#x} is")
        text = Text.from_buffer(answer)
        return ctypes.wstring_at(text.units, text.length // 2) if text.units else ""

    def same_object(self, first: int, second: int) -> bool:
        """CompareObjectHandles."""
        clear_last_error()
        if self._call.CompareObjectHandles(number(first), number(second)):
            return True
        code = last_error()
        if code == winerror.NOT_SAME_OBJECT:
            return False
        raise failure(code, f"cannot compare the handles {first:#x} and {second:#x}")

    def flags(self, handle: int) -> int:
        """GetHandleInformation."""
        flags = DWORD()
        done = self._call.GetHandleInformation(number(handle), byref(flags))
        require(done, f"cannot read the flags of handle {handle:#x}")
        return flags.value

    def set_flags(self, handle: int, mask: int, flags: int) -> None:
        """SetHandleInformation."""
        done = self._call.SetHandleInformation(number(handle), mask, flags)
        require(done, f"cannot set the flags of handle {handle:#x}")

    @property
    def epoch(self) -> bytes:
        """One life, which this process does not survive."""
        return b""

    @property
    def lost(self) -> str:
        """Nothing ever is."""
        return ""

    def current_process(self) -> int:
        """The pseudo-handle of this process."""
        return _THIS_PROCESS

    def open_process(self, access: int, inherit: bool, process_id: int) -> int:
        """OpenProcess."""
        asked = f"cannot open process {process_id}"
        if not 0 < process_id < 1 << 32:
            raise failure(winerror.INVALID_PARAMETER, asked, "there is no such process")
        handle = self._call.OpenProcess(access, inherit, process_id)
        require(handle, asked)
        return int(handle)

    def child_environment(self) -> dict[str, str]:
        """Nothing: CreateProcess passes the handles on."""
        return {}

    def count_handles(self) -> int:
        """GetProcessHandleCount. Wine has no answer and says 0, which no process has."""
        count = DWORD()
        done = self._call.GetProcessHandleCount(_THIS_PROCESS, byref(count))
        require(done, "cannot count the handles of this process")
        return count.value or self._listed()

    def _listed(self) -> int:
        """How many handles of this process are in the system's list of all."""
        room, needed = 1 << 20, DWORD()
        while True:
            answer = ctypes.create_string_buffer(room)
            status = self._call.NtQuerySystemInformation(
                _SYSTEM_HANDLES, answer, room, byref(needed)
            )
            if status not in _TOO_SHORT or room > 1 << 28:
                break
            room = max(needed.value, 2 * room)
        require_status(status, "cannot list the handles of this process")
        count = c_size_t.from_buffer(answer).value  # a number that nobody uses follows it
        entries = (SystemHandle * count).from_buffer(answer, 2 * ctypes.sizeof(c_size_t))
        mine = os.getpid()
        return sum(entry.process == mine for entry in entries)


def _with_prefix(path: str) -> str | None:
    """An object's name as programs write it, from its place among all objects."""
    if not path:
        return None
    head, found, rest = path.partition("\\BaseNamedObjects\\")
    if not found:
        return path
    return ("Local\\" if head.startswith("\\Sessions\\") else "Global\\") + rest
