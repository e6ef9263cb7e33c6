"""Windows' kernel calls on Linux, for processes of one user together: the directory's client."""

from __future__ import annotations

import errno
import logging
import operator
import os
import re
import sys
import threading
import weakref
from socket import socket
from typing import Self, TypeVar

from extmem.handles import memfd, names, sddl, winerror
from extmem.handles.directory import protocol as p
from extmem.handles.directory import starting
from extmem.handles.kernel import ACCESS_ALL, ObjectInfo, Security
from extmem.handles.sddl import User
from extmem.handles.winerror import failure

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["INHERIT", "DirectoryKernel", "running"]

log = logging.getLogger("extmem.directory")

INHERIT = "EXTMEM_INHERIT"  # a token, in the environment of a child
_THIS_PROCESS = (-1, (1 << 64) - 1)  # the pseudo-handle, as Python's or C's number
_NO_MEMORY = {errno.ENOMEM, errno.EINVAL, errno.EOVERFLOW, errno.EAGAIN}
_LOST = {winerror.FILE_NOT_FOUND, winerror.INVALID_HANDLE}
_NO_TOKEN = {winerror.ACCESS_DENIED, winerror.INVALID_HANDLE}  # what a claim is refused with
_TOKEN = re.compile("[0-9a-f]{32}")
_REMEDY = "a token is for one child: call win32.child_environment() for each"

T = TypeVar("T", bound=p.Message)


