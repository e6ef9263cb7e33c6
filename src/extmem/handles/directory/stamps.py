"""Passports that lie in the pages of a section, where the embedded device leaves them.

They are read for the list alone, and believed by nobody: whoever may write the pages can change
them.
"""

from __future__ import annotations

import os
import struct
import sys

from extmem.handles.objects import KernelObject, Section
from extmem.share.passport import LARGEST

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["MAGIC", "OFFSET", "read"]

# As the embedded device writes its first page (`drivers/embedded`), which a test compares.
MAGIC = b"EXTMEM\r\n"
OFFSET = 2048  # of the length, and the passport after it
_LENGTH = struct.Struct("I")


def read(item: KernelObject) -> bytes:
    """The passport in an object's first page; b"" if there is none."""
    if not isinstance(item, Section):
        return b""
    try:
        fd = item.descriptor(write=True)
    except OSError:  # no descriptor is left: the list goes without
        return b""
    try:
        if os.pread(fd, len(MAGIC), 0) != MAGIC:
            return b""
        data = os.pread(fd, _LENGTH.size + LARGEST, OFFSET)
    except OSError:
        return b""
    finally:
        os.close(fd)
    if len(data) < _LENGTH.size:
        return b""
    (length,) = _LENGTH.unpack_from(data)
    return data[_LENGTH.size :][:length] if length <= LARGEST else b""
