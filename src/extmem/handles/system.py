"""The kernel that this process asks: Windows' own, or the directory that stands in for it."""

from __future__ import annotations

import functools
import sys

from extmem.handles.kernel import Directory, Kernel

__all__ = ["directory", "kernel"]


@functools.cache
def kernel() -> Kernel:
    """The one of this process, always the same.

    >>> handle = kernel().create_section(4096)
    >>> kernel().info(handle).type_name
    'Section'
    >>> kernel().close(handle)
    """
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