class DirectoryKernel:
    """`extmem.handles.kernel.Kernel`, and what drivers share by descriptors.

    Safe to use from several threads, and from finalisers that run in the middle of a call.
    """

    def __init__(self) -> None:
        self._pid = 0  # this process, once it begins to connect
        self._lock = threading.RLock()
        self._busy = False  # the connection is waiting for a reply
        self._connection: socket | None = None
        self._epoch = b""
        self._ended = 0  # how many directories ended while this process used them
        self._not_inherited = ""  # why the token of this process did not work, if it had one
        self._views: dict[int, int] = {}  # sizes by address
        _clients.add(self)

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None:  # at the end of the process, whatever is taken apart first
            connection.close()

    # -- sections -------------------------------------------------------------------------------

    def create_section(
        self,
        size: int,
        *,
        name: str | None = None,
        access: int = ACCESS_ALL,
        security: Security | None = None,
        passport: bytes = b"",
    ) -> int:
        """Make a section; its first handle."""
        asked = f"cannot make section {name!r} of {size} bytes"
        if not 0 < size < 1 << 63:
            raise failure(winerror.INVALID_PARAMETER, asked, "its size is not a number of bytes")
        wanted = security or Security()
        request = p.CreateSection(
            size,
            _name(name),
            access & 0xFFFFFFFF,
            _sddl(wanted, asked),
            wanted.inherit,
            _bounded(passport, asked),
        )
        return self._number(request)

    def open_section(self, name: str, access: int = ACCESS_ALL) -> int:
        """A handle of a named section."""
        return self.open_named(name, "Section", access)

    def section_size(self, handle: int) -> int:
        """How large a section is, in bytes: whole pages."""
        return self._number(p.SectionSize(_value(handle)))

    def map_section(self, handle: int, size: int, *, write: bool = True) -> int:
        """Map a section from its start; the address."""
        asked = f"cannot map {size} bytes of the section of handle {handle:#x}"
        if size <= 0:
            raise failure(winerror.INVALID_PARAMETER, asked, "a view has at least one byte")
        fd = self._descriptor(p.Fetch(_value(handle), write, min(size, (1 << 63) - 1)))
        try:
            address = memfd.map_pages(fd, size, write)
        except OSError as error:
            code = winerror.NOT_ENOUGH_MEMORY if error.errno in _NO_MEMORY else None
            raise failure(code or winerror.NOT_SUPPORTED, asked, str(error)) from None
        finally:
            os.close(fd)
        self._views[address] = size
        return address

    def unmap_section(self, address: int, size: int) -> None:
        """Take a view away. Its size is known; `size` is not looked at, as on Windows."""
        self._refuse_forked()
        known = self._views.pop(address, None)
        if known is None:
            raise failure(winerror.INVALID_ADDRESS, f"cannot unmap the view at {address:#x}")
        memfd.unmap_pages(address, known)

    # -- what drivers share ---------------------------------------------------------------------

    def share(
        self,
        fd: int,
        kind: str,  # "Memory", "Semaphore", "Fence"
        *,
        name: str | None = None,
        access: int = ACCESS_ALL,  # nothing less than all can be granted
        security: Security | None = None,
        passport: bytes = b"",
    ) -> int:
        """An object that stands for a driver's descriptor; its first handle.

        The descriptor stays the caller's. Passport: what importers have to know, 16 KiB at most.
        """
        asked = f"cannot share {kind} {name!r}"
        wanted = security or Security()
        request = p.Share(
            kind[:64],
            _name(name),
            access & 0xFFFFFFFF,
            _sddl(wanted, asked),
            wanted.inherit,
            _bounded(passport, asked),
        )
        return self._number(request, fd)

    def open_named(self, name: str, kind: str, access: int = ACCESS_ALL) -> int:
        """A handle of an object of any kind, by its name."""
        packed = _name(name)
        if packed is None:
            asked = f"cannot open {kind.lower()} {name!r}"
            raise failure(winerror.INVALID_PARAMETER, asked, "the name is empty")
        return self._number(p.OpenNamed(kind[:64], packed, access & 0xFFFFFFFF))

    def descriptor(self, handle: int) -> int:
        """A new descriptor of what a handle stands for, closed on exec; the caller's."""
        return self._descriptor(p.Fetch(_value(handle), None, 0))

    def passport(self, handle: int) -> bytes:
        """What the maker of the object laid beside it; b"" if nothing."""
        return self._ask(p.ReadPassport(_value(handle)), p.Blob).value

    # -- handles --------------------------------------------------------------------------------

    def close(self, handle: int) -> None:
        """Close a handle. The pseudo-handle of this process stays."""
        self._ask(p.Close(_value(handle)), p.Done)

    def let_go(self, handle: int) -> None:
        """Close a handle of our own; with a directory that ended it is gone, and that is all."""
        try:
            self.close(handle)
        except OSError as error:
            code = winerror.code_of(error)
            if code == winerror.INVALID_HANDLE and self._ended:
                log.info("handle %#x went with its directory", handle)
            elif code == winerror.SERVER_UNAVAILABLE:  # it goes with this process, if it is there
                log.warning("handle %#x is left behind: %s", handle, error)
            else:
                raise

    def duplicate(
        self,
        handle: int,
        *,
        access: int | None = None,
        inherit: bool = False,
        source: int | None = None,
        target: int | None = None,
        close_source: bool = False,
    ) -> int:
        """A handle in the target process, of the object in the source process."""
        request = p.Duplicate(
            _value(handle),
            None if access is None else access & 0xFFFFFFFF,
            inherit,
            -1 if source is None else _value(source),
            -1 if target is None else _value(target),
            close_source,
        )
        return self._number(request)

    def info(self, handle: int) -> ObjectInfo:
        """What is known of an open handle."""
        got = self._ask(p.Info(_value(handle)), p.Described)
        name = None if got.name is None else p.unpack_text(got.name)
        return ObjectInfo(got.kind, name, got.handles, got.access, got.identity)

    def same_object(self, first: int, second: int) -> bool:
        """Whether two handles stand for one object."""
        return bool(self._number(p.Same(_value(first), _value(second))))

    def flags(self, handle: int) -> int:
        """1 inherit, 2 protected from close."""
        return self._number(p.Flags(_value(handle), 0, 0))

    def set_flags(self, handle: int, mask: int, flags: int) -> None:
        """Set those of the flags that are in the mask."""
        self._number(p.Flags(_value(handle), mask & 3, flags & 3))

    # -- processes ------------------------------------------------------------------------------

    def current_process(self) -> int:
        """The pseudo-handle of this process."""
        return -1

    def open_process(self, access: int, inherit: bool, process_id: int) -> int:
        """A handle of a process of this user, whether it has used handles yet or not."""
        if not 0 < process_id < 1 << 31:
            asked = f"cannot open process {process_id}"
            raise failure(winerror.INVALID_PARAMETER, asked, "there is no such process")
        return self._number(p.OpenProcess(process_id, access & 0xFFFFFFFF, bool(inherit)))

    def count_handles(self) -> int:
        """How many handles this process has open."""
        return self._number(p.CountHandles())

    def child_environment(self) -> dict[str, str]:
        """What the environment of one child needs for it to get the handles that are inherited."""
        return {INHERIT: self._ask(p.Offer(), p.Blob).value.decode()}

    # -- the directory itself -------------------------------------------------------------------

    def listing(self) -> list[p.Listed]:
        """Every object of this user."""
        found: list[p.Listed] = []
        while True:
            page = self._ask(p.Listing(found[-1].identity if found else 0), p.ListingPage)
            found += page.objects
            if not page.more:
                return found

    def status(self) -> p.State:
        """How the directory is."""
        return self._ask(p.Status(), p.State)

    @property
    def epoch(self) -> bytes:
        """Which life of the directory was met last; b"" if none was."""
        return self._epoch

    @property
    def lost(self) -> str:
        """Why handles and names that this process counts on may not be there; "" if nothing is."""
        ended = (
            "the directory ended once while this process used it, and what it had is gone: make "
            "and share the objects again"
        )
        return "; ".join(filter(None, (ended if self._ended else "", self._not_inherited)))

    def disconnect(self) -> None:
        """Close the connection until the next call. Handles stay as long as this process."""
        self._refuse_forked()
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    # -- within ---------------------------------------------------------------------------------

    def _refuse_forked(self) -> None:
        if self._pid and os.getpid() != self._pid:
            raise failure(
                winerror.INVALID_HANDLE,
                "Windows handles cannot be used in a process that was forked",
                f"they belong to process {self._pid}; start processes anew, with multiprocessing's "
                "spawn or forkserver, and pass them what they need",
            )

    def _number(self, request: p.Message, fd: int | None = None) -> int:
        return self._ask(request, p.Number, fd).value

    def _ask(self, request: p.Message, expected: type[T], fd: int | None = None) -> T:
        """The reply, which is of this class."""
        reply, got = self._exchange(request, fd)
        if got is not None:
            os.close(got)
        if not isinstance(reply, expected):
            raise self._wrong(reply)
        return reply

    def _descriptor(self, request: p.Fetch) -> int:
        reply, got = self._exchange(request, None)
        if got is None:
            raise self._wrong(reply)
        return got

    def _wrong(self, reply: p.Message) -> OSError:
        why = f"it answered with {type(reply).__name__}, which is wrong"
        return failure(winerror.SERVER_UNAVAILABLE, starting.ASKED, why)

    def _exchange(self, request: p.Message, fd: int | None) -> tuple[p.Reply, int | None]:
        """One request and its reply; one at a time."""
        self._refuse_forked()
        with self._lock:
            try:
                if self._busy:  # a finaliser, in the middle of another request of this thread
                    with self._connect() as second:
                        return starting.ask(second, request, fd)
                self._busy = True
                try:
                    return self._exchange_on_main(request, fd)
                finally:
                    self._busy = False
            except starting.Ended:
                raise self._lost() from None
            except OSError as error:
                if winerror.code_of(error) in _LOST and self.lost:
                    error.strerror = f"{error.strerror}; {self.lost}"
                raise

    def _exchange_on_main(self, request: p.Message, fd: int | None) -> tuple[p.Reply, int | None]:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect()
        whole = False
        try:
            result = starting.ask(connection, request, fd)
            whole = True
            return result
        except OSError as error:
            # What the directory itself says is a reply like others.
            whole = winerror.code_of(error) not in (None, winerror.SERVER_UNAVAILABLE)
            raise
        finally:
            if not whole:  # a reply may be under way that nobody waits for
                self._connection = None
                connection.close()

    @classmethod
    def _of_running(cls) -> Self | None:
        found = starting.running()
        if found is None:
            return None
        made = cls()
        made._connection, made._epoch, made._pid = found[0], found[1].epoch, os.getpid()
        return made

    def _connect(self) -> socket:
        before, self._pid = self._pid, os.getpid()  # a child that is forked meanwhile is told so
        try:
            connection, welcome = self._greeted()
        except BaseException:
            self._pid = before
            raise
        if self._epoch and welcome.epoch != self._epoch:
            self._ended = max(self._ended, 1)
        self._epoch = welcome.epoch
        return connection

    def _greeted(self) -> tuple[socket, p.Welcome]:
        """A connection, with what this process inherits. What is wrong with its token is said once,
        and again beside each handle that is not open.
        """
        token = os.environ.get(INHERIT) or None
        try:
            if token is not None and not _TOKEN.fullmatch(token):
                why = f"it is {token[:40]!r}, and a token has 32 hexadecimal digits; {_REMEDY}"
                raise failure(
                    winerror.ACCESS_DENIED, f"cannot inherit the handles of {INHERIT}", why
                )
            greeted = starting.connect(token)
        except OSError as error:
            if token is not None and winerror.code_of(error) in _NO_TOKEN:
                os.environ.pop(INHERIT, None)
                self._not_inherited = str(error.strerror)
                log.error("%s", error.strerror)
            raise
        # It works once, and is not for our own children. Where the directory could not be reached,
        # it is there for the next time.
        if token is not None:
            os.environ.pop(INHERIT, None)
        return greeted

    def _lost(self) -> OSError:
        self._ended += 1
        log.error("the directory of Windows handles ended while this process used it")
        return failure(
            winerror.SERVER_UNAVAILABLE,
            starting.ASKED,
            "it ended while this process used it (was it killed?). What is mapped or imported "
            "stays; handles, names and KMT numbers are gone. The next use starts a new directory: "
            "make and share the objects again",
        )

    def _after_fork(self) -> None:
        """In a child: whoever held the lock is not there, and the connection is the parent's."""
        self._lock = threading.RLock()
        self._busy = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()  # so that it ends with the parent's program


