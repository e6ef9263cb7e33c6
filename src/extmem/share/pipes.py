"""What a channel runs on, on Windows: named pipes that keep messages whole, for this machine alone.

Handles are duplicated into the peer by the channel; a pipe carries bytes. Who the peer is, is asked
of the kernel: the process at the other end, and the user whose token that has.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import secrets
import sys
import time
from collections.abc import Callable
from ctypes import byref, c_uint32, c_void_p, c_wchar_p
from typing import Any

from extmem.errors import ClosedError
from extmem.handles.security import security_attributes
from extmem.share.parcels import LARGEST_PACKET, Lie

if sys.platform != "win32":
    raise ImportError("named pipes are Windows'; see share.sockets")

import _winapi

__all__ = ["End", "Post", "dial", "listeners", "pair", "refuse_unlike", "user"]

_FIRST_INSTANCE = 0x80000  # FILE_FLAG_FIRST_PIPE_INSTANCE: nobody else has that name
_REJECT_REMOTE = 0x8  # PIPE_REJECT_REMOTE_CLIENTS
_ASK_WHO_ONLY = 0x100000 | 0x10000  # a listener may ask who we are, and not act for us
_MOST_INSTANCES = 255  # PIPE_UNLIMITED_INSTANCES
_ROOM = 2 * LARGEST_PACKET
_QUERY_PROCESS, _QUERY_TOKEN, _TOKEN_USER = 0x1000, 0x8, 1

_NOT_FOUND, _DENIED, _BROKEN, _BUSY = 2, 5, 109, 231
_NO_DATA, _CONNECTED, _MORE_DATA, _ABORTED = 232, 535, 234, 995


class End:
    """One end of a connection."""

    def __init__(self, handle: int, listening: bool) -> None:
        """listening: whether it is the listener's end. The handle is closed if this fails."""
        self._handle: int | None = handle
        self._waiting: set[Any] = set()  # what other threads wait for
        try:
            self.process_id = _peer_of(handle, listening)
            self.user: int | str = _user_of(self.process_id)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._open()

    def _open(self) -> int:
        if self._handle is None:
            raise BrokenPipeError(errno.EPIPE, "this end is closed")
        return self._handle

    def send(self, data: bytes, descriptors: list[int], timeout: float | None) -> None:
        """Send a message. TimeoutError if the peer does not read, BrokenPipeError if it is gone."""
        assert not descriptors
        try:
            overlapped, _ = _winapi.WriteFile(self._open(), data, overlapped=True)
            error = self._finish(overlapped, timeout)
        except OSError as failed:
            if failed.winerror in (_BROKEN, _NO_DATA):
                raise BrokenPipeError(errno.EPIPE, "the peer is gone") from None
            raise
        if error == _ABORTED:
            raise TimeoutError(errno.ETIMEDOUT, "the peer does not read in time")

    def receive(self, timeout: float | None) -> tuple[bytes, list[int]]:
        """A message. EOFError if the peer is gone."""
        try:
            overlapped, _ = _winapi.ReadFile(self._open(), LARGEST_PACKET, overlapped=True)
            error = self._finish(overlapped, timeout)
        except OSError as failed:
            if failed.winerror in (_BROKEN, _NO_DATA):
                raise EOFError("the peer is gone") from None
            raise
        if error == _MORE_DATA:
            raise Lie(f"a packet of more than {LARGEST_PACKET} bytes")
        if error == _ABORTED:
            if self._handle is None:
                raise EOFError("this end was closed")
            raise TimeoutError(errno.ETIMEDOUT, "nothing came in time")
        return bytes(overlapped.getbuffer() or b""), []

    def _finish(self, overlapped: Any, timeout: float | None) -> int:
        """Wait for what was begun: 0, _MORE_DATA, or _ABORTED after the timeout."""
        self._waiting.add(overlapped)
        try:
            return _finish(overlapped, timeout)
        finally:
            self._waiting.discard(overlapped)

    def close(self) -> None:
        handle, self._handle = self._handle, None
        for each in tuple(self._waiting):  # wakes the threads that wait here
            each.cancel()
        if handle is not None:
            _winapi.CloseHandle(handle)

    def let_go(self) -> None:
        """Close it here alone: another process has this same end, and goes on with it."""
        self.close()


