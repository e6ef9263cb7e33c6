"""What tests of quarantine share: the process in which imports are tried, seen from outside."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import extmem
from extmem.examining import examiner_of
from extmem.share.quarantine import Quarantine

__all__ = [
    "PATIENCE",
    "SIZE",
    "descriptors_of",
    "gone",
    "helper_of",
    "kill",
    "stop",
    "there",
    "works",
]

SIZE = 100_000
PATIENCE = 60.0  # seconds for what takes a moment

_KIND = "opaque_win32" if sys.platform == "win32" else "opaque_fd"


def helper_of(gpu: extmem.Device) -> int | None:
    """The number of the process in which imports are tried."""
    examiner = examiner_of(gpu)
    assert isinstance(examiner, Quarantine)
    return examiner.process_id


def gone(process_id: int) -> bool:
    """Whether a process that need not be ours ends in time."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if not there(process_id):
            return True
        time.sleep(0.01)
    return False


def there(process_id: int) -> bool:
    """Whether there is such a process that has not ended."""
    if sys.platform == "win32":
        import _winapi

        try:
            process = _winapi.OpenProcess(0x100000, False, process_id)  # SYNCHRONIZE
        except OSError:
            return False
        try:
            return _winapi.WaitForSingleObject(process, 0) != 0
        finally:
            _winapi.CloseHandle(process)
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def kill(process_id: int) -> None:
    """As a crash would."""
    os.kill(process_id, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)


def works(gpu: extmem.Device) -> int:
    """That a good handle is imported; in which process it was tried."""
    with gpu.allocate(64, export=_KIND) as memory, memory.export() as handle:
        memory.numpy()[:] = 6
        memory.flush()
        with gpu.import_memory(handle, quarantine=True) as again:
            assert (again.numpy() == 6).all()
    found = helper_of(gpu)
    assert found is not None
    assert there(found)
    return found


def descriptors_of(process: int) -> list[str]:
    """What it has open. Windows does not tell so easily."""
    if sys.platform == "win32":
        return []
    folder = Path(f"/proc/{process}/fd")
    return sorted(os.readlink(each) for each in folder.iterdir())


def stop(process_id: int) -> None:
    """Have it stand still."""
    if sys.platform == "win32":
        import _winapi
        import ctypes

        process = _winapi.OpenProcess(0x800, False, process_id)  # PROCESS_SUSPEND_RESUME
        assert ctypes.WinDLL("ntdll").NtSuspendProcess(ctypes.c_void_p(process)) == 0
        _winapi.CloseHandle(process)
    else:
        os.kill(process_id, signal.SIGSTOP)
