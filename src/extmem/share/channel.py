"""Channels: connections between two processes that carry handles, with their passports.

    # one process                                 # another one
    with channel.Listener("camera") as door:      with channel.connect("camera") as other:
        with door.accept() as other:                  parcel = other.receive(timeout=5)
            other.send(b"a frame", [memory])          frame = gpu.import_memory(parcel.handles[0])

Who is at the other end is the kernel's word, not the peer's: a listener takes processes of this
user alone, unless it is told of others. What comes is decoded strictly and bounded, and everything
that waits can be told how long. A peer that dies, hangs or lies costs its own handles.

Descriptors lie beside the message. NT handles are duplicated into the peer (DuplicateHandle), so
the sender may end before the peer receives; what a peer never takes is taken back if the send
fails, and closed if the peer closes its channel; else it goes with the peer's process. Only a peer
of the same user is believed about their numbers: it may open this process, and could do to its
handles what it likes without a channel. KMT values travel as the numbers that they are.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from extmem.errors import ClosedError, Unsupported
from extmem.handles.handle import Handle
from extmem.handles.system import kernel
from extmem.handles.winerror import ACCESS_DENIED, INVALID_HANDLE, INVALID_PARAMETER, code_of
from extmem.memory import Memory
from extmem.share import parcels
from extmem.share.parcels import Item, Lie, Packet
from extmem.sync import Fence, Semaphore

if sys.platform == "win32":
    from extmem.share.pipes import End, Post, dial, refuse_unlike, user
    from extmem.share.pipes import pair as _pair
else:
    from extmem.share.sockets import End, Post, dial, refuse_unlike, user
    from extmem.share.sockets import pair as _pair

__all__ = ["Channel", "Listener", "Parcel", "Peer", "connect", "pair"]

log = logging.getLogger("extmem")

_DUPLICATE = 0x40  # PROCESS_DUP_HANDLE
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}\Z")
_MOST_UNREAD = 256  # parcels that are looked through when a channel is closed

# NT handles that arrived: a number that one of them owns can arrive only by mistake or intent.
_arrived: weakref.WeakValueDictionary[int, Handle] = weakref.WeakValueDictionary()


class Peer(NamedTuple):
    """Who is at the other end, in the kernel's words."""

    process_id: int  # the one that connected or listened; 0 if it cannot be seen from here
    user: int | str  # its uid, or on Windows its SID


