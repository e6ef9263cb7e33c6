"""The kernel that this process asks: Windows' own, or the directory that stands in for it."""

from __future__ import annotations

import os
import sys
import threading

from extmem.handles.kernel import Directory, Kernel

__all__ = ["directory", "kernel"]

_making = threading.Lock()
_made: list[Kernel] = []  # the one, once there is one

if hasattr(
    os, "register_at_fork"
):  # a child must not find the lock taken by a thread that it lacks
    os.register_at_fork(
        before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release
    )


def kernel() -> Kernel:
    """The one of this process, always the same, whichever thread is the first to ask: a client of
    the directory knows its own views alone.

    >>> handle = kernel().create_section(4096)
    >>> kernel().info(handle).type_name
    'Section'
    >>> kernel().close(handle)
    """
    if not _made:
        with _making:
            if not _made:
                _made.append(_make())
    return _made[0]


def _make() -> Kernel:
    if sys.platform == "win32":
        from extmem.handles.nt import NtKernel

        return NtKernel()
    from extmem.handles.directory.client import DirectoryKernel

    return DirectoryKernel()


def directory() -> Directory:
    """The same on Linux, with what drivers share by descriptors. There is none on Windows."""
    found = kernel()
    if sys.platform == "win32":
        raise NotImplementedError("Windows needs no directory")
    from extmem.handles.directory.client import DirectoryKernel

    assert isinstance(found, DirectoryKernel)
    return found