class Post:
    """Where connections are taken: a named pipe that opens to this user and those admitted."""

    def __init__(self, name: str, others: tuple[str, ...]) -> None:
        self._address = _address(name, user())
        rights = "".join(f"(A;;GA;;;{sid})" for sid in (user(), *others))
        self._attributes = security_attributes(f"D:P{rights}")
        try:
            self._next: int | None = self._instance(_FIRST_INSTANCE)
        except OSError as error:
            if error.winerror not in (_DENIED, _BUSY):
                raise
            raise FileExistsError(
                errno.EEXIST,
                f"somebody listens as {name!r} already; close that listener, or take another name",
            ) from None

    def _instance(self, flags: int) -> int:
        return _winapi.CreateNamedPipe(
            self._address,
            _winapi.PIPE_ACCESS_DUPLEX | _winapi.FILE_FLAG_OVERLAPPED | flags,
            _winapi.PIPE_TYPE_MESSAGE | _winapi.PIPE_READMODE_MESSAGE | _REJECT_REMOTE,
            _MOST_INSTANCES,
            _ROOM,
            _ROOM,
            0,
            ctypes.addressof(self._attributes),
        )

    def accept(self, timeout: float | None) -> End:
        """The next connection, of whomsoever."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._next is None:
                raise ClosedError("this listener is closed")
            left = None if until is None else max(until - time.monotonic(), 0)
            try:
                overlapped = _winapi.ConnectNamedPipe(self._next, overlapped=True)
                if _finish(overlapped, left) == _ABORTED:
                    raise TimeoutError(errno.ETIMEDOUT, "nobody connected in time")
            except OSError as error:
                if isinstance(error, TimeoutError):
                    raise
                if error.winerror == _NO_DATA:  # it has gone again
                    self._replace()
                    continue
                if error.winerror != _CONNECTED:
                    raise
            taken = self._replace(keep=True)
            with contextlib.suppress(OSError):  # its process ended before it could be looked at
                return End(taken, listening=True)

    def _replace(self, *, keep: bool = False) -> int:
        """Another instance for the next one; the one before."""
        assert self._next is not None
        before, self._next = self._next, self._instance(0)
        if not keep:
            _winapi.CloseHandle(before)
        return before

    def close(self) -> None:
        handle, self._next = self._next, None
        if handle is not None:
            _winapi.CloseHandle(handle)

    def let_go(self) -> None:
        """Close it here alone; no other process has it on Windows."""
        self.close()


def dial(name: str, whose: int | str, timeout: float) -> End:
    """A connection to a listener. ConnectionRefusedError if there is none in time."""
    until = time.monotonic() + timeout
    while True:
        try:
            return _reach(_address(name, whose))
        except OSError as error:
            if error.winerror == _DENIED:
                raise PermissionError(
                    errno.EACCES, f"the listener {name!r} of user {whose} does not admit this user"
                ) from None
            if error.winerror not in (_NOT_FOUND, _BUSY):
                raise
        if time.monotonic() >= until:
            raise ConnectionRefusedError(
                errno.ECONNREFUSED,
                f"nobody listens as {name!r} of user {whose}, or takes connections, for "
                f"{timeout:g} s; start the listener first, or wait longer: timeout=",
            )
        time.sleep(0.01)


def _reach(address: str) -> End:
    handle = _winapi.CreateFile(
        address,
        _winapi.GENERIC_READ | _winapi.GENERIC_WRITE,
        0,
        _winapi.NULL,
        _winapi.OPEN_EXISTING,
        _winapi.FILE_FLAG_OVERLAPPED | _ASK_WHO_ONLY,
        _winapi.NULL,
    )
    try:
        _winapi.SetNamedPipeHandleState(handle, _winapi.PIPE_READMODE_MESSAGE, None, None)
    except BaseException:
        _winapi.CloseHandle(handle)
        raise
    return End(handle, listening=False)


def pair() -> tuple[End, End]:
    """Two ends that are connected, both of this process."""
    name = f"pair-{os.getpid()}-{secrets.token_hex(8)}"
    post = Post(name, ())
    try:
        there = dial(name, user(), 5.0)
        try:
            return post.accept(5.0), there
        except BaseException:
            there.close()
            raise
    finally:
        post.close()


def refuse_unlike(object: str, fd: int) -> None:
    """Pipes carry no descriptors."""
    raise Lie(f"the descriptor {fd}")


def _address(name: str, whose: int | str) -> str:
    return rf"\\.\pipe\extmem-{whose}-{name}"


def listeners(beginning: str) -> dict[str, object]:
    """The names of this user's listeners that begin so, each with what is known of it without
    reaching it: that it is there.
    """
    start = _address("", user()).rpartition("\\")[2]
    try:
        names = os.listdir("\\\\.\\pipe\\")
    except OSError:  # Wine has pipes, and no list of them
        return {}
    found = (each.removeprefix(start) for each in names if each.startswith(start + beginning))
    return dict.fromkeys(found, "there")


def _finish(overlapped: Any, timeout: float | None) -> int:
    wait = _winapi.INFINITE if timeout is None else max(int(timeout * 1000), 0)
    try:
        if _winapi.WaitForMultipleObjects([overlapped.event], False, wait) == _winapi.WAIT_TIMEOUT:
            overlapped.cancel()
    except BaseException:
        overlapped.cancel()
        overlapped.GetOverlappedResult(True)
        raise
    return int(overlapped.GetOverlappedResult(True)[1])


# -- who somebody is ------------------------------------------------------------------------------


@functools.cache
def _calls() -> Any:
    """What `_winapi` has not, with the types of its arguments."""
    signatures: dict[str, dict[str, tuple[Any, ...]]] = {
        "kernel32": {
            "GetNamedPipeClientProcessId": (c_void_p, c_void_p),
            "GetNamedPipeServerProcessId": (c_void_p, c_void_p),
            "LocalFree": (c_void_p,),
        },
        "advapi32": {
            "OpenProcessToken": (c_void_p, c_uint32, c_void_p),
            "GetTokenInformation": (c_void_p, c_uint32, c_void_p, c_uint32, c_void_p),
            "ConvertSidToStringSidW": (c_void_p, c_void_p),
        },
    }
    found: dict[str, Callable[..., int]] = {}
    for library, functions in signatures.items():
        loaded = ctypes.WinDLL(library, use_last_error=True)
        for name, arguments in functions.items():
            function = getattr(loaded, name)
            function.argtypes = arguments
            found[name] = function
    return type("Calls", (), {name: staticmethod(each) for name, each in found.items()})


def _require(done: int) -> None:
    if not done:
        raise ctypes.WinError(ctypes.get_last_error())


def _peer_of(handle: int, listening: bool) -> int:
    """The process at the other end of a pipe."""
    calls, found = _calls(), c_uint32()
    ask = calls.GetNamedPipeClientProcessId if listening else calls.GetNamedPipeServerProcessId
    _require(ask(handle, byref(found)))
    return found.value


def _user_of(process_id: int) -> str:
    """The SID of the user that a process runs as."""
    process = _winapi.OpenProcess(_QUERY_PROCESS, False, process_id)
    try:
        return _user(process)
    finally:
        _winapi.CloseHandle(process)


def _user(process: int) -> str:
    calls, token, needed, text = _calls(), c_void_p(), c_uint32(), c_wchar_p()
    _require(calls.OpenProcessToken(process, _QUERY_TOKEN, byref(token)))
    try:
        room = ctypes.create_string_buffer(256)  # a TOKEN_USER, and the longest SID
        _require(calls.GetTokenInformation(token, _TOKEN_USER, room, len(room), byref(needed)))
        _require(calls.ConvertSidToStringSidW(c_void_p.from_buffer(room), byref(text)))
        try:
            return text.value or ""
        finally:
            calls.LocalFree(text)
    finally:
        _winapi.CloseHandle(token.value or 0)


@functools.cache
def user() -> str:
    """Whom this process acts for."""
    return _user(_winapi.GetCurrentProcess())