@dataclass(frozen=True, slots=True)
class Parcel:
    """What was sent at once. The handles are the receiver's to close."""

    message: bytes
    handles: list[Handle]

    def close(self) -> None:
        """Close the handles that are still there."""
        for each in self.handles:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Channel:
    """One end of a connection. Made by `connect`, `Listener.accept` and `pair`.

    >>> import extmem
    >>> here, there = pair()
    >>> with here, there, extmem.open_device(driver="embedded") as gpu:
    ...     with gpu.allocate(64, export="opaque_win32") as memory:
    ...         memory.numpy()[:] = 7
    ...         here.send(b"seven", [memory])
    ...         with there.receive(timeout=5) as parcel:
    ...             with gpu.import_memory(parcel.handles[0]) as again:
    ...                 parcel.message, again.size, int(again.numpy()[63])
    (b'seven', 64, 7)
    """

    def __init__(self, end: End) -> None:
        self._end: End | None = end
        self._lock = threading.Lock()  # of who closes
        self.peer = Peer(end.process_id, end.user)

    @property
    def closed(self) -> bool:
        """Whether this end was closed; also because the peer sent what is no parcel."""
        return self._end is None

    def fileno(self) -> int:
        """What to wait for with `select` on Linux: a descriptor."""
        return self._open().fileno()

    def _open(self) -> End:
        end = self._end
        if end is None:
            raise ClosedError("this channel is closed")
        return end

    # -- sending --------------------------------------------------------------------------------

    def send(
        self,
        message: bytes = b"",
        handles: Sequence[Memory | Semaphore | Fence | Handle] = (),
        *,
        timeout: float | None = 10.0,
    ) -> None:
        """Send a message and handles, which stay the caller's.

        handles: a `Memory`, `Semaphore` or `Fence` is exported for this (one that can be exported
            as one type)
        timeout: seconds that the peer gets to make room; TimeoutError after that

        BrokenPipeError if the peer is gone. A send that fails on its way closes the channel.
        """
        end = self._open()
        parcels.check_message(message, handles)
        with contextlib.ExitStack() as kept:
            own = [each if isinstance(each, Handle) else _exported(each, kept) for each in handles]
            descriptors = [each.value for each in own if _kind(each) == "fd"]
            pushed = kept.enter_context(self._pushed(own))
            items = tuple(
                parcels.item_of(each, number) for each, number in zip(own, pushed, strict=True)
            )
            data = parcels.encode(Packet(bytes(message), items))
            try:
                end.send(data, descriptors, timeout)
            except BaseException:
                self.close()
                raise

    @contextlib.contextmanager
    def _pushed(self, handles: Sequence[Handle]) -> Iterator[list[int | None]]:
        """What number each handle has over there, NT handles once they are duplicated into the
        peer; these are taken back if the `with` fails.
        """
        numbers: list[int | None] = []
        process = 0
        if any(_kind(each) == "nt" for each in handles):
            process = self._peer_process()
        given: list[int] = []
        try:
            for each in handles:
                if _kind(each) == "nt":
                    given.append(self._duplicated(each.value, process))
                    numbers.append(given[-1])
                else:
                    numbers.append(each.value if _kind(each) == "kmt" else None)
            yield numbers
        except BaseException:
            for number in given:
                _close_over_there(process, number)
            raise
        finally:
            if process:
                kernel().let_go(process)

    def _peer_process(self) -> int:
        if not self.peer.process_id:
            raise Unsupported(
                "the peer cannot be seen from here (it is in another PID namespace), so no Windows "
                "handle can be duplicated into it; send a descriptor: export='opaque_fd'"
            )
        try:
            return kernel().open_process(_DUPLICATE, False, self.peer.process_id)
        except OSError as error:
            if code_of(error) != INVALID_PARAMETER:
                raise
            self.close()
            raise BrokenPipeError(errno.EPIPE, "the peer is gone") from None

    def _duplicated(self, number: int, process: int) -> int:
        try:
            return kernel().duplicate(number, target=process)
        except OSError as error:
            if code_of(error) == ACCESS_DENIED:  # as it is said of a process that has ended
                kernel().let_go(self._peer_process())
            raise

    # -- receiving ------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None) -> Parcel:
        """The next parcel. Its handles are the caller's from now on.

        timeout: seconds; None waits for as long as the peer is there

        TimeoutError if nothing came, EOFError if the peer is gone, PermissionError if the listener
        refused this process. ConnectionAbortedError, and the channel is closed, if what came is no
        parcel.
        """
        end = self._open()
        try:
            data, descriptors = end.receive(timeout)
            return self._unpacked(data, descriptors)
        except Lie as lie:
            self._drop()
            what = f"process {self.peer.process_id} of user {self.peer.user} sent {lie}"
            log.warning("a channel was closed: %s", what)
            raise ConnectionAbortedError(
                errno.ECONNABORTED, f"{what}. Nothing of it was used, and the channel is closed"
            ) from None

    def _unpacked(self, data: bytes, descriptors: list[int]) -> Parcel:
        """Handles of what came. Whatever is not in the parcel in the end is closed."""
        left = list(descriptors)
        made: list[Handle] = []
        try:
            packet = parcels.decode(data)
            if packet.refusal:
                self._drop()
                # Quoted, so that no terminal obeys what a stranger wrote.
                why = f"process {self.peer.process_id} refused this one: {packet.refusal!r}"
                raise PermissionError(errno.EACCES, why)
            kinds = [parcels.type_of(item) for item in packet.items]
            count = sum(kind.kind == "fd" for kind in kinds)
            if count != len(left):
                raise Lie(f"{len(left)} descriptors for {count} handles that have one")
            for item, kind in zip(packet.items, kinds, strict=True):
                if kind.kind == "fd":
                    refuse_unlike(kind.object, left[0])
                    made.append(parcels.handle_of(left[0], kind, item.passport))
                    del left[0]
                else:
                    made.append(self._numbered(item))
                    if kind.kind == "nt":  # at once: the same number may come twice in one parcel
                        _arrived[made[-1].value] = made[-1]
            return Parcel(packet.message, made)
        except BaseException:
            for each in made:
                if _kind(each) == "fd":
                    each.close()
                else:  # whose it is depends on a word that is not believed any more
                    each.detach()
            for fd in left:
                os.close(fd)
            raise

    def _numbered(self, item: Item) -> Handle:
        """An NT handle or a KMT value, once it was looked at."""
        kind = parcels.type_of(item)
        assert item.value is not None
        if kind.kind == "nt":
            self._refuse_foreign(item.value, kind.object)
        return parcels.handle_of(item.value, kind, item.passport)

    def _refuse_foreign(self, number: int, object: str) -> None:
        """Refuse the number of what can be no handle that the peer put here."""
        if self.peer.user != user():
            raise Lie("an NT handle, which only a process of the same user can put here")
        owner = _arrived.get(number)
        if owner is not None and not owner.closed and owner.value == number:
            raise Lie(f"the NT handle {number:#x}, which arrived before and is still open")
        try:
            what = kernel().info(number).type_name
        except OSError as error:
            if code_of(error) != INVALID_HANDLE:
                raise
            raise Lie(f"the NT handle {number:#x}, which is not open here") from None
        if what not in ("Section", object.capitalize()) and not what.startswith("Dxgk"):
            raise Lie(f"the NT handle {number:#x}, which is a {what} and no {object}")

    # -- the end --------------------------------------------------------------------------------

    def _drop(self) -> None:
        with self._lock:
            end, self._end = self._end, None
        if end is not None:
            end.close()

    def close(self) -> None:
        """Close this end, and the handles that came and were never received. Safe to call again."""
        # Descriptors of what was not read go with the socket; NT handles are in our table already.
        with contextlib.suppress(OSError, EOFError, ClosedError):
            for _ in range(_MOST_UNREAD):
                self.receive(timeout=0).close()
        self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._end is None else "open"
        return f"<Channel to process {self.peer.process_id} of user {self.peer.user}, {state}>"


