"""SECURITY_ATTRIBUTES: made from SDDL, and read back.

On Windows they hold a security descriptor of the system. Elsewhere they hold a block that begins as
one does and carries the text; whoever has no Windows can have got it from here only.
"""

from __future__ import annotations

import ctypes
import struct
import sys

from extmem.handles import host_memory, nt_calls, winerror
from extmem.handles import sddl as descriptors
from extmem.handles.kernel import Security
from extmem.handles.winerror import failure
from extmem.vk._base import SECURITY_ATTRIBUTES

__all__ = ["security_attributes", "security_of"]

# Revision, padding, control (self-relative), no owner, group or lists; then what makes it ours:
# magic, and the size of the text in bytes, which follows as UTF-16.
_HEAD = struct.Struct("<BBH16x8sI")
_START = (1, 0, 0x8000, b"extmemSD")
_NOT_OURS = "make one with extmem.win32.security_attributes, and keep it while it is used"


def security_attributes(sddl: str | None = None, inherit: bool = False) -> SECURITY_ATTRIBUTES:
    """SECURITY_ATTRIBUTES with a descriptor from SDDL, which lives as long as they do.

    None leaves the descriptor to the system: the creator's own objects.
    OSError 87, 1336 or 1337 if the text is wrong.

    >>> attributes = security_attributes("D:(A;;GA;;;WD)", inherit=True)
    >>> security_of(attributes)
    Security(descriptor='D:(A;;GA;;;WD)', inherit=True)
    """
    block = None
    if sddl is not None:
        block = (nt_calls.descriptor_from_text if sys.platform == "win32" else _pack)(sddl)
    return SECURITY_ATTRIBUTES(lpSecurityDescriptor=block, bInheritHandle=inherit)


def security_of(attributes: SECURITY_ATTRIBUTES | None) -> Security | None:
    """What SECURITY_ATTRIBUTES say, as a copy: they may be changed or freed afterwards.

    OSError 87 if their nLength is not theirs, 1338 if their descriptor is none.
    """
    if attributes is None:
        return None
    expected = ctypes.sizeof(SECURITY_ATTRIBUTES)
    if attributes.nLength != expected:
        raise failure(
            winerror.INVALID_PARAMETER,
            "cannot read the security attributes",
            f"their nLength is {attributes.nLength}, expected {expected}",
        )
    address = attributes.lpSecurityDescriptor
    text = None
    if address:
        text = (nt_calls.text_of_descriptor if sys.platform == "win32" else _unpack)(address)
    return Security(text, bool(attributes.bInheritHandle))


def _pack(text: str) -> bytes:
    descriptors.check(text)
    units = text.encode("utf-16-le", "surrogatepass")
    return _HEAD.pack(*_START, len(units)) + units


def _unpack(address: int) -> str:
    asked = f"cannot read the security descriptor at {address:#x}"
    _refuse_unreadable(address, _HEAD.size, asked)
    *start, size = _HEAD.unpack(ctypes.string_at(address, _HEAD.size))
    if tuple(start) != _START or size > 2 * descriptors.LONGEST:
        raise failure(winerror.INVALID_SECURITY_DESCR, asked, _NOT_OURS)
    _refuse_unreadable(address, _HEAD.size + size, asked)
    text = ctypes.string_at(address + _HEAD.size, size)
    return text.decode("utf-16-le", "surrogatepass")


def _refuse_unreadable(address: int, size: int, asked: str) -> None:
    found = host_memory.examine(address, size)
    if found is not None and found.problem:
        raise failure(winerror.NOACCESS, asked, f"the memory there {found.problem}; {_NOT_OURS}")