_clients: weakref.WeakSet[DirectoryKernel] = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def running() -> DirectoryKernel | None:
    """A client of the service that runs, for a look; None if none does. `disconnect` it.

    Neither a folder is made nor a service started, and no inherited handles are claimed.
    """
    return DirectoryKernel._of_running()


def _value(handle: int) -> int:
    """A handle as it is sent. OSError 6 for a number that can be none."""
    number = operator.index(handle)
    if number in _THIS_PROCESS:
        return -1
    if not 0 <= number < 1 << 63:
        raise failure(winerror.INVALID_HANDLE, f"handle {number:#x} is not open")
    return number


def _name(name: str | None) -> bytes | None:
    name = names.checked(name)
    return None if name is None else p.pack_text(names.canonical(name))


def _sddl(security: Security, asked: str) -> bytes | None:
    if security.descriptor is None:
        return None
    sddl.parse(security.descriptor, User.current(), named=True)  # what is wrong is said here
    packed = p.pack_text(security.descriptor)
    if len(packed) > p.MAX_DESCRIPTOR:
        why = f"its security descriptor has {len(packed)} bytes; the limit is {p.MAX_DESCRIPTOR}"
        raise failure(winerror.INVALID_PARAMETER, asked, why)
    return packed


def _bounded(passport: bytes, asked: str) -> bytes:
    if len(passport) > p.MAX_PASSPORT:
        why = f"its passport has {len(passport)} bytes; the limit is {p.MAX_PASSPORT}"
        raise failure(winerror.INVALID_PARAMETER, asked, why)
    return passport
