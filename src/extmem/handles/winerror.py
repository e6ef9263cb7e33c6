"""Errors of Windows' calls: an OSError with `winerror` and a sentence, on every system."""

from __future__ import annotations

import ctypes
import errno
import sys

__all__ = ["code_of", "failure"]

FILE_NOT_FOUND = 2
PATH_NOT_FOUND = 3
ACCESS_DENIED = 5
INVALID_HANDLE = 6
NOT_ENOUGH_MEMORY = 8
NOT_SUPPORTED = 50
DUP_NAME = 52
INVALID_PARAMETER = 87
INVALID_NAME = 123
BAD_PATHNAME = 161
ALREADY_EXISTS = 183
FILENAME_EXCED_RANGE = 206
INVALID_ADDRESS = 487
NOACCESS = 998
INVALID_OWNER = 1307
INVALID_ACL = 1336
INVALID_SID = 1337
INVALID_SECURITY_DESCR = 1338
INTERNAL_ERROR = 1359
NO_SYSTEM_RESOURCES = 1450
NOT_SAME_OBJECT = 1656
SERVER_UNAVAILABLE = 1722

# By Windows' number: the errno that it is on Linux, and what it means where we ask.
_KNOWN = {
    FILE_NOT_FOUND: (errno.ENOENT, "there is no object of that name"),
    PATH_NOT_FOUND: (errno.ENOENT, "the only prefixes of a name are Local\\ and Global\\"),
    ACCESS_DENIED: (errno.EACCES, "access is denied"),
    INVALID_HANDLE: (errno.EBADF, "a handle is not open here, or is of another kind"),
    NOT_ENOUGH_MEMORY: (errno.ENOMEM, "the system has no memory left for it"),
    NOT_SUPPORTED: (errno.ENOTSUP, "this is not supported"),
    DUP_NAME: (errno.EEXIST, "several users have that name"),
    INVALID_PARAMETER: (errno.EINVAL, "a value is not allowed"),
    INVALID_NAME: (errno.EINVAL, "a name cannot end with its prefix"),
    BAD_PATHNAME: (errno.EINVAL, "a name cannot begin with a backslash"),
    ALREADY_EXISTS: (errno.EEXIST, "the name is taken"),
    FILENAME_EXCED_RANGE: (errno.ENAMETOOLONG, "the name is too long"),
    INVALID_ADDRESS: (errno.EINVAL, "no view begins at that address"),
    NOACCESS: (errno.EFAULT, "the address cannot be read"),
    INVALID_OWNER: (errno.EPERM, "an object can belong to its creator only"),
    INVALID_ACL: (errno.EINVAL, "the list of access rights is malformed"),
    INVALID_SID: (errno.EINVAL, "the user or group is malformed or unknown"),
    INVALID_SECURITY_DESCR: (errno.EINVAL, "there is no security descriptor"),
    INTERNAL_ERROR: (errno.EIO, "there is a mistake in the directory itself"),
    NO_SYSTEM_RESOURCES: (errno.EMFILE, "no more handles are left"),
    SERVER_UNAVAILABLE: (errno.ECONNRESET, "the directory cannot be reached"),
}


def failure(code: int, asked: str, meaning: str = "") -> OSError:
    """The error for Windows' number `code`, ready to be raised.

    asked: what was asked for, as "cannot open section 'x'"
    meaning: why it failed, where more is known than the number says

    >>> error = failure(183, "cannot make section 'x'")
    >>> isinstance(error, FileExistsError), code_of(error)
    (True, 183)
    """
    number, known = _KNOWN.get(code, (errno.EIO, ""))
    if sys.platform == "win32":
        return ctypes.WinError(code, f"{asked}: {meaning or known or ctypes.FormatError(code)}")
    error = OSError(number, f"{asked}: {meaning or known or 'it failed'} (Windows error {code})")
    error.__dict__["winerror"] = code  # which an OSError has on Windows alone
    return error


def code_of(error: OSError) -> int | None:
    """Windows' number of an error; None if it has none."""
    code: int | None = getattr(error, "winerror", None)
    return code
