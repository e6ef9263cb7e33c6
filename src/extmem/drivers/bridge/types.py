"""Which handle types are bridged, and what carries them."""

from __future__ import annotations

from extmem.handle_types import MEMORY, memory_type

__all__ = ["CARRIED", "FD", "KHR_FD", "KHR_WIN32", "KMT", "NT", "WINDOWS", "to_fd"]

KHR_WIN32 = "VK_KHR_external_memory_win32"
KHR_FD = "VK_KHR_external_memory_fd"

FD = memory_type("opaque_fd").bit
NT = memory_type("opaque_win32").bit
KMT = memory_type("opaque_win32_kmt").bit
CARRIED = NT | KMT
# With D3D's, which nobody carries here: there is no D3D.
WINDOWS = sum(each.bit for each in MEMORY if each.kind in ("nt", "kmt"))


def to_fd(mask: int) -> int:
    """Handle types as the driver below knows them.

    >>> to_fd(NT | 0x200) == FD | 0x200
    True
    """
    return mask & ~WINDOWS | (FD if mask & CARRIED else 0)