class Listener:
    """Takes connections under a name that is this user's.

    name: letters, digits, dots, dashes and underscores, 40 at most
    users: who is admitted besides this user: uids, or SIDs on Windows. They connect with `user=`

    >>> with Listener("doctest") as door, connect("doctest") as caller:
    ...     with door.accept(timeout=5) as taken:
    ...         caller.send(b"hello")
    ...         taken.receive(timeout=5).message, taken.peer == caller.peer
    (b'hello', True)
    """

    def __init__(self, name: str, *, users: Collection[int | str] = ()) -> None:
        self.name = _checked(name)
        self.users = frozenset(users)
        self._post: Post | None = None
        if sys.platform == "win32":
            self._post = Post(name, tuple(str(each) for each in self.users))
        else:
            self._post = Post(name, bool(self.users))

    @property
    def closed(self) -> bool:
        """Whether it takes no connections any more."""
        return self._post is None

    def accept(self, timeout: float | None = None) -> Channel:
        """The next connection of a user who is admitted; others are told so, and sent away.

        timeout: seconds; TimeoutError if nobody comes. None waits
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._post is None:
                raise ClosedError(f"the listener {self.name!r} is closed")
            left = None if until is None else max(until - time.monotonic(), 0)
            end = self._post.accept(left)
            if end.user == user() or end.user in self.users:
                return Channel(end)
            why = (
                f"the listener {self.name!r} does not admit user {end.user}; "
                f"it can: Listener(..., users=[{end.user!r}])"
            )
            log.warning("process %d was sent away: %s", end.process_id, why)
            with contextlib.suppress(OSError):
                end.send(parcels.encode(Packet(b"", (), why)), [], 0)
            end.close()

    def close(self) -> None:
        """Take no connections any more; those that are there stay. Safe to call again."""
        post, self._post = self._post, None
        if post is not None:
            post.close()

    def let_go(self) -> None:
        """In a forked child: forget it. The parent goes on taking connections, and where it ends,
        nobody does.
        """
        post, self._post = self._post, None
        if post is not None:
            post.let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener {self.name!r}{', closed' if self._post is None else ''}>"


def connect(name: str, *, timeout: float = 5.0, user: int | str | None = None) -> Channel:
    """A channel to a listener of this user, or of another one who admits us.

    timeout: seconds to wait for somebody to listen; ConnectionRefusedError after that
    user: whose listener: a uid, or on Windows a SID; None for this user's own

    PermissionError if somebody else listens there.
    """
    whose = _this_user() if user is None else user
    end = dial(_checked(name), whose, timeout)
    if end.user != whose:
        found = end.user
        end.close()
        raise PermissionError(
            errno.EACCES, f"the listener {name!r} is of user {found} and not of user {whose}"
        )
    return Channel(end)


def pair() -> tuple[Channel, Channel]:
    """Two ends that are connected, both for this process: for threads, and for tests.

    >>> here, there = pair()
    >>> here.send(b"hello"); there.receive(timeout=5).message
    b'hello'
    >>> here.close(); there.close()
    """
    here, there = _pair()
    return Channel(here), Channel(there)


def _this_user() -> int | str:
    return user()


def _checked(name: str) -> str:
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(
            f"the name of a listener is {name!r}; expected 1 to 40 letters, digits, dots, dashes "
            "and underscores, beginning with a letter or a digit"
        )
    return name


def _exported(thing: Memory | Semaphore | Fence, kept: contextlib.ExitStack) -> Handle:
    if not isinstance(thing, (Memory, Semaphore, Fence)):
        raise TypeError(
            f"{thing!r} cannot be sent; expected a Memory, a Semaphore, a Fence or a Handle"
        )
    return kept.enter_context(thing.export())


def _kind(handle: Handle) -> str:
    if handle.handle_type.kind == "pointer":
        raise Unsupported(
            f"{handle!r} is an address, which means nothing in another process; allocate memory "
            "with export=... and send that"
        )
    return handle.handle_type.kind


def _close_over_there(process: int, number: int) -> None:
    with contextlib.suppress(OSError):  # with the process, it is gone as well
        kernel().close(kernel().duplicate(number, source=process, close_source=True))
