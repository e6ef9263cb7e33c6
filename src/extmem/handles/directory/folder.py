"""Where the directory lives: one folder that belongs to the user and opens to nobody else."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["VARIABLE", "Folder", "others", "unusable", "where"]

VARIABLE = "EXTMEM_RUNTIME_DIR"
_LONGEST = 100  # what a socket's address has room for is 107, with some systems less


def where() -> Path:
    """The folder, which need not be there yet.

    $EXTMEM_RUNTIME_DIR, or `extmem` in $XDG_RUNTIME_DIR or /run/user/UID, whichever is there and
    belongs to this user (who changed with `su` has that of another), or /tmp/extmem-UID.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    uid = os.geteuid()
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{uid}"):
        if parent and _is_ours(parent):
            return Path(parent).absolute() / "extmem"
    return Path(f"/tmp/extmem-{uid}")


def others() -> list[Path]:
    """Folders that programs of other sessions of this user would choose, of those that are there:
    another runtime folder, or none.
    """
    uid = os.geteuid()
    runtime = filter(None, (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{uid}"))
    found = [*(Path(each).absolute() / "extmem" for each in runtime), Path(f"/tmp/extmem-{uid}")]
    ours = where()
    return [each for each in dict.fromkeys(found) if each != ours and _is_ours(str(each))]


def _is_ours(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


@dataclass(frozen=True, slots=True)
class Folder:
    """An open folder that was looked at: what is done in it is done in this one."""

    path: Path
    fd: int

    @classmethod
    def open(cls, path: Path, make: bool = True) -> Self:
        """Make it if it is not there. PermissionError, with the remedy, if it is not ours alone.

        FileNotFoundError if it is not there and shall not be made.
        """
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, 0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if not make and isinstance(error, FileNotFoundError):
                raise
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise unusable(error, path) from None
            what = "is a symbolic link, or no folder" if path.is_symlink() else str(error.strerror)
            raise _refused(path, what, "remove it") from None
        try:
            status = os.fstat(fd)
            if status.st_uid != os.geteuid():
                raise _refused(path, f"belongs to user {status.st_uid}", "have it removed")
            if stat.S_IMODE(status.st_mode) != 0o700:
                mode = f"{stat.S_IMODE(status.st_mode):o}"
                raise _refused(path, f"has the mode {mode}", f"chmod 700 '{path}'")
            return cls(path, fd)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The socket's, in a form that is short enough."""
        path = str(self.path / "directory.sock")
        if len(os.fsencode(path)) <= _LONGEST:
            return path
        return f"/proc/self/fd/{self.fd}/directory.sock"

    @property
    def log(self) -> Path:
        """What the service said."""
        return self.path / "directory.log"

    def open_lock(self) -> int:
        """The lock file, for `flock`. It stays: a lock that is removed locks nobody out."""
        return self._open("directory.lock", os.O_RDWR)

    def open_log(self) -> int:
        """The log, emptied."""
        return self._open("directory.log", os.O_WRONLY | os.O_TRUNC | os.O_APPEND)

    def _open(self, name: str, flags: int) -> int:
        flags |= os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(name, flags, 0o600, dir_fd=self.fd)
        except OSError as error:
            raise unusable(error, self.path / name) from None

    def bind(self, listener: socket.socket) -> None:
        """Make the socket's file."""
        try:
            listener.bind(self.address)
        except OSError as error:
            raise unusable(error, self.path / "directory.sock") from None

    def remove_socket(self) -> None:
        """Take the socket's file away, whoever left it; with the lock held."""
        try:
            os.unlink("directory.sock", dir_fd=self.fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise unusable(error, self.path / "directory.sock") from None


def unusable(error: OSError, path: Path) -> OSError:
    """The same error, with what it is about and what to do."""
    other = f"set {VARIABLE} to another folder"
    match error.errno:
        case errno.EMFILE | errno.ENFILE:
            what = "it cannot be opened: no descriptor is left"
            remedy = "close some, or raise the limit: `ulimit -n`"
        case errno.ENOSPC | errno.EDQUOT:
            what, remedy = "there is no room left on its disk", f"make room, or {other}"
        case errno.EISDIR | errno.ELOOP:
            kind = "a folder" if error.errno == errno.EISDIR else "a symbolic link"
            what = f"it is {kind}, where the directory has a file of its own"
            remedy = f"remove it: rm -r {shlex.quote(str(path))}"
        case errno.ENAMETOOLONG:
            what, remedy = "its path is too long", f"{other}, with a shorter path"
        case _:
            what, remedy = os.strerror(error.errno or 0), f"mend that, or {other}"
    return type(error)(error.errno, f"cannot use {path}: {what}; {remedy}")


def _refused(path: Path, what: str, remedy: str) -> PermissionError:
    return PermissionError(
        1,
        f"cannot use the folder of the directory: {path} {what}; it has to be this user's own, "
        f"with the mode 700: {remedy}, or set {VARIABLE} to another folder",
    )
