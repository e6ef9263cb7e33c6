"""The service: one loop that never waits for anybody."""

from __future__ import annotations

import errno
import fcntl
import heapq
import itertools
import logging
import os
import resource
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from extmem.handles import winerror
from extmem.handles.directory import foreign, requests
from extmem.handles.directory import protocol as p
from extmem.handles.directory.accounts import Account
from extmem.handles.directory.connection import Connection
from extmem.handles.directory.folder import Folder
from extmem.handles.directory.global_names import GlobalNames
from extmem.handles.directory.limits import Limits, too_many, within
from extmem.handles.directory.processes import Watched, command_of, hung_up, peer_of
from extmem.handles.directory.rights import no_pages
from extmem.handles.directory.state import State
from extmem.handles.sddl import User
from extmem.handles.winerror import failure

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["Service"]

log = logging.getLogger("extmem.directory")

_AT_ONCE = 16  # connections that are accepted before others get their turn
_POLL = 0.5  # seconds between two looks at processes that have no pidfd
_REFUSED = 16  # connections that are refused and may still ask, to be told why
_PAUSE = 0.1  # seconds without accepting, when no descriptor is left


class Service:
    """All directories of a user are one of these, in a process of its own."""

    def __init__(
        self,
        folder: Folder,
        listener: socket.socket,
        idle: float,  # seconds
        limits: Limits | None = None,
    ) -> None:
        self.folder, self.idle = folder, idle
        self.uid = os.geteuid()
        self.state = State(_within_system(limits or Limits()))
        self.since = time.monotonic()
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._connections: set[Connection] = set()
        self._refused: set[Connection] = set()  # whose first request is waited for
        self._of_users: Counter[int] = Counter()  # guests, by uid
        self._watched: dict[int, tuple[Watched, Account]] = {}  # by process id
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._idle_since: float | None = self.since
        self._left = False
        self._socket_file = self._stat_socket()
        self._global, own_name = foreign.listen(self.uid)
        self._names = GlobalNames(self, self.state, self.uid, own_name)
        listener.setblocking(False)
        self._accept_again()
        self.at(_POLL, self._poll_processes)

    # -- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Until nobody needs it any more."""
        log.info("the directory of user %d begins: process %d", self.uid, os.getpid())
        try:
            while not self._left:
                self.turn(self._patience())
        finally:
            self._remove_socket()
            self._listener.close()
            self._global.close()
            log.info("the directory ends")

    def turn(self, patience: float) -> bool:
        """Serve whoever wants something; whether somebody did. Waits `patience` seconds for it."""
        ready = self._selector.select(patience)
        if len(ready) > 1:  # processes that ended first: others see it from then on
            ready.sort(key=lambda each: isinstance(each[0].fileobj, socket.socket))
        for key, _ in ready:
            # One that was closed meanwhile is not called, nor one that took its number.
            if self._selector.get_map().get(key.fd) is key:
                self._call(key.data)
        self._run_timers()
        return bool(ready)

    def at(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something later."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), call))

    @staticmethod
    def _call(act: Callable[[], None]) -> None:
        """A mistake in what one client caused must not cost the others their handles."""
        try:
            act()
        except Exception:
            log.exception("a mistake in the directory")

    def _patience(self) -> float:
        ends = [self._timers[0][0]] if self._timers else []
        token = self.state.tokens.next_end()
        if token is not None:
            ends.append(token)
        if self._idle_since is not None:
            ends.append(self._idle_since + self.idle)
        return max(0.0, min(ends) - time.monotonic()) if ends else 60.0

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self._call(heapq.heappop(self._timers)[2])
        self.state.lapse()
        if self._connections or self.state.handles:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= self.idle:
            self._leave()

    def _leave(self) -> None:
        """Unless somebody comes or starts another at this moment, go."""
        lock = self.folder.open_lock()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._idle_since = time.monotonic()
            os.close(lock)
            return
        try:
            self._accept(self._listener, guest=False)
            if not self._connections:
                self._remove_socket()
                self._listener.close()  # who connected after all is told so, and tries again
                self._left = True
        finally:
            os.close(lock)

    def _stat_socket(self) -> tuple[int, int] | None:
        try:
            status = os.stat("directory.sock", dir_fd=self.folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _remove_socket(self) -> None:
        """Ours, and not that of another that was started since."""
        mine, self._socket_file = self._socket_file, None
        if mine is not None and self._stat_socket() == mine:
            self.folder.remove_socket()

    # -- connections ----------------------------------------------------------------------------

    def _accept_again(self) -> None:
        for sock, guest in ((self._listener, False), (self._global, True)):
            if sock.fileno() not in self._selector.get_map():
                self.watch(sock, partial(self._accept, sock, guest))

    def _accept(self, listener: socket.socket, guest: bool) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no descriptor is left, mostly
                log.warning("cannot accept a connection: %s", error)
                for each in (self._listener, self._global):
                    self.unwatch(each)
                self.at(_PAUSE, self._accept_again)
                return
            sock.setblocking(False)
            connection = Connection(sock, peer_of(sock), guest)
            refusal = connection.refusal = self._refusal(connection)
            if refusal is None:
                self._connections.add(connection)
                self._of_users[connection.peer.user.uid] += guest
            else:
                log.warning("%s is refused: %s", connection, refusal)
                if guest or len(self._refused) >= _REFUSED:
                    self._tell(connection, refusal)
                    sock.close()
                    continue
                # Closed with its first request unread, it would be told of a reset and no reason.
                self._refused.add(connection)
            self.watch(sock, partial(self.read, connection))
            self.at(self.state.limits.silent_seconds, partial(self._refuse_silent, connection))

    def _refusal(self, connection: Connection) -> OSError | None:
        """Why a connection cannot be, if so."""
        limits, peer = self.state.limits, connection.peer
        asked = "cannot connect to the directory of Windows handles"
        guests = sum(self._of_users.values())
        if connection.guest:
            if self._of_users[peer.user.uid] >= limits.guests:
                return too_many(asked, f"objects lent to user {peer.user.uid}", limits.guests)
            if guests >= limits.all_guests:
                return too_many(asked, "objects lent to other users", limits.all_guests)
        elif peer.user.uid != self.uid:
            why = f"it is user {self.uid}'s, and this process acts for user {peer.user.uid}"
            return failure(winerror.ACCESS_DENIED, asked, why)
        elif len(self._connections) - guests >= limits.all_connections:
            return too_many(asked, "connections", limits.all_connections)
        if peer.process_id == 0 and not connection.guest:
            why = "this process and the directory are in different PID namespaces (containers)"
            return failure(winerror.NOT_SUPPORTED, asked, why)
        return None

    def _refuse_silent(self, connection: Connection) -> None:
        if not connection.closed and connection.account is None:
            self.end(connection, "it said nothing")

    def end(self, connection: Connection, why: str) -> None:
        """Close a connection. The handles of its process stay until the process ends."""
        if connection.closed:
            return
        if why:
            log.warning("the connection of %s is closed: %s", connection, why)
        self.unwatch(connection.sock)
        connection.close()
        self._refused.discard(connection)
        self._connections.discard(connection)
        self._of_users[connection.peer.user.uid] -= connection.guest
        account = connection.account
        if account is not None:
            account.connections -= 1
            if connection.guest:
                self.state.end(account)
            else:
                self._forget(account)

    def watch(self, sock: socket.socket, call: Callable[[], None]) -> None:
        """Call when there is something to read."""
        self._selector.register(sock, selectors.EVENT_READ, call)

    def unwatch(self, sock: socket.socket) -> None:
        """Do not call any more."""
        if sock.fileno() in self._selector.get_map():
            self._selector.unregister(sock)

    # -- requests -------------------------------------------------------------------------------

    def read(self, connection: Connection) -> None:
        """Serve the next request of a connection."""
        try:
            read = connection.read()
            if read is None:
                return
            if connection.refusal is not None:
                if read[1] is not None:
                    os.close(read[1])
                connection.reply(p.failed(connection.refusal))
                self.end(connection, "")
                return
            self._serve(connection, *read)
        except p.Malformed as error:
            self.end(connection, str(error))
        except ConnectionResetError:
            self.end(connection, "")
        except ConnectionError as error:
            self.end(connection, str(error))
        except OSError as error:
            if error.errno != errno.EMFILE:
                self.end(connection, str(error))
                return
            # The descriptor of a request had no room here, and what it was for is not known.
            log.warning("a descriptor of %s could not be taken: %s", connection, error)
            self._tell(connection, no_pages(error, "cannot take the descriptor that was sent"))

    def _serve(self, connection: Connection, request: p.Request, fd: int | None) -> None:
        """Answer a request, or ask others first. The descriptor is taken, or closed."""
        try:
            if connection.guest:
                reply, out = self._for_guest(connection, request)
            elif isinstance(request, p.Hello):
                reply, out = self._hello(connection, request), None
            elif connection.account is None:
                raise p.Malformed(f"{type(request).__name__} came before Hello")
            elif isinstance(request, p.Status):
                reply, out = self._status(), None
            else:
                if self._names.asks_others(connection, request, fd):
                    fd = None
                    return
                reply, out = self.answer(connection.account, request, fd)
                if isinstance(request, p.Share):
                    fd = None  # the object's
        except OSError as error:
            reply, out = p.failed(error), None
        except p.Malformed:
            raise
        except Exception:
            log.exception("a mistake in the directory, while it served %s", connection)
            reply, out = p.failed(failure(winerror.INTERNAL_ERROR, "cannot serve this")), None
        finally:
            if fd is not None:
                os.close(fd)
        connection.reply(reply, out)

    def answer(self, account: Account, request: p.Request, fd: int | None) -> requests.Answer:
        """What needs nobody else."""
        return requests.answer(self.state, account, request, fd, self._account_of)

    def _hello(self, connection: Connection, request: p.Hello) -> p.Message:
        asked = "cannot use the directory of Windows handles"
        if connection.account is not None:
            raise p.Malformed("a second Hello")
        if request.version != p.VERSION:
            why = (
                f"it speaks version {p.VERSION}, this process version {request.version}; "
                "end all processes that use the older extmem, and it goes by itself"
            )
            raise failure(winerror.NOT_SUPPORTED, asked, why)
        peer = connection.peer
        account = self._account_of(peer.process_id, asked, connection.sock)
        if self._was_replaced(account, request.program):
            log.info("%s runs another program now", account)
            self._process_ended(peer.process_id)  # to all who had to do with what it ran
            account = self._account_of(peer.process_id, asked, connection.sock)
        account.program = account.program or request.program
        if account.connections >= self.state.limits.connections:
            limit = self.state.limits.connections
            raise too_many(asked, f"connections of {account}", limit)
        account.user = peer.user  # its groups are known from now on
        account.connections += 1
        connection.account = account
        if request.token is not None:
            self.state.claim(account, request.token)
        return p.Welcome(self.state.epoch, os.getpid())

    def _was_replaced(self, account: Account, program: bytes) -> bool:
        """Whether a process that says Hello runs another program than the one with its handles:
        `execve` leaves its number, and none of what it had open.
        """
        if not program or account.program in (b"", program):
            return False
        for each in [each for each in self._connections if each.account is account]:
            if not hung_up(each.sock):
                return False  # two programs in one process, and both are there
        return True

    def _for_guest(self, connection: Connection, request: p.Request) -> requests.Answer:
        """For another user's directory."""
        if isinstance(request, p.Lend):
            if connection.account is None or connection.borrowed is None:
                raise p.Malformed("nothing was borrowed")
            return p.Sent(), self.state.fetch(connection.account, connection.borrowed, True)
        if not isinstance(request, p.Find | p.Borrow) or connection.account is not None:
            raise p.Malformed(f"{type(request).__name__} is not for guests, or came twice")
        name = p.unpack_text(request.name)
        if not name.startswith("Global\\"):
            raise p.Malformed("guests may ask for Global\\ names alone")
        if isinstance(request, p.Find):
            return requests.find(self.state, name)
        peer = connection.peer
        command = command_of(peer.process_id) if peer.process_id else "?"
        account = self.state.admit(peer.process_id, peer.user, command, guest=True)
        try:
            handle, reply, fd = requests.borrow(self.state, account, request)
        except BaseException:
            self.state.end(account)
            raise
        account.connections += 1
        connection.account, connection.borrowed = account, handle
        return reply, fd

    # -- processes ------------------------------------------------------------------------------

    def _account_of(
        self, process_id: int, asked: str, connection: socket.socket | None = None
    ) -> Account:
        """The account of a running process of this user, a new one if it has none."""
        if process_id == os.getpid() and connection is None:
            # Handles of it, and those that are put into it, would keep it for ever.
            raise failure(winerror.ACCESS_DENIED, asked, "it is the directory itself")
        known = self._watched.get(process_id)
        if known is not None:
            if known[0].runs():
                return known[1]
            self._process_ended(process_id)
        try:
            watched = Watched(process_id, connection)
        except ProcessLookupError:
            raise failure(winerror.INVALID_PARAMETER, asked, "there is no such process") from None
        try:
            if connection is None and watched.uid != self.uid:
                whose = "another user" if watched.uid is None else f"user {watched.uid}"
                raise failure(winerror.ACCESS_DENIED, asked, f"the process is {whose}'s")
            # Of one that has not connected yet, the groups are not known.
            user = User(self.uid, frozenset()) if connection is None else peer_of(connection).user
            account = self.state.admit(process_id, user, watched.command)
        except BaseException:
            watched.close()
            raise
        self._watched[process_id] = (watched, account)
        if watched.fd is not None:
            self._selector.register(
                watched.fd, selectors.EVENT_READ, lambda: self._process_ended(process_id)
            )
        return account

    def _process_ended(self, process_id: int) -> None:
        watched, account = self._watched.pop(process_id)
        account.ended = True
        if watched.fd is not None:
            self._selector.unregister(watched.fd)
        watched.close()
        for connection in [each for each in self._connections if each.account is account]:
            self.end(connection, "")
        self.state.end(account)

    def _forget(self, account: Account) -> None:
        """Stop watching a process that has nothing here."""
        if account.is_used or account.ended:
            return
        watched, _ = self._watched.pop(account.process_id)
        if watched.fd is not None:
            self._selector.unregister(watched.fd)
        watched.close()
        self.state.end(account)

    def _poll_processes(self) -> None:
        for process_id, (watched, account) in list(self._watched.items()):
            if watched.fd is None and not watched.runs():
                self._process_ended(process_id)
            else:
                self._forget(account)
        self.at(_POLL, self._poll_processes)

    # -- about itself ---------------------------------------------------------------------------

    def _tell(self, connection: Connection, error: OSError) -> None:
        try:
            connection.reply(p.failed(error))
        except OSError as problem:
            log.info("%s could not be told: %s", connection, problem)

    def _status(self) -> p.State:
        state = self.state
        guests = sum(self._of_users.values())
        counts = {
            "processes": len(self._watched),
            "connections": len(self._connections) - guests,
            "guests": guests,
            "objects": len(state),
            "names": len(state.names),
            "handles": state.handles,
            "descriptors": state.descriptors,
            "tokens": len(state.tokens),
        }
        return p.State(
            os.getpid(),
            self.uid,
            time.monotonic() - self.since,
            counts,
            {key: float(value) for key, value in asdict(state.limits).items()},
            os.fsencode(self.folder.path).decode("utf-8", "backslashreplace"),
        )


def _within_system(limits: Limits) -> Limits:
    """The limits that the system allows, with as many descriptors as can be had."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return limits
    return within(limits, hard)
