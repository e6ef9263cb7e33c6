"""Windows' handle calls, under their own names and with the same meaning on every system.

    from extmem import win32

    attributes = win32.security_attributes("D:(A;;GA;;;WD)")     # for VkExportMemoryWin32HandleInfo
    process = win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, process_id)
    theirs = win32.DuplicateHandle(
        win32.GetCurrentProcess(), handle, process, 0, False, win32.DUPLICATE_SAME_ACCESS)
    win32.CloseHandle(process)

On Windows they are kernel32's. Elsewhere they act on the handle table of this package. Handles are
plain integers that the caller owns; nothing closes them but `CloseHandle`. Where kernel32 returns
FALSE, these raise OSError with `winerror`; what kernel32 hands back through a pointer is returned.
"""

from __future__ import annotations

from typing import SupportsIndex

from extmem.handles import winerror
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE
from extmem.handles.security import security_attributes
from extmem.handles.system import kernel
from extmem.handles.winerror import failure
from extmem.vk._base import SECURITY_ATTRIBUTES

__all__ = [
    "DUPLICATE_CLOSE_SOURCE",
    "DUPLICATE_SAME_ACCESS",
    "DXGI_SHARED_RESOURCE_READ",
    "DXGI_SHARED_RESOURCE_WRITE",
    "GENERIC_ALL",
    "GENERIC_READ",
    "HANDLE_FLAG_INHERIT",
    "HANDLE_FLAG_PROTECT_FROM_CLOSE",
    "INVALID_HANDLE_VALUE",
    "PROCESS_DUP_HANDLE",
    "SECURITY_ATTRIBUTES",
    "CloseHandle",
    "CompareObjectHandles",
    "DuplicateHandle",
    "GetCurrentProcess",
    "GetHandleInformation",
    "OpenProcess",
    "SetHandleInformation",
    "child_environment",
    "security_attributes",
]

DUPLICATE_CLOSE_SOURCE = 0x1
DUPLICATE_SAME_ACCESS = 0x2
DXGI_SHARED_RESOURCE_READ = ACCESS_READ
DXGI_SHARED_RESOURCE_WRITE = ACCESS_WRITE
GENERIC_ALL = ACCESS_ALL
GENERIC_READ = ACCESS_READ
HANDLE_FLAG_INHERIT = 0x1
HANDLE_FLAG_PROTECT_FROM_CLOSE = 0x2
INVALID_HANDLE_VALUE = -1
PROCESS_DUP_HANDLE = 0x40


def CloseHandle(handle: SupportsIndex) -> None:
    """Close a handle. OSError 6 if it is not open, or protected from being closed.

    >>> CloseHandle(0)
    Traceback (most recent call last):
    OSError: ...
    """
    kernel().close(handle.__index__())


def DuplicateHandle(
    source_process: SupportsIndex,
    handle: SupportsIndex,  # of the source process
    target_process: SupportsIndex,
    access: int,  # nothing, with DUPLICATE_SAME_ACCESS
    inherit: bool,
    options: int,  # DUPLICATE_SAME_ACCESS | DUPLICATE_CLOSE_SOURCE, or 0
) -> int:
    """Another handle of the same object, which is the target process' to close.

    DUPLICATE_CLOSE_SOURCE closes the handle even if this fails. More rights than the handle has
    are given only to who could open the object with them; else OSError 5. For shared memory of the
    embedded device, DXGI_SHARED_RESOURCE_WRITE means the right to write here too.

    >>> here = GetCurrentProcess()
    >>> process = DuplicateHandle(here, here, here, 0, False, DUPLICATE_SAME_ACCESS)
    >>> CompareObjectHandles(process, here)
    True
    >>> CloseHandle(process)
    """
    if options & ~(DUPLICATE_CLOSE_SOURCE | DUPLICATE_SAME_ACCESS):
        asked = f"cannot duplicate handle {handle.__index__():#x}"
        raise failure(winerror.INVALID_PARAMETER, asked, f"the options {options:#x} are not known")
    return kernel().duplicate(
        handle.__index__(),
        access=None if options & DUPLICATE_SAME_ACCESS else access,
        inherit=bool(inherit),
        source=source_process.__index__(),
        target=target_process.__index__(),
        close_source=bool(options & DUPLICATE_CLOSE_SOURCE),
    )


def GetCurrentProcess() -> int:
    """The pseudo-handle of this process, which needs no closing."""
    return kernel().current_process()


def OpenProcess(access: int, inherit: bool, process_id: int) -> int:
    """A handle of a process; PROCESS_DUP_HANDLE is the access that duplicating takes.

    OSError 87 if there is none of that number, 5 if it may not be opened. Elsewhere than on Windows
    those of this user can be, whether they have used handles yet or not.

    >>> import os
    >>> process = OpenProcess(PROCESS_DUP_HANDLE, False, os.getpid())
    >>> CloseHandle(process)
    """
    return kernel().open_process(access, bool(inherit), process_id)


def GetHandleInformation(handle: SupportsIndex) -> int:
    """HANDLE_FLAG_INHERIT and HANDLE_FLAG_PROTECT_FROM_CLOSE, as they are set."""
    return kernel().flags(handle.__index__())


def SetHandleInformation(handle: SupportsIndex, mask: int, flags: int) -> None:
    """Set those of the flags that are in `mask`."""
    kernel().set_flags(handle.__index__(), mask, flags)


def CompareObjectHandles(first: SupportsIndex, second: SupportsIndex) -> bool:
    """Whether two handles stand for one object. OSError 6 if one is not open."""
    return kernel().same_object(first.__index__(), second.__index__())


def child_environment() -> dict[str, str]:
    """What the environment of a child process needs, so that it inherits the handles that are
    marked for it now (HANDLE_FLAG_INHERIT), under the same numbers.

        subprocess.Popen(command, env={**os.environ, **win32.child_environment()})

    On Windows it is empty: the system does it, if the child is started with `close_fds=False`.
    Elsewhere it is a token for one child, which has to use handles within a minute.

    >>> set(child_environment()) <= {"EXTMEM_INHERIT"}
    True
    """
    return kernel().child_environment()
