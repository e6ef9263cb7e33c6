"""On which terms something is exported: as which types, by which name, and to whom."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from extmem import vk
from extmem.errors import DriverError, Unsupported
from extmem.handle_types import HandleType, memory_type
from extmem.handles import names, nt_lookup
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE
from extmem.handles.security import security_attributes
from extmem.handles.system import kernel

__all__ = [
    "Types",
    "access_mask",
    "attributes",
    "explained",
    "grants_reading_alone",
    "kernel_object",
    "need_windows",
    "types_of",
]

Types = str | int | Sequence[str | int] | None

_ACCESS = {
    None: ACCESS_ALL,
    "all": ACCESS_ALL,
    "read": ACCESS_READ,
    "write": ACCESS_READ | ACCESS_WRITE,
}


def types_of(export: Types) -> tuple[HandleType, ...]:
    """The memory handle types that `export=` was given: one, several or none."""
    if export is None:
        return ()
    if isinstance(export, (str, int)):
        return (memory_type(export),)
    return tuple(memory_type(each) for each in export)


@contextmanager
def explained(types: Iterable[HandleType]) -> Iterator[None]:
    """A result of Vulkan's cannot say that Windows handles are out of order, nor that a limit of
    theirs is met: where it failed with such types, ask, and say it.
    """
    try:
        yield
    except DriverError as error:
        if error.hint or not any(each.kind in ("nt", "kmt") for each in types):
            raise
        why = nt_lookup.out_of_order() or kernel().lost
        if not why:
            raise
        raise DriverError(error.result, error.call, why) from None


def kernel_object(driver: str, what: str) -> str:
    """Which object of the kernel stands behind the Windows handles of a driver.

    what: "memory", "semaphore" or "fence"

    >>> kernel_object("embedded", "memory")
    'Section'
    """
    return "Section" if driver == "embedded" or os.name == "nt" else what.capitalize()


def access_mask(access: str | int | None) -> int:
    """The access rights that `access=` was given.

    >>> access_mask("write") == access_mask("read") | 1
    True
    """
    if isinstance(access, int):
        return access
    if access not in _ACCESS:
        raise ValueError(f"access is {access!r}; expected 'read', 'write', 'all', or a mask")
    return _ACCESS[access]


def grants_reading_alone(access: str | int | None) -> bool:
    """Whether nobody could write with these rights."""
    return not access_mask(access) & (ACCESS_WRITE | ACCESS_ALL)


def attributes(security: Any) -> Any:
    """SECURITY_ATTRIBUTES for what `security=` was given: SDDL, or such a structure."""
    if security is None or isinstance(security, vk.SECURITY_ATTRIBUTES):
        return security
    if isinstance(security, str):
        return security_attributes(security)
    raise TypeError(f"security is {security!r}; expected SDDL, or a SECURITY_ATTRIBUTES")


def _refuse_spelling(name: str) -> None:
    """ValueError for a name that no object can have, alike for all drivers."""
    if os.name == "nt" and name.startswith("Session\\"):
        return  # a prefix that only Windows' own kernel can judge
    try:
        names.canonical(names.checked(name) or "")
    except OSError as error:
        raise ValueError(str(error.strerror).split(" (Windows error")[0]) from None


def need_windows(name: str | None, access: Any, security: Any, types: Iterable[HandleType]) -> None:
    """Refuse what only the NT handle of a Windows type can have."""
    if any(each.kind == "nt" for each in types):
        if name:
            _refuse_spelling(name)
        return
    for given, what in ((name, "name"), (access, "access"), (security, "security")):
        if given is not None:
            raise Unsupported(
                f"{what}= belongs to a Windows handle: export 'opaque_win32' on a device that "
                "offers it"
            )
