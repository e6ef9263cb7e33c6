"""The kernel that this process asks: Windows' own, or the table that stands in for it."""

from __future__ import annotations

import functools
import sys

from extmem.handles.kernel import Kernel

__all__ = ["kernel"]


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
    from extmem.handles.table import TableKernel

    return TableKernel()
